"""Bulk requests of SCIM senders that are worked later."""

import sqlalchemy as sa
from alembic import op

revision = "r0010"
down_revision = "r0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only."""
    op.create_table(
        "scim_jobs",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("token_id", sa.String(40), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=True),
        sa.Column("status", sa.String(12), nullable=False),
        sa.Column("reason", sa.String(120), nullable=True),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("errors", sa.Integer(), nullable=False),
        sa.Column("fail_on_errors", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scim_jobs")),
    )
    op.create_index(op.f("ix_scim_jobs_token_id"), "scim_jobs", ["token_id"])
    op.create_index(op.f("ix_scim_jobs_status"), "scim_jobs", ["status"])
    op.create_table(
        "scim_job_operations",
        sa.Column("job_id", sa.String(40), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("turn", sa.Integer(), nullable=False),
        sa.Column("sent", sa.LargeBinary(), nullable=True),
        sa.Column("bulk_id", sa.Text(), nullable=True),
        sa.Column("is_done", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("resource_id", sa.String(40), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["scim_jobs.id"], name=op.f("fk_scim_job_operations_job_id_scim_jobs")),
        sa.PrimaryKeyConstraint("job_id", "place", name=op.f("pk_scim_job_operations")),
    )
    op.create_index("ix_scim_job_operations_turn", "scim_job_operations", ["job_id", "is_done", "turn"])


def downgrade() -> None:
    """Back to where every bulk request was answered at once."""
    op.drop_table("scim_job_operations")
    op.drop_table("scim_jobs")
