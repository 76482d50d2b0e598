#!/bin/sh
# Writes both lock files: every release pinned, every file by its hash, for all platforms and all
# supported Pythons, and no word of the index they came from.

for uv in uv .venv/bin/uv ""; do
    "$uv" --version >/dev/null 2>&1 && break
done
if [ -z "$uv" ]; then
    echo "make lock needs uv: pip install uv (or: .venv/bin/python -m pip install uv)" >&2
    exit 1
fi
for name in requirements requirements-fast; do
    "$uv" pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
        --custom-compile-command "make lock" "$name.in" -o "$name.lock" || exit 1
done
