"""Races: what was checked before a change and commits after it is dead or in the plan."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from sqlalchemy import select

from idhub.credentials import opaque, sessions, spending
from idhub.credentials.codes import CodeRequest, issue_code, issuing_code
from idhub.credentials.journal import Journal
from idhub.credentials.predicate import Refused
from idhub.credentials.spending import Caller, Issued, Mint
from idhub.credentials.store import Operation, Store, create_store
from idhub.credentials.tables import AccessToken, AuthorizationCode, SessionParticipant, SsoSession
from idhub.delivery.tables import Delivery
from idhub.errors import NotPermitted
from idhub.lifecycle.intake import Offboard
from idhub.lifecycle.ports import use_planners
from idhub.signals.planner import BackchannelPlanner
from tests.oidc.world import CALLBACK, VERIFIER, App, Services, World, challenge_of, running

T = TypeVar("T")
TURN = 0.4
"""Seconds in which something that is not held back would long be over."""


@pytest.fixture(autouse=True)
def _logouts_are_planned(world: World) -> None:
    use_planners(world.database, lambda: [BackchannelPlanner(timedelta(seconds=10))])


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(max_workers=64) as pool:
        yield pool


class Barrier:
    """Stops an operation just before one of its steps."""

    def __init__(self, before: str) -> None:
        self._before = before
        self._reached, self._go = threading.Event(), threading.Event()

    def around(self, operation: Callable[[], Operation[Any]]) -> Callable[[], Operation[Any]]:
        def stopping() -> Operation[Any]:
            steps, rows = operation(), None
            while True:
                try:
                    step = steps.send(rows)
                except StopIteration as stop:
                    return stop.value
                if step[0] == self._before:
                    self._reached.set()
                    assert self._go.wait(20)
                rows = yield step

        return stopping

    def wait(self) -> None:
        assert self._reached.wait(20)

    def open(self) -> None:
        self._go.set()


@contextmanager
def store_of(world: World) -> Iterator[Store]:
    """Another worker's store; each use of it has an event loop of its own."""
    yield create_store(world.settings, world.database, world.keyring)


def run(store: Store, operation: Callable[[], Operation[Any]]) -> Any:
    async def once() -> Any:
        try:
            return await store.write(operation)
        finally:
            await store.close()

    return asyncio.run(once())


async def _closing(store: Store, work: Callable[[], Awaitable[T]]) -> T:
    try:
        return await work()
    finally:
        await store.close()


def mint(access: str, refresh: str | None = None) -> Mint:
    return Mint(
        access_hash=opaque.hash_of(access),
        audience="office",
        access_lifetime=timedelta(minutes=5),
        is_self_contained=False,
        refresh_hash=None if refresh is None else opaque.hash_of(refresh),
        refresh_idle=timedelta(days=1),
        refresh_lifetime=timedelta(days=1),
    )


CALLER = Caller(client_id="office", ip="203.0.113.9")


def redemption(world: World, code: str, access: str) -> Callable[[], Operation[Any]]:
    now = world.clock()
    return lambda: spending.redeem_code(
        CALLER,
        code_hash=opaque.hash_of(code),
        redirect_uri=CALLBACK,
        challenge=challenge_of(VERIFIER),
        mint=mint(access),
        now=now,
    )


def refreshing(world: World, token: str, access: str) -> Callable[[], Operation[Any]]:
    now = world.clock()
    return lambda: spending.refresh(
        CALLER,
        token_hash=opaque.hash_of(token),
        scope=None,
        mint=mint(access, opaque.make("rt")),
        rotates=True,
        now=now,
    )


def told(world: World) -> set[str | None]:
    """Participants for whom a logout is in the plan."""
    with world.database.read() as session:
        return set(session.execute(select(Delivery.participant_id).where(Delivery.operation == "logout")).scalars())


def participants(world: World) -> set[str | None]:
    with world.database.read() as session:
        return set(session.execute(select(SessionParticipant.id)).scalars())


