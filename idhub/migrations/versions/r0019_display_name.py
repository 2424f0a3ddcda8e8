"""Lists of people whose shown name begins with a text walk an index of their own.

Revision: r0019
"""

from alembic import op

revision = "r0019"
down_revision = "r0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only."""
    by_bytes = ' COLLATE "C"' if op.get_bind().dialect.name == "postgresql" else ""
    op.execute(f"CREATE INDEX ix_people_display_name ON people ((lower(display_name){by_bytes}), id)")
