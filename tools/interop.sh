#!/bin/sh
# interop.sh [OPTIONS]: drive the example's service with JavaScript clients (tests/interop/run.py).
# Exit 3 says that Node.js or npm is missing here, and what that is.
exec .venv/bin/python -m tests.interop.run "$@"
