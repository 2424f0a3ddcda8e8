"""Transactions, column types and identifiers, on both databases."""

import fcntl
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any
from typing import cast as cast_to

import psycopg
import psycopg.errors
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import (
    Column,
    Date,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    bindparam,
    cast,
    event,
    func,
    insert,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.exc import DataError, DBAPIError, OperationalError
from sqlalchemy.orm import Session

from idhub.db import (
    MAX_IN_VALUES,
    Base,
    Database,
    Instant,
    bulk_insert,
    chunked,
    create_database,
    execute_planned,
    from_micros,
    insert_rows,
    libpq_address,
    new_id,
    to_micros,
    upsert,
    wait_alone,
)
from idhub.delivery.tables import Lease
from idhub.kept import Kept, Planned
from idhub.lifecycle.tables import CaseNumber
from idhub.settings import Settings
from idhub.turns import bulk_work

NOW = datetime(2026, 11, 23, 2, 0, 0, 123456, tzinfo=UTC)


def _last(database: Database, month: str = "2026-11") -> int | None:
    with database.read() as session:
        return session.execute(select(CaseNumber.last).where(CaseNumber.month == month)).scalar()


def _put(database: Database, last: int) -> None:
    with database.transaction() as session:
        session.add(CaseNumber(month="2026-11", last=last))


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_a_connection_that_breaks_where_a_snapshot_begins_is_said_to_be_broken(database: Database) -> None:
    """Whoever translates errors of the database knows this one, and not what SQLAlchemy says of asking further. Before,
    one that is made anew has been tried: that of the pool may have been broken for long."""
    ended: list[int] = []
    most = 2

    @event.listens_for(database.engine, "checkout")
    def end(connection: Any, *_: Any) -> None:
        info = connection.info
        if len(ended) < most:
            ended.append(info.backend_pid)
            with psycopg.connect(info.dsn, password=info.password) as other:
                other.execute("SELECT pg_terminate_backend(%s, 10000)", ended[-1:])

    with pytest.raises(OperationalError), database.read():
        pass
    assert len(set(ended)) == most
    assert _last(database) is None
    ended.clear()
    most = 1
    assert _last(database) is None, "one that is made anew is asked"
    assert len(ended) == 1
    ended.clear()
    planned = Planned(select(bindparam("which", type_=String)))
    with database.read(keeps_plans=True, first=planned.first({"which": "x"})) as session:
        assert planned.all(session, {"which": "x"})[0][0] == "x", "with what it begins with"
    assert len(ended) == 1


# ---------------------------------------------------------------------- instants


@given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)))  # noqa: DTZ001 - bounds
def test_instant_survives_to_the_microsecond(value: datetime) -> None:
    assert from_micros(to_micros(value)) == value


def test_instant_without_a_zone_is_a_defect() -> None:
    with pytest.raises(ValueError, match="timezone-aware"):
        to_micros(datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=8)), timezone(timedelta(hours=-5, minutes=-30))])
def test_instant_is_stored_and_compared_whatever_its_zone(database: Database, zone: timezone) -> None:
    value = NOW.astimezone(zone)
    with database.transaction() as session:
        session.add(Lease(name="a", holder="h", token=1, until=value))
    with database.read() as session:
        found = session.execute(select(Lease.until).where(Lease.until == NOW)).scalar_one()
        assert (found, found.tzinfo) == (NOW, UTC)
        earlier = select(Lease.name).where(Lease.until < NOW + timedelta(microseconds=1))
        assert session.execute(earlier).scalar() == "a"
        assert session.execute(select(Lease.name).where(Lease.until < NOW)).scalar() is None


# ---------------------------------------------------------------------- transactions


class _Stop(Exception):
    pass


def test_transaction_commits_whole_or_not_at_all(database: Database) -> None:
    with pytest.raises(_Stop), database.transaction() as session:
        session.add(CaseNumber(month="2026-11", last=1))
        session.flush()
        raise _Stop
    assert _last(database) is None
    _put(database, 1)
    assert _last(database) == 1


