"""Kept statements: made once, run past SQLAlchemy's execution on the connection of a transaction.

To send a statement SQLAlchemy does work that comes to the same each time: it looks the text up, writes out lists of
values, wraps the cursor and the rows. Kept statements are compiled once for each database; what is left is to turn
values into the database's form and back, in a third of the time. They are part of the session's transaction like its
others, and raise the same errors.
"""

from __future__ import annotations

import re
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Connection, Dialect, Executable, String
from sqlalchemy.orm import Session
from sqlalchemy.sql import ClauseElement

from audit.driver import Sent, begin, driver_error, send, sent_ahead
from audit.driver import answered as wait_for_answers
from idhub.db import ASKED_FIRST, execute_planned, plans_are_kept

_LIST = re.compile(r"__\[POSTCOMPILE_(\w+)\]")
_IN_LIST = re.compile(r"(?<! NOT) IN \(__\[POSTCOMPILE_(\w+)\]\)")
_MARK = re.compile(r"%\((\w+)\)s|%%")
_MOST_TEXTS = 6
"""Of a statement with numbers in its text: a connection keeps few statements ready."""
Process = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class _Place:
    """A value of the statement: given by its name, or the same each time."""

    name: str
    store: Process | None
    is_list: bool
    is_given: bool
    is_literal: bool
    """A number that stands in the text itself: a plan is made for it."""
    fixed: Any

    def written(self, given: Mapping[str, Any]) -> Any:
        """What stands in the text in its place."""
        if self.is_literal:
            return str(int(given[self.name])) if self.is_given else self.fixed
        return ", ".join("?" * len(given[self.name] if self.is_given else self.fixed))

    def value(self, given: Mapping[str, Any]) -> Any:
        if not self.is_given:
            return self.fixed
        value, store = given[self.name], self.store
        if store is None:
            return value
        return [store(one) for one in value] if self.is_list else store(value)


