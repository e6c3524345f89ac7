# SPDX-License-Identifier: Apache-2.0
"""manila_backup: backup and restore of OpenStack Manila shares.

oslo.service pulls in eventlet as a dependency and futurist imports it where it finds it. This
service runs on threads only, so the name is closed before anything else is imported: with
``sys.modules['eventlet'] = None`` an ``import eventlet`` raises ImportError, which those libraries
treat as "not installed".
"""

import sys

sys.modules.setdefault("eventlet", None)  # type: ignore[arg-type]
