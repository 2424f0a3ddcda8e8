"""Relying parties of WS-Federation, beside the SAML service providers that they are registered like.

Code of the version before takes them for service providers that never ask it for anything.

Revision: r0018
"""

import sqlalchemy as sa
from alembic import op

revision = "r0018"
down_revision = "r0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only."""
    table = "saml_service_providers"
    op.add_column(table, sa.Column("protocol", sa.String(16), server_default="saml", nullable=False))
    op.add_column(table, sa.Column("assertion_version", sa.String(8), server_default="2.0", nullable=False))
    op.add_column(table, sa.Column("assertion_seconds", sa.Integer(), nullable=True))


def downgrade() -> None:
    """Back to where nobody spoke WS-Federation to the hub; its relying parties are switched off."""
    op.execute(sa.text("UPDATE saml_service_providers SET is_enabled = false WHERE protocol != 'saml'"))
    with op.batch_alter_table("saml_service_providers") as batch:
        batch.drop_column("assertion_seconds")
        batch.drop_column("assertion_version")
        batch.drop_column("protocol")
