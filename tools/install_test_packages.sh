#!/bin/sh
# Install the system packages that the tests need: SoftHSM as the HSM, OpenSC's pkcs11-tool as its operator, PostgreSQL.
set -eu
missing=
command -v softhsm2-util >/dev/null || missing="$missing softhsm2"
command -v pkcs11-tool >/dev/null || missing="$missing opensc"
command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
[ -n "$missing" ] || exit 0
if command -v apt-get >/dev/null; then
    as_root=
    [ "$(id -u)" = 0 ] || as_root="sudo -n"
    echo "installing$missing"
    # shellcheck disable=SC2086 # each word is a package
    if $as_root apt-get update -qq && DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq $missing >/dev/null; then
        exit 0
    fi
fi
echo "the tests with a real PKCS#11 token or with PostgreSQL need these packages, and there is no root to install them:" >&2
echo "    sudo apt-get install$missing" >&2
if [ -n "${CI:-}" ]; then
    exit 1
fi
echo "going on without them: those tests are skipped" >&2
