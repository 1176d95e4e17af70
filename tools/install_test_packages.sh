#!/bin/sh
# Install the system packages that the tests need: SoftHSM as the HSM, OpenSC's pkcs11-tool as its operator, NSS as a second
# token and certutil as its operator, a C compiler for modules that behave as vendors document theirs, PostgreSQL,
# Kamailio with its Python module as the SIP proxy, and sipp as the telephones.
set -eu
missing=
command -v softhsm2-util >/dev/null || missing="$missing softhsm2"
command -v pkcs11-tool >/dev/null || missing="$missing opensc"
command -v certutil >/dev/null || missing="$missing libnss3-tools"
command -v cc >/dev/null || missing="$missing gcc libc6-dev"
command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
PATH=$PATH:/usr/sbin command -v kamailio >/dev/null || missing="$missing kamailio"
ls /usr/lib/*/kamailio/modules/app_python3.so >/dev/null 2>&1 || missing="$missing kamailio-python3-modules"
command -v sipp >/dev/null || missing="$missing sip-tester"
[ -n "$missing" ] || exit 0
if command -v apt-get >/dev/null; then
    as_root=
    [ "$(id -u)" = 0 ] || as_root="sudo -n"
    echo "installing$missing"
    # shellcheck disable=SC2086 # each word is a package
    if $as_root apt-get update -qq && DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq $missing >/dev/null; then
        case $missing in
            # Only the program is wanted, not a SIP proxy of Debian's on every interface.
            *" kamailio"*) $as_root systemctl disable --now kamailio >/dev/null 2>&1 || true ;;
        esac
        exit 0
    fi
fi
echo "the tests with a real PKCS#11 token, with PostgreSQL or with Kamailio need these packages, and there is no root to install them:" >&2
echo "    sudo apt-get install$missing" >&2
if [ -n "${CI:-}" ]; then
    exit 1
fi
echo "going on without them: those tests are skipped" >&2
