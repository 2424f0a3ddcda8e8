"""People search: an index of its own instead of a scan of every person's terms.

People who are there already are indexed by the worker (`directory.search_index.index_missing`).

Revision: r0002
"""

import sqlalchemy as sa
from alembic import op

revision = "r0002"
down_revision = "r0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables of the index and each person's place in it."""
    surrogate = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    byte_ordered = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    shelves = op.create_table(
        "search_shelves",
        sa.Column("id", surrogate, nullable=False),
        sa.Column("people", sa.Integer(), nullable=False),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_search_shelves")),
    )
    op.bulk_insert(shelves, [{"id": 0, "people": 0, "tags": ""}])
    op.create_table(
        "search_runs",
        sa.Column("id", surrogate, nullable=False),
        sa.Column("shelf_id", sa.BigInteger(), nullable=False),
        sa.Column("people", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_search_runs")),
    )
    op.create_index(op.f("ix_search_runs_shelf_id"), "search_runs", ["shelf_id"])
    op.create_table(
        "search_blocks",
        sa.Column("shelf_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("first", byte_ordered, nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("shelf_id", "first", name=op.f("pk_search_blocks")),
    )
    # A column and an index of its own, not a constraint: SQLite would copy the whole table for one.
    op.add_column("people", sa.Column("search_place", sa.BigInteger(), nullable=True))
    op.create_index("uq_people_search_place", "people", ["search_place"], unique=True)
    missing = sa.text("search_place IS NULL")
    op.create_index("ix_people_not_indexed", "people", ["id"], sqlite_where=missing, postgresql_where=missing)
    not_active = sa.text("standing <> 'active'")
    op.create_index(
        "ix_principals_not_active", "principals", ["standing", "id"],
        sqlite_where=not_active, postgresql_where=not_active,
    )  # fmt: skip


def downgrade() -> None:
    """Forget the index."""
    op.drop_index("ix_principals_not_active", "principals")
    op.drop_index("ix_people_not_indexed", "people")
    op.drop_index("uq_people_search_place", "people")
    op.drop_column("people", "search_place")
    op.drop_table("search_blocks")
    op.drop_table("search_runs")
    op.drop_table("search_shelves")
