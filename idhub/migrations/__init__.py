"""Schema migrations. Expand/contract: version N-1 and N of the hub run side by side.

Entry points: `migrate` (bring a database to the newest schema), `is_current` (for `/readyz`).
"""

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from idhub.db import Database

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "r0031"
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


def is_current(database: Database) -> bool:
    """Whether the database has the schema this code needs."""
    with database.engine.connect() as connection:
        return current_revision(connection) == head_revision()


def migrate(database: Database) -> str | None:
    """Bring the schema to the newest revision, in one transaction. Returns the revision before, None when empty.

    Safe to call from several processes at once: one does the work, the others wait.
    """
    if is_current(database):
        return HEAD
    with database.engine.connect() as connection:
        if database.dialect == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        before = current_revision(connection)
        if before != HEAD:
            from alembic import command

            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        connection.commit()
    return before
