"""Codes are found by their grant: where grants are forgotten, the foreign key looked at every code for each of them.

Codes live a day. On a busy PostgreSQL the index may be built beforehand without holding up sign-ins:
CREATE INDEX CONCURRENTLY IF NOT EXISTS ix_authorization_codes_grant_id ON authorization_codes (grant_id).

Revision: r0024
"""

from alembic import op

revision = "r0024"
down_revision = "r0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only."""
    op.create_index(op.f("ix_authorization_codes_grant_id"), "authorization_codes", ["grant_id"], if_not_exists=True)
