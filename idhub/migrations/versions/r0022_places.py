"""The place of an audit event in the log is a row of its own, so that sealing no longer writes the event again.

From here on only this version and later ones place events; the version before goes on appending and reading, its
sequencer is refused by a guard. Copying the places is the long part and keeps nobody waiting; building the index does,
unless it was built before (docs/operate/postgresql.md).

Revision: r0022
"""

import sqlalchemy as sa
from alembic import op

from audit import tables

revision = "r0022"
down_revision = "r0021"
branch_labels = None
depends_on = None

_SURROGATE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_COPY = (
    "INSERT INTO audit_positions (position, event_row) SELECT position, id FROM audit_events "
    "WHERE position > COALESCE((SELECT MAX(position) FROM audit_positions), -1) ORDER BY position"
)
_REACHED_BY_XID = (
    "SELECT 1, LEAST((SELECT MIN(xid) FROM audit_events WHERE position IS NULL), "
    "(pg_snapshot_xmin(pg_current_snapshot())::text)::bigint) - 1, 0 WHERE EXISTS (SELECT 1 FROM audit_head)"
)
_REACHED_BY_ID = (
    "SELECT 1, 0, COALESCE((SELECT MIN(id) FROM audit_events WHERE position IS NULL), "
    "(SELECT MAX(id) FROM audit_events) + 1, 1) - 1 WHERE EXISTS (SELECT 1 FROM audit_head)"
)


def upgrade() -> None:
    """Expand: the columns of the version before stay, filled as they are."""
    op.create_table(
        "audit_positions",
        sa.Column("position", _SURROGATE, autoincrement=False, nullable=False),
        sa.Column("event_row", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("position"),
    )
    op.create_table(
        "audit_refused",
        sa.Column("event_row", _SURROGATE, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("event_row"),
    )
    op.create_table(
        "audit_reach",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("xid", sa.BigInteger(), nullable=False),
        sa.Column("event_row", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    connection = op.get_bind()
    is_postgresql = connection.dialect.name == "postgresql"
    op.execute(_COPY)
    if is_postgresql:
        # Until this is committed nobody gives out places or appends. The sequencer of the version before reads the
        # events before it moves the head: in this order neither waits for the other.
        op.execute("LOCK TABLE audit_events IN ACCESS EXCLUSIVE MODE")
        op.execute(_COPY)
    op.create_index("uq_audit_positions_event_row", "audit_positions", ["event_row"], unique=True)
    op.create_index(
        "ix_audit_events_arrived",
        "audit_events",
        ["xid", "id"],
        sqlite_where=sa.text("xid IS NOT NULL"),
        postgresql_where=sa.text("position IS NULL"),
        if_not_exists=True,
    )
    op.drop_index("ix_audit_events_unsequenced", table_name="audit_events")
    op.execute(f"INSERT INTO audit_reach (id, xid, event_row) {_REACHED_BY_XID if is_postgresql else _REACHED_BY_ID}")
    op.execute(f"UPDATE audit_lease SET name = '{tables.LEASE}', expires_at = 0")  # noqa: S608 - a constant
    on = " ON audit_events" if is_postgresql else ""
    for guard in ("audit_events_frozen", "audit_events_position", "audit_events_kept"):
        op.execute(f"DROP TRIGGER IF EXISTS {guard}{on}")
    guarded = (tables.audit_events, tables.audit_positions, tables.audit_refused, tables.audit_lease)
    tables.install_guards(connection, only=guarded)
