"""Everything a hub stores, counted: what shows that a preview wrote nothing."""

from sqlalchemy import func, select

from audit.tables import metadata as audit_metadata
from idhub.db import Base, Database


def row_counts(database: Database, *, with_log: bool = True) -> dict[str, int]:
    """Rows of every table of the hub and, unless a refusal is to be recorded there, of its log."""
    tables = [*Base.metadata.sorted_tables, *(audit_metadata.sorted_tables if with_log else ())]
    with database.read() as session:
        return {table.name: session.execute(select(func.count()).select_from(table)).scalar_one() for table in tables}
