"""What the outbound engine keeps: discoveries, groups, reviews, runs, a token's successor, last known attributes."""

import sqlalchemy as sa
from alembic import op

revision = "r0011"
down_revision = "r0010"
branch_labels = None
depends_on = None

_TARGET_COLUMNS = (
    ("options", sa.Text()),
    ("token_expires_at", sa.BigInteger()),
    ("next_token_sealed", sa.LargeBinary()),
    ("next_token_expires_at", sa.BigInteger()),
)


def upgrade() -> None:
    """Expand only."""
    for name, kind in _TARGET_COLUMNS:
        op.add_column("scim_targets", sa.Column(name, kind, nullable=True))
    op.add_column("accounts", sa.Column("known_attributes", sa.Text(), nullable=True))
    op.add_column("accounts", sa.Column("off_since", sa.BigInteger(), nullable=True))
    op.add_column("delivery_holds", sa.Column("last_delivery", sa.String(40), nullable=True))
    op.create_table(
        "scim_discoveries",
        sa.Column("application_id", sa.String(40), nullable=False),
        sa.Column("base_url", sa.Text(), nullable=False),
        sa.Column("capabilities", sa.Text(), nullable=False),
        sa.Column("attributes", sa.Text(), nullable=False),
        sa.Column("fetched_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["application_id"], ["applications.id"], name=op.f("fk_scim_discoveries_application_id_applications")
        ),
        sa.PrimaryKeyConstraint("application_id", name=op.f("pk_scim_discoveries")),
    )
    op.create_table(
        "outbound_groups",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("application_id", sa.String(40), nullable=False),
        sa.Column("source_kind", sa.String(16), nullable=False),
        sa.Column("source_ref", sa.String(100), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("is_wanted", sa.Boolean(), nullable=False),
        sa.Column("external_id", sa.String(255), nullable=True),
        sa.Column("known_name", sa.String(200), nullable=True),
        sa.Column("known_version", sa.Integer(), nullable=False),
        sa.Column("dirty_at", sa.BigInteger(), nullable=True),
        sa.Column("synced_at", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["application_id"], ["applications.id"], name=op.f("fk_outbound_groups_application_id_applications")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbound_groups")),
    )
    op.create_index(
        "uq_outbound_groups_source", "outbound_groups", ["application_id", "source_kind", "source_ref"], unique=True
    )
    op.create_table(
        "outbound_members",
        sa.Column("group_id", sa.String(40), nullable=False),
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.ForeignKeyConstraint(
            ["group_id"], ["outbound_groups.id"], name=op.f("fk_outbound_members_group_id_outbound_groups")
        ),
        sa.PrimaryKeyConstraint("group_id", "user_id", name=op.f("pk_outbound_members")),
    )
    op.create_table(
        "adoption_reviews",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("application_id", sa.String(40), nullable=False),
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.Column("user_name", sa.String(254), nullable=True),
        sa.Column("email", sa.String(254), nullable=True),
        sa.Column("rule", sa.String(24), nullable=True),
        sa.Column("problem", sa.String(16), nullable=False),
        sa.Column("candidates", sa.Text(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("principal_id", sa.String(40), nullable=True),
        sa.Column("decided_by", sa.String(60), nullable=True),
        sa.Column("decided_at", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["application_id"], ["applications.id"], name=op.f("fk_adoption_reviews_application_id_applications")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_adoption_reviews")),
    )
    op.create_index("uq_adoption_reviews_user", "adoption_reviews", ["application_id", "user_id"], unique=True)
    op.create_index("ix_adoption_reviews_state", "adoption_reviews", ["state", "application_id"])
    op.create_table(
        "sync_runs",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("application_id", sa.String(40), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("planned", sa.Integer(), nullable=False),
        sa.Column("cursor", sa.String(40), nullable=True),
        sa.Column("started_by", sa.String(60), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["application_id"], ["applications.id"], name=op.f("fk_sync_runs_application_id_applications")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sync_runs")),
    )
    op.create_index("ix_sync_runs_application", "sync_runs", ["application_id", "started_at"])


def downgrade() -> None:
    """Back to one account at a time."""
    for table in ("sync_runs", "adoption_reviews", "outbound_members", "outbound_groups", "scim_discoveries"):
        op.drop_table(table)
    op.drop_column("delivery_holds", "last_delivery")
    op.drop_column("accounts", "off_since")
    op.drop_column("accounts", "known_attributes")
    for name, _ in reversed(_TARGET_COLUMNS):
        op.drop_column("scim_targets", name)
