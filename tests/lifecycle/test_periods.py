"""Both time axes: one believed history without overlaps, and what was believed at every recorded instant."""

import itertools
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from idhub.access.rules import set_rules
from idhub.access.tables import Entitlement, EntitlementRule
from idhub.db import new_id
from idhub.directory.kinds import EmploymentType, PrincipalKind, Standing
from idhub.directory.tables import EmploymentPeriod, Principal
from idhub.errors import IdhubError
from idhub.lifecycle import intake, rules
from idhub.lifecycle.periods import Period, after_change, differs
from idhub.lifecycle.reevaluation import reevaluate_pending
from idhub.lifecycle.rules import Places, Post
from tests.lifecycle.world import World

PLACES = Places({"sha": "Asia/Shanghai", "ber": "Europe/Berlin"})
START = datetime(2026, 11, 23, 2, tzinfo=UTC)
_DAY = timedelta(days=1)


def _at(day: int) -> datetime:
    return START + day * _DAY


def _post(**values: Any) -> Post:
    facts: dict[str, Any] = {
        "organization_id": "sha",
        "employee_number": "1",
        "type": EmploymentType.REGULAR,
        "starts_on": date(2020, 1, 1),
    }
    return rules.settle(
        rules.State(
            "per_1",
            Standing.STAGED,
            1,
            1,
            START,
            None,
            {},
            (rules.make_post("emp", intake.EmploymentFacts(**{**facts, **values}), PLACES),),
        ),
        now=START,
    ).posts[0]


def _assert_one_history(periods: list[Period], post: Post, *, now: datetime) -> None:
    assert periods == sorted(periods, key=lambda p: p.valid_from)
    for earlier, later in itertools.pairwise(periods):
        assert earlier.valid_to is not None
        assert earlier.valid_from < earlier.valid_to <= later.valid_from
    if periods:
        assert periods[0].valid_from >= post.starts_at
        last = periods[-1]
        if post.is_live:
            assert last.valid_to is None
            assert (last.facts["state"], last.facts["title"]) == (post.state, post.title)
        else:
            assert last.valid_to is not None
            assert last.valid_from < last.valid_to
            assert post.ends_at is None or last.valid_to <= post.ends_at
    else:
        assert not post.is_live


