"""What a change makes of a principal: pure decisions, over random lives and over the edges of calendars."""

import itertools
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idhub.directory.kinds import EmploymentState, EmploymentType, Standing
from idhub.errors import Conflict, IdhubError, Invalid, NotFound
from idhub.lifecycle import intake, rules
from idhub.lifecycle.rules import Places, Post, State, settle

ZONES = {
    "sha": "Asia/Shanghai",
    "ber": "Europe/Berlin",
    "nyc": "America/New_York",
    "apia": "Pacific/Apia",
    "cairo": "Africa/Cairo",
    "havana": "America/Havana",
}
PLACES = Places(ZONES)
START = datetime(2026, 3, 27, 12, tzinfo=UTC)
PERSON = {"display_name": "林晓雯"}


def _facts(number: str = "1", **values: Any) -> intake.EmploymentFacts:
    return intake.EmploymentFacts(
        **{
            "organization_id": "sha",
            "employee_number": number,
            "type": EmploymentType.REGULAR,
            "starts_on": date(2020, 1, 1),
            **values,
        }
    )


def _onboarded(now: datetime = START, **values: Any) -> State:
    post = rules.make_post("emp_1", _facts(**values), PLACES)
    blank = State("per_1", Standing.STAGED, 1, 1, post.starts_at, post.ends_at, PERSON, (post,))
    return settle(blank, now=now)


def _apply(state: State, change: intake.Change, now: datetime = START) -> State:
    return rules.apply(state, change, PLACES, now=now)


def _epochs(state: State) -> tuple[int, int]:
    return state.access_epoch, state.enrolment_epoch


# ---------------------------------------------------------------------- random lives

_DAYS = st.integers(-40, 40)
_WISHES = st.one_of(
    st.tuples(st.just("end"), st.integers(0, 3), st.one_of(st.none(), _DAYS)),
    st.tuples(st.just("end_at"), st.integers(0, 3), st.integers(-100, 900)),
    st.tuples(st.just("suspend"), st.one_of(st.none(), st.integers(0, 3)), st.none()),
    st.tuples(st.just("reactivate"), st.one_of(st.none(), st.integers(0, 3)), st.none()),
    st.tuples(st.just("offboard"), st.none(), st.one_of(st.none(), st.integers(-100, 900))),
    st.tuples(st.just("emergency"), st.none(), st.none()),
    st.tuples(st.just("start"), st.integers(0, 3), _DAYS),
    st.tuples(st.just("until"), st.integers(0, 3), st.one_of(st.none(), _DAYS)),
    st.tuples(st.just("place"), st.integers(0, 3), st.sampled_from(sorted(ZONES))),
    st.tuples(st.just("add"), st.integers(0, 3), _DAYS),
    st.tuples(st.just("end_credentials"), st.none(), st.none()),
    st.tuples(st.just("look"), st.none(), st.none()),
)
_LIVES = st.lists(st.tuples(st.integers(0, 500), _WISHES), min_size=1, max_size=14)


def _wish(state: State, wish: tuple[str, Any, Any], now: datetime) -> State:
    kind, which, value = wish
    key = state.id
    post = state.posts[which % len(state.posts)] if isinstance(which, int) else None
    employment_id = post.id if post is not None else None
    today = now.date()
    change: intake.Change
    match kind:
        case "end":
            last_day = None if value is None else today + timedelta(days=value)
            change = intake.EndEmployment(principal_id=key, employment_id=employment_id or "", last_day=last_day)
        case "end_at":
            at = now + timedelta(hours=value)
            change = intake.EndEmployment(principal_id=key, employment_id=employment_id or "", at=at)
        case "suspend":
            change = intake.Suspend(principal_id=key, employment_id=employment_id)
        case "reactivate":
            change = intake.Reactivate(principal_id=key, employment_id=employment_id)
        case "offboard":
            change = intake.Offboard(principal_id=key, at=None if value is None else now + timedelta(hours=value))
        case "emergency":
            change = intake.Offboard(principal_id=key, is_emergency=True)
        case "start" | "until" | "place":
            name = {"start": "starts_on", "until": "ends_on", "place": "organization_id"}[kind]
            moved = today + timedelta(days=value) if isinstance(value, int) else value
            change = intake.Move(principal_id=key, employment_id=employment_id or "", values={name: moved})
        case "add":
            facts = _facts(str(which), organization_id="ber", starts_on=today + timedelta(days=value))
            return rules.add_employment(state, rules.make_post(f"emp_b{which}", facts, PLACES), now=now)
        case "end_credentials":
            change = intake.EndCredentials(principal_id=key)
        case _:
            change = intake.Reevaluate(principal_id=key)
    return rules.apply(state, change, PLACES, now=now)


