"""SCIM events: who is told of changes, and what waits to be told.

Revision: r0025
"""

import sqlalchemy as sa
from alembic import op

revision = "r0025"
down_revision = "r0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only."""
    op.create_table(
        "scim_event_streams",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("token_name", sa.String(120), nullable=False),
        sa.Column("organization_id", sa.String(40), nullable=True),
        sa.Column("requested", sa.Text(), nullable=False),
        sa.Column("audience", sa.Text(), nullable=True),
        sa.Column("push_url", sa.Text(), nullable=True),
        sa.Column("authorization_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.BigInteger(), nullable=False),
        sa.Column("heard_at", sa.BigInteger(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("refused", sa.Integer(), nullable=False),
        sa.Column("lost", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organizations.id"],
            name=op.f("fk_scim_event_streams_organization_id_organizations"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scim_event_streams")),
    )
    op.create_table(
        "scim_events",
        sa.Column(
            "place", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=False), nullable=False
        ),
        sa.Column("stream_id", sa.String(40), nullable=False),
        sa.Column("token_id", sa.String(40), nullable=False),
        sa.Column("transaction_id", sa.String(60), nullable=False),
        sa.Column("resource", sa.String(12), nullable=False),
        sa.Column("resource_id", sa.String(60), nullable=False),
        sa.Column("kind", sa.String(24), nullable=False),
        sa.Column("details", sa.Text(), nullable=False),
        sa.Column("happened_at", sa.BigInteger(), nullable=False),
        sa.Column("is_ready", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.PrimaryKeyConstraint("place", name=op.f("pk_scim_events")),
    )
    op.create_index("ix_scim_events_stream", "scim_events", ["stream_id", "place"])
    op.create_index("ix_scim_events_token", "scim_events", ["token_id"])
    op.create_index("ix_scim_events_happened", "scim_events", ["happened_at"])