_STEPS = st.lists(
    st.tuples(
        st.integers(0, 30),
        st.sampled_from(["title", "start", "until", "end", "look", "suspend", "reactivate", "rehire"]),
        st.integers(-60, 60),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(_STEPS, st.integers(-50, 50))
def test_believed_history_never_overlaps_whatever_is_said_in_whatever_order(
    steps: list[tuple[int, str, int]], offset: int
) -> None:
    post = _post(starts_on=START.date() + offset * _DAY)
    state = rules.settle(rules.State("per_1", Standing.STAGED, 1, 1, post.starts_at, None, {}, (post,)), now=START)
    believed = after_change((), state.posts[0], now=START)
    _assert_one_history(believed, state.posts[0], now=START)
    now = START
    for days, kind, value in steps:
        now += days * _DAY
        day = now.date() + value * _DAY
        changes: dict[str, intake.Change] = {
            "title": intake.Move(principal_id="per_1", employment_id="emp", values={"title": str(value)}),
            "start": intake.Move(principal_id="per_1", employment_id="emp", values={"starts_on": day}),
            "until": intake.Move(principal_id="per_1", employment_id="emp", values={"ends_on": day}),
            "end": intake.EndEmployment(principal_id="per_1", employment_id="emp", last_day=day),
            "suspend": intake.Suspend(principal_id="per_1"),
            "reactivate": intake.Reactivate(principal_id="per_1"),
        }
        try:
            if kind == "rehire":
                facts = intake.EmploymentFacts(
                    organization_id="sha", employee_number="1", type=EmploymentType.REGULAR, starts_on=day
                )
                after = rules.add_employment(state, rules.make_post("new", facts, PLACES), now=now)
            else:
                change = changes.get(kind, intake.Reevaluate(principal_id="per_1"))
                after = rules.apply(state, change, PLACES, now=now)
        except IdhubError:
            continue
        if differs(state.posts[0], after.posts[0]):
            believed = after_change(believed, after.posts[0], now=now)
        _assert_one_history(believed, after.posts[0], now=now)
        state = after


def test_rehire_with_the_old_start_date_does_not_overlap_what_was() -> None:
    live = after_change((), _post(), now=START)
    left = _ended(_post(), START)
    gone = after_change(live, left, now=START)
    back = after_change(gone, _post(title="again"), now=_at(30))
    assert [(p.valid_from, p.valid_to) for p in back] == [(live[0].valid_from, START), (START, None)]


def test_rehire_with_a_later_start_leaves_the_gap() -> None:
    gone = after_change(after_change((), _post(), now=START), _ended(_post(), START), now=START)
    back = after_change(gone, _post(starts_on=date(2026, 12, 20)), now=_at(20))
    assert [p.valid_from for p in back][-1] == PLACES.midnight("sha", date(2026, 12, 20))


def test_start_that_is_corrected_moves_the_beginning_of_history() -> None:
    live = after_change((), _post(), now=START)
    later = after_change(live, _post(starts_on=date(2021, 6, 1)), now=_at(1))
    assert [p.valid_from for p in later] == [PLACES.midnight("sha", date(2021, 6, 1))]
    earlier = after_change(later, _post(starts_on=date(2019, 1, 1)), now=_at(2))
    assert [p.valid_from for p in earlier] == [PLACES.midnight("sha", date(2019, 1, 1))]


def test_end_in_the_past_cuts_what_was_believed_after_it() -> None:
    moved = after_change(after_change((), _post(), now=START), _post(title="经理"), now=_at(5))
    ended = after_change(moved, _ended(_post(title="经理"), _at(3)), now=_at(6))
    assert [(p.facts["title"], p.valid_to) for p in ended] == [(None, _at(3))]


def _ended(post: Post, ends_at: datetime) -> Post:
    from dataclasses import replace

    from idhub.directory.kinds import EmploymentState

    return replace(post, ends_at=ends_at, ends_on=ends_at.date(), state=EmploymentState.ENDED)


# ---------------------------------------------------------------------- stored


def _stored(world: World, employment_id: str) -> list[Any]:
    with world.database.read() as session:
        return list(
            session.execute(select(EmploymentPeriod.__table__).where(EmploymentPeriod.employment_id == employment_id))
        )


def _known_at(rows: list[Any], instant: datetime) -> list[tuple[datetime, datetime | None, Any]]:
    """What was believed once everything recorded at `instant` was in."""
    return sorted(
        (r.valid_from, r.valid_to, r.facts["title"])
        for r in rows
        if r.recorded_at <= instant and (r.superseded_at is None or r.superseded_at > instant)
    )


def test_what_was_known_at_each_instant_stays_readable_through_leave_and_return(world: World) -> None:
    person = world.hire(title="a", employee_number="QY1")
    post = world.employments(person)[0]
    journal: dict[datetime, list[Any]] = {}

    def note() -> None:
        journal[world.clock()] = _known_at(_stored(world, post.id), world.clock())
        believed = journal[world.clock()]
        for earlier, later in itertools.pairwise(believed):
            assert earlier[1] is not None
            assert earlier[1] <= later[0]

    note()
    steps: list[intake.Change] = [
        intake.Move(principal_id=person, employment_id=post.id, values={"title": "b"}),
        intake.Suspend(principal_id=person),
        intake.Reactivate(principal_id=person),
        intake.Move(principal_id=person, employment_id=post.id, values={"ends_on": date(2026, 11, 20)}),
        intake.AddEmployment(principal_id=person, employment=world.facts(employee_number="QY1", title="c")),
        intake.Move(principal_id=person, employment_id=post.id, values={"starts_on": date(2019, 5, 1)}),
        intake.Offboard(principal_id=person, at=world.clock() + timedelta(days=20)),
        intake.CancelOffboarding(principal_id=person),
        intake.Offboard(principal_id=person),
    ]
    for change in steps:
        world.clock.advance(days=1)
        world.change(change).only()
        note()
    rows = _stored(world, post.id)
    for instant, believed in journal.items():
        assert _known_at(rows, instant) == believed
    assert [r.valid_to for r in rows if r.superseded_at is None and r.valid_to is None] == []


def test_entitlements_and_rules_keep_both_answers_when_rules_come_and_go(world: World) -> None:
    person = world.hire()
    texts = [[], [("member", "employments.companyCode pr")], [("reader", "employments.companyCode pr")]]
    journal: dict[datetime, tuple[list[Any], list[Any]]] = {}
    for index in (1, 0, 2, 1):
        now = world.clock.advance(hours=1)
        with world.database.transaction() as session:
            set_rules(session, world.wiki, texts[index], now=now)
            from idhub.directory.organizations import bump_rules_version

            bump_rules_version(session, reevaluate=True)
        reevaluate_pending(world.database, clock=world.clock)
        journal[now] = _access_known(world, person, now)
    for instant, known in journal.items():
        assert _access_known(world, person, instant) == known
    with world.database.read() as session:
        for table, criterion in (
            (Entitlement.__table__, Entitlement.principal_id == person),
            (EntitlementRule.__table__, EntitlementRule.application_id == world.wiki),
        ):
            rows = session.execute(select(table).where(criterion)).all()
            current = [r for r in rows if r.superseded_at is None]
            by_key: dict[Any, list[Any]] = {}
            for row in current:
                by_key.setdefault((row.application_id, row.role), []).append(row)
            for held in by_key.values():
                held.sort(key=lambda r: r.valid_from)
                for earlier, later in itertools.pairwise(held):
                    assert earlier.valid_to is not None
                    assert earlier.valid_to <= later.valid_from


def _access_known(world: World, person: str, instant: datetime) -> tuple[list[Any], list[Any]]:
    answers = []
    with world.database.read() as session:
        for table, criterion in (
            (Entitlement.__table__, Entitlement.principal_id == person),
            (EntitlementRule.__table__, EntitlementRule.application_id == world.wiki),
        ):
            rows = session.execute(select(table).where(criterion)).all()
            answers.append(
                sorted(
                    (r.application_id, r.role, r.valid_from, str(r.valid_to))
                    for r in rows
                    if r.recorded_at <= instant and (r.superseded_at is None or r.superseded_at > instant)
                )
            )
    return answers[0], answers[1]


@pytest.mark.parametrize("together", [True, False], ids=["manager leaves too", "manager left before"])
def test_service_of_a_leaver_never_goes_to_somebody_who_has_left(world: World, together: bool) -> None:
    director = world.hire("方志远")
    manager = world.hire(manager_id=director)
    person = world.hire(manager_id=manager)
    service = new_id("svc")
    with world.database.transaction() as session:
        session.add(
            Principal(
                id=service,
                kind=PrincipalKind.SERVICE,
                organization_id=world.hq,
                standing=Standing.ACTIVE,
                access_starts_at=world.clock(),
                owner_id=person,
                created_at=world.clock(),
                changed_at=world.clock(),
            )
        )
    leaves = [intake.Offboard(principal_id=manager), intake.Offboard(principal_id=person)]
    for batch in [leaves] if together else [leaves[:1], leaves[1:]]:
        world.change(*batch)
    assert world.principal(service).owner_id == director
