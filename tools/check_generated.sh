#!/bin/sh
# Fail when something generated is not what its source makes of it: the stubs, and the server's contract.
set -eu
cd "$(dirname "$0")/.."
generated="clients/python/ownkey/v1 server/ownkey_server/rpc/contract.binpb"
before=$(mktemp -d)
trap 'rm -rf "$before"' EXIT
# shellcheck disable=SC2086 # a list of paths
cp -r --parents $generated "$before"
.venv/bin/python tools/generate_proto.py >/dev/null 2>&1
for path in $generated; do
    if ! diff -r -x __pycache__ "$before/$path" "$path"; then
        echo "$path was not what protos/ makes; it is now: look at it and commit it" >&2
        exit 1
    fi
done
