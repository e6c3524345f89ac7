# SPDX-License-Identifier: Apache-2.0
"""Plain HTTP beside the client, for what would take too long through it or what it cannot ask."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.acceptance.waiting import until

ADMIN = "notused"
"""Without Keystone this token is an administrator of the project ``default``."""

PROJECT = "default"
TIMEOUT_S = 60.0

Json = Any


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    text: str
    headers: Mapping[str, str]

    @property
    def json(self) -> Json:
        return json.loads(self.text)

    @property
    def message(self) -> str:
        """Of an error in Manila's format."""
        (fault,) = self.json.values()
        assert fault["code"] == self.status
        return str(fault["message"])


@dataclass(frozen=True)
class Rest:
    """The API of one service for the holder of one token."""

    endpoint: str
    token: str = ADMIN

    def call(
        self, method: str, path: str, body: Json = None, *, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request in a connection of its own; ``path`` is below ``/v2``."""
        sent = {
            "X-Auth-Token": self.token,
            "X-OpenStack-Manila-API-Version": "2.98",
            "X-OpenStack-Manila-API-Experimental": "true",
        }
        if body is not None:
            sent["Content-Type"] = "application/json"
        payload = None if body is None else json.dumps(body).encode()
        split = urlsplit(self.endpoint)
        connection = http.client.HTTPConnection(split.netloc, timeout=TIMEOUT_S)
        try:
            connection.request(
                method, f"{split.path}{path}", body=payload, headers={**sent, **(headers or {})}
            )
            response = connection.getresponse()
            return Answer(
                status=response.status,
                text=response.read().decode(),
                headers=dict(response.getheaders()),
            )
        finally:
            connection.close()

    def get(self, path: str) -> Json:
        answer = self.call("GET", path)
        assert answer.status == 200, answer.text
        return answer.json

    def accepted(self, method: str, path: str, body: Json = None) -> Json:
        """A request that must be taken; what it answers, if anything."""
        answer = self.call(method, path, body)
        assert answer.status in (200, 202), answer.text
        return answer.json if answer.text else None

    # --- shares -----------------------------------------------------------------------------------

    def create_share(self, name: str, size_gib: int = 1) -> str:
        """A new available share; its id."""
        body = {"share": {"share_proto": "NFS", "size": size_gib, "name": name}}
        return str(self.accepted("POST", "/shares", body)["share"]["id"])

    def share(self, share_id: str) -> Json:
        return self.get(f"/shares/{share_id}")["share"]

    def share_status(self, share_id: str) -> str:
        return str(self.share(share_id)["status"])

    def delete_share(self, share_id: str) -> None:
        """Returns when it is gone."""
        self.accepted("DELETE", f"/shares/{share_id}")
        self.until_status("GET", f"/shares/{share_id}", 404)

    def tree(self, share_id: str) -> str:
        """The directory with the share's content."""
        found = self.get(f"/shares/{share_id}/export_locations")["export_locations"]
        return str(found[0]["path"])

    def access_rules(self, share_id: str) -> list[Json]:
        found: list[Json] = self.get(f"/share-access-rules?share_id={share_id}")["access_list"]
        return found

    def allow(self, share_id: str, address: str, level: str) -> None:
        rule = {"access_type": "ip", "access_to": address, "access_level": level}
        self.accepted("POST", f"/shares/{share_id}/action", {"allow_access": rule})

    # --- backups ----------------------------------------------------------------------------------

    def ask_backup(self, share_id: str, **values: Json) -> Answer:
        body = {"share_backup": {"share_id": share_id, **values}}
        return self.call("POST", "/share-backups", body)

    def create_backup(self, share_id: str, **values: Json) -> str:
        """A backup that has been asked for; its id."""
        answer = self.ask_backup(share_id, **values)
        assert answer.status == 202, answer.text
        return str(answer.json["share_backup"]["id"])

    def available_backup(self, share_id: str, **values: Json) -> str:
        """A backup that is done; its id."""
        backup_id = self.create_backup(share_id, **values)
        self.until_done(backup_id)
        return backup_id

    def backup(self, backup_id: str) -> Json:
        return self.get(f"/share-backups/{backup_id}")["share_backup"]

    def backup_status(self, backup_id: str) -> str:
        return str(self.backup(backup_id)["status"])

    def backups(self) -> list[Json]:
        found: list[Json] = self.get("/share-backups/detail")["share_backups"]
        return found

    def restore(self, backup_id: str, target: str | None = None) -> None:
        """Ask for a restore."""
        self.accepted("POST", f"/share-backups/{backup_id}/action", {"restore": target})

    def restored(self, backup_id: str, target: str | None = None) -> None:
        """Restore and wait until it is done."""
        self.restore(backup_id, target)
        self.until_done(backup_id)

    def delete_backup(self, backup_id: str) -> None:
        """Ask for a deletion."""
        self.accepted("DELETE", f"/share-backups/{backup_id}")

    def until_deleted(self, backup_id: str) -> None:
        self.until_status("GET", f"/share-backups/{backup_id}", 404)

    def operation(self, backup_id: str) -> Json:
        """The newest one."""
        return self.get(f"/share-backups/{backup_id}/operations")["operations"][0]

    def until_ended(self, backup_id: str) -> Json:
        """Wait for the end of the newest operation."""

        def ended() -> Json | None:
            found = self.operation(backup_id)
            return None if found["status"] in ("queued", "running") else found

        return until(ended, f"the end of the operation on backup {backup_id}")

    def until_done(self, backup_id: str) -> None:
        """Wait for the good end of the newest operation."""
        ended = self.until_ended(backup_id)
        assert ended["status"] == "done", ended["fail_reason"]

    # --- the rest ---------------------------------------------------------------------------------

    def until_status(self, method: str, path: str, status: int) -> None:
        until(
            lambda: self.call(method, path).status == status, f"status {status} of {method} {path}"
        )

    def usage(self, project_id: str = PROJECT) -> tuple[int, int]:
        """Backups and GiB in use."""
        found = self.get(f"/quota-sets/{project_id}/detail")["quota_set"]
        return found["backups"]["in_use"], found["backup_gigabytes"]["in_use"]

    def set_quota(self, project_id: str = PROJECT, **limits: int) -> None:
        self.accepted("PUT", f"/quota-sets/{project_id}", {"quota_set": limits})
