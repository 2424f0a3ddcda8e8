"""The narrow store: one transaction an operation, locks that others hold, connections that are lost."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Text, func, select, text, update

from audit.tables import audit_events
from idhub.changes import Actor, Event, EventType
from idhub.credentials import transactions
from idhub.credentials.operations import DURABLE, LOCK, STEP_BY_STEP, Operation, record
from idhub.credentials.pinned import Pinned
from idhub.credentials.sessions import Epochs, starting
from idhub.credentials.statements import compile_statements
from idhub.credentials.store import SqliteStore, Store, create_store
from idhub.credentials.tables import (
    AccessToken,
    AuthorizationCode,
    Grant,
    LoginTransaction,
    SessionParticipant,
    SsoSession,
    Throttle,
)
from idhub.directory.tables import Principal
from idhub.errors import Unavailable
from idhub.login import counters, throttling
from idhub.turns import Turns
from tests.oidc.world import App, World

SQLITE = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
POSTGRESQL = pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)


def ending(world: World, grant_id: str, *, then: Callable[[], None] | None = None, durable: bool = False) -> Any:
    """An operation that ends a grant, and then does something else."""

    def operation() -> Operation[int]:
        if durable:
            yield DURABLE, {}
        rows = yield "grant.end", {"grant_id": grant_id, "reason": "test", "now": world.clock()}
        if then is not None:
            then()
        return len(rows)

    return operation


def grant_of(world: World, office: App) -> str:
    world.sign_in(world.employee(office))
    world.tokens(office)
    with world.database.read() as session:
        return session.execute(select(Grant.id)).scalar_one()


def using(world: World, work: Callable[[Store], Any]) -> Any:
    """Run `work` with a store of its own, in an event loop of its own."""

    async def run() -> Any:
        store = create_store(world.settings, world.database, world.keyring)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def event_of(world: World, reason: str) -> Event:
    """A refusal, to be found again by its reason."""
    return Event(
        type=EventType.TOKEN_REFUSED, at=world.clock(), actor=Actor(kind="client", id="office"), door="oidc",
        target_kind="client", target_id="office", outcome="failure", reason=reason,
    )  # fmt: skip


def is_ended(world: World) -> bool:
    return world.count(Grant, Grant.ended_at.is_not(None)) == 1


def test_every_statement_compiles_alike_for_both_databases() -> None:
    ours, theirs, third = (compile_statements(driver) for driver in ("sqlite", "postgresql", "psycopg"))
    # Statements of packages above are compiled when first asked for, by whichever driver needs them.
    for name in {*ours, *theirs, *third}:
        if name in STEP_BY_STEP:
            continue
        for other in (theirs[name], third[name]):
            assert {place[1] for place in ours[name].places} == {place[1] for place in other.places}, name
    assert theirs["principal.lock"].sql.endswith("FOR SHARE")
    assert theirs["principal.lock_at_once"].sql.endswith("FOR SHARE SKIP LOCKED")
    for name, own in (("code", "authorization_codes"), ("session", "sessions")):
        # The principal first, as a transition locks.
        assert "FOR SHARE OF principals)" in theirs[f"{name}.lock"].sql
        assert theirs[f"{name}.lock"].sql.endswith(f"FOR NO KEY UPDATE OF {own}")
        assert "FOR SHARE OF principals SKIP LOCKED)" in theirs[f"{name}.lock_at_once"].sql
        assert theirs[f"{name}.lock_at_once"].sql.endswith(f"FOR NO KEY UPDATE OF {own} SKIP LOCKED")


def test_a_group_shares_its_transaction_and_each_gets_its_own_answer(world: World, office: App) -> None:
    """Of fifty that end the same grant at once, one does."""
    grant_id = grant_of(world, office)

    async def work(store: Store) -> list[int]:
        return list(await asyncio.gather(*(store.write(ending(world, grant_id)) for _ in range(50))))

    results = using(world, work)
    assert sorted(results) == [0] * 49 + [1]
    assert is_ended(world)


def test_many_who_look_at_once_see_each_their_own(world: World, office: App) -> None:
    """One answer each, also for those who ask for nothing that there is, and for the same as somebody else."""
    people = [world.employee(office, name) for name in ("王芳", "李娜", "张伟")]
    asked = [*people, "per_nobody", people[0]]

    def looking(principal_id: str) -> Any:
        def operation() -> Operation[list[str]]:
            found = yield "person.find", {"principal_id": principal_id}
            names = [row["display_name"] for row in found]
            rows = yield "principal.epochs", {"principal_id": principal_id, "now": world.clock()}
            return names + [str(bool(row["ok_standing"])) for row in rows]

        return operation

    async def work(store: Store) -> list[list[str]]:
        return list(await asyncio.gather(*(store.read(looking(one)) for one in asked)))

    assert using(world, work) == [["王芳", "True"], ["李娜", "True"], ["张伟", "True"], [], ["王芳", "True"]]


def refusal_of(world: World, grant_id: str) -> Any:
    """An operation that asks whether a grant may be used."""

    def operation() -> Operation[str | None]:
        rows = yield "grant.use", {"grant_id": grant_id, "now": world.clock()}
        refusal: str | None = rows[0]["refusal"]
        return refusal

    return operation


@SQLITE
def test_reads_of_one_turn_share_a_view_that_ends_with_the_turn(world: World, office: App) -> None:
    """Whoever asks after an ending has returned sees it: no answer that the loop waited for comes within a turn."""
    grant_id = grant_of(world, office)
    asking = refusal_of(world, grant_id)

    async def work(store: Store) -> list[str | None]:
        seen = [await store.read(asking)]
        with world.database.transaction() as session:
            session.execute(text("UPDATE grants SET ended_at = 1 WHERE id = :id"), {"id": grant_id})
        seen.append(await store.read(asking))
        await asyncio.sleep(0)
        return [*seen, await store.read(asking)]

    assert using(world, work) == [None, None, "grant_ended"]


@SQLITE
def test_who_writes_in_a_turn_in_which_others_read_is_not_in_their_way(world: World, office: App) -> None:
    grant_id = grant_of(world, office)
    asking = refusal_of(world, grant_id)

    async def work(store: Store) -> tuple[int, str | None, str | None]:
        changed, before = await asyncio.gather(store.write(ending(world, grant_id)), store.read(asking))
        return changed, before, await store.read(asking)

    assert using(world, work) == (1, None, "grant_ended")


@POSTGRESQL
def test_every_statement_can_be_asked_by_many_at_once(world: World) -> None:
    """PostgreSQL takes each in the form in which a group asks it."""
    statements = compile_statements("postgresql")
    # Those of packages above come with the first name that is not among the store's own.
    assert statements["throttle.place"].sql.startswith("SELECT")

    async def run() -> list[str]:
        url = "postgresql://" + world.database.url.split("://", 1)[1]
        pinned = await Pinned.connect(url, statements)
        for name, statement in statements.items():
            nobody: dict[str, Any] = dict.fromkeys((name for _, name in statement.places), None)
            assert nobody, f"{name} asks for nothing in particular"
            if not statement.sql.startswith("INSERT") and name not in STEP_BY_STEP:
                for many in (1, 2, 9):
                    answers = await pinned.ask([(name, statement.bind(nobody))] * many)
                    assert [list(rows) for rows in answers] == [[]] * many
        pinned.close()
        return sorted(statements)

    assert "access.use" in asyncio.run(run())


def test_what_a_group_inserts_is_there_when_it_is_told_so(world: World, office: App) -> None:
    """Rows of several tables, kept until the end of the transaction; and a group that does nothing else."""
    people = [world.employee(office, name) for name in ("王芳", "李娜", "张伟")]
    settings, now = world.settings, world.clock()

    def begin(number: int) -> Any:
        return lambda: transactions.beginning(
            protocol="none", browser_token=f"browser-{number:016d}", request={"path": "/"}, now=now, settings=settings
        )

    def start(principal_id: str) -> Any:
        return lambda: starting(
            principal_id, epochs_read=Epochs(1, 1, 1), amr=("pwd",), now=now, ip=None, user_agent=None,
            settings=settings,
        )  # fmt: skip

    async def work(store: Store) -> tuple[int, int, int]:
        await asyncio.gather(*(store.write(begin(number)) for number in range(3)))
        begun = world.count(LoginTransaction)
        started = await asyncio.gather(
            *(store.write(start(one)) for one in people), *(store.write(begin(number)) for number in range(3, 5))
        )
        assert len({str(one) for one in started}) == 5
        return begun, world.count(LoginTransaction), world.count(SsoSession)

    assert using(world, work) == (3, 5, 3)
    with world.database.read() as session:
        told = session.execute(text("SELECT count(*) FROM audit_events WHERE type = 'login.succeeded'")).scalar_one()
    assert told == 3


def test_what_a_group_changes_at_its_end_is_changed(world: World, office: App) -> None:
    """Two who enter by one session, and one who does by another."""
    for name in ("王芳", "李娜"):
        world.sign_in(world.employee(office, name))
        world.tokens(office)
    with world.database.read() as session:
        one, other = session.execute(select(SessionParticipant.id)).scalars().all()
    later = world.clock() + timedelta(minutes=5)

    def use(participant_id: str) -> Any:
        def operation() -> Operation[None]:
            yield "participant.use", {"participant_id": participant_id, "now": later}

        return operation

    async def work(store: Store) -> None:
        await asyncio.gather(*(store.write(use(name)) for name in (one, other, one)))

    using(world, work)
    assert world.count(SessionParticipant, SessionParticipant.last_used_at == later) == 2


def test_rows_that_many_of_a_group_change_are_each_their_own(world: World, office: App) -> None:
    """Six sessions go on and six codes are spent, each at its moment; what has ended, or is spent, stays as it is."""
    sessions, now = [], world.clock()
    for name in ("王芳", "李娜", "张伟", "刘洋", "陈杰", "杨静"):
        sessions.append(world.sign_in(world.employee(office, name)))
        world.code(office)
    with world.database.transaction() as session:
        hashes = session.execute(select(AuthorizationCode.code_hash)).scalars().all()
        session.execute(update(SsoSession).where(SsoSession.id == sessions[0]).values(ended_at=now, last_seen_at=now))
        session.execute(update(AuthorizationCode).where(AuthorizationCode.code_hash == hashes[0]).values(spent_at=now))
    moments = [now + timedelta(seconds=number) for number in range(1, 7)]

    def change(session_id: str, code_hash: str, at: datetime) -> Any:
        def operation() -> Operation[None]:
            yield "session.extend", {"session_id": session_id, "idle_expires_at": at + timedelta(minutes=1), "now": at}
            yield "code.claim", {"code_hash": code_hash, "now": at}

        return operation

    async def work(store: Store) -> None:
        changes = zip(sessions, hashes, moments, strict=True)
        await asyncio.gather(*(store.write(change(*one)) for one in changes))

    using(world, work)
    with world.database.read() as session:
        seen = {row.id: row for row in session.execute(select(SsoSession.__table__))}
        spent = {row.code_hash: row.spent_at for row in session.execute(select(AuthorizationCode.__table__))}
    assert [seen[one].last_seen_at for one in sessions] == [now, *moments[1:]]
    assert [seen[one].idle_expires_at for one in sessions[1:]] == [at + timedelta(minutes=1) for at in moments[1:]]
    assert [spent[one] for one in hashes] == [now, *moments[1:]]


def test_each_success_of_a_group_disregards_what_failed_of_its_own(world: World) -> None:
    """Twelve of one address, one of them twice, and one more who fails again: what is left counted is that one."""
    now, names = world.clock(), [*(f"per_{number}" for number in range(11)), "per_0"]
    tries = [throttling.Attempt(f"{name}:0", "203.0.113.7", password="abcd") for name in names]
    failing = throttling.Attempt("per_x:0", "203.0.113.7", password="abcd")

    def fail(one: throttling.Attempt) -> Any:
        return lambda: throttling.claiming(world.keyring, one, now=now)

    def succeed(one: throttling.Attempt) -> Any:
        def operation() -> Operation[throttling.Admission]:
            rows = yield throttling.looking(world.keyring, one)
            seen = throttling.judge(world.keyring, one, rows, now=now)
            yield from throttling.succeeding(world.keyring, one, seen, now=now)
            return seen.admission

        return operation

    async def work(store: Store) -> Any:
        failed = await asyncio.gather(*(store.write(fail(one)) for one in [*tries, failing]))
        succeeded = await asyncio.gather(*(store.write(succeed(one)) for one in tries))
        return [*failed, *succeeded]

    assert all(admission.is_admitted for admission in using(world, work))
    with world.database.read() as session:
        failures = sorted(session.execute(select(Throttle.failures).where(Throttle.failures > 0)).scalars())
        known = session.execute(select(func.count()).select_from(Throttle).where(Throttle.failures == 0)).scalar_one()
    # Its names, the names of the password, the person twice (as a number of tries and in a row); all of the address.
    assert failures == [1, 1, 1, 1, 13]
    # The eleven places that are known now, and both marks of the name that failed.
    assert known == 13


@pytest.mark.parametrize("device", [None, "a device"])
def test_refused_try_of_a_group_counts_for_nothing_more(world: World, device: str | None) -> None:
    now, attempt = world.clock(), throttling.Attempt("per_1:0", "203.0.113.7", device_hash=device)

    async def work(store: Store) -> Any:
        claims = (store.write(lambda: throttling.claiming(world.keyring, attempt, now=now)) for _ in range(15))
        return await asyncio.gather(*claims)

    answers = using(world, work)
    assert [admission.limit for admission in answers].count(counters.PERSON) == 5
    assert all(admission.retry_after for admission in answers if admission.limit is not None)
    with world.database.read() as session:
        failures = sorted(session.execute(select(Throttle.failures).where(Throttle.failures > 1)).scalars())
    # Ten tries of the person, ten in a row; of a browser that is not known, fifteen of the address.
    assert failures == ([10, 10] if device else [10, 10, 15])


@POSTGRESQL
def test_groups_that_follow_each_other_leave_no_transaction_open(world: World) -> None:
    """More than two groups, with everything that they asked in one exchange."""
    settings, now = world.settings, world.clock()

    def begin(number: int) -> Any:
        def operation() -> Operation[Any]:
            yield "subject.find", {"principal_id": "per_nobody", "sector": "public"}
            return (
                yield from transactions.beginning(
                    protocol="none", browser_token=f"browser-{number:016d}", request={"path": "/"}, now=now,
                    settings=settings,
                )
            )  # fmt: skip

        return operation

    def in_transactions() -> int:
        with world.database.read() as session:
            found: int = session.execute(
                text(
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'idhub-store' "
                    "AND datname = current_database() AND state <> 'idle'"
                )
            ).scalar_one()
            return found

    async def work(store: Store) -> None:
        for wave in range(3):
            await asyncio.gather(*(store.write(begin(wave * 300 + number)) for number in range(300)))
        for _ in range(500):
            if not await asyncio.to_thread(in_transactions):
                return
            await asyncio.sleep(0.02)
        raise AssertionError("a transaction stays open")

    using(world, work)
    assert world.count(LoginTransaction) == 900


def test_one_that_fails_changes_nothing_for_its_neighbours(world: World, office: App) -> None:
    """What the failing one wrote is gone, what the others wrote is there, and only it hears of the failure."""
    grant_id = grant_of(world, office)

    def fail() -> None:
        raise RuntimeError("half-way")

    def named(reason: str) -> Any:
        def operation() -> Operation[None]:
            yield record([event_of(world, reason)])

        return operation

    async def work(store: Store) -> list[Any]:
        return list(
            await asyncio.gather(
                store.write(named("first")),
                store.write(ending(world, grant_id, then=fail)),
                store.write(named("second")),
                return_exceptions=True,
            )
        )

    first, failed, second = using(world, work)
    assert (first, second) == (None, None)
    assert isinstance(failed, RuntimeError)
    assert not is_ended(world)
    # Each by itself then, so that which of them is first is nobody's promise.
    assert sorted(world.reasons("token.refused")) == ["first", "second"], "each once, although the group began anew"


def test_one_that_needs_the_disk_leaves_its_group_and_happens_once(world: World, office: App) -> None:
    grant_id = grant_of(world, office)

    async def work(store: Store) -> list[int]:
        durable = store.write(ending(world, grant_id, durable=True))
        return list(await asyncio.gather(durable, *(store.write(ending(world, "other")) for _ in range(3))))

    assert using(world, work) == [1, 0, 0, 0]
    assert is_ended(world)


@POSTGRESQL
def test_who_waits_for_a_principal_delays_none_of_its_group(world: World, office: App) -> None:
    """A transition holds one principal: only the operation about that one waits for it."""
    held, free = world.employee(office), world.employee(office, "李娜")

    def locking(principal_id: str) -> Any:
        def operation() -> Operation[str]:
            yield LOCK, {"principal_id": principal_id}
            return principal_id

        return operation

    async def work(store: Store) -> tuple[str, bool, str]:
        with world.database.transaction() as session:
            session.execute(select(Principal.id).where(Principal.id == held).with_for_update())
            waiting = asyncio.create_task(store.write(locking(held)))
            done = await asyncio.wait_for(store.write(locking(free)), 2)
            still_waits = not waiting.done()
        return done, still_waits, await waiting

    assert using(world, work) == (free, True, held)


@POSTGRESQL
@pytest.mark.parametrize("of", ["principal", "row"])
def test_those_who_wait_for_a_lock_leave_connections_to_others(world: World, office: App, of: str) -> None:
    """A leave that takes its time, or a row that somebody holds: forty who want the same, and then one who does not."""
    grant_id = grant_of(world, office)
    held, free = world.employee(office, "王芳"), world.employee(office, "李娜")

    def locking(principal_id: str) -> Any:
        def operation() -> Operation[str]:
            yield LOCK, {"principal_id": principal_id}
            return principal_id

        return operation

    async def work(store: Store) -> tuple[float, list[Any]]:
        loop, slowest = asyncio.get_running_loop(), 0.0
        with world.database.transaction() as session:
            session.execute(select(Principal.id).where(Principal.id == held).with_for_update())
            session.execute(text("UPDATE grants SET end_reason = 'held' WHERE id = :id"), {"id": grant_id})
            wanted = locking(held) if of == "principal" else ending(world, grant_id)
            waiting = []
            for _ in range(40):
                # Each in a group of its own.
                waiting.append(asyncio.create_task(store.write(wanted)))
                await asyncio.sleep(0.005)
            # Those who wait give up in time: on a slow machine fewer rounds, and one at least.
            first = loop.time()
            for _ in range(10):
                begun = loop.time()
                await asyncio.gather(store.write(locking(free)), store.read(refusal_of(world, grant_id)))
                slowest = max(slowest, loop.time() - begun)
                if loop.time() - first > 1:
                    break
                await asyncio.sleep(0.1)
            assert not any(one.done() for one in waiting)
        return slowest, await asyncio.gather(*waiting)

    slowest, outcomes = using(world, work)
    # Groups wait for a row half a second, for a principal not at all.
    assert slowest < (1 if of == "principal" else 4)
    assert outcomes == [held] * 40 if of == "principal" else sum(outcomes) == 1


@POSTGRESQL
def test_a_principal_that_stays_locked_is_a_503_in_bounded_time(
    world: World, office: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits is told so after a while, and nothing was done; a revocation too."""
    monkeypatch.setattr("idhub.credentials.store_postgres._PATIENCE_SECONDS", 0.3)
    principal_id = world.employee(office)
    world.sign_in(principal_id)
    tokens = world.tokens(office)
    with world.database.transaction() as session:
        session.execute(select(Principal.id).where(Principal.id == principal_id).with_for_update())
        revocation = world.post("/oauth2/revoke", office, {"token": tokens["access_token"]})
        answers = [world.refresh(office, tokens["refresh_token"]), revocation]
        assert [answer.status_code for answer in answers] == [503, 503]
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
    assert world.is_active(office, tokens["access_token"])
    assert world.refresh(office, tokens["refresh_token"]).status_code == 200


