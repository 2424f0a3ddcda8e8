"""Days and instants as people write them."""

from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idhub.directory.calendar import parse_day, parse_instant
from idhub.errors import Invalid


def test_iso_forms_are_read() -> None:
    assert parse_day("2026-11-30", field="start_date") == date(2026, 11, 30)
    assert parse_instant("2026-11-30T18:00+08:00", field="at") == datetime(2026, 11, 30, 10, tzinfo=UTC)
    assert parse_instant("2026-11-30T10:00:00Z", field="at") == datetime(2026, 11, 30, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("2026-02-30", "date.form"),
        ("20261130", "date.form"),
        ("2026-W48-1", "date.form"),
        ("30.11.2026", "date.form"),
        ("２０２６-11-30", "date.form"),
        ("", "date.form"),
        ("0202-01-01", "date.range"),
        ("9999-12-31", "date.range"),
    ],
)
def test_a_day_that_is_none_is_refused(text: str, rule: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_day(text, field="start_date")
    assert (refused.value.field, refused.value.rule) == ("start_date", rule)
    assert refused.value.description.startswith("start_date must ")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("tomorrow", "time.form"),
        ("2026-11-30T25:00Z", "time.form"),
        ("2026-11-30T18:00", "time.zone"),
        ("2026-11-30", "time.zone"),
        ("0001-01-01T00:00+08:00", "time.range"),
        ("9999-12-31T23:59-12:00", "time.range"),
    ],
)
def test_a_time_without_zone_or_out_of_reach_is_refused(text: str, rule: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_instant(text, field="at")
    assert (refused.value.field, refused.value.rule) == ("at", rule)


@given(st.text(max_size=40) | st.datetimes().map(str) | st.dates().map(str))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_day, parse_instant):
        try:
            parse(text, field="it")
        except Invalid as refused:
            assert refused.field == "it"
