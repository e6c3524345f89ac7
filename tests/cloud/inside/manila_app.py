# SPDX-License-Identifier: Apache-2.0
"""manila-api's WSGI application for gunicorn: Manila reads ``sys.argv`` when it is imported."""

import os
import sys

sys.argv = ["manila-api", "--config-file", os.environ["MANILA_CONFIG"]]

from manila.wsgi.api import application  # noqa: E402, F401