@POSTGRESQL
def test_a_group_that_waits_for_a_row_keeps_the_next_from_nothing(world: World, office: App) -> None:
    """One group asks at a time, but not while it waits for somebody's lock."""
    grant_id = grant_of(world, office)

    async def work(store: Store) -> tuple[int, bool, int]:
        with world.database.transaction() as session:
            session.execute(text("UPDATE grants SET end_reason = 'held' WHERE id = :id"), {"id": grant_id})
            waiting = asyncio.create_task(store.write(ending(world, grant_id)))
            # Until it has been sent: the next one is in another group.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            other = await store.write(ending(world, "other"))
            still_waits = not waiting.done()
        return other, still_waits, await waiting

    assert using(world, work) == (0, True, 1)


def test_a_missing_parameter_is_a_defect_that_shows(world: World) -> None:
    def operation() -> Operation[None]:
        yield "grant.end", {"grant_id": "x"}

    with pytest.raises(KeyError):
        using(world, lambda store: store.write(operation))


def test_an_operation_that_fails_leaves_nothing(world: World, office: App) -> None:
    grant_id = grant_of(world, office)

    def fail() -> None:
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError):
        using(world, lambda store: store.write(ending(world, grant_id, then=fail)))
    assert not is_ended(world)
    assert using(world, lambda store: store.write(ending(world, grant_id))) == 1
    assert using(world, lambda store: store.write(ending(world, grant_id, durable=True))) == 0
    assert is_ended(world)


