#!/bin/sh
# Prints the first of the named interpreters (default: the supported ones, newest first) that really
# runs, is 3.11 or newer and can make a virtual environment. A name on PATH proves nothing: it may
# be a shim that fails when run.

if [ $# -eq 0 ] && [ -n "$PYTHON" ]; then
    set -- "$PYTHON"
elif [ $# -eq 0 ]; then
    set -- python3.13 python3.12 python3.11 python3 python
fi

without_venv=
for name in "$@"; do
    "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue
    if "$name" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        echo "$name"
        exit 0
    fi
    without_venv=${without_venv:-$name}
done

if [ -n "$without_venv" ]; then
    version=$("$without_venv" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "$without_venv cannot make virtual environments: install its venv module" \
        "(Debian, Ubuntu: apt install python$version-venv)" >&2
else
    echo "No Python 3.11 or newer runs here (tried: $*): install one," \
        "or name it with PYTHON=/path/to/python" >&2
fi
exit 1
