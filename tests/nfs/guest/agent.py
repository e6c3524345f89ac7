# SPDX-License-Identifier: Apache-2.0
"""Calls functions for the tests (``Agent`` of ``../vm.py``), each in a child of its own.

It reads lines of JSON, ``["module.name", {argument: value}]``, and answers each with one,
``[true, value]`` or ``[false, what went wrong]``.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import traceback
from typing import Any

# Once, and not in each child: it takes ten seconds and more in the machine.
import tests.nfs.guest.access
import tests.nfs.guest.bench
import tests.nfs.guest.dead
import tests.nfs.guest.metadata
import tests.nfs.guest.mounting  # noqa: F401

LIMIT_BYTES = 20_000
"""So much of what a failed one printed is passed on, from its end."""


def _call(function: str, arguments: dict[str, Any]) -> tuple[bool, Any]:
    module, _, name = function.rpartition(".")
    called = getattr(importlib.import_module(f"tests.nfs.guest.{module}"), name)
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as answer:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
                answer.write(json.dumps(called(**arguments)).encode())
                answer.flush()
                status = 0
            except BaseException:  # noqa: BLE001 - the boundary of the process
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        _, ended = os.waitpid(child, 0)
        if ended == 0:
            answer.seek(0)
            return True, json.loads(answer.read())
        said.seek(0)
        text = said.read()[-LIMIT_BYTES:].decode(errors="replace")
        return False, f"{function} ended with {os.waitstatus_to_exitcode(ended)}:\n{text}"


def main() -> None:
    # Answers only: whatever else is printed goes to the log.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        function, arguments = json.loads(line)
        answers.write(json.dumps(_call(function, arguments)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
