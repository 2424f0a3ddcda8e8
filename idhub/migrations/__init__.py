"""Schema migrations. Expand/contract: version N-1 and N of the hub run side by side.

Entry points: `migrate` (bring a database to the newest schema), `is_current` (for `/readyz`).
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from idhub.db import Database

_LOCK = 0x1D_4B
"""PostgreSQL advisory lock (transaction level) under which one process migrates."""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


def head_revision() -> str:
    """The newest revision that this code knows."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def current_revision(connection: Connection) -> str | None:
    """The revision of the database; None when it is empty."""
    return MigrationContext.configure(connection).get_current_revision()


def is_current(database: Database) -> bool:
    """Whether the database has the schema this code needs."""
    with database.engine.connect() as connection:
        return current_revision(connection) == head_revision()


def migrate(database: Database) -> str | None:
    """Bring the schema to the newest revision, in one transaction. Returns the revision before, None when empty.

    Safe to call from several processes at once: one does the work, the others wait.
    """
    config = _config()
    with database.engine.connect() as connection:
        if database.dialect == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        before = current_revision(connection)
        if before != head_revision():
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        connection.commit()
    return before
