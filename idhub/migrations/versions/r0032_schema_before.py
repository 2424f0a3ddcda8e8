"""A database says from which schema it was brought to its own, so that the version before knows itself.

Revision: r0032
"""

import sqlalchemy as sa
from alembic import op

revision = "r0032"
down_revision = "r0031"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only."""
    op.add_column("installation", sa.Column("schema_before", sa.String(length=32), nullable=True))