@pytest.mark.parametrize("kind", ["code", "refresh"])
def test_what_was_checked_before_an_offboarding_and_commits_before_it_is_dead_after(
    world: World, office: App, threads: ThreadPoolExecutor, kind: str
) -> None:
    """The minting transaction holds the principal; the offboarding waits for it and then kills what it made."""
    person = world.employee(office)
    world.sign_in(person)
    access = opaque.make("at")
    if kind == "code":
        barrier, operation = Barrier("code.claim"), redemption(world, world.code(office), access)
    else:
        token = world.tokens(office)["refresh_token"]
        barrier, operation = Barrier("refresh.claim"), refreshing(world, token, access)
    with store_of(world) as store:
        minting = threads.submit(run, store, barrier.around(operation))
        barrier.wait()
        leaving = threads.submit(world.change, Offboard(principal_id=person))
        with pytest.raises(TimeoutError):
            leaving.result(TURN)
        barrier.open()
        assert isinstance(minting.result(20), Issued)
        leaving.result(20)
    assert world.count(AccessToken, AccessToken.token_hash == opaque.hash_of(access)) == 1
    assert not world.is_active(office, access)
    assert world.userinfo(access).status_code == 401
    assert told(world) == participants(world) != set()


@pytest.mark.parametrize("kind", ["code", "refresh"])
def test_what_was_looked_up_before_an_offboarding_and_commits_after_it_is_refused(
    world: World, office: App, threads: ThreadPoolExecutor, kind: str
) -> None:
    person = world.employee(office)
    world.sign_in(person)
    access = opaque.make("at")
    operation = (
        redemption(world, world.code(office), access)
        if kind == "code"
        else refreshing(world, world.tokens(office)["refresh_token"], access)
    )
    with store_of(world) as store:
        with world.database.transaction() as session:
            world.change(Offboard(principal_id=person), session)
            minting = threads.submit(run, store, operation)
            with pytest.raises(TimeoutError):
                minting.result(TURN)
        assert isinstance(minting.result(20), Refused)
    assert world.count(AccessToken, AccessToken.token_hash == opaque.hash_of(access)) == 0
    assert told(world) == participants(world) != set()


def test_a_session_whose_password_was_checked_before_the_leave_is_not_started(world: World, office: App) -> None:
    """O04: the row is written under the lock, and stamped with the epochs read before the check."""
    person = world.employee(office)
    with world.database.read() as session:
        epochs = sessions.read_epochs(session, person)
    assert epochs is not None
    for change, undo in ((world.suspend, world.reactivate), (world.offboard, None)):
        change(person)
        with pytest.raises(NotPermitted) as refused, world.database.transaction() as session:
            start(world, session, person, epochs)
        assert refused.value.rule == "session.standing"
        if undo is not None:
            undo(person)
            with pytest.raises(NotPermitted) as stale, world.database.transaction() as session:
                start(world, session, person, epochs)
            assert stale.value.rule == "session.epoch"
    assert world.count(SsoSession) == 0


def start(world: World, session: Any, person: str, epochs: sessions.Epochs) -> tuple[str, str]:
    return sessions.start_session(
        session, person, epochs_read=epochs, amr=["pwd"], now=world.clock(), ip=None, user_agent=None,
        settings=world.settings,
    )  # fmt: skip


def test_a_leave_waits_for_a_session_being_written_and_ends_it(
    world: World, office: App, threads: ThreadPoolExecutor
) -> None:
    """O04, the other order."""
    person = world.employee(office)
    with world.database.read() as session:
        epochs = sessions.read_epochs(session, person)
    assert epochs is not None
    with world.database.transaction() as session:
        token, _ = start(world, session, person, epochs)
        leaving = threads.submit(world.change, Offboard(principal_id=person))
        with pytest.raises(TimeoutError):
            leaving.result(TURN)
    leaving.result(20)
    with world.database.read() as session:
        assert sessions.authenticate(session, token, now=world.clock()) is None


