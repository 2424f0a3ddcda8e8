"""One connection of the store to PostgreSQL: its prepared statements, and many questions in one exchange.

An exchange costs more than what the database does in it. Whatever is known to be asked is therefore written at once
(libpq's pipeline) and answered at once: questions of many, the beginning of a transaction with the first of them, its
end with what is stored last. The database runs them one after another, in order. Several of one kind that follow each
other are one statement to it: a query around the asked values (`unnest ... CROSS JOIN LATERAL`), an INSERT of many
rows, or an UPDATE of rows by their keys. Everybody gets what they would have got alone.
"""

import asyncio
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import pq
from psycopg.errors import error_from_result
from psycopg.pq.abc import PGresult

from audit.trail import INSERT_COLUMNS, insert_statement
from idhub.credentials.operations import CHANGED_LAST, Row
from idhub.credentials.statements import Statement
from idhub.db.postgres import OWN_TRANSACTIONS

_SERVER_SETTINGS: Final = {
    "timezone": "UTC",
    # Of rows: nobody waits for a principal (`store_postgres`).
    "lock_timeout": "500",
    "idle_in_transaction_session_timeout": "30000",
    # Every statement here looks rows up by keys. It is planned once and for that, however small the tables were then.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
APPLICATION_NAME: Final = "idhub-store"
_COMMAND_SECONDS: Final = 10.0
Question = tuple[str, Sequence[Any]]
"""Name of a statement, and the values of its places."""
BEGIN: Final[Question] = ("BEGIN", ())
COMMIT: Final[Question] = ("COMMIT", ())
ROLLBACK: Final[Question] = ("ROLLBACK", ())
WITHOUT_DISK: Final[Question] = ("SELECT set_config('synchronous_commit', 'off', true)", ())
"""The transaction that this is in is committed without waiting for the disk; one alone, without BEGIN, is that of its
exchange."""
_FOR_LOCKS: Final = "SELECT set_config('lock_timeout', $1, true)"
_PLAIN: Final = frozenset([*(name for name, _ in (BEGIN, COMMIT, ROLLBACK, WITHOUT_DISK)), _FOR_LOCKS])
_MANY: Final = 4
"""So many of one kind are one statement: to take the rows apart again costs more than two or three statements."""
_FOREIGN: Final = "The answer is none of PostgreSQL's protocol."
_EACH: Final = "each>"
_ROWS: Final = "rows>"
_ASKER: Final = "asker_"
"""The column beside those that were asked for, in rows that many asked for together: whose row it is."""
_MARK: Final = re.compile(r"\$(\d+)")
_VALUES: Final = re.compile(r" VALUES \((.*)\)\s*", re.DOTALL)


class Lost(ConnectionError):
    """The connection is lost, or was never made."""


def waiting_for_locks(seconds: float) -> Question:
    """In the transaction that this is in, no statement waits longer for what others have locked."""
    return _FOR_LOCKS, (f"{round(seconds * 1000)}ms",)


class Pinned:
    """One connection with its prepared statements. One exchange at a time; unusable after any error but a refused lock,
    after which it takes a ROLLBACK."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], statements: Mapping[str, Statement]) -> None:
        self._connection = connection
        self._wire = connection.pgconn
        self._wire.enter_pipeline_mode()
        self._statements = statements
        self._known: dict[str, _Known] = {}
        self._forms: dict[str, str] = {}
        self._loop = asyncio.get_running_loop()
        self._socket = self._wire.socket
        self._answer: asyncio.Future[list[PGresult]] | None = None
        self._results: list[PGresult] = []
        self._is_closed = False
        # Kept for good: to register it anew for each exchange would be two calls of the system.
        self._loop.add_reader(self._socket, self._on_readable)

    @classmethod
    async def connect(cls, url: str, statements: Mapping[str, Statement]) -> "Pinned":
        """Open a connection; `url` as libpq reads it (`idhub.db.libpq_address`).

        Raises:
            Lost: the database cannot be reached, or refuses.
        """
        options = " ".join([OWN_TRANSACTIONS, *(f"-c {name}={value}" for name, value in _SERVER_SETTINGS.items())])
        try:
            connection = await psycopg.AsyncConnection.connect(
                url, autocommit=True, options=options, application_name=APPLICATION_NAME
            )
        except psycopg.Error as error:
            raise Lost(str(error)) from error
        return cls(connection, statements)

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, by either side."""
        return self._is_closed

    def close(self) -> None:
        """Close; whoever still waits for an answer hears that it is lost. What had begun is rolled back."""
        if self._is_closed:
            return
        self._is_closed = True
        if not self._loop.is_closed():
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        self._wire.finish()
        self._fail(Lost("The connection was closed."))

    async def ask(self, questions: Sequence[Question]) -> list[Sequence[Row]]:
        """Run statements in order and return the rows of each. Of those that return nothing the sequence is empty.

        Raises:
            Lost: the connection; how far the statements came is not known.
            TimeoutError: no answer in time.
            psycopg.Error: of the first statement that fails; those after it are not run.
        """
        asked: list[_Asked] = []
        for name, begins, ends in _runs(questions):
            form = self._form_of(name) if ends - begins >= _MANY else ""
            if form:
                asked.append(_Asked(form + name, [values for _, values in questions[begins:ends]]))
            else:
                asked += [_Asked(name, [values]) for _, values in questions[begins:ends]]
        await self._prepare([one.name for one in asked])
        try:
            for one in asked:
                known = self._known[one.name]
                self._wire.send_query_prepared(known.name, known.encode(one.values), known.formats, 1)
        except psycopg.OperationalError as error:
            raise Lost(str(error)) from error
        results = await self._exchange(len(asked))
        rows: list[Sequence[Row]] = []
        for one, result in zip(asked, results, strict=True):
            rows += self._known[one.name].rows(result, len(one.values))
        return rows

    # ------------------------------------------------------------------ statements

    def _form_of(self, name: str) -> str:
        """How many of this kind are one statement; empty: they are not."""
        form = self._forms.get(name)
        if form is None:
            form = self._forms[name] = self._new_form_of(name)
        return form

    def _new_form_of(self, name: str) -> str:
        if name.startswith("audit:"):
            return _ROWS
        sql = "" if name in _PLAIN else self._statements[name].sql
        if sql.startswith("SELECT"):
            return _EACH
        is_plain = sql.startswith("INSERT") and " RETURNING " not in sql and " ON CONFLICT " not in sql
        return _ROWS if is_plain or name in CHANGED_LAST else ""

    async def _prepare(self, names: Sequence[str]) -> None:
        missing = {name: None for name in names if name not in self._known}
        if not missing:
            return
        # The types of what many ask are those of what one asks.
        single = {name.partition(">")[2] or name: None for name in missing}
        await self._prepare_all({name: self._sql(name) for name in single if name not in self._known})
        await self._prepare_all({name: self._sql_for_many(name) for name in missing if name not in single})

    async def _prepare_all(self, texts: Mapping[str, str]) -> None:
        if not texts:
            return
        labels = [f"s{len(self._known) + place}".encode() for place, _ in enumerate(texts)]
        try:
            for sql, label in zip(texts.values(), labels, strict=True):
                self._wire.send_prepare(label, sql.encode())
                self._wire.send_describe_prepared(label)
        except psycopg.OperationalError as error:
            raise Lost(str(error)) from error
        described = (await self._exchange(2 * len(texts)))[1::2]
        for name, label, result in zip(texts, labels, described, strict=True):
            self._known[name] = self._known_as(name, label, result)

    def _known_as(self, name: str, label: bytes, described: PGresult) -> "_Known":
        if name.startswith(_EACH):
            statement = self._statements[name.removeprefix(_EACH)]
            return _KnownQuery(label, described, statement)
        return (_KnownRows if name.startswith(_ROWS) else _Known)(label, described)

    def _sql(self, name: str) -> str:
        if name in _PLAIN:
            return name
        for table in INSERT_COLUMNS:
            if name == f"audit:{table}":
                return insert_statement(table, "numeric_dollar")
        return self._statements[name].sql

    def _sql_for_many(self, name: str) -> str:
        form, _, single = name.partition(">")
        types = self._known[single].types
        if form == _ROWS[:-1]:
            return (_update_of_rows if single in CHANGED_LAST else _insert_for_rows)(self._sql(single), types)
        return _query_for_each(self._statements[single], types)

    # ------------------------------------------------------------------ the wire

    async def _exchange(self, count: int) -> list[PGresult]:
        answer = self._answer = self._loop.create_future()
        self._results = []
        try:
            self._wire.pipeline_sync()
            if self._wire.flush():
                # More than the socket takes at once.
                self._loop.add_writer(self._socket, self._on_writable)
        except psycopg.OperationalError as error:
            raise Lost(str(error)) from error
        timer = self._loop.call_later(_COMMAND_SECONDS, self._fail, TimeoutError("The database does not answer."))
        try:
            results: list[PGresult] = await answer
        finally:
            timer.cancel()
            self._answer = None
        for result in results:
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise _translated(result)
        if len(results) != count:
            raise Lost(_FOREIGN)
        return results

    def _on_writable(self) -> None:
        try:
            if not self._wire.flush():
                self._loop.remove_writer(self._socket)
        except psycopg.OperationalError as error:
            self._break(error)

    def _on_readable(self) -> None:
        wire = self._wire
        try:
            wire.consume_input()
            if self._answer is None:
                return
            has_ended = False
            while not wire.is_busy():
                result = wire.get_result()
                if result is None:
                    # The end of one statement's results; after that, that libpq waits for nothing any more.
                    if has_ended:
                        raise psycopg.OperationalError(_FOREIGN)
                    has_ended = True
                    continue
                has_ended = False
                if result.status == pq.ExecStatus.PIPELINE_SYNC:
                    if not self._answer.done():
                        self._answer.set_result(self._results)
                    return
                self._results.append(result)
        except psycopg.OperationalError as error:
            self._break(error)

    def _break(self, error: psycopg.Error) -> None:
        self._fail(Lost(str(error)))
        self.close()

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


def _translated(result: PGresult) -> Exception:
    error = error_from_result(result)
    state = error.sqlstate or ""
    # Without a state it is libpq that speaks, which did not understand the server. What is fatal ends the connection
    # (shutdown, crash, "cannot connect now", too long in a transaction).
    is_over = not state or state.startswith("08") or error.diag.severity_nonlocalized in {"FATAL", "PANIC"}
    return Lost(str(error)) if is_over else error


# ---------------------------------------------------------------- values as they go over the wire


def _number(form: str) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    packed = struct.Struct(form)
    unpack = packed.unpack
    return packed.pack, lambda raw: unpack(raw)[0]


_TEXT: Final[tuple[Callable[[Any], bytes], Callable[[bytes], Any]]] = (str.encode, bytes.decode)
_BINARY: Final[Mapping[int, tuple[Callable[[Any], bytes], Callable[[bytes], Any]]]] = {
    16: (lambda value: b"\x01" if value else b"\x00", lambda raw: raw == b"\x01"),
    17: (bytes, bytes),
    20: _number(">q"),
    21: _number(">h"),
    23: _number(">i"),
    # text, varchar, char, name, json: the binary form is the text, with its length, so that no character ends it early.
    25: _TEXT,
    1043: _TEXT,
    1042: _TEXT,
    19: _TEXT,
    114: _TEXT,
    # jsonb has a version in front.
    3802: (lambda value: b"\x01" + value.encode(), lambda raw: raw[1:].decode()),
}
"""By the number of the type: how a value is written, and how it is read."""


# Each as an array: its number, and that of its elements.
_ARRAYS: Final[Mapping[int, int]] = {
    1000: 16, 1001: 17, 1016: 20, 1005: 21, 1007: 23, 1009: 25, 1015: 1043, 1014: 1042, 1003: 19, 199: 114, 3807: 3802,
}  # fmt: skip
_TYPE_NAMES: Final[Mapping[int, str]] = {
    16: "bool", 17: "bytea", 20: "int8", 21: "int2", 23: "int4", 25: "text", 1043: "varchar", 1042: "bpchar",
    19: "name", 114: "json", 3802: "jsonb",
}  # fmt: skip
_ARRAY_HEAD: Final = struct.Struct(">iiIii")
_SIZE: Final = struct.Struct(">i")
_NULL: Final = _SIZE.pack(-1)


def _encoder(kind: int) -> Callable[[Any], bytes]:
    element = _ARRAYS.get(kind)
    if element is None:
        return _BINARY[kind][0]
    encode = _BINARY[element][0]

    def array(values: Sequence[Any]) -> bytes:
        count = len(values)
        # One dimension, which begins at 1.
        parts = [_ARRAY_HEAD.pack(1, None in values, element, count, 1)]
        if count and values.count(values[0]) == count:
            # Much of what a group writes or asks is the same in each row.
            raw = None if values[0] is None else encode(values[0])
            parts.append((_NULL if raw is None else _SIZE.pack(len(raw)) + raw) * count)
            return b"".join(parts)
        for value in values:
            if value is None:
                parts.append(_NULL)
            else:
                raw = encode(value)
                parts += (_SIZE.pack(len(raw)), raw)
        return b"".join(parts)

    return array


# ---------------------------------------------------------------- what a connection has prepared


class _Asked(NamedTuple):
    """A statement that is sent, for one or for many."""

    name: str
    values: Sequence[Sequence[Any]]


class _Known:
    """A statement for one."""

    def __init__(self, name: bytes, described: PGresult) -> None:
        self.name = name
        self.types = [described.param_type(place) for place in range(described.nparams)]
        self._encoders = [_encoder(kind) for kind in self.types]
        self.formats = [1] * len(self.types)
        self._columns = [
            (place, (described.fname(place) or b"").decode(), _BINARY[described.ftype(place)][1])
            for place in range(described.nfields)
        ]

    def encode(self, values: Sequence[Sequence[Any]]) -> list[bytes | None]:
        """What is sent."""
        return self._encoded(values[0])

    def rows(self, result: PGresult, count: int) -> list[Sequence[Row]]:
        """The rows of each of those who asked."""
        return [self._decoded(result)]

    def _encoded(self, values: Iterable[Any]) -> list[bytes | None]:
        return [None if value is None else encode(value) for encode, value in zip(self._encoders, values, strict=True)]

    def _decoded(self, result: PGresult) -> list[dict[str, Any]]:
        count = result.ntuples
        if not count:
            return []
        get = result.get_value
        return [
            {name: None if (raw := get(row, place)) is None else decode(raw) for place, name, decode in self._columns}
            for row in range(count)
        ]


class _KnownRows(_Known):
    """An INSERT or an UPDATE of many rows."""

    def encode(self, values: Sequence[Sequence[Any]]) -> list[bytes | None]:
        """What is sent: a column for each place."""
        return self._encoded(zip(*values, strict=True))

    def rows(self, result: PGresult, count: int) -> list[Sequence[Row]]:
        """Nothing, to each."""
        return [()] * count


class _KnownQuery(_Known):
    """A query for many."""

    def __init__(self, name: bytes, described: PGresult, statement: Statement) -> None:
        super().__init__(name, described)
        self._given, self._fixed = _given_and_fixed(statement)
        self._template = statement.template

    def encode(self, values: Sequence[Sequence[Any]]) -> list[bytes | None]:
        """What is sent: a column for each place where something is given; constants as they are."""
        columns: list[Any] = [[one[place] for one in values] for place in self._given]
        return self._encoded([*columns, *(self._template[place] for place in self._fixed)])

    def rows(self, result: PGresult, count: int) -> list[Sequence[Row]]:
        """Who asked is known by a column."""
        found: list[list[Row]] = [[] for _ in range(count)]
        for row in self._decoded(result):
            found[row.pop(_ASKER) - 1].append(row)
        return list(found)


def _runs(questions: Sequence[Question]) -> Iterator[tuple[str, int, int]]:
    """Name, first and end of those that follow each other with one name."""
    begins = 0
    for name, run in groupby(questions, key=itemgetter(0)):
        ends = begins + sum(1 for _ in run)
        yield name, begins, ends
        begins = ends


def _given_and_fixed(statement: Statement) -> tuple[list[int], list[int]]:
    given = [place for place, _ in statement.places]
    return given, [place for place in range(len(statement.template)) if place not in given]


def _query_for_each(statement: Statement, types: Sequence[int]) -> str:
    given, fixed = _given_and_fixed(statement)
    marks = {place: f"given_.c{place}" for place in given}
    marks |= {place: f"${number}" for number, place in enumerate(fixed, start=len(given) + 1)}
    inner = _MARK.sub(lambda found: marks[int(found[1]) - 1], statement.sql)
    return (
        f"SELECT given_.n AS {_ASKER}, found_.* FROM {_unnest(given, types, ' WITH ORDINALITY', ', n')} "  # noqa: S608 - statements of ours only
        f"CROSS JOIN LATERAL ({inner}) AS found_"
    )


def _insert_for_rows(sql: str, types: Sequence[int]) -> str:
    values = _VALUES.search(sql)
    if values is None:
        raise ValueError(f"no row of values is inserted by {sql}")
    taken = _MARK.sub(lambda found: f"given_.c{int(found[1]) - 1}", values[1])
    rows = f" SELECT {taken} FROM {_unnest(range(len(types)), types)} "  # noqa: S608 - statements of ours only
    return sql[: values.start()] + rows + sql[values.end() :]


def _update_of_rows(sql: str, types: Sequence[int]) -> str:
    changed, _, which = _MARK.sub(lambda found: f"given_.c{int(found[1]) - 1}", sql).partition(" WHERE ")
    rows = _unnest(range(len(types)), types)
    return f"{changed} FROM {rows} WHERE {which.partition(' RETURNING ')[0]}"


def _unnest(places: Sequence[int], types: Sequence[int], ordinality: str = "", more: str = "") -> str:
    """Parallel arrays as rows: one parameter for each place, in order."""
    arrays = ", ".join(f"${number}::{_TYPE_NAMES[types[place]]}[]" for number, place in enumerate(places, start=1))
    names = ", ".join(f"c{place}" for place in places)
    return f"unnest({arrays}){ordinality} AS given_ ({names}{more})"
