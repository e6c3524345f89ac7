# SPDX-License-Identifier: Apache-2.0
"""What servers that tests start have in common: a temporary directory, and an end."""

from __future__ import annotations

import abc
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self


class MissingServer(Exception):
    """The programs are not installed."""


class Server(abc.ABC):
    """A context manager; its directory is gone at the end."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix=f"{type(self).__name__.lower()}-"))

    def __enter__(self) -> Self:
        try:
            self._set_up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._directory)

    @abc.abstractmethod
    def _set_up(self) -> None:
        """Make it and start it."""

    @abc.abstractmethod
    def stop(self) -> None:
        """Nothing of it runs any more; also when nothing did."""
