# SPDX-License-Identifier: Apache-2.0
"""``/shares``: create, list, show, change, delete, properties."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from manila_backup.api.local import listing, responses, schemas
from manila_backup.api.local.export_locations import location_id
from manila_backup.api.local.service import LocalShares, is_visible
from manila_backup.api.local.values import (
    flag,
    merged_metadata,
    names_in,
    without_key,
)
from manila_backup.api.request import ApiRequest
from manila_backup.api.route import Route, RouteTable
from manila_backup.exception import Forbidden, Invalid, InvalidShare, NotFound, ShareBusy
from manila_backup.policies import shares as policies
from manila_backup.share.local.records import (
    DEFAULT_TYPE_ID,
    DEFAULT_TYPE_NAME,
    LocalShare,
)

AVAILABILITY_ZONE = "nova"

_FILTERS = (
    *("name", "description", "status", "project_id", "user_id", "share_type_id", "share_proto"),
    *("availability_zone", "host", "share_server_id", "share_network_id", "share_group_id"),
    *("snapshot_id", "encryption_key_ref", "is_soft_deleted"),
)
_SORT_ALIASES = {
    "display_name": "name",
    "share_type": "share_type_id",
    "availability_zone_id": "availability_zone",
}


class Shares:
    """Handlers; the routes are bound methods of one instance."""

    def __init__(self, local: LocalShares) -> None:
        self._local = local

    def create(self, request: ApiRequest) -> dict[str, Any]:
        wanted = request.body["share"]
        _refuse_unknown(wanted)
        name, description = names_in(wanted)
        share = LocalShare(
            id=str(uuid.uuid4()),
            project_id=request.context.project_id,
            user_id=request.context.user_id,
            name=name,
            description=description,
            size_gib=int(wanted["size"]),
            created_at=self._local.store.now(),
            is_public=flag(wanted.get("is_public", False)),
            availability_zone=AVAILABILITY_ZONE,
            metadata=dict(wanted.get("metadata") or {}),
        )
        return self._body(request, self._local.store.create(share))

    def show(self, request: ApiRequest, share_id: str) -> dict[str, Any]:
        return self._body(request, self._local.visible(request, share_id))

    def summaries(self, request: ApiRequest) -> dict[str, Any]:
        found, _ = self._found(request)
        return listing.page_body(request, "shares", found, lambda item: summary(request, item))

    def details(self, request: ApiRequest) -> dict[str, Any]:
        found, statuses = self._found(request)
        return listing.page_body(
            request, "shares", found, lambda item: detail(request, item, statuses[item.id])
        )

    def _found(self, request: ApiRequest) -> tuple[list[LocalShare], Mapping[str, str]]:
        """The shares that were asked for in their order, and the statuses that clients see."""
        query = request.query
        candidates = [share for share in self._local.store.shares() if _is_listed(request, share)]
        statuses = self._local.statuses(candidates)

        def value(share: LocalShare, name: str) -> Any:
            return _filterable(share, statuses[share.id])[_SORT_ALIASES.get(name, name)]

        def fits(share: LocalShare) -> bool:
            values = _filterable(share, statuses[share.id])
            return (
                listing.matches(query, values, _FILTERS)
                and listing.has_metadata(query, share.metadata)
                and self._has_location(query, share)
            )

        found = [share for share in candidates if fits(share)]
        return listing.ordered(found, query, value), statuses

    def _has_location(self, query: Mapping[str, Any], share: LocalShare) -> bool:
        path, identity = self._local.store.location(share.id), location_id(share.id)
        return bool(
            query.get("export_location_path", path) == path
            and query.get("export_location_id", identity) == identity
        )

    def update(self, request: ApiRequest, share_id: str) -> dict[str, Any]:
        self._local.own(request, share_id, policies.UPDATE)
        wanted = request.body["share"]

        def change(share: LocalShare) -> LocalShare:
            name, description = names_in(wanted, share.name, share.description)
            is_public = flag(wanted.get("is_public", share.is_public))
            return replace(share, name=name, description=description, is_public=is_public)

        return self._body(request, self._local.store.update(share_id, change))

    def delete(self, request: ApiRequest, share_id: str) -> None:
        share = self._local.own(request, share_id, policies.DELETE)
        remove_share(self._local, share, force=False)

    def metadata(self, request: ApiRequest, share_id: str) -> dict[str, Any]:
        return {"metadata": self._local.visible(request, share_id).metadata}

    def set_metadata(self, request: ApiRequest, share_id: str) -> dict[str, Any]:
        """Add to the properties or change them."""
        self._local.own(request, share_id, policies.UPDATE)
        added = request.body["metadata"]
        share = self._local.store.update(
            share_id, lambda old: replace(old, metadata=merged_metadata(old.metadata, added))
        )
        return {"metadata": share.metadata}

    def replace_metadata(self, request: ApiRequest, share_id: str) -> dict[str, Any]:
        self._local.own(request, share_id, policies.UPDATE)
        wanted = dict(request.body["metadata"])
        share = self._local.store.update(share_id, lambda old: replace(old, metadata=wanted))
        return {"metadata": share.metadata}

    def unset_metadata(self, request: ApiRequest, share_id: str, key: str) -> None:
        self._local.own(request, share_id, policies.UPDATE)
        self._local.store.update(
            share_id, lambda old: replace(old, metadata=without_key(old.metadata, key))
        )

    def _body(self, request: ApiRequest, share: LocalShare) -> dict[str, Any]:
        return {"share": detail(request, share, self._local.statuses([share])[share.id])}

    def routes(self) -> RouteTable:
        return (*self._collection(), *self._member(), *self._metadata())

    def _collection(self) -> RouteTable:
        return (
            Route(
                method="POST",
                path="/shares",
                handler=self.create,
                policy=policies.CREATE,
                body_schema=schemas.CREATE,
                response_schema=responses.SHARE_RESPONSE,
                summary="Create a share",
            ),
            Route(
                method="GET",
                path="/shares",
                handler=self.summaries,
                policy=policies.GET_ALL,
                query_schema=schemas.SHARE_QUERY,
                response_schema=responses.SHARES_RESPONSE,
                summary="List shares",
            ),
            Route(
                method="GET",
                path="/shares/detail",
                handler=self.details,
                policy=policies.GET_ALL,
                query_schema=schemas.SHARE_QUERY,
                response_schema=responses.SHARES_DETAIL_RESPONSE,
                summary="List shares with all that is known of them",
            ),
        )

    def _member(self) -> RouteTable:
        return (
            Route(
                method="GET",
                path="/shares/<id:share_id>",
                handler=self.show,
                policy=policies.GET,
                response_schema=responses.SHARE_RESPONSE,
                summary="Show a share",
            ),
            Route(
                method="PUT",
                path="/shares/<id:share_id>",
                handler=self.update,
                policy=policies.UPDATE,
                body_schema=schemas.UPDATE,
                response_schema=responses.SHARE_RESPONSE,
                summary="Set name, description and visibility of a share",
            ),
            Route(
                method="DELETE",
                path="/shares/<id:share_id>",
                handler=self.delete,
                policy=policies.DELETE,
                status=202,
                summary="Delete a share",
            ),
        )

    def _metadata(self) -> RouteTable:
        path = "/shares/<id:share_id>/metadata"
        return (
            Route(
                method="GET",
                path=path,
                handler=self.metadata,
                policy=policies.GET,
                response_schema=responses.METADATA_RESPONSE,
                summary="Show the properties of a share",
            ),
            Route(
                method="POST",
                path=path,
                handler=self.set_metadata,
                policy=policies.UPDATE,
                body_schema=schemas.SET_METADATA,
                response_schema=responses.METADATA_RESPONSE,
                summary="Add properties to a share or change them",
            ),
            Route(
                method="PUT",
                path=path,
                handler=self.replace_metadata,
                policy=policies.UPDATE,
                body_schema=schemas.SET_METADATA,
                response_schema=responses.METADATA_RESPONSE,
                summary="Replace the properties of a share",
            ),
            Route(
                method="DELETE",
                path=f"{path}/<id:key>",
                handler=self.unset_metadata,
                policy=policies.UPDATE,
                summary="Remove a property from a share",
            ),
        )


def remove_share(local: LocalShares, share: LocalShare, *, force: bool) -> None:
    """Announce the removal and let it be done.

    :raises Forbidden: status, snapshots or a backup operation do not allow it.
    :raises Invalid: a task of the share holds it.
    """
    held = local.held(share)
    if held is not None:
        raise Forbidden(reason=f"Invalid share: its status is {held}.")
    try:
        local.store.begin_delete(share.id, force=force)
    except InvalidShare as exc:
        raise Forbidden(reason=str(exc)) from exc
    except ShareBusy as exc:
        raise Invalid(reason=str(exc)) from exc
    try:
        local.forget_failed_restore(share.id)
    finally:
        local.background(lambda: local.store.finish_delete(share.id))


def _refuse_unknown(wanted: Mapping[str, Any]) -> None:
    if wanted["share_proto"].upper() != "NFS":
        raise Invalid(reason="Shares of this machine have the protocol NFS and no other.")
    kind = wanted.get("share_type") or wanted.get("volume_type")
    if kind not in (None, "", DEFAULT_TYPE_ID, DEFAULT_TYPE_NAME):
        raise NotFound()
    if wanted.get("availability_zone") not in (None, "", AVAILABILITY_ZONE):
        raise NotFound()


def _is_listed(request: ApiRequest, share: LocalShare) -> bool:
    """The project's own shares; public ones of others, and all there are, only if asked for."""
    query = request.query
    if share.project_id == request.context.project_id:
        return True
    if query.get("all_tenants") and request.allows(policies.GET_ALL_PROJECT):
        return True
    return bool(query.get("is_public") and share.is_public and is_visible(request, share))


