"""Streams of SCIM events can be paused.

Revision: r0028
"""

import sqlalchemy as sa
from alembic import op

revision = "r0028"
down_revision = "r0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only."""
    op.add_column("scim_event_streams", sa.Column("paused_at", sa.BigInteger(), nullable=True))
