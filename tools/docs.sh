#!/usr/bin/env bash
# Build the documentation into doc/build/html. Any warning is an error.
#
#   tools/docs.sh [SPHINX ARGUMENT]...
#
# Warnings of Python itself (something deprecated in a library) count too.
set -euo pipefail
cd "$(dirname "$0")/.."

tools/install.sh client docs test
exec .venv/bin/python -W error -W ignore::PendingDeprecationWarning -m sphinx -b html -W --keep-going -n -E -q "$@" doc doc/build/html
