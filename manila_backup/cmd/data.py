# SPDX-License-Identifier: Apache-2.0
"""``manila-backup-data``: a data node."""

from __future__ import annotations

import sys

from oslo_config import cfg

from manila_backup import config, service
from manila_backup.data.node import NodeSettings


def main() -> int:
    try:
        conf = config.load(sys.argv[1:])
        # What is missing is said here, and not by a child that dies again and again.
        service.build_database(conf).close()
        NodeSettings.from_conf(conf)
        service.build_provider(conf)
    except (cfg.Error, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    config.set_up_logging(conf)
    return service.launch(conf, service.DataService(conf, lambda: service.build_node(conf)))


if __name__ == "__main__":
    sys.exit(main())
