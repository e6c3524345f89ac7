# SPDX-License-Identifier: Apache-2.0
"""Without a proxy of ours in front of everything: the site's web server sends what the samples say
to us and the rest to the real Manila, and the client that waits for a restore sees its end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cloud.beside import Beside
from tests.cloud.beside import beside as beside_manila
from tests.cloud.client import Client
from tests.cloud.cloud import Cloud
from tests.cloud.users import DEMO
from tests.webservers.webserver import WebServer

pytestmark = [pytest.mark.full, pytest.mark.acceptance, pytest.mark.root]


@pytest.fixture(scope="module")
def service(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    endpoint = cloud.manila.url.removesuffix("/v2")
    sections = f"\n[gateway]\nmanila_endpoint = {endpoint}\n"
    root = tmp_path_factory.mktemp("split")
    with beside_manila(cloud, root, "split", sections=sections) as found:
        yield found


@pytest.fixture(params=["apache2", "nginx", "haproxy"])
def demo(request: pytest.FixtureRequest, cloud: Cloud, service: Beside) -> Iterator[Client]:
    sample = "manila-backup-path-split"
    ports = {"ours": service.api.port, "manila": cloud.manila.port}
    with WebServer(request.param, sample, **ports) as server:
        yield Client(cloud=cloud, endpoint=f"http://127.0.0.1:{server.port}/v2", user=DEMO)


def test_who_waits_for_a_restore_sees_its_end(cloud: Cloud, service: Beside, demo: Client) -> None:
    share_id = cloud.create_share(DEMO)
    file = cloud.tree(share_id) / "file"
    file.write_bytes(b"first" * 100_000)
    backup_id = demo.json("share backup create", share_id)["id"]
    service.rest(DEMO).until_done(backup_id)

    file.write_bytes(b"second")
    ended = demo.run("share backup restore", backup_id, "--wait")
    assert (ended.status, ended.err) == (0, "")
    assert file.read_bytes() == b"first" * 100_000

    stored = next((service.root / "store").glob(f"*/{backup_id}/*/data/file"))
    stored.write_bytes(b"f!rst" * 100_000)
    ended = demo.run("share backup restore", backup_id, "--wait")
    # The client tells a failure by words only.
    assert "error state" in ended.err, ended.out
    assert demo.json("share show", share_id)["status"] == "backup_restoring_error"
    # Neither of us: what Manila alone answers.
    assert demo.json("share access list", share_id) == []
