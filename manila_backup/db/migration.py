# SPDX-License-Identifier: Apache-2.0
"""Schema versions: alembic, driven from code so that no alembic.ini is needed."""

from __future__ import annotations

from importlib import resources

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from manila_backup.db.engine import Database


def _config(database: Database) -> Config:
    config = Config()
    location = resources.files("manila_backup.db") / "migrations"
    config.set_main_option("script_location", str(location).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["database"] = database
    return config


def sync(database: Database, revision: str = "head") -> None:
    """Bring the schema to ``revision``. Idempotent; one transaction where the database can do that
    (not on MySQL). Of several processes at once one works, and the others wait for it.
    """
    command.upgrade(_config(database), revision)


def version(database: Database) -> str | None:
    """The revision of the schema, or None if there is none."""
    with database.reader_engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def head() -> str:
    """The revision this code needs."""
    found = _scripts().get_current_head()
    if found is None:
        raise RuntimeError("no migrations were installed")
    return found


def is_known(revision: str) -> bool:
    """Whether this code can bring the schema from there to its own."""
    return any(script.revision == revision for script in _scripts().walk_revisions())


def _scripts() -> ScriptDirectory:
    config = Config()
    location = resources.files("manila_backup.db") / "migrations"
    config.set_main_option("script_location", str(location).replace("%", "%%"))
    return ScriptDirectory.from_config(config)
