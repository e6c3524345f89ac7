# SPDX-License-Identifier: Apache-2.0
"""How much memory a copy, a backup or a restore takes for so many entries.

    python -m tests.data.copy.measure_memory --shape links --work backup 200000 1000000

Each work runs in a process of its own and is watched from outside, with the processes it starts.
Prints JSON: for each number of entries the sum of the peaks of the processes (``rss_mib``) and the
peak of the sum of their shares (``pss_mib``), and how ``rss_mib`` grows per million entries.
As root it makes its trees in memory of their own; else, or with --directory, in a directory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from manila_backup.data.catalog.writer import CatalogWriter
from manila_backup.data.copy.base import CopyOptions
from manila_backup.data.copy.tree import copy_tree
from tests.data.copy.as_user import Here
from tests.data.copy.conftest import Opened, no_progress, not_cancelled
from tests.data.copy.file_systems import FileSystems, Kind

WORKS = ("copy", "backup", "restore")
_REPOSITORY = Path(__file__).parents[3]
_MEMORY = Kind(name="memory", type="tmpfs", options=("mode=755", "nr_inodes=0", "size=90%"))
_LOOK_MS = 25
_SHARES_EVERY = 10
"""To ask the kernel for shares takes it much longer than to ask for peaks."""


# --- trees ----------------------------------------------------------------------------------------


def _touch(directory_fd: int, name: str) -> None:
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=directory_fd))


def make_wide(root: Path, entries: int) -> None:
    """One directory."""
    with Opened(root) as fd:
        for number in range(entries):
            _touch(fd, f"file-{number:08}")


def make_directories(root: Path, entries: int) -> None:
    """Directories of 99 files each, in directories of 99 each."""
    for start in range(0, entries, 100):
        directory = root / f"{start // 9900}" / f"{start}"
        directory.mkdir(parents=True)
        with Opened(directory) as fd:
            for number in range(min(99, entries - start - 1)):
                _touch(fd, f"{number}")


def make_deep(root: Path, entries: int) -> None:
    """Chains of 100 directories, with nine files in each."""
    for start in range(0, entries, 1000):
        directory = root / f"{start}"
        for _ in range(min(100, (entries - start) // 10)):
            directory.mkdir()
            with Opened(directory) as fd:
                for number in range(9):
                    _touch(fd, f"{number}")
            directory = directory / "d"


def make_links(root: Path, entries: int) -> None:
    """Files of two names each; all of one half of the names come before all of the other."""
    for name in "ab":
        (root / name).mkdir()
    with Opened(root / "a") as first, Opened(root / "b") as second:
        for number in range(entries // 2):
            name = f"file-{number:08}"
            _touch(first, name)
            os.link(name, name, src_dir_fd=first, dst_dir_fd=second)


SHAPES: dict[str, Callable[[Path, int], None]] = {
    "wide": make_wide,
    "directories": make_directories,
    "deep": make_deep,
    "links": make_links,
}


# --- work, in a process of its own ----------------------------------------------------------------


def work(name: str, top: Path, options: CopyOptions) -> int:
    """Answers how many entries it dealt with."""
    source, data, target, catalog = (top / part for part in ("source", "data", "target", "catalog"))
    if name == "copy":
        counters = Here().copy(source, target, options).counters
    elif name == "backup":
        plain = CopyOptions(plain_target=True, processes=options.processes, threads=options.threads)
        with Opened(source) as source_fd, Opened(data) as data_fd, catalog.open("wb") as file:
            writer = CatalogWriter(file)
            counters = copy_tree(
                source_fd,
                data_fd,
                plain,
                catalog=writer,
                progress=no_progress,
                cancelled=not_cancelled,
            ).counters
            writer.close()
    else:
        counters = Here().restore(catalog, data, target, options).counters
    return counters.files + counters.directories + counters.others


# --- looking at processes -------------------------------------------------------------------------


@dataclass
class Watch:
    """``peaks``: of each process by its id, in KiB. ``shares``: the most of all at once."""

    peaks: dict[int, int] = field(default_factory=dict)
    shares: int = 0

    def look(self, pid: int, *, shares: bool) -> None:
        family = list(_family(pid))
        for member in family:
            peak = _value(member, "status", "VmHWM:")
            self.peaks[member] = max(peak, self.peaks.get(member, 0))
        if shares:
            now = sum(_value(member, "smaps_rollup", "Pss:") for member in family)
            self.shares = max(self.shares, now)


def _family(pid: int) -> Iterator[int]:
    yield pid
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            for child in listing.read_text().split():
                yield from _family(int(child))


def _value(pid: int, name: str, key: str) -> int:
    """In KiB; 0 for a process that has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/{name}").read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1])
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    entries: int
    rss_mib: float
    pss_mib: float
    processes: int
    seconds: float


