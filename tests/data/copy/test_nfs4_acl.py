# SPDX-License-Identifier: Apache-2.0
"""Which NFSv4 ACLs are no more than the mode, and how directories are given theirs."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manila_backup.data.catalog.entry import EntryType
from manila_backup.data.copy.attributes import NFS4_ACL, Attributes, Policy, Setter
from manila_backup.data.copy.nfs4_acl import (
    inheriting_little,
    inherits,
    is_trivial,
    trivial,
    without_inheritance,
)
from manila_backup.data.copy.sysio import Files, Place
from tests.data.copy.conftest import Opened

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


NAMED: Ace = (0, 0, 0x120081, b"1234@example.org")
FORBIDDEN: Ace = (1, 0, 0x2, b"1234@example.org")
INHERITED_ONLY: Ace = (0, 0xB, 0x1601BF, b"1234@example.org")
INHERITED_TOO: Ace = (0, 0x3, 0x120081, b"EVERYONE@")
WHOLE = packed([FORBIDDEN, NAMED, *OF_THE_MODE, INHERITED_ONLY])


@pytest.mark.parametrize(
    "more",
    [
        NAMED,
        FORBIDDEN,
        (0, GROUP_FLAG, 0x120081, b"77"),
        INHERITED_ONLY,
        (2, 0, 0x120081, b"EVERYONE@"),
        (0, 0, 0x160081, b"EVERYONE@"),
        (0, 0, 0x1A0081, b"GROUP@"),
    ],
    ids=[
        *("named", "named and denied", "named group", "inherited", "audit"),
        *("writes the ACL", "takes ownership"),
    ],
)
def test_what_has_more_to_say_is_not(more: Ace) -> None:
    whole = packed([*OF_THE_MODE[:2], more, *OF_THE_MODE[2:]])
    assert not is_trivial(whole)
    assert trivial(whole) == packed(OF_THE_MODE)


def test_what_is_inherited_and_holds_too_goes_on_to_hold() -> None:
    kind, _, mask, who = INHERITED_TOO
    assert trivial(packed([INHERITED_TOO])) == packed([(kind, 0, mask, who)])
    assert without_inheritance(packed([INHERITED_TOO, NAMED])) == packed(
        [(kind, 0, mask, who), NAMED]
    )


def test_what_says_nothing_that_a_mode_can_leaves_the_owner() -> None:
    left = trivial(packed([NAMED, INHERITED_ONLY]))
    assert is_trivial(left)
    assert b"OWNER@" in left


def test_what_is_inherited_instead_names_nobody_and_lets_others_read() -> None:
    little = inheriting_little(WHOLE)
    assert inherits(little)
    assert without_inheritance(little) == without_inheritance(WHOLE)
    for kind, flags, mask, who in unpacked(little):
        if flags & 0xF:
            assert (kind, flags & 0xF) == (0, 0xB)
            assert who in (b"OWNER@", b"GROUP@", b"EVERYONE@")
            assert who == b"OWNER@" or not mask & 0x2  # to write


def unpacked(value: bytes) -> Iterator[Ace]:
    position = 4
    while position < len(value):
        kind, flags, mask, length = struct.unpack_from(">IIII", value, position)
        position += 16
        yield kind, flags, mask, value[position : position + length]
        position += length + -length % 4


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
def test_what_is_left_is_trivial_and_lets_nothing_inherit(aces: list[Ace]) -> None:
    whole = packed(aces)
    assert is_trivial(trivial(whole))
    assert not inherits(without_inheritance(whole))
    assert (without_inheritance(whole) == whole) == (not inherits(whole))
    assert without_inheritance(inheriting_little(whole)) == without_inheritance(whole)


# --- directories ----------------------------------------------------------------------------------


class Server(Files):
    """A file system whose directories have NFSv4 ACLs; ``keeps``: what is inherited it replaces and
    never lets go of, as Linux 6.1 does. ``refuses``: to take any."""

    def __init__(self, acl: bytes, *, keeps: bool, refuses: bool = False) -> None:
        self.acl = acl
        self.keeps = keeps
        self.refuses = refuses

    def listxattr(self, place: Place) -> list[bytes]:
        return [*super().listxattr(place), NFS4_ACL]

    def getxattr(self, place: Place, name: bytes) -> bytes:
        return self.acl if name == NFS4_ACL else super().getxattr(place, name)

    def setxattr(self, place: Place, name: bytes, value: bytes) -> None:
        if name != NFS4_ACL:
            super().setxattr(place, name, value)
            return
        if self.refuses:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        if self.keeps and not inherits(value):
            kept = [ace for ace in unpacked(self.acl) if ace[1] & 0x8]
            value = packed([*unpacked(value), *kept])
        self.acl = value


def reused(tmp_path: Path, server: Server, wanted: bytes | None) -> tuple[set[str], set[str]]:
    """A directory that was there is worked in and then given this ACL: what the first and the last
    step lose."""
    setter = Setter(server, Policy(plain=False, is_root=os.geteuid() == 0))
    info = tmp_path.stat()
    given = Attributes(
        mode=info.st_mode & 0o7777,
        uid=info.st_uid,
        gid=info.st_gid,
        mtime_ns=5,
        xattrs={} if wanted is None else {NFS4_ACL: wanted},
    )
    with Opened(tmp_path) as fd:
        first = setter.open_up_reused(fd)
        assert server.refuses or inherited_by_name(server.acl) == set()
        last = setter.apply(fd, EntryType.DIRECTORY, given, is_path=False, strip=True)
    return set(first), set(last)


def inherited_by_name(value: bytes) -> set[bytes]:
    return {ace[3] for ace in unpacked(value) if ace[1] & 0xF and not ace[3].endswith(b"@")}


PLAIN = packed(OF_THE_MODE)
OTHER = packed([*OF_THE_MODE, NAMED])


@pytest.mark.parametrize(
    "wanted", [PLAIN, OTHER, WHOLE, None], ids=["plain", "named", "whole", "none"]
)
def test_a_server_that_lets_go_has_what_was_wanted(tmp_path: Path, wanted: bytes | None) -> None:
    server = Server(WHOLE, keeps=False)
    assert reused(tmp_path, server, wanted) == (set(), set())
    assert server.acl == (PLAIN if wanted is None else wanted)


@pytest.mark.parametrize("wanted", [PLAIN, OTHER, None], ids=["plain", "named", "none"])
def test_one_that_does_not_is_a_loss_in_the_end_and_lets_nobody_in(
    tmp_path: Path, wanted: bytes | None
) -> None:
    server = Server(WHOLE, keeps=True)
    assert reused(tmp_path, server, wanted) == (set(), {"acl"})
    assert without_inheritance(server.acl) == (PLAIN if wanted is None else wanted)
    assert inherited_by_name(server.acl) == set()


def test_what_was_inherited_before_and_is_to_be_again_is_no_loss(tmp_path: Path) -> None:
    server = Server(WHOLE, keeps=True)
    assert reused(tmp_path, server, WHOLE) == (set(), set())
    assert server.acl == WHOLE


def test_one_that_takes_none_is_a_loss(tmp_path: Path) -> None:
    server = Server(WHOLE, keeps=False, refuses=True)
    assert reused(tmp_path, server, OTHER) == ({"acl"}, {"acl"})
    assert server.acl == WHOLE


def test_while_more_is_put_in_nothing_is_inherited_and_all_else_holds(tmp_path: Path) -> None:
    server = Server(PLAIN, keeps=True)
    setter = Setter(server, Policy(plain=False, is_root=os.geteuid() == 0))
    info = tmp_path.stat()
    wanted = Attributes(
        mode=0o750, uid=info.st_uid, gid=info.st_gid, mtime_ns=5, xattrs={NFS4_ACL: WHOLE}
    )
    with Opened(tmp_path) as fd:
        for is_final, there in ((False, without_inheritance(WHOLE)), (True, WHOLE)):
            lost = setter.apply(
                fd, EntryType.DIRECTORY, wanted, is_path=False, strip=False, is_final=is_final
            )
            assert lost == ()
            assert server.acl == there
