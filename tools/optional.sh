#!/bin/sh
# optional.sh COMMAND NAME WHAT INSTALL: stands in for a suite that needs more than Python.
# Exit 3 says that COMMAND is missing here. Where it runs there is nothing to do yet, and that is
# what it says.

if ! "$1" --version >/dev/null 2>&1; then
    echo "skipped: $3 need $2, which is not installed here ($4)" >&2
    exit 3
fi
echo "nothing to run: $3 are not written yet ($2 is here)"
