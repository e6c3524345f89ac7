# SPDX-License-Identifier: Apache-2.0
"""Errors of the copy engine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from manila_backup.exception import CopyFailed, PermanentError
from manila_backup.names import printable


class ContentDamaged(PermanentError):
    """Stored content is not what its checksum or entry says. ``path`` is printable."""

    message = "{path}: {what}"


def copy_failed(path: bytes, error: OSError) -> CopyFailed:
    """What the tenant is told of a system error at ``path`` (raw, relative to the root)."""
    number = error.errno or 0
    return CopyFailed(path=printable(path), errno=number, reason=os.strerror(number))


class TargetFailed(Exception):
    """A system error on the target's side. Inside the engine only, where the same error on the
    source's side may mean something else (that a file has vanished)."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


@contextlib.contextmanager
def target_errors() -> Iterator[None]:
    """Raise OSErrors of the block (or, as a decorator, of the function) as TargetFailed."""
    try:
        yield
    except OSError as error:
        raise TargetFailed(error) from error