def test_what_cannot_be_flushed_at_the_end_rolls_back_and_is_raised(database: Database) -> None:
    _put(database, 1)
    with pytest.raises(DBAPIError), database.transaction() as session:
        session.add(CaseNumber(month="2026-12", last=1))
        session.add(CaseNumber(month="2026-11", last=1))
    assert _last(database, "2026-12") is None


def test_connection_is_clean_after_a_failure(database: Database) -> None:
    for _ in range(30):
        with pytest.raises(DBAPIError), database.transaction() as session:
            session.execute(text("SELECT * FROM no_such_table"))
    _put(database, 1)
    assert _last(database) == 1


def test_read_sees_one_snapshot_and_changes_nothing(database: Database) -> None:
    _put(database, 1)
    with database.read() as session:
        assert session.execute(select(CaseNumber.last)).scalar() == 1
        with database.transaction() as other:
            other.execute(update(CaseNumber).values(last=2))
        assert session.execute(select(CaseNumber.last)).scalar() == 1
    assert _last(database) == 2


def test_read_writes_nothing_that_stays(database: Database) -> None:
    # PostgreSQL refuses at once; on SQLite it is rolled back.
    refuses = pytest.raises(DBAPIError) if database.dialect == "postgresql" else nullcontext()
    with refuses, database.read() as session:
        session.execute(text("INSERT INTO case_numbers (month, last) VALUES ('2026-11', 1)"))
    assert _last(database) is None


def test_two_writers_lose_no_update(database: Database) -> None:
    _put(database, 0)
    barrier = threading.Barrier(4)
    errors: list[BaseException] = []

    def count() -> None:
        try:
            barrier.wait(20)
            for _ in range(5):
                with database.transaction(durable=False) as session:
                    statement = select(CaseNumber.last).where(CaseNumber.month == "2026-11").with_for_update()
                    last = session.execute(statement).scalar_one()
                    session.execute(update(CaseNumber).values(last=last + 1))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert _last(database) == 20


def test_waiting_alone_lets_one_pass_at_a_time(database: Database) -> None:
    inside, most = 0, 0
    lock = threading.Lock()

    def enter() -> None:
        nonlocal inside, most
        with database.transaction() as session:
            wait_alone(session, "door")
            with lock:
                inside += 1
                most = max(most, inside)
            session.execute(select(func.count()).select_from(CaseNumber))
            with lock:
                inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (inside, most) == (0, 1)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("durable", "level"), [(True, 2), (False, 1)])
def test_durability_is_set_for_each_transaction_anew(database: Database, durable: bool, level: int) -> None:
    for _ in range(3):
        with database.transaction(durable=not durable):
            pass
        with database.transaction(durable=durable) as session:
            assert session.execute(text("PRAGMA synchronous")).scalar() == level
            assert session.execute(text("PRAGMA foreign_keys")).scalar() == 1
            assert session.execute(text("PRAGMA journal_mode")).scalar() == "wal"


_COLUMNS = ("month", "last")
_WRITES: dict[str, Callable[[Session], Any]] = {
    "SQLAlchemy": lambda session: session.execute(insert(CaseNumber).values(month="2026-01", last=1)),
    "kept": lambda session: Kept(update(CaseNumber).values(last=bindparam("to"))).run(session, to=2),
    "rows": lambda session: insert_rows(session, CaseNumber, _COLUMNS, [("2026-01", 1)]),
    "COPY": lambda session: insert_rows(session, CaseNumber, _COLUMNS, [(f"m{n}", n) for n in range(40)]),
}


