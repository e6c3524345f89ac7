# SPDX-License-Identifier: Apache-2.0
"""Keystone's WSGI application for gunicorn, whose own arguments Keystone would take for its."""

import sys

sys.argv = ["keystone"]

from keystone.wsgi.api import application  # noqa: E402, F401
