# SPDX-License-Identifier: Apache-2.0
"""Names from shares, made fit for messages, logs and JSON.

A file name is any bytes without ``/`` and NUL: newlines, terminal escapes and invalid UTF-8
included. What a tenant called a file must not be able to forge a log line or break an answer.
"""

from __future__ import annotations

import re

PRINTABLE_LIMIT = 1024
"""Characters that a printable path has at most."""

_CUT = " ... "


def escape(path: bytes) -> str:
    r"""``path`` as text without control characters; :func:`unescape` is the way back.

    Valid UTF-8 that can be shown stays as it is. A backslash becomes ``\\``; every byte of
    anything else (control and format characters, line separators, private and unassigned code
    points, invalid UTF-8) becomes ``\xNN``. The empty path, a root, becomes ``.``.
    """
    if not path:
        return "."
    text = path.decode("utf-8", "surrogateescape")
    return "".join(char if _is_plain(char) else _escaped(char) for char in text)


def _is_plain(char: str) -> bool:
    return char != "\\" and char.isprintable()


def _escaped(char: str) -> str:
    if char == "\\":
        return "\\\\"
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


_ESCAPE = re.compile(rb"\\(\\|x[0-9a-f]{2})")


def unescape(text: str) -> bytes:
    """The path that :func:`escape` was given (``.`` is the root, the empty path)."""
    if text == ".":
        return b""
    return _ESCAPE.sub(_unescaped, text.encode())


def _unescaped(match: re.Match[bytes]) -> bytes:
    mark = match[1]
    return b"\\" if mark == b"\\" else bytes([int(mark[1:], 16)])


def printable(path: bytes) -> str:
    """:func:`escape`, cut in the middle to :data:`PRINTABLE_LIMIT` characters.

    Cost is bounded too: of a path of megabytes only the ends are looked at.
    """
    if len(path) <= 2 * PRINTABLE_LIMIT:
        text = escape(path)
        if len(text) <= PRINTABLE_LIMIT:
            return text
    half = (PRINTABLE_LIMIT - len(_CUT)) // 2
    return escape(path[:PRINTABLE_LIMIT])[:half] + _CUT + escape(path[-PRINTABLE_LIMIT:])[-half:]