def test_a_durable_operation_begins_anew_and_happens_once(world: World, office: App) -> None:
    grant_id = grant_of(world, office)
    assert using(world, lambda store: store.write(ending(world, grant_id, durable=True))) == 1
    assert is_ended(world)


class CountedTurns(Turns):
    """Knows how many transactions waited for their turn: those of the threads, not the loop's own."""

    taken = 0

    @contextmanager
    def mine(self, patience: float | None = None) -> Iterator[None]:
        """Count."""
        self.taken += 1
        with super().mine(patience):
            yield


@SQLITE
def test_those_who_need_the_disk_at_the_same_moment_wait_for_it_together(world: World) -> None:
    turns = CountedTurns(10)

    def recording(number: int) -> Callable[[], Operation[int]]:
        def operation() -> Operation[int]:
            yield DURABLE, {}
            yield record([event_of(world, f"refused_{number}")])
            if number == 7:
                raise RuntimeError("one of them fails")
            return number

        return operation

    async def work() -> tuple[list[Any], int]:
        store = SqliteStore(world.database.engine.url.database or "", world.keyring, turns)
        try:
            good = await asyncio.gather(*[store.write(recording(number)) for number in range(8, 40)])
            together = turns.taken
            mixed = [store.write(recording(number)) for number in range(4, 8)]
            return [good, await asyncio.gather(*mixed, return_exceptions=True)], together
        finally:
            await store.close()

    (good, (*others, failed)), together = asyncio.run(work())
    assert (good, others) == (list(range(8, 40)), [4, 5, 6])
    assert isinstance(failed, RuntimeError)
    assert together == 1
    with world.database.read() as session:
        body = audit_events.c.body.cast(Text)
        found = session.execute(select(func.count()).where(body.contains("refused_"))).scalar_one()
    assert found == 35