def watched(name: str, top: Path, entries: int, options: CopyOptions) -> Run:
    """Do it in a child process.

    :raises subprocess.CalledProcessError: it failed.
    """
    argv = [sys.executable, "-m", "tests.data.copy.measure_memory", "--here", str(top)]
    argv += ["--work", name, "--processes", str(options.processes)]
    argv += ["--threads", str(options.threads)]
    watch, started, looks = Watch(), time.monotonic(), 0
    with subprocess.Popen(argv, cwd=_REPOSITORY, stdout=subprocess.PIPE) as child:
        fd = os.pidfd_open(child.pid)
        try:
            end = select.poll()
            end.register(fd, select.POLLIN)
            while not end.poll(_LOOK_MS):
                watch.look(child.pid, shares=looks % _SHARES_EVERY == 0)
                looks += 1
        finally:
            os.close(fd)
        answer, _ = child.communicate()
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, argv)
    return Run(
        entries=int(answer),
        rss_mib=round(sum(watch.peaks.values()) / 1024, 1),
        pss_mib=round(watch.shares / 1024, 1),
        processes=len(watch.peaks),
        seconds=round(time.monotonic() - started, 1),
    )


# --- measuring ------------------------------------------------------------------------------------


@contextlib.contextmanager
def place(directory: Path | None) -> Iterator[Path]:
    """An empty directory; all that is in it is gone afterwards."""
    if directory is None and os.geteuid() == 0:
        with FileSystems() as disks:
            yield disks.new(_MEMORY)
        return
    top = Path(tempfile.mkdtemp(dir=directory))
    try:
        yield top
    finally:
        shutil.rmtree(top)


def measure(
    shape: str,
    works: Sequence[str],
    sizes: Sequence[int],
    options: CopyOptions,
    directory: Path | None = None,
) -> dict[str, list[Run]]:
    """The runs of each work, in the order of ``sizes``. A restore needs a backup before it."""
    runs: dict[str, list[Run]] = {name: [] for name in works}
    for entries in sizes:
        with place(directory) as top:
            for part in ("source", "data", "target"):
                (top / part).mkdir()
            SHAPES[shape](top / "source", entries)
            for name in works:
                runs[name].append(watched(name, top, entries, options))
                if name != "backup":
                    subprocess.run(["rm", "-rf", top / "target"], check=True)
                    (top / "target").mkdir()
    return runs


def slope(runs: Sequence[Run]) -> float:
    """MiB per million entries, from the smallest number of entries to the largest."""
    first, last = min(runs, key=_entries), max(runs, key=_entries)
    if first.entries == last.entries:
        return 0.0
    return (last.rss_mib - first.rss_mib) / (last.entries - first.entries) * 1e6


def _entries(run: Run) -> int:
    return run.entries


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory per number of entries.")
    parser.add_argument("sizes", nargs="*", type=int, help="numbers of entries")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="wide")
    parser.add_argument("--work", choices=WORKS, action="append", help="all, in order, by default")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--directory", type=Path, help="where to make the trees")
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    options = CopyOptions(delete=True, processes=args.processes, threads=args.threads)
    if args.here is not None:
        print(work(args.work[0], args.here, options))
        return
    runs = measure(args.shape, args.work or WORKS, args.sizes, options, args.directory)
    answer = {
        name: {
            "slope_mib_per_million": round(slope(found), 1),
            "runs": [asdict(run) for run in found],
        }
        for name, found in runs.items()
    }
    print(json.dumps({"shape": args.shape, **answer}, indent=2))


if __name__ == "__main__":
    main()
