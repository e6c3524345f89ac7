# SPDX-License-Identifier: Apache-2.0
"""${message}"""

from alembic import op
import sqlalchemy as sa

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
${imports if imports else ""}

def upgrade() -> None:
    ${upgrades if upgrades else "pass"}
