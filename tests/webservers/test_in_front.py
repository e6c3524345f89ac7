# SPDX-License-Identifier: Apache-2.0
"""The samples with which a web server stands in front of our API, and the API under gunicorn with
its sample: the real client through both."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.acceptance.programs import BIN, OpenStack, run
from tests.acceptance.rest import ADMIN, Rest
from tests.acceptance.waiting import until
from tests.support.children import LASTING
from tests.support.ports import free_port
from tests.webservers.webserver import ETC, WebServer, keeps_connection

pytestmark = [pytest.mark.slow, pytest.mark.acceptance]

CONFIG = """\
[DEFAULT]
share_provider = local
use_bus = false

[database]
connection = sqlite:///{root}/db.sqlite

[local]
shares_directory = {root}/shares
bind_mounts = false

[api]
auth_strategy = noauth

[oslo_middleware]
enable_proxy_headers_parsing = true
"""


@dataclass(frozen=True, kw_only=True)
class Gunicorn:
    port: int
    log: Path


@pytest.fixture(scope="module")
def gunicorn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gunicorn]:
    root = tmp_path_factory.mktemp("gunicorn")
    (root / "shares").mkdir(mode=0o700)
    config = root / "manila-backup.conf"
    config.write_text(CONFIG.format(root=root))
    assert run([BIN / "manila-backup-manage", "--config-file", config, "db", "sync"]).status == 0
    found = Gunicorn(port=free_port(), log=root / "log")
    sample = ETC / "gunicorn" / "gunicorn.conf.py"
    argv = [BIN / "gunicorn", "--config", sample, "--bind", f"127.0.0.1:{found.port}"]
    with found.log.open("wb") as log:
        process = subprocess.Popen(
            [*argv, "manila_backup.wsgi:application"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=root,
            env={**os.environ, "MANILA_BACKUP_CONFIG": str(config), "HOME": str(root)},
        )
    LASTING.add(process.pid)
    try:
        until(lambda: _answers(found.port), "an answer of gunicorn")
        yield found
    finally:
        process.terminate()
        process.wait(60)
        LASTING.discard(process.pid)


def _answers(port: int) -> bool:
    try:
        return Rest(f"http://127.0.0.1:{port}/v2").call("GET", "/share-backups").status == 200
    except OSError:
        return False


@pytest.fixture(scope="module", params=["apache2", "nginx", "haproxy"])
def endpoint(request: pytest.FixtureRequest, gunicorn: Gunicorn) -> Iterator[str]:
    with WebServer(request.param, "manila-backup", ours=gunicorn.port, manila=1) as server:
        url = f"http://127.0.0.1:{server.port}/v2"
        until(lambda: _answers(server.port), "an answer through the web server")
        yield url


def test_the_client_asks_for_a_backup_through_it(endpoint: str) -> None:
    rest, client = Rest(endpoint), OpenStack(endpoint, ADMIN)
    share_id = rest.create_share("behind a web server")
    made = client.json("share backup create", share_id, "--name", endpoint)
    assert made["status"] == "creating"
    shown = client.json("share backup show", endpoint)
    assert (shown["id"], shown["share_id"]) == (made["id"], share_id)


def test_links_lead_to_the_web_server(endpoint: str) -> None:
    versions = Rest(endpoint.removesuffix("/v2")).call("GET", "/").json["versions"]
    links = [link["href"] for version in versions for link in version["links"]]
    assert f"{endpoint}/" in links
    assert all(link.startswith(("http://127.0.0.1:", "http://docs")) for link in links)


def test_what_could_be_read_in_two_ways_is_not_resolved_on_the_way(endpoint: str) -> None:
    for path in ("/types/../share-backups", "/%2e%2e/v2/share-backups", "//share-backups"):
        assert Rest(endpoint).call("GET", path).status in (400, 404)


def test_a_long_token_and_a_long_body_pass(endpoint: str) -> None:
    answer = Rest(endpoint).call("GET", "/share-backups", headers={"X-Padding": "x" * 9000})
    assert answer.status == 200
    body = {"share_backup": {"share_id": "x", "description": "y" * 60000}}
    assert Rest(endpoint).call("POST", "/share-backups", body).status == 400


def test_a_client_that_looks_every_five_seconds_keeps_its_connection(endpoint: str) -> None:
    port = urlsplit(endpoint).port
    assert port is not None
    assert keeps_connection(port, "/v2/share-backups")