def _lived(life: list[tuple[int, tuple[str, Any, Any]]], starts_on: date) -> list[tuple[datetime, State]]:
    now = START
    states = [(now, _onboarded(now, starts_on=starts_on))]
    for hours, wish in life:
        now += timedelta(hours=hours)
        try:
            after = _wish(states[-1][1], wish, now)
        except IdhubError:
            continue
        states.append((now, after))
    return states


@settings(max_examples=300, deadline=None)
@given(_LIVES, st.integers(-40, 40))
def test_epochs_never_go_down_and_go_up_with_every_exit(
    life: list[tuple[int, tuple[str, Any, Any]]], offset: int
) -> None:
    states = _lived(life, START.date() + timedelta(days=offset))
    for (_, before), (_, after) in itertools.pairwise(states):
        assert after.access_epoch >= before.access_epoch
        assert after.enrolment_epoch >= before.enrolment_epoch
        if before.standing == Standing.ACTIVE and after.standing != Standing.ACTIVE:
            assert after.access_epoch > before.access_epoch
        if before.standing != Standing.LEFT and after.standing == Standing.LEFT:
            assert after.access_epoch > before.access_epoch
            assert after.enrolment_epoch > before.enrolment_epoch
        if before.standing == Standing.LEFT and after.standing == Standing.LEFT:
            assert after.enrolment_epoch == before.enrolment_epoch


def test_post_that_has_ended_keeps_the_instant_of_it_wherever_it_is_moved() -> None:
    """The midnight of another place, six hours behind, is no longer end of what is over."""
    life = [(0, ("end", 0, 15)), (364, ("place", 0, "ber"))]
    (_, _), (_, ending), (now, moved) = _lived(life, START.date())
    (post,) = moved.posts
    assert (post.organization_id, post.state, post.ends_at) == ("ber", EmploymentState.ENDED, now)
    assert ending.posts[0].ends_at == moved.ends_at == now


@settings(max_examples=300, deadline=None)
@given(_LIVES, st.integers(-40, 40))
def test_standing_window_and_posts_always_agree(life: list[tuple[int, tuple[str, Any, Any]]], offset: int) -> None:
    for now, state in _lived(life, START.date() + timedelta(days=offset)):
        states = {post.state for post in state.posts}
        expected = next(
            (standing for standing in Standing if standing.value in states and standing != Standing.STAGED),
            Standing.STAGED if EmploymentState.STAGED in states else Standing.LEFT,
        )
        assert state.standing == expected
        for post in state.posts:
            if post.state == EmploymentState.ENDED:
                assert post.ends_at is not None
                assert post.ends_at <= now
            else:
                assert post.ends_at is None or now < post.ends_at
            if post.state == EmploymentState.ACTIVE:
                assert post.starts_at <= now
            if post.state == EmploymentState.STAGED:
                assert now < post.starts_at
            assert post.starts_at == PLACES.midnight(post.organization_id, post.starts_on)
            assert post.ends_on is None or post.ends_on >= post.starts_on
        holds = state.starts_at <= now and (state.ends_at is None or now < state.ends_at)
        if state.standing == Standing.ACTIVE:
            assert holds
        if state.standing in {Standing.LEFT, Standing.STAGED}:
            assert not holds


