# SPDX-License-Identifier: Apache-2.0
"""What is not ours reaches Manila and comes back as it was sent."""

from __future__ import annotations

import gzip
import http.client
import threading
import time
from collections.abc import Callable, Iterator

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oslo_config import cfg

from tests.api.gateway.front import Front, Got
from tests.api.gateway.upstream_server import Handler, Seen, Server
from tests.support.ports import free_port

MIB = 1024 * 1024

# --- anything -------------------------------------------------------------------------------------

_PATH = st.text("abcXYZ019-._~!$&'()*+,;=:@", min_size=1, max_size=12).filter(
    lambda text: text not in {".", ".."}
)
_ENCODED = (
    st.integers(0x20, 0xFF).filter(lambda code: code not in {0x2F, 0x7F}).map("%{:02x}".format)
)
_SEGMENT = st.lists(st.one_of(_PATH, _ENCODED), min_size=1, max_size=4).map("".join)
_QUERY = st.text("abc=&%+/?;:@!$'()*,-._~[]{}|^`\"<>\\", max_size=40)
_NAME = st.from_regex(r"X-[A-Za-z][A-Za-z0-9-]{0,20}", fullmatch=True).filter(
    lambda name: not name.lower().startswith(("x-forwarded", "x-real-ip", "x-auth"))
)
_VALUE = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f\x85\xa0"),
    max_size=40,
).map(str.strip)
_HEADERS = st.dictionaries(_NAME, _VALUE, max_size=6).filter(
    lambda found: len({name.lower() for name in found}) == len(found)
)
_BODY = st.one_of(st.none(), st.binary(max_size=3000))
_STATUS = st.sampled_from([200, 201, 202, 300, 302, 307, 400, 401, 404, 409, 413, 500, 503, 599])
_REASON = st.from_regex(r"[A-Za-z][A-Za-z ']{0,20}[a-z]", fullmatch=True)


def _as_sent(pairs: object) -> set[tuple[str, str]]:
    return {(name.lower(), value) for name, value in pairs}  # type: ignore[attr-defined]


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"]),
    segments=st.lists(_SEGMENT, min_size=1, max_size=5),
    query=st.one_of(st.none(), _QUERY),
    headers=_HEADERS,
    body=_BODY,
    chunked=st.booleans(),
    status=_STATUS,
    reason=_REASON,
    answered=st.lists(st.tuples(_NAME, _VALUE), max_size=6),
    answer=st.binary(max_size=3000),
    answer_chunked=st.booleans(),
)
def test_anything_passes_unchanged(
    standing_front: Front,
    standing_manila: Server,
    *,
    method: str,
    segments: list[str],
    query: str | None,
    headers: dict[str, str],
    body: bytes | None,
    chunked: bool,
    status: int,
    reason: str,
    answered: list[tuple[str, str]],
    answer: bytes,
    answer_chunked: bool,
) -> None:
    def reply(handler: Handler, seen: Seen) -> None:
        if answer_chunked:
            data = (b"%x\r\n%b\r\n" % (len(answer), answer) if answer else b"") + b"0\r\n\r\n"
            pairs = (*answered, ("Transfer-Encoding", "chunked"))
            handler.reply(status, data, pairs, reason, length=False)
        else:
            handler.reply(status, answer, tuple(answered), reason)

    standing_manila.answer = reply
    line = "/v2/" + "/".join(segments) + ("" if query is None else f"?{query}")
    pieces = None if body is None else iter([body[:7], body[7:]])
    got = standing_front.ask(method, line, headers.items(), pieces if chunked else body)
    seen = standing_manila.seen[-1]
    # An empty query is no query to WSGI, which does not know the question mark alone.
    assert (seen.method, seen.line) == (method, line[:-1] if query == "" else line)
    assert seen.body == (body or b"")
    assert _as_sent(headers.items()) <= _as_sent(seen.headers)
    extra = {name.lower() for name, _ in seen.headers} - {name.lower() for name in headers}
    framing = {"content-length", "transfer-encoding"}
    assert extra - framing == {
        "host", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto",
    }  # fmt: skip
    assert (got.status, got.reason, got.body) == (status, reason, answer)
    for name in {name.lower() for name, _ in answered}:
        assert got.all(name) == [value for key, value in answered if key.lower() == name]


# --- parts of it ----------------------------------------------------------------------------------


def test_duplicates_of_response_headers_stay_apart(front: Front, manila: Server) -> None:
    pairs = (("Set-Cookie", "a=1"), ("Link", "<x>"), ("Set-Cookie", "b=2"))
    manila.answer = lambda handler, seen: handler.reply(200, b"x", pairs)
    assert front.ask("GET", "/v2/types").all("Set-Cookie") == ["a=1", "b=2"]


