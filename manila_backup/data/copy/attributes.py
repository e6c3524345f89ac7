# SPDX-License-Identifier: Apache-2.0
"""Metadata of one entry: what they are, reading them from a source, putting them on a target.

The order of putting them on matters: chown first, since it clears setuid bits and capabilities;
attributes while the mode still lets the owner write; the mode; ACLs, which a chmod would change on
NFSv4; the time last. What a file system silently does not keep (times before 1970 on NFSv3, owners
under root squash) is found by looking again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

from manila_backup.data.catalog.codec import TIME_MAX_NS, TIME_MIN_NS
from manila_backup.data.catalog.entry import Entry, EntryType
from manila_backup.data.copy import nfs4_acl
from manila_backup.data.copy.sysio import Files, Place, itself
from manila_backup.names import escape

DEFAULT_ACL = b"system.posix_acl_default"
NFS4_ACL = b"system.nfs4_acl"
ACLS = frozenset({b"system.posix_acl_access", DEFAULT_ACL, NFS4_ACL})

XFS_ACLS = frozenset({b"trusted.SGI_ACL_FILE", b"trusted.SGI_ACL_DEFAULT"})
"""How XFS shows root its ACLs a second time. They are no attributes of their own."""

_STAYS = frozenset({NFS4_ACL, b"security.selinux"}) | XFS_ACLS
"""Every inode has them where they exist; they can be replaced, not removed. Or they are not what
they look like."""

_REFUSED = frozenset(
    {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}
)
_OWNER_REFUSED = _REFUSED | {errno.EDQUOT}
_XATTR_REFUSED = _REFUSED | {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.E2BIG,
    errno.ERANGE,
    errno.ENAMETOOLONG,
    errno.ENODATA,
    errno.EOVERFLOW,
}
_NO_XATTRS = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_UNREADABLE = frozenset({errno.EPERM, errno.EACCES, errno.E2BIG, errno.ERANGE, errno.EINVAL})


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """``mode`` has permission bits only. ``lost``: what could not be read, as losses."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: Mapping[bytes, bytes]
    lost: tuple[str, ...] = ()

    @classmethod
    def of_entry(cls, entry: Entry) -> Attributes:
        return cls(
            mode=entry.mode,
            uid=entry.uid,
            gid=entry.gid,
            mtime_ns=entry.mtime_ns,
            xattrs=entry.xattrs,
        )

    @classmethod
    def of_stat(cls, info: os.stat_result, xattrs: Xattrs) -> Attributes:
        mtime_ns = storable_time(info.st_mtime_ns)
        time_lost = () if mtime_ns == info.st_mtime_ns else ("time",)
        return cls(
            mode=stat.S_IMODE(info.st_mode),
            uid=info.st_uid,
            gid=info.st_gid,
            mtime_ns=mtime_ns,
            xattrs=xattrs.values,
            lost=xattrs.lost + time_lost,
        )


@dataclass(frozen=True, slots=True)
class Xattrs:
    values: Mapping[bytes, bytes]
    lost: tuple[str, ...] = ()


def entry_of(path: bytes, type_: EntryType, info: os.stat_result, wanted: Attributes) -> Entry:
    return Entry(
        path=path,
        type=type_,
        mode=wanted.mode,
        uid=wanted.uid,
        gid=wanted.gid,
        mtime_ns=wanted.mtime_ns,
        ctime_ns=storable_time(info.st_ctime_ns),
        inode=info.st_ino,
        rdev=info.st_rdev,
        xattrs=wanted.xattrs,
    )


def storable_time(time_ns: int) -> int:
    """Some file systems take any 64-bit number of *seconds*, more than the catalog can hold."""
    return min(max(time_ns, TIME_MIN_NS), TIME_MAX_NS)


def loss_of(name: bytes) -> str:
    return "acl" if name in ACLS else f"xattr:{escape(name)}"