@settings(max_examples=200, deadline=None)
@given(_LIVES, st.integers(-40, 40), st.integers(0, 2000))
def test_looking_again_changes_nothing_and_looking_late_is_like_looking_often(
    life: list[tuple[int, tuple[str, Any, Any]]], offset: int, hours: int
) -> None:
    now, state = _lived(life, START.date() + timedelta(days=offset))[-1]
    assert settle(state, now=now) == state
    later = now + timedelta(hours=hours)
    at_once = settle(state, now=later)
    assert settle(at_once, now=later) == at_once
    often = settle(settle(state, now=now + timedelta(hours=hours / 2)), now=later)
    assert (often.standing, often.posts, often.starts_at, often.ends_at) == (
        at_once.standing,
        at_once.posts,
        at_once.starts_at,
        at_once.ends_at,
    )


@settings(max_examples=200, deadline=None)
@given(_LIVES, st.integers(-100, 900), st.booleans())
def test_leaving_brings_an_end_forward_and_never_puts_it_off(
    life: list[tuple[int, tuple[str, Any, Any]]], hours: int, emergency: bool
) -> None:
    now, state = _lived(life, date(2020, 1, 1))[-1]
    at = now + timedelta(hours=hours)
    after = _apply(state, intake.Offboard(principal_id="per_1", at=at, is_emergency=emergency), now)
    limit = now if emergency or at < now else at
    for old, new in zip(state.posts, after.posts, strict=True):
        if old.is_live:
            assert new.ends_at == (limit if old.ends_at is None else min(old.ends_at, limit))
        else:
            assert new == old
    if limit == now:
        assert after.standing == Standing.LEFT


@settings(max_examples=200, deadline=None)
@given(_LIVES, st.integers(1, 900))
def test_cancelling_a_scheduled_offboarding_restores_every_end_exactly(
    life: list[tuple[int, tuple[str, Any, Any]]], hours: int
) -> None:
    now, state = _lived(life, date(2020, 1, 1))[-1]
    scheduled = _apply(state, intake.Offboard(principal_id="per_1", at=now + timedelta(hours=hours)), now)
    cancel = intake.CancelOffboarding(
        principal_id="per_1",
        previous_ends={p.id: p.ends_on for p in state.posts if p.is_live},
        previous_instants={p.id: p.ends_at for p in state.posts if p.is_live and p.ends_at is not None},
    )
    if scheduled.standing == Standing.LEFT:
        with pytest.raises(Conflict):
            _apply(scheduled, cancel, now)
        return
    assert _apply(scheduled, cancel, now) == state


# ---------------------------------------------------------------------- what must not come back


def test_change_after_an_end_that_nobody_looked_at_brings_nothing_from_before_back() -> None:
    """A worker that was down at midnight: the leave is a leave all the same."""
    state = _onboarded(ends_on=date(2026, 3, 31))
    later = START + timedelta(days=10)
    extended = _apply(
        state, intake.Move(principal_id="per_1", employment_id="emp_1", values={"ends_on": date(2026, 12, 31)}), later
    )
    assert extended.standing == Standing.ACTIVE
    assert _epochs(extended) == (2, 2)


def test_rehire_after_an_end_that_nobody_looked_at_is_a_rehire() -> None:
    state = _onboarded(ends_on=date(2026, 3, 31))
    later = START + timedelta(days=10)
    again = rules.add_employment(state, rules.make_post("emp_2", _facts(starts_on=date(2026, 4, 5)), PLACES), now=later)
    assert (again.standing, _epochs(again)) == (Standing.ACTIVE, (2, 2))
    assert [post.id for post in again.posts] == ["emp_1"]