def test_compressed_bodies_stay_compressed(front: Front, manila: Server) -> None:
    data = gzip.compress(b"x" * 5000)
    manila.answer = lambda handler, seen: handler.reply(200, data, (("Content-Encoding", "gzip"),))
    got = front.ask("GET", "/v2/types", [("Accept-Encoding", "gzip, br")])
    assert manila.seen[-1].header("Accept-Encoding") == "gzip, br"
    assert got.body == data
    assert got.all("Content-Encoding") == ["gzip"]


def test_redirects_are_not_followed(front: Front, manila: Server) -> None:
    location = (("Location", "http://192.0.2.1/elsewhere"),)
    manila.answer = lambda handler, seen: handler.reply(302, b"", location)
    got = front.ask("GET", "/v2/types")
    assert (got.status, got.all("Location")) == (302, ["http://192.0.2.1/elsewhere"])
    assert len(manila.lines()) == 1


@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_a_body(front: Front, manila: Server, status: int) -> None:
    manila.answer = lambda handler, seen: handler.reply(status, length=False)
    got = front.ask("GET", "/v2/types")
    assert (got.status, got.body) == (status, b"")


def test_head_has_the_length_and_no_body(front: Front, manila: Server) -> None:
    def reply(handler: Handler, seen: Seen) -> None:
        handler.reply(200, b"", (("Content-Length", "123"),), length=False)

    manila.answer = reply
    got = front.ask("HEAD", "/v2/types")
    assert manila.seen[-1].method == "HEAD"
    assert (got.status, got.all("Content-Length"), got.body) == (200, ["123"], b"")


def test_hop_by_hop_headers_end_here_in_both_directions(front: Front, manila: Server) -> None:
    mine = ("X-Mine", "only for the next hop")
    manila.answer = lambda handler, seen: handler.reply(
        200, b"x", (("Connection", "X-Mine"), mine, ("Keep-Alive", "timeout=5"), ("X-Other", "1"))
    )
    got = front.ask(
        "GET",
        "/v2/types",
        [
            ("Connection", "X-Mine, Upgrade"),
            mine,
            ("Upgrade", "websocket"),
            ("TE", "trailers"),
            ("Proxy-Authorization", "Basic eA=="),
            ("X-Other", "1"),
        ],
    )
    seen = manila.seen[-1]
    for name in ("X-Mine", "Upgrade", "TE", "Proxy-Authorization", "Connection"):
        assert seen.header(name) is None, name
    assert seen.header("X-Other") == "1"
    assert got.all("X-Mine") == got.all("Keep-Alive") == []
    assert got.all("X-Other") == ["1"]


def test_nothing_is_said_that_the_client_did_not_say(front: Front, manila: Server) -> None:
    front.ask("GET", "/v2/types")
    names = {name.lower() for name, _ in manila.seen[-1].headers}
    assert not names & {"user-agent", "accept-encoding", "accept", "content-type"}


# --- whom it is from ------------------------------------------------------------------------------

FORGED = [
    ("X-Forwarded-For", "203.0.113.9"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "evil.example.org"),
    ("X-Forwarded-Prefix", "/evil"),
    ("Forwarded", "for=203.0.113.9;host=evil.example.org"),
]


def test_host_stays_the_client_s_and_what_is_forwarded_is_ours(
    front: Front, manila: Server
) -> None:
    front.ask("GET", "/v2/types", [("Host", "share.example.org"), *FORGED])
    seen = manila.seen[-1]
    assert seen.header("Host") == "share.example.org"
    assert seen.header("X-Forwarded-For") == "127.0.0.1"
    assert seen.header("X-Forwarded-Proto") == "http"
    assert seen.header("X-Forwarded-Host") == "share.example.org"
    assert seen.header("X-Forwarded-Prefix") is None
    assert seen.header("Forwarded") is None
    assert seen.header("Via") == "1.1 manila-backup"


def test_a_proxy_in_front_is_believed_when_the_options_say_so(
    make_front: Callable[..., Front], manila: Server
) -> None:
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[], default_config_dirs=[])
    from oslo_middleware import http_proxy_to_wsgi

    conf.register_opts(http_proxy_to_wsgi.OPTS, group="oslo_middleware")
    conf.set_override("enable_proxy_headers_parsing", True, group="oslo_middleware")
    make_front(conf).ask("GET", "/v2/types", [("Host", "h.example.org"), *FORGED])
    seen = manila.seen[-1]
    assert seen.header("X-Forwarded-For") == "203.0.113.9, 127.0.0.1"
    assert seen.header("X-Forwarded-Proto") == "https"
    assert seen.header("X-Forwarded-Host") == "evil.example.org"
    assert seen.header("X-Forwarded-Prefix") == "/evil"
    assert seen.header("Forwarded") == "for=203.0.113.9;host=evil.example.org, for=127.0.0.1"