def read_xattrs(files: Files, place: Place) -> Xattrs:
    """All that can be read, ACLs included. One that vanishes meanwhile is not there.

    :raises OSError: EIO and the like; what is not supported is just not there.
    """
    try:
        names = files.listxattr(place)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return Xattrs({})
        raise
    values: dict[bytes, bytes] = {}
    lost: list[str] = []
    for name in names:
        if name in XFS_ACLS:
            continue
        try:
            values[name] = files.getxattr(place, name)
        except OSError as error:
            if error.errno in _UNREADABLE:
                lost.append(loss_of(name))
            elif error.errno not in _NO_XATTRS | {errno.ENODATA}:
                raise
    return Xattrs(values, tuple(lost))


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How attributes are put on. ``plain`` leaves out setuid and setgid bits and keeps the owner's
    access, so that a store that belongs to an ordinary user (or to a squashed root) can be read
    back; ``is_root`` is the effective user id's.
    """

    plain: bool
    is_root: bool


class Setter:
    """Puts attributes on entries of one target."""

    def __init__(self, files: Files, policy: Policy) -> None:
        self._files = files
        self._policy = policy

    def apply(
        self,
        fd: int,
        type_: EntryType,
        wanted: Attributes,
        *,
        is_path: bool,
        strip: bool,
        is_final: bool = True,
    ) -> tuple[str, ...]:
        """Make the open entry have them; answers what it could not be given, as losses.

        ``is_path``: the fd is an O_PATH one. ``strip`` removes other attributes first: for entries
        that were there before. ``is_final``: False for a directory that more is to be put into: its
        NFSv4 ACL lets nothing inherit, since a server may never let go of that (Linux 6.1).
        :raises OSError: what is not a mere refusal (EIO, EROFS, ESTALE ...).
        """
        place = itself(fd) if is_path else fd
        lost: dict[str, None] = {}
        before = self._files.fstat(fd)
        if type_ is EntryType.DIRECTORY and not self._policy.is_root:
            # A reused one may have a mode that keeps its owner from setting attributes.
            self._open_to_owner(fd)
        if strip:
            lost |= dict.fromkeys(self._strip(place, wanted))
        self._set_owner(place, before, wanted)
        self._set_xattrs(place, wanted.xattrs, lost, acls=False)
        info = self._files.fstat(fd)
        mode = self._mode(type_, wanted, info)
        if type_ is not EntryType.SYMLINK:
            with refusals(_REFUSED):
                self._files.chmod(place, mode)
            if self._set_acls(place, wanted, lost, is_final=is_final):
                self._chmod_again(fd, place, mode)
                if type_ is EntryType.DIRECTORY and not self._lets_go(place, wanted):
                    lost[loss_of(NFS4_ACL)] = None
        with refusals(_REFUSED | {errno.EOVERFLOW}):
            self._set_time(place, wanted.mtime_ns)
        lost |= dict.fromkeys(self._differences(type_, wanted, mode, self._files.fstat(fd)))
        return tuple(lost)

    def _strip(self, place: Place, wanted: Attributes) -> Iterator[str]:
        try:
            names = self._files.listxattr(place)
        except OSError as error:
            if error.errno in _NO_XATTRS:
                return
            raise
        for name in names:
            if name == NFS4_ACL and name not in wanted.xattrs:
                yield from self._strip_nfs4_acl(place)
            elif name not in wanted.xattrs and name not in _STAYS:
                yield from self._remove(place, name)

    def _remove(self, place: Place, name: bytes) -> Iterator[str]:
        try:
            self._files.removexattr(place, name)
        except OSError as error:
            if error.errno not in _XATTR_REFUSED:
                raise
            if error.errno != errno.ENODATA:
                yield loss_of(name)

    def _strip_nfs4_acl(self, place: Place) -> Iterator[str]:
        """It cannot be removed."""
        before = self._nfs4_acl(place)
        if before is None or nfs4_acl.is_trivial(before):
            return
        try:
            self._files.setxattr(place, NFS4_ACL, nfs4_acl.trivial(before))
        except ValueError:
            pass  # it is something else
        except OSError as error:
            if error.errno not in _XATTR_REFUSED:
                raise
        left = self._nfs4_acl(place)
        if left is not None and not nfs4_acl.is_trivial(left):
            yield loss_of(NFS4_ACL)

    def _inherit_nothing(self, fd: int) -> Iterator[str]:
        """Of a directory's NFSv4 ACL; what else it says stays."""
        before = self._nfs4_acl(fd)
        if before is None or not nfs4_acl.inherits(before):
            return
        try:
            self._files.setxattr(fd, NFS4_ACL, nfs4_acl.without_inheritance(before))
            left = self._nfs4_acl(fd)
            if left is not None and nfs4_acl.inherits(left):
                # Whether this is a loss is seen in the end, when the directory gets its own ACL.
                self._files.setxattr(fd, NFS4_ACL, nfs4_acl.inheriting_little(before))
        except OSError as error:
            if error.errno not in _XATTR_REFUSED:
                raise
            yield loss_of(NFS4_ACL)

    def _nfs4_acl(self, place: Place) -> bytes | None:
        """None: there is none, or it cannot be had."""
        try:
            return self._files.getxattr(place, NFS4_ACL)
        except OSError as error:
            if error.errno not in _XATTR_REFUSED:
                raise
            return None

    def _set_owner(self, place: Place, info: os.stat_result, wanted: Attributes) -> None:
        if (info.st_uid, info.st_gid) == (wanted.uid, wanted.gid):
            return
        try:
            self._files.chown(place, wanted.uid, wanted.gid)
        except OSError as error:
            if error.errno not in _OWNER_REFUSED:
                raise
            with refusals(_OWNER_REFUSED):  # an ordinary user may give to a group of its own
                self._files.chown(place, -1, wanted.gid)

    def _set_xattrs(
        self, place: Place, wanted: Mapping[bytes, bytes], lost: dict[str, None], *, acls: bool
    ) -> bool:
        """Answers whether there were any."""
        chosen = False
        for name, value in wanted.items():
            if (name in ACLS) != acls:
                continue
            chosen = True
            try:
                self._files.setxattr(place, name, value)
            except OSError as error:
                if error.errno not in _XATTR_REFUSED:
                    raise
                if name != NFS4_ACL or not nfs4_acl.is_trivial(value):
                    lost[loss_of(name)] = None
        return chosen

    def _set_acls(
        self, place: Place, wanted: Attributes, lost: dict[str, None], *, is_final: bool
    ) -> bool:
        """Answers whether there were any."""
        acls = wanted.xattrs
        value = acls.get(NFS4_ACL)
        if is_final or value is None or not nfs4_acl.inherits(value):
            return self._set_xattrs(place, acls, lost, acls=True)
        given = {**acls, NFS4_ACL: nfs4_acl.without_inheritance(value)}
        self._set_xattrs(place, given, lost, acls=True)
        if self._nfs4_acl(place) is None:
            # Refused, perhaps without a word if what is left of it is trivial. The catalog is to
            # know now.
            lost[loss_of(NFS4_ACL)] = None
        return True

    def _lets_go(self, place: Place, wanted: Attributes) -> bool:
        """Whether new entries inherit nothing where they are to inherit nothing: a server may take
        an NFSv4 ACL and keep that part of the old one (Linux 6.1)."""
        value = wanted.xattrs.get(NFS4_ACL)
        if value is None or nfs4_acl.inherits(value):
            return True
        found = self._nfs4_acl(place)
        return found is None or not nfs4_acl.inherits(found)

    def _chmod_again(self, fd: int, place: Place, mode: int) -> None:
        """An ACL carries permission bits too, and setting one may clear setgid."""
        if stat.S_IMODE(self._files.fstat(fd).st_mode) != mode:
            with refusals(_REFUSED):
                self._files.chmod(place, mode)

    def _set_time(self, place: Place, mtime_ns: int) -> None:
        # OverflowError: more seconds than this system's time has.
        with contextlib.suppress(OverflowError):
            self._files.utime(place, mtime_ns)

    def _mode(self, type_: EntryType, wanted: Attributes, info: os.stat_result) -> int:
        mode = wanted.mode
        owner_held = info.st_uid == wanted.uid
        if type_ is not EntryType.DIRECTORY:
            # A setuid program must not come to belong to somebody else than it was made for.
            mode &= ~(0 if owner_held else stat.S_ISUID)
            mode &= ~(0 if info.st_gid == wanted.gid else stat.S_ISGID)
        if self._policy.plain:
            mode &= ~(stat.S_ISUID | stat.S_ISGID)
            if not (self._policy.is_root and owner_held):
                mode |= 0o700 if type_ is EntryType.DIRECTORY else 0o400
        return mode

    def _differences(
        self, type_: EntryType, wanted: Attributes, mode: int, info: os.stat_result
    ) -> Iterator[str]:
        if (info.st_uid, info.st_gid) != (wanted.uid, wanted.gid):
            yield "owner"
        if type_ is not EntryType.SYMLINK:
            left_out = stat.S_ISUID | stat.S_ISGID if self._policy.plain else 0
            if stat.S_IMODE(info.st_mode) != wanted.mode & ~left_out:
                yield "mode"
        if info.st_mtime_ns != wanted.mtime_ns:
            yield "time"

    def open_up(self, fd: int, wanted: Attributes) -> tuple[str, ...]:
        """Let a directory be worked in before its final attributes: no ACL that new entries would
        inherit, and access for its owner. Answers what that may cost the entries below.
        """
        return self._open_up(fd, wanted.xattrs.keys() & {DEFAULT_ACL})

    def open_up_reused(self, fd: int) -> tuple[str, ...]:
        """The same for a directory that was there before, whatever attributes it has."""
        try:
            names = set(self._files.listxattr(fd))
        except OSError as error:
            if error.errno not in _NO_XATTRS:
                raise
            names = set()
        return self._open_up(fd, names)

    def _open_up(self, fd: int, names: Set[bytes]) -> tuple[str, ...]:
        lost: list[str] = []
        if DEFAULT_ACL in names:
            lost += self._remove(fd, DEFAULT_ACL)
        if NFS4_ACL in names:
            lost += self._inherit_nothing(fd)
        self._open_to_owner(fd)
        return tuple(lost)

    def _open_to_owner(self, fd: int) -> None:
        mode = stat.S_IMODE(self._files.fstat(fd).st_mode)
        if mode & 0o700 != 0o700:
            with refusals(_REFUSED):
                self._files.chmod(fd, mode | 0o700)


@contextlib.contextmanager
def refusals(numbers: frozenset[int]) -> Iterator[None]:
    """Pass over these errors; what they cost is seen when the result is looked at."""
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise
