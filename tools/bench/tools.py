# SPDX-License-Identifier: Apache-2.0
"""The tools that are compared: what is run for each of them."""

from __future__ import annotations

import compileall
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.measure import Command
from bench.system import CannotRun

_ENGINE = Path(__file__).with_name("engine.py")
_FPSYNC_FILES_PER_JOB = 2000
_FPSYNC_OPTIONS = "-lptgoDHAX --numeric-ids"
_TAR = ("--numeric-owner", "--acls", "--xattrs", "--xattrs-include=*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """How our own tools are called; None: their defaults."""

    command: tuple[str, ...]
    processes: int | None
    threads: int | None

    def parallel(self, processes: int | None = None, threads: int | None = None) -> list[str]:
        wanted = {"--processes": self.processes or processes, "--threads": self.threads or threads}
        return [text for key, n in wanted.items() if n is not None for text in (key, str(n))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One copy: the contents of ``source`` into ``target``, an empty directory. ``scratch`` is
    an empty directory elsewhere. ``jobs`` is for tools that must be told how many to run.
    ``catalog`` is the source's, if one of the tools needs it."""

    source: Path
    target: Path
    scratch: Path
    catalog: Path
    entries: int
    jobs: int
    floor: Path
    ours: Ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """``keeps_all`` is False where the tool itself says that it does not keep hard links.

    ``delay_us`` is for ceilings: another delay than the part's. ``needs`` are programs;
    ``restores``: it needs the source's catalog.
    """

    name: str
    command: Callable[[Task], Command]
    title: str
    needs: tuple[str, ...] = ()
    keeps_all: bool = True
    delay_us: int | None = None
    restores: bool = False


def our_command() -> tuple[str, ...]:
    """The installed command, or the module where the package was not installed with it; compiled.

    :raises CannotRun: there is neither.
    """
    package = importlib.util.find_spec("manila_backup")
    for place in (package.submodule_search_locations or ()) if package is not None else ():
        # As pip does where the package is not editable; Python may be told not to do so when it
        # runs (PYTHONDONTWRITEBYTECODE).
        compileall.compile_dir(place, quiet=1)
    installed = Path(sys.executable).with_name("manila-backup-copy")
    if installed.exists():
        return (os.fspath(installed),)
    if package is None:
        raise CannotRun(
            f"{sys.executable} does not find manila_backup: run tools/install.sh, "
            "then .venv/bin/python tools/bench_copy.py."
        )
    return (sys.executable, "-m", "manila_backup.cmd.copy")


# --- commands -------------------------------------------------------------------------------------


def _single(*argv: str | Path) -> Command:
    return Command(stages=(tuple(os.fspath(argument) for argument in argv),))


def _cp(task: Task) -> Command:
    return _single("cp", "-a", f"{task.source}/.", task.target)


def _rsync(task: Task) -> Command:
    return _single("rsync", "-aHAX", "--numeric-ids", f"{task.source}/", f"{task.target}/")


def _tar(task: Task) -> Command:
    source, target = os.fspath(task.source), os.fspath(task.target)
    return Command(
        stages=(
            ("tar", "--create", "--format=posix", *_TAR, "-C", source, "-f", "-", "."),
            ("tar", "--extract", "--preserve-permissions", *_TAR, "-C", target, "-f", "-"),
        )
    )


def _fpsync(task: Task) -> Command:
    """At least four jobs for each that may run at once, else a small tree would be one job."""
    files = max(10, min(_FPSYNC_FILES_PER_JOB, task.entries // (4 * task.jobs)))
    amounts = ("-n", str(task.jobs), "-f", str(files))
    places = (f"{task.source}/", f"{task.target}/")
    return _single("fpsync", *amounts, "-t", task.scratch, "-o", _FPSYNC_OPTIONS, *places)


def _floor(threads: int) -> Callable[[Task], Command]:
    def command(task: Task) -> Command:
        return _single(task.floor, "-j", str(threads), task.source, task.target)

    return command


def _ours(environment: Mapping[str, str]) -> Callable[[Task], Command]:
    def command(task: Task) -> Command:
        ours = task.ours
        argv = [*ours.command, "--json", "--no-progress", *ours.parallel()]
        argv += [os.fspath(task.source), os.fspath(task.target)]
        return Command(stages=(tuple(argv),), environment=environment, syncs=True)

    return command


def _ours_backup(task: Task) -> Command:
    """The catalog goes beside the tree, where the tree driver has it too."""
    parallel = task.ours.parallel(processes=2, threads=32)
    catalog = task.target.parent / "catalog"
    return _single(
        sys.executable, _ENGINE, *parallel, "--catalog", catalog, task.source, task.target
    )


def _ours_catalog(task: Task) -> Command:
    parallel = task.ours.parallel(processes=2, threads=32)
    return _single(
        sys.executable, _ENGINE, *parallel, "--catalog", task.catalog, task.source, task.target
    )


def _ours_restore(task: Task) -> Command:
    parallel = task.ours.parallel(processes=2, threads=32)
    catalog = ("--restore", "--catalog", task.catalog)
    return _single(sys.executable, _ENGINE, *parallel, *catalog, task.source, task.target)


CATALOG = Tool(name="catalog", title="the catalog for a restore", command=_ours_catalog, delay_us=0)
"""Runs once and is not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """All tools of a part by name: those that can be chosen, and the ceilings, which always run."""

    tools: Mapping[str, Tool] = field(default_factory=dict)
    ceilings: tuple[Tool, ...] = ()


_PEERS = (
    Tool(name="cp", title="cp -a", command=_cp, needs=("cp",)),
    Tool(name="rsync", title="rsync -aHAX", command=_rsync, needs=("rsync",)),
    Tool(name="tar", title="tar | tar", command=_tar, needs=("tar",)),
)
_FPSYNC_NEEDS = ("fpsync", "fpart", "rsync")
_FLOOR = Tool(name="floor", title="C floor, 1 thread", command=_floor(1))
_OURS = (
    Tool(name="ours", title="manila-backup-copy", command=_ours({})),
    Tool(
        name="ours-python",
        title="manila-backup-copy, pure Python",
        command=_ours({"MANILA_BACKUP_NATIVE": "0"}),
    ),
    Tool(name="ours-backup", title="backup with checksums", command=_ours_backup),
    Tool(
        name="ours-restore",
        title="restore with checksums",
        command=_ours_restore,
        restores=True,
    ),
)


def _fpsync_tool(jobs: int) -> Tool:
    return Tool(
        name="fpsync",
        title=f"fpsync -n {jobs}",
        command=_fpsync,
        needs=_FPSYNC_NEEDS,
        keeps_all=False,
    )


def _named(*tools: Tool) -> Mapping[str, Tool]:
    return {tool.name: tool for tool in tools}


LOCAL_JOBS, LATENCY_JOBS, CEILING_THREADS = 2, 8, 64

LOCAL = Catalogue(
    tools=_named(
        _FLOOR,
        Tool(name="floor-2", title="C floor, 2 threads", command=_floor(2)),
        *_PEERS,
        _fpsync_tool(LOCAL_JOBS),
        *_OURS,
    )
)
LATENCY = Catalogue(
    tools=_named(_FLOOR, *_PEERS, _fpsync_tool(LATENCY_JOBS), *_OURS),
    ceilings=(
        Tool(
            name="ceiling",
            title=f"ceiling: C floor, {CEILING_THREADS} threads",
            command=_floor(CEILING_THREADS),
        ),
        Tool(
            name="ceiling-0",
            title=f"ceiling without delay: C floor, {CEILING_THREADS} threads",
            command=_floor(CEILING_THREADS),
            delay_us=0,
        ),
    ),
)
ALL_NAMES = tuple(LOCAL.tools)
