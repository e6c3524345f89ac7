# SPDX-License-Identifier: Apache-2.0
"""Which NFSv4 ACLs are no more than the mode."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manila_backup.data.copy.nfs4_acl import is_trivial, trivial

Ace = tuple[int, int, int, bytes]
"""Type, flags, mask, who."""

GROUP_FLAG = 0x40
OF_THE_MODE: list[Ace] = [
    (0, 0, 0x16019F, b"OWNER@"),
    (1, 0, 0x20, b"OWNER@"),
    (0, GROUP_FLAG, 0x120081, b"GROUP@"),
    (0, 0, 0x120081, b"EVERYONE@"),
]
"""As the server of Linux 6.1 makes it of 0644."""


def packed(aces: list[Ace]) -> bytes:
    parts = [struct.pack(">I", len(aces))]
    for kind, flags, mask, who in aces:
        parts.append(
            struct.pack(">IIII", kind, flags, mask, len(who)) + who + b"\0" * (-len(who) % 4)
        )
    return b"".join(parts)


def test_what_the_server_makes_of_a_mode_is() -> None:
    assert is_trivial(packed(OF_THE_MODE))


@pytest.mark.parametrize(
    "more",
    [
        (0, 0, 0x120081, b"1234@example.org"),
        (0, GROUP_FLAG, 0x120081, b"77"),
        (0, 0x3, 0x120081, b"OWNER@"),
        (0, 0xB, 0x120081, b"EVERYONE@"),
    ],
    ids=["named user", "named group", "inherited", "inherited only"],
)
def test_what_has_more_to_say_is_not(more: Ace) -> None:
    whole = packed([*OF_THE_MODE[:2], more, *OF_THE_MODE[2:]])
    assert not is_trivial(whole)
    assert trivial(whole) == packed(OF_THE_MODE)


@pytest.mark.parametrize("end", [0, 3, 4, 5, 19, -1])
def test_a_part_of_one_is_not(end: int) -> None:
    part = packed(OF_THE_MODE)[:end]
    assert not is_trivial(part)
    with pytest.raises(ValueError, match="not an NFSv4 ACL"):
        trivial(part)


def test_one_with_more_behind_it_is_not() -> None:
    assert not is_trivial(packed(OF_THE_MODE) + b"\0")


@given(st.binary(max_size=60))
def test_anything_gets_an_answer(value: bytes) -> None:
    assert is_trivial(value) in (True, False)


_ACES = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(0, 0xFF),
        st.integers(0, 0x1FFFFF),
        st.sampled_from([b"OWNER@", b"GROUP@", b"EVERYONE@", b"NETWORK@", b"1234", b""]),
    ),
    max_size=6,
)


@given(_ACES)
def test_what_is_left_is_trivial_and_nothing_more_is_taken(aces: list[Ace]) -> None:
    whole = packed(aces)
    left = trivial(whole)
    assert is_trivial(left)
    assert (left == whole) == is_trivial(whole)
    assert trivial(trivial(whole, inherited=True)) == left
