"""Events that are alike: what a mould casts is what recording each by itself makes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import personal
from audit.errors import InvalidEvent
from audit.events import IDENTIFIER_LIMIT, TEXT_LIMIT, Actor, Event, EventType, canonical_bytes
from audit.moulds import Mould, cast_packed, stand_in
from audit.trail import INSERT_COLUMNS, Packed, event_rows, rows_of
from tests.audit.support import NOW, MemorySealer

SEALER = MemorySealer()
COLUMNS = INSERT_COLUMNS["audit_events"]
ACTOR = Actor("service", "svc_1", "100 % of <1>", ip="10.0.0.1")


def joined(person: str, place: str, number: str, *, name: str = "王小明", mail: str = "x@qiyue.example") -> Event:
    return Event(
        type=EventType.PERSON_ONBOARDED,
        at=NOW,
        actor=ACTOR,
        door="hr_file",
        target_kind="person",
        target_id=person,
        person_id=person,
        organization_id=place,
        request_id="req 5%s",
        details={"employments": [{"number": number, "organization": place, "title": None}], "number": number},
        personal={"display_name": name, "email": mail},
    )


MOULD = Mould(joined(stand_in(0), stand_in(1), stand_in(2)), 3)


def bodies(rows: Packed) -> list[dict[str, Any]]:
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows_of(rows.audit_events, len(COLUMNS))]


def as_recorded_alone(event: Event, cast: Packed) -> tuple[bytes, list[dict[str, Any]]]:
    """The bytes and the row of an event that was recorded by itself, with the id and the salts of the one cast."""
    event_id, _, _, sealed = cast.audit_personal
    key_id, _, sealed_key = cast.audit_person_keys
    values = personal.open_values(event_id, sealed, personal.open_key(key_id, sealed_key, SEALER))
    commitments = {field: personal.commitment(salt, field, value) for field, (value, salt) in values.items()}
    alone = [dict(zip(COLUMNS, row, strict=True)) for row in event_rows([event], sealer=SEALER).audit_events]
    return canonical_bytes(event, event_id=event_id, commitments=commitments), alone


texts = st.text(st.characters(codec=None), max_size=12) | st.sampled_from(
    ['"', "\\", "a\x7f", "é", "é", "％", "%s", "x" * (IDENTIFIER_LIMIT + 1), "y" * TEXT_LIMIT, "<0>", ""]
)


@given(texts, texts, texts, texts.filter(bool), texts.filter(bool))
def test_what_is_cast_is_what_is_recorded_alone(person: str, place: str, number: str, name: str, mail: str) -> None:
    event = joined(person, place, number, name=name, mail=mail)
    rows = cast_packed([(MOULD, (person, place, number), event.personal)], sealer=SEALER)
    ((row,), (body, (alone,))) = bodies(rows), as_recorded_alone(event, rows)
    assert row["body"] == body
    own = ("event_id", "body", "leaf_hash")
    assert {name: row[name] for name in COLUMNS if name not in own} == {
        name: alone[name] for name in COLUMNS if name not in own
    }
    assert rows.audit_personal[2] == rows.audit_person_keys[1] == row["person_id"]
    assert rows.audit_personal[0] == row["event_id"]


def test_most_events_are_cast_without_being_encoded() -> None:
    assert Mould.fits(("per_" + "0" * 26, "org_" + "0" * 26, "QY000001"))
    assert Mould.fits(("a" * IDENTIFIER_LIMIT, "b" * IDENTIFIER_LIMIT))
    for odd in ('"', "\\", "é", "\x7f", "\n", "x" * (IDENTIFIER_LIMIT + 1)):
        assert not Mould.fits(("per_1", odd))


def test_an_example_shows_every_text() -> None:
    """Details that were cut would show none."""
    with pytest.raises(InvalidEvent, match="every text that differs"):
        Mould(joined(stand_in(0), stand_in(1), stand_in(2)), 4)
    example = joined(stand_in(0), stand_in(1), stand_in(2))
    with pytest.raises(InvalidEvent, match="every text that differs"):
        Mould(example._replace(details={**example.details, "long": ["y" * TEXT_LIMIT] * 9}), 3)


def test_each_has_values_and_a_key_of_its_own() -> None:
    people = [("per_1", "org_1", "1"), ("per_2", "org_1", "2")]
    rows = cast_packed([(MOULD, texts, {"display_name": "A", "email": "a@b.cn"}) for texts in people], sealer=SEALER)
    assert [row["person_id"] for row in bodies(rows)] == ["per_1", "per_2"]
    assert rows.audit_person_keys[1::3] == ["per_1", "per_2"]
    assert len(set(rows.audit_personal[3::4])) == 2


def test_other_personal_fields_than_the_example_has_are_committed_to_as_well() -> None:
    event = joined("per_1", "org_1", "1")._replace(personal={"mobile": "13800000000"})
    rows = cast_packed([(MOULD, ("per_1", "org_1", "1"), event.personal)], sealer=SEALER)
    body, _ = as_recorded_alone(event, rows)
    assert bodies(rows)[0]["body"] == body


def test_what_is_searched_for_by_its_values_is_not_cast() -> None:
    with pytest.raises(InvalidEvent, match="only changes of people are cast"):
        Mould(joined(stand_in(0), stand_in(1), stand_in(2))._replace(person_id=None), 3)
    with pytest.raises(InvalidEvent, match="only changes of people are cast"):
        Mould(joined(stand_in(0), stand_in(1), stand_in(2))._replace(type=EventType.LOGIN_FAILED), 3)
