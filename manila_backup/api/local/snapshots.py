# SPDX-License-Identifier: Apache-2.0
"""``/snapshots``."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

from manila_backup.api.local import listing, responses, schemas
from manila_backup.api.local.service import LocalShares
from manila_backup.api.local.values import merged_metadata, names_in, without_key
from manila_backup.api.request import ApiRequest
from manila_backup.api.route import Action, Route, RouteTable
from manila_backup.exception import Invalid, InvalidShare, ShareBusy, ShareSnapshotNotFound
from manila_backup.policies import shares as policies
from manila_backup.share.local.records import LocalSnapshot

_FILTERS = ("name", "description", "status", "share_id", "user_id", "project_id")


class Snapshots:
    """Handlers; the routes are bound methods of one instance."""

    def __init__(self, local: LocalShares) -> None:
        self._local = local

    def create(self, request: ApiRequest) -> dict[str, Any]:
        wanted = request.body["snapshot"]
        share = self._local.own(request, wanted["share_id"], policies.SNAPSHOT_CREATE)
        status = self._local.statuses([share])[share.id]
        if status != "available":
            raise InvalidShare(reason=f"its status is {status}, it must be available.")
        name, description = names_in(wanted)
        snapshot = LocalSnapshot(
            id=str(uuid.uuid4()),
            share_id=share.id,
            project_id=request.context.project_id,
            user_id=request.context.user_id,
            name=name,
            description=description,
            size_gib=share.size_gib,
            created_at=self._local.store.now(),
            share_proto=share.share_proto,
            metadata=dict(wanted.get("metadata") or {}),
        )
        try:
            pending = self._local.snapshots.begin(snapshot)
        except ShareBusy as exc:
            raise Invalid(reason=str(exc)) from exc
        self._local.background(lambda: self._local.snapshots.finish(pending))
        return {"snapshot": detail(request, pending.snapshot)}

    def show(self, request: ApiRequest, snapshot_id: str) -> dict[str, Any]:
        return {"snapshot": detail(request, self._own(request, snapshot_id))}

    def summaries(self, request: ApiRequest) -> dict[str, Any]:
        found = self._found(request)
        return listing.page_body(request, "snapshots", found, lambda item: summary(request, item))

    def details(self, request: ApiRequest) -> dict[str, Any]:
        found = self._found(request)
        return listing.page_body(request, "snapshots", found, lambda item: detail(request, item))

    def _found(self, request: ApiRequest) -> list[LocalSnapshot]:
        query = request.query
        everything = query.get("all_tenants") and request.allows(policies.GET_ALL_PROJECT)
        found = [
            snapshot
            for snapshot in self._local.snapshots.all()
            if (everything or snapshot.project_id == request.context.project_id)
            and listing.matches(query, _filterable(snapshot), _FILTERS)
            and listing.has_metadata(query, snapshot.metadata)
        ]
        return listing.ordered(found, query, lambda item, name: _filterable(item)[name])

    def _own(self, request: ApiRequest, snapshot_id: str) -> LocalSnapshot:
        """:raises ShareSnapshotNotFound: also for one of another project."""
        snapshot = self._local.snapshots.get(snapshot_id)
        context = request.context
        if not (context.is_admin or snapshot.project_id == context.project_id):
            raise ShareSnapshotNotFound(snapshot_id=snapshot_id)
        return snapshot

    def update(self, request: ApiRequest, snapshot_id: str) -> dict[str, Any]:
        self._own(request, snapshot_id)
        wanted = request.body["snapshot"]

        def change(snapshot: LocalSnapshot) -> LocalSnapshot:
            name, description = names_in(wanted, snapshot.name, snapshot.description)
            return replace(snapshot, name=name, description=description)

        return {"snapshot": detail(request, self._local.snapshots.update(snapshot_id, change))}

    def delete(self, request: ApiRequest, snapshot_id: str) -> None:
        self._remove(self._own(request, snapshot_id), force=False)

    def force_delete(self, request: ApiRequest, snapshot_id: str) -> None:
        self._remove(self._own(request, snapshot_id), force=True)

    def _remove(self, snapshot: LocalSnapshot, *, force: bool) -> None:
        self._local.snapshots.begin_delete(snapshot.id, force=force)
        self._local.background(
            lambda: self._local.snapshots.finish_delete(snapshot.share_id, snapshot.id)
        )

    def reset_status(self, request: ApiRequest, snapshot_id: str) -> None:
        self._own(request, snapshot_id)
        status = request.body["status"]

        def change(snapshot: LocalSnapshot) -> LocalSnapshot:
            if snapshot.removing:
                raise Invalid(reason="The snapshot is being removed.")
            return replace(snapshot, status=status)

        self._local.snapshots.update(snapshot_id, change)

    def set_metadata(self, request: ApiRequest, snapshot_id: str) -> dict[str, Any]:
        self._own(request, snapshot_id)
        added = request.body["metadata"]
        snapshot = self._local.snapshots.update(
            snapshot_id, lambda old: replace(old, metadata=merged_metadata(old.metadata, added))
        )
        return {"metadata": snapshot.metadata}

    def unset_metadata(self, request: ApiRequest, snapshot_id: str, key: str) -> None:
        self._own(request, snapshot_id)
        self._local.snapshots.update(
            snapshot_id, lambda old: replace(old, metadata=without_key(old.metadata, key))
        )

    def export_locations(self, request: ApiRequest, snapshot_id: str) -> dict[str, Any]:
        """Snapshots are not exported."""
        self._own(request, snapshot_id)
        return {"share_snapshot_export_locations": []}

    def routes(self) -> RouteTable:
        return (*self._collection(), *self._member(), *self._below())

    def _collection(self) -> RouteTable:
        return (
            Route(
                method="POST",
                path="/snapshots",
                handler=self.create,
                policy=policies.SNAPSHOT_CREATE,
                body_schema=schemas.CREATE_SNAPSHOT,
                status=202,
                response_schema=responses.SNAPSHOT_RESPONSE,
                summary="Take a snapshot",
            ),
            Route(
                method="GET",
                path="/snapshots",
                handler=self.summaries,
                policy=policies.SNAPSHOT_GET_ALL,
                query_schema=schemas.SNAPSHOT_QUERY,
                response_schema=responses.SNAPSHOTS_RESPONSE,
                summary="List snapshots",
            ),
            Route(
                method="GET",
                path="/snapshots/detail",
                handler=self.details,
                policy=policies.SNAPSHOT_GET_ALL,
                query_schema=schemas.SNAPSHOT_QUERY,
                response_schema=responses.SNAPSHOTS_DETAIL_RESPONSE,
                summary="List snapshots with all that is known of them",
            ),
        )

    def _member(self) -> RouteTable:
        one = "/snapshots/<id:snapshot_id>"
        return (
            Route(
                method="GET",
                path=one,
                handler=self.show,
                policy=policies.SNAPSHOT_GET,
                response_schema=responses.SNAPSHOT_RESPONSE,
                summary="Show a snapshot",
            ),
            Route(
                method="PUT",
                path=one,
                handler=self.update,
                policy=policies.SNAPSHOT_UPDATE,
                body_schema=schemas.UPDATE_SNAPSHOT,
                response_schema=responses.SNAPSHOT_RESPONSE,
                summary="Set name and description of a snapshot",
            ),
            Route(
                method="DELETE",
                path=one,
                handler=self.delete,
                policy=policies.SNAPSHOT_DELETE,
                status=202,
                summary="Delete a snapshot",
            ),
            Route(
                method="POST",
                path=f"{one}/action",
                actions=self._actions(),
                summary="Do something with a snapshot",
            ),
        )

    def _actions(self) -> tuple[Action, ...]:
        return (
            Action(
                name="force_delete",
                handler=self.force_delete,
                policy=policies.FORCE_DELETE,
                value_schema=schemas.NOTHING,
                summary="Delete a snapshot whatever its status",
            ),
            Action(
                name="reset_status",
                handler=self.reset_status,
                policy=policies.RESET_STATUS,
                value_schema=schemas.RESET_SNAPSHOT,
                summary="Set the status of a snapshot by hand",
            ),
        )

    def _below(self) -> RouteTable:
        one = "/snapshots/<id:snapshot_id>"
        return (
            Route(
                method="POST",
                path=f"{one}/metadata",
                handler=self.set_metadata,
                policy=policies.SNAPSHOT_UPDATE,
                body_schema=schemas.SET_METADATA,
                response_schema=responses.METADATA_RESPONSE,
                summary="Add properties to a snapshot or change them",
            ),
            Route(
                method="DELETE",
                path=f"{one}/metadata/<id:key>",
                handler=self.unset_metadata,
                policy=policies.SNAPSHOT_UPDATE,
                summary="Remove a property from a snapshot",
            ),
            Route(
                method="GET",
                path=f"{one}/export-locations",
                handler=self.export_locations,
                policy=policies.SNAPSHOT_GET,
                response_schema=responses.SNAPSHOT_EXPORT_LOCATIONS_RESPONSE,
                summary="List the export locations of a snapshot: none",
            ),
        )


def _filterable(snapshot: LocalSnapshot) -> dict[str, Any]:
    return {
        "id": snapshot.id,
        "name": snapshot.name,
        "display_name": snapshot.name,
        "description": snapshot.description,
        "status": snapshot.status,
        "size": snapshot.size_gib,
        "share_id": snapshot.share_id,
        "user_id": snapshot.user_id,
        "project_id": snapshot.project_id,
        "progress": None,
        "created_at": snapshot.created_at,
    }


def summary(request: ApiRequest, snapshot: LocalSnapshot) -> dict[str, Any]:
    href = f"{request.base_url}/snapshots/{snapshot.id}"
    links = [{"rel": rel, "href": href} for rel in ("self", "bookmark")]
    return {"id": snapshot.id, "name": snapshot.name, "links": links}


def detail(request: ApiRequest, snapshot: LocalSnapshot) -> dict[str, Any]:
    return summary(request, snapshot) | {
        "status": snapshot.status,
        "description": snapshot.description,
        "size": snapshot.size_gib,
        "share_size": snapshot.size_gib,
        "share_id": snapshot.share_id,
        "share_proto": snapshot.share_proto,
        "project_id": snapshot.project_id,
        "user_id": snapshot.user_id,
        "created_at": snapshot.created_at,
        "metadata": snapshot.metadata,
    }
