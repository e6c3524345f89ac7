# SPDX-License-Identifier: Apache-2.0
"""Ways to damage a stored backup, by hand: no code of the driver is used to do it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from manila_backup.types import BackupRef


def epoch_path(store: Path, ref: BackupRef) -> Path:
    return store / ref.project_id / ref.backup_id / str(ref.epoch)


def flip(path: Path, offset: int) -> None:
    """Change one bit of the byte at ``offset``; negative counts from the end."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)


def truncate(path: Path, missing_bytes: int) -> None:
    os.truncate(path, path.stat().st_size - missing_bytes)


def sealed(item: dict[str, Any]) -> bytes:
    """A manifest with the right checksum, as ``doc/format.md`` computes it."""
    item = {key: value for key, value in item.items() if key != "manifest_blake3"}
    canonical = json.dumps(item, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return json.dumps({**item, "manifest_blake3": blake3(canonical.encode()).hexdigest()}).encode()


def reseal(manifest: Path, **changes: Any) -> None:
    """Change keys of a manifest so that only their meaning can tell."""
    manifest.write_bytes(sealed({**json.loads(manifest.read_bytes()), **changes}))


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_symlink(path: Path, target: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    path.symlink_to(target)


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def half_delete(epoch: Path) -> None:
    for part in ("manifest.json", "catalog", "data/big"):
        (epoch / part).unlink()


@dataclass(frozen=True, kw_only=True)
class Damage:
    """``inflict(epoch, elsewhere)``: ``elsewhere`` is the epoch directory of another good backup.

    ``named`` is what every report of it must contain.
    """

    inflict: Callable[[Path, Path], object]
    named: str


UNPUBLISHED = {
    "manifest missing": Damage(
        inflict=lambda epoch, _: (epoch / "manifest.json").unlink(), named="manifest"
    ),
    "manifest empty": Damage(
        inflict=lambda epoch, _: (epoch / "manifest.json").write_bytes(b""), named="manifest"
    ),
    "manifest truncated": Damage(
        inflict=lambda epoch, _: truncate(epoch / "manifest.json", 9), named="manifest"
    ),
    "manifest byte flipped": Damage(
        inflict=lambda epoch, _: flip(epoch / "manifest.json", 100), named="manifest"
    ),
    "manifest edited": Damage(
        inflict=lambda epoch, _: (epoch / "manifest.json").write_bytes(
            (epoch / "manifest.json").read_bytes().replace(b'"nova"', b'"vona"')
        ),
        named="manifest",
    ),
    "manifest of another backup": Damage(
        inflict=lambda epoch, other: shutil.copy(other / "manifest.json", epoch),
        named="manifest is that of",
    ),
    "manifest of another epoch": Damage(
        inflict=lambda epoch, _: reseal(epoch / "manifest.json", epoch=77),
        named="manifest is that of",
    ),
    "manifest of another project": Damage(
        inflict=lambda epoch, _: reseal(epoch / "manifest.json", project_id="mallory"),
        named="manifest is that of",
    ),
    "manifest of a later version": Damage(
        inflict=lambda epoch, _: reseal(epoch / "manifest.json", version=2), named="version 2"
    ),
    "manifest of another format": Damage(
        inflict=lambda epoch, _: reseal(epoch / "manifest.json", format="tar"), named="manifest"
    ),
    "manifest too long": Damage(
        inflict=lambda epoch, _: reseal(epoch / "manifest.json", padding="x" * (1 << 20)),
        named="manifest",
    ),
    "manifest a symlink": Damage(
        inflict=lambda epoch, other: replace_by_symlink(
            epoch / "manifest.json", other / "manifest.json"
        ),
        named="manifest",
    ),
    "manifest a fifo": Damage(
        inflict=lambda epoch, _: replace_by_fifo(epoch / "manifest.json"), named="manifest"
    ),
    "manifest a directory": Damage(
        inflict=lambda epoch, _: replace_by_directory(epoch / "manifest.json"), named="manifest"
    ),
    "half deleted": Damage(
        inflict=lambda epoch, _: half_delete(epoch),
        named="manifest",
    ),
    "epoch a symlink": Damage(inflict=replace_by_symlink, named="manifest"),
    "backup a symlink": Damage(
        inflict=lambda epoch, other: replace_by_symlink(epoch.parent, other.parent),
        named="manifest",
    ),
}
"""Nothing is published any more: no manifest that is believed."""

DETECTABLE = {
    "catalog missing": Damage(
        inflict=lambda epoch, _: (epoch / "catalog").unlink(), named="catalog"
    ),
    "catalog empty": Damage(
        inflict=lambda epoch, _: (epoch / "catalog").write_bytes(b""), named="catalog"
    ),
    "catalog truncated": Damage(
        inflict=lambda epoch, _: truncate(epoch / "catalog", 16), named="catalog"
    ),
    "catalog byte flipped": Damage(
        inflict=lambda epoch, _: flip(epoch / "catalog", 60), named="catalog"
    ),
    "catalog longer": Damage(
        inflict=lambda epoch, _: (epoch / "catalog").write_bytes(
            (epoch / "catalog").read_bytes() + b"\0"
        ),
        named="catalog",
    ),
    "catalog of another backup": Damage(
        inflict=lambda epoch, other: shutil.copy(other / "catalog", epoch), named="catalog"
    ),
    "catalog a symlink": Damage(
        inflict=lambda epoch, other: replace_by_symlink(epoch / "catalog", other / "catalog"),
        named="catalog",
    ),
    "catalog a fifo": Damage(
        inflict=lambda epoch, _: replace_by_fifo(epoch / "catalog"), named="catalog"
    ),
    "data missing": Damage(
        inflict=lambda epoch, _: shutil.rmtree(epoch / "data"), named="directory data"
    ),
    "data a symlink": Damage(
        inflict=lambda epoch, other: replace_by_symlink(epoch / "data", other / "data"),
        named="directory data",
    ),
    "file missing": Damage(
        inflict=lambda epoch, _: (epoch / "data" / "a" / "x.txt").unlink(), named="a/x.txt"
    ),
    "last file missing": Damage(
        inflict=lambda epoch, _: (epoch / "data" / "sparse").unlink(), named="sparse"
    ),
    "file shorter": Damage(
        inflict=lambda epoch, _: truncate(epoch / "data" / "big", 1), named="big"
    ),
    "file longer": Damage(
        inflict=lambda epoch, _: truncate(epoch / "data" / "big", -1), named="big"
    ),
    "file a symlink": Damage(
        inflict=lambda epoch, other: replace_by_symlink(
            epoch / "data" / "big", other / "data" / "big"
        ),
        named="big",
    ),
    "file a fifo": Damage(
        inflict=lambda epoch, _: replace_by_fifo(epoch / "data" / "big"), named="big"
    ),
    "directory missing": Damage(
        inflict=lambda epoch, _: shutil.rmtree(epoch / "data" / "deep"), named="deep"
    ),
    "directory a symlink": Damage(
        inflict=lambda epoch, other: replace_by_symlink(
            epoch / "data" / "deep", other / "data" / "deep"
        ),
        named="deep",
    ),
}
"""Published, but not all there: a restore finds out before its first write."""

CONTENT = {
    "first byte flipped": Damage(
        inflict=lambda epoch, _: flip(epoch / "data" / "a" / "x.txt", 0), named="a/x.txt"
    ),
    "last byte flipped": Damage(
        inflict=lambda epoch, _: flip(epoch / "data" / "big", -1), named="big"
    ),
    "byte of a sparse file flipped": Damage(
        inflict=lambda epoch, _: flip(epoch / "data" / "sparse", -1), named="sparse"
    ),
    "zeroed": Damage(
        inflict=lambda epoch, _: (epoch / "data" / "big").write_bytes(bytes(256 * 600)),
        named="big",
    ),
}
"""Only the checksums tell: a restore finds out while it writes."""

HARMLESS = {
    "extra file": Damage(
        inflict=lambda epoch, _: (epoch / "data" / "deep" / "extra").write_bytes(b"planted"),
        named="deep/extra",
    ),
    "extra directory": Damage(
        inflict=lambda epoch, _: (epoch / "data" / "extra").mkdir(), named="extra"
    ),
    "extra symlink": Damage(
        inflict=lambda epoch, _: (epoch / "data" / "extra").symlink_to("/etc"), named="extra"
    ),
    "stranger beside the catalog": Damage(
        inflict=lambda epoch, _: (epoch / "new\nline").write_bytes(b""), named="new\\x0aline"
    ),
}
"""More than there should be: reported, but all that was stored is there."""
