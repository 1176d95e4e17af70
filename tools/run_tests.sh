#!/bin/sh
# Run the tests: with no arguments all of them, several at a time, and then those that must have the machine to
# themselves; with arguments what pytest makes of them. OWNKEY_TEST_WORKERS says how many at a time.
set -eu
cd "$(dirname "$0")/.."
[ $# -eq 0 ] || exec .venv/bin/python -m pytest "$@"
# A worker more than processors: many tests wait, for a server that starts or for a lease that ends.
workers=${OWNKEY_TEST_WORKERS:-$(($(getconf _NPROCESSORS_ONLN) + 1))}
failed=0
# By files: the tests of a file share its servers.
.venv/bin/python -m pytest -n "$workers" --dist loadfile -m "not alone" || failed=$?
if [ "$failed" = 1 ]; then
    # On a machine that is busy with the others a server may not start in time. What fails by itself too has failed.
    echo "== what failed beside others, once more by itself =="
    failed=0
    .venv/bin/python -m pytest -m "not alone" --last-failed --last-failed-no-failures none || failed=$?
fi
# Run in any case, so that one run shows all that fails.
.venv/bin/python -m pytest -m alone || failed=$?
exit "$failed"
