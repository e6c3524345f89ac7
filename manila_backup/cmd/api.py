# SPDX-License-Identifier: Apache-2.0
"""``manila-backup-api``: the API in a server of its own, for where no other WSGI server is used."""

from __future__ import annotations

import sys

from oslo_config import cfg

from manila_backup import config, service
from manila_backup.wsgi import build_from_conf


def main() -> int:
    try:
        conf = config.load(sys.argv[1:])
        service.build_database(conf).close()
        service.build_provider(conf)
    except (cfg.Error, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    config.set_up_logging(conf)
    api = conf.api
    serves = service.ApiService(
        lambda: build_from_conf(conf), api.listen_address, api.listen_port, threads=api.threads
    )
    return service.launch(conf, serves)


if __name__ == "__main__":
    sys.exit(main())
