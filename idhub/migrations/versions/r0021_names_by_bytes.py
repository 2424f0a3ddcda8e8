"""PostgreSQL orders login names and SCIM user names by bytes: who is called so and so from the beginning is a range.

No index more: those of the keys are made again. Code of the version before asks for equality alone.

Revision: r0021
"""

from alembic import op

revision = "r0021"
down_revision = "r0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute('ALTER TABLE login_names ALTER COLUMN value TYPE VARCHAR(254) COLLATE "C"')
        op.execute('ALTER TABLE scim_users ALTER COLUMN user_name_key TYPE VARCHAR(254) COLLATE "C"')
