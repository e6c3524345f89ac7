# SPDX-License-Identifier: Apache-2.0
"""Copies a tree as the tree driver does, in a process of its own; started by the benchmark.

With ``--catalog``: checksums, a catalog of every entry in that file, no special files and no
setuid bits in the target. With ``--restore`` SOURCE is what that catalog, which exists, has been
made of, and is laid down again, each piece verified. With neither: as the copy command does, but
without its sync. Ends with 1 when the result is not complete and exact.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack

from manila_backup.data.catalog.entry import Entry
from manila_backup.data.catalog.reader import CatalogReader
from manila_backup.data.catalog.writer import CatalogWriter
from manila_backup.data.copy.base import CopyOptions, CopyResult
from manila_backup.data.copy.restore import restore_tree
from manila_backup.data.copy.tree import copy_tree

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CATALOG_BUFFER_BYTES = 1 << 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--catalog", metavar="FILE")
    parser.add_argument("--restore", action="store_true")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("source")
    parser.add_argument("target")
    result = _copied(parser.parse_args())
    wrong = (*result.remarks.losses, *result.remarks.changed, *result.remarks.skipped)
    for what in wrong:
        print(what, file=sys.stderr)
    return 1 if wrong else 0


def _copied(found: argparse.Namespace) -> CopyResult:
    with ExitStack() as stack:
        source_fd = os.open(found.source, _OPEN)
        stack.callback(os.close, source_fd)
        target_fd = os.open(found.target, _OPEN)
        stack.callback(os.close, target_fd)
        if found.restore:
            return _restored(found, source_fd, target_fd)
        catalog = None
        if found.catalog is not None:
            file = stack.enter_context(open(found.catalog, "xb", _CATALOG_BUFFER_BYTES))
            catalog = CatalogWriter(file)
        result = copy_tree(
            source_fd,
            target_fd,
            CopyOptions(
                plain_target=catalog is not None,
                processes=found.processes,
                threads=found.threads,
            ),
            catalog=catalog,
            progress=lambda counters: None,
            cancelled=lambda: False,
        )
        if catalog is not None:
            catalog.close()
        return result


def _restored(found: argparse.Namespace, source_fd: int, target_fd: int) -> CopyResult:
    def entries() -> Iterator[Entry]:
        with open(found.catalog, "rb", _CATALOG_BUFFER_BYTES) as file:
            yield from CatalogReader(file)

    return restore_tree(
        entries,
        source_fd,
        target_fd,
        CopyOptions(delete=True, processes=found.processes, threads=found.threads),
        progress=lambda counters: None,
        cancelled=lambda: False,
    )


if __name__ == "__main__":
    sys.exit(main())
