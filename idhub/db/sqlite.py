"""Connections to SQLite: how they are opened, and how they take their turn to write."""

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event

_BUSY_TIMEOUT_MS = 10_000
WRITERS_PATIENCE = timedelta(milliseconds=_BUSY_TIMEOUT_MS)
"""How long one who writes to SQLite waits for another."""
_POLL_SECONDS = 0.002
_LONGEST_WAY_SECONDS = 0.25
# Each connection has its own, and each thread of a process in time its connection.
_CACHE_KIB = 4_096
# Pages of the write-ahead log from which a commit copies them back; what many commits touch is copied once.
_LOG_PAGES, _LONG_LOG_PAGES = 1_000, 64_000
PLAIN_FORM = (_CACHE_KIB, _LOG_PAGES)
LONG_LOG_FORM = (_CACHE_KIB, _LONG_LOG_PAGES)
"""How a connection writes: KiB of pages kept, pages of the log after which it is copied back."""
# Work that fills every index touches more pages the larger the file is: a few trees in no order are a twentieth of it.
_LARGE_CACHE_KIB, _LARGEST_CACHE_KIB = 131_072, 393_216
_STEP_PAGES, _MOST_STEPS = 200_000, 4
_FORM = "idhub.sqlite_form"


def open_engine(url: URL, pool: Mapping[str, Any]) -> Engine:
    """An engine whose connections are prepared for us."""
    engine = create_engine(url, **pool, connect_args={"check_same_thread": False, "timeout": _BUSY_TIMEOUT_MS / 1000})
    event.listen(engine, "connect", _prepare)
    return engine


@contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """A connection on which a snapshot has begun. Whoever is given it ends it."""
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN")
        yield connection


def take_form(connection: Connection, form: tuple[int, int]) -> None:
    """Have a connection write in this form from now on."""
    if connection.info.setdefault(_FORM, PLAIN_FORM) != form:
        connection.exec_driver_sql(f"PRAGMA cache_size=-{form[0]}")
        connection.exec_driver_sql(f"PRAGMA wal_autocheckpoint={form[1]}")
        connection.info[_FORM] = form


def steps_of(connection: Connection) -> int:
    """By how much more work that fills every index takes at once, for how large the file is: 1 to 4."""
    pages: int = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    return min(_MOST_STEPS, 1 + pages // _STEP_PAGES)


def large_form(steps: int) -> tuple[int, int]:
    """How such work writes."""
    return min(_LARGEST_CACHE_KIB, steps * _LARGE_CACHE_KIB), steps * _LONG_LOG_PAGES


def begin_immediate(connection: Any, path: str, *, patience: float | None = None) -> None:
    """Begin a write transaction on a sqlite3 connection; while another writes, stand in line (`Database.give_way`).

    Raises:
        sqlite3.OperationalError: the other did not end within `patience` seconds; None: the usual ones.
    """
    if patience is None:
        patience = _BUSY_TIMEOUT_MS / 1000
    connection.execute("PRAGMA busy_timeout=0")
    try:
        if _begins(connection):
            return
        with _line(path) as line:
            fcntl.flock(line, fcntl.LOCK_SH)
            deadline = time.monotonic() + patience
            while not _begins(connection):
                if time.monotonic() > deadline:
                    connection.execute("BEGIN IMMEDIATE")
                    return
                time.sleep(_POLL_SECONDS)
    finally:
        connection.execute(f"PRAGMA busy_timeout={int(patience * 1000)}")


def _begins(connection: Any) -> bool:
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if not is_busy(error):
            raise
        return False
    return True


@contextmanager
def _line(path: str) -> Iterator[int]:
    """The file beside an SQLite database on which those who wait to write hold a shared lock."""
    descriptor = os.open(f"{path}-line", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def let_pass(path: str) -> bool:
    """Wait while anybody stands in line, for a quarter of a second at most; returns whether somebody did."""
    stood = False
    with _line(path) as line:
        deadline = time.monotonic() + _LONGEST_WAY_SECONDS
        while time.monotonic() < deadline:
            with suppress(BlockingIOError):
                fcntl.flock(line, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            stood = True
            time.sleep(_POLL_SECONDS)
    return stood


def is_awaited(path: str) -> bool:
    """Whether anybody stands in line, of whatever process."""
    with _line(path) as line:
        try:
            fcntl.flock(line, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def is_busy(error: object) -> bool:
    """Whether another writes to the SQLite database, for longer than one waits."""
    # The primary code is in the low byte: SQLITE_BUSY_SNAPSHOT and its like are busy too.
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _prepare(connection: Any, _record: Any) -> None:
    # The driver must not begin transactions by itself: BEGIN IMMEDIATE is ours to say.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
    _use_wal(cursor)
    for pragma in (
        "foreign_keys=ON",
        "synchronous=FULL",
        "temp_store=MEMORY",
        f"cache_size=-{_CACHE_KIB}",
        "trusted_schema=OFF",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _use_wal(cursor: Any) -> None:
    """Switch the file to write-ahead logging, once; it stays so.

    Of several processes that open an empty file at once, SQLite refuses all but one without waiting.
    """
    deadline = time.monotonic() + _BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            if cursor.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
                return
            cursor.execute("PRAGMA journal_mode=WAL").fetchone()
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_SECONDS)
        else:
            return
