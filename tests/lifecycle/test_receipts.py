"""Receipts as they are stored: never ahead of the evidence, versions in a row, contradictions said."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update

from idhub.access.tables import Application
from idhub.delivery.tables import Delivery
from idhub.directory.kinds import EmploymentType
from idhub.errors import NotFound
from idhub.keys import Keyring, load_keyring, rotate
from idhub.lifecycle import cases, intake
from idhub.lifecycle.due import apply_due
from idhub.lifecycle.receipt_document import Unreadable, Verdict, verify
from idhub.lifecycle.receipts import ReceiptView, current, export, find_case, sign_due
from idhub.lifecycle.tables import Receipt
from tests.lifecycle.world import World

ISSUER = "https://hub.example"


def _leave(world: World, *, office: int = 0, wiki: int = 0, **values: Any) -> str:
    person = world.hire(**values)
    for client, count in (("office", office), ("wiki", wiki)):
        for _ in range(count):
            world.sign_in(person, client)
    return world.change(intake.Offboard(principal_id=person)).cases[person]


def _sign(world: World, keyring: Keyring | None = None, *, log_size: int | None = None) -> int:
    return sign_due(world.database, keyring or world.keyring, issuer=ISSUER, now=world.clock(), log_size=log_size)


def _view(world: World, case: str) -> ReceiptView:
    with world.database.read() as session:
        return current(session, case, now=world.clock())


def _verdict(world: World, case: str) -> Verdict:
    return verify(export(_view(world, case)), world.keyring.jwks("receipt"))


def _versions(world: World, case: str) -> list[Any]:
    with world.database.read() as session:
        return list(session.execute(select(Receipt.__table__).where(Receipt.case_id == case).order_by(Receipt.version)))


def _scim(world: World, case: str) -> str:
    (delivery,) = world.deliveries(case_id=case, channel="scim")
    return str(delivery.id)


def test_first_version_is_open_and_names_what_is_pending(world: World) -> None:
    case = _leave(world, office=1)
    assert _sign(world, log_size=42) == 1
    verdict = _verdict(world, case)
    assert verdict.is_valid
    claims = verdict.claims
    assert (claims["version"], claims["complete"], claims["iss"], claims["log"]) == (1, False, ISSUER, {"size": 42})
    assert claims["ended"] == {"sessions": 1, "grants": 1, "entitlements": 2}
    states = {(row["channel"], row["state"], row["grade"]) for row in claims["rows"]}
    assert states == {("scim", "pending", 0), ("backchannel_logout", "pending", 0), ("none", "done", 0)}
    assert _sign(world) == 0


def test_done_below_the_required_grade_is_pending(world: World) -> None:
    """A system that says 200 and leaves the account active: accepted is not inactive."""
    case = _leave(world)
    world.settle(_scim(world, case), grade=1)
    _sign(world)
    (row,) = [row for row in _view(world, case).rows if row.channel == "scim"]
    assert (row.state, row.grade, row.is_done) == ("pending", 1, False)
    assert _verdict(world, case).claims["complete"] is False


def test_a_receipt_is_as_of_its_newest_evidence(world: World) -> None:
    """The signer may have read the time before the answer that it states was recorded."""
    case = _leave(world)
    before = world.clock()
    world.clock.advance(seconds=1)
    world.settle(_scim(world, case), grade=2)
    sign_due(world.database, world.keyring, issuer=ISSUER, now=before)
    claims = _verdict(world, case).claims
    (finished_at,) = [row["finished_at"] for row in claims["rows"] if row["channel"] == "scim"]
    assert claims["as_of"] == finished_at
    assert _versions(world, case)[-1].signed_at.isoformat() == finished_at


def test_grade_is_never_above_the_ceiling_of_the_channel(world: World) -> None:
    case = _leave(world, office=1)
    for delivery in world.deliveries(case_id=case):
        world.settle(delivery.id, grade=3)
    _sign(world)
    grades = {row["channel"]: row["grade"] for row in _verdict(world, case).claims["rows"]}
    assert grades == {"scim": 2, "backchannel_logout": 1, "none": 0}


def test_dead_row_keeps_the_case_open_and_says_why(world: World) -> None:
    case = _leave(world)
    world.settle(_scim(world, case), state="dead", grade=1)
    _sign(world)
    view = _view(world, case)
    assert (view.state, view.is_complete, view.completed_at) == ("running", False, None)
    assert {row.state for row in view.rows if row.channel == "scim"} == {"dead"}


def test_case_is_complete_with_its_last_row_and_says_so_once(world: World) -> None:
    case = _leave(world, office=1)
    ids = [d.id for d in world.deliveries(case_id=case)]
    for index, delivery_id in enumerate(ids):
        assert not _view(world, case).is_complete
        world.clock.advance(seconds=1)
        world.settle(delivery_id, grade=2)
        _sign(world)
        assert _verdict(world, case).claims["complete"] is (index == len(ids) - 1)
    view = _view(world, case)
    assert (view.state, view.completed_at) == ("complete", world.clock())
    assert len(world.events("case.completed")) == 1
    assert [v.version for v in _versions(world, case)] == [1, 2]


def test_contradiction_opens_the_case_again_and_the_older_versions_stay_verifiable(world: World) -> None:
    case = _leave(world)
    delivery = _scim(world, case)
    world.settle(delivery, grade=2)
    _sign(world)
    assert _view(world, case).state == "complete"
    world.clock.advance(hours=1)
    world.settle(delivery, state="pending", grade=0)
    assert not _view(world, case).is_complete
    _sign(world)
    view = _view(world, case)
    assert (view.state, view.completed_at, view.version) == ("running", None, 2)
    world.clock.advance(hours=1)
    world.settle(delivery, grade=2)
    _sign(world)
    versions = _versions(world, case)
    assert [v.version for v in versions] == [1, 2, 3]
    keys = world.keyring.jwks("receipt")
    said = [verify(export(replace(view, jws=v.jws, disclosures=v.disclosures)), keys) for v in versions]
    assert [v.is_valid for v in said] == [True, True, True]
    assert [v.claims["complete"] for v in said] == [True, False, True]
    assert [v.claims["as_of"] for v in said] == sorted(v.claims["as_of"] for v in said)
    assert {v.claims["case"] for v in said} == {case}


def test_delivery_that_vanished_is_pending_and_not_done(world: World) -> None:
    case = _leave(world)
    delivery = _scim(world, case)
    world.settle(delivery, grade=2)
    with world.database.transaction() as session:
        session.execute(update(Delivery).where(Delivery.id == delivery).values(id="dlv_gone"))
    assert not _view(world, case).is_complete


@pytest.mark.parametrize("state", ["leased", "superseded", "pending", "strange"])
def test_state_that_is_not_done_is_pending_whatever_its_grade(world: World, state: str) -> None:
    case = _leave(world)
    world.settle(_scim(world, case), state=state, grade=2)
    assert {row.state for row in _view(world, case).rows if row.channel == "scim"} == {"pending"}


def test_application_without_a_known_account_has_a_row_that_says_so(world: World) -> None:
    case = _leave(world, type=EmploymentType.CONTRACTOR)
    _sign(world)
    (row,) = _verdict(world, case).claims["rows"]
    assert (row["application"], row["note"], row["grade"], row["state"]) == ("wiki", "no_account", 0, "done")


def test_application_that_cannot_be_told_holds_the_receipt_open_until_its_tokens_are_over(world: World) -> None:
    case = _leave(world, wiki=1, type=EmploymentType.CONTRACTOR)
    until = world.clock() + timedelta(seconds=300)
    _sign(world)
    (row,) = _verdict(world, case).claims["rows"]
    assert (row["note"], row["state"], row["residual_until"]) == ("not_told", "pending", until.isoformat())
    for at, complete in ((until - timedelta(seconds=1), False), (until, True), (until + timedelta(hours=1), True)):
        world.at(at)
        apply_due(world.database, now=at)
        _sign(world)
        assert _verdict(world, case).claims["complete"] is complete
    assert [v.version for v in _versions(world, case)] == [1, 2]


def test_told_application_states_how_long_its_tokens_still_live(world: World) -> None:
    case = _leave(world, office=1)
    _sign(world)
    (row,) = [r for r in _verdict(world, case).claims["rows"] if r["channel"] == "backchannel_logout"]
    assert row["residual_until"] == (world.clock() + timedelta(seconds=300)).isoformat()


def test_personal_data_is_nowhere_in_what_is_signed_and_erasable_beside_it(world: World) -> None:
    case = _leave(world, name="欧阳若兰", employee_number="QY4711")
    _sign(world)
    view = _view(world, case)
    whole = _verdict(world, case)
    assert whole.disclosed == {"name": "欧阳若兰", "employee_number": "QY4711"}
    signed = orjson.dumps(dict(whole.claims)).decode()
    assert "欧阳" not in signed
    assert "QY4711" not in signed
    for kept in ({}, {"name": view.disclosures["name"]}):
        verdict = verify(export(replace(view, disclosures=kept)), world.keyring.jwks("receipt"))
        assert verdict.is_valid
        assert set(verdict.disclosed) == set(kept)


def test_salts_differ_from_version_to_version(world: World) -> None:
    case = _leave(world)
    _sign(world)
    world.settle(_scim(world, case), grade=2)
    _sign(world)
    one, two = _versions(world, case)
    assert one.disclosures["name"][0] != two.disclosures["name"][0]


def test_older_versions_verify_after_the_receipt_key_was_rotated(world: World) -> None:
    case = _leave(world)
    _sign(world)
    old_keys = world.keyring.jwks("receipt")
    world.clock.advance(days=1)
    with world.database.transaction() as session:
        rotate(session, world.keyring, "receipt", "ES256", now=world.clock())
    ring = load_keyring(world.database, world.keyring.master, now=world.clock())
    world.settle(_scim(world, case), grade=2)
    _sign(world, ring)
    view = _view(world, case)
    older, newer = (replace(view, jws=v.jws, disclosures=v.disclosures) for v in _versions(world, case))
    for one in (older, newer):
        assert verify(export(one), ring.jwks("receipt")).is_valid
    assert verify(export(older), old_keys).is_valid
    assert not verify(export(newer), old_keys).is_valid


def test_receipts_of_another_hub_do_not_verify(world: World) -> None:
    case = _leave(world)
    _sign(world)
    for purpose in ("token", "checkpoint", "event"):
        with pytest.raises(Unreadable):
            verify(export(_view(world, case)), world.keyring.jwks(purpose))


def test_scheduled_case_has_no_receipt_yet(world: World) -> None:
    person = world.hire()
    case = world.change(intake.Offboard(principal_id=person, at=world.clock() + timedelta(days=1))).cases[person]
    assert _sign(world) == 0
    view = _view(world, case)
    assert (view.version, view.is_complete, view.local_done_at) == (0, False, None)
    with pytest.raises(NotFound) as refusal:
        export(view)
    assert refusal.value.rule == "receipt.unsigned"


def test_evidence_required_is_what_was_frozen_though_configuration_asks_less_now(world: World) -> None:
    case = _leave(world)
    with world.database.transaction() as session:
        session.execute(update(Application).values(required_grade=0))
    world.settle(_scim(world, case), grade=1)
    assert not _view(world, case).is_complete


@pytest.mark.parametrize("text", ["", "R-2026-11-9999", "per_unknown", "x" * 10_000, "a\0b", "\ud800", "'; --"])
def test_receipt_that_nobody_has_is_not_found_in_words(world: World, text: str) -> None:
    with world.database.read() as session, pytest.raises(NotFound) as refusal:
        find_case(session, text)
    assert refusal.value.rule == "receipt.unknown"
    assert len(refusal.value.description) < 500


def test_receipt_is_found_by_number_case_and_person(world: World) -> None:
    case = _leave(world)
    view = _view(world, case)
    with world.database.read() as session:
        assert {find_case(session, text) for text in (case, view.number, view.person_id)} == {case}


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["done", "pending", "dead", "leased"]), st.integers(0, 3)),
        max_size=8,
    )
)
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_whatever_channels_report_every_version_says_exactly_what_is_proven(
    world: World, reports: list[tuple[int, str, int]]
) -> None:
    case = _leave(world, office=2)
    ids = [d.id for d in world.deliveries(case_id=case)]
    known: dict[str, tuple[str, int]] = {}
    _sign(world)
    for index, state, grade in reports:
        world.clock.advance(seconds=1)
        world.settle(ids[index], state=state, grade=grade)
        known[ids[index]] = (state, grade)
        _sign(world)
        required = {d.id: d.required_grade for d in world.deliveries(case_id=case)}
        proven = all(known.get(i, ("pending", 0))[0] == "done" and known[i][1] >= required[i] for i in ids)
        verdict = _verdict(world, case)
        assert verdict.is_valid, verdict.problems
        assert verdict.claims["complete"] is proven
        assert _view(world, case).state == ("complete" if proven else "running")
        assert [v.version for v in _versions(world, case)] == list(range(1, verdict.claims["version"] + 1))
        for row in verdict.claims["rows"]:
            assert row["grade"] <= row["ceiling"]
            assert row["required_grade"] <= row["ceiling"]
            assert row["state"] != "done" or row["grade"] >= row["required_grade"]


def test_times_of_a_receipt_are_in_order(world: World) -> None:
    case = _leave(world)
    world.clock.advance(seconds=3)
    world.settle(_scim(world, case), grade=2)
    world.clock.advance(seconds=3)
    _sign(world)
    claims = _verdict(world, case).claims
    row = next(r for r in claims["rows"] if r["channel"] == "scim")
    order = [claims["effective_at"], row["planned_at"], row["sent_at"], row["finished_at"], claims["as_of"]]
    assert [datetime.fromisoformat(t) for t in order] == sorted(datetime.fromisoformat(t) for t in order)


def test_receipt_waits_for_what_is_under_way_and_no_longer_than_its_patience(world: World) -> None:
    """A leave in many applications is one version, not one for each answer."""
    case = _leave(world)
    patience = timedelta(seconds=2)

    def signed() -> int:
        return sign_due(world.database, world.keyring, issuer=ISSUER, now=world.clock(), patience=patience)

    assert signed() == 0
    world.clock.advance(seconds=1)
    assert signed() == 0
    world.clock.advance(seconds=1)
    assert signed() == 1
    assert not _versions(world, case)[-1].is_complete


def test_receipt_with_nothing_under_way_is_signed_at_once(world: World) -> None:
    case = _leave(world)
    world.settle(_scim(world, case), grade=2)
    patience = timedelta(hours=1)
    assert sign_due(world.database, world.keyring, issuer=ISSUER, now=world.clock(), patience=patience) == 1
    (version,) = _versions(world, case)
    assert version.is_complete


def test_further_changes_do_not_make_a_receipt_wait_longer(world: World) -> None:
    case = _leave(world, office=1)
    patience = timedelta(seconds=2)
    for _ in range(2):
        world.clock.advance(seconds=1)
        with world.database.transaction() as session:
            cases.touch(session, [case], now=world.clock())
    assert sign_due(world.database, world.keyring, issuer=ISSUER, now=world.clock(), patience=patience) == 1
