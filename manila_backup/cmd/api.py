# SPDX-License-Identifier: Apache-2.0
"""``manila-backup-api``: the API in a server of its own, for where no other WSGI server is used."""

from __future__ import annotations

import sys

from manila_backup import config


def main() -> int:
    from oslo_service import service as oslo_service

    from manila_backup import service
    from manila_backup.wsgi import build_from_conf

    conf = config.load(sys.argv[1:])
    config.set_up_logging(conf)
    address, port = conf.api.listen_address, conf.api.listen_port
    api = service.ApiService(lambda: build_from_conf(conf), address, port)
    launcher = oslo_service.launch(conf, api, restart_method="mutate")
    return int(launcher.wait() or 0)


if __name__ == "__main__":
    sys.exit(main())
