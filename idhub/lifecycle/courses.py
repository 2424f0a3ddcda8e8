"""Courses of new posts: what the rules make of their dates, worked out once for all that stand alike.

The rules do nothing with an instant but compare it with another and hand it on. So of posts of one kind and state that
have begun by now, or have not, and are over, or are not, one is decided by the rules (`_by_rules`); what comes out for
the others is the same with their dates in its places. A test compares the two for dates of every sort.
"""

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

from idhub.db import to_micros
from idhub.directory.kinds import EmploymentState, EmploymentType
from idhub.lifecycle import intake, periods, records, rules
from idhub.lifecycle.events import post_details
from idhub.lifecycle.rules import Places

_POST_SETTLED = records.POST_COLUMNS.index("state")
_PRINCIPAL_SETTLED = records.PRINCIPAL_COLUMNS.index("standing")
_AN_AGE = timedelta(days=1_000)


class Course(NamedTuple):
    """What the rules make of a post's dates at one place: the same for all who share them."""

    type: str
    principal: tuple[Any, ...]
    """A principal's row from its standing on."""
    post: tuple[Any, ...]
    """A post's row from its state on."""
    period: tuple[Any, ...]
    """A period's row from its beginning up to its facts."""
    facts: Mapping[str, Any]
    """What a period says, of whom left open."""
    told: tuple[str, ...]
    """What an event says of it: standing, start, type, state, first day and, where there is an end, last day."""
    is_open: bool
    """Whether no end is known."""


# Few dates, kinds of post and places make up a company; the last days of those who come for a while are many.
@lru_cache(maxsize=16_384)
def course_of(zone: str, kind: str, starts_on: date, ends_on: date | None, state: str, now: datetime) -> Course:
    """The course of somebody new at a place in this time zone.

    Raises:
        Invalid: it ends before it starts.
    """
    starts = _start(zone, starts_on)
    ends = None if ends_on is None else _end(zone, ends_on)
    if ends is not None and ends.at <= starts.at:
        # Also where a place has skipped a day.
        return _by_rules(zone, kind, starts_on, ends_on, state, now)
    form = _form(kind, state, now >= starts.at, None if ends is None else now >= ends.at, now)
    return form.course(starts, ends)


class _Dated(NamedTuple):
    """A first or last day, and the instant that the rules make of it."""

    day: str
    at: datetime
    micros: int
    instant: str


@lru_cache(maxsize=64)
def _places(zone: str) -> Places:
    return Places({"": zone})


@lru_cache(maxsize=16_384)
def _start(zone: str, day: date) -> _Dated:
    at = _places(zone).midnight("", day)
    return _Dated(day.isoformat(), at, to_micros(at), at.isoformat())


@lru_cache(maxsize=16_384)
def _end(zone: str, day: date) -> _Dated:
    at = _places(zone).end_of("", day)
    return _Dated(day.isoformat(), at, to_micros(at), at.isoformat())


def _by_rules(zone: str, kind: str, starts_on: date, ends_on: date | None, state: str, now: datetime) -> Course:
    facts = intake.EmploymentFacts(
        organization_id="",
        employee_number="",
        type=EmploymentType(kind),
        starts_on=starts_on,
        ends_on=ends_on,
        state=EmploymentState(state),
    )
    after = rules.join("", {}, rules.make_post("", facts, _places(zone), now=now), now=now)
    post, at = after.posts[0], to_micros(now)
    # Somebody new has one period: it is open, or they had left before.
    (period,) = periods.after_change((), post, now=now)
    details = post_details(post)
    ends_on = details["ends_on"]
    return Course(
        kind,
        records.principal_row(after, at)[_PRINCIPAL_SETTLED:],
        records.post_row("", post, at)[_POST_SETTLED:],
        records.period_span(period, at),
        period.facts,
        (
            *(after.standing._value_, after.starts_at.isoformat(), details["type"], details["state"]),
            *(details["starts_on"], *([] if ends_on is None else [ends_on])),
        ),
        ends_on is None,
    )


@lru_cache(maxsize=256)
def _form(kind: str, state: str, has_begun: bool, is_over: bool | None, now: datetime) -> "_Form":
    return _Form(kind, state, has_begun, is_over, now)


class _Form:
    """A course that the rules made, taken apart where its dates stand."""

    def __init__(self, kind: str, state: str, has_begun: bool, is_over: bool | None, now: datetime) -> None:
        # Far from now and from each other, so that nothing else in a course looks like one of these dates.
        today = now.date()
        starts_on = today - 2 * _AN_AGE if has_begun else today + _AN_AGE
        ends_on = None if is_over is None else today - _AN_AGE if is_over else today + 2 * _AN_AGE
        example = _by_rules("UTC", kind, starts_on, ends_on, state, now)
        dates = _values(_start("UTC", starts_on), None if ends_on is None else _end("UTC", ends_on))
        places = {value: place for place, value in enumerate(dates)}
        lists = example.principal, example.post, example.period, example.told, tuple(example.facts.values())
        every = [value for values in lists for value in values]
        self._constants = tuple(value for value in every if value not in places)
        constants = iter(range(len(dates), len(dates) + len(self._constants)))
        self._pick = itemgetter(*[places[value] if value in places else next(constants) for value in every])
        self._principal, self._post, self._period, self._told = (
            slice(start := sum(map(len, lists[:number])), start + len(lists[number])) for number in range(4)
        )
        self._facts = tuple(example.facts)
        self._type, self._is_open = example.type, example.is_open

    def course(self, starts: _Dated, ends: _Dated | None) -> Course:
        """The course with these dates."""
        values = self._pick((*_values(starts, ends), *self._constants))
        return Course(
            self._type,
            values[self._principal],
            values[self._post],
            values[self._period],
            dict(zip(self._facts, values[self._told.stop :], strict=True)),
            values[self._told],
            self._is_open,
        )


def _values(starts: _Dated, ends: _Dated | None) -> tuple[Any, ...]:
    first = starts.day, starts.micros, starts.instant
    return first if ends is None else (*first, ends.day, ends.micros, ends.instant)
