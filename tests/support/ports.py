# SPDX-License-Identifier: Apache-2.0
"""Ports of the loopback interface for servers that tests start."""

from __future__ import annotations

import socket


def free_port() -> int:
    """One that nobody listens on now. Another may be quicker than the server that is to have it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
