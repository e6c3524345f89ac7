# SPDX-License-Identifier: Apache-2.0
"""``/share-access-rules``. The service's own rules are never among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from manila_backup.api.local import listing, responses, schemas
from manila_backup.api.local.service import LocalShares, is_visible
from manila_backup.api.local.values import merged_metadata, without_key
from manila_backup.api.request import ApiRequest
from manila_backup.api.route import Route, RouteTable
from manila_backup.policies import shares as policies
from manila_backup.share.local.access import AccessRuleNotFound, visible_rules, with_changed_rule
from manila_backup.share.local.records import LocalAccessRule, LocalShare
from manila_backup.types import AccessLevel

_FILTERS = ("access_type", "access_to", "access_level", "access_key")


class AccessRules:
    """Handlers; the routes are bound methods of one instance."""

    def __init__(self, local: LocalShares) -> None:
        self._local = local

    def index(self, request: ApiRequest) -> dict[str, Any]:
        share = self._local.own(request, request.query["share_id"], policies.ACCESS_GET_ALL)
        shown = [
            view(share, rule)
            for rule in visible_rules(share)
            if listing.has_metadata(request.query, rule.metadata)
        ]
        found = [item for item in shown if listing.matches(request.query, item, _FILTERS)]
        return {"access_list": found}

    def show(self, request: ApiRequest, access_id: str) -> dict[str, Any]:
        share, rule = self._find(request, access_id, policies.ACCESS_GET)
        return {"access": view(share, rule)}

    def update(self, request: ApiRequest, access_id: str) -> dict[str, Any]:
        level = AccessLevel(request.body["update_access"]["access_level"])
        share, rule = self._change(request, access_id, lambda old: replace(old, access_level=level))
        return {"access": view(share, rule)}

    def set_metadata(self, request: ApiRequest, access_id: str) -> dict[str, Any]:
        added = request.body["metadata"]
        _, rule = self._change(
            request,
            access_id,
            lambda old: replace(old, metadata=merged_metadata(old.metadata, added)),
        )
        return {"metadata": rule.metadata}

    def unset_metadata(self, request: ApiRequest, access_id: str, key: str) -> None:
        self._change(
            request, access_id, lambda old: replace(old, metadata=without_key(old.metadata, key))
        )

    def _find(
        self, request: ApiRequest, access_id: str, policy: str
    ) -> tuple[LocalShare, LocalAccessRule]:
        """Reads every share's document.

        :raises AccessRuleNotFound: also for a rule of a share that the caller does not see.
        """
        for share in self._local.store.shares():
            for rule in visible_rules(share):
                if rule.id == access_id and is_visible(request, share):
                    self._local.own(request, share.id, policy)
                    return share, rule
        raise AccessRuleNotFound(access_id=access_id)

    def _change(
        self,
        request: ApiRequest,
        access_id: str,
        change: Callable[[LocalAccessRule], LocalAccessRule],
    ) -> tuple[LocalShare, LocalAccessRule]:
        found, _ = self._find(request, access_id, policies.ACCESS_ALLOW)
        now = self._local.store.now()

        def changed(rule: LocalAccessRule) -> LocalAccessRule:
            return replace(change(rule), updated_at=now)

        share = self._local.store.update(
            found.id, lambda old: with_changed_rule(old, access_id, changed), touch=False
        )
        rule = next(rule for rule in share.access_rules if rule.id == access_id)
        return share, rule

    def routes(self) -> RouteTable:
        return (*self._rules(), *self._metadata())

    def _rules(self) -> RouteTable:
        one = "/share-access-rules/<id:access_id>"
        return (
            Route(
                method="GET",
                path="/share-access-rules",
                handler=self.index,
                policy=policies.ACCESS_GET_ALL,
                query_schema=schemas.ACCESS_QUERY,
                response_schema=responses.ACCESS_LIST_RESPONSE,
                summary="List the access rules of a share",
            ),
            Route(
                method="GET",
                path=one,
                handler=self.show,
                policy=policies.ACCESS_GET,
                response_schema=responses.ACCESS_RESPONSE,
                summary="Show an access rule",
            ),
            Route(
                method="PUT",
                path=one,
                handler=self.update,
                policy=policies.ACCESS_ALLOW,
                body_schema=schemas.UPDATE_ACCESS,
                response_schema=responses.ACCESS_RESPONSE,
                summary="Set the level of an access rule",
            ),
        )

    def _metadata(self) -> RouteTable:
        one = "/share-access-rules/<id:access_id>"
        return (
            Route(
                method="PUT",
                path=f"{one}/metadata",
                handler=self.set_metadata,
                policy=policies.ACCESS_ALLOW,
                body_schema=schemas.SET_METADATA,
                response_schema=responses.METADATA_RESPONSE,
                summary="Add properties to an access rule or change them",
            ),
            Route(
                method="DELETE",
                path=f"{one}/metadata/<id:key>",
                handler=self.unset_metadata,
                policy=policies.ACCESS_ALLOW,
                summary="Remove a property from an access rule",
            ),
        )


def view(share: LocalShare, rule: LocalAccessRule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "share_id": share.id,
        "access_type": rule.access_type,
        "access_to": rule.access_to,
        "access_level": rule.access_level.value,
        "access_key": None,
        "state": rule.state,
        "created_at": rule.created_at,
        "updated_at": rule.updated_at,
        "metadata": rule.metadata,
    }
