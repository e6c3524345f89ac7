# SPDX-License-Identifier: Apache-2.0
"""Ways into Manila's API: as the service user, and as a user whose token came with a request."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from keystoneauth1 import exceptions, loading
from keystoneauth1.plugin import BaseAuthPlugin
from keystoneauth1.service_token import ServiceTokenAuthWrapper
from keystoneauth1.session import Session
from keystoneauth1.token_endpoint import Token
from manilaclient import api_versions
from manilaclient.v2.client import Client
from oslo_config import cfg
from oslo_log import log

from manila_backup.exception import TransientError
from manila_backup.share.manila.options import GROUP

LOG = log.getLogger(__name__)

OLDEST = "2.45"
"""Metadata of access rules, by which ours are told from the tenant's."""

NEWEST = "2.82"
"""No later version has anything for us, and each may change what we rely on."""

LOCKS = "2.81"
RULE_LOCKS = "2.82"

RETRIED_STATUSES = (500, 502, 503, 504)

USER_AGENT = "manila-backup"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where Manila is: ``url``, or the catalog's entry for the rest."""

    url: str | None
    service_type: str | None = None
    region_name: str | None = None
    interfaces: tuple[str, ...] = ("internal", "public")


class ManilaApi:
    """Makes clients of python-manilaclient, one per call: they keep state and are not to be shared
    between threads, while the session with its connections is.

    :param auth: of the service user.
    :param newest: the newest microversion to be used.
    """

    def __init__(
        self,
        *,
        session: Session,
        auth: BaseAuthPlugin,
        endpoint: Endpoint,
        retries: int,
        newest: str = NEWEST,
    ) -> None:
        self._session = session
        self._auth = auth
        self._endpoint = endpoint
        self._retries = retries
        self._newest = api_versions.APIVersion(newest)
        self._lock = threading.Lock()
        self._url: str | None = None
        self._version: Any = None

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts, *, newest: str = NEWEST) -> ManilaApi:
        """As group [manila] says. Nothing is asked of Keystone or Manila yet.

        :raises ValueError: an option is missing or wrong; the message names it.
        """
        group = conf[GROUP]
        if not (group.endpoint_override or group.service_type):
            raise ValueError(
                f"option endpoint_override (or service_type) in group [{GROUP}] is required"
            )
        try:
            auth = loading.load_auth_from_conf_options(conf, GROUP)
        except exceptions.ClientException as exc:
            raise ValueError(f"group [{GROUP}]: {exc}") from exc
        if auth is None:
            raise ValueError(f"option auth_type in group [{GROUP}] is required")
        endpoint = Endpoint(
            url=group.endpoint_override,
            service_type=group.service_type,
            region_name=group.region_name,
            interfaces=tuple(group.valid_interfaces),
        )
        session = loading.load_session_from_conf_options(conf, GROUP)
        return cls(
            session=session, auth=auth, endpoint=endpoint, retries=group.retries, newest=newest
        )

    def as_service(self) -> Client:
        """:raises TransientError: Manila is too old."""
        self._find_out()
        return self._client(self._auth)

    def as_user(self, token: str) -> Client:
        """With the service user's token beside it: so Manila also takes a token that expires while
        the request is on its way."""
        self._find_out()
        user = Token(self._url or "", token)
        return self._client(ServiceTokenAuthWrapper(user, self._auth))

    def has(self, version: str) -> bool:
        """Whether what came with this microversion may be used."""
        self._find_out()
        return bool(self._version >= api_versions.APIVersion(version))

    def user_id(self) -> str:
        """Of the service user."""
        found = self._auth.get_user_id(self._session)
        if found is None:
            raise TransientError(reason="The kind of authentication in group [manila] has no user.")
        return found

    def _find_out(self) -> None:
        """Once per process: the URL, and the newest version that both sides know."""
        with self._lock:
            if self._version is not None:
                return
            self._url = self._endpoint.url or self._from_catalog()
            version = api_versions.discover_version(
                self._client(self._auth, self._newest), self._newest
            )
            if version < api_versions.APIVersion(OLDEST):
                raise TransientError(
                    reason=f"Manila at {self._url} speaks no microversion from {OLDEST} on."
                )
            LOG.info("Manila at %s is used with microversion %s", self._url, version.get_string())
            self._version = version

    def _from_catalog(self) -> str:
        found = self._session.get_endpoint(
            self._auth,
            service_type=self._endpoint.service_type,
            region_name=self._endpoint.region_name,
            interface=list(self._endpoint.interfaces),
        )
        if found is None:
            raise TransientError(
                reason=f"The catalog has no service of the type {self._endpoint.service_type} that "
                "group [manila] names."
            )
        return found

    def _client(self, auth: BaseAuthPlugin, version: Any = None) -> Client:
        client = Client(
            api_version=version or self._version,
            session=self._session,
            auth=auth,
            service_catalog_url=self._url,
            user_agent=USER_AGENT,
        )
        adapter = client.client
        adapter.connect_retries = self._retries
        adapter.status_code_retries = self._retries
        adapter.retriable_status_codes = RETRIED_STATUSES
        return client
