"""Indexes of a leave: live accounts by application, for control reads; rows of cases that end by expiry alone.

Revision: r0004
"""

import sqlalchemy as sa
from alembic import op

revision = "r0004"
down_revision = "r0003"
branch_labels = None
depends_on = None

_ALIVE = "known_state = 'active' AND desired_state = 'active' AND external_id IS NOT NULL"
_ELAPSES = "delivery_id IS NULL AND residual_until IS NOT NULL"


def upgrade() -> None:
    """Add the indexes."""
    op.create_index(
        "ix_accounts_alive",
        "accounts",
        ["application_id", "observed_at"],
        sqlite_where=sa.text(_ALIVE),
        postgresql_where=sa.text(_ALIVE),
    )
    op.create_index(
        "ix_case_rows_elapsing",
        "case_rows",
        ["case_id"],
        sqlite_where=sa.text(_ELAPSES),
        postgresql_where=sa.text(_ELAPSES),
    )
