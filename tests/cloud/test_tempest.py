# SPDX-License-Identifier: Apache-2.0
"""Manila's own tempest tests of share backups, as they come from PyPI, with Keystone's tokens and
through the gateway that the catalog leads to."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cloud.beside import Beside
from tests.cloud.beside import beside as beside_manila
from tests.cloud.cloud import Cloud
from tests.cloud.keystone import REGION, inside_environment
from tests.cloud.manila import BACKEND
from tests.cloud.users import ADMIN, DOMAIN, PASSWORD
from tests.cloud.venv import CloudVenv, tempest_venv

pytestmark = [pytest.mark.full, pytest.mark.acceptance, pytest.mark.root]

MODULES = ("test_backup", "test_backup_negative")
AT_LEAST = 11
"""Tests of these modules in the pinned version: fewer would have been left out."""

CONFIG = """\
[DEFAULT]
log_file = {directory}/tempest.log

[oslo_concurrency]
lock_path = {directory}/lock

[auth]
use_dynamic_credentials = true
tempest_roles = member
admin_username = {admin}
admin_project_name = {admin}
admin_password = {password}
admin_domain_name = {domain}

[identity]
auth_version = v3
uri_v3 = {keystone}
region = {region}

[service_available]
cinder = false
glance = false
manila = true
neutron = false
nova = false
swift = false

[share]
backend_names = {backend}
build_interval = 1
build_timeout = 300
capability_create_share_from_snapshot_support = true
capability_snapshot_support = true
default_share_type_name = default
driver_assisted_backup_test_driver_options = dummy:True
enable_protocols = nfs
multitenancy_enabled = false
run_driver_assisted_backup_tests = true
share_backup_timeout = 300
suppress_errors_in_cleanup = false
"""


@pytest.fixture(scope="module")
def service(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    endpoint = cloud.manila.url.removesuffix("/v2")
    sections = f"\n[gateway]\nmanila_endpoint = {endpoint}\n"
    root = tmp_path_factory.mktemp("tempest")
    with beside_manila(cloud, root, "tempest", sections=sections) as found:
        yield found


def tempest(venv: CloudVenv, directory: Path, *arguments: str | Path) -> str:
    """What it printed, ended well or not."""
    done = subprocess.run(
        [venv.program("python"), "-m", *arguments],
        cwd=directory,
        env={**inside_environment(), "TEMPEST_CONFIG_DIR": str(directory)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=1200,
    )
    return done.stdout


def test_manilas_own_tests_of_backups_pass(cloud: Cloud, service: Beside, tmp_path: Path) -> None:
    venv = tempest_venv()
    config = CONFIG.format(
        directory=tmp_path,
        admin=ADMIN.name,
        password=PASSWORD,
        domain=DOMAIN.capitalize(),
        keystone=cloud.keystone.url,
        region=REGION,
        backend=BACKEND,
    )
    (tmp_path / "tempest.conf").write_text(config)
    names = [f"manila_tempest_tests.tests.api.{module}" for module in MODULES]
    with cloud.keystone.moved("shared-file-system", f"http://127.0.0.1:{service.api.port}/v2"):
        said = tempest(venv, tmp_path, "testtools.run", *names)
    ran = re.search(r"^Ran (\d+) tests in .*\nOK$", said, re.MULTILINE)
    assert ran is not None, said
    assert int(ran[1]) >= AT_LEAST, said
    # As they left it.
    assert service.rest(ADMIN).get("/share-backups?all_tenants=1") == {"share_backups": []}
