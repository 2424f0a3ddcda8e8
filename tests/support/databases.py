"""Databases of one test run: a migrated template a kind, with signing keys in it, copied for each test.

Tests that all begin with the same company have a template of that company too: a `Furnishing`.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from idhub.db import Database, create_database
from idhub.keys import Keyring, MasterKey, load_keyring
from idhub.migrations import migrate
from idhub.settings import Settings
from tests.support.clock import Clock
from tests.support.postgres import PostgresServer, postgres_server

DatabaseKind = Literal["sqlite", "postgresql"]


@dataclass(frozen=True)
class Furnishing:
    """What the databases of some tests begin with. `make` fills one; what it returns is handed to each of the tests."""

    name: str
    make: Callable[[Settings, Database, Keyring, Clock], Any]


_EMPTY = Furnishing("empty", lambda *_: None)


def analyze(database: Database) -> None:
    """Let PostgreSQL know what its tables hold, as autovacuum, which is off in tests, would by then."""
    if database.dialect == "postgresql":
        with database.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("ANALYZE")


class Databases:
    """Makes databases, empty or migrated. Migrating happens once a kind; the server starts when first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: PostgresServer | None = None
        self._running: AbstractContextManager[PostgresServer] | None = None
        self._templates: dict[tuple[DatabaseKind, str], Any] = {}
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
    def fresh(
        self, kind: DatabaseKind, folder: Path, *, migrated: bool, furnishing: Furnishing | None = None
    ) -> Iterator[str]:
        """The address of a database of one's own, dropped when the block ends; `furnishing` goes with `migrated`."""
        template = self._template(kind, furnishing or _EMPTY) if migrated else None
        if kind == "sqlite":
            path = folder / "idhub.db"
            if template is not None:
                shutil.copyfile(self._folder / f"{template}.db", path)
            yield f"sqlite:///{path}"
            return
        with self.copy_of(template or "template1") as url:
            yield url

    @contextmanager
    def copy_of(self, template: str) -> Iterator[str]:
        """The address of a copy of a PostgreSQL database that nobody is connected to, dropped when the block ends."""
        self._made += 1
        name = f"test_{self._made}"
        try:
            yield self.server.create(name, template=template)
        finally:
            self.server.drop(name)

    def made_of(self, kind: DatabaseKind, furnishing: Furnishing) -> Any:
        """What the furnishing's `make` returned."""
        self._template(kind, furnishing)
        return self._templates[kind, furnishing.name]

    @property
    def master_key(self) -> MasterKey:
        """What the keys in migrated databases are sealed under."""
        return MasterKey.load(self.master_key_file, create=True)

    @property
    def master_key_file(self) -> Path:
        """Where that key lies."""
        return self._folder / "master.key"

    def _template(self, kind: DatabaseKind, furnishing: Furnishing) -> str:
        """Name of the template, made when first asked for."""
        template = f"template_{furnishing.name}"
        if (kind, furnishing.name) in self._templates:
            return template
        migrated = self._template(kind, _EMPTY) if furnishing is not _EMPTY else None
        if kind == "sqlite":
            if migrated:
                shutil.copyfile(self._folder / f"{migrated}.db", self._folder / f"{template}.db")
            url = f"sqlite:///{self._folder / f'{template}.db'}"
        else:
            url = self.server.create(template, template=migrated or "template1")
        settings = Settings(data_dir=self._folder, database_url=url)
        database, clock = create_database(settings), Clock()
        try:
            if migrated is None:
                migrate(database)
            # Keys cost more than the rest of a test; the same ones serve the whole run.
            keyring = load_keyring(database, self.master_key, now=clock())
            self._templates[kind, furnishing.name] = furnishing.make(settings, database, keyring, clock)
            if kind == "sqlite":
                # The copy is of one file: nothing may be left in the write-ahead log.
                with database.engine.connect() as connection:
                    connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            database.dispose()
        return template

    def close(self) -> None:
        """Stop the server, where one was started."""
        if self._running is not None:
            self._running.__exit__(None, None, None)
            self._running = self._server = None
