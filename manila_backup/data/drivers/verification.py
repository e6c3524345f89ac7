# SPDX-License-Identifier: Apache-2.0
"""Reading a stored backup back. Whatever is wrong with it is an answer, not an error."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice

from manila_backup.data.catalog.errors import CatalogDamaged
from manila_backup.data.catalog.manifest import Manifest
from manila_backup.data.copy.sysio import Files
from manila_backup.data.copy.verify import verify_tree
from manila_backup.data.drivers.base import Control, VerifyResult
from manila_backup.data.drivers.layout import CATALOG, DATA, MANIFEST, failing, label
from manila_backup.data.drivers.meter import Meter
from manila_backup.data.drivers.stored import (
    StoredTree,
    found_epoch,
    opened_catalog,
    opened_data,
    read_manifest,
)
from manila_backup.exception import BackupDamaged, BackupNotStored, CopyFailed
from manila_backup.names import printable
from manila_backup.types import BackupRef, Counters

_PROBLEM_LIMIT = 1000
_MORE = "and more: the rest was not looked at"


def verify_stored(root_fd: int, ref: BackupRef, control: Control, files: Files) -> VerifyResult:
    """Compare manifest, catalog and data with each other; changes nothing.

    :raises Cancelled:
    """
    check = _Check(ref, control, files)
    with closing(check.problems(root_fd)) as found:
        problems = list(islice(found, _PROBLEM_LIMIT + 1))
    if len(problems) > _PROBLEM_LIMIT:
        problems[_PROBLEM_LIMIT - 1 :] = [_MORE]
    return VerifyResult(counters=check.counters, problems=tuple(problems))


class _Check:
    """One verification."""

    def __init__(self, ref: BackupRef, control: Control, files: Files) -> None:
        self._ref = ref
        self._control = control
        self._files = files
        self._meter: Meter | None = None

    @property
    def counters(self) -> Counters:
        """Those of what was read so far."""
        return self._meter.counters if self._meter else Counters()

    def problems(self, root_fd: int) -> Generator[str, None, None]:
        """Each problem as ``manifest.json: what``, ``catalog: what`` or ``path: what``."""
        try:
            with found_epoch(root_fd, self._ref) as epoch_fd:
                manifest = read_manifest(epoch_fd, self._ref)
                yield from self._strangers(epoch_fd)
                yield from self._tree(epoch_fd, manifest)
        except BackupNotStored as error:
            yield f"{MANIFEST}: {error.what}"
        except CatalogDamaged as error:
            yield f"{CATALOG}: {error.what}"
        except BackupDamaged as error:
            yield str(error.what)
        except CopyFailed as error:
            yield f"{error.path}: {error.reason}"

    def _strangers(self, epoch_fd: int) -> Iterator[str]:
        with failing(label(self._ref)):
            listed = os.listdir(epoch_fd)
        for name in sorted(set(listed) - {MANIFEST, CATALOG, DATA}):
            yield f"{label(self._ref)}/{printable(os.fsencode(name))}: not of this backup"

    def _tree(self, epoch_fd: int, manifest: Manifest) -> Iterator[str]:
        with (
            opened_catalog(epoch_fd, self._ref) as catalog_fd,
            opened_data(epoch_fd, self._ref) as data_fd,
        ):
            stored = StoredTree(
                ref=self._ref, manifest=manifest, catalog_fd=catalog_fd, data_fd=data_fd
            )
            stored.check_catalog(self._control.cancelled)
            self._meter = meter = Meter(
                self._control,
                content_bytes=manifest.stored_bytes,
                entries=manifest.catalog.entries,
            )
            with failing(label(self._ref, DATA)):
                yield from verify_tree(
                    stored.entries,
                    data_fd,
                    progress=meter,
                    cancelled=self._control.cancelled,
                    files=self._files,
                )
            meter.finish(meter.counters)
