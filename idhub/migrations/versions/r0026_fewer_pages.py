"""A leave writes into fewer indexes: four are made anew, one of them in place of two.

On PostgreSQL a table is locked against writing while its index is built, some seconds for a million rows; events have
most. Until the version before runs no more, it reads deliveries that end an access, and events by their target, more
slowly than before.

Revision: r0026
"""

import sqlalchemy as sa
from alembic import op

revision = "r0026"
down_revision = "r0025"
branch_labels = None
depends_on = None

_AFTER_ENDINGS = sa.text("(CASE WHEN operation IN ('deprovision', 'logout') THEN 0 ELSE 1 END)")
_ALIVE = sa.text("known_state = 'active' AND external_id IS NOT NULL")
_OTHER_TARGETS = sa.text("target_kind NOT IN ('person', 'application', 'delivery')")


def upgrade() -> None:
    """No table changes, and no row."""
    op.drop_index("ix_deliveries_ending", table_name="deliveries")
    op.drop_index("ix_deliveries_state", table_name="deliveries")
    op.create_index("ix_deliveries_state", "deliveries", ["state", "application_id", _AFTER_ENDINGS, "next_attempt_at"])
    op.drop_index("ix_accounts_alive", table_name="accounts")
    op.create_index(
        "ix_accounts_alive",
        "accounts",
        ["application_id", "observed_at"],
        sqlite_where=_ALIVE,
        postgresql_where=_ALIVE,
    )
    op.drop_index("ix_audit_events_target", table_name="audit_events")
    op.create_index(
        "ix_audit_events_target",
        "audit_events",
        ["target_id", "at"],
        sqlite_where=_OTHER_TARGETS,
        postgresql_where=_OTHER_TARGETS,
    )
    if op.get_bind().dialect.name == "sqlite":
        op.drop_index("ix_entitlements_application", table_name="entitlements")
        op.create_index(
            "ix_entitlements_application", "entitlements", ["application_id"], sqlite_where=sa.text("valid_to IS NULL")
        )
