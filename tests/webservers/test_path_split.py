# SPDX-License-Identifier: Apache-2.0
"""The samples that split by path, in the real web servers: what goes where, and how."""

from __future__ import annotations

import http.client
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.webservers.recorder import WAIT_S, Recorder, recording
from tests.webservers.webserver import WebServer, keeps_connection

pytestmark = pytest.mark.slow

ID = "5ea2a4c1-0c33-4c06-9d5a-6a6a0c0a8a11"
PROJECT = "3f6f2f0fa0a84b35a2ef4e7c3ea84d1c"

OURS = [
    # The client's first question, and who asks for more.
    ("GET", "/"),
    ("GET", "/v1"),
    ("GET", "/v2"),
    ("GET", "/v2/"),
    ("GET", "/v2/openapi.json"),
    *(
        (method, f"{prefix}{path}")
        for prefix in ("/v2", f"/v2/{PROJECT}")
        for method, path in (
            ("GET", "/share-backups"),
            ("POST", "/share-backups"),
            ("GET", "/share-backups/detail?all_tenants=1&share_id=x"),
            ("GET", f"/share-backups/{ID}"),
            ("PUT", f"/share-backups/{ID}"),
            ("DELETE", f"/share-backups/{ID}"),
            ("POST", f"/share-backups/{ID}/action"),
            ("GET", f"/share-backups/{ID}/operations"),
            ("POST", f"/share-backups/{ID}/restores"),
            ("GET", "/shares"),
            ("GET", "/shares?name=a%2Fb&limit=10"),
            ("GET", "/shares/detail?status=backup_restoring"),
            ("GET", f"/shares/{ID}"),
            ("GET", "/shares/my%20share"),
            ("GET", "/shares/%C3%A9t%C3%A9"),
            ("GET", f"/shares/{ID}.json"),
            ("GET", "/shares.json"),
            ("DELETE", f"/shares/{ID}"),
            ("POST", f"/shares/{ID}/action"),
            ("POST", "/snapshots"),
            ("POST", "/share-group-snapshots"),
            ("POST", f"/share-instances/{ID}/action"),
            ("POST", f"/share_instances/{ID}/action"),
            ("POST", f"/os-share-unmanage/{ID}/unmanage"),
            ("GET", f"/quota-sets/{PROJECT}"),
            ("PUT", f"/quota-sets/{PROJECT}"),
            ("GET", f"/quota-sets/{PROJECT}/defaults"),
            ("GET", f"/quota-sets/{PROJECT}/detail?user_id=x"),
            ("GET", "/limits"),
            ("GET", "/messages"),
            ("GET", f"/messages/{ID}"),
            ("DELETE", f"/messages/{ID}"),
            ("POST", "/share-transfers"),
            ("POST", f"/share-transfers/{ID}/accept"),
        )
    ),
]

MANILAS = [
    ("GET", "/healthcheck"),
    ("GET", "/v3"),
    ("GET", "/shares"),
    ("GET", "/V2/shares"),
    *(
        (method, f"{prefix}{path}")
        for prefix in ("/v2", f"/v2/{PROJECT}")
        for method, path in (
            ("GET", f"/shares/{ID}/export_locations"),
            ("PUT", f"/shares/{ID}/metadata"),
            ("GET", f"/shares/{ID}/instances"),
            ("GET", "/share-access-rules?share_id=x"),
            ("GET", "/snapshots/detail"),
            ("DELETE", f"/snapshots/{ID}"),
            ("GET", "/types"),
            ("GET", "/types?next=/v2/shares"),
            ("GET", "/types?next=//v2/../shares%2F"),
            ("GET", f"/share-groups/{ID}"),
            ("GET", f"/share-instances/{ID}"),
            ("GET", "/scheduler-stats/pools/detail"),
            ("GET", "/share-backups-of-others"),
            ("GET", "/sharesx"),
            ("GET", "/quota-class-sets/default"),
            ("GET", "/availability-zones"),
            ("GET", "/a%20name"),
        )
    ),
]

NOBODYS = [
    # Ours to one that decodes or resolves, Manila's to one that does not, or the other way round.
    "/v2/types/../shares",
    "/v2/types/%2e%2e/shares",
    "/v2/types/%2E%2E/shares",
    "/v2/types/.%2e/shares",
    f"/v2/shares/{ID}/../../types",
    "/v2/share-backups/..",
    "/v2/share-backups/../types",
    "/v2/./shares",
    "/v2/shares/.",
    "/v2//shares",
    "//v2/shares",
    "/v2/shares//detail",
    f"/v2/shares/{ID}//action",
    "/v2%2fshares",
    "/v2%2Fshares",
    "/v2/types%2f..%2fshares",
    f"/v2/shares/{ID}%2Faction",
    "/v2/shares%5c..%5ctypes",
    "/v2/%73hares",
    "/v2/share%2Dbackups",
    "/v2/sh%61res/detail",
    "/%76%32/shares",
    "/v2/shares/%64etail",
    f"/v2/shares/{ID}/a%63tion",
    "/v2/shares%0a",
    "/v2/shares%00",
    "/v2/shares\\..\\types",
    "/../v2/shares",
]


@dataclass(frozen=True, kw_only=True)
class Site:
    program: str
    port: int
    ours: Recorder
    manila: Recorder

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        # http.client means well with some of these paths.
        connection._validate_path = lambda url: None  # type: ignore[attr-defined]
        try:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()

    def forget(self) -> None:
        for side in (self.ours, self.manila):
            side.seen.clear()
            side.piece.clear()
            side.go_on.clear()

    def side(self, name: str) -> Recorder:
        return {"ours": self.ours, "manila": self.manila}[name]


