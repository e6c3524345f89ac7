# SPDX-License-Identifier: Apache-2.0
"""The real driver, failing where a test says so. Imported by workers, as an installed plugin."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from manila_backup import exception
from manila_backup.data.drivers.base import BackupResult, Control, Progress, RestoreResult
from manila_backup.data.drivers.tree import TreeDriver
from manila_backup.types import (
    BackupDescription,
    BackupRef,
    Counters,
    MountedTree,
    RestoreMode,
    StoredBackup,
)
from tests.support.waiting import looks

FAULTS = "MANILA_BACKUP_TEST_FAULTS"
"""Environment variable: the directory in which faults are laid down."""

DRIVER = "faulty"
"""Name of :class:`FaultyDriver` among the plugins."""

FOREVER_S = 3600.0

REPORTS = 20_000
"""How often the fault ``report`` reports."""


def plugin_path(directory: Path) -> str:
    """A PYTHONPATH with which workers find :class:`FaultyDriver` as an installed plugin."""
    info = directory / "manila_backup_node_tests-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: manila-backup-node-tests\nVersion: 1\n")
    entry = f"{DRIVER} = {FaultyDriver.__module__}:{FaultyDriver.__qualname__}"
    (info / "entry_points.txt").write_text(f"[manila_backup.drivers]\n{entry}\n")
    return f"{directory}{os.pathsep}{Path(__file__).parents[3]}"


class FaultyDriver(TreeDriver):
    """Does at its steps what the files in the directory of :data:`FAULTS` say, each once.

    Steps: ``METHOD`` when it is called, ``publish`` before the manifest is made, ``write`` before
    the first change of a restore's target, ``done`` when backup or restore is otherwise over.
    """

    def scan(self) -> Iterator[StoredBackup]:
        _reach("scan", None)
        return super().scan()

    def backup(
        self,
        description: BackupDescription,
        source: MountedTree,
        parent: BackupRef | None,
        control: Control,
    ) -> BackupResult:
        _reach("backup", control)
        result = super().backup(description, source, parent, _watched(control))
        _reach("done", control)
        return result

    def restore(
        self, ref: BackupRef, target: MountedTree, mode: RestoreMode, control: Control
    ) -> RestoreResult:
        _reach("restore", control)
        result = super().restore(ref, target, mode, _watched(control))
        _reach("done", control)
        return result

    def delete(self, ref: BackupRef, control: Control) -> None:
        _reach("delete", control)
        super().delete(ref, control)

    def discard(self, ref: BackupRef, control: Control) -> None:
        _reach("discard", control)
        super().discard(ref, control)


def _watched(control: Control) -> Control:
    def publish() -> None:
        _reach("publish", control)
        control.about_to_publish()

    def write() -> None:
        control.about_to_write()
        _reach("write", control)

    return replace(control, about_to_publish=publish, about_to_write=write)


def _reach(step: str, control: Control | None) -> None:
    fault = Path(os.environ[FAULTS], step)
    try:
        what = fault.read_text()
        fault.unlink()
    except FileNotFoundError:
        return
    _ACTS[what](fault, control)


def _raise(error: Exception) -> None:
    raise error


def _hand_back(fault: Path, control: Control | None) -> None:
    """Tell the test that we are here, then wait for the word to stop."""
    assert control is not None
    _say(fault)
    if any(control.cancelled() for _ in looks(FOREVER_S)):
        raise exception.Cancelled


def _pass(fault: Path, control: Control | None) -> None:
    """Tell the test that we are here, and go on when it says so."""
    _say(fault)
    go = fault.with_suffix(".go")
    assert any(go.exists() for _ in looks(FOREVER_S, first_s=0.005))


def _hang(fault: Path, control: Control | None) -> None:
    _say(fault)
    while True:
        signal.pause()


def _ask(fault: Path, control: Control | None) -> None:
    assert control is not None
    control.about_to_publish()
    raise exception.PermanentError(reason="consent was given")


def _report(fault: Path, control: Control | None) -> None:
    assert control is not None
    for done in range(REPORTS + 1):
        counters = Counters(files=done)
        control.progress(Progress(done=done, total=REPORTS, unit="entries", counters=counters))
    raise exception.PermanentError(reason="all reported")


def _leave_child(fault: Path, control: Control | None) -> None:
    subprocess.Popen(["sleep", "600"])
    os.kill(os.getpid(), signal.SIGKILL)


def _tell_modules(fault: Path, control: Control | None) -> None:
    raise exception.PermanentError(
        reason=" ".join(name for name, module in sys.modules.items() if module)
    )


def _say(fault: Path) -> None:
    with open(fault.with_suffix(".here"), "w", encoding="ascii") as pipe:
        pipe.write(str(os.getpid()))


_ACTS: dict[str, Callable[[Path, Control | None], None]] = {
    "transient": lambda fault, control: _raise(exception.TransientError(reason="it may pass")),
    "permanent": lambda fault, control: _raise(exception.PermanentError(reason="it stays")),
    "crash": lambda fault, control: _raise(RuntimeError("a bug in the driver")),
    "die": lambda fault, control: os.kill(os.getpid(), signal.SIGKILL),
    "ask": _ask,
    "report": _report,
    "leave a child": _leave_child,
    "tell modules": _tell_modules,
    "pass": _pass,
    "wait": _hand_back,
    "hang": _hang,
}
