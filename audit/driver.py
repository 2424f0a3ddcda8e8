"""Statements past SQLAlchemy, on the connection of a transaction: their errors, and sending them ahead of answers.

On PostgreSQL an exchange costs more than many a statement, and the driver's cursor costs the sender more than most of
them cost the server. Statements past SQLAlchemy are given to libpq itself, in its pipeline, and kept ready on the
connection. Within `sent_ahead` nobody waits for the answer to what is written: the server works on it while the sender
goes on. Whoever reads waits for all that went before. An error is raised by whoever waits next, at the latest when the
block ends; nothing that was sent after the failed statement is run.
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError, OperationalError

_AHEAD: Final = "audit.ahead"
_WIRE: Final = "audit.wire"
_SENT_AHEAD: Final = "(sent ahead)"
"""In place of a statement that failed: which of them it was, the server does not say."""
_MOST_KEPT: Final = 200
"""Statements that a connection keeps ready at most: the server holds each in memory."""
_SENT_WITH: Final = 6
"""Statements that are sent together, while nobody waits: the server begins before the last of them is made."""
_MUCH: Final = 64
"""Values of a statement that is sent at once."""


def begin(connection: Connection) -> None:
    """Begin as SQLAlchemy knows it: of what the driver's own cursor begins, its commit would do nothing."""
    if not connection.in_transaction():
        connection.begin()


def driver_error(connection: Connection, statement: str, error: Any) -> Exception:
    """What the driver raised past SQLAlchemy, as SQLAlchemy says it: who begins anew or translates knows nothing else.

    A connection that is lost is an OperationalError, and is given up.
    """
    dialect = connection.dialect
    kinds = dialect.loaded_dbapi.Error
    driver: Any = connection.connection.driver_connection
    wire: _Wire | None = connection.info.get(_WIRE)
    if wire is not None:
        # What was sent behind it was not run, and is no error of its own.
        wire.end()
    is_lost = dialect.is_disconnect(error, driver, None)
    if is_lost:
        # As SQLAlchemy does: the transaction is over, and the pool gives this connection to nobody else.
        connection.invalidate(error)
        return OperationalError(statement, None, error, hide_parameters=True, connection_invalidated=True)
    told: Exception = DBAPIError.instance(statement, None, error, kinds, hide_parameters=True, dialect=dialect)
    return told


@contextmanager
def sent_ahead(connection: Connection) -> Iterator[None]:
    """While the block lasts, send what is written past SQLAlchemy without waiting, where the database can (PostgreSQL).

    Raises:
        DBAPIError: a statement failed, if nobody was told of it before; also in place of another error of the block,
            which would have it taken for a transaction that may still commit.
    """
    info = connection.info
    if connection.dialect.driver != "psycopg" or _AHEAD in info:
        yield
        return
    begin(connection)
    info[_AHEAD] = True
    try:
        yield
    finally:
        # A connection that was lost meanwhile has been given up, with all that was noted of it.
        info.pop(_AHEAD, None)
        answered(connection)


def answered(connection: Connection) -> None:
    """Wait until everything that was sent ahead is answered; the driver takes any statement then.

    Raises:
        DBAPIError: one of them failed.
    """
    wire: _Wire | None = None if connection.invalidated else connection.info.get(_WIRE)
    failed = None if wire is None else wire.end()
    if failed is not None:
        raise driver_error(connection, _SENT_AHEAD, failed) from failed


def send(connection: Connection, statement: str, values: Sequence[Any]) -> Sent:
    """Run a statement of PostgreSQL's own form (`$1`); within `sent_ahead` nobody waits for its answer.

    Raises:
        DBAPIError: it failed, or one that was sent before it.
    """
    begin(connection)
    info = connection.info
    wire: _Wire | None = info.get(_WIRE)
    if wire is None:
        wire = info[_WIRE] = _Wire(connection)
    failed = None
    try:
        try:
            sent = wire.send(statement, values)
        finally:
            if _AHEAD not in info:
                failed = wire.end()
        if failed is not None:
            raise failed
    except connection.dialect.loaded_dbapi.Error as error:
        raise driver_error(connection, statement, error) from error
    return sent


