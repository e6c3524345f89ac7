# SPDX-License-Identifier: Apache-2.0
"""What ``manila-backup-copy`` says of a copy: JSON, checksums, verification, progress."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shutil
import stat
import struct
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from manila_backup.cmd.copy_checksum import TemporaryCatalog, verify_target
from manila_backup.cmd.copy_places import opened_places
from manila_backup.cmd.copy_report import Result
from manila_backup.data.copy.base import CopyOptions
from manila_backup.data.copy.tree import copy_tree
from manila_backup.data.drivers.durable import Disk
from manila_backup.exception import Cancelled
from tests.acceptance.copying import (
    COMMAND,
    COUNTERS,
    DEADLINE_S,
    MIB,
    Places,
    check_schema,
    copied,
    fill_with_much,
    run_job,
)
from tests.acceptance.programs import run
from tests.acceptance.trees import fill, flip_a_byte

pytestmark = pytest.mark.acceptance

PIECE_BYTES = 4 * MIB


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """SRC, filled, and DST, which is not there."""
    return fill(tmp_path / "source"), tmp_path / "target"


@pytest.fixture(scope="module")
def much(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill_with_much(tmp_path_factory.mktemp("much") / "source")


# --- JSON -----------------------------------------------------------------------------------------


def test_json_of_a_complete_copy(places: Places) -> None:
    source, target = places
    ended = copied("--json", source, target)
    found = ended.json
    check_schema(found)
    assert (found["result"], found["source"], found["target"]) == (
        "complete",
        str(source),
        str(target),
    )
    assert found["counters"] == {
        **dict.fromkeys(COUNTERS, 0),
        "files": 6,
        "directories": 3,
        "others": 2,
        "bytes": found["bytes"],
    }
    assert found["logical_bytes"] == (8 << 20) + 8 + 256_000 + 1
    assert (found["checksum"], found["verified"], found["error"]) == (None, None, None)
    assert found["phases"]["copy"] > 0
    assert found["seconds"] == pytest.approx(
        found["phases"]["copy"] + found["phases"]["sync"], abs=0.01
    )


# --- checksum and verification --------------------------------------------------------------------


def checksum_of(*arguments: str | Path) -> Any:
    ended = copied("--json", "--checksum", *arguments)
    assert ended.status == 0, ended.err
    check_schema(ended.json)
    return ended.json["checksum"]


def documented_checksum(root: Path) -> str:
    """As the documentation says, of a tree with files of few holes, devices left aside."""
    paths = [b""]
    top = os.fsencode(root)
    for directory, directories, files in os.walk(top):
        paths += [
            os.path.relpath(os.path.join(directory, name), top) for name in directories + files
        ]
    whole = blake3(b"MBKSUM01")
    for path in sorted(paths):
        place = os.path.join(top, path)
        mode = os.lstat(place).st_mode
        kind = {stat.S_IFDIR: b"d", stat.S_IFREG: b"f", stat.S_IFLNK: b"l", stat.S_IFIFO: b"p"}
        whole.update(kind[stat.S_IFMT(mode)] + struct.pack(">Q", len(path)) + path)
        if stat.S_ISREG(mode):
            whole.update(struct.pack(">Q", os.lstat(place).st_size) + documented_root(place))
        elif stat.S_ISLNK(mode):
            link = os.readlink(place)
            whole.update(struct.pack(">Q", len(link)) + link)
    return whole.hexdigest()


def documented_root(place: bytes) -> bytes:
    root = blake3()
    with open(place, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        position = 0
        while position < size:
            try:
                start = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:
                break
            hole = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            end = min(hole, start - start % PIECE_BYTES + PIECE_BYTES)
            data = os.pread(file.fileno(), end - start, start)
            root.update(struct.pack(">QQ", start, len(data)) + blake3(data).digest())
            position = end
    return root.digest()


def test_the_checksum_is_the_documented_one_and_that_of_equal_trees(
    places: Places, tmp_path: Path
) -> None:
    source, target = places
    (source / "large").write_bytes(os.urandom(2 * PIECE_BYTES + 5))
    os.link(source / "large", source / "sub" / "again")
    first = checksum_of(source, target)
    assert first["root"] == documented_checksum(source) == documented_checksum(target)
    assert (first["files"], first["sparse_files"]) == (8, 1)
    contents = 2 * PIECE_BYTES + 5 + 8 + 256_000 + 1
    assert first["bytes"] == contents + os.stat(source / "sparse").st_blocks * 512
    # The copy has other inodes and ctimes; metadata are no content, and neither are hard links.
    (target / "large").unlink()
    shutil.copyfile(source / "large", target / "large")
    os.link(target / "file", tmp_path / "outside")
    (target / "file").chmod(0o600)
    again = checksum_of(target, tmp_path / "third")
    assert again == {**first, "bytes": first["bytes"] + 2 * PIECE_BYTES + 5}


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: flip_a_byte(tree / "sub" / "other"),
        lambda tree: (tree / "file").rename(tree / "other name"),
        lambda tree: os.truncate(tree / "sparse", 9 << 20),
        lambda tree: (tree / "empty").mkdir(),
        lambda tree: ((tree / "symlink").unlink(), (tree / "symlink").symlink_to("elsewhere")),
        lambda tree: ((tree / "fifo").unlink(), (tree / "fifo").touch()),
    ],
    ids=["content", "name", "size", "directory", "link", "type"],
)
def test_other_trees_have_other_checksums(places: Places, tmp_path: Path, change: Any) -> None:
    source, target = places
    before = checksum_of(source, target)["root"]
    change(target)
    assert checksum_of(target, tmp_path / "third")["root"] != before


def test_a_verified_copy_says_so(places: Places) -> None:
    source, target = places
    target.mkdir()
    (target / "extra").touch()
    ended = copied("--verify", source, target)
    assert (ended.status, ended.err) == (0, "")
    assert re.search(r"^checksum: blake3 [0-9a-f]{64}$", ended.out, re.MULTILINE)
    assert re.search(r"^hashed: [0-9,]+ bytes of 6 files, 1 of them with ", ended.out, re.MULTILINE)
    assert ended.out.endswith("verified: the target was read back and is as it was copied\n")


class DamagingDisk(Disk):
    """What is on the disk is not what was written."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def syncfs(self, fd: int) -> None:
        super().syncfs(fd)
        flip_a_byte(self._target / "sub" / "other")
        (self._target / "line\nbreak").unlink()
        (self._target / "symlink").unlink()
        (self._target / "symlink").symlink_to("elsewhere")
        (self._target / "extra").touch()


