"""What the store commits on PostgreSQL without waiting for the disk: what nobody was promised, and nothing else."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select, text

from idhub.credentials import transactions
from idhub.credentials.operations import AFTERWARDS, DEFERRED, HOLD, STEP_BY_STEP, VOLATILE, Operation, record
from idhub.credentials.sessions import Epochs, starting
from idhub.credentials.statements import compile_statements
from idhub.credentials.store import Store
from idhub.credentials.tables import SsoSession, Throttle
from idhub.login import sign_in, throttling
from tests.credentials.test_store import POSTGRESQL, event_of, using
from tests.oidc.world import App, World

HOME = "203.0.113.7"
LASTING = {
    "transaction.answered", "transaction.close",
    "access.insert", "access.revoke", "code.claim", "code.insert", "consent.give", "device.extend", "device.insert",
    "family.revoke", "grant.end", "grant.insert", "grant.issue", "participant.insert", "participant.residual",
    "participant.return", "participant.use", "password.renew", "refresh.claim", "refresh.extend", "refresh.insert",
    "session.extend", "session.insert", "subject.insert", "transaction.answer", "transaction.complete",
    "transaction.establish", "transaction.refuse",
}  # fmt: skip


def test_of_every_statement_that_writes_it_was_decided_whether_it_lasts() -> None:
    assert sign_in.PASSWORD_AMR, "its statements are among those of the store once it is imported"
    statements = compile_statements("postgresql")
    # Those of packages above come with the first name that is not among the store's own.
    assert statements["throttle.place"].sql.startswith("SELECT")
    writing = {name for name, statement in statements.items() if not statement.sql.startswith("SELECT")}
    assert writing == VOLATILE | LASTING
    assert not VOLATILE & LASTING
    assert VOLATILE & DEFERRED.keys() >= AFTERWARDS
    assert STEP_BY_STEP.keys() <= writing | {HOLD}


@pytest.fixture
def waiting_for_the_disk(world: World) -> None:
    """PostgreSQL as it comes; the one of these tests is told never to wait for the disk."""
    with world.database.transaction() as session:
        name = session.execute(text("SELECT current_database()")).scalar_one()
        session.execute(text(f'ALTER DATABASE "{name}" SET synchronous_commit = on'))


@pytest.fixture
def commits(world: World, waiting_for_the_disk: None) -> Callable[[], set[tuple[str, str]]]:
    """Tells what the commits since the last question saw of `synchronous_commit`, by the table that they wrote."""
    with world.database.transaction() as session:
        session.execute(text("CREATE TABLE seen_commits (written TEXT, setting TEXT)"))
        session.execute(
            text(
                "CREATE FUNCTION see_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                "INSERT INTO seen_commits VALUES (TG_TABLE_NAME, current_setting('synchronous_commit')); "
                "RETURN NULL; END $$"
            )
        )
        # Deferred: it runs within COMMIT.
        for table in ("login_transactions", "throttles", "sessions"):
            session.execute(
                text(
                    f"CREATE CONSTRAINT TRIGGER see AFTER INSERT OR UPDATE OR DELETE ON {table} "
                    "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION see_commit()"
                )
            )

    def seen() -> set[tuple[str, str]]:
        with world.database.transaction() as session:
            rows = session.execute(text("DELETE FROM seen_commits RETURNING written, setting")).all()
        return {(row.written, row.setting) for row in rows}

    return seen


def beginning(world: World, number: int = 0) -> Any:
    return lambda: transactions.beginning(
        protocol="none", browser_token=f"browser-{number:016d}", request={"path": "/"}, now=world.clock(),
        settings=world.settings,
    )  # fmt: skip


def trying(world: World, name: str) -> Any:
    attempt = throttling.Attempt(name, HOME, password="abcd")
    return lambda: throttling.claiming(world.keyring, attempt, now=world.clock())


def entering(world: World, principal_id: str) -> Any:
    """A session begins, and what failed before is disregarded."""
    attempt = throttling.Attempt(principal_id, HOME, password="abcd")

    def operation() -> Operation[str]:
        now = world.clock()
        _, session_id = yield from starting(
            principal_id, epochs_read=Epochs(1, 1, 1), amr=("pwd",), now=now, ip=None, user_agent=None,
            settings=world.settings,
        )  # fmt: skip
        counters = yield throttling.looking(world.keyring, attempt)
        seen = throttling.judge(world.keyring, attempt, counters, now=now)
        yield from throttling.succeeding(world.keyring, attempt, seen, now=now)
        return session_id

    return operation


@POSTGRESQL
def test_only_what_nobody_was_promised_is_committed_without_the_disk(world: World, office: App, commits: Any) -> None:
    people = [world.employee(office, name) for name in ("王芳", "李娜", "张伟")]

    def telling(operation: Any) -> Any:
        """The same with an event."""

        def told() -> Operation[Any]:
            result = yield from operation()
            yield record([event_of(world, "told")])
            return result

        return told

    async def together(store: Store, *operations: Any) -> set[tuple[str, str]]:
        await asyncio.gather(*(store.write(one) for one in operations))
        seen: set[tuple[str, str]] = await asyncio.to_thread(commits)
        return seen

    async def work(store: Store) -> None:
        begun, tried, started = ("login_transactions", "off"), ("throttles", "off"), ("sessions", "on")
        commits()
        assert await together(store, beginning(world)) == {begun}
        assert await together(store, *(beginning(world, number) for number in range(1, 7))) == {begun}
        assert await together(store, trying(world, people[0])) == {tried}
        assert await together(store, *(trying(world, one) for one in people)) == {tried}
        # What begins a session lasts; that failures are disregarded need not, and holds nobody up.
        assert await together(store, entering(world, people[0])) == {started, tried}
        assert await together(store, *(entering(world, one) for one in people)) == {started, tried}
        # All at once: nobody makes anybody else's less than it is.
        everybody = [beginning(world, 7), trying(world, people[1]), entering(world, people[1]), beginning(world, 8)]
        assert await together(store, *everybody) == {begun, tried, started}
        # An event lasts, and what is in one transaction with it.
        assert await together(store, telling(beginning(world, 9))) == {("login_transactions", "on")}
        assert await together(store, telling(trying(world, people[2]))) == {("throttles", "on")}

    using(world, work)
    assert world.count(SsoSession) == 5


@POSTGRESQL
def test_a_wrong_try_is_on_disk_when_it_is_told(world: World, office: App, waiting_for_the_disk: None) -> None:
    """Its failure is recorded after it was counted, and the log of PostgreSQL is written in that order."""
    person = world.employee(office)

    def failing() -> Operation[None]:
        yield record([event_of(world, "wrong")])

    def written() -> Any:
        with world.database.read() as session:
            return session.execute(text("SELECT pg_current_wal_insert_lsn()")).scalar_one()

    def is_on_disk(place: Any) -> bool:
        with world.database.read() as session:
            asked = text("SELECT pg_current_wal_flush_lsn() >= CAST(:place AS pg_lsn)")
            return bool(session.execute(asked, {"place": place}).scalar_one())

    async def work(store: Store) -> None:
        await store.write(trying(world, person))
        place = await asyncio.to_thread(written)
        await store.write(failing)
        assert await asyncio.to_thread(is_on_disk, place)

    using(world, work)


@POSTGRESQL
def test_whoever_waits_for_the_disk_keeps_no_counter(world: World, office: App) -> None:
    """A sign-in whose commit is held up; somebody else from the same address tries meanwhile."""
    one, other = world.employee(office), world.employee(office, "李娜")

    async def work(store: Store) -> tuple[bool, bool]:
        await store.write(trying(world, one))
        with world.database.transaction() as session:
            # Rows of sessions wait for this at the end of the transaction that inserts them.
            session.execute(text("LOCK TABLE sessions IN SHARE ROW EXCLUSIVE MODE"))
            waiting = asyncio.create_task(store.write(entering(world, one)))
            await _until(world, "wait_event_type = 'Lock'")
            admission = await store.write(trying(world, other))
            is_held = not waiting.done()
        await waiting
        return admission.is_admitted, is_held

    assert using(world, work) == (True, True)
    with world.database.read() as session:
        failures = sorted(session.execute(select(Throttle.failures).where(Throttle.failures > 0)).scalars())
    # Of the one who still fails: its names, the names of the password, and twice the person; twice the address.
    assert failures == [1, 1, 1, 1, 2]


@POSTGRESQL
def test_one_that_was_locked_out_is_given_back_too(world: World, office: App) -> None:
    """A transition holds the person; an event is in the group of the tries, so that this must wait for the disk."""
    one, other = world.employee(office), world.employee(office, "李娜")

    def refused() -> Operation[None]:
        yield from trying(world, other)()
        yield record([event_of(world, "limit")])

    async def work(store: Store) -> None:
        await store.write(trying(world, one))
        with world.database.transaction() as session:
            session.execute(text("SELECT 1 FROM principals WHERE id = :id FOR UPDATE"), {"id": one})
            waiting = asyncio.create_task(store.write(entering(world, one)))
            # Long enough to meet it, and to come again.
            assert not (await asyncio.wait([waiting], timeout=0.1))[0]
        await asyncio.gather(waiting, store.write(refused))

    using(world, work)
    assert world.count(SsoSession) == 1
    # Of the other; the address failed twice.
    assert world.count(Throttle, Throttle.failures == 1) == 4
    assert world.count(Throttle, Throttle.failures > 1) == 1


@POSTGRESQL
def test_counters_that_stay_held_spoil_no_sign_in(world: World, office: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session is there and told; only the failure stays counted."""
    from idhub.credentials import pinned

    monkeypatch.setattr(pinned, "_SERVER_SETTINGS", {**pinned._SERVER_SETTINGS, "lock_timeout": "50"})
    monkeypatch.setattr("idhub.credentials.store_postgres._PATIENCE_SECONDS", 0.3)
    person = world.employee(office)

    async def work(store: Store) -> str:
        await store.write(trying(world, person))
        with world.database.transaction() as session:
            session.execute(text("UPDATE throttles SET failures = failures"))
            session_id: str = await store.write(entering(world, person))
        return session_id

    session_id = using(world, work)
    assert world.count(SsoSession, SsoSession.id == session_id) == 1
    assert world.count(SsoSession) == 1
    assert world.count(Throttle, Throttle.failures == 1) == 5


async def _until(world: World, condition: str) -> None:
    """Wait until a connection of the store is seen in this state."""

    def is_seen() -> bool:
        asked = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'idhub-store' "
            f"AND datname = current_database() AND {condition}"
        )
        with world.database.read() as session:
            return bool(session.execute(text(asked)).scalar_one())

    for _ in range(1_000):
        if await asyncio.to_thread(is_seen):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"never seen: {condition}")
