# SPDX-License-Identifier: Apache-2.0
"""The table on disk is a table: whatever is put in, taken out and put in again."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manila_backup.data.copy import overflow
from manila_backup.data.copy.overflow import Overflow
from tests.support.syscalls import open_fds

KEYS = st.sampled_from([b"%x:%x" % (number % 3, number) for number in range(40)])
VALUES = st.one_of(st.just(b""), st.binary(max_size=40), st.just(b"v" * 5000))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, VALUES),
        st.tuples(st.just("get"), KEYS, st.just(b"")),
        st.tuples(st.just("pop"), KEYS, st.just(b"")),
    ),
    max_size=120,
)


def held_fds() -> set[int]:
    """The fds of this process, without the one that the look itself needs."""
    found = set()
    for fd in open_fds():
        with contextlib.suppress(OSError):
            os.fstat(fd)
            found.add(fd)
    return found


class Watch:
    """The fds that were opened since it was made."""

    def __init__(self) -> None:
        self._before = held_fds()

    def fds(self) -> list[int]:
        return sorted(held_fds() - self._before)

    def sizes(self) -> list[int]:
        return [os.fstat(fd).st_size for fd in self.fds()]


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def table(watch: Watch) -> Iterator[Overflow]:
    made = Overflow()
    yield made
    made.close()
    assert watch.fds() == []


def step(table: Overflow, naive: dict[bytes, bytes], act: str, key: bytes, value: bytes) -> None:
    if act == "put":
        table.put(key, value)
        naive[key] = value
    elif act == "get":
        assert table.get(key) == naive.get(key)
    else:
        assert table.pop(key) == naive.pop(key, None)
    assert len(table) == len(naive)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS, garbage_bytes=st.sampled_from([0, 100, 1 << 30]))
def test_it_is_a_dictionary(steps: list[tuple[str, bytes, bytes]], garbage_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overflow, "_GARBAGE_BYTES", garbage_bytes)
        table = Overflow()
        naive: dict[bytes, bytes] = {}
        for act, key, value in steps:
            step(table, naive, act, key, value)
        for key, value in naive.items():
            assert table.get(key) == value
        table.close()


def test_it_is_a_dictionary_of_thousands_of_keys(table: Overflow) -> None:
    """Through several sizes of the table, up and down, with most slots taken out at times."""
    draw = random.Random(7)
    naive: dict[bytes, bytes] = {}
    for size, removing in ((9000, 0.1), (5000, 0.8), (5000, 0.1)):
        for _ in range(size):
            if naive and draw.random() < removing:
                act, key = "pop", draw.choice(list(itertools.islice(naive, 50)))
            else:
                act, key = draw.choice(["put", "put", "get"]), b"%d" % draw.randrange(20_000)
            step(table, naive, act, key, draw.randbytes(draw.randrange(30)))
    assert len(naive) > 500
    for key, value in naive.items():
        assert table.get(key) == value
    for key in list(naive):
        assert table.pop(key) == naive[key]
    assert len(table) == 0


def test_keys_with_the_same_hash_do_not_get_in_each_others_way(
    table: Overflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overflow, "hash", lambda key: 5, raising=False)
    for number in range(50):
        table.put(b"%d" % number, b"v%d" % number)
    for number in range(0, 50, 2):
        assert table.pop(b"%d" % number) == b"v%d" % number
    assert [table.get(b"%d" % number) for number in range(4)] == [None, b"v1", None, b"v3"]
    assert table.get(b"50") is None


def test_the_file_is_made_when_needed_and_closed_in_the_end(watch: Watch) -> None:
    table = Overflow()
    assert table.get(b"a") is None
    assert table.pop(b"a") is None
    assert watch.fds() == []
    table.put(b"a", b"1")
    assert len(watch.fds()) == 1
    table.close()
    table.close()
    assert watch.fds() == []


def test_the_file_has_no_name_and_only_its_owner_may_open_it(table: Overflow, watch: Watch) -> None:
    table.put(b"a", b"1")
    (fd,) = watch.fds()
    info = os.fstat(fd)
    assert (info.st_nlink, info.st_mode & 0o777) == (0, 0o600)


def test_the_space_is_given_back_when_it_is_empty(table: Overflow, watch: Watch) -> None:
    for number in range(3000):
        table.put(b"%d" % number, b"v" * 100)
    assert sum(watch.sizes()) > 300_000
    for number in range(3000):
        table.pop(b"%d" % number)
    assert watch.sizes() == [0]
    table.put(b"a", b"1")
    assert table.get(b"a") == b"1"


@pytest.mark.parametrize("again", ["replaced", "taken out and put back"])
def test_what_was_taken_out_does_not_fill_the_disk(
    table: Overflow, watch: Watch, again: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of the same inodes come again and again: each time the group goes in and out."""
    monkeypatch.setattr(overflow, "_GARBAGE_BYTES", 20_000)
    for turn in range(40):
        for number in range(100):
            key = b"%d" % number
            if again != "replaced":
                assert table.pop(key) == (b"%d" % (turn - 1) * 50 if turn else None)
            table.put(key, b"%d" % turn * 50)
        assert sum(watch.sizes()) < 80_000
    assert all(table.get(b"%d" % number) == b"39" * 50 for number in range(100))
    assert len(watch.fds()) == 1


def test_memory_per_entry_is_a_few_slots(table: Overflow) -> None:
    for number in range(30_000):
        table.put(b"%d" % number, b"")
    slots = len(table._offsets)
    assert 1.5 * 30_000 <= slots <= 4 * 30_000