@SQLITE
def test_durable_means_synchronous_full(world: World) -> None:
    store = SqliteStore(world.database.engine.url.database or "", world.keyring, world.database.turns)
    for mode, expected in (("NORMAL", 1), ("FULL", 2)):
        connection = store._connect(mode, 0)
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == expected
        connection.close()


def test_somebody_elses_lock_is_waited_for_and_the_loop_goes_on(world: World, office: App) -> None:
    """D09: the event loop never waits for a lock; other requests are answered meanwhile."""
    grant_id = grant_of(world, office)

    async def work(store: Store) -> tuple[int, int]:
        with world.database.transaction() as session:
            session.execute(text("UPDATE grants SET end_reason = 'held' WHERE id = :id"), {"id": grant_id})
            waiting = asyncio.create_task(store.write(ending(world, grant_id)))
            ticks = 0
            while ticks < 20:
                await asyncio.sleep(0.01)
                ticks += 1
            assert not waiting.done()

            def look() -> Operation[int]:
                rows = yield "principal.epochs", {"principal_id": "x", "now": world.clock()}
                return len(rows)

            assert await store.read(look) == 0, "reads do not wait"
        return await waiting, ticks

    assert using(world, work) == (1, 20)
    assert is_ended(world)


@SQLITE
def test_a_lock_that_stays_is_a_503_and_changes_nothing(
    world: World, office: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("idhub.credentials.store_sqlite._BUSY_TIMEOUT_S", 0.1)
    world.sign_in(world.employee(office))
    code = world.code(office)
    blocker = sqlite3.connect(world.database.engine.url.database or "", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    try:
        response = world.redeem(office, code)
        assert response.status_code == 503
        assert response.json()["error"] == "temporarily_unavailable"
        assert int(response.headers["retry-after"]) >= 1
    finally:
        blocker.execute("ROLLBACK")
        blocker.close()
    assert world.count(AccessToken) == 0
    assert world.redeem(office, code).status_code == 200


@POSTGRESQL
def test_a_lost_connection_is_replaced_and_the_operation_done_again(world: World, office: App) -> None:
    """D03: the server drops every connection; the next request works."""
    world.sign_in(world.employee(office))
    tokens = world.tokens(office)
    with world.database.transaction() as session:
        session.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'idhub-store' AND datname = current_database()"
            )
        )
    assert world.is_active(office, tokens["access_token"])
    assert world.refresh(office, tokens["refresh_token"]).status_code == 200


