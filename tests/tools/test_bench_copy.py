# SPDX-License-Identifier: Apache-2.0
"""The copy benchmark at a tiny scale: complete, right about copies, and gone when it has ended.

Figures at this scale mean nothing; that the tools copy everything does.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.as_user import NOBODY, as_user

TOOLS = Path(__file__).parents[2] / "tools"
BENCH = TOOLS / "bench_copy.py"
TINY = ("--scale", "0.002", "--rounds", "1", "--delay-us", "100", "--check")
OURS = ["ours", "ours-python", "ours-backup", "ours-restore"]
LOCAL = ["floor", "floor-2", "cp", "rsync", "tar", "fpsync", *OURS]
LATENCY = [*(name for name in LOCAL if name != "floor-2"), "ceiling", "ceiling-0"]
NOT_KEPT_BY_FPSYNC = ("link-group ", "xattr ")
"""Hard links between jobs, and the default ACL of a directory that its rsync is given as a file."""

# rsync compares the times of directories in whole seconds: one that it had dressed, and that was
# changed again within that second, it leaves.
NOT_KEPT = {"fpsync": NOT_KEPT_BY_FPSYNC, "rsync": ("time ",)}

pytestmark = [pytest.mark.slow, pytest.mark.root]


def run_bench(
    *arguments: object, prefix: Sequence[str] = (), **more: Any
) -> subprocess.CompletedProcess[str]:
    argv = [*prefix, sys.executable, BENCH, *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, check=False, **more)


@pytest.fixture(scope="module")
def bench() -> Callable[[str], Any]:
    """Imports a part of the benchmark by name."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(TOOLS)
    yield lambda name: importlib.import_module(f"bench.{name}")
    patch.undo()