def test_an_application_that_joins_while_its_person_leaves_is_told_or_refused(
    world: World, office: App, threads: ThreadPoolExecutor
) -> None:
    person = world.employee(office)
    session_id = world.sign_in(person)
    request = CodeRequest(
        client_id="office",
        redirect_uri=CALLBACK,
        code_challenge=challenge_of(VERIFIER),
        scope="openid",
        nonce=None,
        ip=None,
    )
    with world.database.transaction() as session:
        code = issue_code(session, session_id, request, now=world.clock(), settings=world.settings)
        leaving = threads.submit(world.change, Offboard(principal_id=person))
        with pytest.raises(TimeoutError):
            leaving.result(TURN)
    leaving.result(20)
    assert isinstance(code, str)
    assert told(world) == participants(world) != set()
    assert world.redeem(office, code).json()["error"] == "invalid_grant"
    with world.database.transaction() as session:
        again = issue_code(session, session_id, request, now=world.clock(), settings=world.settings)
    assert isinstance(again, Refused)


@pytest.mark.parametrize("first", ["joins", "logs_out"])
def test_an_application_that_joins_while_its_session_ends_is_told_or_refused(
    world: World, office: App, threads: ThreadPoolExecutor, first: str
) -> None:
    """Both only share the principal's lock; the session's row orders them."""
    session_id = world.sign_in(world.employee(office))
    request = CodeRequest(
        client_id="office",
        redirect_uri=CALLBACK,
        code_challenge=challenge_of(VERIFIER),
        scope="openid",
        nonce=None,
        ip=None,
    )

    def join() -> Any:
        with world.database.transaction() as session:
            return issue_code(session, session_id, request, now=world.clock(), settings=world.settings)

    def end() -> Any:
        with world.database.transaction() as session:
            return sessions.end_session(session, session_id, reason="logout", now=world.clock())

    second: Future[Any]
    if first == "joins":
        with world.database.transaction() as session:
            code = issue_code(session, session_id, request, now=world.clock(), settings=world.settings)
            second = threads.submit(end)
            with pytest.raises(TimeoutError):
                second.result(TURN)
        assert len(second.result(20)) == 1
        assert isinstance(code, str)
        assert world.redeem(office, code).json()["error"] == "invalid_grant"
        assert told(world) == participants(world) != set()
    else:
        with world.database.transaction() as session:
            sessions.end_session(session, session_id, reason="logout", now=world.clock())
            second = threads.submit(join)
            with pytest.raises(TimeoutError):
                second.result(TURN)
        assert second.result(20) == Refused("session_ended")
        assert world.count(AuthorizationCode) == 0


def test_codes_of_one_session_at_once_join_once_and_are_all_issued(world: World, office: App) -> None:
    """A browser that opens twelve tabs: members of one transaction keep each other from the session's row too."""
    session_id = world.sign_in(world.employee(office))
    request = CodeRequest(
        client_id="office", redirect_uri=CALLBACK, code_challenge=challenge_of(VERIFIER), scope="openid", nonce=None,
        ip=None,
    )  # fmt: skip

    def issuing() -> Operation[str | Refused]:
        return issuing_code(session_id, request, now=world.clock(), settings=world.settings)

    async def at_once() -> list[str | Refused]:
        async with asyncio.timeout(20):
            return list(await asyncio.gather(*(store.write(issuing) for _ in range(12))))

    with store_of(world) as store:
        codes = asyncio.run(_closing(store, at_once))
    assert all(isinstance(code, str) for code in codes)
    assert len(set(codes)) == world.count(AuthorizationCode) == 12
    assert len(participants(world)) == 1
    assert world.redeem(office, str(codes[0])).status_code == 200


def test_a_code_is_not_issued_by_the_store_while_its_session_ends(
    world: World, office: App, threads: ThreadPoolExecutor
) -> None:
    """Who meets the session's row in another's hands comes again, and sees what became of it."""
    session_id = world.sign_in(world.employee(office))
    request = CodeRequest(
        client_id="office", redirect_uri=CALLBACK, code_challenge=challenge_of(VERIFIER), scope="openid", nonce=None,
        ip=None,
    )  # fmt: skip
    with store_of(world) as store:
        with world.database.transaction() as session:
            sessions.end_session(session, session_id, reason="logout", now=world.clock())
            issuing = threads.submit(
                run, store, lambda: issuing_code(session_id, request, now=world.clock(), settings=world.settings)
            )
            with pytest.raises(TimeoutError):
                issuing.result(TURN)
        assert issuing.result(20) == Refused("session_ended")
    assert world.count(AuthorizationCode) == 0


