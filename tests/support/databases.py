"""Databases of one test run: a migrated template a kind, with signing keys in it, copied for each test."""

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal

from idhub.db import create_database
from idhub.keys import MasterKey, load_keyring
from idhub.migrations import migrate
from idhub.settings import Settings
from tests.support.clock import Clock
from tests.support.postgres import PostgresServer, postgres_server

DatabaseKind = Literal["sqlite", "postgresql"]
_TEMPLATE = "idhub_template"


class Databases:
    """Makes databases, empty or migrated. Migrating happens once a kind; the server starts when first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: PostgresServer | None = None
        self._running: AbstractContextManager[PostgresServer] | None = None
        self._has_template: set[DatabaseKind] = set()
        self._made = 0

    @property
    def server(self) -> PostgresServer:
        """The PostgreSQL server of this run.

        Raises:
            PostgresAbsent: this machine has none; the tests fail rather than being skipped.
        """
        if self._server is None:
            self._running = postgres_server()
            self._server = self._running.__enter__()
        return self._server

    @contextmanager
    def fresh(self, kind: DatabaseKind, folder: Path, *, migrated: bool) -> Iterator[str]:
        """The address of a database of one's own, dropped when the block ends."""
        if migrated and kind not in self._has_template:
            self._migrate_template(kind)
            self._has_template.add(kind)
        if kind == "sqlite":
            path = folder / "idhub.db"
            if migrated:
                shutil.copyfile(self._folder / "template.db", path)
            yield f"sqlite:///{path}"
            return
        self._made += 1
        name = f"test_{self._made}"
        try:
            yield self.server.create(name, template=_TEMPLATE if migrated else "template1")
        finally:
            self.server.drop(name)

    @property
    def master_key(self) -> MasterKey:
        """What the keys in migrated databases are sealed under."""
        return MasterKey.load(self.master_key_file, create=True)

    @property
    def master_key_file(self) -> Path:
        """Where that key lies."""
        return self._folder / "master.key"

    def _migrate_template(self, kind: DatabaseKind) -> None:
        url = f"sqlite:///{self._folder / 'template.db'}" if kind == "sqlite" else self.server.create(_TEMPLATE)
        database = create_database(Settings(data_dir=self._folder, database_url=url))
        try:
            migrate(database)
            # Keys cost more than the rest of a test; the same ones serve the whole run.
            load_keyring(database, self.master_key, now=Clock()())
            if kind == "sqlite":
                # The copy is of one file: nothing may be left in the write-ahead log.
                with database.engine.connect() as connection:
                    connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            database.dispose()

    def close(self) -> None:
        """Stop the server, where one was started."""
        if self._running is not None:
            self._running.__exit__(None, None, None)
            self._running = self._server = None
