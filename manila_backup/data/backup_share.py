# SPDX-License-Identifier: Apache-2.0
"""The backup share as one node reaches it: a fixed export, or a share of the share provider's, to
which access is granted while somebody on this node needs it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from manila_backup.context import service_context
from manila_backup.data.mounts import MountManager
from manila_backup.exception import MountFailed
from manila_backup.share.base import ShareProvider
from manila_backup.types import AccessLevel, Grant, Mount, MountedTree


def mount_name(*, read_only: bool) -> str:
    """Of the mount that all of a process share."""
    return "backup-share-ro" if read_only else "backup-share-rw"


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedShare:
    """A share of the share provider's that holds the backups. ``options`` of mount(8) come after
    the provider's own."""

    share_id: str
    options: tuple[str, ...] = ()


class BackupShare:
    """Shared by threads. It holds nothing: who uses a managed share is counted by shared locks on a
    file beside the mount directory, which the kernel drops when a process dies, and which count the
    manage command in beside the data node.

    :param where: a fixed export, or a managed share.
    :param provider: of the managed share; a fixed export needs none.
    :param address: of this node, to which access is granted.
    """

    def __init__(
        self,
        where: Mount | ManagedShare,
        *,
        provider: ShareProvider | None,
        address: str,
        mounts: MountManager,
    ) -> None:
        self._where = where
        self._provider = provider
        self._address = address
        self._mounts = mounts

    @property
    def share_id(self) -> str | None:
        """Of a managed one."""
        return self._where.share_id if isinstance(self._where, ManagedShare) else None

    def grant(self) -> Grant | None:
        """What a managed one needs on this node."""
        if self.share_id is None:
            return None
        return Grant(share_id=self.share_id, address=self._address, level=AccessLevel.RW, ours=True)

    @contextmanager
    def access(self, granted: Callable[[Grant], None] = lambda grant: None) -> Iterator[Mount]:
        """How to mount it, as long as the block lasts. What was granted is told to ``granted`` and
        stays until :meth:`release`.

        :raises GrantFailed:
        :raises ShareNotFound: the managed share is gone.
        """
        if isinstance(self._where, Mount):
            yield self._where
            return
        if self._provider is None:
            raise ValueError("a managed share needs its provider")
        with self._used():
            share = self._provider.get(service_context(), self._where.share_id)
            granted(self._provider.grant(share, self._address, AccessLevel.RW))
            found = self._provider.mounts(share)[0]
            yield replace(found, options=(*found.options, *self._where.options))

    def release(self) -> None:
        """Take the access away that was granted to this node, unless somebody uses it: then the
        last one does. Idempotent; nothing is done for a fixed export.

        :raises GrantFailed: it may still be there; to be called again.
        """
        grant = self.grant()
        if grant is None or self._provider is None:
            return
        with self._lock_file() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            self._provider.revoke(grant)

    @contextmanager
    def mounted(self, *, read_only: bool) -> Iterator[MountedTree]:
        """For a look at it outside any operation: access, mount, and all of it given back.

        :raises GrantFailed: also when it may still be there in the end.
        :raises MountFailed:
        """
        try:
            with (
                self.access() as mount,
                self._mounts.mounted(
                    mount, mount_name(read_only=read_only), read_only=read_only
                ) as tree,
            ):
                yield tree
        finally:
            self.release()

    @contextmanager
    def _used(self) -> Iterator[None]:
        """Waits while somebody takes the access away."""
        with self._lock_file() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            yield

    @contextmanager
    def _lock_file(self) -> Iterator[int]:
        path = f"{self._mounts.directory}.lock"
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
            fd = os.open(path, flags, 0o600)
        except OSError as error:
            raise MountFailed(export=path, reason=f"no lock file: {error.strerror}") from error
        try:
            yield fd
        finally:
            os.close(fd)
