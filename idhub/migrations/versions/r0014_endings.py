"""Deliveries that end an access are found by themselves: they do not wait behind a first load.

Revision: r0014
"""

import sqlalchemy as sa
from alembic import op

revision = "r0014"
down_revision = "r0013"
branch_labels = None
depends_on = None

_PENDING_ENDING = sa.text("state = 'pending' AND operation IN ('deprovision', 'logout')")


def upgrade() -> None:
    """Expand only."""
    op.create_index(
        "ix_deliveries_ending", "deliveries", ["state", "application_id", "next_attempt_at"],
        sqlite_where=_PENDING_ENDING, postgresql_where=_PENDING_ENDING,
    )  # fmt: skip
