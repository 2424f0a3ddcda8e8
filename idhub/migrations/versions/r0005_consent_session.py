"""An answer of the consent page belongs to the session in which it was given."""

import sqlalchemy as sa
from alembic import op

revision = "r0005"
down_revision = "r0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only."""
    op.add_column("login_transactions", sa.Column("consent_session_id", sa.String(40), nullable=True))


def downgrade() -> None:
    """As it was."""
    op.drop_column("login_transactions", "consent_session_id")
