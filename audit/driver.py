"""Statements past SQLAlchemy, on the connection of a transaction: their errors, and sending them ahead of answers.

On PostgreSQL an exchange costs more than many a statement. Within `sent_ahead` what is written past SQLAlchemy is sent
(libpq's pipeline) and nobody waits for its answer: the server works on it while the sender goes on. Whoever reads waits
for all that went before. An error is raised by whoever waits next, at the latest when the block ends; nothing that was
sent after the failed statement is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, OperationalError

_AHEAD: Final = "audit.ahead"
_SENT_AHEAD: Final = "(sent ahead)"
"""In place of a statement that failed: which of them it was, the server does not say."""


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
    ahead: _Ahead | None = connection.info.get(_AHEAD)
    if ahead is not None:
        # What was sent behind it was not run, and is no error of its own.
        ahead.end()
    is_lost = dialect.is_disconnect(error, driver, None)
    if is_lost:
        # As SQLAlchemy does: the transaction is over, and the pool gives this connection to nobody else.
        connection.invalidate(error)
        return OperationalError(statement, None, error, hide_parameters=True, connection_invalidated=True)
    told: Exception = DBAPIError.instance(statement, None, error, kinds, hide_parameters=True, dialect=dialect)
    return told


class _Ahead:
    """What a connection has sent ahead. Its pipeline begins with the first statement past SQLAlchemy."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._mode: Any = None
        self._pipeline: Any = None

    def begin(self) -> None:
        if self._mode is None:
            self._mode = self._driver.pipeline()
            self._pipeline = self._mode.__enter__()

    def end(self) -> Any:
        """Wait for all answers; returns the first error among them."""
        mode, pipeline = self._mode, self._pipeline
        if mode is None:
            return None
        self._mode = self._pipeline = None
        failed = None
        while True:
            try:
                pipeline.sync()
            except self._driver_error() as error:
                failed = failed or error
                if self._driver.closed:
                    break
            else:
                break
        with suppress(self._driver_error()):
            mode.__exit__(None, None, None)
        return failed

    def _driver_error(self) -> type[Exception]:
        error: type[Exception] = self._driver.Error
        return error


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
    ahead = info[_AHEAD] = _Ahead(connection.connection.driver_connection)
    try:
        yield
    finally:
        failed = ahead.end()
        del info[_AHEAD]
        if failed is not None:
            raise driver_error(connection, _SENT_AHEAD, failed) from failed


def answered(connection: Connection) -> None:
    """Wait until everything that was sent ahead is answered; the driver takes any statement then.

    Raises:
        DBAPIError: one of them failed.
    """
    ahead: _Ahead | None = connection.info.get(_AHEAD)
    if ahead is None:
        return
    failed = ahead.end()
    if failed is not None:
        raise driver_error(connection, _SENT_AHEAD, failed) from failed


def go_ahead(connection: Connection) -> None:
    """Say that a statement past SQLAlchemy is sent next."""
    begin(connection)
    ahead: _Ahead | None = connection.info.get(_AHEAD)
    if ahead is not None:
        ahead.begin()