class _Form:
    """The statement as one database takes it."""

    def __init__(self, statement: Any, dialect: Dialect) -> None:
        compiled: Any = statement.compile(dialect=dialect)
        self.is_sqlite = dialect.name == "sqlite"
        places = {name: _place(name, bind, compiled) for name, bind in compiled.binds.items()}
        names = compiled.positiontup if self.is_sqlite else list(dict.fromkeys(compiled.bind_names.values()))
        self._places = tuple(places[name] for name in names if not places[name].is_literal)
        unlike = [p for p in self._places if p.is_list and not isinstance(compiled.binds[p.name].type, String)]
        left = _LIST.findall(_IN_LIST.sub("", compiled.string))
        if unlike or not all(places[name].is_literal for name in left):
            raise ValueError("a kept statement takes lists of texts alone, each in an IN")
        # PostgreSQL has one text whatever the number of values, which the server keeps ready.
        text = compiled.string if self.is_sqlite else _IN_LIST.sub(r" = ANY(%(\1)s::VARCHAR[])", compiled.string)
        parts = _LIST.split(text)
        self._parts, self._written = parts[::2], tuple(places[name] for name in parts[1::2])
        self._literals = tuple(place.name for place in self._written if place.is_literal and place.is_given)
        self._numbered: dict[tuple[int, ...], str] = {}
        columns = list(statement.exported_columns)
        self.returns = bool(columns)
        self._make = _maker(tuple(column.key for column in columns))
        loads = [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns]
        self._loads = tuple((place, load) for place, load in enumerate(loads) if load is not None)

    def text(self, given: Mapping[str, Any]) -> str:
        if len(self._parts) == 1:
            return self._parts[0]
        text = [self._parts[0]]
        for place, part in zip(self._written, self._parts[1:], strict=True):
            text += (place.written(given), part)
        return "".join(text)

    def numbered(self, given: Mapping[str, Any]) -> str:
        """The text in PostgreSQL's own form (`$1`)."""
        literals = tuple(given[name] for name in self._literals)
        found = self._numbered.get(literals)
        if found is None:
            found = self._numbered[literals] = _numbered(self.text(given), [place.name for place in self._places])
        return found

    def has_room(self, given: Mapping[str, Any]) -> bool:
        """Whether there are few texts of it with other numbers in them."""
        literals = tuple(given[name] for name in self._literals)
        return literals in self._numbered or len(self._numbered) < _MOST_TEXTS

    def named(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The values by their names, as the text of PostgreSQL's driver has them."""
        return {place.name: place.value(given) for place in self._places}

    def values(self, given: Mapping[str, Any]) -> Sequence[Any]:
        """The values in the order in which they are sent."""
        if not self.is_sqlite:
            return [place.value(given) for place in self._places]
        values: list[Any] = []
        for place in self._places:
            if place.is_list:
                values += place.value(given)
            else:
                values.append(place.value(given))
        return tuple(values)

    def rows(self, stored: Iterable[tuple[Any, ...]]) -> list[Any]:
        make, loads = self._make, self._loads
        if not loads:
            return [make(row) for row in stored]
        rows = []
        for row in stored:
            values = list(row)
            for place, load in loads:
                values[place] = load(values[place])
            rows.append(make(values))
        return rows


def _numbered(text: str, names: Sequence[str]) -> str:
    """The statement of the driver's form (`%(name)s`) in PostgreSQL's own (`$1`)."""
    marks = {name: f"${number}" for number, name in enumerate(names, start=1)}
    return _MARK.sub(lambda found: marks[found[1]] if found[1] else "%", text)


def _maker(names: tuple[str, ...]) -> Any:
    """What makes a row of its values."""
    kind: Any = namedtuple("Row", names, rename=True)  # type: ignore[misc]  # what the statement names is known here only
    return kind._make


def _place(name: str, bind: Any, compiled: Any) -> _Place:
    store = bind.type.dialect_impl(compiled.dialect).bind_processor(compiled.dialect)
    is_list, is_literal = bool(bind.expanding), bind.literal_execute or bind in compiled.literal_execute_params
    is_given = bool(bind.required or (is_list and bind.value is None))
    fixed = bind.value
    if not is_given and is_literal:
        fixed = compiled.render_literal_bindparam(bind, render_literal_value=fixed)
    elif not is_given and is_list:
        # As plain texts: an enumeration's are.
        fixed = [str(one if store is None else store(one)) for one in fixed]
    elif not is_given and store is not None:
        fixed = store(fixed)
    return _Place(name, store, is_list, is_given, is_literal, fixed)


class _Fetched:
    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    def fetchall(self) -> list[Any]:
        return self._rows

    def piece(self) -> Any:
        return self._rows[0][0]


class Answer:
    """Rows that were asked for, and may still be on their way."""

    def __init__(self, connection: Connection, form: _Form, text: str, sent: _Fetched | Sent) -> None:
        self._connection = connection
        self._form = form
        self._text = text
        self._sent = sent

    def rows(self) -> list[Any]:
        """The rows, once, as tuples that name their columns."""
        return self._form.rows(self._fetched(self._sent.fetchall))

    def piece(self) -> bytes | str | None:
        """The one value of the one row, a text, as the database sent it."""
        value: bytes | str | None = self._fetched(self._sent.piece)
        return value

    def _fetched(self, fetch: Callable[[], Any]) -> Any:
        try:
            return fetch()
        except self._connection.dialect.loaded_dbapi.Error as error:
            raise driver_error(self._connection, self._text, error) from error


class Told(Protocol):
    """What a statement returns, perhaps later."""

    def rows(self) -> Sequence[Any]:
        """The rows, once."""


class _Rows:
    def __init__(self, rows: Sequence[Any]) -> None:
        self._rows = rows

    def rows(self) -> Sequence[Any]:
        return self._rows


def together(session: Session) -> AbstractContextManager[None]:
    """What planned statements ask within the block is one exchange with PostgreSQL, where it keeps plans; rows are
    fetched behind it.
    """
    return ahead(session) if plans_are_kept(session.connection()) else nullcontext()


def ahead(session: Session) -> AbstractContextManager[None]:
    """While the block lasts, nobody waits for the answer to what kept statements write (`audit.driver.sent_ahead`)."""
    return sent_ahead(session.connection())


def answered(session: Session) -> None:
    """Wait for what was sent ahead.

    Raises:
        DBAPIError: one of them failed.
    """
    wait_for_answers(session.connection())


class Kept:
    """A statement that is the same each time, but for the values of its named parameters.

    Lists are `bindparam(name, expanding=True)` in an `IN`. Every other parameter that has no value must be given.

    Raises (every use):
        DBAPIError: as any other statement.
    """

    def __init__(self, statement: Executable | Callable[[str], Executable]) -> None:
        """Keep a statement, or what makes it for a database by its dialect's name."""
        self._statement = statement
        self._forms: dict[str, _Form] = {}

    def all(self, session: Session, **given: Any) -> list[Any]:
        """Run it and return its rows, as tuples that name their columns."""
        return self.ask(session, **given).rows()

    def ask(self, session: Session, **given: Any) -> Answer:
        """Run it; its rows are fetched later. What is asked together within `ahead` is one exchange on PostgreSQL."""
        return self.ask_on(session.connection(), given)

    def ask_on(self, connection: Connection, given: Mapping[str, Any]) -> Answer:
        """The same on a connection that no session has yet."""
        form = self._form(connection)
        text, sent = _run(connection, form, given)
        return Answer(connection, form, text, sent)

    def scalars(self, session: Session, **given: Any) -> list[Any]:
        """Run it and return the first value of each row."""
        return [row[0] for row in self.all(session, **given)]

    def run(self, session: Session, **given: Any) -> None:
        """Run it for what it changes."""
        connection = session.connection()
        _run(connection, self._form(connection), given)

    def each(self, session: Session, given: Sequence[Mapping[str, Any]]) -> None:
        """Run it once for each set of values, for what it changes; these have no lists."""
        if not given:
            return
        connection = session.connection()
        form = self._form(connection)
        if form.is_sqlite and len(given) > 1:
            _run_each(connection, form, given)
            return
        for one in given:
            _run(connection, form, one)

    def has_room(self, connection: Connection, given: Mapping[str, Any]) -> bool:
        """Whether PostgreSQL keeps few texts of it with other numbers in them."""
        return self._form(connection).has_room(given)

    def _form(self, connection: Connection) -> _Form:
        name = connection.dialect.name
        form = self._forms.get(name)
        if form is None:
            form = self._forms[name] = _Form(self._make(name), connection.dialect)
        return form

    def _make(self, name: str) -> Any:
        kept: Any = self._statement
        return kept if isinstance(kept, ClauseElement) else kept(name)


class Planned:
    """A kept statement that finds by index what it is given, whatever that is, for pages that are read.

    In `Database.read(keeps_plans=True)` PostgreSQL plans it once a connection: to plan many joins costs more than to
    make them. In other transactions of PostgreSQL it is a statement like any other, planned for its values. Numbers may
    stand in its text (`literal_execute`), where a plan must be made for them.
    """

    def __init__(self, statement: Any) -> None:
        self._statement = statement
        self._kept = Kept(statement)

    def first(self, given: Mapping[str, Any]) -> Callable[[Connection], None]:
        """What `Database.read(first=)` asks as a snapshot begins; `all` of the same has the answer then."""

        def ask(connection: Connection) -> None:
            connection.info[ASKED_FIRST] = (self, given, self._kept.ask_on(connection, given))

        return ask

    def all(self, session: Session, given: Mapping[str, Any]) -> Sequence[Any]:
        """Run it and return its rows.

        Raises:
            DBAPIError: as any other statement.
        """
        return self.ask(session, given).rows()

    def piece(self, session: Session, given: Mapping[str, Any]) -> bytes | str | None:
        """Run it and return the one value of its one row, a text: as it came, where it came past the driver.

        Raises:
            DBAPIError: as any other statement.
        """
        told = self.ask(session, given)
        value: bytes | str | None = told.piece() if isinstance(told, Answer) else told.rows()[0][0]
        return value

    def ask(self, session: Session, given: Mapping[str, Any]) -> Told:
        """Run it; its rows are fetched later (`together`).

        Raises:
            DBAPIError: as any other statement.
        """
        connection = session.connection()
        if connection.dialect.name == "sqlite":
            return self._kept.ask(session, **given)
        first = connection.info.pop(ASKED_FIRST, None)
        if first is not None and first[:2] == (self, given):
            answer: Answer = first[2]
            return answer
        if not plans_are_kept(connection) or not self._kept.has_room(connection, given):
            return _Rows(execute_planned(connection, self._statement, given).all())
        driver: Any = connection.connection.driver_connection
        before, driver.prepare_threshold = driver.prepare_threshold, 0
        try:
            return self._kept.ask(session, **given)
        finally:
            driver.prepare_threshold = before


def _run(connection: Connection, form: _Form, given: Mapping[str, Any]) -> tuple[str, _Fetched | Sent]:
    if not form.is_sqlite:
        if connection.dispatch.before_cursor_execute:
            _tell(connection, form.text(given), form.named(given))
        text = form.numbered(given)
        return text, send(connection, text, form.values(given))
    begin(connection)
    text, values = form.text(given), form.values(given)
    _tell(connection, text, values)
    driver: Any = connection.connection.driver_connection
    try:
        # SQLite finds rows as they are fetched: what is written meanwhile would show.
        return text, _Fetched(driver.execute(text, values).fetchall())
    except connection.dialect.loaded_dbapi.Error as error:
        raise driver_error(connection, text, error) from error


def _run_each(connection: Connection, form: _Form, given: Sequence[Mapping[str, Any]]) -> None:
    begin(connection)
    text, every = form.text(given[0]), [form.values(one) for one in given]
    _tell(connection, text, every, many=True)
    driver: Any = connection.connection.driver_connection
    try:
        driver.executemany(text, every)
    except connection.dialect.loaded_dbapi.Error as error:
        raise driver_error(connection, text, error) from error


def _tell(connection: Connection, text: str, values: Any, *, many: bool = False) -> None:
    """Whoever listens to what is sent hears of what is sent past SQLAlchemy too."""
    for hear in connection.dispatch.before_cursor_execute:
        hear(connection, None, text, values, None, many)
