# SPDX-License-Identifier: Apache-2.0
"""``manila-backup-copy`` through real processes: what it copies, refuses, and how it fails."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manila_backup.cmd.copy_report import Result
from manila_backup.data.drivers.durable import Disk
from tests.acceptance.copying import (
    COMMAND,
    MIB,
    PROJECT,
    Places,
    check_schema,
    copied,
    mounted,
    run_job,
)
from tests.acceptance.programs import Ended, run
from tests.acceptance.trees import fill
from tests.support.as_user import NOBODY, as_user
from tests.support.trees import Node, assert_same, build, snapshot, trees

pytestmark = pytest.mark.acceptance

AGAIN = "manila-backup-copy: what was copied so far stays; a second run completes it"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """SRC, filled, and DST, which is not there."""
    return fill(tmp_path / "source"), tmp_path / "target"


# --- exact ----------------------------------------------------------------------------------------


def test_a_missing_target_is_made_and_equal(places: Places) -> None:
    source, target = places
    ended = copied(source, target)
    assert (ended.status, ended.err) == (0, "")
    assert_same(str(source), str(target))
    assert re.fullmatch(
        r"complete: 6 files, 3 directories, 2 others, [0-9.]+ kB in [0-9.]+ s \(.+/s, .+/s\)\n",
        ended.out,
    )


OPTIONS = st.lists(
    st.sampled_from(["--delete", "--checksum", "--verify", "--progress", "--processes=1"]),
    unique=True,
)


@pytest.mark.root
@given(tree=trees(), before=trees(), options=OPTIONS)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_any_tree_over_any_other(tree: Node, before: Node, options: list[str]) -> None:
    """What clashes gives way; what does not stays, unless it is told to go."""
    with tempfile.TemporaryDirectory() as top:
        source, target = f"{top}/source", f"{top}/target"
        os.mkdir(source)
        os.mkdir(target)
        build(source, tree)
        build(target, before)
        extra = snapshot(target).keys() - snapshot(source).keys()
        ended = copied("--json", *options, source, target)
        assert ended.status == 0, ended.err
        found = ended.json
        assert found["result"] == "complete"
        assert found["verified"] is (True if "--verify" in options else None)
        if "--delete" in options:
            assert_same(source, target)
            return
        seen, wanted = snapshot(target), snapshot(source)
        assert without_foreign_names(seen, wanted) == wanted
        assert seen.keys() - wanted.keys() <= extra


def without_foreign_names(seen: dict[bytes, Any], wanted: dict[bytes, Any]) -> dict[bytes, Any]:
    return {path: entry for path, entry in seen.items() if path in wanted}


def test_what_only_the_target_has_goes_only_on_request(places: Places) -> None:
    source, target = places
    target.mkdir()
    (target / "extra").mkdir()
    (target / "extra" / "file").write_bytes(b"mine")
    assert copied(source, target).status == 0
    assert (target / "extra" / "file").read_bytes() == b"mine"
    ended = copied("--delete", source, target)
    assert ended.status == 0
    assert ", 2 deleted in " in ended.out
    assert_same(str(source), str(target))


@pytest.mark.parametrize("options", [[], ["--delete"]])
def test_types_clash(places: Places, options: list[str]) -> None:
    source, target = places
    for name in ("file", "symlink", "fifo", "linked"):
        (target / name / "deep").mkdir(parents=True)
        (target / name / "deep" / "file").write_bytes(b"x")
    (target / "sub").symlink_to(target / "file")
    (target / "sparse").symlink_to("/etc/passwd")
    before = Path("/etc/passwd").stat()
    ended = copied(*options, source, target)
    assert ended.status == 0, ended.err
    assert_same(str(source), str(target))
    assert Path("/etc/passwd").stat().st_mtime_ns == before.st_mtime_ns


def test_a_second_run_changes_nothing_that_is_seen(places: Places) -> None:
    source, target = places
    before = snapshot(str(source))
    for _ in range(2):
        assert copied("--delete", source, target).status == 0
        assert_same(str(source), str(target))
    assert snapshot(str(source)) == before


def test_links_that_the_caller_names_are_followed(places: Places, tmp_path: Path) -> None:
    source, target = places
    target.mkdir()
    (tmp_path / "from").symlink_to("source")
    (tmp_path / "to").symlink_to("target")
    assert copied(tmp_path / "from", f"{tmp_path}/to/").status == 0
    assert_same(str(source), str(target))


def test_relative_names_and_trailing_slashes(places: Places) -> None:
    source, target = places
    ended = subprocess.run(
        [*COMMAND, "./", "../target//"],
        cwd=source,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert_same(str(source), str(target))


# --- refused --------------------------------------------------------------------------------------


def refused(*arguments: str | Path, reason: str) -> None:
    ended = copied(*arguments)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith("manila-backup-copy: error: ")
    assert ended.err.count("\n") == 1
    assert reason in ended.err


def test_places_that_are_no_places(places: Places, tmp_path: Path) -> None:
    source, target = places
    refused(tmp_path / "no\nwhere", target, reason="/no\\x0awhere: No such file or directory")
    refused(source / "file", target, reason="/file: Not a directory")
    refused(source, source / "file", reason="/file: Not a directory")
    refused(source, tmp_path / "no" / "where", reason="the parent of DST")
    # A variable of a script that is not set must not mean the directory it runs in.
    refused(source, "", reason="DST '': No such file or directory")
    refused("", target, reason="SRC '': No such file or directory")
    (tmp_path / "dangling").symlink_to("nowhere")
    refused(source, tmp_path / "dangling", reason="/dangling: File exists")
    assert sorted(os.listdir(tmp_path)) == ["dangling", "source"]


def test_one_in_the_other(places: Places, tmp_path: Path) -> None:
    source, target = places
    before = snapshot(str(tmp_path))
    refused(source, source, reason="are the same directory")
    refused(source, f"{source}/sub/..", reason="are the same directory")
    refused(source, source / "sub" / "deep er", reason="lies inside SRC")
    refused(source, source / "new", reason="lies inside SRC")
    refused(source, source / "sub" / "new", reason="lies inside SRC")
    refused("--delete", source, tmp_path, reason="lies inside DST")
    assert snapshot(str(tmp_path)) == before
    target.symlink_to(source / "sub")
    refused(source, target, reason="lies inside SRC")
    refused(source, target / "new", reason="lies inside SRC")


@pytest.mark.root
def test_one_in_the_other_through_a_bind_mount(places: Places, tmp_path: Path) -> None:
    source, target = places
    with mounted(tmp_path / "bound", "--bind", device=str(source / "sub")) as bound:
        refused(source, bound, reason="lies inside SRC")
        refused(source, bound / "deep er", reason="lies inside SRC")
        refused(source, bound / "new", reason="lies inside SRC")
        refused("--delete", bound / "deep er", source, reason="lies inside DST")
        assert copied(bound, target).status == 0
        assert_same(str(source / "sub"), str(target))
    with mounted(tmp_path / "bound", "--bind", device=str(source)) as bound:
        refused(source, bound, reason="are the same directory")
        refused(bound / "sub", source, reason="lies inside DST")
    # Upon one of its own children: the way up seems to end there.
    with mounted(source / "sub", "--bind", device=str(source)) as bound:
        refused(tmp_path, bound / "new", reason="lies inside SRC")
        refused(tmp_path, bound, reason="lies inside SRC")


@pytest.mark.root
def test_a_target_that_is_mounted_read_only(places: Places, tmp_path: Path) -> None:
    source, _ = places
    with mounted(tmp_path / "ro", "-t", "tmpfs", "-o", "ro") as target:
        refused(source, target, reason="is mounted read-only")
        refused(source, target / "new", reason="is mounted read-only")


def test_wrong_usage(places: Places) -> None:
    source, target = places
    for arguments in (
        [],
        [source],
        [source, target, target],
        ["--processes", "0", source, target],
        ["--threads", "-1", source, target],
        ["--threads", "many", source, target],
        ["--no-such-option", source, target],
    ):
        ended = copied(*arguments)
        assert (ended.status, ended.out) == (2, ""), arguments
        assert ended.err.startswith("usage: manila-backup-copy ")
    assert not target.exists()


# --- less than exact ------------------------------------------------------------------------------

NAME = b"new\nline \xff\x1b[31m"
ESCAPED = "new\\x0aline \\xff\\x1b[31m"


@pytest.mark.root
def test_losses_are_named_and_end_3(places: Places, tmp_path: Path) -> None:
    source, _ = places
    with open(os.path.join(os.fsencode(source), NAME), "wb") as odd:
        os.setxattr(odd.fileno(), b"user.a\n", b"1")
    with mounted(tmp_path / "target", "-t", "ramfs") as target:
        ended = copied(source, target)
        assert (ended.status, ended.err.splitlines()) == (
            3,
            [
                "manila-backup-copy: lost (the target does not hold it): 1",
                f"  {ESCAPED}: xattr:user.a\\x0a",
            ],
        )
        assert ended.out.startswith("incomplete: 7 files, ")
        found = copied("--json", "--verify", source, target).json
        assert (found["result"], found["verified"]) == ("incomplete", True)
        assert found["losses"] == [f"{ESCAPED}: xattr:user.a\\x0a"]
        assert found["counters"]["losses"] == 1
        check_schema(found)


@pytest.mark.root
def test_more_losses_than_are_named(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(130):
        (source / f"{number:03}").touch()
        os.setxattr(source / f"{number:03}", "user.a", b"1")
    with mounted(tmp_path / "target", "-t", "ramfs") as target:
        ended = copied(source, target)
    lines = ended.err.splitlines()
    assert ended.status == 3
    assert lines[0] == "manila-backup-copy: lost (the target does not hold it): 130"
    assert sum(line.endswith(": xattr:user.a") for line in lines) == 100
    assert lines[-1] == "  and 30 more"


@pytest.mark.root
def test_a_mount_below_is_not_entered_and_that_is_said(places: Places) -> None:
    source, target = places
    with mounted(source / "mounted", "-t", "tmpfs") as inside:
        (inside / "secret").touch()
        ended = copied(source, target)
    assert ended.status == 3
    assert ended.err == (
        "manila-backup-copy: left alone: mounts below SRC or DST, or files that are open"
        " elsewhere: 1\n"
    )
    assert os.listdir(target / "mounted") == []


# --- as an ordinary user --------------------------------------------------------------------------


@pytest.fixture
def home() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp())
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY)
    yield path
    shutil.rmtree(path)


def run_there(home: Path, *arguments: str | Path) -> Ended:
    """Run as root, it becomes nobody; otherwise the user is ordinary already."""
    prefix = as_user(NOBODY, home) if os.geteuid() == 0 else []
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    return run([*prefix, *COMMAND, *arguments], env=environment)


def give_away(tree: Path) -> None:
    if os.geteuid() == 0:
        subprocess.run(["chown", "-Rh", f"{NOBODY}:{NOBODY}", str(tree)], check=True)


def test_an_ordinary_user_copies_what_is_his(home: Path) -> None:
    """Closed directories included, while the measuring walk looks at them, too."""
    source, target = fill(home / "source"), home / "target"
    for number in range(50):
        (source / f"closed-{number}" / "deeper").mkdir(parents=True)
        (source / f"closed-{number}" / "deeper" / "file").write_bytes(b"x")
    give_away(source)
    for number in range(50):
        (source / f"closed-{number}" / "deeper").chmod(0)
        (source / f"closed-{number}").chmod(0)
    (source / "file").chmod(0)
    before = snapshot(str(source))
    ended = run_there(home, "--progress", "--delete", source, target)
    assert ended.status == 0, ended.err
    assert ended.err.splitlines()[-1].startswith("done  100 %  161/161 entries")
    assert snapshot(str(source)) == before
    assert_same(str(source), str(target))


def test_an_ordinary_user_verifies_what_he_can_read(home: Path) -> None:
    source, target = fill(home / "source"), home / "target"
    give_away(source)
    found = run_there(home, "--json", "--verify", source, target).json
    assert (found["result"], found["verified"]) == ("complete", True)
    assert_same(str(source), str(target))


@pytest.mark.root
def test_foreign_owners_are_losses(home: Path) -> None:
    source, target = home / "source", home / "target"
    source.mkdir()
    (source / "foreign").write_bytes(b"x")
    give_away(source)
    os.chown(source / "foreign", 0, 0)
    ended = run_there(home, "--json", source, target)
    assert (ended.status, ended.json["losses"]) == (3, ["foreign: owner"])
    assert (target / "foreign").read_bytes() == b"x"


@pytest.mark.root
def test_what_may_not_be_read_fails_by_name(home: Path) -> None:
    source, target = home / "source", home / "target"
    source.mkdir()
    (source / "secret").write_bytes(b"x")
    (source / "secret").chmod(0)
    give_away(source)
    os.chown(source / "secret", 0, 0)
    ended = run_there(home, source, target)
    assert (ended.status, ended.err.splitlines()) == (
        1,
        ["manila-backup-copy: failed: secret: Permission denied (errno 13)", AGAIN],
    )
    assert not (target / "secret").exists()
    os.chown(source, 0, 0)
    source.chmod(0o700)
    ended = run_there(home, source, target)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.endswith("/source: Permission denied\n")


# --- failed ---------------------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.parametrize("options", [[], ["--checksum"]])
def test_a_full_target_fails_by_name_and_a_second_run_completes(
    tmp_path: Path, options: list[str]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "big\n").write_bytes(os.urandom(8 * MIB))
    with mounted(tmp_path / "target", "-t", "tmpfs", "-o", "size=4m") as target:
        ended = copied(*options, source, target)
        assert (ended.status, ended.err.splitlines()) == (
            1,
            ["manila-backup-copy: failed: big\\x0a: No space left on device (errno 28)", AGAIN],
        )
        assert ended.out.startswith("failed: 0 files, ")
        assert os.listdir(target) == []
        found = copied("--json", *options, source, target).json
        check_schema(found)
        assert found["result"] == "failed"
        assert found["error"] == {
            "path": "big\\x0a",
            "errno": errno.ENOSPC,
            "reason": "No space left on device",
        }
        subprocess.run(["mount", "-o", "remount,size=64m", str(target)], check=True)
        assert copied(*options, source, target).status == 0
        assert_same(str(source), str(target))


@pytest.mark.root
def test_no_room_for_the_temporary_catalog(places: Places, tmp_path: Path) -> None:
    source, target = places
    for number in range(300):
        (source / f"{number}").touch()
        os.setxattr(source / f"{number}", "user.a", os.urandom(2000))
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=16k") as small:
        ended = run(
            [*COMMAND, "--checksum", source, target], env={**os.environ, "TMPDIR": f"{small}"}
        )
        assert ended.status == 1
        assert (
            f"failed: the temporary catalog in {small}: No space left on device (errno 28)"
            in ended.err
        )
        assert os.listdir(small) == []


class BrokenDisk(Disk):
    def syncfs(self, fd: int) -> None:
        raise OSError(errno.EIO, "broken")


def test_what_does_not_reach_the_disk_has_failed(places: Places) -> None:
    outcome = run_job(BrokenDisk(), *places)
    assert (outcome.result, outcome.status) == (Result.FAILED, 1)
    assert outcome.failure is not None
    assert (outcome.failure.path, outcome.failure.errno) == (str(places[1]), errno.EIO)


def test_the_result_must_be_handed_over(places: Places) -> None:
    with open("/dev/full", "wb") as full:
        for sink in ("stdout", "stderr"):
            others = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, sink: full}
            done = subprocess.run(
                [*COMMAND, "--json", "--progress", *places], check=False, text=True, **others
            )
            if sink == "stderr":
                assert done.returncode == 0
                assert json.loads(done.stdout)["result"] == "complete"
            else:
                assert done.returncode == 1
                assert done.stderr.endswith(
                    "the result cannot be written to stdout: No space left on device\n"
                )


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_not_written_to(places: Places, closed: str) -> None:
    """The numbers 1 and 2 are then given to directories or files of the copy."""
    source, target = places
    os.setxattr(source / "file", "user.a", b"1")
    line = f'exec "$@" {closed}'
    done = subprocess.run(
        ["sh", "-c", line, "sh", *COMMAND, "--progress", "--verify", *places],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0
    assert b"complete" not in done.stderr
    assert_same(str(source), str(target))
