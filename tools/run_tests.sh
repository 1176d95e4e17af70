#!/bin/sh
# Run the tests: with no arguments all of them, several at a time, and then those that must have the machine to
# themselves; with arguments what pytest makes of them. OWNKEY_TEST_WORKERS says how many at a time.
set -eu
cd "$(dirname "$0")/.."
[ $# -eq 0 ] || exec .venv/bin/python -m pytest "$@"
# A worker more than processors: many tests wait, for a server that starts or for a lease that ends.
workers=${OWNKEY_TEST_WORKERS:-$(($(getconf _NPROCESSORS_ONLN) + 1))}
failed=0
# By files: the tests of a file share its servers. Both parts are always run, so that one run shows all that fails.
.venv/bin/python -m pytest -n "$workers" --dist loadfile -m "not alone" || failed=$?
.venv/bin/python -m pytest -m alone || failed=$?
exit "$failed"
