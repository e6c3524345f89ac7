# SPDX-License-Identifier: Apache-2.0
"""The caller's side of a driver: refs, descriptions and a control that notes what it is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from manila_backup.data.drivers.base import BackupDriver, Control, Progress, RestoreResult
from manila_backup.types import BackupDescription, BackupRef, RestoreMode, StoredBackup
from tests.data.drivers.trees import mounted

REF = BackupRef(
    project_id="4f0c9c6b2d8e4c0f9a5b8e7d6c5b4a39",
    backup_id="7f3d9a52-1c8e-4a6b-9d2f-5e4c3b2a1908",
    epoch=3,
)
NEVER = 1 << 62


def described(ref: BackupRef = REF) -> BackupDescription:
    return BackupDescription(
        ref=ref,
        share_id="3c2b1a09-8f7e-4d6c-b5a4-938271605f4e",
        share_name='Daten \N{SNOWMAN} "quoted"',
        share_proto="NFS",
        size_gib=5,
        user_id="0a1b2c3d4e5f40718293a4b5c6d7e8f9",
        name=None,
        description="before the upgrade\nsecond line",
        availability_zone="nova",
        created_at="2026-11-21T10:11:12.345678Z",
        options={"dummy": "1"},
    )


def other(ref: BackupRef = REF, **changes: object) -> BackupRef:
    return replace(ref, **changes)  # type: ignore[arg-type]


@dataclass
class Watch:
    """A control's callbacks, noted; ``cancel_after`` answers that many questions with no, and
    ``cancel_at_files`` any number until so many files are reported.
    """

    cancel_after: int = NEVER
    cancel_at_files: int = NEVER
    at_publish: Callable[[], None] = lambda: None
    at_write: Callable[[], None] = lambda: None
    asked: int = 0
    published: int = 0
    wrote: int = 0
    progress: list[Progress] = field(default_factory=list)

    @property
    def control(self) -> Control:
        return Control(
            progress=self._progress,
            cancelled=self._cancelled,
            about_to_publish=self._about_to_publish,
            about_to_write=self._about_to_write,
        )

    def _progress(self, progress: Progress) -> None:
        self.progress.append(progress)
        if progress.counters.files >= self.cancel_at_files:
            self.cancel_after = 0

    def _cancelled(self) -> bool:
        self.asked += 1
        return self.asked > self.cancel_after

    def _about_to_publish(self) -> None:
        self.published += 1
        self.at_publish()

    def _about_to_write(self) -> None:
        self.wrote += 1
        self.at_write()


def back_up(
    driver: BackupDriver, source: Path, ref: BackupRef = REF, watch: Watch | None = None
) -> StoredBackup:
    control = (watch or Watch()).control
    source_tree = mounted(source, read_only=True)
    return driver.backup(described(ref), source_tree, None, control).stored


def restore(
    driver: BackupDriver,
    target: Path,
    ref: BackupRef = REF,
    mode: RestoreMode = RestoreMode.EXACT,
    watch: Watch | None = None,
) -> RestoreResult:
    return driver.restore(ref, mounted(target), mode, (watch or Watch()).control)
