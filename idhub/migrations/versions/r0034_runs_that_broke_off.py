"""Runs of an HR file that tell that they go on, and people whom a look after a change of rules could not take in.

Revision: r0034
"""

import sqlalchemy as sa
from alembic import op

revision = "r0034"
down_revision = "r0033"
branch_labels = None
depends_on = None
_OPEN = sa.text("finished_at IS NULL AND broken_at IS NULL")


def upgrade() -> None:
    """Expand only."""
    op.add_column("source_runs", sa.Column("seen_at", sa.BigInteger(), nullable=True))
    op.add_column("source_runs", sa.Column("broken_at", sa.BigInteger(), nullable=True))
    op.add_column("source_runs", sa.Column("within", sa.Text(), nullable=True))
    op.create_index(
        "ix_source_runs_open", "source_runs", ["provider"], unique=False, sqlite_where=_OPEN, postgresql_where=_OPEN
    )
    op.create_table(
        "unevaluated_people",
        sa.Column("principal_id", sa.String(40), nullable=False),
        sa.Column("error", sa.String(120), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("again_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["principal_id"], ["principals.id"], name=op.f("fk_unevaluated_people_principal_id_principals")
        ),
        sa.PrimaryKeyConstraint("principal_id", name=op.f("pk_unevaluated_people")),
    )
