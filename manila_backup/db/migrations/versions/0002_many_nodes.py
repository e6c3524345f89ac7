# SPDX-License-Identifier: Apache-2.0
"""many nodes: operations know their zone, when a project was served last is an index look-up, and
so are the newest backups of all projects, and a project's by name and size"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    of_all = ["deleted_at_us", "created_at_us", "id"]
    op.create_index("backups_created_idx", "backups", of_all, unique=False)
    for column in ("name", "size_gib"):
        index = f"backups_project_{column.removesuffix('_gib')}_idx"
        columns = ["project_id", "deleted_at_us", column, "id"]
        op.create_index(index, "backups", columns, unique=False)
    with op.batch_alter_table("operations", schema=None) as batch_op:
        batch_op.add_column(sa.Column("availability_zone", sa.String(length=255), nullable=True))
        batch_op.create_index(
            "operations_project_idx", ["project_id", "started_at_us"], unique=False
        )
