#!/bin/sh
# Runs the tests with every supported Python that really runs here, each in an environment of its
# own, and says at the end which it had to skip. Arguments go to pytest.

tested= failed= skipped=
for version in 3.11 3.12 3.13; do
    if ! python=$(sh tools/find_python.sh "python$version" 2>/dev/null); then
        skipped="$skipped $version"
        continue
    fi
    echo "== Python $version"
    tested="$tested $version"
    "$python" tools/setup_venv.py --venv ".venv-$version" &&
        ".venv-$version/bin/python" -m pytest -n 2 "$@" || failed="$failed $version"
done
echo "tested:${tested:- none}; failed:${failed:- none};" \
    "skipped, not runnable here:${skipped:- none}"
[ -n "$tested" ] && [ -z "$failed" ]
