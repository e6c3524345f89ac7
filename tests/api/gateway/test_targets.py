# SPDX-License-Identifier: Apache-2.0
"""A path means the same to Manila and to us, and a message has one length; or both is refused."""

from __future__ import annotations

import re

import pytest

from manila_backup import exception
from manila_backup.api.gateway import target as targets
from manila_backup.api.gateway.target import Target
from tests.api.gateway.front import Front
from tests.api.gateway.manila_answers import ManilaAnswers, share
from tests.api.gateway.upstream_server import Server
from tests.api.harness import MEMBER, P1

HELD = share(0xABC)["id"]


@pytest.fixture
def answers(manila: Server, front: Front) -> ManilaAnswers:
    found = ManilaAnswers(shares=[share(0xABC)])
    manila.answer = found
    front.hold(HELD)
    return found


ODD = [
    "/v2//shares/{}",
    "//v2/shares/{}",
    "/v2/./shares/{}",
    "/v2/x/../shares/{}",
    "/v2/%2e%2e/v2/shares/{}",
    "/v2/.%2E/v2/shares/{}",
    "/v2/%2e/shares/{}",
    "/v2%2fshares%2f{}",
    "/v2/shares%2F{}",
    "/v2/shares//{}",
    "/v2/shares/{}//",
    "/v2/shares/{}/.",
    "/v2/shares/x/../{}",
    "/v2/shares/{}%00",
    "/v2/shares/{}%0d%0aX-Header:%20x",
    "/v2/share-backups/../shares/{}",
    "/v2/share-backups%2f..%2fshares%2f{}",
    "/v2/share-backups/%2e%2e/shares/{}",
    "/%2e%2e/v2/shares/{}",
]


@pytest.mark.parametrize("line", ODD)
@pytest.mark.parametrize("method", ["DELETE", "GET", "POST"])
def test_a_path_that_can_be_read_in_two_ways_reaches_nobody(
    front: Front, manila: Server, answers: ManilaAnswers, line: str, method: str
) -> None:
    got = front.ask(method, line.format(HELD), [("X-Auth-Token", MEMBER)])
    if line.startswith("//"):
        # The server itself takes this for another host's.
        assert got.status == 400
    else:
        assert got.fault[:2] == (404, "itemNotFound")
    assert manila.seen == []


SAME = [
    "/v2/shares/{}",
    "/v2/shares/{}/",
    "/v2/shares/{}.json",
    "/v2/shares/{}.xml",
    "/v2/%73hares/{}",
    "/%76%32/shares/{}",
    f"/v2/{P1}/shares/{{}}",
    f"/v2/{P1}/%73hares/{{}}.json",
    "/v1/{1}/shares/{0}",
]


@pytest.mark.parametrize("line", SAME)
def test_every_way_to_write_the_path_is_seen_through(
    front: Front, manila: Server, answers: ManilaAnswers, line: str
) -> None:
    got = front.ask("DELETE", line.format(HELD, P1), [("X-Auth-Token", MEMBER)])
    assert got.fault[:2] == (403, "forbidden")
    assert not [seen for seen in manila.seen if seen.method == "DELETE"]


def test_double_encoding_is_not_decoded_twice(
    front: Front, manila: Server, answers: ManilaAnswers
) -> None:
    assert front.ask("DELETE", f"/v2/x%252f..%252fshares/{HELD}").status == 202
    assert manila.lines() == [f"DELETE /v2/x%252f..%252fshares/{HELD}"]


def test_absolute_form_is_refused_by_our_server(front: Front, manila: Server) -> None:
    assert front.ask("GET", "http://other.example.org/v2/types").status == 400
    assert manila.seen == []


# --- under other servers ----------------------------------------------------------------------


def _read(path_info: str, **environ: str) -> Target:
    return targets.read({"PATH_INFO": path_info, "REQUEST_METHOD": "GET", **environ})


def test_absolute_form_brings_its_own_host() -> None:
    found = _read("/v2/types", REQUEST_URI="http://other.example.org:99/v2/types?a=b")
    assert (found.path, found.authority) == ("/v2/types", "other.example.org:99")


@pytest.mark.parametrize("key", ["REQUEST_URI", "RAW_URI"])
def test_the_prefix_that_we_are_mounted_under_is_taken_off(key: str) -> None:
    raw = {key: "/share%20d/api/v2/%73hares/a%3Ab?x"}
    found = _read("/v2/shares/a:b", SCRIPT_NAME="/share d/api", QUERY_STRING="x", **raw)
    assert found.line == "/v2/%73hares/a%3Ab?x"
    assert (found.prefix, found.below) == ("/v2", ("shares", "a:b"))


def test_without_a_copy_of_the_request_line_the_path_is_encoded_again() -> None:
    path_info = "/v2/shares/ä b?#%".encode().decode("latin-1")
    assert _read(path_info).path == "/v2/shares/%C3%A4%20b%3F%23%25"
    # Rewritten on its way to us: what the application is given counts, for Manila too.
    assert _read("/v2/shares/x", REQUEST_URI="/elsewhere/shares/y").path == "/v2/shares/x"
    assert _read("/v2/shares/x", REQUEST_URI="//v2//shares/x").path == "/v2/shares/x"


