"""The database: SQLite or PostgreSQL, with one form of columns, transactions and statements for both.

Owns how a connection is opened, begun and ended, and how values are stored. Does not own any table.

Entry points: `create_database` and `Database` (transactions, snapshots), `Base` and the column types, `new_id`, and for
many rows at once `bulk_insert`, `insert_rows`, `among`, `in_one_piece`. What only one of the two databases has is in
`sqlite` and in `postgres`.
"""

from idhub.db.bulk import (
    MAX_IN_VALUES,
    Brief,
    among,
    bulk_insert,
    chunked,
    given,
    given_value,
    in_one_piece,
    insert_rows,
    insert_values,
    taken_apart,
    upsert,
    upsert_on,
)
from idhub.db.columns import Base, Instant, JsonText, Utf8, by_bytes, from_micros, json_text, to_micros
from idhub.db.database import Database, after_commit, create_database, open_database, wait_alone
from idhub.db.identifiers import new_id, new_ids
from idhub.db.postgres import (
    ASKED_FIRST,
    MIGRATING,
    execute_planned,
    is_held,
    libpq_address,
    may_begin_anew,
    plan_freely,
    plans_are_kept,
)
from idhub.db.sqlite import WRITERS_PATIENCE, begin_immediate, is_busy

__all__ = [
    "ASKED_FIRST",
    "MAX_IN_VALUES",
    "MIGRATING",
    "WRITERS_PATIENCE",
    "Base",
    "Brief",
    "Database",
    "Instant",
    "JsonText",
    "Utf8",
    "after_commit",
    "among",
    "begin_immediate",
    "bulk_insert",
    "by_bytes",
    "chunked",
    "create_database",
    "execute_planned",
    "from_micros",
    "given",
    "given_value",
    "in_one_piece",
    "insert_rows",
    "insert_values",
    "is_busy",
    "is_held",
    "json_text",
    "libpq_address",
    "may_begin_anew",
    "new_id",
    "new_ids",
    "open_database",
    "plan_freely",
    "plans_are_kept",
    "taken_apart",
    "to_micros",
    "upsert",
    "upsert_on",
    "wait_alone",
]
