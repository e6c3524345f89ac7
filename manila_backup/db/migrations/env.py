# SPDX-License-Identifier: Apache-2.0
"""Runs the migrations in the database that ``db.migration`` hands over."""

from alembic import context

from manila_backup.db.models import Base

database = context.config.attributes["database"]
with database.writer_engine.connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        transaction_per_migration=True,
        render_as_batch=True,
    )
    with context.begin_transaction():
        context.run_migrations()
