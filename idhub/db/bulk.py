"""Many rows and many values at once: in, as parameters of a statement, and out."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import orjson
from sqlalchemy import (
    ARRAY,
    JSON,
    ColumnElement,
    Dialect,
    Select,
    Text,
    bindparam,
    cast,
    func,
    literal,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session
from sqlalchemy.types import TypeEngine

from audit.trail import copy_rows, put_rows, put_values, rows_of, send_rows
from idhub.db.columns import Base, Instant, JsonText, json_text, to_micros

T = TypeVar("T")
# psycopg allows 65,535 bound values a statement; SQLite 32,766.
MAX_IN_VALUES = 5_000
# Below this, setting up a COPY costs more than it saves.
_COPY_FROM = 32
# What stands between fields and between rows of what comes in one piece.
_FIELD, _ROW = b"\x1f", b"\x1e"


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


def upsert(session: Session, model: type[Base]) -> Any:
    """An INSERT on `model` that takes `on_conflict_do_update` / `_nothing`, for the session's database."""
    return upsert_on(session.get_bind().dialect.name, model)


def upsert_on(dialect: str, model: type[Base]) -> Any:
    """`upsert` by the name of a dialect, for statements that are made once."""
    build = sqlite_insert if dialect == "sqlite" else postgresql_insert
    return build(model.__table__)  # type: ignore[arg-type]


def among(session: Session, values: Sequence[str]) -> Any:
    """Many texts as one bound value: `column.in_(among(session, texts))` is compiled once, whatever their number."""
    if session.get_bind().dialect.name == "sqlite":
        each = func.json_each(orjson.dumps(list(values)).decode()).table_valued("value")
        return select(each.c.value)
    return select(func.unnest(cast(literal(list(values), ARRAY(Text)), ARRAY(Text))))


def given(name: str, *, is_sqlite: bool) -> Any:
    """The same for a statement that is made once: the texts are its parameter `name`, see `given_value`."""
    value = bindparam(name, type_=Text)
    if is_sqlite:
        return select(func.json_each(value).table_valued("value").c.value)
    return select(func.json_array_elements_text(cast(value, JSON)))


def given_value(values: Sequence[str]) -> str:
    """What is bound to a parameter of `given`."""
    return orjson.dumps(list(values)).decode()


class Brief(NamedTuple):
    """Rows of which few columns say all.

    Args:
        where: SQL of both databases; a column is `found.name`.
    """

    where: str
    names: tuple[str, ...]


def in_one_piece(
    rows: Select[Any], *, is_sqlite: bool, words: Sequence[str] = (), brief: Brief | None = None
) -> Select[Any]:
    """All rows of a statement that orders them as one text, in their order; `taken_apart` has them again.

    SQLite's driver lets go of the interpreter for each row, and whoever computes meanwhile keeps it for up to some
    milliseconds: of a hundred rows each may wait so long. PostgreSQL's driver makes objects of each value.

    Args:
        words: names of columns with texts that may hold anything: they come as JSON.
        brief: rows of which fewer columns come.
    """
    found = rows.subquery("found")
    return select(_as_one_text(tuple(found.c.keys()), tuple(words), brief, is_sqlite)).select_from(found)


@lru_cache(256)
def _as_one_text(
    names: tuple[str, ...], words: tuple[str, ...], brief: Brief | None, is_sqlite: bool
) -> ColumnElement[Any]:
    line, parted = _as_line(names, words, is_sqlite), f"'{_ROW.decode()}'"
    if brief is not None:
        line = f"CASE WHEN {brief.where} THEN {_as_line(brief.names, words, is_sqlite)} ELSE {line} END"
    return literal_column(
        f"CAST(group_concat({line}, {parted}) AS BLOB)" if is_sqlite else f"string_agg({line}, {parted})"
    )


def _as_line(names: tuple[str, ...], words: tuple[str, ...], is_sqlite: bool) -> str:
    quoted = "nullif(json_quote(found.{}), 'null')" if is_sqlite else "to_json(found.{})"
    fields = [f"coalesce(CAST({(quoted if name in words else 'found.{}').format(name)} AS TEXT), '')" for name in names]
    return f" || '{_FIELD.decode()}' || ".join(fields)


def taken_apart(text: bytes | str | None) -> list[list[bytes]]:
    """The rows of what came in one piece; what was null is empty."""
    if not text:
        return []
    return [row.split(_FIELD) for row in (text.encode() if isinstance(text, str) else text).split(_ROW)]
