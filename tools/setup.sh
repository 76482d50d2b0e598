#!/bin/sh
# Brings .venv in line with requirements.lock. An environment that is there and runs is kept,
# unless PYTHON asks for another interpreter.

if [ -z "$PYTHON" ] && .venv/bin/python -c '' 2>/dev/null; then
    python=.venv/bin/python
else
    python=$(sh tools/find_python.sh) || exit 1
fi
exec "$python" tools/setup_venv.py
