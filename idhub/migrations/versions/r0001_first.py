"""First schema: directory, access, credentials, delivery, lifecycle, authority, keys, audit.

Revision: r0001
"""

from alembic import op

from audit.trail import install_guards
from idhub.migrations.schema import target_metadata

revision = "r0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create every table of the first version."""
    connection = op.get_bind()
    for metadata in target_metadata:
        metadata.create_all(connection)
    install_guards(connection)
