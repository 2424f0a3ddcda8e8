"""SCIM documents of people, kept ready-made; people of a company in the order of their ids.

The database itself counts renamings of companies and departments, whoever renames them: a migration that makes one of
these tables anew on SQLite must make its trigger anew. Code of the version before changes people as it did; documents
made of what they were hold no more.

Revision: r0023
"""

import sqlalchemy as sa
from alembic import op

from idhub.db import Utf8

revision = "r0023"
down_revision = "r0022"
branch_labels = None
depends_on = None

_NAMES = {"organizations": ("name", "code"), "departments": ("path", "organization_id")}


def upgrade() -> None:
    """Expand only."""
    op.create_table(
        "scim_documents",
        sa.Column("principal_id", sa.String(40), nullable=False),
        sa.Column("person_version", sa.Integer(), nullable=False),
        sa.Column("said_version", sa.Integer(), nullable=False),
        sa.Column("names_version", sa.Integer(), nullable=False),
        sa.Column("rules", sa.String(16), nullable=False),
        sa.Column("mail_key", sa.String(254), nullable=True),
        sa.Column("is_mail_taken", sa.Boolean(), nullable=True),
        sa.Column("is_plain", sa.Boolean(), nullable=False),
        sa.Column("is_all", sa.Boolean(), nullable=False),
        sa.Column("digest", sa.String(16), nullable=False),
        sa.Column("body", Utf8(), nullable=False),
        sa.PrimaryKeyConstraint("principal_id", name=op.f("pk_scim_documents")),
    )
    names = op.create_table(
        "scim_names",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scim_names")),
    )
    op.bulk_insert(names, [{"id": 1, "version": 1}])
    op.create_index("ix_principals_organization", "principals", ["organization_id", "id"])
    op.drop_index("ix_principals_organization_id", "principals")
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    count = "UPDATE scim_names SET version = version + 1"
    if not is_sqlite:
        op.execute(
            "CREATE FUNCTION scim_count_names() RETURNS trigger LANGUAGE plpgsql AS $$ "
            f"BEGIN {count}; RETURN NULL; END $$"
        )
    for table, columns in _NAMES.items():
        head = f"CREATE TRIGGER {table}_scim_names AFTER UPDATE OF {', '.join(columns)} ON {table}"
        op.execute(
            f"{head} BEGIN {count}; END"
            if is_sqlite
            else f"{head} FOR EACH STATEMENT EXECUTE FUNCTION scim_count_names()"
        )


def downgrade() -> None:
    """Back to where each page made its documents."""
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for table in _NAMES:
        op.execute(f"DROP TRIGGER {table}_scim_names" + ("" if is_sqlite else f" ON {table}"))
    if not is_sqlite:
        op.execute("DROP FUNCTION scim_count_names()")
    op.create_index("ix_principals_organization_id", "principals", ["organization_id"])
    op.drop_index("ix_principals_organization", "principals")
    op.drop_table("scim_names")
    op.drop_table("scim_documents")
