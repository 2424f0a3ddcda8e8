"""Schema migrations. Expand/contract: version N-1 and N of the hub run side by side.

A database says from which schema it was brought to its own: whose code was made for that one is the version before,
which goes on with the newer one. Older code does not.

Entry points: `migrate` (bring a database to the newest schema), `fit` (whether this code works with it).
"""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from idhub.db import Database

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "r0034"
"""The newest revision that this code knows; a test compares it with the scripts."""
_LOCK = 0x1D_4B
"""PostgreSQL advisory lock (transaction level) under which one process migrates."""


def _config() -> "Config":
    # Imported late, here and below: most starts find the schema current and need none of it.
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


def head_revision() -> str:
    """The newest revision that this code knows."""
    return HEAD


def current_revision(connection: Connection) -> str | None:
    """The revision of the database; None when it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


class Fit(StrEnum):
    """How a database's schema stands to this code."""

    CURRENT = "current"
    BEHIND = "behind"
    """Of an earlier version, or empty: to be migrated."""
    NEXT = "next"
    """Of the version after this one, with which this one goes on until it is replaced."""
    BEYOND = "beyond"
    """Of a version later than that: this one must not touch it."""

    @property
    def is_usable(self) -> bool:
        """Whether this code works with it."""
        return self in {Fit.CURRENT, Fit.NEXT}


def fit(database: Database) -> Fit:
    """Whether the database has a schema with which this code works."""
    with database.engine.connect() as connection:
        return _fit(connection, HEAD)


def _fit(connection: Connection, head: str) -> Fit:
    revision = current_revision(connection)
    if revision == head:
        return Fit.CURRENT
    # Revisions are numbered.
    if revision is None or revision < head:
        return Fit.BEHIND
    before = connection.execute(text("SELECT schema_before FROM installation")).scalar()
    return Fit.NEXT if before == head else Fit.BEYOND


def migrate(database: Database) -> str | None:
    """Bring the schema to the newest revision, in one transaction. Returns the revision before, None when empty.

    Safe to call from several processes at once: one does the work, the others wait. The schema of a later version stays
    as it is.
    """
    if fit(database) is not Fit.BEHIND:
        return HEAD
    with database.engine.connect() as connection:
        if database.dialect == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        before = current_revision(connection)
        if _fit(connection, HEAD) is Fit.BEHIND:
            from alembic import command

            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            # An empty database has no row yet, and no version before.
            connection.execute(text("UPDATE installation SET schema_before = :before"), {"before": before})
        connection.commit()
    return before
