"""Terms of SCIM tokens; who ended a person by SCIM; registered extensions."""

import sqlalchemy as sa
from alembic import op

revision = "r0009"
down_revision = "r0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only."""
    op.add_column("api_tokens", sa.Column("terms", sa.Text(), nullable=True))
    op.add_column("scim_users", sa.Column("ended_by", sa.String(60), nullable=True))
    op.add_column("scim_users", sa.Column("ended_epoch", sa.Integer(), nullable=True))
    op.create_table(
        "scim_extensions",
        sa.Column("schema", sa.String(200), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("schema", name=op.f("pk_scim_extensions")),
    )
    op.create_table(
        "scim_unique_values",
        sa.Column("name", sa.String(40), nullable=False),
        sa.Column("value_hash", sa.String(64), nullable=False),
        sa.Column("principal_id", sa.String(40), nullable=False),
        sa.ForeignKeyConstraint(
            ["principal_id"], ["principals.id"], name=op.f("fk_scim_unique_values_principal_id_principals")
        ),
        sa.PrimaryKeyConstraint("name", "value_hash", name=op.f("pk_scim_unique_values")),
    )
    op.create_index(op.f("ix_scim_unique_values_principal_id"), "scim_unique_values", ["principal_id"])


def downgrade() -> None:
    """Back to where every token had the same terms."""
    op.drop_table("scim_unique_values")
    op.drop_table("scim_extensions")
    op.drop_column("scim_users", "ended_epoch")
    op.drop_column("scim_users", "ended_by")
    op.drop_column("api_tokens", "terms")
