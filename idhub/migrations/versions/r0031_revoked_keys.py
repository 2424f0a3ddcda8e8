"""Signing keys can be revoked: others may have them, and nothing that they sign counts.

The version before takes such a key for a retired one.

Revision: r0031
"""

import sqlalchemy as sa
from alembic import op

revision = "r0031"
down_revision = "r0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """No key is revoked yet."""
    op.add_column("signing_keys", sa.Column("revoked_at", sa.BigInteger(), nullable=True))
