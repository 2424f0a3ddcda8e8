"""The limit of requests towards an application is shared by the processes that ask it.

Revision: r0015
"""

import sqlalchemy as sa
from alembic import op

revision = "r0015"
down_revision = "r0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only."""
    op.create_table(
        "request_budgets",
        sa.Column("application_id", sa.String(40), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["application_id"], ["applications.id"], name=op.f("fk_request_budgets_application_id_applications")
        ),
        sa.PrimaryKeyConstraint("application_id", name=op.f("pk_request_budgets")),
    )
