#!/usr/bin/env bash
# Make .venv in the checkout and install manila_backup into it, editable.
#
#   tools/install.sh [EXTRA]...     extras of setup.cfg: client, docs, test
#
# Does nothing when .venv is up to date with setup.cfg and the extras. Needs Python 3.11 or later
# with pip; PYTHON names another one than python3.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
extras=$(IFS=,; echo "$*")
stamp=.venv/installed-$(cat setup.cfg setup.py pyproject.toml manila_backup/data/copy/_native.c | sha256sum | cut -c1-16)-${extras:-none}
[ -e "$stamp" ] && exit 0

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: $python is older than Python 3.11; set PYTHON to another one" >&2
    exit 1
}
if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    # Debian's python3 has the module venv without ensurepip; then the machine's own pip helps out.
    rm -rf .venv
    "$python" -m venv .venv 2>/dev/null || {
        rm -rf .venv
        "$python" -m venv --without-pip .venv
        "$python" -m pip --python .venv/bin/python install --quiet pip
    }
fi
echo "installing into .venv ..."
PYTHONWARNINGS=ignore .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${extras:+[$extras]}"
rm -f .venv/installed-*
touch "$stamp"
