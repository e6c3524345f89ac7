# SPDX-License-Identifier: Apache-2.0
"""Options of the gateway, and the frozen value that they become."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from oslo_config import cfg

GROUP = "gateway"

OPTS = [
    cfg.URIOpt(
        "manila_endpoint",
        schemes=["http", "https"],
        help="Root URL of the real Manila API, without /v2 (for example http://manila.internal:8786"
        "). With it this service is a gateway: it answers /v2/share-backups itself and passes "
        "everything else on to that Manila. It must not lead back to this service, so never take "
        "it from the catalog. Unset means no gateway.",
    ),
    cfg.FloatOpt(
        "connect_timeout_s",
        default=5.0,
        min=0.1,
        help="Seconds after which Manila counts as too slow to connect to, and the client gets "
        "504.",
    ),
    cfg.FloatOpt(
        "read_timeout_s",
        default=60.0,
        min=0.1,
        help="Seconds without a byte from Manila after which the client gets 504, or a broken "
        "transfer if the answer has begun. Longer than Manila's slowest answer.",
    ),
    cfg.BoolOpt(
        "preserve_host",
        default=True,
        help="Send the client's Host header to Manila, so that the links in its answers lead to "
        "this service. Without it Manila gets the host of manila_endpoint and X-Forwarded-Host; "
        "it then needs [oslo_middleware] enable_proxy_headers_parsing for right links.",
    ),
    cfg.IntOpt(
        "max_idle_connections",
        default=32,
        min=0,
        help="Most connections to Manila that each API process keeps open for reuse.",
    ),
    cfg.StrOpt(
        "cafile",
        help="File with the certificates of the authorities that may have signed Manila's. Unset "
        "means the system's.",
    ),
    cfg.BoolOpt(
        "insecure",
        default=False,
        help="Do not check the certificate of Manila. Whoever is on the way can then read and use "
        "the tokens of all clients.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """:data:`OPTS` as values. ``endpoint`` has no slash at its end."""

    endpoint: str
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 60.0
    preserve_host: bool = True
    max_idle_connections: int = 32
    cafile: str | None = None
    insecure: bool = False


def gateway_from_conf(conf: cfg.ConfigOpts) -> GatewaySettings | None:
    """None without ``manila_endpoint``.

    :raises ValueError: naming the option, if it is no URL that requests can be sent to.
    """
    group = conf[GROUP]
    if not group.manila_endpoint:
        return None
    endpoint = group.manila_endpoint.rstrip("/")
    parts = urlsplit(endpoint)
    if not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError(
            "option manila_endpoint in group [gateway] must be a URL of scheme, host and perhaps "
            "port and path"
        )
    if parts.path.endswith(("/v2", "/v1")):
        raise ValueError(
            "option manila_endpoint in group [gateway] must be the root URL, without /v2"
        )
    return GatewaySettings(
        endpoint=endpoint,
        connect_timeout_s=group.connect_timeout_s,
        read_timeout_s=group.read_timeout_s,
        preserve_host=group.preserve_host,
        max_idle_connections=group.max_idle_connections,
        cafile=group.cafile,
        insecure=group.insecure,
    )
