#!/bin/sh
# Make a virtual environment with pip: make_venv.sh PYTHON DIRECTORY
# Debian and Ubuntu ship Python without the part that puts pip into one, so there are several ways to try.
set -eu
python=$1
venv=$2

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "ownkey needs Python 3.11 or later, and '$python' is not; name another: make PYTHON=python3.12 ..." >&2
    exit 1
fi
if "$python" -m venv "$venv" >/dev/null 2>&1; then
    exit 0
fi
rm -rf "$venv"
# No ensurepip, but perhaps a pip: it can install the one of the lock into an environment that has none.
pip=$(mktemp)
trap 'rm -f "$pip"' EXIT
awk '/^pip==/ {found = 1} found {print} found && !/\\$/ {exit}' "$(dirname "$0")/../requirements/server.txt" >"$pip"
if "$python" -m pip --version >/dev/null 2>&1 && "$python" -m venv --without-pip "$venv" \
    && "$python" -m pip --python "$venv/bin/python" install --quiet --require-hashes -r "$pip"; then
    exit 0
fi
rm -rf "$venv"
if command -v apt-get >/dev/null; then
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    as_root=
    [ "$(id -u)" = 0 ] || as_root="sudo -n"
    echo "installing $package, which Debian and Ubuntu keep apart from Python"
    if $as_root apt-get update -qq && $as_root apt-get install -y -qq --no-install-recommends "$package" >/dev/null; then
        exec "$python" -m venv "$venv"
    fi
    echo "'$python -m venv' does not work here, and there is no root to install its package. Run:" >&2
    echo "    sudo apt-get install $package" >&2
    exit 1
fi
echo "'$python -m venv' does not work here: install your system's package for it" >&2
exit 1
