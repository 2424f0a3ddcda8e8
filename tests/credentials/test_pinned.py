"""The store's connection to PostgreSQL: values on the wire, many questions at once, what goes wrong there."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from idhub.credentials.pinned import BEGIN, COMMIT, Lost, Pinned
from idhub.credentials.statements import Statement
from idhub.db import Database

pytestmark = pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
T = "pinned_values"
_TYPES = {"big": "BIGINT", "small": "SMALLINT", "number": "INTEGER", "word": "TEXT", "short": "VARCHAR(40)",
          "is_so": "BOOLEAN", "raw": "BYTEA", "document": "JSONB", "other": "JSON"}  # fmt: skip
_ROWS: list[list[Any]] = [
    [-(2**63), -(2**15), 2**31 - 1, "", "王芳 \U0001f600", True, b"\x00\xff", '{"a": 1}', "[1]"],
    [0, 0, 0, "x" * 300_000, "'\"\\", False, b"", "null", "{}"],
    [None] * len(_TYPES),
    [2**63 - 1, 1, -1, "\t\r\n", "NULL", True, b"\\x00", '"é"', "1"],
    [7, 7, 7, "seven", "7", False, b"7", "7", "7"],
]
_COLUMNS = ", ".join(_TYPES)
_MARKS = ", ".join(f"${number}::{kind}" for number, kind in enumerate(_TYPES.values(), start=1))


def _statement(sql: str, count: int) -> Statement:
    return Statement(sql, (None,) * count, tuple((place, f"p{place}") for place in range(count)))


STATEMENTS = {
    "put": _statement(f"INSERT INTO {T} ({_COLUMNS}) VALUES ({_MARKS})", len(_TYPES)),
    "get": _statement(f"SELECT {_COLUMNS} FROM {T} WHERE big = $1::BIGINT", 1),
    "count": _statement(f"SELECT count(*) AS found FROM {T} WHERE big < $1::BIGINT OR big IS NULL", 1),
    "take": _statement(f"DELETE FROM {T} WHERE big = $1::BIGINT RETURNING number", 1),
    "divide": _statement("SELECT 1 / $1::INTEGER AS part", 1),
    "sleep": _statement("SELECT pg_sleep($1::INTEGER)::TEXT AS done", 1),
}


@pytest.fixture
def address(database: Database) -> Iterator[str]:
    """Of a database with an empty table of values."""
    url = "postgresql://" + database.url.split("://", 1)[1]
    with psycopg.connect(url, autocommit=True) as connection:
        columns = ", ".join(f"{name} {kind}" for name, kind in _TYPES.items())
        connection.execute(f"CREATE TABLE {T} ({columns})".encode())
    yield url
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"DROP TABLE {T}".encode())


def using(address: str, work: Callable[[Pinned], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        pinned = await Pinned.connect(address, STATEMENTS)
        try:
            return await work(pinned)
        finally:
            pinned.close()

    return asyncio.run(run())


@pytest.mark.parametrize("at_once", [1, 5])
def test_values_come_back_as_they_were_given(address: str, at_once: int) -> None:
    """One by one, and as rows of one statement."""

    async def work(pinned: Pinned) -> list[dict[str, Any]]:
        for begins in range(0, len(_ROWS), at_once):
            await pinned.ask([BEGIN, *(("put", row) for row in _ROWS[begins : begins + at_once]), COMMIT])
        found = await pinned.ask([("get", [row[0]]) for row in _ROWS if row[0] is not None])
        assert await pinned.ask([("count", [2**63 - 1])]) == [[{"found": 4}]]
        return [dict(rows[0]) for rows in found]

    expected = [dict(zip(_TYPES, row, strict=True)) for row in _ROWS if row[0] is not None]
    assert using(address, work) == expected


def test_each_of_many_gets_its_own_rows_in_order(address: str) -> None:
    async def work(pinned: Pinned) -> None:
        await pinned.ask([("put", [number, None, number, *[None] * 6]) for number in range(20)])
        asked = [5, 99, 5, 0, 19, 7, 99]
        found = await pinned.ask([("get", [one]) for one in asked])
        assert [[row["number"] for row in rows] for rows in found] == [[5], [], [5], [0], [19], [7], []]
        # What changes rows runs for each in turn: the second finds nothing.
        found = await pinned.ask([("take", [3]), ("take", [3]), ("get", [3]), ("count", [100])])
        assert [list(rows) for rows in found] == [[{"number": 3}], [], [], [{"found": 19}]]

    using(address, work)


def test_a_text_that_no_database_holds_is_refused_whole(address: str) -> None:
    """Not cut off at the character that ends texts in C."""

    async def work(pinned: Pinned) -> None:
        await pinned.ask([BEGIN, ("put", [1, *[None] * 3, "before\0after", *[None] * 4]), COMMIT])

    with pytest.raises(psycopg.DataError):
        using(address, work)
    assert using(address, lambda pinned: pinned.ask([("count", [100])])) == [[{"found": 0}]]


def test_after_one_that_fails_nothing_runs_and_nothing_is_kept(address: str) -> None:
    async def work(pinned: Pinned) -> None:
        await pinned.ask([BEGIN, ("put", _ROWS[4]), ("divide", [0]), ("put", _ROWS[4]), COMMIT])

    with pytest.raises(psycopg.errors.DivisionByZero):
        using(address, work)
    assert using(address, lambda pinned: pinned.ask([("count", [100])])) == [[{"found": 0}]]


def test_a_connection_that_the_server_ends_is_lost(address: str) -> None:
    async def work(pinned: Pinned) -> None:
        waiting = asyncio.create_task(pinned.ask([("sleep", [60])]))
        with psycopg.connect(address, autocommit=True) as other:
            found: list[Any] = []
            while not found:
                await asyncio.sleep(0.01)
                found = other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = 'idhub-store' AND datname = current_database() AND state = 'active'"
                ).fetchall()
        with pytest.raises(Lost):
            await waiting

    using(address, work)


_READY = b"Z\x00\x00\x00\x05I"


@pytest.mark.parametrize(
    "spoilt",
    [
        pytest.param(lambda answer: b"\x00" * 36, id="no message"),
        pytest.param(lambda answer: b"D\xff\xff\xff\xff", id="no length"),
        pytest.param(lambda answer: b"q\x00\x00\x00\x04" + answer, id="unknown message"),
        pytest.param(lambda answer: _READY + answer, id="an end before its time"),
    ],
)
def test_an_answer_that_is_none_is_lost_and_stops_no_loop(address: str, spoilt: Callable[[bytes], bytes]) -> None:
    """What became of the statements is not known then. A loop that waits for ever would be that of the whole hub."""
    server = urlsplit(address)

    async def run() -> None:
        is_spoilt, has_ended = False, asyncio.Event()

        async def forward(source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool) -> None:
            while sent := await source.read(65_536):
                sink.write(spoilt(sent) if answers and is_spoilt else sent)
            sink.close()

        async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            own_reader, own_writer = await asyncio.open_connection(server.hostname, server.port)
            await asyncio.gather(forward(reader, own_writer, answers=False), forward(own_reader, writer, answers=True))
            has_ended.set()

        async with await asyncio.start_server(between, "127.0.0.1", 0) as proxy:
            port = proxy.sockets[0].getsockname()[1]
            pinned = await Pinned.connect(f"postgresql://postgres@127.0.0.1:{port}{server.path}", STATEMENTS)
            await pinned.ask([BEGIN, ("divide", [1]), COMMIT])
            is_spoilt = True
            with pytest.raises(Lost):
                await asyncio.wait_for(pinned.ask([BEGIN, ("put", _ROWS[4]), COMMIT]), 5)
            pinned.close()
            await has_ended.wait()

    asyncio.run(run())


def test_one_that_is_closed_meanwhile_says_so(address: str) -> None:
    async def work(pinned: Pinned) -> None:
        waiting = asyncio.create_task(pinned.ask([("divide", [1]), ("sleep", [60])]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        pinned.close()
        with pytest.raises(Lost):
            await waiting
        assert pinned.is_closed
        with pytest.raises(Lost):
            await pinned.ask([("divide", [1])])

    using(address, work)


def test_nobody_at_the_address_is_lost(database_kind: str) -> None:
    with pytest.raises(Lost):
        using("postgresql://x@127.0.0.1:1/x", lambda pinned: pinned.ask([]))