def test_a_server_that_keeps_encoded_slashes_hides_none() -> None:
    with pytest.raises(exception.NotFound):
        _read("/v2/shares%2Fx", REQUEST_URI="/v2/shares%2fx")
    with pytest.raises(exception.NotFound):
        _read("/v2/a/x", REQUEST_URI="/v2/a%2fx")


@pytest.mark.parametrize(
    "line",
    ["/v2/share-backups", f"/v2/{P1}/share-backups", "/v2/share-backups/", "/v2/share-back%75ps"],
)
def test_ours_never_reaches_manila(front: Front, manila: Server, line: str) -> None:
    pairs = [
        ("X-Auth-Token", MEMBER),
        ("X-OpenStack-Manila-API-Version", "2.90"),
        ("X-OpenStack-Manila-API-Experimental", "true"),
    ]
    got = front.ask("GET", line.replace(P1, P1), pairs)
    assert got.json == {"share_backups": []}
    assert manila.seen == []


@pytest.mark.parametrize(
    "line",
    ["/v2/share-backups.json", "/v2/share-backups/detail.json", f"/v2/{P1}/share-backups.xml"],
)
def test_manila_s_suffixes_do_not_lead_to_manila_s_backups(
    front: Front, manila: Server, line: str
) -> None:
    pairs = [("X-Auth-Token", MEMBER), ("X-OpenStack-Manila-API-Version", "2.90")]
    assert front.ask("GET", line, pairs).status == 404
    assert manila.seen == []


@pytest.mark.parametrize(
    "line", ["/v2/types#x", "/v2/ty\x7fpes", "/v2/t\xffypes", "/v2/types?a\xff"]
)
def test_a_malformed_request_line_is_400(front: Front, manila: Server, line: str) -> None:
    data = f"GET {line} HTTP/1.1\r\nHost: x\r\n\r\n".encode("latin-1")
    assert b" 400 " in front.raw(data).split(b"\r\n")[0]
    assert manila.seen == []


# --- lengths ----------------------------------------------------------------------------------

_SMUGGLED = b"DELETE /v2/types/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


def _statuses(data: bytes) -> list[bytes]:
    return re.findall(rb"HTTP/1\.[01] (\d{3})", data)


def test_two_lengths_are_refused(front: Front, manila: Server) -> None:
    body = b"0\r\n\r\n" + _SMUGGLED
    head = b"POST /v2/types HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % len(body)
    answer = front.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + body)
    assert _statuses(answer)[0] == b"400"
    assert not [seen for seen in manila.seen if seen.method == "POST"]


def test_a_refused_body_is_not_read_as_the_next_request(front: Front, manila: Server) -> None:
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(_SMUGGLED), _SMUGGLED)
    head = b"POST /v2/types HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    for more, status in (
        (b"Content-Length: 3\r\n", b"400"),
        (b"Via: 1.1 manila-backup\r\n", b"502"),
    ):
        good = b"GET /v2/types/good HTTP/1.1\r\nHost: x\r\n\r\n"
        before = len(manila.seen)
        answer = front.raw(head + more + b"\r\n" + body + good)
        assert _statuses(answer) == [status, b"200"]
        assert [seen.line for seen in manila.seen[before:]] == ["/v2/types/good"]


@pytest.mark.parametrize(
    "header",
    [
        b"Content-Length: 5x",
        b"Content-Length: -1",
        b"Content-Length: +5",
        b"Content-Length: 5, 5",
        b"Content-Length: 0x5",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding:\x0bchunked",
    ],
)
def test_lengths_that_are_none_are_refused(front: Front, manila: Server, header: bytes) -> None:
    front.raw(b"POST /v2/types HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n\r\nfirst")
    assert manila.seen == []


def test_what_manila_gets_is_framed_anew(front: Front, manila: Server) -> None:
    """Whatever our server takes for the body, Manila gets one that says its length once."""
    for headers, body in (
        (b"Content-Length: 3\r\nContent-Length: 60\r\n", b"abc" + _SMUGGLED),
        (b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n0\r\n\r\n"),
        (b"Content-Length: 3\r\nX-Y: a\r\n b\r\n", b"abc"),
    ):
        before = len(manila.seen)
        front.raw(b"POST /v2/types HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n" + body)
        for seen in manila.seen[before:]:
            assert seen.line == "/v2/types"
            lengths = [seen.header("Content-Length"), seen.header("Transfer-Encoding")]
            assert lengths.count(None) == 1, lengths


def test_headers_cannot_bring_more_headers(front: Front, manila: Server) -> None:
    raw = b"GET /v2/types HTTP/1.1\r\nHost: x\r\nX-A: a\rX-Evil: b\r\nX_Under: c\r\n\r\n"
    front.raw(raw)
    for seen in manila.seen:
        assert seen.header("X-Evil") is None
        assert seen.header("X-Under") is None
