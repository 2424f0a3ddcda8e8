"""Engine, transactions, column types. The only module that opens a connection for SQLAlchemy.

A write transaction on SQLite begins with `BEGIN IMMEDIATE`, so that two writers never lose an update; on PostgreSQL
rows are locked where they are read for change. A function takes `session` first, may flush, and never commits:
the route, command or worker that opened the transaction does.
"""

import fcntl
import hashlib
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal, TypeVar

import orjson
from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    ColumnElement,
    Connection,
    CursorResult,
    Dialect,
    Engine,
    Executable,
    LargeBinary,
    MetaData,
    Select,
    String,
    Text,
    bindparam,
    cast,
    create_engine,
    event,
    func,
    literal,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.engine import ExceptionContext, make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.types import TypeDecorator, TypeEngine

from audit.driver import answered, driver_error, send, sent_ahead
from audit.trail import copy_rows, put_rows, put_values, rows_of, send_rows
from idhub import faults
from idhub.entropy import random_bytes
from idhub.settings import Settings
from idhub.turns import Turns, is_bulk

T = TypeVar("T")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_BUSY_TIMEOUT_MS = 10_000
WRITERS_PATIENCE = timedelta(milliseconds=_BUSY_TIMEOUT_MS)
"""How long one who writes to SQLite waits for another."""
_POLL_SECONDS = 0.002
_LONGEST_WAY_SECONDS = 0.25
_SHARED_SECONDS = 2.0
# PostgreSQL gives up one of several transactions that wait for each other, or that no order explains. Nothing of it
# stands, so it may begin anew.
_BEGIN_ANEW = frozenset({"40001", "40P01"})
_READ_ONLY = "25006"
_LOCK_NOT_AVAILABLE = "55P03"
_ATTEMPTS = 5
_FIRST_PAUSE_SECONDS = 0.02
# psycopg allows 65,535 bound values a statement; SQLite 32,766.
MAX_IN_VALUES = 5_000
# Connections beyond those of requests: of the worker's threads, of reserved ones (`admission`).
_BESIDE_REQUESTS = 16
_FORM = "idhub.sqlite_form"
_AFTER_COMMIT = "idhub.after_commit"
# Each connection has its own, and each thread of a process in time its connection.
_CACHE_KIB, _LARGE_CACHE_KIB = 4_096, 131_072
# Pages of the write-ahead log from which a commit copies them back; what many commits touch is copied once.
_LOG_PAGES, _LONG_LOG_PAGES = 1_000, 64_000
_PLAIN_FORM = (_CACHE_KIB, _LOG_PAGES)
# Uses of a statement on a connection after which PostgreSQL keeps its plan.
_PREPARED_FROM = 5
_KEEPS_PLANS = "idhub.keeps_plans"
ASKED_FIRST = "idhub.asked_first"
"""Of a connection: what its snapshot began with (`Database.read(first=)`), until it is taken."""
_END = "COMMIT"
_GOES_WELL = 2
"""`TransactionStatus.INTRANS` of libpq."""
_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"
# Whoever keeps plans finds by index and walks in its order, however few rows there are or were counted: what a planner
# would rather read whole and sort is some pages today, and everybody when the plan is used last. What is forbidden so
# counts as dear, and nothing that is dear is worth being compiled.
_WALKING = (
    ("enable_seqscan", "off"),
    ("enable_sort", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    # A table that was counted while it was empty would be kept at hand whole, and gone through for each row.
    ("enable_material", "off"),
)
_PLANS = (
    ("plan_cache_mode", "force_generic_plan"),
    ("jit", "off"),
    # To begin another process takes longer than a page.
    ("max_parallel_workers_per_gather", "0"),
    *_WALKING,
)
# A statement that is kept ready: the same as so many SET LOCAL, which the server would read anew each time.
_KEEP_PLANS = "SELECT " + ", ".join(f"set_config('{name}', '{value}', true)" for name, value in _PLANS)
_FREELY = "; ".join(f"SET LOCAL {name} = on" for name, _ in _WALKING)
_WALKING_AGAIN = "; ".join(f"SET LOCAL {name} = {value}" for name, value in _WALKING)
# A process that stands still within a transaction, or waits for one that does, is bounded by the database.
_SERVER_SETTINGS = (("timezone", "UTC"), ("idle_in_transaction_session_timeout", "60000"), ("lock_timeout", "30000"))
_SETTINGS_OF_ONE = "; ".join(f"SET LOCAL {name} = {value}" for name, value in _SERVER_SETTINGS)
_REACHING: dict[str, Any] = {
    "connect_timeout": 5,
    # A server whose machine is gone answers nothing, not even that it is.
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""Parameters of libpq for every connection to PostgreSQL: seconds, milliseconds the last."""
MIGRATING = "idhub migrate"
"""Name under which a migration works on PostgreSQL: no limit of time ends it."""
_END_LONG_WRITERS = text(
    "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()"
    " AND backend_xid IS NOT NULL AND application_name <> :migrating"
    " AND xact_start < clock_timestamp() - make_interval(secs => :seconds)"
)


class Base(DeclarativeBase):
    """Tables of the hub. Constraint names follow one pattern, so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


def to_micros(value: datetime) -> int:
    """Microseconds since 1970 of an aware datetime: how every instant is stored."""
    if value.tzinfo is None:
        raise ValueError("an instant must be timezone-aware")
    return (value - _EPOCH) // _MICROSECOND


def from_micros(value: int) -> datetime:
    """The aware UTC datetime of stored microseconds."""
    return _EPOCH + timedelta(microseconds=value)


class Instant(TypeDecorator[datetime]):
    """Aware UTC datetime, stored as BIGINT microseconds since 1970 on both databases.

    One representation for both databases and both speeds: exact, ordered, and free of the drivers' zone rules.
    """

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """Store microseconds."""
        return None if value is None else to_micros(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        """Read an aware UTC datetime."""
        return None if value is None else from_micros(value)


class JsonText(TypeDecorator[Any]):
    """A JSON value, stored as canonical text (sorted keys, no blanks)."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Store canonical JSON text."""
        return None if value is None else json_text(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """Read the JSON value."""
        return None if value is None else orjson.loads(value)


class Utf8(TypeDecorator[bytes]):
    """Text that is written and read as its bytes in UTF-8: nobody here looks at its characters."""

    impl = LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Text on PostgreSQL, whose driver sends bytes in twice their length; bytes on SQLite."""
        return dialect.type_descriptor(LargeBinary() if dialect.name == "sqlite" else Text())

    def process_bind_param(self, value: bytes | None, dialect: Dialect) -> Any:
        """Give the database its form."""
        return value if value is None or dialect.name == "sqlite" else value.decode()

    def process_result_value(self, value: Any, dialect: Dialect) -> bytes | None:
        """Read bytes."""
        return value.encode() if isinstance(value, str) else value


_ID_ALPHABET = "0123456789abcdefghijklmnopqrstuv"
_ID_PAIRS = tuple(high + low for high in _ID_ALPHABET for low in _ID_ALPHABET)
_ID_ODD_BYTES = 7
_last_id = 0
_id_lock = threading.Lock()


def new_ids(prefix: str, count: int) -> list[str]:
    """New identifiers: `prefix_` and 26 characters, time-ordered within a process, 56 random bits.

    Identifiers are names, not secrets: nothing is authorized by knowing one.
    """
    global _last_id  # noqa: PLW0603 - one counter a process is the point
    # Milliseconds and a counter of 12 bits, which carries over into the milliseconds.
    now = time.time_ns() // 1_000_000 << 12
    with _id_lock:
        first = max(now, _last_id + 1)
        _last_id = first + count - 1
    odd = random_bytes(_ID_ODD_BYTES * count).hex()
    ids = []
    block, head = -1, ""
    for number in range(count):
        place = first + number
        if place >> 10 != block:
            block = place >> 10
            head = f"{prefix}_" + "".join(_ID_PAIRS[block >> shift & 1023] for shift in (40, 30, 20, 10, 0))
        start = number * _ID_ODD_BYTES * 2
        ids.append(f"{head}{_ID_PAIRS[place & 1023]}{odd[start : start + _ID_ODD_BYTES * 2]}")
    return ids


def new_id(prefix: str) -> str:
    """One new identifier (`new_ids`)."""
    return new_ids(prefix, 1)[0]


def chunked(items: Sequence[T], size: int = MAX_IN_VALUES) -> Iterator[Sequence[T]]:
    """Slices of at most `size`, so that an IN list stays within what drivers bind."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def bulk_insert(session: Session, model: type[Base], rows: Iterable[Mapping[str, Any]]) -> int:
    """Insert many rows without ORM objects. Each names the same columns. Returns how many."""
    listed = list(rows)
    if listed:
        form = _stored_form(model, tuple(listed[0]), session.get_bind().dialect)
        insert_rows(session, model, form.columns, [form.row(row) for row in listed])
    return len(listed)


@dataclass(frozen=True, slots=True)
class _StoredForm:
    """How rows of a table are given to the driver: each named column by its type, the others by their default."""

    columns: tuple[str, ...]
    named: tuple[tuple[str, Callable[[Any], Any] | None], ...]
    defaults: tuple[Callable[[], Any], ...]

    def row(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        return (
            *[values[name] if store is None else store(values[name]) for name, store in self.named],
            *[default() for default in self.defaults],
        )


@lru_cache(1024)
def _stored_form(model: type[Base], names: tuple[str, ...], dialect: Dialect) -> _StoredForm:
    columns = model.__table__.c
    stores = {column.name: _store_of(column.type, dialect) for column in columns}
    others = [column for column in columns if column.name not in names and column.default is not None]
    return _StoredForm(
        (*names, *(column.name for column in others)),
        tuple((name, stores[name]) for name in names),
        tuple(_default(column.default, stores[column.name]) for column in others),
    )


def _store_of(kind: TypeEngine[Any], dialect: Dialect) -> Callable[[Any], Any] | None:
    """How values of a type are stored; ours without SQLAlchemy's way there, which costs as much again."""
    if isinstance(kind, Instant):
        return lambda value: None if value is None else to_micros(value)
    if isinstance(kind, JsonText):
        return lambda value: None if value is None else json_text(value)
    return kind.dialect_impl(dialect).bind_processor(dialect)


def _default(default: Any, store: Callable[[Any], Any] | None) -> Callable[[], Any]:
    def value() -> Any:
        made = default.arg(None) if default.is_callable else default.arg
        return made if store is None else store(made)

    return value


# Below this, setting up a COPY costs more than it saves.
_COPY_FROM = 32


def insert_rows(session: Session, model: type[Base], columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert many rows as the driver stores them, past SQLAlchemy: the path of bulk work.

    Values are given in the database's own form (`to_micros`, JSON text, dates in ISO form, plain `str`), a tuple a row.

    Raises:
        IntegrityError: as any insert.
    """
    if not rows:
        return
    connection = session.connection()
    table = model.__tablename__
    if connection.dialect.name == "sqlite":
        put_rows(connection, table, columns, rows)
    elif len(rows) < _COPY_FROM:
        send_rows(connection, table, columns, rows)
    else:
        copy_rows(connection, table, columns, rows)


def insert_values(session: Session, model: type[Base], columns: Sequence[str], values: Sequence[Any]) -> None:
    """`insert_rows`, given the values of all rows one behind the other: a bulk has no objects for its rows then."""
    if values and session.get_bind().dialect.name == "sqlite":
        put_values(session.connection(), model.__tablename__, columns, values)
    else:
        insert_rows(session, model, columns, rows_of(values, len(columns)))


def among(session: Session, values: Sequence[str]) -> Any:
    """Many texts as one bound value: `column.in_(among(session, texts))` is compiled once, whatever their number."""
    if session.get_bind().dialect.name == "sqlite":
        each = func.json_each(orjson.dumps(list(values)).decode()).table_valued("value")
        return select(each.c.value)
    return select(func.unnest(cast(literal(list(values), ARRAY(Text)), ARRAY(Text))))


def execute_planned(
    connection: Connection, statement: Executable, values: Mapping[str, Any]
) -> CursorResult[*tuple[Any, ...]]:
    """Run a statement that is the same each time and finds by index what it is given, whatever that is.

    In `Database.read(keeps_plans=True)` PostgreSQL plans it once a connection: to plan many joins costs more than to
    make them. Elsewhere like any other.
    """
    if not connection.info.get(_KEEPS_PLANS):
        return connection.execute(statement, values)
    driver: Any = connection.connection.driver_connection
    before, driver.prepare_threshold = driver.prepare_threshold, 0
    try:
        return connection.execute(statement, values)
    finally:
        driver.prepare_threshold = before


def plans_are_kept(connection: Connection) -> bool:
    """Whether a snapshot of PostgreSQL keeps plans, and no pooler stands between."""
    return bool(connection.info.get(_KEEPS_PLANS))


@contextmanager
def plan_freely(connection: Connection) -> Iterator[None]:
    """While the block lasts, let PostgreSQL read and sort whole tables again in a snapshot that keeps plans: for what
    counts or sorts many, or puts together what several indexes find."""
    is_walking = connection.info.get(_KEEPS_PLANS)
    if is_walking:
        connection.exec_driver_sql(_FREELY)
    yield
    if is_walking:
        connection.exec_driver_sql(_WALKING_AGAIN)


def given(name: str, *, is_sqlite: bool) -> Any:
    """The same for a statement that is made once: the texts are its parameter `name`, see `given_value`."""
    value = bindparam(name, type_=Text)
    if is_sqlite:
        return select(func.json_each(value).table_valued("value").c.value)
    return select(func.json_array_elements_text(cast(value, JSON)))


def given_value(values: Sequence[str]) -> str:
    """What is bound to a parameter of `given`."""
    return orjson.dumps(list(values)).decode()


# What stands between fields and between rows of what comes in one piece.
_FIELD, _ROW = b"\x1f", b"\x1e"


def in_one_piece(rows: Select[Any], *, is_sqlite: bool, words: Sequence[str] = ()) -> Select[Any]:
    """All rows of a statement that orders them as one text, in their order; `taken_apart` has them again.

    SQLite's driver lets go of the interpreter for each row, and whoever computes meanwhile keeps it for up to some
    milliseconds: of a hundred rows each may wait so long. PostgreSQL's driver makes objects of each value.

    Args:
        words: names of columns with texts that may hold anything: they come as JSON.
    """
    found = rows.subquery("found")
    return select(_as_one_text(tuple(found.c.keys()), tuple(words), is_sqlite)).select_from(found)


@lru_cache(256)
def _as_one_text(names: tuple[str, ...], words: tuple[str, ...], is_sqlite: bool) -> ColumnElement[Any]:
    quoted = "nullif(json_quote(found.{}), 'null')" if is_sqlite else "to_json(found.{})"
    fields = [f"coalesce(CAST({(quoted if name in words else 'found.{}').format(name)} AS TEXT), '')" for name in names]
    line, parted = f" || '{_FIELD.decode()}' || ".join(fields), f"'{_ROW.decode()}'"
    return literal_column(
        f"CAST(group_concat({line}, {parted}) AS BLOB)" if is_sqlite else f"string_agg({line}, {parted})"
    )


def taken_apart(text: bytes | str | None) -> list[list[bytes]]:
    """The rows of what came in one piece; what was null is empty."""
    if not text:
        return []
    return [row.split(_FIELD) for row in (text.encode() if isinstance(text, str) else text).split(_ROW)]


def by_bytes(length: int) -> TypeEngine[str]:
    """A text that PostgreSQL too compares and orders by its bytes, so that what begins with a text is a range of it."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


def json_text(value: Any) -> str:
    """A JSON value as `JsonText` stores it."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def upsert(session: Session, model: type[Base]) -> Any:
    """An INSERT on `model` that takes `on_conflict_do_update` / `_nothing`, for the session's database."""
    return upsert_on(session.get_bind().dialect.name, model)


def upsert_on(dialect: str, model: type[Base]) -> Any:
    """`upsert` by the name of a dialect, for statements that are made once."""
    build = sqlite_insert if dialect == "sqlite" else postgresql_insert
    return build(model.__table__)  # type: ignore[arg-type]


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


def may_begin_anew(error: DBAPIError) -> bool:
    """Whether the database ended a transaction for a reason that passes: a deadlock, or no order that explains it."""
    return getattr(error.orig, "sqlstate", None) in _BEGIN_ANEW


@contextmanager
def _line(path: str) -> Iterator[int]:
    """The file beside an SQLite database on which those who wait to write hold a shared lock."""
    descriptor = os.open(f"{path}-line", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def begin_immediate(connection: Any, path: str, *, patience: float = _BUSY_TIMEOUT_MS / 1000) -> None:
    """Begin a write transaction on a sqlite3 connection; while another writes, stand in line (`Database.give_way`).

    Raises:
        sqlite3.OperationalError: the other did not end within `patience` seconds.
    """
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


def is_busy(error: object) -> bool:
    """Whether another writes to the SQLite database, for longer than one waits."""
    # The primary code is in the low byte: SQLITE_BUSY_SNAPSHOT and its like are busy too.
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def is_held(error: object) -> bool:
    """Whether another holds a row or table of PostgreSQL, for longer than one waits."""
    return getattr(error, "sqlstate", None) == _LOCK_NOT_AVAILABLE


class Database:
    """One database: SQLite file or PostgreSQL. Thread-safe; one a process."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.dialect: Literal["sqlite", "postgresql"] = "sqlite" if engine.dialect.name == "sqlite" else "postgresql"
        self.session_info: dict[str, Any] = {}
        """What every session of this database carries in `info`: registered by `idhub.app`, read by its owner."""
        self.turns = Turns(_BUSY_TIMEOUT_MS / 1000)
        """Of SQLite's writers in this process. PostgreSQL's do not wait for each other."""
        self._form = _PLAIN_FORM
        """Of SQLite connections that write: KiB of pages kept, pages of the log after which it is copied back."""
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
                if connection.info.setdefault(_FORM, _PLAIN_FORM) != self._form:
                    connection.exec_driver_sql(f"PRAGMA cache_size=-{self._form[0]}")
                    connection.exec_driver_sql(f"PRAGMA wal_autocheckpoint={self._form[1]}")
                    connection.info[_FORM] = self._form
                if is_bulk():
                    self.give_way()
                waits = _BUSY_TIMEOUT_MS / 1000 if patience is None else patience
                self._begin_immediate(connection, waits)
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

    def _begin_immediate(self, connection: Connection, patience: float) -> None:
        driver: Any = connection.connection.driver_connection
        try:
            begin_immediate(driver, self.engine.url.database or "", patience=patience)
        except sqlite3.Error as error:
            raise driver_error(connection, "BEGIN IMMEDIATE", error) from error

    @contextmanager
    def large_cache(self) -> Iterator[None]:
        """While the block lasts, SQLite keeps 128 MB of pages instead of 4, and up to 256 of its log: for work that
        fills every index.
        """
        before, self._form = self._form, (_LARGE_CACHE_KIB, _LONG_LOG_PAGES)
        try:
            yield
        finally:
            self._form = before

    def keep_long_log(self) -> None:
        """From now on SQLite keeps up to 256 MB of its log before a commit copies it back.

        For a process of bulk alone, and where somebody else of the process copies it (`credentials.store_sqlite`):
        whoever does keeps their turn meanwhile, up to tenths of a second while another process imports.
        """
        self._form = (_CACHE_KIB, _LONG_LOG_PAGES)

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
                if not may_begin_anew(error):
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
            self._snapshot(keeps_plans=keeps_plans, first=first) as connection,
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
                # Nothing was changed; after a rollback the driver would forget its prepared statements.
                _commit(connection)

    @contextmanager
    def _snapshot(self, *, keeps_plans: bool, first: Callable[[Connection], None] | None) -> Iterator[Connection]:
        """A connection on which a snapshot has begun. Whoever is given it ends it.

        While the block lasts, PostgreSQL plans each statement for its values, but for those of `execute_planned`.
        """
        if self.dialect == "sqlite":
            with self.engine.connect() as connection:
                connection.exec_driver_sql("BEGIN")
                yield connection
            return
        with self._begun(keeps_plans=keeps_plans, first=first) as connection:
            # Taken once: a connection that broke meanwhile would be made anew to be asked for it, or refuse to say.
            driver: Any = connection.connection.driver_connection
            info, before = connection.info, driver.prepare_threshold
            driver.prepare_threshold = None
            info[_KEEPS_PLANS] = keeps_plans and before is not None
            try:
                yield connection
            finally:
                driver.prepare_threshold = before
                info[_KEEPS_PLANS] = False
                # No other snapshot's.
                info.pop(ASKED_FIRST, None)
                if not driver.closed:
                    driver.autocommit = False

    def _begun(
        self, *, keeps_plans: bool, first: Callable[[Connection], None] | None, is_again: bool = False
    ) -> Connection:
        """A connection on which a snapshot has begun, in one exchange: the driver begins none itself, and asks no
        connection of the pool first whether it still lives. One that does not is made anew.
        """
        _PINGS.are_wanted = False
        try:
            connection = self.engine.connect()
        finally:
            _PINGS.are_wanted = True
        driver: Any = connection.connection.driver_connection
        driver.autocommit = True
        try:
            with sent_ahead(connection):
                send(connection, _SNAPSHOT, ())
                if keeps_plans:
                    send(connection, _KEEP_PLANS, ())
                if first is not None:
                    first(connection)
        except DBAPIError as error:
            connection.invalidate(error)
            connection.close()
            if is_again or not error.connection_invalidated:
                raise
            return self._begun(keeps_plans=keeps_plans, first=first, is_again=True)
        return connection

    def give_way(self) -> bool:
        """Let everybody who stands in line write before bulk work takes the lock again. Costs nothing when nobody does.

        SQLite queues nobody: who waits looks now and then, and bulk work would always be there first.

        Returns: whether somebody stood there.
        """
        path = self.engine.url.database
        if self.dialect != "sqlite" or not path:
            return False
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

    def is_awaited(self) -> bool:
        """Whether somebody stands in line to write, here or elsewhere: asked by a long transaction on its way."""
        path = self.engine.url.database
        if self.dialect != "sqlite" or not path:
            return False
        if self.turns.are_awaited():
            return True
        with _line(path) as line:
            try:
                fcntl.flock(line, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

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
        if self.dialect == "sqlite":
            return 0
        with self.engine.connect() as connection:
            found = connection.execute(
                _END_LONG_WRITERS, {"migrating": MIGRATING, "seconds": limit.total_seconds()}
            ).all()
            connection.commit()
        return len(found)

    def dispose(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def _commit(connection: Connection) -> None:
    """End a snapshot: of a transaction that goes well without the driver, which takes as long again for it."""
    driver: Any = None if connection.invalidated else connection.connection.driver_connection
    if driver is not None and driver.pgconn.transaction_status == _GOES_WELL:
        send(connection, _END, ())
    # The driver has nothing left to end then.
    connection.commit()


def create_database(settings: Settings) -> Database:
    """Open the database that the settings name. Makes the data folder (0700) for SQLite; does not migrate."""
    url = make_url(settings.effective_database_url)
    if url.get_backend_name() == "sqlite":
        if url.database:
            folder = os.path.dirname(os.path.abspath(url.database))
            os.makedirs(folder, mode=0o700, exist_ok=True)
        engine = create_engine(
            url,
            hide_parameters=True,
            pool_size=settings.database_pool_size,
            max_overflow=max(settings.database_pool_size, _BESIDE_REQUESTS),
            connect_args={"check_same_thread": False, "timeout": _BUSY_TIMEOUT_MS / 1000},
        )
        event.listen(engine, "connect", _prepare_sqlite)
    else:
        # Behind a pooler the next transaction is another server connection's: nothing is kept there, and a pooler
        # refuses options that it would have to keep.
        is_pooled = bool(settings.database_direct_url)
        engine = create_engine(
            url,
            hide_parameters=True,
            pool_size=settings.database_pool_size,
            max_overflow=max(settings.database_pool_size, _BESIDE_REQUESTS),
            pool_pre_ping=True,
            connect_args={
                **_REACHING,
                "options": "" if is_pooled else " ".join(f"-c {name}={value}" for name, value in _SERVER_SETTINGS),
                "prepare_threshold": None if is_pooled else _PREPARED_FROM,
            },
        )
        if is_pooled:
            event.listen(engine, "begin", _set_for_one)
        _ping_where_wanted(engine.dialect)
        _wait_for_what_went_ahead(engine.dialect)
        _know_a_standby(engine.dialect)
        event.listen(engine, "handle_error", _of_one_kind)
    return Database(engine)


def libpq_address(url: str) -> str:
    """A PostgreSQL URL as libpq reads it, and how it tells that a server is gone: for connections past SQLAlchemy."""
    named = make_url(url)
    dialect: Any = named.get_dialect()()
    _, parameters = dialect.create_connect_args(named)
    # Imported late: SQLite needs nothing of PostgreSQL's driver.
    from psycopg.conninfo import make_conninfo

    return make_conninfo(**parameters, **_REACHING)


def _set_for_one(connection: Connection) -> None:
    """Give a transaction that has just begun the settings that its connection cannot keep.

    A snapshot that begins by a statement of its own (`Database._begun`) has nothing to hold others up with.
    """
    driver: Any = connection.connection.driver_connection
    if not driver.autocommit:
        connection.exec_driver_sql(_SETTINGS_OF_ONE)


def _know_a_standby(dialect: Any) -> None:
    """Have a server that has become a standby taken for one that is away: what is connected to it is let go.

    It takes no writes, which the driver calls an internal error.
    """
    is_lost = dialect.is_disconnect

    def is_lost_or_a_standby(error: Any, connection: Any, cursor: Any) -> bool:
        return getattr(error, "sqlstate", None) == _READ_ONLY or bool(is_lost(error, connection, cursor))

    dialect.is_disconnect = is_lost_or_a_standby


def _of_one_kind(context: ExceptionContext) -> OperationalError | None:
    """Have whatever says that a connection is lost be an OperationalError, whatever the driver calls it."""
    if not context.is_disconnect or isinstance(context.sqlalchemy_exception, OperationalError):
        return None
    original: Any = context.original_exception
    return OperationalError(context.statement, None, original, hide_parameters=True, connection_invalidated=True)


class _Pings(threading.local):
    are_wanted = True


_PINGS = _Pings()


def _ping_where_wanted(dialect: Any) -> None:
    """Let who begins at once take a connection of the pool without asking it first (`Database._begun`)."""
    ping = dialect.do_ping
    dialect.do_ping = lambda connection: not _PINGS.are_wanted or ping(connection)


def _wait_for_what_went_ahead(dialect: Any) -> None:
    """Have SQLAlchemy's own statements wait for what was sent ahead of answers (`audit.driver`): it asks each of them
    for its answer at once.
    """
    for name in ("do_execute", "do_executemany", "do_execute_no_params"):
        setattr(dialect, name, _after_answers(getattr(dialect, name)))


def _after_answers(execute: Callable[..., Any]) -> Callable[..., Any]:
    def executed(cursor: Any, *statement: Any) -> Any:
        if cursor.connection.pgconn.pipeline_status:
            answered(statement[-1].root_connection)
        return execute(cursor, *statement)

    return executed


def _prepare_sqlite(connection: Any, _record: Any) -> None:
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