def test_a_code_redeemed_many_times_in_one_group_is_spent_once(world: World, office: App) -> None:
    """To each other the members of a transaction are other transactions: the code is for one of them alone."""
    world.sign_in(world.employee(office))
    code, other = world.code(office), world.code(office)
    access = [opaque.make("at") for _ in range(9)]

    async def at_once() -> list[Issued | Refused]:
        async with asyncio.timeout(20):
            codes = [code] * 8 + [other]
            redeeming = (redemption(world, one, value) for one, value in zip(codes, access, strict=True))
            return list(await asyncio.gather(*map(store.write, redeeming)))

    with store_of(world) as store:
        *answers, bystander = asyncio.run(_closing(store, at_once))
    assert sum(isinstance(answer, Issued) for answer in answers) == 1
    assert [answer for answer in answers if isinstance(answer, Refused)] == [Refused("code_spent")] * 7
    assert isinstance(bystander, Issued), "a replay of another code is nothing to it"
    assert world.is_active(office, access[8])
    assert not any(world.is_active(office, value) for value in access[:8])


@pytest.mark.parametrize("kind", ["code", "refresh"])
def test_fifty_redemptions_at_once_over_four_workers_succeed_once(
    world: World, office: App, threads: ThreadPoolExecutor, kind: str
) -> None:
    """A08; RFC 6749 section 4.1.2: and what the winner got is dead, because the value was used again."""
    world.sign_in(world.employee(office))
    value = world.code(office) if kind == "code" else world.tokens(office)["refresh_token"]
    with ExitStack() as stack:
        workers = []
        for _ in range(4):
            store = create_store(world.settings, world.database, world.keyring)
            services = Services(world.settings, world.database, world.keyring, world.clock, store, Journal(store))
            endpoints, http = stack.enter_context(running(services))
            workers.append(World(world.database, world.keyring, world.settings, world.clock, endpoints, http))
        gate = threading.Barrier(50)

        def spend(number: int) -> Any:
            worker = workers[number % 4]
            gate.wait(30)
            return worker.redeem(office, value) if kind == "code" else worker.refresh(office, value)

        answers = [future.result(60) for future in [threads.submit(spend, number) for number in range(50)]]
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200] + [400] * 49, [a.text for a in answers if a.status_code not in {200, 400}]
    assert {answer.json()["error"] for answer in answers if answer.status_code == 400} == {"invalid_grant"}
    winner = next(answer for answer in answers if answer.status_code == 200)
    assert not world.is_active(office, winner.json()["access_token"])
    assert world.refresh(office, winner.json()["refresh_token"]).json()["error"] == "invalid_grant"


def test_a_use_that_begins_after_offboard_returned_never_succeeds(
    world: World, office: App, threads: ThreadPoolExecutor
) -> None:
    """Invariant 2 under load: users hammer while the leave happens; after it returned, not one success."""
    person = world.employee(office)
    world.sign_in(person)
    token = world.tokens(office)["access_token"]
    has_left, is_over = threading.Event(), threading.Event()

    def hammer() -> tuple[int, int]:
        before, after = 0, 0
        while not is_over.is_set():
            began_after = has_left.is_set()
            works = world.userinfo(token).status_code == 200
            if works and began_after:
                after += 1
            before += works
        return before, after

    users = [threads.submit(hammer) for _ in range(4)]
    assert not is_over.wait(TURN)
    world.offboard(person)
    has_left.set()
    assert not is_over.wait(TURN)
    is_over.set()
    counts = [user.result(20) for user in users]
    assert sum(before for before, _ in counts) > 0
    assert sum(after for _, after in counts) == 0
