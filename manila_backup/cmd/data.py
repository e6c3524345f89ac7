# SPDX-License-Identifier: Apache-2.0
"""``manila-backup-data``: a data node."""

from __future__ import annotations

import sys

from manila_backup import config, service


def main() -> int:
    from oslo_service import service as oslo_service

    conf = config.load(sys.argv[1:])
    config.set_up_logging(conf)
    data = service.DataService(conf, lambda: service.build_node(conf))
    launcher = oslo_service.launch(conf, data, restart_method="mutate")
    return int(launcher.wait() or 0)


if __name__ == "__main__":
    sys.exit(main())