def test_offboarding_cannot_be_cancelled_once_its_time_has_come() -> None:
    state = _apply(_onboarded(), intake.Offboard(principal_id="per_1", at=START + timedelta(hours=1)))
    cancel = intake.CancelOffboarding(principal_id="per_1", previous_ends={"emp_1": None})
    with pytest.raises(Conflict) as refusal:
        _apply(state, cancel, START + timedelta(hours=1))
    assert refusal.value.rule == "cancel.left"


def test_clock_read_before_the_start_does_not_take_a_start_back() -> None:
    """A long import carries the `now` of its beginning past a midnight at which people started."""
    midnight = datetime(2026, 4, 1, tzinfo=UTC) - timedelta(hours=8)
    state = _onboarded(starts_on=date(2026, 4, 1))
    started = settle(state, now=midnight)
    assert started.standing == Standing.ACTIVE
    assert settle(started, now=midnight - timedelta(minutes=1)) == started


@pytest.mark.parametrize("values", [{"organization_id": "ber"}, {"ends_on": date(2026, 3, 27)}, {"title": "x"}])
def test_moving_somebody_does_not_put_off_the_instant_of_their_leave(values: dict[str, Any]) -> None:
    at = START + timedelta(hours=1)
    state = _apply(_onboarded(), intake.Offboard(principal_id="per_1", at=at))
    moved = _apply(state, intake.Move(principal_id="per_1", employment_id="emp_1", values=values))
    assert moved.ends_at == at


def test_company_of_another_zone_moves_an_end_that_is_a_date() -> None:
    state = _onboarded(ends_on=date(2026, 3, 30))
    moved = _apply(state, intake.Move(principal_id="per_1", employment_id="emp_1", values={"organization_id": "nyc"}))
    assert moved.ends_at == datetime(2026, 3, 31, 4, tzinfo=UTC)


def test_corrected_end_of_somebody_who_left_is_a_return_under_new_epochs() -> None:
    left = _apply(_onboarded(), intake.Offboard(principal_id="per_1"))
    assert _epochs(left) == (2, 2)
    back = _apply(left, intake.Move(principal_id="per_1", employment_id="emp_1", values={"ends_on": None}))
    assert (back.standing, _epochs(back)) == (Standing.ACTIVE, (2, 2))


def test_move_of_somebody_who_left_without_a_new_end_date_leaves_them_out() -> None:
    left = _apply(_onboarded(), intake.Offboard(principal_id="per_1"))
    for values in ({"title": "x"}, {"organization_id": "ber"}, {"ends_on": left.posts[0].ends_on}):
        moved = _apply(left, intake.Move(principal_id="per_1", employment_id="emp_1", values=values))
        assert moved.standing == Standing.LEFT


def test_starter_who_never_starts_loses_the_invitation_sent_before() -> None:
    state = _onboarded(starts_on=date(2026, 5, 1))
    gone = _apply(state, intake.Offboard(principal_id="per_1"))
    assert (gone.standing, _epochs(gone)) == (Standing.LEFT, (2, 2))


def test_start_put_off_of_somebody_at_work_is_a_leave_until_then() -> None:
    later = date(2026, 5, 1)
    away = _apply(_onboarded(), intake.Move(principal_id="per_1", employment_id="emp_1", values={"starts_on": later}))
    assert (away.standing, _epochs(away)) == (Standing.STAGED, (2, 2))


def test_second_post_keeps_somebody_in_and_a_gap_between_two_is_a_leave() -> None:
    state = _onboarded(ends_on=date(2026, 3, 31))
    both = rules.add_employment(
        state, rules.make_post("emp_2", _facts("2", starts_on=date(2026, 4, 1)), PLACES), now=START
    )
    assert (both.standing, both.ends_at) == (Standing.ACTIVE, None)
    gap = rules.add_employment(
        state, rules.make_post("emp_2", _facts("2", starts_on=date(2026, 4, 2)), PLACES), now=START
    )
    assert gap.ends_at == datetime(2026, 3, 31, 16, tzinfo=UTC)
    between = settle(gap, now=datetime(2026, 3, 31, 16, tzinfo=UTC))
    assert (between.standing, _epochs(between)) == (Standing.STAGED, (2, 2))


