"""The engine and its transactions. The only module that opens a connection for SQLAlchemy.

A write transaction on SQLite begins with `BEGIN IMMEDIATE`, so that two writers never lose an update; on PostgreSQL
rows are locked where they are read for change. A function takes `session` first, may flush, and never commits:
the route, command or worker that opened the transaction does.
"""

import hashlib
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from sqlite3 import Error as SqliteError
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from sqlalchemy import Connection, Engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from audit.driver import driver_error
from idhub import faults
from idhub.db import postgres, sqlite
from idhub.turns import Turns, is_bulk

if TYPE_CHECKING:
    from idhub.settings import Settings

T = TypeVar("T")
_ATTEMPTS = 5
_FIRST_PAUSE_SECONDS = 0.02
# Connections beyond those of requests: of the worker's threads, of reserved ones (`admission`).
_BESIDE_REQUESTS = 16
_SHARED_SECONDS = 2.0
_AFTER_COMMIT = "idhub.after_commit"


class Database:
    """One database: SQLite file or PostgreSQL. Thread-safe; one a process."""

    def __init__(self, engine: Engine, *, is_pooled: bool = False) -> None:
        self.engine = engine
        self.is_pooled = is_pooled
        """Whether a pooler of PostgreSQL stands between us and the server."""
        self.dialect: Literal["sqlite", "postgresql"] = "sqlite" if engine.dialect.name == "sqlite" else "postgresql"
        self.session_info: dict[str, Any] = {}
        """What every session of this database carries in `info`: registered by `idhub.app`, read by its owner."""
        self.turns = Turns(sqlite.WRITERS_PATIENCE.total_seconds())
        """Of SQLite's writers in this process. PostgreSQL's do not wait for each other."""
        self._form = sqlite.PLAIN_FORM
        """Of SQLite connections that write: KiB of pages kept, pages of the log after which it is copied back."""
        self._fills_indexes = False
        self.steps = 1
        """How many times the usual much a transaction takes within `filling_indexes`; the larger the file, the more."""
        self._awaited_at = float("-inf")

    @property
    def url(self) -> str:
        """Address with its password, for drivers that connect by themselves."""
        return self.engine.url.render_as_string(hide_password=False)

    @contextmanager
    def transaction(self, *, durable: bool = True, patience: float | None = None) -> Iterator[Session]:
        """One write transaction: commits when the block ends, rolls back when it raises.

        Args:
            durable: SQLite only: wait for the disk (`synchronous=FULL`). Sessions and tokens pass False and may
                forget their last moments after a loss of power; PostgreSQL decides by its own settings.
            patience: SQLite only: seconds to wait for others who write, where it is not worth the usual ones.

        Raises:
            OperationalError: others write for longer than that, or the database cannot be reached.
        """
        with (
            self.turns.mine(patience) if self.dialect == "sqlite" else nullcontext(),
            self.engine.connect() as connection,
        ):
            if self.dialect == "sqlite":
                connection.exec_driver_sql("PRAGMA synchronous=" + ("FULL" if durable else "NORMAL"))
                sqlite.take_form(connection, self._form_for(connection))
                if is_bulk():
                    self.give_way()
                self._begin_immediate(connection, patience)
            acts: list[Callable[[], None]] = []
            info = {**self.session_info, _AFTER_COMMIT: acts}
            with Session(connection, expire_on_commit=False, info=info) as session:
                try:
                    yield session
                    session.flush()
                    if is_bulk() and self.is_awaited():
                        self._awaited_at = time.monotonic()
                    faults.at("commit.before")
                except BaseException:
                    connection.rollback()
                    raise
                connection.commit()
                for act in acts:
                    act()
                faults.at("commit.after")

    def _begin_immediate(self, connection: Connection, patience: float | None) -> None:
        driver: Any = connection.connection.driver_connection
        try:
            sqlite.begin_immediate(driver, self.engine.url.database or "", patience=patience)
        except SqliteError as error:
            raise driver_error(connection, "BEGIN IMMEDIATE", error) from error

    def _form_for(self, connection: Connection) -> tuple[int, int]:
        if not self._fills_indexes:
            return self._form
        self.steps = sqlite.steps_of(connection)
        return sqlite.large_form(self.steps)

    @contextmanager
    def filling_indexes(self) -> Iterator[None]:
        """For work that fills every index: while the block lasts, SQLite keeps 128 to 384 MB of pages instead of 4, and
        256 MB to 1 GB of its log, more of a larger file. What many people touch is written and copied back once.
        """
        self._fills_indexes = True
        try:
            yield
        finally:
            self._fills_indexes, self.steps = False, 1

    def keep_long_log(self) -> None:
        """From now on SQLite keeps up to 256 MB of its log before a commit copies it back.

        For a process of bulk alone, and where somebody else of the process copies it (`credentials.store_sqlite`):
        whoever does keeps their turn meanwhile, up to tenths of a second while another process imports.
        """
        self._form = sqlite.LONG_LOG_FORM

    def run(self, work: Callable[[Session], T], *, durable: bool = True) -> T:
        """Run `work` in one write transaction, from its beginning again when PostgreSQL asks for that.

        A transaction that PostgreSQL ended because of a deadlock or for want of an order (SQLSTATE 40P01, 40001) left
        nothing behind. It is tried at most five times, after short waits of random length; then the error is raised.
        `work` must keep nothing of an attempt that failed and do nothing outside of the database.
        """
        pause = _FIRST_PAUSE_SECONDS
        for _ in range(_ATTEMPTS - 1):
            try:
                with self.transaction(durable=durable) as session:
                    return work(session)
            except DBAPIError as error:
                if not postgres.may_begin_anew(error):
                    raise
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - spreads those who collided
            pause *= 2
        with self.transaction(durable=durable) as session:
            return work(session)

    @contextmanager
    def read(
        self, *, keeps_plans: bool = False, first: Callable[[Connection], None] | None = None
    ) -> Iterator[Session]:
        """One consistent snapshot for reading; locks nothing and changes nothing.

        Args:
            keeps_plans: what is asked with `execute_planned` is planned once a connection, for whatever values; and
                all statements walk indexes, but for those within `plan_freely`.
            first: asks PostgreSQL for something in the exchange in which the snapshot begins (`Planned.first`).
        """
        with (
            self._snapshot(keeps_plans, first) as connection,
            Session(connection, expire_on_commit=False, info=self.session_info) as session,
        ):
            try:
                yield session
            except BaseException:
                connection.rollback()
                raise
            if self.dialect == "sqlite":
                connection.rollback()
            else:
                postgres.end_snapshot(connection)

    def _snapshot(
        self, keeps_plans: bool, first: Callable[[Connection], None] | None
    ) -> AbstractContextManager[Connection]:
        """A connection on which a snapshot has begun. Whoever is given it ends it."""
        if self.dialect == "sqlite":
            return sqlite.snapshot(self.engine)
        return postgres.snapshot(self.engine, keeps_plans=keeps_plans, first=first)

    def give_way(self) -> bool:
        """Let everybody who stands in line write before bulk work takes the lock again. Costs nothing when nobody does.

        SQLite queues nobody: who waits looks now and then, and bulk work would always be there first.

        Returns: whether somebody stood there.
        """
        path = self.engine.url.database
        return sqlite.let_pass(path) if path and self.dialect == "sqlite" else False

    def is_awaited(self) -> bool:
        """Whether somebody stands in line to write, here or elsewhere: asked by a long transaction on its way."""
        path = self.engine.url.database
        if self.dialect != "sqlite" or not path:
            return False
        return self.turns.are_awaited() or sqlite.is_awaited(path)

    def is_shared(self) -> bool:
        """Whether somebody stood in line while bulk work of this process wrote, a moment ago: then it writes less at a
        time. Never on PostgreSQL, where nobody waits for all that it has in hand.
        """
        return time.monotonic() - self._awaited_at < _SHARED_SECONDS

    def end_long_writers(self, limit: timedelta) -> int:
        """End transactions of ours that have written something and go on for longer than `limit`; returns how many.

        PostgreSQL alone: the log takes nothing in that began after them (`audit.sequencer`), and no setting of it ends
        a transaction that is long but never idle. A migration may take as long as it takes.
        """
        return 0 if self.dialect == "sqlite" else postgres.end_long_writers(self.engine, limit)

    def dispose(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def create_database(settings: "Settings") -> Database:
    """Open the database that the settings name. Makes the data folder (0700) for SQLite; does not migrate."""
    return open_database(
        settings.effective_database_url,
        pool_size=settings.database_pool_size,
        is_pooled=bool(settings.database_direct_url),
    )


def open_database(address: str, *, pool_size: int, is_pooled: bool) -> Database:
    """`create_database` for a process that is told: loading the settings would take a seventh of its start."""
    url = make_url(address)
    pool: dict[str, Any] = {
        "hide_parameters": True,
        "pool_size": pool_size,
        "max_overflow": max(pool_size, _BESIDE_REQUESTS),
    }
    if url.get_backend_name() == "sqlite":
        if url.database:
            folder = os.path.dirname(os.path.abspath(url.database))
            os.makedirs(folder, mode=0o700, exist_ok=True)
        return Database(sqlite.open_engine(url, pool))
    return Database(postgres.open_engine(url, pool, is_pooled=is_pooled), is_pooled=is_pooled)


def after_commit(session: Session, act: Callable[[], None]) -> None:
    """Do something once the session's transaction has committed; nothing if it does not.

    For what only shortens somebody's wait: it must not fail, and nothing may depend on it.
    """
    session.info[_AFTER_COMMIT].append(act)


def wait_alone(session: Session, name: str) -> None:
    """Let one transaction at a time pass here, of those that ask for the same name; until it ends.

    On PostgreSQL an advisory lock of the transaction (it passes a pooler); on SQLite writers are alone anyway.
    """
    if session.get_bind().dialect.name != "sqlite":
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