def test_manila_s_own_host_and_path_when_the_options_say_so(
    make_front: Callable[..., Front], manila: Server
) -> None:
    front = make_front(endpoint=f"{manila.url}/share/api", preserve_host=False)
    front.ask("GET", "/v2/types?a=b", [("Host", "share.example.org")])
    seen = manila.seen[-1]
    assert seen.line == "/share/api/v2/types?a=b"
    assert seen.header("Host") == manila.url.removeprefix("http://")
    assert seen.header("X-Forwarded-Host") == "share.example.org"


def test_an_endpoint_that_leads_back_here_is_a_clear_error(
    make_front: Callable[..., Front],
) -> None:
    port = free_port()
    front = make_front(endpoint=f"http://127.0.0.1:{port}", port=port)
    assert front.port == port
    got = front.ask("GET", "/v2/types")
    assert got.fault[:2] == (502, "badGateway")
    assert "manila_endpoint" in got.fault[2]


# --- connections ----------------------------------------------------------------------------------


def test_connections_to_manila_are_used_again(front: Front, manila: Server) -> None:
    for _ in range(5):
        assert front.ask("GET", "/v2/types").status == 200
    # A client may have its answer, and ask again, before the connection has been given back.
    assert len({seen.connection for seen in manila.seen}) <= 2


def test_a_connection_that_manila_has_closed_is_not_used_again(
    front: Front, manila: Server
) -> None:
    def reply(handler: Handler, seen: Seen) -> None:
        handler.reply(200, b"x")
        handler.hang_up()

    manila.answer = reply
    for _ in range(5):
        assert front.ask("GET", "/v2/types").status == 200
    assert len(manila.seen) == 5


def test_many_threads_get_their_own_answers(front: Front, manila: Server) -> None:
    manila.answer = lambda handler, seen: handler.reply(200, seen.line.encode())
    wrong: list[Got] = []

    def ask(number: int) -> None:
        for turn in range(20):
            line = f"/v2/types/{number}-{turn}"
            got = front.ask("GET", line)
            if got.body != line.encode():
                wrong.append(got)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(manila.seen) == 160


def test_a_client_s_connection_lives_on_after_any_answer(front: Front, manila: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=20)
    for path, status in (("/v2/types", 200), ("/v2/%2e%2e/x", 404), ("/v2/types", 200)):
        body = iter([b"some ", b"chunks"])
        connection.request(
            "POST", path, body, {"Transfer-Encoding": "chunked"}, encode_chunked=True
        )
        response = connection.getresponse()
        assert response.status == status
        response.read()
    connection.close()


# --- streaming ------------------------------------------------------------------------------------


def test_parts_arrive_as_they_are_sent(front: Front, manila: Server) -> None:
    """Both with a length and in chunks; nothing waits for a buffer to be full."""
    for chunked in (False, True):
        manila.release.clear()

        def reply(handler: Handler, seen: Seen, chunked: bool = chunked) -> None:
            header = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", "10")
            handler.reply(200, b"", (header,), length=False)
            handler.raw(b"5\r\nfirst\r\n" if chunked else b"first")
            manila.release.wait(20)
            handler.raw(b"5\r\n last\r\n0\r\n\r\n" if chunked else b" last")

        manila.answer = reply
        response = front.send("GET", "/v2/types")
        assert response.read(5) == b"first"
        manila.release.set()
        assert response.read() == b" last"


def test_an_upload_is_passed_on_while_it_comes(front: Front, manila: Server) -> None:
    first = b"x" * 200_000
    arrived = threading.Event()
    inside: list[bytes] = []

    def reply(handler: Handler, seen: Seen) -> None:
        handler.reply(200, seen.body)

    original = Handler.blocks

    def blocks(self: Handler) -> Iterator[bytes]:
        for block in original(self):
            inside.append(block)
            arrived.set()
            yield block

    manila.answer = reply
    Handler.blocks = blocks  # type: ignore[method-assign]
    try:

        def pieces() -> Iterator[bytes]:
            yield first
            # Would never come if the gateway waited for the whole body.
            assert arrived.wait(20)
            yield b" last"

        assert front.ask("POST", "/v2/types", body=pieces()).body == first + b" last"
    finally:
        Handler.blocks = original  # type: ignore[method-assign]
    assert len(inside) > 1


