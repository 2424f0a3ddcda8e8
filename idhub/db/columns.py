"""Tables and the types of their columns, the same on both databases."""

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import BigInteger, Dialect, LargeBinary, MetaData, String, Text
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeDecorator, TypeEngine

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


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
    """Microseconds since 1970 of an aware datetime: how every instant is stored.

    Raises:
        ValueError: it has no time zone.
    """
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


def json_text(value: Any) -> str:
    """A JSON value as `JsonText` stores it."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


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


def by_bytes(length: int) -> TypeEngine[str]:
    """A text that PostgreSQL too compares and orders by its bytes, so that what begins with a text is a range of it."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")
