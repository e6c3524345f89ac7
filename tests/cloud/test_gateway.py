# SPDX-License-Identifier: Apache-2.0
"""The gateway in front of the real Manila, used by the unmodified client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.programs import compare_trees
from tests.acceptance.rest import Rest
from tests.acceptance.waiting import until
from tests.cloud.beside import Beside
from tests.cloud.beside import beside as beside_manila
from tests.cloud.client import Client
from tests.cloud.cloud import Cloud
from tests.cloud.users import ADMIN, ALT_DEMO, DEMO

pytestmark = [pytest.mark.full, pytest.mark.acceptance, pytest.mark.root]


@pytest.fixture(scope="module")
def service(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    root = tmp_path_factory.mktemp("gateway")
    endpoint = cloud.manila.url.removesuffix("/v2")
    sections = f"\n[gateway]\nmanila_endpoint = {endpoint}\n"
    with beside_manila(cloud, root, "gateway", sections=sections) as found:
        yield found


@pytest.fixture(scope="module")
def endpoint(service: Beside) -> str:
    return f"http://127.0.0.1:{service.api.port}/v2"


@pytest.fixture(scope="module")
def demo(cloud: Cloud, endpoint: str) -> Client:
    return Client(cloud=cloud, endpoint=endpoint, user=DEMO)


def test_a_tenant_s_day(cloud: Cloud, service: Beside, demo: Client) -> None:
    """Share and backup from creation to end, and what happens to the share in between."""
    made = demo.json("share create NFS 2", "--name", "Ablage", "--share-type", "default", "--wait")
    share_id = made["id"]
    assert [row["ID"] for row in demo.json("share list")].count(share_id) == 1
    tree = cloud.tree(share_id)
    (tree / "file").write_bytes(b"first")

    # Queued: nobody but us knows.
    (node,) = service.nodes
    with node.suspended():
        backup_id = demo.json("share backup create", "Ablage", "--name", "b")["id"]
        assert cloud.share(share_id).status == "available"
        assert demo.json("share show", "Ablage")["status"] == "backup_creating"
        listed = demo.json("share list", "--status", "backup_creating")
        assert [row["ID"] for row in listed] == [share_id]
        assert share_id not in [
            row["ID"] for row in demo.json("share list", "--status", "available")
        ]
        assert "HTTP 403" in demo.refused("share delete", "Ablage")
        assert "HTTP 400" in demo.refused("share resize", "Ablage", "3")
        assert "HTTP 400" in demo.refused("share resize", "Ablage", "1")
        assert "HTTP 400" in demo.refused("share snapshot create", "Ablage")
        assert "HTTP 400" in demo.refused("share transfer create", "Ablage")
        assert "HTTP 403" in demo.refused("share delete", "Ablage", "--soft")
        named = service.rest(DEMO).call(
            "POST", f"/shares/{share_id}/metadata", {"metadata": {"team": "blau"}}
        )
        assert named.status == 200

    rest = service.rest(DEMO)
    rest.until_done(backup_id)
    assert demo.json("share show", "Ablage")["status"] == "available"
    assert [row["ID"] for row in demo.json("share backup list")] == [backup_id]
    assert demo.json("share backup show", "b")["status"] == "available"
    demo.quiet("share backup set", "b", "--name", "besser", "--description", "vor dem Umbau")
    assert demo.json("share backup show", "besser")["description"] == "vor dem Umbau"
    demo.quiet("share backup unset", "besser", "--description")
    assert demo.json("share backup show", "besser")["description"] is None
    demo.quiet("share backup set", backup_id, "--name", "b")

    (tree / "file").write_bytes(b"second")
    demo.quiet("share backup restore", "b", "--wait")
    assert (tree / "file").read_bytes() == b"first"

    target = demo.json("share create NFS 2", "--share-type", "default", "--wait")["id"]
    demo.quiet("share backup restore", "b", "--target-share", target, "--wait")
    assert compare_trees(tree, cloud.tree(target)) == []

    demo.quiet("share backup delete", "b", "--wait")
    for found in (share_id, target):
        demo.quiet("share delete", found, "--wait")
    assert not tree.exists()


def test_a_failed_restore_is_told_and_reset(
    cloud: Cloud, service: Beside, demo: Client, endpoint: str
) -> None:
    share_id = cloud.create_share(DEMO)
    (cloud.tree(share_id) / "file").write_bytes(b"first" * 100_000)
    rest = service.rest(DEMO)
    backup_id = rest.available_backup(share_id)
    stored = next((service.root / "store").glob(f"*/{backup_id}/*/data/file"))
    stored.write_bytes(b"f!rst" * 100_000)
    ended = demo.run("share backup restore", backup_id, "--wait")
    # The client has waited for this status; it tells by words only.
    assert "error state" in ended.err, ended.out
    assert demo.json("share show", share_id)["status"] == "backup_restoring_error"
    listed = demo.json("share message list", "--resource-id", backup_id)
    assert len(listed) == 1
    shown = demo.json("share message show", listed[0]["ID"])
    assert shown["resource_id"] == backup_id
    demo.quiet("share message delete", listed[0]["ID"])
    assert demo.json("share message list", "--resource-id", backup_id) == []

    assert "HTTP 403" in demo.refused("share set", share_id, "--status", "available")
    admin = Client(cloud=cloud, endpoint=endpoint, user=ADMIN)
    admin.quiet("share set", share_id, "--status", "available")
    assert demo.json("share show", share_id)["status"] == "available"


def test_another_project_sees_nothing(cloud: Cloud, service: Beside, endpoint: str) -> None:
    share_id = cloud.create_share(DEMO)
    (node,) = service.nodes
    with node.suspended():
        backup_id = service.rest(DEMO).create_backup(share_id)
        other = Client(cloud=cloud, endpoint=endpoint, user=ALT_DEMO)
        listed = other.json("share list", "--status", "backup_creating")
        assert listed == []
        stranger = service.rest(ALT_DEMO)
        for method, path, body in (
            ("GET", f"/shares/{share_id}", None),
            ("DELETE", f"/shares/{share_id}", None),
            ("POST", f"/shares/{share_id}/action", {"extend": {"new_size": 2}}),
            ("POST", "/snapshots", {"snapshot": {"share_id": share_id}}),
        ):
            assert stranger.call(method, path, body).status == 404
    service.rest(DEMO).until_done(backup_id)


def test_quotas_are_set_and_shown_with_manila_s(
    cloud: Cloud, service: Beside, demo: Client
) -> None:
    project = cloud.keystone.project_id("demo")
    admin = service.rest(ADMIN)
    path = f"/quota-sets/{project}"
    answer = admin.call("PUT", path, {"quota_set": {"shares": 49, "backups": 7}})
    assert answer.status == 200, answer.text
    shown = demo.json("share quota show", project)
    assert shown["shares"] == 49
    assert service.rest(DEMO).get(path)["quota_set"]["backups"] == 7
    # Manila's own figure of that name is another's.
    direct = Rest(cloud.manila.url, cloud.keystone.token(ADMIN))
    assert direct.get(path)["quota_set"]["backups"] != 7
    limits = service.rest(DEMO).get("/limits")["limits"]["absolute"]
    assert limits["maxTotalShareBackups"] == 7
    assert limits["maxTotalShares"] == 49
    share_id = cloud.create_share(DEMO)
    used = len(service.rest(DEMO).backups())
    admin.accepted("PUT", path, {"quota_set": {"backups": used}})
    assert "HTTP 413" in demo.refused("share backup create", share_id)
    assert demo.json("share show", share_id)["status"] == "available"
    assert admin.call("DELETE", path).status == 202
    assert service.rest(DEMO).get(path)["quota_set"]["backups"] == 10


def test_the_catalog_leads_to_the_gateway(cloud: Cloud, service: Beside, endpoint: str) -> None:
    """As an operator does it; the provider goes on asking Manila itself."""
    share_id = cloud.create_share(DEMO)
    with cloud.keystone.moved("shared-file-system", endpoint):
        demo = Client(cloud=cloud, endpoint=None, user=DEMO)
        backup = demo.json("share backup create", share_id)
        until(
            lambda: demo.json("share backup show", backup["id"])["status"] == "available",
            "the backup",
            every_s=1,
        )
        demo.quiet("share backup delete", backup["id"], "--wait")


def test_manila_that_is_stopped_is_503_and_comes_back(cloud: Cloud, service: Beside) -> None:
    rest = service.rest(DEMO)
    with cloud.stopped("manila-api"):
        assert rest.call("GET", "/shares").status == 503
        assert rest.call("GET", "/share-backups").status == 200
    assert rest.call("GET", "/shares").status == 200
