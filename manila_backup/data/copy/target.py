# SPDX-License-Identifier: Apache-2.0
"""Making entries below a directory that others may write to at the same time.

Nothing is ever written through an inode that was there before: what is in the way is removed and a
new one made with O_EXCL. Directories that exist are reused; they get their final attributes by
:meth:`Target.finish`, when everything below them is there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from manila_backup.data.catalog.entry import EntryType
from manila_backup.data.copy.attributes import Attributes, Policy, Setter
from manila_backup.data.copy.base import CopyOptions
from manila_backup.data.copy.dirstack import (
    WINDOW,
    DirStack,
    Identity,
    Lock,
    NotTheDirectory,
    OtherMount,
    identity_of,
)
from manila_backup.data.copy.errors import target_errors
from manila_backup.data.copy.remove import Remover
from manila_backup.data.copy.sysio import CREATE_FILE, OPEN_PATH, Files
from manila_backup.data.copy.walk import GONE
from manila_backup.exception import CopyFailed

_TRIES = 3
_CANNOT_MAKE = frozenset(
    {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENAMETOOLONG}
)
_IN_THE_WAY = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY})
_SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID
_CANNOT_LINK = frozenset({errno.EMLINK, errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})

T = TypeVar("T")


class Raced(Exception):
    """Somebody else changes the target at this path; ``error`` is how it showed."""

    def __init__(self, error: OSError | None = None) -> None:
        super().__init__()
        self.error = error or OSError(errno.ESTALE, os.strerror(errno.ESTALE))


class Mounted(Exception):
    """Another mount covers this path of the target; nothing may be written there."""


class CannotLink(Exception):
    """The target cannot have (more) hard links; the entry needs an inode of its own."""


@dataclass(frozen=True, slots=True)
class Held:
    """``losses`` are to be counted; ``left_out`` is what a plain target lacks on purpose;
    ``made`` is the inode of a new symlink or special file.
    """

    losses: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    made: Identity | None = None

    def and_lost(self, loss: str) -> Held:
        return Held((*self.losses, loss), self.left_out, self.made)

    def labels(self) -> tuple[str, ...]:
        """What the catalog records: that the target has it not, for whatever reason."""
        return tuple(dict.fromkeys(self.losses + self.left_out))


@dataclass(frozen=True, slots=True)
class MadeFile:
    fd: int
    identity: Identity

    @property
    def place(self) -> bytes:
        """Where other processes of the operation open it for as long as this one holds it, by
        whatever name it goes by then, or by none."""
        return b"/proc/%d/fd/%d" % (os.getpid(), self.fd)


@dataclass(frozen=True, slots=True)
class MadeDirectory:
    """``identity`` is its inode. ``reused``: it was there before. What ``held`` says of losses is
    not final: see :meth:`Target.dress` and :meth:`Target.finish`."""

    held: Held
    identity: Identity
    reused: bool


class Target:
    """The target tree of one operation, as one worker sees it: not to be shared by threads.

    System errors are raised as :class:`~manila_backup.data.copy.errors.TargetFailed`; all methods
    may also raise :class:`Raced` and :class:`Mounted`.
    """

    def __init__(
        self,
        root_fd: int,
        options: CopyOptions,
        *,
        files: Files,
        cancelled: Callable[[], bool],
        window: int = WINDOW,
    ) -> None:
        self._files = files
        self._root_fd = root_fd
        self._plain = options.plain_target
        self._is_user = os.geteuid() != 0
        policy = Policy(plain=options.plain_target, is_root=os.geteuid() == 0)
        self._setter = Setter(files, policy)
        self._remover = Remover(files=files, cancelled=cancelled)
        self._dirs = DirStack(root_fd, files, lock=Lock.OPEN, window=window)
        self._link_dirs = DirStack(root_fd, files, lock=Lock.PUT_BACK, window=window)

    # --- directories ------------------------------------------------------------------------------

    @target_errors()
    def dress(self, path: bytes, made: MadeDirectory, wanted: Attributes) -> Held:
        """Give a directory that :meth:`bare_directory` made its attributes, and open it up again:
        more is to be put into it. What it loses is known from then on.
        """
        fd = self._enter(path, made.identity)
        losses = self._setter.apply(
            fd, EntryType.DIRECTORY, wanted, is_path=False, strip=made.reused, is_final=False
        )
        losses += self._setter.open_up(fd, wanted)
        return self._held(wanted, tuple(dict.fromkeys(made.held.losses + losses)))

    @target_errors()
    def finish_new(self, path: bytes, made: MadeDirectory, wanted: Attributes) -> Held:
        """The same for one that nothing more is to be put into: :meth:`finish` is done with it."""
        known = made.held.losses
        losses = self.finish(path, made.identity, wanted, known, strip=made.reused)
        return self._held(wanted, known + losses)

    def _make_directory(self, name: bytes, parent_fd: int) -> bool:
        try:
            self._files.mkdir(name, parent_fd)
        except FileExistsError:
            if not stat.S_ISDIR(self._files.lstat(name, parent_fd).st_mode):
                raise
            return True
        return False

    @target_errors()
    def bare_directory(self, path: bytes) -> MadeDirectory:
        """Make it without attributes, or reuse it as it is, but for what would be inherited."""
        reused = not path or self._make(path, self._make_directory)
        fd = self._enter(path)
        losses = self._setter.open_up_reused(fd) if reused else ()
        return MadeDirectory(Held(losses), identity_of(self._files.fstat(fd)), reused)

    @target_errors()
    def finish(
        self,
        path: bytes,
        identity: Identity,
        wanted: Attributes,
        losses: tuple[str, ...] = (),
        *,
        strip: bool = False,
    ) -> tuple[str, ...]:
        """Give the directory its final attributes, if it still is the inode ``identity``. Answers
        what it could not be given besides ``losses``, which are known already. ``strip`` removes
        other attributes first.
        """
        fd = self._enter(path, identity)
        found = self._setter.apply(fd, EntryType.DIRECTORY, wanted, is_path=False, strip=strip)
        # Somebody may have put another directory there and moved this one away.
        name = path.rpartition(b"/")[2]
        if path:
            try:
                info = self._files.lstat(name, self._parent(path))
            except FileNotFoundError as error:
                raise Raced(error) from error
            if identity_of(info) != identity:
                raise Raced
        return tuple(loss for loss in found if loss not in losses)

    def enter(self, path: bytes, identity: Identity | None = None) -> int:
        """The fd of the directory at ``path``, valid until the next call of any method."""
        with target_errors():
            return self._enter(path, identity)

    # --- other entries ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def new_file(self, path: bytes) -> Iterator[MadeFile]:
        """A new empty file, open for writing; whatever goes wrong in the block, it is removed.

        The block ends with :meth:`seal`.
        """
        with target_errors():
            fd = self._make(path, lambda name, dir_fd: self._files.open(name, CREATE_FILE, dir_fd))
        closing = _Closing(self._files, fd)
        identity = None
        try:
            with target_errors():
                identity = identity_of(self._files.fstat(fd))
            yield MadeFile(fd, identity)
            with target_errors():
                # Close tells of writes that failed late (NFS): an error like any other.
                closing.close()
        except BaseException:
            closing.close_quietly()
            self._take_back(path, identity)
            raise

    @target_errors()
    def begin_file(self, path: bytes) -> MadeFile:
        """A new empty file that others go on with: see :meth:`begun_file`. The fd is the caller's,
        to be given to :meth:`end_file` or :meth:`take_back`."""
        fd = self._make(path, lambda name, dir_fd: self._files.open(name, CREATE_FILE, dir_fd))
        try:
            return MadeFile(fd, identity_of(self._files.fstat(fd)))
        except BaseException:
            with contextlib.suppress(OSError):
                self._files.close(fd)
            self._take_back(path, None)
            raise

    @contextlib.contextmanager
    def begun_file(self, place: bytes, inode: Identity) -> Iterator[int]:
        """What :meth:`begin_file` made, open for writing, in whatever process; ``place`` is its
        :attr:`MadeFile.place`.

        :raises Raced: who held it has ended.
        """
        with target_errors():
            fd = self._files.open(place, os.O_WRONLY | os.O_CLOEXEC, self._root_fd)
        closing = _Closing(self._files, fd)
        try:
            with target_errors():
                if identity_of(self._files.fstat(fd)) != inode:
                    raise Raced
            yield fd
            with target_errors():
                closing.close()
        finally:
            closing.close_quietly()

    @target_errors()
    def end_file(self, path: bytes, new: MadeFile) -> None:
        """It is complete: close it. What NFS tells only now goes for all that was written to it:
        then it is removed."""
        try:
            self._files.close(new.fd)
        except OSError:
            self._take_back(path, new.identity)
            raise

    def take_back(self, path: bytes, new: MadeFile) -> None:
        """Close what :meth:`begin_file` made and remove it, if it still is there; never raises
        OSError."""
        with contextlib.suppress(OSError):
            self._files.close(new.fd)
        self._take_back(path, new.identity)

    @target_errors()
    def is_at(self, path: bytes, inode: Identity) -> bool:
        """Whether others have left it at its name."""
        try:
            return identity_of(self._files.lstat(path.rpartition(b"/")[2], self._parent(path))) == (
                inode
            )
        except (FileNotFoundError, Raced, Mounted):
            return False

    def _take_back(self, path: bytes, identity: Identity | None) -> None:
        # The first error is on its way; this one must not hide it.
        with contextlib.suppress(OSError, Raced, Mounted):
            name, parent_fd = path.rpartition(b"/")[2], self._parent(path)
            if identity is None or identity_of(self._files.lstat(name, parent_fd)) == identity:
                self._files.unlink(name, parent_fd)

    @target_errors()
    def seal(self, fd: int, wanted: Attributes, *, size: int | None = None) -> Held:
        """Give the new file its size, if that is not what was written, and its attributes."""
        if size is not None and self._files.fstat(fd).st_size != size:
            # Not if it has it already: xfs would write the whole file back when it is closed.
            self._files.truncate(fd, size)
        losses = self._setter.apply(fd, EntryType.FILE, wanted, is_path=False, strip=False)
        return self._held(wanted, losses)

    @target_errors()
    def symlink(self, path: bytes, link_target: bytes, wanted: Attributes) -> Held:
        return self._special(
            path,
            EntryType.SYMLINK,
            lambda name, dir_fd: self._files.symlink(link_target, name, dir_fd),
            lambda fd: self._files.readlink(fd) == link_target,
            wanted,
        )

    @target_errors()
    def special(self, path: bytes, type_: EntryType, rdev: int, wanted: Attributes) -> Held:
        """A fifo, socket or device; in a plain target it is left out, which is no loss to count."""
        if self._plain:
            return Held(left_out=("special",))
        mode = type_.file_format | 0o600
        return self._special(
            path,
            type_,
            lambda name, dir_fd: self._files.mknod(name, mode, rdev, dir_fd),
            lambda fd: self._files.fstat(fd).st_rdev == rdev,
            wanted,
        )

    def _special(
        self,
        path: bytes,
        type_: EntryType,
        make: Callable[[bytes, int], None],
        is_it: Callable[[int], bool],
        wanted: Attributes,
    ) -> Held:
        """``is_it`` tells what was made from what somebody else put there right afterwards."""
        self._parent(path)  # what fails here is no refusal of the entry's type
        try:
            self._make(path, make)
        except OSError as error:
            if error.errno in _CANNOT_MAKE:
                return Held(("special",))
            raise
        name = path.rpartition(b"/")[2]
        try:
            fd = self._files.open(name, OPEN_PATH, self._parent(path))
        except FileNotFoundError as error:
            raise Raced(error) from error
        try:
            info = self._files.fstat(fd)
            if stat.S_IFMT(info.st_mode) != type_.file_format or not is_it(fd):
                raise Raced
            losses = self._setter.apply(fd, type_, wanted, is_path=True, strip=False)
            return Held(losses, made=identity_of(info))
        finally:
            with contextlib.suppress(OSError):
                self._files.close(fd)

    @target_errors()
    def link(self, path: bytes, first: bytes, identity: Identity) -> bool:
        """Make ``path`` another name of ``first``, which must still be the inode ``identity``;
        False if it is not.

        :raises CannotLink:
        """
        first_name = first.rpartition(b"/")[2]
        if self._is_user:
            # Its directory may have got its final mode since it was entered: to be opened anew.
            self._link_dirs.close()
        try:
            first_fd = self._link_dirs.enter(first.rpartition(b"/")[0])
            if identity_of(self._files.lstat(first_name, first_fd)) != identity:
                return False
            self._make(
                path, lambda name, fd: self._files.link(first_name, first_fd, name, fd), link=True
            )
            parent_fd, name = self._parent(path), path.rpartition(b"/")[2]
            if identity_of(self._files.lstat(name, parent_fd)) == identity:
                return True
            # The first name was swapped right before the link was made.
            self._files.unlink(name, parent_fd)
        except (NotTheDirectory, OtherMount):
            return False
        except OSError as error:
            if error.errno not in GONE:
                raise
        return False

    # --- common -----------------------------------------------------------------------------------

    def _make(self, path: bytes, make: Callable[[bytes, int], T], *, link: bool = False) -> T:
        """Call ``make`` with the name and the parent's fd; what is in the way is removed."""
        name = path.rpartition(b"/")[2]
        for _ in range(_TRIES):
            parent_fd = self._parent(path)
            try:
                return make(name, parent_fd)
            except FileExistsError:
                self._clear(parent_fd, name, path)
            except OSError as error:
                if link and error.errno in _CANNOT_LINK:
                    raise CannotLink from error
                if error.errno in GONE and not link:
                    raise Raced(error) from error
                raise
        raise Raced(OSError(errno.EEXIST, os.strerror(errno.EEXIST)))

    def _parent(self, path: bytes) -> int:
        return self._enter(path.rpartition(b"/")[0])

    def _enter(self, path: bytes, identity: Identity | None = None) -> int:
        try:
            return self._dirs.enter(path, identity)
        except OtherMount:
            raise Mounted from None
        except NotTheDirectory:
            raise Raced from None
        except OSError as error:
            if error.errno in GONE:
                raise Raced(error) from error
            raise

    def _clear(self, parent_fd: int, name: bytes, path: bytes) -> None:
        try:
            self._remover.remove(parent_fd, name, path=path)
        except CopyFailed as error:
            if error.errno in _IN_THE_WAY:
                raise Raced(OSError(error.errno, os.strerror(error.errno))) from error
            raise

    def _held(self, wanted: Attributes, losses: tuple[str, ...]) -> Held:
        left_out = self._plain and wanted.mode & _SPECIAL_BITS
        return Held(losses, ("mode",) if left_out else ())

    def close(self) -> None:
        self._dirs.close()
        self._link_dirs.close()


class _Closing:
    """An fd that is closed once."""

    def __init__(self, files: Files, fd: int) -> None:
        self._files = files
        self._fd = fd

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._files.close(fd)

    def close_quietly(self) -> None:
        with contextlib.suppress(OSError):
            self.close()
