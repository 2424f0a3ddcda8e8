"""Everything a hub stores, counted: what shows that a preview wrote nothing."""

from functools import cache
from typing import Any

from sqlalchemy import CompoundSelect, func, literal, select, union_all

from audit.tables import metadata as audit_metadata
from idhub.db import Base, Database


def row_counts(database: Database, *, with_log: bool = True) -> dict[str, int]:
    """Rows of every table of the hub and, unless a refusal is to be recorded there, of its log."""
    with database.read() as session:
        return {row[0]: row[1] for row in session.execute(_counting(with_log))}


@cache
def _counting(with_log: bool) -> CompoundSelect[Any]:
    tables = [*Base.metadata.sorted_tables, *(audit_metadata.sorted_tables if with_log else ())]
    return union_all(*(select(literal(table.name), func.count()).select_from(table) for table in tables))