@pytest.fixture(scope="module")
def floor(bench: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bench("slow").built_floor(tmp_path_factory.mktemp("floor"))


@pytest.fixture(scope="module")
def slowfs(bench: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bench("slow").built_slowfs(tmp_path_factory.mktemp("slowfs"))


# --- the whole ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The JSON and the text of a run of S and latency with all tools."""
    directory = tmp_path_factory.mktemp("bench")
    output = directory / "result.json"
    done = run_bench(*TINY, "--only", "S,latency", "--json", output, "--dir", directory)
    assert done.returncode == 0, done.stderr
    assert os.listdir(directory) == ["result.json"]
    return json.loads(output.read_text()), done.stdout


def test_every_tool_is_measured_and_copies_exactly(small_files: tuple[dict[str, Any], str]) -> None:
    parts = small_files[0]["parts"]
    assert list(parts) == ["S", "latency"]
    for part, expected in (("S", LOCAL), ("latency", LATENCY)):
        assert [tool["tool"] for tool in parts[part]["tools"]] == expected
        for run in parts[part]["runs"]:
            assert run["problem"] is None
            assert run["wall_s"] > 0
            assert run["cpu_s"] > 0
            allowed = NOT_KEPT.get(run["tool"], ())
            wrong = [line for line in run["differences"] if not line.startswith(allowed)]
            assert not wrong, run["tool"]
    assert small_files[0]["problems"] == []


def test_requests_are_counted_where_they_are_delayed(
    small_files: tuple[dict[str, Any], str],
) -> None:
    parts = small_files[0]["parts"]
    files = parts["latency"]["data_set"]["files"]
    links = parts["latency"]["data_set"]["hard_links"]
    assert all(not run["requests"] for run in parts["S"]["runs"])
    for run in parts["latency"]["runs"]:
        assert run["requests"]["READ"] >= files - links
        assert run["requests"]["WRITE"] >= files - links
        waited = run["wall_s"] * 1e6 / 100
        if run["tool"] in {"floor", "cp"}:  # one request at a time: none of them was free
            assert waited > 0.9 * (run["requests"]["LOOKUP"] + run["requests"]["SETATTR"])


def test_targets_and_table_are_complete(small_files: tuple[dict[str, Any], str]) -> None:
    found, text = small_files
    assert [(t["part"], t["tool"], t["other"]) for t in found["targets"]] == [
        ("S", "ours", "floor"),
        ("S", "ours", "cp"),
        ("S", "ours", "rsync"),
        ("latency", "ours", "cp"),
        ("latency", "ours", "rsync"),
        ("latency", "ours", "fpsync"),
        ("S", "ours-backup", "floor"),
    ]
    for target in found["targets"]:
        measured = {tool["tool"]: tool for tool in found["parts"][target["part"]]["tools"]}
        key = "cpu_s" if target["what"] == "CPU" else "wall_s"
        ratio = measured[target["tool"]][key] / measured[target["other"]][key]
        assert target["ratio"] == pytest.approx(ratio)
        assert (target["verdict"] == "met") is (ratio <= target["limit"])
        assert target["verdict"] in text
    for part in found["parts"].values():
        for tool in part["tools"]:
            assert f"| {tool['title']}".replace("tar | tar", "tar \\| tar") in text
    assert found["machine"]["cpu"] in text
    assert set(found["machine"]["versions"]) == {"cp", "rsync", "tar", "fpsync"}


def test_large_and_mixed_files(tmp_path: Path) -> None:
    tools = ["floor", "cp", "ours", "ours-backup", "ours-restore"]
    chosen = ("--only", "L,M", "--tools", ",".join(tools), "--json", tmp_path / "result.json")
    done = run_bench(*TINY, *chosen, "--dir", tmp_path)
    assert done.returncode == 0, done.stderr
    parts = json.loads((tmp_path / "result.json").read_text())["parts"]
    for part in ("L", "M"):
        assert [run["tool"] for run in parts[part]["runs"]] == tools
        assert all(run["differences"] == [] for run in parts[part]["runs"])


def test_full_scale_is_what_the_documentation_says(bench: Callable[[str], Any]) -> None:
    parts = bench("parts").parts(scale=1.0, seed=1, latency_files=None)
    small = parts["S"].extent()
    assert (small.entries, small.files, small.directories) == (101_026, 99_000, 1026)
    assert (small.symlinks, small.hard_links) == (1000, 1000)
    assert parts["L"].extent().logical_bytes == 4 << 30
    mixed = parts["M"].extent()
    assert (mixed.entries, round(mixed.logical_bytes / (1 << 30), 1)) == (86_025, 2.9)
    assert parts["latency"].extent().files == 4000


def test_a_seed_makes_the_same_tree_each_time(bench: Callable[[str], Any], tmp_path: Path) -> None:
    parts = bench("parts").parts
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shape = parts(scale=0.002, seed=5, latency_files=None)["M"].shape()
        bench("dataset").write_dataset(shape, tmp_path / name, seed=5)
        os.utime(tmp_path / name, ns=(0, 0))
    assert_equal(tmp_path / "one", tmp_path / "two")
    other = parts(scale=0.002, seed=6, latency_files=None)["M"].shape()
    assert list(other) != list(parts(scale=0.002, seed=5, latency_files=None)["M"].shape())


# --- when it cannot, or may not go on -------------------------------------------------------------


def test_ordinary_users_are_told() -> None:
    done = run_bench(prefix=as_user(NOBODY))
    assert done.returncode == 2
    assert "must run as root" in done.stderr


def test_missing_programs_are_named_with_their_packages(tmp_path: Path) -> None:
    for name in ("gcc", "mkfs.ext4", "mkfs.xfs", "mount", "losetup", "cp", "tar", "pkg-config"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    done = run_bench(*TINY, env={**os.environ, "PATH": str(tmp_path)})
    assert done.returncode == 2
    assert "missing: fpart, fpsync, rsync." in done.stderr
    assert "apt-get install fpart rsync " in done.stderr


def test_too_little_space_is_told_before_anything_is_made(tmp_path: Path) -> None:
    done = run_bench("--only", "L", "--scale", "1000000", "--tools", "cp", "--dir", tmp_path)
    assert done.returncode == 2
    assert "MiB are needed" in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_tool_that_fails_is_a_problem(tmp_path: Path) -> None:
    for name in ("gcc", "mkfs.ext4", "mkfs.xfs", "mount", "umount", "losetup", "as", "ld"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    broken = tmp_path / "cp"
    broken.write_text("#!/bin/sh\necho out of order >&2\nexit 7\n")
    broken.chmod(0o755)
    chosen = ("--only", "L", "--tools", "floor,cp", "--json", tmp_path / "result.json")
    done = run_bench(*TINY, *chosen, env={**os.environ, "PATH": str(tmp_path)})
    assert done.returncode == 1, done.stderr
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["problems"] == ["L: cp failed in round 1: exit status 7: out of order"]
    assert [tool["tool"] for tool in found["parts"]["L"]["tools"]] == ["floor"]


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    argv = [sys.executable, str(BENCH), *TINY, "--rounds", "100", "--dir", str(tmp_path)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("S: data set made")
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait() == 130
    assert rest.endswith("interrupted\n")
    assert os.listdir(tmp_path) == []
    assert os.fspath(tmp_path) not in Path("/proc/mounts").read_text()


def test_cpu_time_of_orphans_counts(tmp_path: Path) -> None:
    burn = "import time\nwhile time.process_time() < 0.4: pass"
    script = f"""if True:
        import sys
        from pathlib import Path
        from bench.measure import Command, measured
        from bench.system import adopt_orphans
        adopt_orphans()
        stage = ("sh", "-c", '"$0" -c "$1" &', sys.executable, {burn!r})
        result = measured(Command(stages=(stage,)), log=Path(sys.argv[1]))
        print(result.cpu_s)
    """
    argv = [sys.executable, "-c", script, str(tmp_path / "log")]
    done = subprocess.run(argv, cwd=TOOLS, capture_output=True, text=True, check=True)
    assert float(done.stdout) > 0.35


def test_dirty_limits_are_put_back(bench: Callable[[str], Any]) -> None:
    limits = [Path("/proc/sys/vm", f"dirty_{name}") for name in ("bytes", "background_bytes")]
    ratios = [Path("/proc/sys/vm", f"dirty_{name}") for name in ("ratio", "background_ratio")]
    before = [path.read_text() for path in (*limits, *ratios)]
    with bench("system").raised_dirty_limits():
        hard_bytes, background_bytes = (int(path.read_text()) for path in limits)
        assert hard_bytes > background_bytes > 1 << 30
    assert [path.read_text() for path in (*limits, *ratios)] == before


# --- the floor ------------------------------------------------------------------------------------


def make_everything(root: Path) -> None:
    """One of each that a tree can hold, and what is easily lost."""
    root.mkdir()
    for number in range(30):
        (root / f"dir{number}" / "below").mkdir(parents=True)
        (root / f"dir{number}" / "file").write_bytes(bytes([number]) * 5000)
    for number in range(30):
        os.link(root / f"dir{number}" / "file", root / f"dir{number * 7 % 30}" / f"link{number}")
    for number in range(30):
        os.utime(root / f"dir{number}", ns=(0, -1_234_567_890 * number))
    (root / "empty").write_bytes(b"")
    (root / "long").write_bytes(os.urandom(700_001))
    (root / ("n" * 255)).write_bytes(b"name")
    Path(os.fsdecode(os.fsencode(root) + b"/\xff\n-")).write_bytes(b"bytes")
    with (root / "holes").open("wb") as file:
        for offset in (0, 1 << 20, (3 << 20) + 5):
            file.seek(offset)
            file.write(b"data")
        file.truncate(8 << 20)
    os.mkfifo(root / "fifo")
    os.link(root / "fifo", root / "fifo2")
    os.mknod(root / "device", 0o20640, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(root / "socket"))
    os.symlink("/etc/passwd", root / "symlink")
    os.lchown(root / "symlink", 1234, 5678)
    os.link(root / "symlink", root / "dir1" / "symlink2", follow_symlinks=False)
    for name in ("long", "dir3", "dir3/below", "fifo", "symlink"):
        os.setxattr(root / name, "trusted.test", name.encode(), follow_symlinks=False)
    os.chown(root / "long", 4_000_000_000, 7)
    os.chmod(root / "long", 0o6751)
    os.chmod(root / "dir4", 0o3777)
    for options in (["-m", "u:7:rw"], ["-d", "-m", "g:7:r"]):
        subprocess.run(["setfacl", *options, root / "dir5"], check=True)
    subprocess.run(["setfacl", "-m", "u:7:rw", root / "empty"], check=True)
    os.utime(root / "symlink", ns=(0, 123_456_789), follow_symlinks=False)
    os.utime(root, ns=(0, 987_654_321))


def assert_equal(source: Path, copy: Path) -> None:
    argv = [sys.executable, os.fspath(TOOLS / "compare_trees.py"), source, copy]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("threads", [1, 8])
def test_the_floor_copies_everything(floor: Path, tmp_path: Path, threads: int) -> None:
    make_everything(tmp_path / "source")
    (tmp_path / "copy").mkdir()
    argv = [floor, "-j", str(threads), tmp_path / "source", tmp_path / "copy"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert_equal(tmp_path / "source", tmp_path / "copy")
    below = sum(len(names) + len(files) for _, names, files in os.walk(tmp_path / "source"))
    assert json.loads(done.stdout)["entries"] == below + 1
    assert json.loads(done.stdout)["changed"] == 0


def test_the_floor_does_not_follow_or_overwrite(floor: Path, tmp_path: Path) -> None:
    (tmp_path / "source" / "in").mkdir(parents=True)
    (tmp_path / "source" / "in" / "file").write_bytes(b"new")
    (tmp_path / "copy").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "copy" / "in").symlink_to(tmp_path / "outside")
    argv = [floor, tmp_path / "source", tmp_path / "copy"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"./in: mkdir: {os.strerror(errno.EEXIST)}" in done.stderr
    assert os.listdir(tmp_path / "outside") == []


# --- the slow file system -------------------------------------------------------------------------


def test_slowfs_passes_everything_on(
    bench: Callable[[str], Any], floor: Path, slowfs: Path, tmp_path: Path
) -> None:
    make_everything(tmp_path / "source")
    (tmp_path / "copy").mkdir()
    mount = bench("slow").slow_mount
    with (
        mount(slowfs, tmp_path / "source", tmp_path / "slow-source", 50) as source,
        mount(slowfs, tmp_path / "copy", tmp_path / "slow-copy", 50) as copy,
    ):
        subprocess.run([floor, "-j", "16", source.path, copy.path], check=True, capture_output=True)
        assert_equal(source.path, copy.path)
    assert_equal(tmp_path / "source", tmp_path / "copy")
    assert copy.requests["MKDIR"] == 60
    assert copy.requests["LINK"] == 32
    assert copy.requests["SYMLINK"] == 1
    assert copy.requests["MKNOD"] == 3
    assert source.requests["LSEEK"] > 0
    assert source.requests["WRITE"] == source.requests["SETATTR"] == 0


def test_slowfs_changes_what_is_there(
    bench: Callable[[str], Any], slowfs: Path, tmp_path: Path
) -> None:
    real = tmp_path / "real"
    (real / "dir").mkdir(parents=True)
    with bench("slow").slow_mount(slowfs, real, tmp_path / "slow", 0) as mount:
        seen = mount.path
        (seen / "dir" / "file").write_bytes(b"0123456789")
        os.truncate(seen / "dir" / "file", 4)
        os.rename(seen / "dir" / "file", seen / "moved")
        os.setxattr(seen / "moved", "user.a", b"1")
        os.removexattr(seen / "moved", "user.a")
        os.rmdir(seen / "dir")
        with (seen / "moved").open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, 100)
            os.fsync(file.fileno())
        (seen / "gone").touch()
        os.unlink(seen / "gone")
        assert os.statvfs(seen).f_bsize == os.statvfs(real).f_bsize
    assert os.listdir(real) == ["moved"]
    assert (real / "moved").read_bytes() == b"0123" + bytes(96)
    for kind in ("RENAME", "RMDIR", "UNLINK", "REMOVEXATTR", "FALLOCATE", "FSYNC", "STATFS"):
        assert mount.requests[kind] >= 1, kind


def test_slowfs_tells_its_counts_on_a_signal(
    bench: Callable[[str], Any], slowfs: Path, tmp_path: Path
) -> None:
    (tmp_path / "real").mkdir()
    with bench("slow").slow_mount(slowfs, tmp_path / "real", tmp_path / "slow", 0) as mount:
        (mount.path / "dir").mkdir()
        os.kill(mount.pid, signal.SIGUSR1)
        deadline = time.monotonic() + 20
        while not mount.counts.exists():
            assert time.monotonic() < deadline
        assert json.loads(mount.counts.read_text())["MKDIR"] == 1
        (mount.path / "dir2").mkdir()
    assert mount.requests["MKDIR"] == 2


def test_slowfs_delays_64_requests_at_once(
    bench: Callable[[str], Any], slowfs: Path, tmp_path: Path
) -> None:
    delay_s, parallel = 0.1, 64
    (tmp_path / "real").mkdir()
    with (
        bench("slow").slow_mount(
            slowfs, tmp_path / "real", tmp_path / "slow", round(delay_s * 1e6)
        ) as mount,
        ThreadPoolExecutor(parallel) as threads,
    ):
        start = time.monotonic()
        found = list(threads.map(os.path.lexists, (f"{mount.path}/{n}" for n in range(parallel))))
        took_s = time.monotonic() - start
    assert found == [False] * parallel
    assert delay_s <= took_s < delay_s * parallel / 4
    assert mount.requests["LOOKUP"] == parallel