DAMAGE = ["line\\x0abreak", "linked", "symlink"]
"""Of the file with two names the first one is read."""


@pytest.mark.parametrize("options", [[], ["--delete"]])
def test_damage_is_found_between_copy_and_verification(places: Places, options: list[str]) -> None:
    outcome = run_job(DamagingDisk(places[1]), "--verify", *options, *places)
    assert (outcome.result, outcome.status, outcome.verified) == (Result.FAILED, 1, False)
    named = [problem.partition(": ")[0] for problem in outcome.problems]
    assert named == DAMAGE + (["extra"] if options else [])
    assert outcome.problem_count == len(named)


def test_verification_can_be_cancelled(places: Places) -> None:
    source, target = places
    target.mkdir()
    catalog = TemporaryCatalog()
    with opened_places(os.fsencode(source), os.fsencode(target)) as opened:
        copy_tree(
            opened.source_fd,
            opened.target_fd,
            CopyOptions(),
            catalog=catalog.writer,
            progress=lambda counters: None,
            cancelled=lambda: False,
        )
        catalog.finish()
        found = verify_target(
            catalog.entries,
            opened.target_fd,
            exact=True,
            progress=lambda counters: None,
            cancelled=lambda: True,
        )
        with pytest.raises(Cancelled):
            list(found)
    catalog.close()


# --- progress -------------------------------------------------------------------------------------


@contextmanager
def on_a_terminal(
    *arguments: str | Path, columns: int = 60, term: str = "xterm"
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """With stderr, and nothing else, on a terminal; the process, and the terminal's other end."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with open(slave, "wb") as stderr:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, "TERM": term},
        )
    try:
        yield process, master
    finally:
        process.communicate(timeout=DEADLINE_S)


def shown_on_a_terminal(*arguments: str | Path, columns: int = 60, term: str = "xterm") -> str:
    seen = b""
    with on_a_terminal(*arguments, columns=columns, term=term) as (process, master):
        with suppress(OSError):  # EIO: the other end is closed
            while select.select([master], [], [], DEADLINE_S)[0]:
                seen += os.read(master, 65536)
        os.close(master)
    assert process.returncode == 0, seen
    return seen.decode()


def test_a_terminal_shows_one_line_that_is_redrawn(much: Path, tmp_path: Path) -> None:
    seen = shown_on_a_terminal(much, tmp_path / "target")
    assert seen.count("\n") == 1
    lines = [text.rstrip("\r\n") for text in seen.split("\r\x1b[K")]
    assert lines[0] == ""
    assert all(len(text) < 60 for text in lines)
    percents = [int(found) for found in re.findall(r"(\d+) %", seen)]
    assert percents == sorted(percents)
    assert percents.count(100) == 1
    assert lines[-1].startswith("done  100 %  1,51")


def test_where_no_line_can_be_redrawn_there_are_whole_ones(places: Places) -> None:
    ended = copied("--progress", *places)
    assert re.fullmatch(
        r"done  100 %  11/11 entries  [0-9.]+ kB  \(mean .* files/s .*/s\)\n", ended.err
    )
    ended = copied("--progress", "--json", *places)
    assert "\r" not in ended.err
    check_schema(ended.json)


def test_by_default_only_a_terminal_shows_it(places: Places) -> None:
    assert copied(*places).err == ""
    assert "done  100 %" in shown_on_a_terminal(*places)
    assert shown_on_a_terminal("--no-progress", *places) == ""
    assert shown_on_a_terminal(*places, term="dumb") == ""


def test_a_terminal_that_goes_away_does_not_stop_the_copy(much: Path, tmp_path: Path) -> None:
    with on_a_terminal("--json", much, tmp_path / "target") as (process, master):
        os.close(master)
        out, _ = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, json.loads(out)["result"]) == (0, "complete")


# --- what it is made of ---------------------------------------------------------------------------

_IMPORTED = re.compile(r"^import time: +[0-9]+ \| +[0-9]+ \| +(\S+)$", re.MULTILINE)


def test_it_imports_only_what_it_needs(places: Places) -> None:
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    ended = run([*COMMAND, "--verify", *places], env=environment)
    assert ended.status == 0
    packages = {name.split(".")[0] for name in _IMPORTED.findall(ended.err)}
    assert {"blake3", "manila_backup"} <= packages
    unwanted = re.compile(
        r"eventlet|oslo_|sqlalchemy|alembic|werkzeug|stevedore|rich|pkg_resources"
    )
    assert not [name for name in packages if unwanted.match(name)]


def test_help_says_what_the_options_and_statuses_mean() -> None:
    ended = copied("--help")
    assert ended.status == 0
    for option in ("--processes", "--threads", "--delete", "--checksum", "--verify", "--json"):
        assert option in ended.out
    assert "exit status: 0 complete and exact; 1 failed; 2 refused" in ended.out
