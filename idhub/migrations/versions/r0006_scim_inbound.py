"""What the SCIM server keeps beside the directory; groups that change and end."""

import sqlalchemy as sa
from alembic import op

revision = "r0006"
down_revision = "r0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only."""
    op.add_column("groups", sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False))
    op.add_column("groups", sa.Column("changed_at", sa.BigInteger(), nullable=True))
    op.add_column("groups", sa.Column("ended_at", sa.BigInteger(), nullable=True))
    op.create_table(
        "scim_users",
        sa.Column("principal_id", sa.String(40), nullable=False),
        sa.Column("user_name", sa.String(254), nullable=False),
        sa.Column("user_name_key", sa.String(254), nullable=False),
        sa.Column("extras", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.Column("deleted_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["principal_id"], ["principals.id"], name=op.f("fk_scim_users_principal_id_principals")
        ),
        sa.PrimaryKeyConstraint("principal_id", name=op.f("pk_scim_users")),
        sa.UniqueConstraint("user_name_key", name=op.f("uq_scim_users_user_name_key")),
    )
    op.create_table(
        "scim_values",
        sa.Column("principal_id", sa.String(40), nullable=False),
        sa.Column("name", sa.String(40), nullable=False),
        sa.Column("value", sa.String(254), nullable=False),
        sa.ForeignKeyConstraint(
            ["principal_id"], ["principals.id"], name=op.f("fk_scim_values_principal_id_principals")
        ),
        sa.PrimaryKeyConstraint("principal_id", "name", "value", name=op.f("pk_scim_values")),
    )
    op.create_index("ix_scim_values_lookup", "scim_values", ["name", "value"])
    op.create_table(
        "scim_external_ids",
        sa.Column("provider", sa.String(60), nullable=False),
        sa.Column("resource_id", sa.String(40), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("external_id", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("provider", "resource_id", name=op.f("pk_scim_external_ids")),
    )
    op.create_index("uq_scim_external_ids_value", "scim_external_ids", ["provider", "kind", "external_id"], unique=True)


def downgrade() -> None:
    """Back to where nobody spoke SCIM to the hub."""
    op.drop_table("scim_external_ids")
    op.drop_table("scim_values")
    op.drop_table("scim_users")
    for column in ("ended_at", "changed_at", "version"):
        op.drop_column("groups", column)
