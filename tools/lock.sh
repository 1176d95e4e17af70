#!/bin/sh
# Resolve the direct dependencies of pyproject.toml into hash-locked files for every supported Python.
set -eu
cd "$(dirname "$0")/.."
compile() {
    .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --no-annotate --custom-compile-command "make lock" "$@"
}
compile pyproject.toml --extra server --group build --output-file requirements/server.txt
compile pyproject.toml --extra server --group build --group dev \
    --constraint requirements/server.txt --output-file requirements/dev.txt
# The SDK alone: what Kamailio's own Python needs.
compile pyproject.toml --group build --constraint requirements/server.txt --output-file requirements/client.txt
compile requirements/emulators.in --output-file requirements/emulators.txt
