# SPDX-License-Identifier: Apache-2.0
"""[gateway]: what Manila's endpoint may be, and whom it is believed to be."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from manila_backup import config
from manila_backup.api.gateway.options import GatewaySettings, gateway_from_conf
from tests.api.gateway.front import Front
from tests.api.gateway.upstream_server import Server


def _read(tmp_path: Path, text: str) -> GatewaySettings | None:
    path = tmp_path / "my.conf"
    path.write_text(f"[gateway]\n{text}\n")
    return gateway_from_conf(config.load([], files=[str(path)]))


def test_there_is_no_gateway_unless_it_is_asked_for(tmp_path: Path) -> None:
    assert _read(tmp_path, "read_timeout_s = 5") is None


def test_options_are_read(tmp_path: Path) -> None:
    text = "manila_endpoint = https://m.example.org/share/\nread_timeout_s = 5\ninsecure = true"
    assert _read(tmp_path, text) == GatewaySettings(
        endpoint="https://m.example.org/share", read_timeout_s=5.0, insecure=True
    )


@pytest.mark.parametrize(
    "url",
    [
        "http://m.example.org/v2",
        "http://m.example.org/v2/",
        "http://m.example.org/?x=y",
        "http://u:p@m.example.org",
        "http://",
        "ftp://m.example.org",
        "m.example.org",
    ],
)
def test_a_wrong_endpoint_is_named(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="manila_endpoint"):
        _read(tmp_path, f"manila_endpoint = {url}")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    found = tmp_path / "manila.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "1", "-subj", "/CN=manila", "-addext"),
            *("subjectAltName=IP:127.0.0.1", "-keyout", found, "-out", tmp_path / "only.pem"),
        ],
        check=True,
        capture_output=True,
    )
    found.write_bytes(found.read_bytes() + (tmp_path / "only.pem").read_bytes())
    return found


def test_manila_s_certificate_is_checked(
    make_front: Callable[..., Front], manila: Server, certificate: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    manila.socket = context.wrap_socket(manila.socket, server_side=True)
    endpoint = manila.url.replace("http:", "https:")
    authority = str(certificate.with_name("only.pem"))
    assert make_front(endpoint=endpoint, cafile=authority).ask("GET", "/v2/types").status == 200
    assert make_front(endpoint=endpoint, insecure=True).ask("GET", "/v2/types").status == 200
    unknown = make_front(endpoint=endpoint).ask("GET", "/v2/types")
    assert unknown.fault[:2] == (503, "serviceUnavailable")
    misnamed = endpoint.replace("127.0.0.1", "localhost")
    wrong = make_front(endpoint=misnamed, cafile=authority).ask("GET", "/v2/types")
    assert wrong.fault[:2] == (503, "serviceUnavailable")
    assert len(manila.lines()) == 2
