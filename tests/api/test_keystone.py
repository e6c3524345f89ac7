# SPDX-License-Identifier: Apache-2.0
"""auth_strategy = keystone: the real keystonemiddleware in front, asking a small Keystone by HTTP.

The Keystone here knows a handful of tokens; nothing of the middleware or of its cache is replaced.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg
from werkzeug import Request, Response
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.api.harness import P1, P2, Api, fault

V = {"X-OpenStack-Manila-API-Version": "2.99", "X-OpenStack-Manila-API-Experimental": "true"}


def _token(user: str, project: str | None, *roles: str) -> dict[str, Any]:
    domain = {"id": "default", "name": "Default"}
    scope: dict[str, Any] = (
        {"system": {"all": True}}
        if project is None
        else {"project": {"id": project, "name": project, "domain": domain}}
    )
    return {
        "token": {
            "user": {"id": user, "name": user, "domain": domain},
            "roles": [{"id": role, "name": role} for role in roles],
            "issued_at": "2026-01-01T00:00:00.000000Z",
            "expires_at": "2099-01-01T00:00:00.000000Z",
            "methods": ["password"],
            "audit_ids": ["x"],
            "catalog": [],  # the service's own token has one
            **scope,
        }
    }


TOKENS = {
    "of-member": _token("ann", P1, "member", "reader"),
    "of-reader": _token("rita", P1, "reader"),
    "of-other": _token("otto", P2, "member", "reader"),
    "of-admin": _token("root", "p-admin", "admin", "member", "reader"),
    "of-system": _token("sys", None, "admin"),
    "of-dots": _token("dot", "..", "member"),
}


class Keystone:
    """Version discovery, a token for the service itself, and the check of others' tokens."""

    def __init__(self) -> None:
        self.checked: list[str] = []
        self._server = make_server(
            "127.0.0.1", 0, self._application, request_handler=_Silent, threaded=True
        )
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _application(self, environ: Any, start_response: Any) -> Any:
        return self._answer(Request(environ))(environ, start_response)

    def _answer(self, request: Request) -> Response:
        if request.path in ("/", "/v3", "/v3/"):
            version = {
                "id": "v3.14",
                "status": "stable",
                "links": [{"rel": "self", "href": f"{self.url}/v3/"}],
            }
            one = request.path != "/"
            return _json({"version": version} if one else {"versions": {"values": [version]}})
        if request.method == "POST":
            return _json(self._service_token(), 201, "of-service")
        token = request.headers["X-Subject-Token"]
        self.checked.append(token)
        found = TOKENS.get(token)
        if found is None:
            return _json({"error": {"code": 404, "message": "?", "title": "Not Found"}}, 404)
        return _json(found, 200, token)

    def _service_token(self) -> dict[str, Any]:
        found = _token("manila", "service", "service")
        interfaces = [
            {"id": name, "interface": name, "region_id": "r", "region": "r", "url": self.url}
            for name in ("admin", "internal", "public")
        ]
        found["token"]["catalog"] = [
            {"id": "k", "type": "identity", "name": "keystone", "endpoints": interfaces}
        ]
        return found


class _Silent(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        """Nothing."""


def _json(body: Any, status: int = 200, token: str | None = None) -> Response:
    response = Response(json.dumps(body), status, content_type="application/json")
    if token is not None:
        response.headers["X-Subject-Token"] = token
    return response


@pytest.fixture
def keystone() -> Iterator[Keystone]:
    found = Keystone()
    yield found
    found.stop()


@pytest.fixture
def api(keystone: Keystone, make_api: Callable[..., Api], tmp_path: Path) -> Api:
    (tmp_path / "my.conf").write_text(
        "[keystone_authtoken]\n"
        "auth_type = password\n"
        f"auth_url = {keystone.url}\n"
        f"www_authenticate_uri = {keystone.url}\n"
        "username = manila\npassword = secret\nproject_name = service\n"
        "user_domain_id = default\nproject_domain_id = default\n"
        "service_token_roles_required = true\n"
    )
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[str(tmp_path / "my.conf")], default_config_dirs=[])
    return make_api(auth_strategy="keystone", conf=conf)


