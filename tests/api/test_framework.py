# SPDX-License-Identifier: Apache-2.0
"""What holds for every request: versions, methods, bodies, origins, request ids, errors."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from manilaclient.api_versions import MAX_VERSION as CLIENT_MAX
from werkzeug.test import Client, EnvironBuilder, run_wsgi_app

from manila_backup import exception
from manila_backup.api import errors, versions
from manila_backup.api.app import build_app
from manila_backup.api.options import Settings
from manila_backup.api.route import Action, Route
from manila_backup.db.engine import Database
from manila_backup.policies import messages as policies
from manila_backup.wsgi import _Lazy
from tests.api.harness import MEMBER, P1, P2, READER, Api, fault

REQUEST_ID = re.compile(r"req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
V = "X-OpenStack-Manila-API-Version"
BACKUPS = "/v2/share-backups"
EXPERIMENTAL = {"X-OpenStack-Manila-API-Experimental": "true"}


@pytest.fixture(scope="module")
def api(standing: Api) -> Api:
    return standing


# --- versions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "status"), [("/", 300), ("/v2", 200), ("/v2/", 200)])
def test_version_documents_as_clients_discover(api: Api, path: str, status: int) -> None:
    answer = api.client.get(path, headers={"X-Auth-Token": "rubbish"})
    assert answer.status_code == status
    (entry,) = answer.json["versions"]
    assert (entry["id"], entry["status"]) == ("v2.0", "CURRENT")
    assert (entry["min_version"], entry["version"]) == ("2.0", "2.99")
    assert entry["links"] == [{"rel": "self", "href": "http://localhost/v2/"}]


def test_version_range_holds_the_clients_maximum() -> None:
    major, minor = CLIENT_MAX.split(".")
    assert versions.MIN_VERSION <= (int(major), int(minor)) <= versions.MAX_VERSION


@pytest.mark.parametrize(
    ("headers", "version"),
    [
        ({}, "2.0"),
        ({V: "2.80"}, "2.80"),
        ({V: "latest"}, "2.99"),
        ({"OpenStack-API-Version": "shared-file-system 2.91"}, "2.91"),
        ({"OpenStack-API-Version": "compute 2.1, shared-file-system latest"}, "2.99"),
        ({"OpenStack-API-Version": "compute 2.1"}, "2.0"),
        ({"OpenStack-API-Version": "shared-file-system 2.85", V: "2.98"}, "2.85"),
        ({"OpenStack-API-Version": "compute 2.1", V: "2.98"}, "2.98"),
    ],
)
def test_version_negotiation(api: Api, headers: dict[str, str], version: str) -> None:
    answer = api.client.get("/v2/limits", headers=headers)
    assert answer.status_code == 200
    assert answer.headers[V] == version
    assert answer.headers["OpenStack-API-Version"] == f"shared-file-system {version}"
    assert V in answer.headers["Vary"]
    assert "OpenStack-API-Version" in answer.headers["Vary"]


@pytest.mark.parametrize("version", ["1.0", "2.100", "3.0", "9999.9999"])
def test_version_out_of_the_range_is_406_with_upstreams_words(api: Api, version: str) -> None:
    answer = api.client.get("/v2/limits", headers={V: version})
    assert fault(answer) == (
        "notAcceptable",
        406,
        f"Version {version} is not supported by the API. Minimum is 2.0 and maximum is 2.99.",
    )


@pytest.mark.parametrize("version", ["2", "2.x", "02.0", "2.-1", "2.0.1", "x" * 4000, "2.٣", " 2 "])
def test_malformed_version_is_400(api: Api, version: str) -> None:
    answer = api.client.get("/v2/limits", headers={V: version.encode().decode("latin-1")})
    _, code, message = fault(answer)
    assert code == 400
    assert len(message) < 200


@pytest.mark.parametrize("version", ["2.79", "2.0", None])
def test_share_backups_do_not_exist_before_2_80(api: Api, version: str | None) -> None:
    assert fault(api.call("GET", "/share-backups", version=version))[:2] == ("itemNotFound", 404)


@pytest.mark.parametrize("value", [None, "false", "", "1"])
def test_share_backups_do_not_exist_without_the_experimental_header(
    api: Api, value: str | None
) -> None:
    headers = {} if value is None else {"X-OpenStack-Manila-API-Experimental": value}
    answer = api.call("GET", "/share-backups", experimental=False, headers=headers)
    assert fault(answer)[:2] == ("itemNotFound", 404)
    assert "X-OpenStack-Manila-API-Experimental" not in answer.headers


@pytest.mark.parametrize("value", ["true", "True", "TRUE"])
def test_experimental_header_is_echoed(api: Api, value: str) -> None:
    headers = {"X-OpenStack-Manila-API-Experimental": value}
    answer = api.call("GET", "/share-backups", experimental=False, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["X-OpenStack-Manila-API-Experimental"] == "true"


# --- paths and methods ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/v1/shares",
        "/v2/no-such-thing",
        "/v3",
        "/v2/share-backups/x/y",
        "/v2//share-backups",
        "/v2/share-backups/" + "x" * 256,
        "/v2/share-backups/a%00b",
        "/v2/share-backups/a%0Ab",
        "/v2/../../etc/passwd",
    ],
)
def test_unknown_paths_are_404_in_our_format(api: Api, path: str) -> None:
    answer = api.client.get(path, headers={V: "2.99", **EXPERIMENTAL})
    assert fault(answer)[:2] == ("itemNotFound", 404)


def test_ids_that_are_not_utf8_are_404(api: Api) -> None:
    assert fault(api.call("GET", "/share-backups/%ff%fe"))[1] == 404


def test_trailing_slash_makes_no_difference_and_no_redirect(api: Api) -> None:
    assert api.call("GET", "/share-backups/").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PATCH", "/share-backups", "GET, HEAD, POST"),
        ("DELETE", "/share-backups", "GET, HEAD, POST"),
        ("OPTIONS", "/share-backups", "GET, HEAD, POST"),
        ("POST", "/share-backups/x", "DELETE, GET, HEAD, PUT"),
        ("GET", "/share-backups/x/action", "POST"),
        ("HEAD", "/share-backups/x/action", "POST"),
        ("POST", "/messages", "GET, HEAD"),
        ("BREW", "/limits", "GET, HEAD"),
    ],
)
def test_other_methods_are_405_with_allow(api: Api, method: str, path: str, allow: str) -> None:
    answer = api.call(method, path)
    assert answer.status_code == 405
    assert answer.headers["Allow"] == allow
    if method != "HEAD":
        assert fault(answer)[0] == "badMethod"


def test_head_is_get_without_the_body(api: Api) -> None:
    get, head = api.call("GET", "/share-backups"), api.call("HEAD", "/share-backups")
    assert (head.status_code, head.data) == (200, b"")
    assert head.headers["Content-Length"] == get.headers["Content-Length"]


def test_project_in_the_path_must_be_the_callers(api: Api) -> None:
    assert api.call("GET", f"/{P1}/share-backups").status_code == 200
    for path in (f"/{P2}/share-backups", f"/{P2}/limits", "/x/share-backups/detail"):
        assert fault(api.call("GET", path)) == ("badRequest", 400, "Malformed request url")


# --- bodies ---------------------------------------------------------------------------------------


def raw(api: Api, data: bytes, content_type: str | None = "application/json", **more: Any) -> Any:
    headers = {V: "2.99", "X-Auth-Token": MEMBER, **EXPERIMENTAL, **more.pop("headers", {})}
    if "input_stream" not in more:
        more["data"] = data
    return api.client.post(BACKUPS, content_type=content_type, headers=headers, **more)


def test_body_above_the_limit_is_413(make_api: Callable[..., Api]) -> None:
    api = make_api(max_request_body_size_bytes=1024)
    answer = raw(api, b'{"a": "' + b"x" * 1024 + b'"}')
    name, code, message = fault(answer)
    assert (name, code) == ("overLimit", 413)
    assert "1024 bytes" in message
    assert answer.headers["Retry-After"] == "0"


def test_default_limit_is_112_kib(api: Api) -> None:
    limit = 112 * 1024
    assert fault(raw(api, b"{" + b" " * (limit - 1)))[1] == 400
    assert fault(raw(api, b"{" + b" " * limit))[1] == 413


def test_body_of_10_mb_is_not_read(api: Api) -> None:
    class Counting(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            Counting.taken += len(data)
            return data

    stream = Counting(b"x" * 10_000_000)
    answer = raw(api, b"", input_stream=stream)
    assert fault(answer)[1] == 413
    assert Counting.taken == 0


def test_body_without_a_length_is_bounded_too(make_api: Callable[..., Api]) -> None:
    """Chunked transfer: the server decodes, and tells that the stream ends by itself."""
    api = make_api(max_request_body_size_bytes=4096)
    for size, status in ((100_000, 413), (4097, 413), (4096, 400), (100, 400)):
        # Cut at the limit this would be a fine JSON object.
        stream = io.BytesIO(b"{}".ljust(4096) + b"x" * (size - 4096) if size > 4096 else b"x")
        answer = raw(
            api,
            b"",
            input_stream=stream,
            headers={"Transfer-Encoding": "chunked"},
            environ_overrides={"wsgi.input_terminated": True, "CONTENT_LENGTH": ""},
        )
        assert fault(answer)[1] == status
        assert stream.tell() <= 4096 + 1


def test_body_shorter_than_announced_is_400(api: Api) -> None:
    short = {"CONTENT_LENGTH": "50"}
    answer = raw(api, b"", input_stream=io.BytesIO(b"{"), environ_overrides=short)
    assert "fewer bytes" in fault(answer)[2]


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None],
)
def test_only_json_is_taken_for_bodies(api: Api, content_type: str | None) -> None:
    body = json.dumps({"share_backup": {"share_id": api.share()}}).encode()
    before = api.contents()
    assert fault(raw(api, body, content_type))[:2] == ("badMediaType", 415)
    assert api.contents() == before
    assert raw(api, body, "application/json; charset=utf-8").status_code == 202


# --- origins without authentication ---------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8786", "127.0.0.1:8786", "127.9.9.9", "[::1]:8786", "[::1]"],
)
def test_loopback_hosts_are_taken(api: Api, host: str) -> None:
    assert api.client.get("/v2/limits", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "attacker.example.org",
        "localhost.attacker.example.org",
        "127.0.0.1.attacker.example.org",
        "10.0.0.1",
        "127.0.0.1@attacker.example.org",
        "",
        "[::1",
        "localhost:8786:1",
        "localhost localhost",
    ],
)
@pytest.mark.parametrize("path", ["/", "/v2/limits"])
def test_other_hosts_are_refused_because_of_dns_rebinding(api: Api, host: str, path: str) -> None:
    answer = api.client.get(path, environ_overrides={"HTTP_HOST": host})
    assert fault(answer)[:2] == ("forbidden", 403)


def test_hosts_can_be_allowed(make_api: Callable[..., Api]) -> None:
    api = make_api(noauth_hosts=("Backup.example.org", "10.0.0.1"))
    for host in ("backup.example.org", "10.0.0.1:8786", "localhost"):
        assert api.client.get("/v2/limits", headers={"Host": host}).status_code == 200
    assert api.client.get("/v2/limits", headers={"Host": "10.0.0.2"}).status_code == 403
    every = make_api(noauth_hosts=("*",))
    assert every.client.get("/v2/limits", headers={"Host": "10.0.0.2"}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["xn--zzzz--", "a b", "[::1", "\xc3\xa9", "x:y", "a/b", "a@b", "a,b", "x" * 300, "." * 300],
)
def test_malformed_hosts_are_400_where_any_host_is_taken(
    make_api: Callable[..., Api], host: str
) -> None:
    api = make_api(noauth_hosts=("*",))
    for path in ("/", "/v2/limits"):
        answer = run_wsgi_app(
            api.app, EnvironBuilder(path, environ_overrides={"HTTP_HOST": host}).get_environ()
        )
        # Wrongly encoded, but nobody decodes it here.
        expected = ("200", "300") if host == "xn--zzzz--" else ("400",)
        assert answer[1].startswith(expected)


def test_links_are_at_the_host_that_the_client_wrote(api: Api) -> None:
    for host in ("127.0.0.1:8786", "[::1]:8786", "localhost"):
        (entry,) = api.client.get("/", headers={"Host": host}).json["versions"]
        assert entry["links"][0]["href"] == f"http://{host}/v2/"
    mounted = api.client.get("/", environ_overrides={"SCRIPT_NAME": "/share-backup"})
    (entry,) = mounted.json["versions"]
    assert entry["links"][0]["href"] == "http://localhost/share-backup/v2/"


@pytest.mark.parametrize("origin", ["http://attacker.example.org", "null", "http://localhost:8786"])
def test_requests_of_web_pages_are_refused(api: Api, origin: str) -> None:
    assert fault(api.client.get("/v2/limits", headers={"Origin": origin}))[1] == 403


# --- identity without Keystone --------------------------------------------------------------------


def who_is(api: Api, token: str | None) -> tuple[bool, str]:
    """(administrator, project) as the API shows by what it lets one do."""
    headers = {V: "2.99"} | ({} if token is None else {"X-Auth-Token": token})
    admin = api.client.get("/v2/quota-sets/some-project", headers=headers)
    share = api.share(project_id="default")
    body = {"share_backup": {"share_id": share}}
    mine = api.client.post(BACKUPS, json=body, headers=headers | EXPERIMENTAL)
    return admin.status_code == 200, "default" if mine.status_code == 202 else "other"


@pytest.mark.parametrize("token", [None, "", "notused"])
def test_no_token_is_the_administrator_of_the_default_project(api: Api, token: str | None) -> None:
    assert who_is(api, token) == (True, "default")


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("ann:default", (False, "default")),
        ("ann:default:member", (False, "default")),
        ("ann:default:reader", (False, "other")),
        ("ann:p-one:member", (False, "other")),
        ("ann:default:reader,admin", (True, "default")),
        ("ann:default:", (False, "default")),
    ],
)
def test_token_sets_user_project_and_roles(
    api: Api, token: str, expected: tuple[bool, str]
) -> None:
    assert who_is(api, token) == expected


@pytest.mark.parametrize(
    "token", ["ann", "ann:", ":p", "ann:..:member", "ann:a/b:member", "ann:p:a b", "ann:p:,", "::"]
)
def test_malformed_token_is_401(api: Api, token: str) -> None:
    assert fault(api.call("GET", "/limits", who=token))[:2] == ("unauthorized", 401)


def test_unknown_path_does_not_tell_strangers_whether_it_exists(api: Api) -> None:
    assert fault(api.call("GET", "/no-such-thing", who="ann"))[1] == 401


# --- request ids and errors -----------------------------------------------------------------------


def test_every_response_has_a_request_id_of_its_own(api: Api) -> None:
    ids = [
        api.client.get(path).headers["X-Openstack-Request-Id"]
        for path in ("/", "/v2/limits", "/no-such-thing", "/healthcheck")
    ]
    assert all(REQUEST_ID.fullmatch(found) for found in ids)
    assert len(set(ids)) == 4


@pytest.mark.parametrize("path", ["/", "/v2/limits", "/no-such-thing"])
def test_it_has_manilas_name_too(api: Api, path: str) -> None:
    headers = api.client.get(path).headers
    assert headers["X-Compute-Request-Id"] == headers["X-Openstack-Request-Id"]


def test_incoming_request_id_is_the_global_one(make_api: Callable[..., Api]) -> None:
    seen: list[Any] = []

    def remember(request: Any) -> dict[str, Any]:
        seen.append(request.context)
        return {}

    api = make_api()
    app = _app_with(api, Route(method="GET", path="/x", handler=remember, policy=policies.GET))
    wanted = "req-11111111-2222-3333-4444-555555555555"
    answer = app.get("/v2/x", headers={"X-Openstack-Request-Id": wanted})
    assert seen[0].global_request_id == wanted
    assert seen[0].request_id == answer.headers["X-Openstack-Request-Id"] != wanted


def _app_with(api: Api, *routes: Route) -> Any:
    return Client(build_app(Settings(), api.database, api.provider, api.waker, extra_routes=routes))


def test_unexpected_error_is_500_with_the_request_id_and_nothing_else(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(request: Any) -> None:
        raise RuntimeError("password=swordfish")

    app = _app_with(api, Route(method="GET", path="/x", handler=fail, policy=policies.GET))
    with caplog.at_level(logging.ERROR):
        answer = app.get("/v2/x")
    name, code, message = fault(answer)
    assert (name, code) == ("computeFault", 500)
    assert answer.headers["X-Openstack-Request-Id"] in message
    assert "swordfish" not in answer.text
    assert "RuntimeError" not in answer.text
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None


def test_database_that_is_away_is_503_without_its_name(
    tmp_path: Path, make_api: Callable[..., Api]
) -> None:
    api = make_api()
    gone = Database(f"sqlite:///{tmp_path}/no/such/directory/db")
    api.database = gone
    api.build()
    answer = api.call("GET", "/share-backups")
    assert fault(answer)[:2] == ("serviceUnavailable", 503)
    assert "such" not in answer.text
    assert answer.headers[errors.CODE_HEADER] == "database_missing"
    assert api.call("GET", "/").status_code == 200
    health = api.client.get("/healthcheck")
    assert health.status_code == 503
    gone.close()


def test_healthcheck_looks_at_the_database_and_needs_no_token(api: Api) -> None:
    for token in (MEMBER, "rubbish"):
        answer = api.client.get("/healthcheck", headers={"X-Auth-Token": token})
        assert answer.status_code == 200
    assert api.client.head("/healthcheck").status_code in (200, 204)


def test_provider_that_is_away_is_503(make_api: Callable[..., Api]) -> None:
    api = make_api()
    share_id = api.share()

    def away(context: Any, share_id: str) -> Any:
        raise exception.TransientError(reason="Manila does not answer.")

    api.provider.get = away  # type: ignore[method-assign]
    answer = api.call("POST", "/share-backups", {"share_backup": {"share_id": share_id}})
    assert fault(answer) == ("serviceUnavailable", 503, "Manila does not answer.")


def test_every_error_of_the_table_has_a_name_and_a_code_of_its_own() -> None:
    codes = [code for _, code in errors.ERRORS.values()]
    assert len(set(codes)) == len(codes)
    assert all(status in errors.FAULT_NAMES for status, _ in errors.ERRORS.values())


def _subclasses(cls: type[Exception]) -> list[type[Exception]]:
    return [cls, *(deeper for sub in cls.__subclasses__() for deeper in _subclasses(sub))]


def test_every_refusal_has_a_status() -> None:
    """Whoever adds an error that a request can meet adds its line to the table."""
    inside = (exception.OperationError,)
    for cls in _subclasses(exception.ManilaBackupError):
        if cls is exception.ManilaBackupError or issubclass(cls, inside):
            continue
        status, _ = errors.status_and_code(cls.__new__(cls))
        assert status < 500, cls


def test_stable_code_is_in_a_header(api: Api) -> None:
    answer = api.call("GET", "/share-backups/unknown")
    assert answer.headers[errors.CODE_HEADER] == "backup_not_found"


# --- tables ---------------------------------------------------------------------------------------


def _number(value: int) -> Callable[..., dict[str, int]]:
    return lambda request, **variables: {"value": value}


def test_routes_and_actions_of_the_same_name_are_chosen_by_version(api: Api) -> None:
    def action(value: int, **versions: Any) -> Action:
        return Action(
            name="go",
            handler=_number(value),
            policy=policies.GET,
            value_schema={},
            status=200,
            **versions,
        )

    app = _app_with(
        api,
        Route(method="GET", path="/y", handler=_number(1), policy=policies.GET, max_version=(2, 5)),
        Route(method="GET", path="/y", handler=_number(2), policy=policies.GET, min_version=(2, 7)),
        Route(
            method="POST",
            path="/z",
            actions=(action(3, max_version=(2, 5)), action(4, min_version=(2, 7))),
        ),
    )
    for version, first, second in (("2.5", 1, 3), ("2.7", 2, 4)):
        headers = {V: version, "X-Auth-Token": READER}
        assert app.get("/v2/y", headers=headers).json == {"value": first}
        assert app.post("/v2/z", headers=headers, json={"go": 1}).json == {"value": second}
    assert app.get("/v2/y", headers={V: "2.6"}).status_code == 404
    assert app.post("/v2/z", headers={V: "2.6"}, json={"go": 1}).status_code == 404


def test_route_without_handler_or_with_both_does_not_build(api: Api) -> None:
    with pytest.raises(ValueError, match="either a handler or actions"):
        _app_with(api, Route(method="GET", path="/x"))


# --- the WSGI callable for other servers ----------------------------------------------------------


def test_lazy_application_reads_the_configuration_at_the_first_request(
    tmp_path: Path, database_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = tmp_path / "my.conf"
    monkeypatch.setenv("MANILA_BACKUP_CONFIG", str(named))
    client = Client(_Lazy())
    named.write_text(
        f"[DEFAULT]\nshare_provider = local\nuse_bus = false\nquota_backups = 7\n"
        f"[database]\nconnection = sqlite:///{database_file}\n"
        f"[local]\nshares_directory = {tmp_path}/shares\nbind_mounts = false\n"
        "[api]\nauth_strategy = noauth\n"
    )
    for _ in range(2):
        answer = client.get("/v2/limits", headers={V: "2.99"})
        assert answer.json["limits"]["absolute"]["maxTotalShareBackups"] == 7
