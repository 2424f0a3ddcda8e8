"""Indexes for lists: deliveries as planned and as finished, people by their start, cases by their effect.

Revision: r0007
"""

import sqlalchemy as sa
from alembic import op

revision = "r0007"
down_revision = "r0006"
branch_labels = None
depends_on = None

_FINISHED = sa.text("finished_at IS NOT NULL")


def upgrade() -> None:
    """Expand only."""
    op.create_index("ix_deliveries_planned", "deliveries", ["planned_at", "id"])
    op.create_index("ix_deliveries_application", "deliveries", ["application_id", "planned_at", "id"])
    op.create_index(
        "ix_deliveries_finished", "deliveries", ["state", "finished_at"],
        sqlite_where=_FINISHED, postgresql_where=_FINISHED,
    )  # fmt: skip
    op.create_index("ix_employments_starts_at", "employments", ["starts_at"])
    op.create_index("ix_cases_effective", "cases", ["kind", "effective_at", "id"])
