"""Deliveries that wait until somebody has said whose an account is are in review: until now dead letters of that text.

Revision: r0029
"""

from alembic import op

revision = "r0029"
down_revision = "r0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A version before this one shows them as what they are, and counts them nowhere."""
    op.execute(
        "UPDATE deliveries SET state = 'review' WHERE state = 'dead' AND operation = 'provision' AND ("
        "last_error = 'An account there may be this person''s. Confirm or reject it in the list of reviews.' "
        "OR last_error LIKE 'The application has % accounts for this person. Keep one of them.')"
    )
