"""Reconciliation: its plans, its runs, what it found, and receipts that it contradicts."""

import sqlalchemy as sa
from alembic import op

revision = "r0008"
down_revision = "r0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only."""
    op.add_column("case_rows", sa.Column("contradicted_at", sa.BigInteger(), nullable=True))
    op.create_table(
        "reconcile_plans",
        sa.Column("application_id", sa.String(40), nullable=False),
        sa.Column("every_seconds", sa.Integer(), nullable=False),
        sa.Column("policy", sa.String(16), nullable=False),
        sa.Column("service_accounts", sa.Text(), nullable=False),
        sa.Column("next_run_at", sa.BigInteger(), nullable=True),
        sa.Column("completed_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["application_id"], ["applications.id"], name=op.f("fk_reconcile_plans_application_id_applications")
        ),
        sa.PrimaryKeyConstraint("application_id", name=op.f("pk_reconcile_plans")),
    )
    op.create_table(
        "reconcile_runs",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("application_id", sa.String(40), nullable=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("total", sa.Integer(), nullable=True),
        sa.Column("read", sa.Integer(), nullable=False),
        sa.Column("gaps", sa.Text(), nullable=False),
        sa.Column("counts", sa.Text(), nullable=False),
        sa.Column("started_by", sa.String(60), nullable=False),
        sa.ForeignKeyConstraint(
            ["application_id"], ["applications.id"], name=op.f("fk_reconcile_runs_application_id_applications")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reconcile_runs")),
    )
    op.create_index("ix_reconcile_runs_newest", "reconcile_runs", ["source", "application_id", "started_at"])
    op.create_table(
        "findings",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(24), nullable=False),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("organization_id", sa.String(40), nullable=False),
        sa.Column("application_id", sa.String(40), nullable=True),
        sa.Column("account_id", sa.String(40), nullable=True),
        sa.Column("external_id", sa.String(255), nullable=True),
        sa.Column("principal_id", sa.String(40), nullable=True),
        sa.Column("subject", sa.String(254), nullable=False),
        sa.Column("basis", sa.String(24), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("proposal", sa.String(24), nullable=False),
        sa.Column("owner_id", sa.String(40), nullable=True),
        sa.Column("deadline_at", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("dismissed_until", sa.BigInteger(), nullable=True),
        sa.Column("decided_by", sa.String(60), nullable=True),
        sa.Column("decided_at", sa.BigInteger(), nullable=True),
        sa.Column("acted_at", sa.BigInteger(), nullable=True),
        sa.Column("delivery_id", sa.String(40), nullable=True),
        sa.Column("held_at", sa.BigInteger(), nullable=True),
        sa.Column("first_approver", sa.String(60), nullable=True),
        sa.Column("first_seen_at", sa.BigInteger(), nullable=False),
        sa.Column("last_seen_at", sa.BigInteger(), nullable=False),
        sa.Column("closed_at", sa.BigInteger(), nullable=True),
        sa.Column("last_run_id", sa.String(40), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"], name=op.f("fk_findings_organization_id_organizations")
        ),
        sa.ForeignKeyConstraint(
            ["application_id"], ["applications.id"], name=op.f("fk_findings_application_id_applications")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_findings")),
    )
    op.create_index("uq_findings_fingerprint", "findings", ["fingerprint"], unique=True)
    op.create_index("ix_findings_state", "findings", ["state", "last_seen_at"])
    op.create_index("ix_findings_application", "findings", ["application_id", "state", "id"])
    op.create_index("ix_findings_acted", "findings", ["application_id", "acted_at"])
    op.create_index("ix_findings_person", "findings", ["principal_id"])


def downgrade() -> None:
    """Back to where only deliveries said what applications hold."""
    for table in ("findings", "reconcile_runs", "reconcile_plans"):
        op.drop_table(table)
    op.drop_column("case_rows", "contradicted_at")
