# SPDX-License-Identifier: Apache-2.0
"""Mounts: what mount(8) is told, what it really did, and that nothing of it stays."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from manila_backup import exception
from manila_backup.data.mountinfo import mounted_at, mounted_below
from manila_backup.data.mounts import (
    MountManager,
    mount_argv,
    run_command,
    temporary_prefix,
    umount_argv,
)
from manila_backup.types import Mount
from tests.data.node.faulty import Runner, Steps

pytestmark = pytest.mark.slow

POINT = "/private/point"
DEFAULT = ["timeo=100", "retrans=2", "retry=0"]
ODD_EXPORTS = [
    "10.0.0.5:/backups",
    "[2001:db8::5]:/backups",
    "[fe80::1%eth0]:/a",
    "nas:/with space",
    "nas:/with,comma",
    "nas:/line\nbreak",
    "-o exec",
    "--bind",
    "",
    "nas:/$(reboot);`id`",
]


# --- what is asked for ----------------------------------------------------------------------------


@pytest.mark.parametrize("export", ODD_EXPORTS)
@pytest.mark.parametrize("proto", ["nfs", "bind"])
def test_an_export_is_one_argument_after_the_options_have_ended(proto: str, export: str) -> None:
    argv = mount_argv(Mount(proto=proto, export=export), POINT, read_only=False)
    assert argv[-3:] == ["--", export, POINT]
    assert argv.index("--") == len(argv) - 3


@pytest.mark.parametrize(("read_only", "access"), [(True, "ro"), (False, "rw")])
def test_what_protects_us_comes_after_the_configured_options(read_only: bool, access: str) -> None:
    mount = Mount(proto="nfs", export="nas:/a", options=("vers=4.2", "suid", "dev", "exec", "rw"))
    argv = mount_argv(mount, POINT, read_only=read_only)
    assert argv[:3] == ["mount", "-t", "nfs"]
    options = argv[argv.index("-o") + 1].split(",")
    assert options[-10:-6] == ["suid", "dev", "exec", "rw"]
    assert options[-6:] == ["softerr", "nosuid", "nodev", "noexec", "noatime", access]


@pytest.mark.parametrize(
    ("configured", "told"),
    [
        ([], ["timeo=100", "retrans=2", "retry=0", "softerr"]),
        (["nfsvers=3", "nconnect=4"], [*DEFAULT, "nfsvers=3", "nconnect=4", "softerr"]),
        (["timeo=5"], ["retrans=2", "retry=0", "timeo=5", "softerr"]),
        (["hard", "retry=1"], ["timeo=100", "retrans=2", "hard", "retry=1", "softerr"]),
    ],
)
def test_an_nfs_mount_gives_up_whatever_is_configured(
    configured: list[str], told: list[str]
) -> None:
    """Of two options that contradict each other mount(8) takes the last."""
    mount = Mount(proto="nfs", export="nas:/a", options=tuple(configured))
    argv = mount_argv(mount, POINT, read_only=True)
    options = argv[argv.index("-o") + 1].split(",")
    assert options == [*told, "nosuid", "nodev", "noexec", "noatime", "ro"]


def test_an_older_kernel_gets_the_older_option_from_then_on(tmp_path: Path) -> None:
    told: list[str] = []

    def older(argv: list[str]) -> None:
        told.append(argv[argv.index("-o") + 1].split(",")[-6])
        if told[-1] == "softerr":
            reason = "mount.nfs: an incorrect mount option was specified (status 32)"
            raise exception.MountFailed(export="nas:/a", reason=reason)

    mounts = MountManager(str(tmp_path / "mounts"), runner=older)
    for _ in range(2):
        with (
            pytest.raises(exception.MountFailed, match="nothing was mounted"),
            mounts.mounted(Mount(proto="nfs", export="nas:/a"), "x", read_only=True),
        ):
            pass
    assert told == ["softerr", "soft", "soft"]


@pytest.mark.parametrize(("lazy", "ways"), [(False, []), (True, ["--lazy", "--internal-only"])])
def test_unmounting_does_not_ask_the_server_where_the_path_leads(
    lazy: bool, ways: list[str]
) -> None:
    """Nor is it forced: that lets requests of other mounts of the same file system fail."""
    assert umount_argv(POINT, lazy=lazy) == ["umount", "--no-canonicalize", *ways, "--", POINT]


def test_a_bind_mount_does_not_take_the_mounts_inside_along() -> None:
    argv = mount_argv(Mount(proto="bind", export="/srv"), POINT, read_only=True)
    assert argv == ["mount", "--bind", "-o", "nosuid,nodev,noexec,noatime,ro", "--", "/srv", POINT]


# --- commands -------------------------------------------------------------------------------------


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(exception.MountFailed, match=r"nowhere.*status 32") as raised:
        run_command(["mount", "--bind", "--", "/nowhere", "/nowhere/else"])
    assert raised.value.export == "/nowhere"
    with pytest.raises(exception.MountFailed) as raised:
        run_command(["umount", "--", "/nowhere"])
    assert raised.value.export == "/nowhere"


def test_what_a_command_says_cannot_forge_a_log_line(tmp_path: Path) -> None:
    with pytest.raises(exception.MountFailed) as raised:
        run_command(["mount", "--bind", "--", f"{tmp_path}/a\nb", str(tmp_path)])
    assert str(raised.value).isprintable()


def test_a_command_that_hangs_is_killed_with_its_children() -> None:
    """The child holds the output open, as a mount helper does."""
    with pytest.raises(exception.MountFailed, match=r"did not end within 0\.1 s"):
        run_command(["sh", "-c", "sleep 600 & wait"], timeout_s=0.1)


def test_a_missing_command_is_a_failed_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(exception.MountFailed):
        run_command(["mount", "--bind", "--", "/a", "/b"])


# --- paths ----------------------------------------------------------------------------------------


def test_a_path_is_used_where_it_is(tmp_path: Path) -> None:
    def never(argv: list[str]) -> None:
        raise AssertionError(argv)

    mounts = MountManager(str(tmp_path / "mounts"), runner=never)
    with mounts.mounted(Mount(proto="path", export=str(tmp_path)), "x", read_only=True) as tree:
        assert tree.path == str(tmp_path)
    assert not (tmp_path / "mounts").exists()


@pytest.mark.parametrize("what", ["missing", "file", "link"])
def test_a_path_that_is_no_directory_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "path"
    if what == "file":
        path.touch()
    elif what == "link":
        path.symlink_to("/")
    mounts = MountManager(str(tmp_path / "mounts"))
    with (
        pytest.raises(exception.MountFailed),
        mounts.mounted(Mount(proto="path", export=str(path)), "x", read_only=True),
    ):
        pass


# --- a mount that is none -------------------------------------------------------------------------


def test_a_mount_point_that_is_not_the_mount_is_never_used(tmp_path: Path) -> None:
    """mount(8) said that all is well, but it is not."""
    mounts = MountManager(str(tmp_path / "mounts"), runner=lambda argv: None)
    with (
        pytest.raises(exception.MountFailed, match="nothing was mounted"),
        mounts.mounted(Mount(proto="nfs", export="nas:/a"), "x", read_only=False) as tree,
    ):
        Path(tree.path, "written").touch()
    assert mounts.leftovers() == []


def test_the_mount_point_goes_when_mounting_fails(tmp_path: Path) -> None:
    mounts = MountManager(str(tmp_path / "mounts"))
    with (
        pytest.raises(exception.MountFailed),
        mounts.mounted(Mount(proto="bind", export="/nowhere"), "x", read_only=False),
    ):
        pass
    assert mounts.leftovers() == []


@pytest.mark.parametrize(
    "point", ["/", "/etc", "/etc/x", "{0}", "{0}/", "{0}/..", "{0}/a/b", "{0}/../x", "x", ""]
)
def test_foreign_paths_are_not_unmounted(tmp_path: Path, point: str) -> None:
    run: list[list[str]] = []
    mounts = MountManager(str(tmp_path / "mounts"), runner=run.append)
    with pytest.raises(ValueError, match="not a mount point of ours"):
        mounts.unmount(point.format(tmp_path / "mounts"))
    assert run == []


def test_unmounting_what_is_not_there_is_done(tmp_path: Path) -> None:
    mounts = MountManager(str(tmp_path / "mounts"))
    mounts.unmount(mounts.point("x"))
    Path(mounts.point("x")).mkdir(parents=True)
    mounts.unmount(mounts.point("x"))
    mounts.unmount(mounts.point("x"))
    assert mounts.leftovers() == []


def test_a_mount_point_that_was_written_to_stays_and_says_so(tmp_path: Path) -> None:
    mounts = MountManager(str(tmp_path / "mounts"))
    written = Path(mounts.point("x"), "written")
    written.parent.mkdir(parents=True)
    written.touch()
    with pytest.raises(exception.MountFailed, match="not empty"):
        mounts.unmount(mounts.point("x"))
    assert written.exists()


# --- the private directory ------------------------------------------------------------------------


def _directory_made_by(mounts: MountManager) -> None:
    with pytest.raises(exception.MountFailed), mounts.mounted(_NOWHERE, "x", read_only=True):
        pass


_NOWHERE = Mount(proto="bind", export="/nowhere")


def test_the_directory_is_made_private(tmp_path: Path) -> None:
    directory = tmp_path / "mounts"
    _directory_made_by(MountManager(str(directory)))
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_directory_that_is_open_to_others_is_closed(tmp_path: Path) -> None:
    directory = tmp_path / "mounts"
    directory.mkdir()
    directory.chmod(0o777)
    _directory_made_by(MountManager(str(directory)))
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


@pytest.mark.root
def test_somebody_elses_directory_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "mounts"
    directory.mkdir()
    os.chown(directory, 65534, 65534)
    mounts = MountManager(str(directory), runner=lambda argv: None)
    with (
        pytest.raises(exception.MountFailed, match="belongs to somebody else"),
        mounts.mounted(_NOWHERE, "x", read_only=True),
    ):
        pass
    assert list(directory.iterdir()) == []


def test_mounts_of_another_living_process_are_no_leftovers(tmp_path: Path) -> None:
    """The manage command verifies a backup while the data node starts."""
    mounts = MountManager(str(tmp_path / "mounts"))
    other = subprocess.Popen(["sleep", "600"])
    try:
        theirs = f"store-{other.pid}-x"
        for name in (f"{temporary_prefix()}y", theirs, "operation-1-share"):
            Path(mounts.point(name)).mkdir(parents=True)
        found = {os.path.basename(point) for point in mounts.leftovers()}
        assert found == {f"{temporary_prefix()}y", "operation-1-share"}
    finally:
        other.kill()
        other.wait()
    assert theirs in {os.path.basename(point) for point in mounts.leftovers()}


# --- real mounts ----------------------------------------------------------------------------------


@pytest.fixture
def share(tmp_path: Path) -> Path:
    path = tmp_path / "share"
    path.mkdir()
    (path / "file").write_text("content")
    return path


@pytest.fixture
def steps() -> Steps:
    return Steps()


@pytest.fixture
def mounts(tmp_path: Path, steps: Steps) -> Iterator[MountManager]:
    found = MountManager(str(tmp_path / "mounts"), runner=Runner(steps))
    yield found
    assert mounted_below(str(tmp_path)) == []
    assert found.leftovers() == []


def bind(share: Path) -> Mount:
    return Mount(proto="bind", export=str(share))


@pytest.mark.root
def test_a_read_only_mount_cannot_be_written(mounts: MountManager, share: Path) -> None:
    with mounts.mounted(bind(share), "x", read_only=True) as tree:
        assert Path(tree.path, "file").read_text() == "content"
        with pytest.raises(OSError, match="Read-only") as raised:
            Path(tree.path, "file").write_text("other")
    assert raised.value.errno == errno.EROFS
    assert (share / "file").read_text() == "content"


@pytest.mark.root
@pytest.mark.parametrize("read_only", [True, False])
def test_the_kernel_knows_of_nosuid_nodev_noexec(
    mounts: MountManager, share: Path, read_only: bool
) -> None:
    with mounts.mounted(bind(share), "x", read_only=read_only) as tree:
        (line,) = [
            line
            for line in Path("/proc/self/mountinfo").read_text().split("\n")
            if line.split(" ")[4:5] == [tree.path]
        ]
        assert int(line.split(" ")[0]) == tree.mount_id
        options = set(line.split(" ")[5].split(","))
        assert {"nosuid", "nodev", "noexec", "noatime", "ro" if read_only else "rw"} <= options


@pytest.mark.root
def test_a_mount_that_should_be_read_only_and_is_not_is_not_used(
    tmp_path: Path, share: Path
) -> None:
    def forgetful(argv: list[str]) -> None:
        run_command([part.replace(",ro", ",rw") for part in argv])

    mounts = MountManager(str(tmp_path / "mounts"), runner=forgetful)
    with (
        pytest.raises(exception.MountFailed, match="not read-only"),
        mounts.mounted(bind(share), "x", read_only=True),
    ):
        pass
    assert mounts.leftovers() == []


@pytest.mark.root
@pytest.mark.parametrize(
    "name", ["with space", "tab\there", "line\nbreak", "next\x85line", "\\040"]
)
def test_odd_names_are_mounted_and_found_again(tmp_path: Path, steps: Steps, name: str) -> None:
    odd = tmp_path / name
    (odd / "share").mkdir(parents=True)
    mounts = MountManager(str(odd / "mounts"), runner=Runner(steps))
    with mounts.mounted(bind(odd / "share"), "x", read_only=True) as tree:
        assert mounted_below(str(odd)) == [tree.path]
    assert mounted_below(str(odd)) == []
    assert mounts.leftovers() == []


@pytest.mark.root
def test_a_mount_directory_behind_a_link_is_unmounted_all_the_same(
    tmp_path: Path, share: Path
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    mounts = MountManager(str(tmp_path / "link" / "mounts"))
    with mounts.mounted(bind(share), "x", read_only=True):
        assert len(mounted_below(str(tmp_path))) == 1
    assert mounted_below(str(tmp_path)) == []


@pytest.mark.root
def test_two_mounts_of_one_share_do_not_meet(mounts: MountManager, share: Path) -> None:
    with mounts.mounted(bind(share), "x", read_only=False) as one:
        with mounts.mounted(bind(share), "y", read_only=True) as two:
            assert one.mount_id != two.mount_id
        assert Path(one.path, "file").exists()


@pytest.mark.root
def test_the_mount_goes_with_an_error_in_the_block(mounts: MountManager, share: Path) -> None:
    with (
        pytest.raises(KeyError),
        mounts.mounted(bind(share), "x", read_only=True),
    ):
        raise KeyError("x")


@pytest.mark.root
def test_a_busy_mount_is_unmounted_lazily(mounts: MountManager, share: Path, steps: Steps) -> None:
    with mounts.mounted(bind(share), "x", read_only=True) as tree:
        held = os.open(tree.path, os.O_RDONLY)
    try:
        assert steps.seen == ["mount", "umount", "umount"]
        assert mounted_below(str(share.parent)) == []
    finally:
        os.close(held)


@pytest.mark.root
def test_an_unmount_that_fails_hides_no_error_and_leaves_the_mount_to_be_found(
    mounts: MountManager, share: Path, steps: Steps
) -> None:
    steps.fail("umount", exception.MountFailed(export="x", reason="injected"), times=2)
    with (
        pytest.raises(KeyError),
        mounts.mounted(bind(share), "x", read_only=True) as tree,
    ):
        raise KeyError("the first error")
    assert mounts.leftovers() == [tree.path]
    assert mounted_below(str(share.parent)) == [tree.path]
    mounts.unmount(tree.path)


@pytest.mark.root
def test_a_point_that_a_former_process_has_mounted_is_mounted_over_and_cleared(
    mounts: MountManager, share: Path
) -> None:
    """It died, and at the start the mount could not be taken off."""
    Path(mounts.point("x")).mkdir(parents=True)
    run_command(mount_argv(bind(share), mounts.point("x"), read_only=False))
    former = mounted_at(mounts.point("x"))
    assert former is not None
    with mounts.mounted(bind(share), "x", read_only=True) as tree:
        assert tree.mount_id != former.mount_id
        assert mounted_below(str(share.parent)) == [tree.path, tree.path]
    assert mounted_below(str(share.parent)) == []


# --- one mount for many ---------------------------------------------------------------------------


@pytest.mark.root
def test_those_who_use_one_name_share_one_mount(
    mounts: MountManager, share: Path, steps: Steps
) -> None:
    with mounts.mounted(bind(share), "x", read_only=True) as one:
        with mounts.mounted(bind(share), "x", read_only=True) as two:
            assert two == one
        assert steps.seen == ["mount"]
        assert Path(one.path, "file").exists()
    assert steps.seen == ["mount", "umount"]


@pytest.mark.root
def test_the_last_of_many_threads_unmounts(mounts: MountManager, share: Path, steps: Steps) -> None:
    """Whoever has the mount finds the file in it, however many come and go."""

    def use(_: int) -> bool:
        with mounts.mounted(bind(share), "x", read_only=True) as tree:
            return Path(tree.path, "file").exists()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(60)))
    assert steps.seen.count("mount") == steps.seen.count("umount") <= 60


@pytest.mark.root
def test_what_is_in_use_is_not_unmounted_for_somebody_else(
    mounts: MountManager, share: Path, steps: Steps
) -> None:
    """An intent of an operation that is over names the mount that others share."""
    with mounts.mounted(bind(share), "x", read_only=True) as tree:
        mounts.unmount(tree.path)
        assert Path(tree.path, "file").exists()
    assert steps.seen == ["mount", "umount"]


@pytest.mark.root
@pytest.mark.parametrize("other", ["mode", "export"])
def test_a_name_in_use_is_not_for_another_mount(
    mounts: MountManager, share: Path, other: str
) -> None:
    wanted = bind(share) if other == "mode" else bind(share.parent)
    with (
        mounts.mounted(bind(share), "x", read_only=True) as tree,
        pytest.raises(ValueError, match="in use for another mount"),
        mounts.mounted(wanted, "x", read_only=other == "export"),
    ):
        pass
    assert not Path(tree.path).exists()


@pytest.mark.root
def test_after_a_mount_that_failed_the_next_one_tries_itself(
    mounts: MountManager, share: Path, steps: Steps
) -> None:
    steps.fail("mount", exception.MountFailed(export="x", reason="injected"))
    with (
        pytest.raises(exception.MountFailed, match="injected"),
        mounts.mounted(bind(share), "x", read_only=True),
    ):
        pass
    with mounts.mounted(bind(share), "x", read_only=True) as tree:
        assert Path(tree.path, "file").exists()


HOLDER = """
import os, signal, sys
from manila_backup.data.mounts import MountManager
from manila_backup.types import Mount
with MountManager(sys.argv[1]).mounted(
    Mount(proto="bind", export=sys.argv[2]), "operation-1-share", read_only=True
):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.root
def test_what_a_killed_process_left_mounted_is_found_and_removed(
    tmp_path: Path, mounts: MountManager, share: Path
) -> None:
    holder = [sys.executable, "-c", HOLDER, str(tmp_path / "mounts"), str(share)]
    assert subprocess.run(holder, check=False).returncode == -signal.SIGKILL
    (left,) = mounts.leftovers()
    assert mounted_below(str(tmp_path)) == [left]
    mounts.unmount(left)
    assert (share / "file").exists()