def test_suspended_post_gives_nothing_and_reactivation_of_a_future_one_does_not_start_it() -> None:
    state = _onboarded(starts_on=date(2026, 5, 1))
    held = _apply(state, intake.Suspend(principal_id="per_1"))
    assert held.standing == Standing.SUSPENDED
    free = _apply(held, intake.Reactivate(principal_id="per_1"))
    assert free.standing == Standing.STAGED


@pytest.mark.parametrize("name", ["organization_id", "type", "starts_on"])
def test_move_to_nothing_is_refused(name: str) -> None:
    with pytest.raises(Invalid) as refusal:
        _apply(_onboarded(), intake.Move(principal_id="per_1", employment_id="emp_1", values={name: None}))
    assert (refusal.value.field, refusal.value.rule) == (name, "required")


@pytest.mark.parametrize("name", ["state", "id", "ends_at", "standing", "starts_at"])
def test_move_reaches_no_fact_that_is_derived(name: str) -> None:
    with pytest.raises(Invalid) as refusal:
        _apply(_onboarded(), intake.Move(principal_id="per_1", employment_id="emp_1", values={name: "active"}))
    assert refusal.value.rule == "move.field"


def test_employment_of_somebody_else_is_unknown() -> None:
    with pytest.raises(NotFound):
        _apply(_onboarded(), intake.EndEmployment(principal_id="per_1", employment_id="emp_9"))


def test_number_of_employments_has_a_limit() -> None:
    state = _onboarded()
    for index in range(rules.MAX_EMPLOYMENTS - 1):
        state = rules.add_employment(state, rules.make_post(f"e{index}", _facts(f"n{index}"), PLACES), now=START)
    with pytest.raises(Conflict) as refusal:
        rules.add_employment(state, rules.make_post("one more", _facts("more"), PLACES), now=START)
    assert refusal.value.rule == "employment.count"


# ---------------------------------------------------------------------- calendars


@given(st.dates(date(2000, 1, 1), date(2060, 1, 1)), st.sampled_from(sorted(ZONES)))
def test_last_working_day_survives_the_way_through_its_instant(day: date, place: str) -> None:
    """Also where a midnight does not exist (Cairo), comes twice (Havana), or a whole day is left out (Apia)."""
    ends_at = PLACES.end_of(place, day)
    begins_at = PLACES.midnight(place, day)
    assert begins_at <= ends_at <= begins_at + timedelta(hours=26)
    if begins_at < ends_at:
        assert PLACES.last_day(place, ends_at) == day


@pytest.mark.parametrize(
    ("place", "day", "hours"),
    [
        ("ber", date(2026, 3, 29), 23),
        ("ber", date(2026, 10, 25), 25),
        ("cairo", date(2026, 4, 24), 23),
        ("havana", date(2026, 11, 1), 25),
        ("sha", date(2026, 3, 29), 24),
    ],
)
def test_day_has_the_hours_that_its_place_gives_it(place: str, day: date, hours: int) -> None:
    assert PLACES.end_of(place, day) - PLACES.midnight(place, day) == timedelta(hours=hours)


def test_main_post_is_live_before_ended_and_active_before_held() -> None:
    post = rules.make_post("a", _facts(), PLACES)
    order = [EmploymentState.ACTIVE, EmploymentState.SUSPENDED, EmploymentState.STAGED, EmploymentState.ENDED]
    posts: tuple[Post, ...] = tuple(replace(post, id=state, state=state) for state in reversed(order))
    while posts:
        first = rules.main_post(posts)
        assert first.state == order.pop(0)
        posts = tuple(p for p in posts if p is not first)
