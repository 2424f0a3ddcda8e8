"""Times as people type them, and the numbers of drawings."""

from datetime import UTC, datetime, timedelta

import pytest

from idhub.errors import Invalid
from idhub.web.drawing import exposure_length, exposure_tone, histogram, mark_of
from idhub.web.instants import parse_instant

# Monday, 10:00 in Shanghai.
NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "shanghai"),
    [
        ("2026-11-30 18:00", "2026-11-30 18:00"),
        ("2026-11-30T18:00", "2026-11-30 18:00"),
        ("2026-11-30", "2026-12-01 00:00"),
        ("11-30", "2026-12-01 00:00"),
        ("01-15", "2027-01-16 00:00"),
        ("今天", "2026-11-24 00:00"),
        ("today 18:30", "2026-11-23 18:30"),
        ("明天", "2026-11-25 00:00"),
        ("下周一", "2026-12-01 00:00"),
        ("周五 17:00", "2026-11-27 17:00"),
        ("next monday", "2026-12-01 00:00"),
        ("friday", "2026-11-28 00:00"),
        ("2026-11-30T10:00:00+00:00", "2026-11-30 18:00"),
        ("2026-11-30T10:00:00Z", "2026-11-30 18:00"),
    ],
)
def test_a_time_is_read_at_the_place(text: str, shanghai: str) -> None:
    """A day alone is the last working day: access ends at 00:00 of the next (design section 2, invariant 10)."""
    found = parse_instant(text, "Asia/Shanghai", now=NOW)

    assert found is not None
    assert (found + timedelta(hours=8)).strftime("%Y-%m-%d %H:%M") == shanghai


def test_nothing_means_now() -> None:
    assert parse_instant("  ", "Asia/Shanghai", now=NOW) is None


@pytest.mark.parametrize(
    "text",
    [
        *("never", "2026-13-01", "2026-02-30", "25:00", "2026-11-30 25:00", "99-99", "0000-00-00", "9" * 60, "下周八"),
        # Years that no post has; some of them have no instant in UTC.
        *("0001-01-01 00:00", "0001-01-01T00:00+08:00", "9999-12-31T23:59-12:00", "9999-12-31", "0202-11-30 18:00"),
        *("2200-01-01", "1899-12-31T23:59+00:00"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_instant(text, "Asia/Shanghai", now=NOW)

    assert refused.value.rule == "instant.form"
    assert refused.value.field == "effective_at"


def test_exposure_bars_are_logarithmic_and_bounded() -> None:
    lengths = [exposure_length(timedelta(seconds=s)) for s in (0, 30, 120, 960, 2760, 28_800, 10**6)]

    assert lengths == sorted(lengths)
    assert lengths[0] == lengths[1] == 0.08
    assert lengths[-1] == lengths[-2] == 1.0


@pytest.mark.parametrize(("minutes", "tone"), [(1, "c1"), (30, "c1"), (31, "c3"), (239, "c3"), (240, "cb")])
def test_exposure_bars_take_their_tone_from_the_window(minutes: int, tone: str) -> None:
    assert exposure_tone(timedelta(minutes=minutes)) == tone


def test_histogram_axis_begins_at_zero_and_holds_the_highest() -> None:
    counts = [(NOW, 0, 0), (NOW, 7, 2), (NOW, 380, 0)]

    drawn = histogram(counts)

    assert drawn.top == 400
    assert [column.height for column in drawn.columns] == [0, round(56 * 7 / 400, 2), round(56 * 380 / 400, 2)]
    assert drawn.columns[1].bad_height == round(56 * 2 / 400, 2)
    assert histogram([]).columns == []


@pytest.mark.parametrize(
    ("name", "letters"), [("PLM 产品数据", "PLM"), ("费控报销", "费"), ("Jira 项目", "J"), ("", "?"), ("ABCDE x", "A")]
)
def test_marks_are_short(name: str, letters: str) -> None:
    assert mark_of(name, "slug")[0] == letters
    assert mark_of(name, "slug")[1] == mark_of("other", "slug")[1]