@pytest.mark.parametrize("seed", range(20))
def test_rows_go_in_as_they_are_whatever_many_of_them_share(database: Database, seed: int) -> None:
    """SQLite's driver is given once what all rows of a statement have in common."""
    chosen = random.Random(seed)
    drawn: dict[str, Callable[[int], Any]] = {
        "key": lambda number: f"key-{number}",
        "one": lambda _: 7,
        "none": lambda _: None,
        "nearly": lambda number: None if number % 100 else number,
        "last": lambda number: 1 if number % 100 == 99 else 0,
        "any": lambda _: chosen.choice([None, 1, 2]),
    }
    kinds = ["key", *chosen.choices(list(drawn)[1:], k=5)]
    rows = [tuple(drawn[kind](number) for kind in kinds) for number in range(chosen.choice([99, 100, 327]))]
    columns = [f"c{place}" for place in range(len(kinds))]
    table = Table("things", MetaData(), Column("c0", String), *(Column(name, Integer) for name in columns[1:]))
    with database.transaction() as session:
        table.create(session.connection())
        insert_rows(session, cast_to(type[Base], SimpleNamespace(__tablename__="things")), columns, rows)
    with database.read() as session:
        assert {row.c0: tuple(row) for row in session.execute(select(table))} == {row[0]: row for row in rows}


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
@pytest.mark.parametrize("way", _WRITES)
def test_a_server_that_has_become_a_standby_is_away_and_let_go(database: Database, way: str) -> None:
    """As after a failover: what was the primary takes no writes, and the pool must ask for the new one."""
    with database.transaction() as session:
        was = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
    with pytest.raises(OperationalError) as refusal, database.transaction() as session:
        session.execute(text("SET TRANSACTION READ ONLY"))
        _WRITES[way](session)
    assert refusal.value.connection_invalidated
    with database.transaction() as session:
        assert session.execute(text("SELECT pg_backend_pid()")).scalar_one() != was


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_postgresql_waits_with_a_bound_and_keeps_no_idle_transaction(database: Database) -> None:
    with database.transaction() as session:
        assert session.execute(text("SHOW idle_in_transaction_session_timeout")).scalar() == "1min"
        assert session.execute(text("SHOW lock_timeout")).scalar() == "30s"
        assert session.execute(text("SHOW timezone")).scalar() == "UTC"
        assert session.execute(text("SHOW transaction_isolation")).scalar() == "read committed"


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
@pytest.mark.parametrize("is_pooled", [False, True], ids=["direct", "pooled"])
def test_what_others_set_for_the_database_changes_nothing(database: Database, is_pooled: bool) -> None:
    """A role or database may have its own zone, form of dates and isolation (ALTER DATABASE ... SET)."""
    theirs = {
        "timezone": "America/St_Johns",
        "datestyle": "German, DMY",
        "bytea_output": "escape",
        "default_transaction_isolation": "serializable",
        "default_transaction_read_only": "on",
    }
    name = database.engine.url.database
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        for setting, value in theirs.items():
            connection.exec_driver_sql(f"ALTER DATABASE \"{name}\" SET {setting} = '{value}'")
    settings = Settings(database_url=database.url)
    other = create_database(
        settings.model_copy(update={"database_direct_url": database.url}) if is_pooled else settings
    )
    try:
        at, day = datetime(2026, 3, 4, 5, 6, tzinfo=UTC), date(2026, 3, 4)
        with other.transaction() as session:
            assert session.execute(text("SHOW transaction_isolation")).scalar() == "read committed"
            assert session.execute(text("SHOW timezone")).scalar() == "UTC"
            session.execute(insert(CaseNumber).values(month="2026-01", last=1))
            shown = select(
                literal(at, Instant()), cast(literal("2026-03-04"), Date), literal(b"\x00\xff", LargeBinary())
            )
            assert tuple(session.execute(shown).one()) == (at, day, b"\x00\xff")
        with other.read() as session:
            assert session.execute(select(CaseNumber.last)).scalar_one() == 1
    finally:
        other.dispose()
        with psycopg.connect(database.engine.url.set(drivername="postgresql").render_as_string(False)) as connection:
            connection.execute("SET TRANSACTION READ WRITE")
            connection.execute(f'ALTER DATABASE "{name}" RESET ALL'.encode())


