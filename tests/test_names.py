# SPDX-License-Identifier: Apache-2.0
"""Printable names: reversible, harmless, bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manila_backup.names import PRINTABLE_LIMIT, escape, printable, unescape


@given(st.binary())
def test_escaping_is_reversible_and_leaves_nothing_but_printable_text(path: bytes) -> None:
    assert escape(path).isprintable()
    if path != b".":  # what the root is called
        assert unescape(escape(path)) == path
    escape(path).encode()


@given(st.text(alphabet="\\x0a41.\n", min_size=1))
def test_what_looks_like_an_escape_is_not_taken_for_one(text: str) -> None:
    if text != ".":
        assert unescape(escape(text.encode())) == text.encode()


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (b"", "."),
        (b"a/b c", "a/b c"),
        ("ü".encode(), "ü"),
        (b"a\nb", "a\\x0ab"),
        (b"\x1b[31m", "\\x1b[31m"),
        (b"\xff", "\\xff"),
        (b"a\\b", "a\\\\b"),
        ("\u202e".encode(), "\\xe2\\x80\\xae"),
        ("\u2028".encode(), "\\xe2\\x80\\xa8"),
    ],
)
def test_examples(path: bytes, text: str) -> None:
    assert escape(path) == printable(path) == text


@given(st.binary(min_size=900, max_size=3000))
def test_printable_is_bounded_and_keeps_both_ends(path: bytes) -> None:
    text, whole = printable(path), escape(path)
    assert len(text) <= PRINTABLE_LIMIT
    if len(whole) > PRINTABLE_LIMIT:
        assert text[:200] == whole[:200]
    else:
        assert text == whole


def test_a_path_of_megabytes_costs_little() -> None:
    assert len(printable(b"x/" * 10**6)) <= PRINTABLE_LIMIT
