"""What is done at the same moment as a leave: dead, or in the plan. Threads with connections of their own.

Where an order is forced, the first transaction stands still between its writes and its commit while the second runs
into it. PostgreSQL runs READ COMMITTED, as in production.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from idhub.access.rules import set_rules
from idhub.access.tables import Account
from idhub.authority import Action, HubRole, Subject, assign_role, remove_role
from idhub.changes import COMMAND_LINE, Actor
from idhub.credentials import opaque, spending
from idhub.credentials.codes import CodeRequest, issue_code
from idhub.credentials.predicate import Refused
from idhub.credentials.sessions import authenticate, read_epochs, start_session
from idhub.credentials.spending import Issued, Mint
from idhub.credentials.store import create_store
from idhub.credentials.tables import Grant, SessionParticipant, SsoSession
from idhub.db import new_id
from idhub.delivery import queue
from idhub.delivery.channel import Grade, Outcome
from idhub.delivery.tables import Delivery
from idhub.directory.kinds import EmploymentType, OrganizationKind, Standing
from idhub.directory.organizations import (
    bump_rules_version,
    create_organization,
    root_organization,
)
from idhub.directory.tables import Installation, Principal
from idhub.errors import Conflict, IdhubError, NotPermitted
from idhub.keys import Keyring
from idhub.lifecycle import commands, intake
from idhub.lifecycle.commands import Caller
from idhub.lifecycle.receipt_document import verify
from idhub.lifecycle.receipts import current, export, sign_due
from idhub.lifecycle.reevaluation import reevaluate_pending
from idhub.lifecycle.tables import Case, CaseRow, Receipt
from idhub.lifecycle.transition import transition
from idhub.settings import Settings
from tests.lifecycle.world import CALLER, World

T = TypeVar("T")
ON_POSTGRESQL = pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
_PATIENCE = 20.0
_A_MOMENT = 0.3
"""Long enough for the other thread to run into the lock; too short only makes a test weaker, never wrong."""
VERIFIER_CHALLENGE = "c" * 43


@contextmanager
def _thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def _against(first: Callable[[Session], T], second: Callable[[], Any], world: World) -> tuple[T, Any]:
    """`first` in a transaction that is committed only after `second` has begun and run into it."""
    with _thread() as pool:
        with world.database.transaction() as session:
            done = first(session)
            session.flush()
            running = pool.submit(second)
            time.sleep(_A_MOMENT)
        return done, _outcome(running)


def _outcome(future: "Future[Any]") -> Any:
    error = future.exception(_PATIENCE)
    return error if error is not None else future.result()


def _at_once(*work: Callable[[], Any]) -> list[Any]:
    """Everything at the same moment; results or errors, in order."""
    barrier = threading.Barrier(len(work))

    def run(one: Callable[[], Any]) -> Any:
        barrier.wait(_PATIENCE)
        return one()

    with _thread() as pool:
        return [_outcome(future) for future in [pool.submit(run, one) for one in work]]


def _no_surprise(outcomes: list[Any]) -> None:
    """Refusals are answers; anything else that was raised is a defect (a deadlock, a lost row)."""
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, IdhubError):
            raise outcome


def _offboard(world: World, person: str) -> Any:
    with world.database.transaction() as session:
        return commands.offboard(session, CALLER, person, now=world.clock())


def _begin_session(world: World, settings: Settings, person: str) -> Callable[[Session], str]:
    with world.database.read() as session:
        epochs = read_epochs(session, person)
    assert epochs is not None

    def begin(session: Session) -> str:
        token, _ = start_session(
            session,
            person,
            epochs_read=epochs,
            amr=["pwd"],
            now=world.clock(),
            ip=None,
            user_agent=None,
            settings=settings,
        )
        return token

    return begin


def _is_dead(world: World, person: str) -> None:
    """No session, grant or participant of the person is alive in any sense."""
    with world.database.read() as session:
        row = session.execute(select(Principal.access_epoch).where(Principal.id == person)).one()
        for model in (SsoSession, Grant):
            alive = session.execute(
                select(func.count()).where(
                    model.principal_id == person, model.ended_at.is_(None), model.access_epoch == row.access_epoch
                )
            ).scalar_one()
            assert alive == 0
        untold = session.execute(
            select(func.count()).where(SessionParticipant.principal_id == person, SessionParticipant.ended_at.is_(None))
        ).scalar_one()
        assert untold == 0


# ---------------------------------------------------------------------- minting against leaving


def test_session_started_from_a_password_checked_before_the_leave_is_dead(world: World, settings: Settings) -> None:
    person = world.hire()
    token, result = _against(_begin_session(world, settings, person), lambda: _offboard(world, person), world)
    assert result.left == [person]
    with world.database.read() as session:
        assert authenticate(session, token, now=world.clock()) is None
    _is_dead(world, person)


def test_session_that_would_start_during_the_leave_is_refused(world: World, settings: Settings) -> None:
    person = world.hire()
    begin = _begin_session(world, settings, person)

    def sign_in() -> str:
        with world.database.transaction() as session:
            return begin(session)

    _, outcome = _against(lambda session: commands.offboard(session, CALLER, person, now=world.clock()), sign_in, world)
    assert isinstance(outcome, NotPermitted)
    assert outcome.rule in {"session.standing", "session.epoch"}
    _is_dead(world, person)


def _code(world: World, settings: Settings, session_id: str) -> Callable[[Session], Any]:
    request = CodeRequest(
        client_id="office",
        redirect_uri="https://office.example/callback",
        code_challenge=VERIFIER_CHALLENGE,
        scope="openid offline_access",
        nonce=None,
        ip=None,
    )
    return lambda session: issue_code(session, session_id, request, now=world.clock(), settings=settings)


def _session(world: World, settings: Settings, person: str) -> str:
    with world.database.transaction() as session:
        token = _begin_session(world, settings, person)(session)
        return session.execute(select(SsoSession.id).where(SsoSession.token_hash == opaque.hash_of(token))).scalar_one()


def test_application_that_joins_the_session_during_the_leave_is_told(world: World, settings: Settings) -> None:
    person = world.hire()
    session_id = _session(world, settings, person)
    code, result = _against(_code(world, settings, session_id), lambda: _offboard(world, person), world)
    assert isinstance(code, str)
    logouts = world.deliveries(case_id=result.cases[person], operation="logout")
    assert len(logouts) == 1
    _is_dead(world, person)


def test_application_cannot_join_after_the_leave_was_read(world: World, settings: Settings) -> None:
    person = world.hire()
    session_id = _session(world, settings, person)

    def join() -> Any:
        with world.database.transaction() as session:
            return _code(world, settings, session_id)(session)

    _, outcome = _against(lambda s: commands.offboard(s, CALLER, person, now=world.clock()), join, world)
    assert isinstance(outcome, Refused)
    _is_dead(world, person)


_MINT = {
    "audience": "office",
    "access_lifetime": timedelta(minutes=5),
    "is_self_contained": True,
    "refresh_idle": timedelta(days=7),
    "refresh_lifetime": timedelta(days=30),
}
_MACHINE = spending.Caller(client_id="office", ip=None)


@pytest.fixture
def spend(world: World, settings: Settings, keyring: Keyring) -> Callable[[Callable[[], Any]], Any]:
    """Run an operation of the narrow store, as the token endpoint does, on connections of its own."""

    def run(operation: Callable[[], Any]) -> Any:
        async def once() -> Any:
            store = create_store(settings, world.database, keyring)
            try:
                return await store.write(operation)
            finally:
                await store.close()

        return asyncio.run(once())

    return run


def _standing_still(
    operation: Callable[[], Generator[Any, Any, Any]], at: set[str], reached: threading.Event, go_on: threading.Event
) -> Callable[[], Generator[Any, Any, Any]]:
    """The operation, which stands still when it has the rows of `at`: after its checks, before its writes."""

    def stepped() -> Generator[Any, Any, Any]:
        inner = operation()
        rows = None
        while True:
            try:
                step = inner.send(rows)
            except StopIteration as stop:
                return stop.value
            rows = yield step
            if at & {step[0], *(one[0] for one in step[1].get("steps", ()))}:
                reached.set()
                go_on.wait(_PATIENCE)

    return stepped


def _redeem(world: World, code: str, refresh_hash: str, access_hash: str) -> Callable[[], Generator[Any, Any, Any]]:
    return lambda: spending.redeem_code(
        _MACHINE,
        code_hash=opaque.hash_of(code),
        redirect_uri="https://office.example/callback",
        challenge=VERIFIER_CHALLENGE,
        mint=Mint(access_hash=access_hash, refresh_hash=refresh_hash, **_MINT),  # type: ignore[arg-type]
        now=world.clock(),
    )


def _race_with_leave(
    world: World, person: str, spend: Callable[[Callable[[], Any]], Any], operation: Callable[[], Any]
) -> tuple[Any, Any]:
    reached, go_on = threading.Event(), threading.Event()
    with _thread() as pool:
        spending_it = pool.submit(spend, _standing_still(operation, {"code.use", "grant.use"}, reached, go_on))
        assert reached.wait(_PATIENCE)
        leaving = pool.submit(_offboard, world, person)
        time.sleep(_A_MOMENT)
        assert not leaving.done(), "the leave waits for what is being minted"
        go_on.set()
        return _outcome(spending_it), _outcome(leaving)


def _assert_tokens_dead(
    world: World, spend: Callable[[Callable[[], Any]], Any], access_hash: str, refresh_hash: str
) -> None:
    for token, is_refresh in ((access_hash, False), (refresh_hash, True)):
        found = spend(partial(spending.look_up, token, is_refresh=is_refresh, now=world.clock()))
        assert isinstance(found, Refused)
    again = spend(
        lambda: spending.refresh(
            _MACHINE,
            token_hash=refresh_hash,
            scope=None,
            mint=Mint(access_hash="x3", refresh_hash="x4", **_MINT),  # type: ignore[arg-type]
            rotates=True,
            now=world.clock(),
        )
    )
    assert isinstance(again, Refused)


def test_code_redeemed_during_the_leave_yields_dead_tokens_and_the_receipt_states_the_residual(
    world: World, settings: Settings, spend: Callable[[Callable[[], Any]], Any]
) -> None:
    person = world.hire()
    session_id = _session(world, settings, person)
    with world.database.transaction() as session:
        code = _code(world, settings, session_id)(session)
    issued, result = _race_with_leave(world, person, spend, _redeem(world, code, "r1", "a1"))
    assert isinstance(issued, Issued)
    _assert_tokens_dead(world, spend, "a1", "r1")
    with world.database.read() as session:
        residual = session.execute(
            select(CaseRow.residual_until).where(
                CaseRow.case_id == result.cases[person], CaseRow.channel == "backchannel_logout"
            )
        ).scalar_one()
    assert residual == world.clock() + timedelta(minutes=5)


def test_refresh_during_the_leave_yields_dead_tokens(
    world: World, settings: Settings, spend: Callable[[Callable[[], Any]], Any]
) -> None:
    person = world.hire()
    session_id = _session(world, settings, person)
    with world.database.transaction() as session:
        code = _code(world, settings, session_id)(session)
    assert isinstance(spend(_redeem(world, code, "r1", "a1")), Issued)
    issued, _ = _race_with_leave(
        world,
        person,
        spend,
        lambda: spending.refresh(
            _MACHINE,
            token_hash="r1",
            scope=None,
            mint=Mint(access_hash="a2", refresh_hash="r2", **_MINT),  # type: ignore[arg-type]
            rotates=True,
            now=world.clock(),
        ),
    )
    assert isinstance(issued, Issued)
    _assert_tokens_dead(world, spend, "a2", "r2")
    _assert_tokens_dead(world, spend, "a1", "r1")


# ---------------------------------------------------------------------- access against leaving


def test_account_that_is_being_made_during_the_leave_is_in_its_plan(world: World) -> None:
    person = world.hire(type=EmploymentType.CONTRACTOR)
    assert world.accounts(person) == []
    post = world.employments(person)[0]
    promote = intake.Move(principal_id=person, employment_id=post.id, values={"type": EmploymentType.REGULAR})
    _, result = _against(
        lambda s: transition(s, [promote], now=world.clock(), actor=COMMAND_LINE, door="cli"),
        lambda: _offboard(world, person),
        world,
    )
    (account,) = world.accounts(person)
    assert account.desired_state == "inactive"
    (planned,) = world.deliveries(case_id=result.cases[person], channel="scim")
    assert (planned.operation, planned.account_id) == ("deprovision", account.id)
    assert world.entitled(person) == set()


def test_rules_that_are_being_applied_during_the_leave_entitle_nobody_who_left(world: World) -> None:
    people = [world.hire(type=EmploymentType.CONTRACTOR) for _ in range(3)]
    _new_rules(world, world.office, [("member", "employments.companyCode pr")])
    outcomes = _at_once(
        lambda: reevaluate_pending(world.database, clock=world.clock),
        lambda: reevaluate_pending(world.database, clock=world.clock),
        *(lambda p=p: _offboard(world, p) for p in people[:2]),
    )
    _no_surprise(outcomes)
    for person in people[:2]:
        assert world.principal(person).standing == Standing.LEFT
        assert world.entitled(person) == set()
        for account in world.accounts(person):
            assert account.desired_state == "inactive"
            assert world.deliveries(account_id=account.id)[-1].operation == "deprovision"
    assert world.entitled(people[2]) == {world.office, world.wiki}
    assert reevaluate_pending(world.database, clock=world.clock) == 0


def _new_rules(world: World, application: str, texts: list[tuple[str, str]]) -> None:
    with world.database.transaction() as session:
        set_rules(session, application, texts, now=world.clock())
        bump_rules_version(session, reevaluate=True)


@ON_POSTGRESQL
def test_newcomer_who_is_being_written_while_rules_change_has_the_new_ones(world: World) -> None:
    """A look at everybody cannot see a person whose transaction is not over: the change of rules waits for it."""
    person = new_id("per")
    newcomer = intake.Onboard(
        principal_id=person, person=intake.PersonFacts(display_name="新人"), employment=world.facts()
    )

    def withdraw_and_review() -> None:
        _new_rules(world, world.office, [])
        reevaluate_pending(world.database, clock=world.clock)

    _, outcome = _against(
        lambda s: transition(s, [newcomer], now=world.clock(), actor=COMMAND_LINE, door="cli"),
        withdraw_and_review,
        world,
    )
    assert outcome is None
    assert world.entitled(person) == {world.wiki}


@ON_POSTGRESQL
def test_leave_sees_the_company_that_was_made_while_it_waited(world: World) -> None:
    person = world.hire()

    def transfer(session: Session) -> None:
        company = create_organization(
            session,
            code="NEW",
            name="新公司",
            kind=OrganizationKind.COMPANY,
            parent_id=root_organization(session),
            time_zone="Asia/Tokyo",
            now=world.clock(),
        )
        change = intake.AddEmployment(principal_id=person, employment=world.facts(organization_id=company))
        transition(session, [change], now=world.clock(), actor=COMMAND_LINE, door="hr_file").only()

    _, result = _against(transfer, lambda: _offboard(world, person), world)
    assert not isinstance(result, BaseException), result
    assert result.left == [person]


@ON_POSTGRESQL
def test_batches_that_name_each_others_managers_do_not_lock_each_other_out(world: World) -> None:
    one, two = world.hire(), world.hire()

    def batch(touched: str, manager: str) -> Callable[[Session], None]:
        def write(session: Session) -> None:
            changes: list[intake.Change] = [intake.UpdatePerson(principal_id=touched, values={"display_name": "新名"})]
            transition(session, changes, now=world.clock(), actor=COMMAND_LINE, door="hr_file").only()
            time.sleep(_A_MOMENT)
            report = intake.Onboard(
                principal_id=new_id("per"),
                person=intake.PersonFacts(display_name="下属"),
                employment=world.facts(manager_id=manager),
            )
            transition(session, [report], now=world.clock(), actor=COMMAND_LINE, door="hr_file").only()

        return write

    def run(write: Callable[[Session], None]) -> None:
        with world.database.transaction() as session:
            write(session)

    _no_surprise(_at_once(lambda: run(batch(one, two)), lambda: run(batch(two, one))))


# ---------------------------------------------------------------------- changes against changes


def test_two_offboardings_at_once_are_one_leave(world: World) -> None:
    person = world.hire()
    world.sign_in(person, "office")
    outcomes = _at_once(*(lambda: _offboard(world, person) for _ in range(4)))
    _no_surprise(outcomes)
    assert len({outcome.cases[person] for outcome in outcomes}) == 1
    assert sum(outcome.left == [person] for outcome in outcomes) == 1
    assert len(world.events("person.offboarded")) == 1
    assert [d.operation for d in world.deliveries(principal_id=person, channel="scim")].count("deprovision") == 1
    assert len(world.deliveries(principal_id=person, operation="logout")) == 1


@pytest.mark.parametrize("what", ["move", "update", "suspend", "reactivate", "rehire"])
def test_leave_and_another_change_at_once_end_in_one_of_the_two_orders(world: World, what: str) -> None:
    person = world.hire()
    post = world.employments(person)[0]
    if what == "reactivate":
        world.change(intake.Suspend(principal_id=person))
    before = world.principal(person)
    employment = world.facts(organization_id=world.berlin)

    def other() -> Any:
        changes: dict[str, intake.Change] = {
            "move": intake.Move(principal_id=person, employment_id=post.id, values={"title": "经理"}),
            "update": intake.UpdatePerson(principal_id=person, values={"display_name": "王小磊"}),
            "suspend": intake.Suspend(principal_id=person),
            "reactivate": intake.Reactivate(principal_id=person),
            "rehire": intake.AddEmployment(principal_id=person, employment=employment),
        }
        return world.change(changes[what])

    _no_surprise(_at_once(lambda: _offboard(world, person), other))
    row = world.principal(person)
    assert row.enrolment_epoch == before.enrolment_epoch + 1
    assert row.access_epoch > before.access_epoch
    (account,) = world.accounts(person)
    last = world.deliveries(account_id=account.id)[-1].operation
    if row.standing == Standing.LEFT:
        assert world.entitled(person) == set()
        assert (account.desired_state, last) == ("inactive", "deprovision")
    else:
        # Left first, hired again afterwards: BER entitles to the wiki alone.
        assert (what, row.standing) == ("rehire", Standing.ACTIVE)
        assert world.entitled(person) == {world.wiki}
        assert (account.desired_state, last) == ("inactive", "deprovision")
    assert len(world.events("person.offboarded")) == 1


def test_case_numbers_are_unique_when_a_month_begins_with_many_leaves_at_once(world: World) -> None:
    people = [world.hire() for _ in range(6)]
    world.at(datetime(2026, 12, 1, tzinfo=UTC))
    _no_surprise(_at_once(*(lambda p=p: _offboard(world, p) for p in people)))
    with world.database.read() as session:
        numbers = sorted(session.execute(select(Case.number)).scalars())
    assert numbers == [f"R-2026-12-{n:04d}" for n in range(1, 7)]


# ---------------------------------------------------------------------- administrators


def _administrator(world: World) -> str:
    person = world.hire()
    with world.database.transaction() as session:
        assign_role(
            session,
            person,
            HubRole.ADMINISTRATOR,
            organization_id=root_organization(session),
            now=world.clock(),
            assigned_by="test",
        )
    return person


def _console(person: str) -> Caller:
    return Caller(
        subject=Subject(principal_id=person, actions=frozenset(Action)),
        actor=Actor(kind="person", id=person),
        door="console",
    )


def test_two_last_administrators_cannot_remove_each_other_at_once(world: World) -> None:
    one, two = _administrator(world), _administrator(world)

    def remove(person: str) -> int:
        with world.database.transaction() as session:
            return remove_role(session, person, HubRole.ADMINISTRATOR, now=world.clock())

    outcomes = _at_once(lambda: remove(one), lambda: remove(two))
    _no_surprise(outcomes)
    assert sorted(str(getattr(o, "rule", o)) for o in outcomes) == ["1", "last_administrator"]


@pytest.mark.parametrize("how", ["offboard", "suspend"])
def test_two_last_administrators_cannot_end_each_others_access_at_once(world: World, how: str) -> None:
    one, two = _administrator(world), _administrator(world)

    def end(me: str, other: str) -> Any:
        with world.database.transaction() as session:
            return getattr(commands, how)(session, _console(me), other, now=world.clock())

    outcomes = _at_once(lambda: end(one, two), lambda: end(two, one))
    _no_surprise(outcomes)
    refusals = [o for o in outcomes if isinstance(o, Conflict)]
    assert [r.rule for r in refusals] == ["last_administrator"]
    standings = sorted(world.principal(p).standing for p in (one, two))
    assert Standing.ACTIVE in standings
    assert standings.count(Standing.ACTIVE) == 1


@ON_POSTGRESQL
def test_leave_of_somebody_else_does_not_wait_for_administrators_who_are_being_changed(world: World) -> None:
    administrator, person = _administrator(world), world.hire()
    _, second = _administrator(world), world.hire()
    assert second != person

    def hold(session: Session) -> None:
        change = intake.UpdatePerson(principal_id=administrator, values={"display_name": "管理员"})
        transition(session, [change], now=world.clock(), actor=COMMAND_LINE, door="hr_file")

    with _thread() as pool, world.database.transaction() as session:
        hold(session)

        def leave() -> Any:
            with world.database.transaction() as other:
                return commands.offboard(other, _console(second), person, now=world.clock())

        assert pool.submit(leave).result(10).left == [person]


# ---------------------------------------------------------------------- evidence


def _leased(world: World, settings: Settings, name: str = "w") -> list[Any]:
    return list(queue.lease(world.database, worker=name, limit=50, now=world.clock(), settings=settings))


@pytest.mark.parametrize("order", ["settle first", "leave first", "at once"])
def test_provision_that_is_settled_during_the_leave_stays_before_the_deprovision(
    world: World, settings: Settings, order: str
) -> None:
    person = world.hire()
    (leased,) = _leased(world, settings)
    assert leased.operation == "provision"
    done = Outcome(kind="done", grade=Grade.E1, status_code=201)

    def settle() -> bool:
        return queue.settle(world.database, leased, done, now=world.clock(), settings=settings)

    if order == "at once":
        _no_surprise(_at_once(settle, lambda: _offboard(world, person)))
    elif order == "settle first":
        assert settle()
        _offboard(world, person)
    else:
        _offboard(world, person)
        assert settle()
    provision, deprovision = world.deliveries(account_id=leased.account_id)
    assert (provision.state, deprovision.operation, deprovision.state) == ("done", "deprovision", "pending")
    assert provision.seq < deprovision.seq
    (account,) = world.accounts(person)
    assert account.desired_state == "inactive"


def test_signing_while_deliveries_are_settled_loses_no_version_and_is_never_complete_early(
    world: World, settings: Settings, keyring: Keyring
) -> None:
    person = world.hire()
    for _ in range(6):
        world.sign_in(person, "office")
    case = _offboard(world, person).cases[person]
    ids = [d.id for d in world.deliveries(case_id=case)]
    assert len(ids) == 7
    stop = threading.Event()

    def sign() -> None:
        while not stop.is_set():
            sign_due(world.database, keyring, issuer="https://hub.example", now=world.clock())

    def settle(part: list[str]) -> None:
        for delivery_id in part:
            world.settle(delivery_id, grade=2 if delivery_id == scim else 1)

    (scim,) = [d.id for d in world.deliveries(case_id=case, channel="scim")]
    with _thread() as pool:
        signers = [pool.submit(sign) for _ in range(2)]
        settlers = [pool.submit(settle, ids[n::2]) for n in range(2)]
        outcomes = [_outcome(f) for f in settlers]
        time.sleep(_A_MOMENT)
        stop.set()
        outcomes += [_outcome(f) for f in signers]
    _no_surprise(outcomes)
    sign_due(world.database, keyring, issuer="https://hub.example", now=world.clock())
    with world.database.read() as session:
        versions = session.execute(
            select(Receipt.version, Receipt.is_complete, Receipt.jws)
            .where(Receipt.case_id == case)
            .order_by(Receipt.version)
        ).all()
        view = current(session, case, now=world.clock())
    assert [v.version for v in versions] == list(range(1, len(versions) + 1))
    keys = keyring.jwks("receipt")
    for version in versions:
        verdict = verify(export(replace(view, jws=version.jws, disclosures={})), keys)
        assert verdict.is_valid, verdict.problems
        done = [row for row in verdict.claims["rows"] if row["state"] == "done"]
        assert verdict.claims["complete"] == version.is_complete == (len(done) == len(verdict.claims["rows"]))
    assert versions[-1].is_complete
    assert view.state == "complete"


def test_process_that_stops_between_batch_and_mark_loses_nobody(world: World) -> None:
    people = [world.hire(type=EmploymentType.CONTRACTOR) for _ in range(2)]
    _new_rules(world, world.office, [("member", "employments.companyCode pr")])
    with world.database.transaction() as session:
        # As if another process had looked at the first and stopped; then the rules change once more.
        session.execute(update(Installation).values(evaluated_up_to=people[0]))
    _new_rules(world, world.office, [("guest", "employments.companyCode pr")])
    reevaluate_pending(world.database, clock=world.clock)
    for person in people:
        assert world.entitled(person) == {world.office, world.wiki}
    with world.database.read() as session:
        mark = session.execute(select(Installation.rules_version, Installation.evaluated_version)).one()
        assert mark.rules_version == mark.evaluated_version
        assert session.execute(select(func.count()).select_from(Account)).scalar_one() == 2
        assert session.execute(select(func.count()).select_from(Delivery)).scalar_one() == 2
