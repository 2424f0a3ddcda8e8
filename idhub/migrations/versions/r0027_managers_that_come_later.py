"""Accounts remember the manager whose account there they had to go without.

What was provisioned before then does not: a resync brings managers up to date.

Revision: r0027
"""

import sqlalchemy as sa
from alembic import op

revision = "r0027"
down_revision = "r0026"
branch_labels = None
depends_on = None

_AWAITS = sa.text("awaited_manager_id IS NOT NULL")
_DUE_AGAIN = sa.text("due_again_at IS NOT NULL")


def upgrade() -> None:
    """Expand only."""
    op.add_column("accounts", sa.Column("awaited_manager_id", sa.String(length=40), nullable=True))
    op.add_column("accounts", sa.Column("due_again_at", sa.BigInteger(), nullable=True))
    op.create_index(
        "ix_accounts_awaits",
        "accounts",
        ["application_id", "awaited_manager_id"],
        sqlite_where=_AWAITS,
        postgresql_where=_AWAITS,
    )
    op.create_index(
        "ix_accounts_due_again",
        "accounts",
        ["application_id", "id"],
        sqlite_where=_DUE_AGAIN,
        postgresql_where=_DUE_AGAIN,
    )
