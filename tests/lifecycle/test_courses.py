"""Courses of new posts: with other dates in its places, a course is what the rules make of those dates."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from idhub.directory.kinds import EmploymentState, EmploymentType
from idhub.errors import Invalid
from idhub.lifecycle.courses import _by_rules, course_of

NOW = datetime(2026, 11, 30, 2, 15, tzinfo=UTC)
SHANGHAI = "Asia/Shanghai"
DAYS = st.dates(date(1900, 1, 1), date(2199, 12, 31)) | st.dates(date(2026, 11, 27), date(2026, 12, 3))


@settings(max_examples=400, deadline=None)
@given(
    zone=st.sampled_from([SHANGHAI, "UTC", "America/Sao_Paulo", "Pacific/Kiritimati", "Pacific/Pago_Pago"]),
    kind=st.sampled_from(EmploymentType),
    starts_on=DAYS,
    ends_on=st.none() | DAYS,
    state=st.sampled_from([EmploymentState.ACTIVE, EmploymentState.SUSPENDED, EmploymentState.ENDED]),
    now=st.sampled_from([NOW, datetime(2026, 11, 29, 16, tzinfo=UTC), datetime(2026, 11, 30, tzinfo=UTC)]),
)
@example(SHANGHAI, EmploymentType.REGULAR, date(1970, 1, 1), None, EmploymentState.ACTIVE, NOW)
@example(
    "UTC", EmploymentType.INTERN, date(2026, 11, 30), None, EmploymentState.ACTIVE, datetime(2026, 11, 30, tzinfo=UTC)
)
@example(
    "UTC",
    EmploymentType.INTERN,
    date(2026, 1, 1),
    date(2026, 11, 29),
    EmploymentState.ACTIVE,
    datetime(2026, 11, 30, tzinfo=UTC),
)
def test_course_is_what_the_rules_make_of_the_dates(
    zone: str, kind: EmploymentType, starts_on: date, ends_on: date | None, state: EmploymentState, now: datetime
) -> None:
    # One who had left and whose end nobody knows is given one by whoever reads (`hr_ahead.end_of_new`).
    assume(ends_on is None or ends_on >= starts_on)
    assume(ends_on is not None or state != EmploymentState.ENDED)
    course = course_of(zone, kind.value, starts_on, ends_on, state.value, now)
    decided = _by_rules(zone, kind.value, starts_on, ends_on, state.value, now)
    assert course == decided
    assert list(course.facts) == list(decided.facts)
    assert repr(course) == repr(decided)


def test_end_before_the_start_is_refused_by_the_rules() -> None:
    with pytest.raises(Invalid) as refused:
        course_of(SHANGHAI, "regular", date(2026, 3, 2), date(2026, 3, 1), "active", NOW)
    assert refused.value.rule == "end_before_start"


def test_day_that_a_place_skipped_is_left_to_the_rules() -> None:
    skipped = date(2011, 12, 30)
    course = course_of("Pacific/Apia", "regular", skipped, skipped + timedelta(days=1), "active", NOW)
    assert course == _by_rules("Pacific/Apia", "regular", skipped, skipped + timedelta(days=1), "active", NOW)
