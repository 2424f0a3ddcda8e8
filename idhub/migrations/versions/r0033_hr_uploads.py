"""HR files that are brought by a page: kept sealed until they are taken in or given up.

Revision: r0033
"""

import sqlalchemy as sa
from alembic import op

revision = "r0033"
down_revision = "r0032"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only."""
    op.create_table(
        "hr_uploads",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("uploaded_by", sa.String(40), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("file_name", sa.String(120), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("is_snapshot", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("claim", sa.String(40), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("preview", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("confirmed_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["uploaded_by"], ["principals.id"], name=op.f("fk_hr_uploads_uploaded_by_principals")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hr_uploads")),
    )
    op.create_index("ix_hr_uploads_state", "hr_uploads", ["state", "created_at"])
    op.create_index(op.f("ix_hr_uploads_uploaded_by"), "hr_uploads", ["uploaded_by"])
    op.create_table(
        "hr_upload_parts",
        sa.Column("upload_id", sa.String(40), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["upload_id"], ["hr_uploads.id"], name=op.f("fk_hr_upload_parts_upload_id_hr_uploads")),
        sa.PrimaryKeyConstraint("upload_id", "place", name=op.f("pk_hr_upload_parts")),
    )
