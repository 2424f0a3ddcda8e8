"""SAML service providers, what is remembered of their requests, and their part in sessions.

Code of the version before sees OIDC participants alone, as it did: it joins them with their clients.
"""

import sqlalchemy as sa
from alembic import op

revision = "r0013"
down_revision = "r0012"
branch_labels = None
depends_on = None

_NAMED = sa.text("name_id IS NOT NULL")


def upgrade() -> None:
    """Expand only."""
    op.create_table(
        "saml_service_providers",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("application_id", sa.String(40), nullable=False),
        sa.Column("entity_id", sa.Text(), nullable=False),
        sa.Column("consumer_services", sa.Text(), nullable=False),
        sa.Column("logout_services", sa.Text(), nullable=False),
        sa.Column("soap_logout_url", sa.Text(), nullable=True),
        sa.Column("signing_certificates", sa.Text(), nullable=False),
        sa.Column("encryption_certificates", sa.Text(), nullable=False),
        sa.Column("name_id_format", sa.String(100), nullable=False),
        sa.Column("attributes", sa.Text(), nullable=False),
        sa.Column("signs_response", sa.Boolean(), nullable=False),
        sa.Column("signs_assertion", sa.Boolean(), nullable=False),
        sa.Column("encrypts_assertion", sa.Boolean(), nullable=False),
        sa.Column("wants_signed_requests", sa.Boolean(), nullable=False),
        sa.Column("allows_idp_initiated", sa.Boolean(), nullable=False),
        sa.Column("answers_not_entitled", sa.Boolean(), nullable=False),
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
            ["application_id"], ["applications.id"], name=op.f("fk_saml_service_providers_application_id_applications")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_saml_service_providers")),
        sa.UniqueConstraint("entity_id", name=op.f("uq_saml_service_providers_entity_id")),
    )
    op.create_index(op.f("ix_saml_service_providers_application_id"), "saml_service_providers", ["application_id"])
    op.create_index(op.f("ix_saml_service_providers_metadata_due_at"), "saml_service_providers", ["metadata_due_at"])
    op.create_table(
        "saml_requests",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_saml_requests")),
    )
    op.create_index(op.f("ix_saml_requests_expires_at"), "saml_requests", ["expires_at"])
    op.create_table(
        "saml_logouts",
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("session_id", sa.String(40), nullable=False),
        sa.Column("participant_id", sa.String(40), nullable=False),
        sa.Column("service_provider_id", sa.String(40), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name=op.f("fk_saml_logouts_session_id_sessions")),
        sa.ForeignKeyConstraint(
            ["service_provider_id"],
            ["saml_service_providers.id"],
            name=op.f("fk_saml_logouts_service_provider_id_saml_service_providers"),
        ),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_saml_logouts")),
    )
    op.create_index(op.f("ix_saml_logouts_session_id"), "saml_logouts", ["session_id"])
    op.create_index(op.f("ix_saml_logouts_participant_id"), "saml_logouts", ["participant_id"])
    with op.batch_alter_table("session_participants") as batch:
        batch.alter_column("client_id", existing_type=sa.String(100), nullable=True)
        batch.add_column(sa.Column("service_provider_id", sa.String(40), nullable=True))
        batch.add_column(sa.Column("name_id", sa.Text(), nullable=True))
        batch.add_column(sa.Column("name_id_format", sa.String(100), nullable=True))
        batch.create_foreign_key(
            "fk_session_participants_service_provider",
            "saml_service_providers",
            ["service_provider_id"],
            ["id"],
        )
    op.create_index(
        "uq_session_participants_saml", "session_participants", ["session_id", "service_provider_id"], unique=True
    )
    op.create_index(
        "ix_session_participants_name_id", "session_participants", ["service_provider_id", "name_id"],
        sqlite_where=_NAMED, postgresql_where=_NAMED,
    )  # fmt: skip


def downgrade() -> None:
    """Back to where nobody spoke SAML to the hub; parts of sessions that SAML applications had are forgotten."""
    op.execute(sa.text("DELETE FROM session_participants WHERE client_id IS NULL"))
    op.drop_index("ix_session_participants_name_id", table_name="session_participants")
    op.drop_index("uq_session_participants_saml", table_name="session_participants")
    with op.batch_alter_table("session_participants") as batch:
        batch.drop_constraint("fk_session_participants_service_provider", type_="foreignkey")
        for column in ("name_id_format", "name_id", "service_provider_id"):
            batch.drop_column(column)
        batch.alter_column("client_id", existing_type=sa.String(100), nullable=False)
    op.drop_table("saml_logouts")
    op.drop_table("saml_requests")
    op.drop_table("saml_service_providers")
