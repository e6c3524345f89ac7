# SPDX-License-Identifier: Apache-2.0
"""The ``manila`` share provider: shares of a real Manila."""

from __future__ import annotations

from typing import Any

from manilaclient import exceptions
from oslo_config import cfg
from oslo_utils import uuidutils

from manila_backup.context import RequestContext
from manila_backup.exception import PermanentError, ShareNotFound, TransientError
from manila_backup.share.manila.access import Access
from manila_backup.share.manila.client import ManilaApi
from manila_backup.share.manila.faults import faults, user_faults
from manila_backup.share.manila.marks import Marks
from manila_backup.share.manila.options import GROUP
from manila_backup.types import AccessLevel, Grant, Mount, Share

PROTOCOL = "NFS"


class ManilaShareProvider:
    """Fulfils :class:`~manila_backup.share.base.ShareProvider`.

    :param prefer_admin_exports: export locations that only administrators see come first.
    """

    def __init__(
        self,
        api: ManilaApi,
        *,
        access_timeout_s: float,
        prefer_admin_exports: bool = False,
        mount_options: tuple[str, ...] = (),
    ) -> None:
        self._api = api
        self._marks = Marks(api)
        self._access = Access(api, timeout_s=access_timeout_s)
        self._prefer_admin_exports = prefer_admin_exports
        self._mount_options = mount_options

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> ManilaShareProvider:
        """As the options of group [manila] say; they must be registered.

        :raises ValueError: one is missing; the message names it.
        """
        group = conf[GROUP]
        return cls(
            ManilaApi.from_conf(conf),
            access_timeout_s=group.access_timeout_s,
            prefer_admin_exports=group.prefer_admin_exports,
            mount_options=tuple(group.mount_options),
        )

    def get(self, context: RequestContext, share_id: str) -> Share:
        """With the user's token where the context has one: then Manila decides what he may see.

        Whether there are snapshots the service user asks: those that an administrator took of the
        share are not the user's to see.
        """
        if not uuidutils.is_uuid_like(share_id):
            raise ShareNotFound(share_id=share_id)
        with faults(f"show share {share_id}"):
            found = self._show(context, share_id)
            snapshots = self._api.as_service().share_snapshots.list(
                detailed=False,
                search_opts={"share_id": share_id, "all_tenants": 1, "limit": 1},
            )
        return _share(found, has_snapshots=bool(snapshots))

    def _show(self, context: RequestContext, share_id: str) -> Any:
        token = context.auth_token
        try:
            if not token:
                found = self._api.as_service().shares.get(share_id)
            else:
                with user_faults():
                    return self._api.as_user(token).shares.get(share_id)
        except exceptions.NotFound as exc:
            raise ShareNotFound(share_id=share_id) from exc
        # Nobody but this service comes without a token, except where nobody has any.
        if not (context.is_admin or found.is_public or found.project_id == context.project_id):
            raise ShareNotFound(share_id=share_id)
        return found

    def mark(self, share: Share, operation_id: str, status: str) -> None:
        """``status`` does not matter: Manila has one kind of mark for both."""
        with faults(f"mark share {share.id} for operation {operation_id}"):
            self._marks.mark(share.id, operation_id)

    def unmark(self, share_id: str, operation_id: str) -> None:
        with faults(f"unmark share {share_id} of operation {operation_id}"):
            self._marks.unmark(share_id, operation_id)

    def grant(self, share: Share, address: str, level: AccessLevel) -> Grant:
        _check_protocol(share)
        return self._access.grant(share, address, level)

    def revoke(self, grant: Grant) -> None:
        self._access.revoke(grant)

    def mounts(self, share: Share) -> list[Mount]:
        _check_protocol(share)
        with faults(f"list the export locations of share {share.id}"):
            try:
                found = self._api.as_service().share_export_locations.list(share.id)
            except exceptions.NotFound as exc:
                raise ShareNotFound(share_id=share.id) from exc
        if not found:
            raise TransientError(reason=f"Share {share.id} has no export location.")
        return [
            Mount(proto="nfs", export=location.path, options=self._mount_options)
            for location in sorted(found, key=self._rank)
        ]

    def _rank(self, location: Any) -> tuple[bool, bool]:
        wanted = bool(location.is_admin_only) == self._prefer_admin_exports
        preferred = bool(location.preferred)
        return (
            (not wanted, not preferred)
            if self._prefer_admin_exports
            else (not preferred, not wanted)
        )


def _check_protocol(share: Share) -> None:
    if share.share_proto.upper() != PROTOCOL:
        raise PermanentError(
            reason=f"Share {share.id} has the protocol {share.share_proto}; only {PROTOCOL} is "
            "supported."
        )


def _share(found: Any, *, has_snapshots: bool) -> Share:
    return Share(
        id=found.id,
        project_id=found.project_id,
        name=found.name,
        status=found.status,
        task_state=found.task_state,
        share_proto=found.share_proto,
        size_gib=found.size,
        is_public=bool(found.is_public),
        is_soft_deleted=bool(getattr(found, "is_soft_deleted", False)),
        has_snapshots=has_snapshots,
        has_replicas=bool(found.has_replicas),
        availability_zone=found.availability_zone,
    )
