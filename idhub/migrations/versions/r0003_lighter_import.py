"""Fewer index entries a person: indexes that nothing asks go, those that mostly hold NULL become partial.

Every index is written once for each of a million imported people. Whom a source no longer lists is read page by page in
the order of its keys.

Revision: r0003
"""

import sqlalchemy as sa
from alembic import op

revision = "r0003"
down_revision = "r0002"
branch_labels = None
depends_on = None

_ENDS = sa.text("state <> 'ended' AND ends_at IS NOT NULL")
_OWNED = sa.text("owner_id IS NOT NULL")


def upgrade() -> None:
    """Drop and remake indexes; older code runs on, with other plans."""
    op.drop_index("ix_principals_owner_id", table_name="principals")
    op.create_index("ix_principals_owner_id", "principals", ["owner_id"], sqlite_where=_OWNED, postgresql_where=_OWNED)
    op.drop_index("ix_login_names_principal_id", table_name="login_names")
    op.drop_index("ix_employments_department_id", table_name="employments")
    op.drop_index("ix_employments_manager_id", table_name="employments")
    op.drop_index("ix_employments_ends_due", table_name="employments")
    op.create_index("ix_employments_ends_due", "employments", ["ends_at"], sqlite_where=_ENDS, postgresql_where=_ENDS)
    op.drop_index("ix_source_records_scope", table_name="source_records")
    op.create_index("ix_source_records_scope", "source_records", ["provider", "scope", "key"])