def _filterable(share: LocalShare, status: str) -> dict[str, Any]:
    """By the names of parameters and sort keys; what no local share has is None."""
    return {
        "id": share.id,
        "name": share.name,
        "description": share.description,
        "status": status,
        "size": share.size_gib,
        "project_id": share.project_id,
        "user_id": share.user_id,
        "share_type_id": share.share_type_id,
        "share_proto": share.share_proto,
        "availability_zone": share.availability_zone,
        "created_at": share.created_at,
        "updated_at": share.updated_at,
        "is_soft_deleted": False,
        **dict.fromkeys(
            ("host", "share_server_id", "share_network_id", "share_network", "share_group_id")
        ),
        **dict.fromkeys(("snapshot_id", "snapshot", "encryption_key_ref")),
    }


def summary(request: ApiRequest, share: LocalShare) -> dict[str, Any]:
    href = f"{request.base_url}/shares/{share.id}"
    links = [{"rel": rel, "href": href} for rel in ("self", "bookmark")]
    return {"id": share.id, "name": share.name, "links": links}


def detail(request: ApiRequest, share: LocalShare, status: str) -> dict[str, Any]:
    return summary(request, share) | {
        "status": status,
        "size": share.size_gib,
        "share_proto": share.share_proto,
        "project_id": share.project_id,
        "user_id": share.user_id,
        "description": share.description,
        "metadata": share.metadata,
        "is_public": share.is_public,
        "task_state": share.task_state,
        "availability_zone": share.availability_zone,
        "created_at": share.created_at,
        "share_type": share.share_type_id,
        "share_type_name": share.share_type_name,
        "snapshot_support": share.snapshot_support,
        "create_share_from_snapshot_support": False,
        "revert_to_snapshot_support": False,
        "mount_snapshot_support": False,
        "access_rules_status": "active",
        "progress": "100%",
        "has_replicas": False,
        "is_soft_deleted": False,
        **dict.fromkeys(
            ("host", "share_network_id", "share_server_id", "share_group_id", "snapshot_id")
        ),
        **dict.fromkeys(("source_share_group_snapshot_member_id", "replication_type")),
        **dict.fromkeys(("scheduled_to_be_deleted_at", "source_backup_id")),
        **dict.fromkeys(("mount_point_name", "encryption_key_ref")),
    }
