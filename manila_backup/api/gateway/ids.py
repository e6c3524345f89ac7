# SPDX-License-Identifier: Apache-2.0
"""Whether an id can be compared as a string."""

from __future__ import annotations

import re

_PLAIN = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def is_plain(resource_id: str) -> bool:
    """Whether Manila has no other way to write this id.

    On MySQL Manila finds an id in upper case too, or with spaces behind it or accents on it, so
    whoever asks for a share in such a way must not pass for asking for another one.
    """
    return _PLAIN.fullmatch(resource_id) is not None
