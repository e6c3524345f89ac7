# SPDX-License-Identifier: Apache-2.0
"""How often to look at something that is waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

_SHARE = 1 / 20
_LONGEST_S = 0.25


def looks(limit_s: float, *, first_s: float = 0.01) -> Iterator[None]:
    """One for each look, the last one when ``limit_s`` have passed.

    Between two of them passes a twentieth of what has passed already, at least ``first_s`` and at
    most a quarter of a second: a look costs what is waited for processor time, the more so in a
    virtual machine.
    """
    began_s = time.monotonic()
    while True:
        waited_s = time.monotonic() - began_s
        yield
        if waited_s >= limit_s:
            return
        # Not time.sleep: some tests replace it.
        threading.Event().wait(max(first_s, min(_LONGEST_S, waited_s * _SHARE)))
