# SPDX-License-Identifier: Apache-2.0
"""Options of the manila share provider."""

from __future__ import annotations

from keystoneauth1 import loading
from oslo_config import cfg

GROUP = "manila"

OWN_OPTS = [
    cfg.StrOpt(
        "endpoint_override",
        help="URL of Manila itself, with the version: http://manila.internal:8786/v2. Where this "
        "service stands in front of Manila, the catalog's entry leads back to it, so the URL is "
        "said here. Either this or service_type is required.",
    ),
    cfg.StrOpt(
        "service_type",
        help="Where endpoint_override is not set: type of the service in the catalog that is "
        "Manila itself and not this service in front of it.",
    ),
    cfg.StrOpt("region_name", help="Region of that service in the catalog."),
    cfg.ListOpt(
        "valid_interfaces",
        default=["internal", "public"],
        help="Interfaces of that service in the catalog, preferred first.",
    ),
    cfg.IntOpt(
        "retries",
        default=3,
        min=0,
        help="How often a request is sent again when Manila cannot be reached, does not answer in "
        "time or answers 500, 502, 503 or 504; after half a second, one, two and so on.",
    ),
    cfg.FloatOpt(
        "access_timeout_s",
        default=180,
        min=1,
        help="How long Manila may take, in seconds, to put an access rule into force or out of "
        "force. Longer, and the operation fails and is tried again.",
    ),
    cfg.BoolOpt(
        "prefer_admin_exports",
        default=False,
        help="Mount shares through export locations that only administrators see, where a share "
        "has any: for data nodes in the network of the services, who do not reach the tenants'.",
    ),
    cfg.ListOpt(
        "mount_options",
        default=[],
        help="Options of mount(8) for shares, for example nfsvers=4.2. nosuid, nodev, noexec and "
        "ro or rw are always added.",
    ),
]

TIMEOUT_S = 30


def _keystoneauth() -> list[cfg.Opt]:
    session = loading.get_session_conf_options()
    # Without one a Manila that hangs would keep threads for ever.
    cfg.set_defaults(session, timeout=TIMEOUT_S)
    return [*loading.get_auth_common_conf_options(), *session]


OPTS = [*OWN_OPTS, *_keystoneauth()]
"""Those that are always registered: what a kind of authentication needs depends on auth_type."""

SAMPLE_OPTS = [*OPTS, *loading.get_auth_plugin_conf_options("password")]
