"""CAS: what applications are to it, their addresses, tickets, and their part in sessions.

Code of the version before sees participants of other protocols alone, as it did: one of CAS has no client for it.

Revision: r0020
"""

import sqlalchemy as sa
from alembic import op

revision = "r0020"
down_revision = "r0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only."""
    op.create_table(
        "cas_services",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("application_id", sa.String(40), nullable=False),
        sa.Column("user_value", sa.String(16), nullable=False),
        sa.Column("attributes", sa.Text(), nullable=False),
        sa.Column("logout", sa.String(16), nullable=False),
        sa.Column("logout_url", sa.Text(), nullable=True),
        sa.Column("is_enabled", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["application_id"], ["applications.id"], name=op.f("fk_cas_services_application_id_applications")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cas_services")),
        sa.UniqueConstraint("application_id", name=op.f("uq_cas_services_application_id")),
    )
    op.create_table(
        "cas_addresses",
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("origin", sa.String(300), nullable=False),
        sa.Column("service_id", sa.String(40), nullable=False),
        sa.Column("match", sa.String(8), nullable=False),
        sa.Column("registered", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["service_id"], ["cas_services.id"], name=op.f("fk_cas_addresses_service_id_cas_services")
        ),
        sa.PrimaryKeyConstraint("url", name=op.f("pk_cas_addresses")),
    )
    op.create_index(op.f("ix_cas_addresses_origin"), "cas_addresses", ["origin"])
    op.create_index(op.f("ix_cas_addresses_service_id"), "cas_addresses", ["service_id"])
    op.create_table(
        "service_tickets",
        sa.Column("ticket_hash", sa.String(64), nullable=False),
        sa.Column("session_id", sa.String(40), nullable=False),
        sa.Column("service_id", sa.String(40), nullable=False),
        sa.Column("service_url", sa.Text(), nullable=False),
        sa.Column("is_fresh", sa.Boolean(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("spent_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name=op.f("fk_service_tickets_session_id_sessions")),
        sa.ForeignKeyConstraint(
            ["service_id"], ["cas_services.id"], name=op.f("fk_service_tickets_service_id_cas_services")
        ),
        sa.PrimaryKeyConstraint("ticket_hash", name=op.f("pk_service_tickets")),
    )
    op.create_index(op.f("ix_service_tickets_session_id"), "service_tickets", ["session_id"])
    op.create_index(op.f("ix_service_tickets_expires_at"), "service_tickets", ["expires_at"])
    with op.batch_alter_table("session_participants") as batch:
        batch.add_column(sa.Column("cas_service_id", sa.String(40), nullable=True))
        batch.add_column(sa.Column("service_url", sa.Text(), nullable=True))
        batch.create_foreign_key(
            "fk_session_participants_cas_service_id_cas_services", "cas_services", ["cas_service_id"], ["id"]
        )


def downgrade() -> None:
    """Back to where nobody spoke CAS to the hub; parts of sessions that such applications had are forgotten."""
    op.execute(sa.text("DELETE FROM session_participants WHERE cas_service_id IS NOT NULL"))
    with op.batch_alter_table("session_participants") as batch:
        batch.drop_constraint("fk_session_participants_cas_service_id_cas_services", type_="foreignkey")
        for column in ("service_url", "cas_service_id"):
            batch.drop_column(column)
    for table in ("service_tickets", "cas_addresses", "cas_services"):
        op.drop_table(table)