@POSTGRESQL
@pytest.mark.parametrize(
    "state",
    [
        "53100",  # the disk is full
        "53200",  # no memory
        "58030",  # the disk is broken
        "25006",  # what was written to has become a standby
        "57P05",  # a session that idles is ended
    ],
)
def test_a_database_that_takes_nothing_is_a_503_and_stores_nothing(world: World, office: App, state: str) -> None:
    world.sign_in(world.employee(office))
    code = world.code(office)
    with world.database.transaction() as session:
        session.execute(
            text(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                f"RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$"
            )
        )
        session.execute(
            text("CREATE TRIGGER refuse BEFORE INSERT ON access_tokens FOR EACH ROW EXECUTE FUNCTION refuse()")
        )
    response = world.redeem(office, code)
    assert response.status_code == 503
    assert response.json()["error"] == "temporarily_unavailable"
    assert int(response.headers["retry-after"]) >= 1
    with world.database.transaction() as session:
        session.execute(text("DROP FUNCTION refuse CASCADE"))
    assert world.redeem(office, code).status_code == 200


@POSTGRESQL
def test_a_schema_change_beside_us_is_survived(world: World, office: App) -> None:
    """Design section 9: version N-1 and N run side by side while a migration adds a column."""
    world.sign_in(world.employee(office))
    tokens = world.tokens(office)
    assert world.is_active(office, tokens["access_token"])
    with world.database.transaction() as session:
        session.execute(text("ALTER TABLE grants ADD COLUMN later TEXT"))
        session.execute(text("ALTER TABLE access_tokens ALTER COLUMN scope TYPE VARCHAR(2000)"))
    assert world.is_active(office, tokens["access_token"])
    assert world.refresh(office, tokens["refresh_token"]).status_code == 200


