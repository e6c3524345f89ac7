# SPDX-License-Identifier: Apache-2.0
"""Options of mount(8) for NFS: what this service needs, and what an operator may choose.

Facts are those of nfs(5) and of Linux 6.1 (doc/nfs.md).
"""

from __future__ import annotations

from collections.abc import Sequence

GIVES_UP = "softerr"
"""A server that does not answer is an error (ETIMEDOUT) after the retries. Otherwise (``hard``, the
default of NFS) whoever touches a dead mount waits for ever. The copy treats every error as fatal:
what could not be written is never reported as a backup."""

GIVES_UP_OLDER = "soft"
"""The same with EIO, for kernels before 5.3."""

DEFAULTS = (("timeo", "100"), ("retrans", "2"), ("retry", "0"))
"""Used where the operator says nothing: 10 s for an answer, with two more tries 60 s in all (each
waits 10 s longer); mount(8) itself does not try again, the operation does."""


def nfs_options(configured: Sequence[str], *, gives_up: str = GIVES_UP) -> tuple[str, ...]:
    """What mount(8) is told besides what every mount gets. Of two that contradict each other the
    last holds, so an operator cannot make a mount wait for ever.
    """
    chosen = {option.partition("=")[0] for option in configured}
    defaults = [f"{name}={value}" for name, value in DEFAULTS if name not in chosen]
    return (*defaults, *configured, gives_up)
