# SPDX-License-Identifier: Apache-2.0
"""The manila provider over a real Manila, for the conformance suite and its own tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from manilaclient import exceptions
from oslo_config import cfg

from manila_backup import config
from manila_backup.context import RequestContext
from manila_backup.exception import Forbidden
from manila_backup.share.manila.options import GROUP
from manila_backup.share.manila.provider import ManilaShareProvider
from manila_backup.types import AccessLevel
from tests.cloud.cloud import Cloud
from tests.cloud.keystone import Keystone
from tests.cloud.relay import Relay
from tests.cloud.users import ADMIN, ALT_DEMO, DEMO, DOMAIN, PASSWORD, SERVICE, User
from tests.share.harness import Rules

HIDDEN = "******"


def configured(keystone: Keystone, url: str, **options: Any) -> cfg.ConfigOpts:
    """Group [manila] as an operator writes it."""
    conf = config.load([], files=[])
    values = {
        "auth_type": "password",
        "auth_url": keystone.url,
        "username": SERVICE.name,
        "password": PASSWORD,
        "project_name": SERVICE.project,
        "user_domain_id": DOMAIN,
        "project_domain_id": DOMAIN,
        "endpoint_override": url,
        "retries": 1,
        "access_timeout_s": 60,
        **options,
    }
    from keystoneauth1 import loading

    conf.register_opts(loading.get_auth_plugin_conf_options("password"), group=GROUP)
    for name, value in values.items():
        conf.set_override(name, value, group=GROUP)
    return conf


class ManilaHarness:
    """Manila is reached through ``relay``, where requests can be made to fail."""

    takes_snapshots = True

    def __init__(self, cloud: Cloud, relay: Relay, **options: Any) -> None:
        self.cloud = cloud
        self.relay = relay
        self.provider = self.another_provider(**options)
        self.owner = self.context(DEMO)
        self.stranger = self.context(ALT_DEMO)
        self.admin = self.context(ADMIN)

    def another_provider(self, **options: Any) -> ManilaShareProvider:
        """As another process would have it."""
        url = f"http://127.0.0.1:{self.relay.port}/v2"
        return ManilaShareProvider.from_conf(configured(self.cloud.keystone, url, **options))

    def context(self, user: User) -> RequestContext:
        """As the API makes it of a request with this user's token."""
        return RequestContext(
            user_id=self.cloud.keystone.user_id(user),
            project_id=self.cloud.keystone.project_id(user.project),
            roles=list(user.roles),
            auth_token=self.cloud.keystone.token(user),
        )

    # --- the owner's side -------------------------------------------------------------------------

    def create_share(self, *, is_public: bool = False, size_gib: int = 1) -> str:
        share_id = self.cloud.create_share(DEMO, size=size_gib)
        if is_public:  # only an administrator may, unless the policy is changed
            self.cloud.client(ADMIN).shares.update(share_id, is_public=True)
        return share_id

    def remove_share(self, share_id: str) -> None:
        admin = self.cloud.client(ADMIN)
        for lock in self.locks(share_id):
            admin.resource_locks.delete(lock.id)
        admin.shares.force_delete(share_id)
        self.cloud.until(lambda: self._gone(share_id), f"the end of share {share_id}")

    def _gone(self, share_id: str) -> bool:
        try:
            self.cloud.share(share_id)
        except exceptions.NotFound:
            return True
        return False

    def locks(self, resource_id: str) -> list[Any]:
        """All of any project on a share or a rule."""
        wanted = {"resource_id": resource_id, "all_projects": 1}
        return list(self.cloud.client(ADMIN).resource_locks.list(search_opts=wanted))

    def set_busy(self, share_id: str) -> None:
        self.cloud.client(ADMIN).shares.reset_task_state(share_id, "migration_in_progress")

    def take_snapshot(self, share_id: str) -> None:
        snapshots = self.cloud.client(DEMO).share_snapshots
        with refusals():
            snapshot_id = snapshots.create(share_id).id
        self.cloud.until(lambda: snapshots.get(snapshot_id).status == "available", "the snapshot")

    def add_rule(self, share_id: str, address: str, level: AccessLevel) -> str:
        client = self.cloud.client(DEMO)
        with refusals():
            rule_id = str(client.shares.allow(share_id, "ip", address, str(level))["id"])
        self.cloud.until(
            lambda: client.share_access_rules.get(rule_id).state == "active", "the rule"
        )
        return rule_id

    def remove_rule(self, share_id: str, rule_id: str) -> None:
        client = self.cloud.client(DEMO)
        with refusals():
            client.shares.deny(share_id, rule_id)
        self.cloud.until(lambda: rule_id not in self.rules(share_id), "the rule's end")

    def rules(self, share_id: str) -> dict[str, Any]:
        """As an administrator sees them, by id."""
        listed = self.cloud.client(ADMIN).share_access_rules.access_list(share_id)
        return {rule.id: rule for rule in listed}

    def tenant_sees(self, share_id: str) -> Rules:
        listed = self.cloud.client(DEMO).share_access_rules.access_list(share_id)
        return {(rule.access_to, rule.access_level) for rule in listed if rule.access_to != HIDDEN}

    def in_force(self, share_id: str) -> Rules:
        return self.cloud.in_force(share_id)

    def disturbances(self, share_id: str) -> Mapping[str, Callable[[], object]]:
        owner = self.cloud.client(DEMO)
        return {
            "delete": refused(lambda: owner.shares.delete(share_id)),
            "force_delete": refused(lambda: self.cloud.client(ADMIN).shares.force_delete(share_id)),
            "extend": refused(lambda: owner.shares.extend(share_id, 9)),
            "shrink": refused(lambda: owner.shares.shrink(share_id, 1)),
            "snapshot": lambda: self.take_snapshot(share_id),
            "soft_delete": refused(lambda: owner.shares.soft_delete(share_id)),
        }

    def put_away(self) -> None:
        self.relay.away()


@contextmanager
def manila_harness(cloud: Cloud, **options: Any) -> Iterator[ManilaHarness]:
    """A harness of one test's own, with a relay of its own."""
    with Relay(cloud.manila.port) as relay:
        yield ManilaHarness(cloud, relay, **options)


@contextmanager
def refusals() -> Iterator[None]:
    """Manila's, as the conformance suite expects them."""
    try:
        yield
    except exceptions.ClientException as exc:
        raise Forbidden(reason=str(exc)) from exc


def refused(work: Callable[[], object]) -> Callable[[], object]:
    def wrapped() -> object:
        with refusals():
            return work()

    return wrapped
