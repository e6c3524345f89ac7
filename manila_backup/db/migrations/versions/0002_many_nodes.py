# SPDX-License-Identifier: Apache-2.0
"""many nodes: operations know their zone, and when a project was served last is an index look-up"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    with op.batch_alter_table("operations", schema=None) as batch_op:
        batch_op.add_column(sa.Column("availability_zone", sa.String(length=255), nullable=True))
        batch_op.create_index(
            "operations_project_idx", ["project_id", "started_at_us"], unique=False
        )