class _Memory:
    """Samples how much the process has grown."""

    def __enter__(self) -> _Memory:
        self._process = psutil.Process()
        self._before = self._process.memory_info().rss
        self.most = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self.most = max(self.most, self._process.memory_info().rss - self._before)

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("chunked", [False, True])
def test_two_hundred_megabytes_in_little_memory(
    front: Front, manila: Server, chunked: bool
) -> None:
    """Both directions. Client, gateway and upstream are all in this process."""
    block = bytes(range(256)) * 4096
    count = 200
    manila.keep_bodies = False

    def reply(handler: Handler, seen: Seen) -> None:
        length = ("Content-Length", str(len(block) * count))
        header = ("Transfer-Encoding", "chunked") if chunked else length
        handler.reply(200, b"", (header,), length=False)
        for _ in range(count):
            handler.raw(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)
        if chunked:
            handler.raw(b"0\r\n\r\n")

    def pieces() -> Iterator[bytes]:
        for _ in range(count):
            yield block

    manila.answer = reply
    with _Memory() as memory:
        sent = [] if chunked else [("Content-Length", str(len(block) * count))]
        connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=60)
        connection.request("POST", "/v2/types", pieces(), dict(sent), encode_chunked=chunked)
        response = connection.getresponse()
        total = 0
        while data := response.read(64 * 1024):
            total += len(data)
        connection.close()
    assert int(manila.seen[-1].body) == total == len(block) * count
    assert memory.most < 48 * MIB


# --- faults ---------------------------------------------------------------------------------------


def test_slow_manila_is_504(make_front: Callable[..., Front], manila: Server) -> None:
    manila.answer = lambda handler, seen: (manila.release.wait(20), None)[1]
    front = make_front(read_timeout_s=0.5)
    began = time.monotonic()
    for method, body in (("GET", None), ("POST", b"{}")):
        got = front.ask(method, "/v2/types", body=body)
        assert got.fault[:2] == (504, "gatewayTimeout")
        assert got.all("X-Openstack-Request-Id")
    assert time.monotonic() - began < 10
    # Once each: a request that Manila may be working on is not sent again.
    assert len(manila.seen) == 2


def test_manila_that_is_not_there_is_503(make_front: Callable[..., Front]) -> None:
    got = make_front(endpoint=f"http://127.0.0.1:{free_port()}").ask("GET", "/v2/types")
    assert got.fault[:2] == (503, "serviceUnavailable")


def test_manila_whose_name_is_unknown_is_503(make_front: Callable[..., Front]) -> None:
    got = make_front(endpoint="http://manila.invalid:1").ask("GET", "/v2/types")
    assert got.fault[:2] == (503, "serviceUnavailable")


@pytest.mark.parametrize("rubbish", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 abc\r\n\r\n"])
def test_manila_that_speaks_no_http_is_502(front: Front, manila: Server, rubbish: bytes) -> None:
    def reply(handler: Handler, seen: Seen) -> None:
        handler.raw(rubbish)
        handler.hang_up()

    manila.answer = reply
    assert front.ask("POST", "/v2/types", body=b"{}").fault[:2] == (502, "badGateway")
    assert len(manila.seen) == 1


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_breaks_off_breaks_off_for_the_client(
    front: Front, manila: Server, chunked: bool
) -> None:
    def reply(handler: Handler, seen: Seen) -> None:
        header = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", "100")
        handler.reply(200, b"", (header,), length=False)
        handler.raw(b"5\r\nfirst\r\n" if chunked else b"first")
        handler.hang_up()

    manila.answer = reply
    response = front.send("GET", "/v2/types")
    assert response.status == 200
    with pytest.raises(http.client.IncompleteRead):
        response.read()


def test_a_body_that_stands_still_breaks_off_for_the_client(
    make_front: Callable[..., Front], manila: Server
) -> None:
    def reply(handler: Handler, seen: Seen) -> None:
        handler.reply(200, b"first", (("Content-Length", "100"),), length=False)
        manila.release.wait(20)

    manila.answer = reply
    response = make_front(read_timeout_s=0.5).send("GET", "/v2/types")
    with pytest.raises(http.client.IncompleteRead):
        response.read()


def test_an_answer_before_the_whole_upload_reaches_the_client(front: Front, manila: Server) -> None:
    """Manila refuses a body that is too long without reading it."""

    def blocks(self: Handler) -> Iterator[bytes]:
        yield b""

    def reply(handler: Handler, seen: Seen) -> None:
        handler.reply(413, b"too long")
        handler.hang_up()

    manila.answer = reply
    original, Handler.blocks = Handler.blocks, blocks  # type: ignore[method-assign]
    try:
        got = front.ask("POST", "/v2/types", body=b"x" * 300_000)
    finally:
        Handler.blocks = original  # type: ignore[method-assign]
    # The kernel may throw the answer away with the connection; then there is none to pass on.
    assert got.status in {413, 502}


def test_a_client_that_breaks_off_does_so_for_manila(front: Front, manila: Server) -> None:
    ended = threading.Event()

    def reply(handler: Handler, seen: Seen) -> None:
        ended.set()

    manila.answer = reply
    front.raw(b"POST /v2/types HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nfirst")
    assert ended.wait(20)
    assert manila.seen[-1].body == b"first"
