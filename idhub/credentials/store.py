"""The narrow store of the hot endpoints: short transactions on the bare driver, one implementation for both databases.

It runs operations (`idhub.credentials.operations`). Writes are committed in groups: what arrives in a few turns of the
event loop shares a transaction, and every answer waits for its commit. Two small drivers:

- SQLite: inline on the event loop, where a point read or a NORMAL commit takes microseconds. It never waits for a
  lock there: when the database is busy, the group begins anew in a thread, which waits.
- PostgreSQL: libpq's pipeline, on connections that are pinned to their prepared statements. There groups come in lanes:
  who needs no disk shares none with who does.

Nothing is cached but configuration (`ClientCache`), for one second.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from audit.personal import Sealer
from idhub.credentials.operations import DURABLE, RECORD, Operation, Row, Step, record
from idhub.credentials.store_sqlite import SqliteStore
from idhub.db import Database
from idhub.settings import Settings

__all__ = [
    "DURABLE",
    "RECORD",
    "Operation",
    "Row",
    "SqliteStore",
    "Step",
    "Store",
    "create_store",
    "record",
]

T = TypeVar("T")


class Store(Protocol):
    """Runs operations."""

    async def read(self, operation: Callable[[], Operation[T]]) -> T:
        """Run an operation that writes nothing. It sees all that was committed when it was asked for."""
        ...

    async def write(self, operation: Callable[[], Operation[T]]) -> T:
        """Run an operation and commit, together with others that came at the same moment.

        `operation` is called again when the attempt has to begin anew: when a neighbour of its group failed, or when
        the database was busy. One that fails or refuses changes nothing for its neighbours.

        Raises:
            Unavailable: the database cannot be reached, or stayed locked; nothing was committed, unless it broke
                while committing.
        """
        ...

    def on_flush(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Have `callback` awaited by `flush`."""
        ...

    async def flush(self) -> None:
        """Write what users of the store hold back for a moment (counts)."""
        ...

    async def close(self) -> None:
        """Flush, then close every connection."""
        ...


def create_store(settings: Settings, database: Database, sealer: Sealer) -> Store:
    """The store for the database that the settings name. Opens nothing before it is used."""
    if database.dialect == "sqlite":
        database.keep_long_log()
        return SqliteStore(database.engine.url.database or "", sealer, database.turns)
    # Imported late: SQLite needs nothing of PostgreSQL's driver.
    from idhub.credentials.store_postgres import PostgresStore

    return PostgresStore(settings, database, sealer)