# ---------------------------------------------------------------------- statements


def test_many_rows_go_in_and_long_lists_are_cut(database: Database) -> None:
    months = [f"{n:07d}" for n in range(MAX_IN_VALUES + 7)]
    with database.transaction() as session:
        assert bulk_insert(session, CaseNumber, ({"month": m, "last": 1} for m in months)) == len(months)
        assert bulk_insert(session, CaseNumber, ()) == 0
        found = 0
        for part in chunked(months):
            found += session.execute(
                select(func.count()).select_from(CaseNumber).where(CaseNumber.month.in_(part))
            ).scalar_one()
    assert found == len(months)


@given(st.lists(st.integers(), max_size=50), st.integers(1, 20))
def test_chunks_are_the_whole_in_order(items: list[int], size: int) -> None:
    parts: list[Any] = list(chunked(items, size))
    assert [item for part in parts for item in part] == items
    assert all(0 < len(part) <= size for part in parts)


def test_upsert_updates_what_is_there(database: Database) -> None:
    for expected in (1, 2):
        with database.transaction() as session:
            statement = upsert(session, CaseNumber).values(month="2026-11", last=1)
            session.execute(
                statement.on_conflict_do_update(index_elements=["month"], set_={"last": CaseNumber.last + 1})
            )
        assert _last(database) == expected


# ---------------------------------------------------------------------- identifiers


