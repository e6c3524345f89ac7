# SPDX-License-Identifier: Apache-2.0
"""Why something failed, in words that fit into Manila's row."""

from __future__ import annotations

LIMIT = 200
"""Characters. The column ``fail_reason`` has 255 of three bytes at most, whatever Manila's model
says, and Manila adds words of its own. A reason that does not fit would fail the UPDATE that is to
say that the backup failed, which would then be "creating" for ever.
"""

_CUT = " ... "


def fitting(reason: str) -> str:
    """ASCII, and cut in the middle where it is too long: the log has all of it."""
    text = reason.encode("ascii", "backslashreplace").decode()
    half = (LIMIT - len(_CUT)) // 2
    return text if len(text) <= LIMIT else text[:half] + _CUT + text[-half:]
