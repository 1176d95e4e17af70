#!/bin/sh
# Run the steps of the Dockerfile in a fresh virtual environment: what it copies and installs must be enough to serve.
set -eu
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# Only what the Dockerfile copies, so that a file it forgets is missed here too.
grep '^COPY ' Dockerfile | grep -v -e '--from=' | while read -r _ files; do
    # shellcheck disable=SC2086 # a list of paths, the last of which is the target
    set -- $files
    while [ $# -gt 1 ]; do
        mkdir -p "$scratch/$(dirname "$1")"
        cp -r "$1" "$scratch/$1"
        shift
    done
done
tools/make_venv.sh "${PYTHON:-python3}" "$scratch/venv"
"$scratch/venv/bin/python" -m pip install --quiet --require-hashes -r "$scratch/requirements/server.txt"
(cd "$scratch" && venv/bin/python -m pip install --quiet --no-deps --no-build-isolation .)
"$scratch/venv/bin/python" -m pip uninstall --quiet --yes pip hatchling editables
"$scratch/venv/bin/ownkey" init "$scratch/etc"
"$scratch/venv/bin/python" tools/demo.py --ownkey "$scratch/venv/bin/ownkey"
