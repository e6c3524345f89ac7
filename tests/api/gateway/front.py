# SPDX-License-Identifier: Apache-2.0
"""A served gateway, and a client that sends exactly what it is told."""

from __future__ import annotations

import http.client
import json
import socket
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import delete

from manila_backup.db import busy_shares
from manila_backup.db.models import BusyShareRow
from manila_backup.service import ApiService
from manila_backup.states import ShareStatus
from tests.api.harness import MEMBER, P1, Api

VERSION = "X-OpenStack-Manila-API-Version"


@dataclass(frozen=True, kw_only=True)
class Got:
    """One answer, byte for byte."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def fault(self) -> tuple[int, str, str]:
        """Status, name and message of an error in Manila's format."""
        assert self.all("Content-Type") == ["application/json"]
        ((name, inner),) = self.json.items()
        assert inner["code"] == self.status
        return self.status, name, inner["message"]


class Front:
    def __init__(self, api: Api, port: int = 0) -> None:
        self.api = api
        self._service = ApiService(lambda: api.app, "127.0.0.1", port)
        self._service.start()
        self.port = self._service.port
        self._connections: list[http.client.HTTPConnection] = []

    def stop(self) -> None:
        self.hang_up()
        self._service.stop()
        self._service.wait()
        self.api.app.close()

    def hang_up(self) -> None:
        """Close the client's connections."""
        while self._connections:
            self._connections.pop().close()

    # --- asking -----------------------------------------------------------------------------------

    def send(
        self,
        method: str,
        line: str,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | Iterable[bytes] | None = None,
    ) -> http.client.HTTPResponse:
        """The answer, its body unread. Bytes go with their length, an iterable in chunks."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        self._connections.append(connection)
        connection._validate_path = lambda url: None  # type: ignore[attr-defined]
        connection.putrequest(method, line, skip_host=True, skip_accept_encoding=True)
        pairs = list(headers)
        names = {name.lower() for name, _ in pairs}
        if "host" not in names:
            pairs.insert(0, ("Host", f"127.0.0.1:{self.port}"))
        chunked = body is not None and not isinstance(body, bytes)
        if isinstance(body, bytes) and "content-length" not in names:
            pairs.append(("Content-Length", str(len(body))))
        if chunked:
            pairs.append(("Transfer-Encoding", "chunked"))
        for name, value in pairs:
            connection.putheader(name, value.encode("latin-1"))
        connection.endheaders(body, encode_chunked=chunked)
        return connection.getresponse()

    def ask(self, *args: Any, **kwargs: Any) -> Got:
        with self.send(*args, **kwargs) as response:
            return Got(
                status=response.status,
                reason=response.reason,
                headers=tuple(response.getheaders()),
                body=response.read(),
            )

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        who: str = MEMBER,
        version: str = "2.90",
        headers: Iterable[tuple[str, str]] = (),
    ) -> Got:
        """As python-manilaclient asks; ``path`` below ``/v2``."""
        sent = [
            ("X-Auth-Token", who),
            (VERSION, version),
            ("X-OpenStack-Manila-API-Experimental", "true"),
            *headers,
        ]
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent.append(("Content-Type", "application/json"))
        return self.ask(method, f"/v2{path}", sent, data)

    def raw(self, data: bytes) -> bytes:
        """What comes back for these bytes, up to the end of the connection or a second's pause."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(data)
            connection.settimeout(1)
            parts = []
            try:
                while part := connection.recv(65536):
                    parts.append(part)
            except TimeoutError:
                pass
            return b"".join(parts)

    # --- what the database says -------------------------------------------------------------------

    def hold(self, share_id: str, status: ShareStatus = ShareStatus.BACKUP_CREATING) -> None:
        """As if an operation held the share."""
        with self.api.database.writer() as session:
            session.merge(
                BusyShareRow(
                    share_id=share_id,
                    status=status,
                    operation_id=str(uuid.uuid4()),
                    project_id=P1,
                    created_at_us=1,
                    updated_at_us=1,
                )
            )

    def break_database(self) -> None:
        """As if its server were gone: nothing in it can be read or written. Idempotent."""
        path = self._database_file()
        if not path.is_dir():
            self.api.database.close()
            path.rename(path.with_suffix(".away"))
            path.mkdir()

    def mend_database(self) -> None:
        path = self._database_file()
        path.rmdir()
        path.with_suffix(".away").rename(path)

    def _database_file(self) -> Path:
        return Path(self.api.database.connection.removeprefix("sqlite:///"))

    def forget(self) -> None:
        """No share is held any more."""
        with self.api.database.writer() as session:
            session.execute(delete(BusyShareRow))

    def held(self) -> dict[str, str]:
        with self.api.database.reader() as session:
            return {key: str(value) for key, value in busy_shares.all_statuses(session).items()}
