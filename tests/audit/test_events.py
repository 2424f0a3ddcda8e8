"""Canonical bytes: one form for each event, one line for each form, nothing personal in it."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import events
from audit.errors import InvalidEvent
from audit.events import (
    BODY_LIMIT,
    Actor,
    Event,
    EventClass,
    EventType,
    canonical_bytes,
    clean_text,
    new_event_ids,
    to_micros,
)
from tests.audit.support import event

LINE_BREAKERS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c\ufeff]")
any_text = st.text(st.characters(codec=None), max_size=60)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def body_of(made: Any) -> bytes:
    return canonical_bytes(made, event_id="evt_1")


@given(st.dictionaries(st.text(max_size=10), values, max_size=4))
def test_canonical_bytes_are_rfc_8785(details: dict[str, Any]) -> None:
    """Written again by another encoder with sorted keys and no blanks, the bytes are the same. RFC 8785."""
    try:
        body = body_of(event(details=details))
    except InvalidEvent as error:
        assert "become one" in str(error)  # two keys that differ only in form
        return
    again = json.dumps(json.loads(body), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert again.encode() == body


@given(st.dictionaries(st.text(max_size=10), values, max_size=4), any_text, any_text)
def test_an_event_is_one_line_whatever_is_in_it(details: dict[str, Any], agent: str, target: str) -> None:
    """G01: line breaks, escapes, U+2028 and bidirectional controls are spelled out."""
    made = event(details={"user_agent": agent}, target_id=target, actor=Actor("client", agent, target, agent, agent))
    text = body_of(made).decode()
    assert not LINE_BREAKERS.search(text)
    assert len(text.splitlines()) == 1
    assert unicodedata.is_normalized("NFC", text)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("a\r\nb", r"a\u{000d}\u{000a}b"),
        ("\x1b[31mred", r"\u{001b}[31mred"),
        ("user\u202egpj.exe", r"user\u{202e}gpj.exe"),
        ("a\u2028b", r"a\u{2028}b"),
        ("\ud800", r"\u{d800}"),
        ("\u200b\ufeff", r"\u{200b}\u{feff}"),
        ("e\u0301", "é"),
        ("张三 \U0001f600", "张三 \U0001f600"),
    ],
)
def test_unsafe_characters_are_spelled_out(raw: str, shown: str) -> None:
    assert clean_text(raw) == shown


def test_a_long_text_is_cut_visibly() -> None:
    cut = clean_text("x" * 3_000)
    assert cut.startswith("x" * 2_048 + "…[952 characters cut, sha256 ")
    assert clean_text("y" + "x" * 2_999)[-20:] != cut[-20:]


def test_details_that_are_too_large_are_replaced_by_their_hash() -> None:
    body = body_of(event(details={f"field_{number}": "x" * 1_000 for number in range(100)}))
    assert len(body) < BODY_LIMIT
    assert json.loads(body)["details"]["cut"] is True
    assert re.fullmatch("[0-9a-f]{64}", json.loads(body)["details"]["sha256"])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.5, "a float in an event has no canonical form"),
        (float("nan"), "a float in an event has no canonical form"),
        (Decimal(1), "a Decimal in an event has no canonical form"),
        (b"bytes", "a bytes in an event has no canonical form"),
        ({1, 2}, "a set in an event has no canonical form"),
        (datetime(2026, 1, 1, tzinfo=UTC), "a datetime in an event has no canonical form"),
        (2**53, "an integer in an event is too large to be exact everywhere; use text"),
        (-(2**53), "an integer in an event is too large to be exact everywhere; use text"),
        ({1: "x"}, "a key in an event's details is not text"),
        ({"é": 1, "e\u0301": 2}, "two keys in an event's details become one"),
        ([[[[[[[[[1]]]]]]]]], "an event's details are nested too deeply"),
    ],
)
def test_what_has_no_canonical_form_is_refused(value: Any, message: str) -> None:
    with pytest.raises(InvalidEvent) as refused:
        body_of(event(details={"value": value}))
    assert str(refused.value) == message


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(InvalidEvent, match="time zone"):
        to_micros(datetime(2026, 1, 1))  # noqa: DTZ001 - the case


def test_the_name_of_a_person_who_acts_is_not_recorded() -> None:
    assert b"Zhang" not in body_of(event(actor=Actor("person", "per_9", "Zhang San")))
    assert b"Zhang" not in body_of(event(actor=Actor("anonymous", "-", "Zhang San")))
    assert b"HR feed" in body_of(event(actor=Actor("service", "svc_1", "HR feed")))


def test_event_ids_are_unique_and_in_order() -> None:
    ids = new_event_ids(3_000) + new_event_ids(10)
    assert len(set(ids)) == len(ids)
    assert ids[:3_000] == sorted(ids[:3_000])
    assert all(re.fullmatch("evt_[0-9a-v]{26}", one) for one in ids)


def test_every_type_has_class_and_sentence_and_a_value_of_its_own() -> None:
    for one in EventType:
        assert one.event_class in EventClass
        assert one.description.endswith(".")
        assert re.fullmatch(r"[a-z_]+\.[a-z_]+", one.value)
    assert EventType("person.offboarded") is EventType.PERSON_OFFBOARDED
    with pytest.raises(ValueError, match="not a valid"):
        EventType("person.exploded")


def test_the_contracts_names_are_all_there() -> None:
    named = """person.onboarded person.moved person.updated person.suspended person.reactivated person.offboarded
    person.offboarding_scheduled person.offboarding_cancelled person.rehired person.invited employment.started
    employment.changed employment.ended import.finished import.row_refused import.quarantined import.released
    organization.created organization.changed department.created entitlement.entitled entitlement.withdrawn
    account.linked account.provisioned account.updated account.deactivated account.reactivated application.created
    application.changed rule.changed delivery.planned delivery.sent delivery.done delivery.retried delivery.dead
    delivery.requeued receipt.issued case.completed login.succeeded login.failed login.throttled
    session.ended password.set password.changed invitation.issued invitation.used
    consent.given consent.denied authorization.refused code.issued code.replayed token.issued
    token.refreshed token.replayed token.revoked token.introspected token.refused userinfo.read logout.requested
    role.assigned role.removed api_token.created api_token.revoked authorization.denied request.refused key.created
    key.rotated key.revoked settings.applied hub.started hub.recovery page.viewed export.made audit.exported
    checkpoint.signed hub.witness_begun"""
    assert set(named.split()) <= {one.value for one in EventType}


@given(
    st.dictionaries(
        st.sampled_from(["a", "ip", "reason", "é", "x" * 257]),
        values | st.floats() | st.just(EventType.PERSON_MOVED) | st.just(2**53) | st.just({"b": [1, "c" * 300]}),
        max_size=4,
    ),
    any_text | st.text('ab\x7f"\\', max_size=4) | st.just("a" * 257),
)
def test_what_is_encoded_at_once_is_what_care_makes_of_it(details: dict[str, Any], text: str) -> None:
    """The quick way may be left to the careful one at any time, but never says something else."""
    made = event(details=details, target_id=text, request_id=text, actor=Actor("service", text, text, text, text))

    def outcome(make: Callable[[], bytes]) -> bytes | str:
        try:
            return make()
        except InvalidEvent as error:
            return str(error)

    careful = outcome(lambda: events._encoded_with_care(clean := events._normalized(made), body(clean)))
    for _ in range(2):  # the second time the names are known
        assert outcome(lambda: body_of(made)) == careful


@pytest.mark.parametrize(
    "field",
    ["door", "target_kind", "target_id", "reason", "person_id", "organization_id", "application_id", "case_id",
     "delivery_id", "request_id", "actor.id", "actor.name", "actor.session_id", "actor.ip"],
)  # fmt: skip
@pytest.mark.parametrize("details", [{}, {"row": 1, "note": "x" * 300}])
def test_an_identifier_is_cut_whichever_it_is(field: str, details: dict[str, Any]) -> None:
    """Columns and body say the same, also where everything else could be encoded at once."""
    _, _, of_actor = field.partition("actor.")
    for length in (256, 257):
        long = "i" * length
        texts: dict[str, Any] = {of_actor or field: long}
        changes = {"actor": Actor("service", "svc_1")._replace(**texts)} if of_actor else texts
        made = event(details=details, **changes)
        body_of(made)  # the names of the details are known
        stored, body = events.encoded(made, event_id="evt_1", commitments=None, micros=to_micros(made.at))
        shown = getattr(stored.actor, of_actor) if of_actor else getattr(stored, field)
        assert (shown == long) == (length == 256)
        assert f'"{shown}"'.encode() in body


def body(clean: Event) -> dict[str, object]:
    return events._body(clean, "evt_1", None, to_micros(clean.at))


def test_most_events_are_encoded_at_once() -> None:
    made = event(3)
    body_of(made)
    assert events._encoded_at_once(made, body(made)) == body_of(made)
