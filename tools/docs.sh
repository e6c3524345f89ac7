#!/usr/bin/env bash
# Build the documentation; any warning is an error.
#
#   tools/docs.sh [TARGET [SOURCE]]     by default doc/build/html, from doc
#
# DOCS_PYTHON names a Python that has what the extra `docs` of setup.cfg says; without it .venv is
# made, with what the tests need, too.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${1:-doc/build/html}
python=${DOCS_PYTHON:-}
if [ -z "$python" ]; then
    tools/install.sh client test
    python=.venv/bin/python
fi

# Something deprecated in a library is an error, too, but for what will last another two releases;
# and reno does not close the packs of the repository.
# oslo.config's and oslo.policy's extensions keep their warnings from being counted as errors, so
# the list of warnings is looked at besides.
warnings=$(mktemp)
trap 'rm -f "$warnings"' EXIT
"$python" -W error -W ignore::PendingDeprecationWarning -W ignore::ResourceWarning \
    -m sphinx -b html -W --keep-going -n -E -q -w "$warnings" "${2:-doc}" "$target"
[ ! -s "$warnings" ] || { echo "error: there were warnings" >&2; exit 1; }
echo "built: $target/index.html"