@POSTGRESQL
def test_a_database_that_does_not_answer_is_unavailable(world: World) -> None:
    settings = world.settings.model_copy(update={"database_direct_url": "postgresql://x@127.0.0.1:1/x"})

    async def run() -> None:
        store = create_store(settings, world.database, world.keyring)
        try:
            await store.write(ending(world, "x"))
        finally:
            await store.close()

    with pytest.raises(Unavailable):
        asyncio.run(run())


@POSTGRESQL
def test_more_requests_than_connections_wait_their_turn(world: World, office: App) -> None:
    grant_id = grant_of(world, office)

    async def work(store: Store) -> list[int]:
        return list(await asyncio.gather(*(store.write(ending(world, grant_id)) for _ in range(60))))

    assert sum(using(world, work)) == 1
    with world.database.read() as session:
        used = session.execute(
            text(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE application_name = 'idhub-store' AND datname = current_database()"
            )
        ).scalar_one()
    assert used <= world.settings.database_pool_size // 2


def test_stores_in_several_threads_do_not_disturb_each_other(world: World, office: App) -> None:
    """Workers of one machine: each its own store, one database."""
    grant_id = grant_of(world, office)
    results: list[int] = []

    def worker() -> None:
        async def work(store: Store) -> int:
            return sum([await store.write(ending(world, grant_id)) for _ in range(20)])

        results.append(using(world, work))

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(results) == [0, 0, 0, 1]
