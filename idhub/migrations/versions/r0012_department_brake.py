"""The brake of the HR file counts leaves of every department too."""

import sqlalchemy as sa
from alembic import op

revision = "r0012"
down_revision = "r0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only; leaves counted before are those of no department."""
    op.add_column("leave_counts", sa.Column("department_id", sa.String(40), nullable=True))
