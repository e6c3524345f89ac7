# SPDX-License-Identifier: Apache-2.0
"""Reasons of failures fit into Manila's column, 255 characters of at most three bytes."""

from __future__ import annotations

import pytest

from manila_backup.adapter.reason import LIMIT, fitting

WORDS = "Unable to perform a backup action: ."
"""What Manila puts around it."""


def test_a_short_one_stays_as_it_is() -> None:
    assert fitting("nfs:/x: No such file") == "nfs:/x: No such file"
    assert fitting("x" * LIMIT) == "x" * LIMIT


@pytest.mark.parametrize("reason", ["a" + "\U0001f4a9" * 300 + "z", "a" + "x" * 9999 + "z"])
def test_a_long_one_keeps_its_ends(reason: str) -> None:
    text = fitting(reason)
    assert len(WORDS) + len(text.encode()) <= 255
    assert text.startswith("a")
    assert text.endswith("z")
    assert " ... " in text


def test_what_the_database_cannot_hold_is_escaped() -> None:
    assert fitting("\U0001f4a9 \udcff é") == r"\U0001f4a9 \udcff \xe9"
