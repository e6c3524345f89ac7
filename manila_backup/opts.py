# SPDX-License-Identifier: Apache-2.0
"""Entry point of oslo-config-generator."""

from manila_backup.config import list_opts

__all__ = ["list_opts"]
