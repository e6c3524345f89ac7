# SPDX-License-Identifier: Apache-2.0
"""Keystone for harness.sh: what each function of devstack leaves behind, in one process instead of
a client per entry.

    identity.py user NAME PASSWORD DOMAIN PROJECT ROLE...
    identity.py service TYPE NAME DESCRIPTION
    identity.py endpoint TYPE REGION INTERFACE=URL...

What is there stays as it is, another URL included.
"""

from __future__ import annotations

import sys
from typing import Any

import openstack

CLOUD = "devstack-system-admin"


def user(identity: Any, name: str, password: str, domain: str, project: str, *roles: str) -> None:
    domain_id = identity.find_domain(domain, ignore_missing=False).id
    found = identity.find_user(name, domain_id=domain_id) or identity.create_user(
        name=name, password=password, domain_id=domain_id
    )
    where = identity.find_project(project, domain_id=domain_id, ignore_missing=False)
    for role in roles:
        its = identity.find_role(role, ignore_missing=False)
        identity.assign_project_role_to_user(where, found, its)


def service(identity: Any, kind: str, name: str, description: str) -> None:
    if not any(found.type == kind for found in identity.services()):
        identity.create_service(type=kind, name=name, description=description)


def endpoint(identity: Any, kind: str, region: str, *wanted: str) -> None:
    its = next(found for found in identity.services() if found.type == kind)
    there = {found.interface for found in identity.endpoints(service_id=its.id)}
    for interface, _, url in (word.partition("=") for word in wanted):
        if url and interface not in there:
            identity.create_endpoint(
                service_id=its.id, interface=interface, url=url, region_id=region
            )


def main() -> None:
    what, *arguments = sys.argv[1:]
    with openstack.connect(cloud=CLOUD) as connection:
        {"user": user, "service": service, "endpoint": endpoint}[what](
            connection.identity, *arguments
        )


if __name__ == "__main__":
    main()