@pytest.fixture(scope="module", params=["apache2", "nginx", "haproxy"])
def running(request: pytest.FixtureRequest) -> Iterator[Site]:
    with ExitStack() as stack:
        ours, manila = (stack.enter_context(recording(name)) for name in ("ours", "manila"))
        server = stack.enter_context(
            WebServer(request.param, "manila-backup-path-split", ours=ours.port, manila=manila.port)
        )
        yield Site(program=request.param, port=server.port, ours=ours, manila=manila)


@pytest.fixture
def site(running: Site) -> Site:
    running.forget()
    return running


@pytest.mark.parametrize(
    ("side", "table"), [("ours", OURS), ("manila", MANILAS)], ids=["ours", "manila"]
)
def test_each_request_goes_to_its_side_as_it_came(
    site: Site, side: str, table: list[tuple[str, str]]
) -> None:
    wrong = []
    for method, path in table:
        answer, _ = site.ask(method, path)
        if (answer.status, answer.headers.get("X-Side")) != (202, side):
            wrong.append((method, path, answer.status, answer.headers.get("X-Side")))
    assert wrong == []
    lines = [seen.line for seen in site.side(side).seen]
    assert lines == [f"{method} {path} HTTP/1.1" for method, path in table]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_what_could_be_read_in_two_ways_goes_nowhere(site: Site, method: str) -> None:
    wrong = []
    for path in NOBODYS:
        answer, _ = site.ask(method, path)
        if answer.status not in (400, 404) or "X-Side" in answer.headers:
            wrong.append((path, answer.status, answer.headers.get("X-Side")))
    assert wrong == []
    assert site.ours.seen == site.manila.seen == []


@pytest.mark.parametrize(
    ("path", "side"), [("/v2/shares", "ours"), ("/v2/types", "manila"), ("/v2/x/../shares", None)]
)
def test_a_whole_url_in_the_request_line_goes_where_its_path_goes(
    site: Site, path: str, side: str | None
) -> None:
    """Or nowhere, but never to the other side."""
    answer, _ = site.ask("GET", f"http://127.0.0.1:{site.port}{path}")
    if answer.status in (400, 404):
        assert site.ours.seen == site.manila.seen == []
    else:
        assert answer.headers["X-Side"] == side


SIDES = pytest.mark.parametrize(
    ("side", "path"), [("ours", "/v2/shares"), ("manila", "/v2/share-networks")]
)


@SIDES
def test_headers_and_bodies_pass(site: Site, side: str, path: str) -> None:
    token, body = "t" * 9000, os.urandom(300_000)
    sent = {
        "Host": "shares.example.org:8786",
        "X-Auth-Token": token,
        "X-OpenStack-Manila-API-Version": "2.85",
        "OpenStack-API-Version": "shared-file-system 2.85",
        "X-OpenStack-Manila-API-Experimental": "true",
        "X-Service-Token": "s",
        "Content-Type": "application/json",
    }
    answer, said = site.ask("POST", path, body=body, headers=sent)
    assert (answer.status, answer.headers.get_all("X-Twice")) == (202, ["one", "two"])
    assert said == b'{"side": "%s", "bytes": 300000}' % side.encode()
    (seen,) = site.side(side).seen
    assert seen.body == body
    for name, value in sent.items():
        assert seen.all(name) == [value]


@SIDES
def test_what_a_client_says_of_itself_does_not_pass(site: Site, side: str, path: str) -> None:
    forged = {
        "X-Forwarded-For": "10.9.8.7",
        "X-Forwarded-Host": "evil.example.org",
        "X-Forwarded-Proto": "gopher",
        "X-Forwarded-Prefix": "/evil",
        "Forwarded": "for=10.9.8.7",
    }
    site.ask("GET", path, headers={**forged, "Host": "shares.example.org"})
    (seen,) = site.side(side).seen
    assert seen.all("X-Forwarded-For") == ["127.0.0.1"]
    assert seen.all("X-Forwarded-Host") == ["shares.example.org"]
    assert seen.all("X-Forwarded-Proto") == ["http"]
    assert seen.all("X-Forwarded-Prefix") == seen.all("Forwarded") == []


@SIDES
def test_an_answer_passes_piece_by_piece(site: Site, side: str, path: str) -> None:
    path = "/v2/shares/stream" if side == "ours" else f"{path}/stream"
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=WAIT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.headers["X-Side"] == side
        # The rest has not been written yet.
        assert answer.read(5) == b"first"
        site.side(side).go_on.set()
        assert answer.read() == b"last"
    finally:
        connection.close()


def test_a_client_that_looks_every_five_seconds_keeps_its_connection(site: Site) -> None:
    """As those with --wait do; with a limit of five seconds it meets the end of its connection."""
    assert keeps_connection(site.port, "/v2/types")


@SIDES
def test_a_body_passes_piece_by_piece(site: Site, side: str, path: str) -> None:
    """Apache passes nothing on before it has 16 KiB."""
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=WAIT_S)
    first = os.urandom(1 << 16)

    def pieces() -> Iterator[bytes]:
        yield first
        assert site.side(side).piece.wait(WAIT_S), "the server waits for the whole body"
        yield b"last"

    chunked = {"Transfer-Encoding": "chunked"}
    try:
        connection.request("POST", path, body=pieces(), encode_chunked=True, headers=chunked)
        assert connection.getresponse().status == 202
    finally:
        connection.close()
    assert site.side(side).seen[0].body == first + b"last"