def test_valid_tokens_are_who_they_are(api: Api) -> None:
    backup_id = api.create(api.share(), who="of-member")
    path = f"/share-backups/{backup_id}"
    assert api.row(backup_id).user_id == "ann"
    assert api.call("GET", path, who="of-reader").status_code == 200
    assert api.call("DELETE", path, who="of-reader").status_code == 403
    assert fault(api.call("GET", path, who="of-other"))[1] == 404
    shown = api.call("GET", path, who="of-admin").json["share_backup"]
    assert "host" in shown
    assert api.call("GET", f"/{P1}{path}", who="of-member").status_code == 200
    assert api.call("GET", f"/{P2}{path}", who="of-member").status_code == 400


def test_without_a_valid_token_401_in_our_format_with_where_to_get_one(
    api: Api, keystone: Keystone
) -> None:
    for token in (None, "unknown", "root:p-admin:admin"):
        answer = api.call("GET", "/share-backups", who=token)
        assert fault(answer)[:2] == ("unauthorized", 401)
        assert keystone.url in answer.headers["WWW-Authenticate"]


def test_identity_headers_of_clients_are_worth_nothing(api: Api) -> None:
    forged = {
        "X-Identity-Status": "Confirmed",
        "X-User-Id": "root",
        "X-Project-Id": P1,
        "X-Roles": "admin",
    }
    for who in (None, "unknown"):
        assert api.call("GET", "/share-backups", who=who, headers=forged).status_code == 401
    shown = api.call("GET", f"/quota-sets/{P1}", who="of-other", headers=forged)
    assert shown.status_code == 403


def test_tokens_without_a_project_are_403(api: Api) -> None:
    answer = api.call("GET", "/share-backups?all_tenants=1", who="of-system")
    assert fault(answer)[:2] == ("forbidden", 403)


def test_project_that_cannot_name_a_directory_is_403(api: Api) -> None:
    assert api.call("GET", "/share-backups", who="of-dots").status_code == 403


def test_version_documents_and_health_need_no_token(api: Api, keystone: Keystone) -> None:
    assert api.client.get("/").status_code == 300
    assert api.client.get("/v2").status_code == 200
    assert api.client.get("/v2/").status_code == 200
    assert api.client.get("/v2/openapi.json").status_code == 200
    assert api.client.get("/healthcheck").status_code == 200
    assert keystone.checked == []


def test_any_host_and_origin_are_taken_since_browsers_hold_no_token(api: Api) -> None:
    headers = {"Host": "backup.example.org", "Origin": "https://dashboard.example.org"}
    assert api.call("GET", "/limits", who="of-member", headers=headers).status_code == 200


def test_keystone_that_is_away_is_503(api: Api, keystone: Keystone) -> None:
    keystone.stop()
    answer = api.call("GET", "/limits", who="of-member")
    assert fault(answer)[:2] == ("serviceUnavailable", 503)
    assert answer.headers["X-Openstack-Request-Id"]
    assert api.client.get("/").status_code == 300


def test_keystone_that_answers_rubbish_is_503_without_details(
    api: Api, keystone: Keystone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keystone, "_service_token", lambda: _token("manila", "service", "service"))
    answer = api.call("GET", "/limits", who="of-member")
    assert fault(answer)[:2] == ("serviceUnavailable", 503)
    assert "catalog" not in answer.text


def test_public_paths_do_not_let_forged_headers_in(api: Api) -> None:
    from manila_backup.api.keystone import PUBLIC_PATHS

    for path in PUBLIC_PATHS:
        for method in ("POST", "PUT", "DELETE"):
            answer = api.client.open(
                path, method=method, headers={"X-Identity-Status": "Confirmed", "X-Roles": "admin"}
            )
            assert fault(answer)[1] == 405