def test_identifiers_are_unique_ordered_and_of_one_form_across_threads() -> None:
    made: list[list[str]] = [[] for _ in range(4)]

    def make(into: list[str]) -> None:
        into.extend(new_id("per") for _ in range(6_000))

    threads = [threading.Thread(target=make, args=(into,)) for into in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in made:
        assert one == sorted(one)
    every = [one for part in made for one in part]
    assert len(set(every)) == len(every)
    assert all(len(one) == 30 and one.startswith("per_") and one[4:].isalnum() and one.islower() for one in every)


# ---- transactions that may begin anew


def _deadlock(database: Database, work_of: Callable[[str], Callable[[Session], str]]) -> list[str]:
    """Two transactions that lock the same two rows in opposite order; both meet before either goes on."""
    with ThreadPoolExecutor(2) as pool:
        return [done.result(60) for done in [pool.submit(database.run, work_of(order)) for order in ("ab", "ba")]]


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_a_real_deadlock_is_run_again_and_both_commit_once(database: Database) -> None:
    """D06: PostgreSQL ends one of the two; nothing of it stands, and it is run again."""
    with database.transaction() as session:
        session.execute(text("CREATE TABLE counters (name text PRIMARY KEY, value int)"))
        session.execute(text("INSERT INTO counters VALUES ('a', 0), ('b', 0)"))
    meeting = threading.Barrier(2)
    attempts: list[str] = []

    def work_of(order: str) -> Callable[[Session], str]:
        def work(session: Session) -> str:
            attempts.append(order)
            for name in order:
                session.execute(text("UPDATE counters SET value = value + 1 WHERE name = :name"), {"name": name})
                if name == order[0] and len(attempts) <= 2:
                    meeting.wait(10)
            return order

        return work

    assert _deadlock(database, work_of) == ["ab", "ba"]
    assert len(attempts) == 3, "one of them was run again, once"
    with database.read() as session:
        assert session.execute(text("SELECT value FROM counters ORDER BY name")).scalars().all() == [2, 2]


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_a_real_serialization_failure_is_run_again(database: Database) -> None:
    with database.transaction() as session:
        session.execute(text("CREATE TABLE counters (name text PRIMARY KEY, value int)"))
        session.execute(text("INSERT INTO counters VALUES ('a', 0)"))
    attempts: list[int] = []

    def work(session: Session) -> int:
        session.execute(text("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"))
        value: int = session.execute(text("SELECT value FROM counters")).scalar_one()
        attempts.append(value)
        if len(attempts) == 1:
            with database.transaction() as other:
                other.execute(text("UPDATE counters SET value = 10"))
        session.execute(text("UPDATE counters SET value = :value"), {"value": value + 1})
        return value + 1

    assert database.run(work) == 11
    assert attempts == [0, 10]


def test_a_transaction_that_collides_for_ever_is_given_up_after_five_attempts(database: Database) -> None:
    attempts: list[int] = []

    def work(_session: Session) -> None:
        attempts.append(1)
        raise OperationalError("COMMIT", {}, psycopg.errors.DeadlockDetected("deadlock detected"))

    with pytest.raises(OperationalError):
        database.run(work)
    assert len(attempts) == 5


def test_any_other_error_is_raised_at_once(database: Database) -> None:
    attempts: list[int] = []

    def work(session: Session) -> None:
        attempts.append(1)
        session.execute(text("SELECT * FROM no_such_table"))

    with pytest.raises(DBAPIError):
        database.run(work)
    assert attempts == [1]


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_bulk_work_lets_another_process_write_first(database: Database) -> None:
    order: list[str] = []
    # Its own `Turns`, as in a process of its own: it meets us at the line of the file alone.
    elsewhere = Database(database.engine)

    def wait_and_write() -> None:
        with elsewhere.transaction():
            order.append("waiter")

    def stands_in_line() -> bool:
        with open(f"{database.engine.url.database}-line", "a") as line:
            try:
                fcntl.flock(line, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    with database.transaction():
        waiter = threading.Thread(target=wait_and_write)
        waiter.start()
        deadline = time.monotonic() + 10
        while not stands_in_line():
            assert time.monotonic() < deadline, "the waiter does not stand in line"
            time.sleep(0.01)
    # It may have written and left the line by now.
    database.give_way()
    with database.transaction():
        order.append("bulk")
    waiter.join()
    assert order == ["waiter", "bulk"]
    assert not database.give_way()
    with open(f"{database.engine.url.database}-line", "a") as line:
        fcntl.flock(line, fcntl.LOCK_SH)
        assert database.give_way(), "somebody stands there, for longer than bulk work waits"


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_bulk_work_knows_for_a_moment_that_somebody_waited_while_it_wrote(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bulk_work(), database.transaction():
        pass
    assert not database.is_shared(), "nobody waited"
    with open(f"{database.engine.url.database}-line", "a") as line:
        with database.transaction():
            fcntl.flock(line, fcntl.LOCK_SH)
        assert not database.is_shared(), "who waits for what is no bulk work makes none of it shorter"
        fcntl.flock(line, fcntl.LOCK_UN)
        with bulk_work(), database.transaction():
            fcntl.flock(line, fcntl.LOCK_SH)
    assert database.is_shared()
    monkeypatch.setattr("idhub.db.database._SHARED_SECONDS", 0.0)
    assert not database.is_shared(), "that is over"


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_no_commit_copies_the_log_back_where_somebody_else_does(database: Database) -> None:
    with database.transaction() as session:
        assert session.execute(text("PRAGMA wal_autocheckpoint")).scalar_one() == 1_000
    database.keep_long_log()
    with database.filling_indexes(), database.transaction() as session:
        assert session.execute(text("PRAGMA wal_autocheckpoint")).scalar_one() == 64_000
    with database.transaction() as session:
        assert session.execute(text("PRAGMA wal_autocheckpoint")).scalar_one() == 64_000


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_work_that_fills_indexes_takes_more_at_once_the_larger_the_file(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def form() -> tuple[int, int, int]:
        with database.transaction() as session:
            kept = session.execute(text("PRAGMA cache_size")).scalar_one()
            return database.steps, kept, session.execute(text("PRAGMA wal_autocheckpoint")).scalar_one()

    with database.filling_indexes():
        assert form() == (1, -131_072, 64_000)
        monkeypatch.setattr("idhub.db.sqlite._STEP_PAGES", 40)
        assert form() == (4, -393_216, 256_000)
    assert form() == (1, -4_096, 1_000)


_QUESTION = select(Lease.name).where(Lease.name == bindparam("which"))
_PREPARED = text("SELECT count(*) FROM pg_prepared_statements WHERE position('lease' in statement) > 0")


def _ask(database: Database, *, times: int, keeps_plans: bool) -> int:
    """Statements that are prepared after a question was asked in so many snapshots of one connection."""
    found = 0
    for _ in range(times):
        with database.read(keeps_plans=keeps_plans) as session:
            execute_planned(session.connection(), _QUESTION, {"which": "x"})
            found = session.execute(_PREPARED).scalar_one()
    return found


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_plan_is_kept_where_that_is_asked_for_and_outlives_other_snapshots(database: Database) -> None:
    assert _ask(database, times=2, keeps_plans=True) == 1
    with database.read() as session:
        for _ in range(9):
            session.execute(select(Lease.token))
        assert session.execute(_PREPARED).scalar_one() == 1
    with database.read(keeps_plans=True) as session:
        assert session.execute(text("SHOW plan_cache_mode")).scalar_one() == "force_generic_plan"
    with database.read() as session:
        assert session.execute(text("SHOW plan_cache_mode")).scalar_one() == "auto"


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_no_plan_is_kept_behind_a_pooler(database: Database) -> None:
    """The next transaction is another server connection's."""
    pooled = create_database(Settings(database_url=database.url, database_direct_url=database.url))
    try:
        assert _ask(pooled, times=7, keeps_plans=True) == 0
    finally:
        pooled.dispose()


@pytest.mark.parametrize("rows", [2, 40])
@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_what_the_database_refuses_is_one_kind_of_error_however_many_rows(database: Database, rows: int) -> None:
    """Few rows go by INSERT, many by COPY: whoever retries or translates must not need to know."""
    values = ({"month": f"{number:07}" if number else "much too long", "last": 1} for number in range(rows))
    with pytest.raises(DataError), database.transaction() as session:
        bulk_insert(session, CaseNumber, values)


@pytest.mark.parametrize(
    ("said", "opened", "past"),
    [
        (
            "postgresql://u:p%40@db.example.com/idhub",
            "postgresql+psycopg://u:p%40@db.example.com/idhub",
            "user=u password=p@ dbname=idhub host=db.example.com",
        ),
        (
            "postgres://a.example,b.example:5433/idhub?target_session_attrs=read-write",
            "postgresql+psycopg:///idhub?target_session_attrs=read-write&host=a.example:5432&host=b.example:5433",
            "dbname=idhub target_session_attrs=read-write host=a.example,b.example port=5432,5433",
        ),
    ],
)
def test_addresses_of_postgresql(said: str, opened: str, past: str) -> None:
    """One server, or several as libpq names them; SQLAlchemy has a form of its own."""
    settings = Settings(database_url=said)
    assert settings.effective_database_url == settings.effective_database_direct_url == opened
    limits = {"connect_timeout": "5", "tcp_user_timeout": "10000"}
    found = conninfo_to_dict(libpq_address(opened))
    assert found.items() >= {**conninfo_to_dict(past), **limits}.items()


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_transactions_behind_a_pooler_have_the_limits_that_connections_have_else(database: Database) -> None:
    pooled = create_database(Settings(database_url=database.url, database_direct_url=database.url))
    limits = text("SELECT current_setting('lock_timeout'), current_setting('idle_in_transaction_session_timeout')")
    try:
        for each in (database, pooled):
            with each.transaction() as session:
                assert session.execute(limits).one() == ("30s", "1min")
            # Nor does the connection keep them, which is somebody else's next.
            with each.engine.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT")
                kept = connection.execute(limits).one()
            assert kept == (("0", "0") if each is pooled else ("30s", "1min"))
    finally:
        pooled.dispose()
