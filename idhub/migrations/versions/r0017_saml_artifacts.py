"""SAML artifacts, and which service providers take them."""

import sqlalchemy as sa
from alembic import op

revision = "r0017"
down_revision = "r0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only; whoever is there goes on being answered by POST."""
    op.create_table(
        "saml_artifacts",
        sa.Column("artifact_hash", sa.String(64), nullable=False),
        sa.Column("service_provider_id", sa.String(40), nullable=False),
        sa.Column("session_id", sa.String(40), nullable=True),
        sa.Column("principal_id", sa.String(40), nullable=True),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("spent_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["service_provider_id"],
            ["saml_service_providers.id"],
            name=op.f("fk_saml_artifacts_service_provider_id_saml_service_providers"),
        ),
        sa.PrimaryKeyConstraint("artifact_hash", name=op.f("pk_saml_artifacts")),
    )
    op.create_index(op.f("ix_saml_artifacts_expires_at"), "saml_artifacts", ["expires_at"])
    op.add_column("saml_service_providers", sa.Column("artifact_consumers", sa.Text(), nullable=True))
    op.add_column("saml_service_providers", sa.Column("response_binding", sa.String(16), nullable=True))


def downgrade() -> None:
    """Artifacts on their way are forgotten."""
    with op.batch_alter_table("saml_service_providers") as batch:
        batch.drop_column("response_binding")
        batch.drop_column("artifact_consumers")
    op.drop_table("saml_artifacts")
