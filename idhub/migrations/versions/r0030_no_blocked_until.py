"""Counters of tries lose a column that nothing ever wrote or read: how long one is closed follows from its window.

The version before names the columns that it writes, and this is none of them.

Revision: r0030
"""

from alembic import op

revision = "r0030"
down_revision = "r0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """No row changes."""
    op.drop_column("throttles", "blocked_until")
