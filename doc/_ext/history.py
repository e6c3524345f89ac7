# SPDX-License-Identifier: Apache-2.0
"""Whether the release notes can be sorted by version."""

from __future__ import annotations

from pathlib import Path


def is_there(root: Path) -> bool:
    """Which version has which note, reno reads in the history; a source archive has none, and a
    shallow clone has too little."""
    git = root / ".git"
    return git.exists() and not (git / "shallow").exists()
