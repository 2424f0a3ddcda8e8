"""Identity providers of companies, what a sign-in asked them, and when an epoch went up.

Revision: r0016
"""

import sqlalchemy as sa
from alembic import op

revision = "r0016"
down_revision = "r0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only."""
    op.create_table(
        "identity_providers",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("slug", sa.String(60), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("name_zh", sa.String(200), nullable=True),
        sa.Column("organization_id", sa.String(40), nullable=False),
        sa.Column("domains", sa.Text(), nullable=False),
        sa.Column("rules", sa.Text(), nullable=False),
        sa.Column("subject_attribute", sa.Text(), nullable=True),
        sa.Column("entity_id", sa.Text(), nullable=False),
        sa.Column("sign_on_services", sa.Text(), nullable=False),
        sa.Column("logout_services", sa.Text(), nullable=False),
        sa.Column("signing_certificates", sa.Text(), nullable=False),
        sa.Column("signature_policy", sa.String(16), nullable=False),
        sa.Column("name_id_format", sa.String(100), nullable=True),
        sa.Column("contexts", sa.Text(), nullable=False),
        sa.Column("max_age_seconds", sa.Integer(), nullable=True),
        sa.Column("allows_unsolicited", sa.Boolean(), nullable=False),
        sa.Column("is_shown", sa.Boolean(), nullable=False),
        sa.Column("metadata_url", sa.Text(), nullable=True),
        sa.Column("metadata_certificate", sa.Text(), nullable=True),
        sa.Column("metadata_valid_until", sa.BigInteger(), nullable=True),
        sa.Column("metadata_read_at", sa.BigInteger(), nullable=True),
        sa.Column("metadata_due_at", sa.BigInteger(), nullable=True),
        sa.Column("metadata_error", sa.Text(), nullable=True),
        sa.Column("is_enabled", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"], name=op.f("fk_identity_providers_organization_id_organizations")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identity_providers")),
        sa.UniqueConstraint("entity_id", name=op.f("uq_identity_providers_entity_id")),
    )
    for column in ("slug", "organization_id", "metadata_due_at"):
        op.create_index(op.f(f"ix_identity_providers_{column}"), "identity_providers", [column])
    op.create_table(
        "upstream_sessions",
        sa.Column("session_id", sa.String(40), nullable=False),
        sa.Column("provider_id", sa.String(40), nullable=False),
        sa.Column("name_id", sa.String(255), nullable=False),
        sa.Column("session_index", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name=op.f("fk_upstream_sessions_session_id_sessions")),
        sa.ForeignKeyConstraint(
            ["provider_id"],
            ["identity_providers.id"],
            name=op.f("fk_upstream_sessions_provider_id_identity_providers"),
        ),
        sa.PrimaryKeyConstraint("session_id", name=op.f("pk_upstream_sessions")),
    )
    op.create_index("ix_upstream_sessions_name_id", "upstream_sessions", ["provider_id", "name_id"])
    op.add_column("login_transactions", sa.Column("upstream", sa.Text(), nullable=True))
    op.add_column("principals", sa.Column("epoch_raised_at", sa.BigInteger(), nullable=True))