class Sent:
    """A statement that was sent, and its answer once it is there."""

    __slots__ = ("_wire", "result")

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire
        self.result: Any = None

    def fetchall(self) -> list[tuple[Any, ...]]:
        """The rows, as the driver (psycopg) reads them.

        Raises:
            psycopg.Error: it failed, or one that was sent before it.
        """
        return self._wire.rows(self._answered())

    def piece(self) -> bytes | None:
        """The one value of the one row, a text, as bytes.

        Raises:
            psycopg.Error: as `fetchall`.
        """
        piece: bytes | None = self._answered().get_value(0, 0)
        return piece

    def _answered(self) -> Any:
        if self.result is None:
            self._wire.take(self)
        return self.result


class _Wire:
    """One connection to PostgreSQL past the driver's cursors. A statement begins its pipeline, `end` ends it."""

    def __init__(self, connection: Connection) -> None:
        # Imported late: SQLite needs nothing of PostgreSQL's driver.
        import psycopg
        from psycopg import pq
        from psycopg.adapt import PyFormat, Transformer
        from psycopg.errors import error_from_result

        driver: Any = connection.connection.driver_connection
        self._driver = driver
        self._libpq = driver.pgconn
        self._errors = psycopg
        self._status = pq.ExecStatus
        self._idle = pq.TransactionStatus.IDLE
        self._error_of = error_from_result
        self._transformer = Transformer(driver)
        self._as_text = PyFormat.TEXT
        self._is_open = False
        self._due: deque[Sent | None] = deque()
        self._unsent = 0
        self._has_ended = False
        self._failed: Exception | None = None
        self._has_failed = False
        self._names: dict[str, bytes] = {}
        self._made = 0
        self._is_sure = True
        self._readable, self._ready = select.poll(), select.poll()
        self._readable.register(self._libpq.socket, select.POLLIN)
        self._ready.register(self._libpq.socket, select.POLLIN | select.POLLOUT)
        if not event.contains(connection.engine, "rollback", _doubt):
            event.listen(connection.engine, "rollback", _doubt)
            event.listen(connection.engine, "rollback_savepoint", _doubt_after_savepoint)

    def doubt(self) -> None:
        """Ask the server, before the next statement, which it keeps ready: a rollback may have it forget every one."""
        self._is_sure = not self._names

    def send(self, statement: str, values: Sequence[Any]) -> Sent:
        """Send a statement; what was sent before it may not be answered yet."""
        raw, forms = self._written(values)
        if not self._is_open:
            self._open()
        name = self._name_of(statement)
        if name is None:
            self._libpq.send_query_params(statement.encode(), raw, None, forms)
        else:
            self._libpq.send_query_prepared(name, raw, forms)
        sent = Sent(self)
        self._due.append(sent)
        self._unsent += 1
        if self._unsent >= _SENT_WITH or len(raw) >= _MUCH:
            self._flush()
        return sent

    def take(self, sent: Sent) -> None:
        """Wait until a statement is answered."""
        if self._is_open:
            self._libpq.send_flush_request()
            self._flush()
            self._receive(sent)
        if sent.result is None:
            failed, self._failed = self._failed, None
            raise failed or self._errors.InternalError("A statement that was sent before this one failed.")

    def rows(self, result: Any) -> list[tuple[Any, ...]]:
        """The rows of an answer."""
        if result.status != self._status.TUPLES_OK:
            return []
        self._transformer.set_pgresult(result)
        rows: list[tuple[Any, ...]] = self._transformer.load_rows(0, result.ntuples, tuple)
        return rows

    def end(self) -> Exception | None:
        """Wait for all answers; returns the first error among them that nobody was told of."""
        if not self._is_open:
            return None
        self._is_open = False
        try:
            self._libpq.pipeline_sync()
            self._flush()
            self._receive(None)
            self._libpq.exit_pipeline_mode()
        except self._errors.OperationalError as error:
            self._libpq.finish()
            self._failed = self._failed or error
        except BaseException:
            # Who stopped waiting does not know what is still to come.
            self._libpq.finish()
            raise
        failed, self._failed = self._failed, None
        if self._has_failed:
            # What was to be kept ready behind the statement that failed is not.
            self.doubt()
        self._due.clear()
        return failed

    def _written(self, values: Sequence[Any]) -> tuple[list[bytes | None], list[int] | None]:
        """Values as they go over the wire, and where bytes are among them; of what type each is, the server knows."""
        raw: list[bytes | None] = []
        put = raw.append
        bytes_at: list[int] = []
        for value in values:
            kind = type(value)
            if kind is str or kind is list:
                text = value if kind is str else _array(value)
                if "\0" in text:
                    raise self._errors.DataError("A text for PostgreSQL ends where it has a NUL.")
                put(text.encode())
            elif value is None:
                put(None)
            elif kind is int:
                put(b"%d" % value)
            elif kind is bytes or kind is self._errors.Binary:
                bytes_at.append(len(raw))
                put(value if kind is bytes else value.obj)
            else:
                written: Any = self._transformer.get_dumper(value, self._as_text).dump(value)
                put(None if written is None else bytes(written))
        forms = None
        if bytes_at:
            forms = [0] * len(raw)
            for place in bytes_at:
                forms[place] = 1
        return raw, forms

    def _open(self) -> None:
        libpq, driver = self._libpq, self._driver
        if not self._is_sure:
            found = {name.encode() for (name,) in driver.execute("SELECT name FROM pg_prepared_statements").fetchall()}
            self._names = {statement: name for statement, name in self._names.items() if name in found}
            self._is_sure = True
        libpq.enter_pipeline_mode()
        self._is_open = True
        self._failed = None
        self._has_failed = False
        self._has_ended = True
        if libpq.transaction_status == self._idle and not driver.autocommit:
            libpq.send_query_params(b"BEGIN", None)
            self._due.append(None)

    def _name_of(self, statement: str) -> bytes | None:
        """Under which a statement is kept ready; nothing where the next transaction is another server connection's."""
        name = self._names.get(statement)
        if name is None and self._driver.prepare_threshold is not None and len(self._names) < _MOST_KEPT:
            self._made += 1
            name = self._names[statement] = b"idhub_%d" % self._made
            self._libpq.send_prepare(name, statement.encode())
            self._due.append(None)
        return name if self._driver.prepare_threshold is not None else None

    def _flush(self) -> None:
        self._unsent = 0
        while self._libpq.flush():
            # More than the socket takes at once: the server may be waiting for us to read.
            self._ready.poll()
            self._libpq.consume_input()

    def _receive(self, until: Sent | None) -> None:
        """Take answers until that of one statement is there, or an error; without a statement until the last."""
        libpq, status = self._libpq, self._status
        while True:
            while libpq.is_busy():
                self._readable.poll()
                libpq.consume_input()
            result = libpq.get_result()
            if result is None:
                # The end of one statement's results; twice, that libpq waits for nothing any more.
                if self._has_ended:
                    raise self._errors.OperationalError("The answer is none of PostgreSQL's protocol.")
                self._has_ended = True
                continue
            self._has_ended = False
            if result.status == status.PIPELINE_SYNC:
                return
            sent = self._due.popleft() if self._due else None
            if result.status == status.FATAL_ERROR:
                self._has_failed = True
                self._failed = self._error_of(result)
            elif sent is not None and result.status != status.PIPELINE_ABORTED:
                sent.result = result
            if until is not None and (sent is until or self._failed is not None):
                return


def _doubt(connection: Connection) -> None:
    wire: _Wire | None = None if connection.invalidated else connection.info.get(_WIRE)
    if wire is not None:
        wire.doubt()


def _doubt_after_savepoint(connection: Connection, _name: str, _context: None) -> None:
    _doubt(connection)


def _array(texts: Sequence[str]) -> str:
    """Texts as one value."""
    return "{" + ",".join(['"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in texts]) + "}"
