"""SCIM events that carry data (RFC 9967 section 2.4): what the receiver's own token would read, and no more."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from idhub.credentials.tables import ApiToken
from idhub.errors import Conflict, NotFound
from idhub.lifecycle import intake
from idhub.provisioning.events.streams import list_streams, pause_stream, resume_stream
from idhub.provisioning.events.tables import EventRow
from idhub.provisioning.inbound.terms import Terms
from scim.patch import apply_patch
from scim.schemas import ENTERPRISE_USER, GROUP, PATCH_OP, USER
from scim.standard import USER_TYPE
from tests.api.test_scim import Scim
from tests.api.test_scim_events import EVENT, Receiver
from tests.api.world import Api


@pytest.fixture
def scim(listening: Api) -> Scim:
    """A sender limited to HQ."""
    return Scim(listening, organization_id=listening.world.hq, name="directory", expires=timedelta(days=30))


@pytest.fixture
def receiver(scim: Scim) -> Receiver:
    """A stream whose events carry data."""
    return Receiver(scim, is_full=True)


def got(receiver: Receiver, person: str) -> dict[str, Any]:
    """The person as the receiver's token reads them."""
    answer: dict[str, Any] = receiver.scim.ok("GET", f"/Users/{person}")
    return answer


def test_new_person_is_told_as_a_get_shows_them(receiver: Receiver) -> None:
    """Section 2.4.1: the final representation, such as would be returned in a response."""
    person = receiver.world.hire("李思雨", title="Engineer")
    ((subject, events),) = receiver.told()

    assert subject == f"/Users/{person}"
    assert list(events) == ["prov:create:full", "prov:activate"]
    shown = got(receiver, person)
    assert events["prov:create:full"] == {"data": shown, "version": shown["meta"]["version"]}
    assert (shown["title"], shown["id"]) == ("Engineer", person)


def test_change_is_a_patch_that_makes_a_copy_equal(receiver: Receiver) -> None:
    """Section 2.4.2: whoever keeps a copy and applies what is told has what a GET shows."""
    world = receiver.world
    person = world.hire("李思雨", title="Engineer")
    ((_, made),) = receiver.told()
    copy = made["prov:create:full"]["data"]
    employment_id = world.employments(person)[0].id
    world.change(intake.Move(principal_id=person, employment_id=employment_id, values={"title": "Lead"}))
    world.change(intake.Move(principal_id=person, employment_id=employment_id, values={"title": ""}))
    world.change(intake.Suspend(principal_id=person, reason="x"))
    told = receiver.told()

    assert [list(events) for _, events in told] == [
        ["prov:patch:full"],
        ["prov:patch:full"],
        ["prov:patch:full", "prov:deactivate"],
    ]
    for _, events in told:
        data = events["prov:patch:full"]["data"]
        assert data["schemas"] == [PATCH_OP]
        copy = apply_patch(copy, data, USER_TYPE)
    shown = got(receiver, person)
    assert {**copy, "meta": shown["meta"]} == shown
    assert ("title" in shown, shown["active"]) == (False, False)


def test_put_by_scim_carries_the_resource(receiver: Receiver) -> None:
    """Section 2.4.3."""
    user = receiver.scim.user("ada@corp.example")
    receiver.take()
    receiver.scim.ok(
        "PUT",
        f"/Users/{user['id']}",
        {"schemas": [USER, ENTERPRISE_USER], "userName": "ada@corp.example", "nickName": "Ada", ENTERPRISE_USER: {}},
    )
    told = receiver.told()

    full = [events["prov:put:full"]["data"] for _, events in told if "prov:put:full" in events]
    assert full == [got(receiver, user["id"])]
    assert full[0]["nickName"] == "Ada"


def test_group_carries_its_members(receiver: Receiver) -> None:
    scim = receiver.scim
    ada = scim.user("ada@corp.example")
    receiver.take()
    group = scim.ok("POST", "/Groups", {"schemas": [GROUP], "displayName": "Ops", "members": []})
    first = receiver.told()
    scim.ok(
        "PATCH",
        f"/Groups/{group['id']}",
        {"schemas": [PATCH_OP], "Operations": [{"op": "add", "path": "members", "value": [{"value": ada["id"]}]}]},
    )
    second = receiver.told()

    assert [list(events) for _, events in first] == [["prov:create:full"]]
    (operation,) = second[0][1]["prov:patch:full"]["data"]["Operations"]
    assert (operation["op"], operation["path"]) == ("replace", "members")
    assert [member["value"] for member in operation["value"]] == [ada["id"]]


# --- never wider than the token ---------------------------------------------------------------------------------------


def narrow(receiver: Receiver, readable: frozenset[str] | None) -> None:
    """Let the receiver's token read only these attributes from now on."""
    with receiver.world.database.transaction() as session:
        session.execute(update(ApiToken).values(terms=Terms(readable=readable).as_json()))


def test_token_that_reads_little_is_told_little(listening: Api) -> None:
    terms = Terms(readable=frozenset({"userName", "active", "title"}))
    scim = Scim(listening, name="narrow", organization_id=listening.world.hq, terms=terms.as_json())
    receiver, world = Receiver(scim, is_full=True), listening.world
    person = world.hire("李思雨", title="Engineer")
    employment_id = world.employments(person)[0].id
    (made,) = receiver.take()
    shown = got(receiver, person)
    world.change(
        intake.Move(principal_id=person, employment_id=employment_id, values={"title": "Lead", "type": "contractor"})
    )
    (moved,) = receiver.take()

    data = made["events"][f"{EVENT}prov:create:full"]["data"]
    assert set(data) == {"schemas", "id", "meta", "userName", "active", "title"}
    assert data == shown
    assert moved["events"][f"{EVENT}prov:patch:full"]["data"]["Operations"] == [
        {"op": "replace", "path": "title", "value": "Lead"}
    ]
    text = repr([made, moved])
    assert "李思雨" not in text and "contractor" not in text


def test_rights_are_those_of_the_moment_of_telling(receiver: Receiver) -> None:
    """What was changed while the token could read more is not told once it cannot; nor taken for removed."""
    world = receiver.world
    person = world.hire("李思雨", title="Engineer")
    receiver.take()
    employment_id = world.employments(person)[0].id
    world.change(intake.Move(principal_id=person, employment_id=employment_id, values={"title": "Lead"}))
    narrow(receiver, frozenset({"userName", "active"}))
    ((_, events),) = receiver.told()

    assert events == {"prov:patch:notice": {"attributes": ["title"]}}


def test_whoever_is_out_of_sight_by_then_is_told_without_data(receiver: Receiver) -> None:
    world = receiver.world
    person = world.hire("李思雨")
    employment_id = world.employments(person)[0].id
    world.change(
        intake.Move(principal_id=person, employment_id=employment_id, values={"organization_id": world.berlin})
    )
    told = receiver.told()

    assert [list(events) for _, events in told] == [["prov:create:notice", "prov:activate"], ["feed:remove"]]
    assert "李思雨" not in repr(receiver.claims)


def test_events_wait_without_anybodys_values(receiver: Receiver) -> None:
    receiver.world.hire("李思雨", title="Engineer")
    with receiver.world.database.read() as session:
        rows = session.query(EventRow).all()

    assert rows
    assert "李思雨" not in repr([row.details for row in rows])


def test_other_data_are_another_token(receiver: Receiver) -> None:
    """RFC 8417 section 2.2: one `jti` names one token; and taking the earlier takes the event away."""
    world = receiver.world
    person = world.hire("李思雨", title="Engineer")
    (first,) = receiver.ask().json()["sets"].items()
    (same,) = receiver.ask().json()["sets"].items()
    employment_id = world.employments(person)[0].id
    world.change(intake.Move(principal_id=person, employment_id=employment_id, values={"title": "Lead"}))
    both = receiver.ask().json()["sets"]
    receiver.ask({"ack": [first[0]], "maxEvents": 0})
    left = receiver.ask().json()["sets"]

    assert (first[0], receiver.verified(*first)) == (same[0], receiver.verified(*same))
    assert len(both) == 2 and first[0] not in both
    (last,) = left.items()
    data = receiver.verified(*last)["events"][f"{EVENT}prov:patch:full"]["data"]
    assert data["Operations"] == [{"op": "replace", "path": "title", "value": "Lead"}]


def test_server_names_both_forms(receiver: Receiver) -> None:
    uris = receiver.scim.ok("GET", "/ServiceProviderConfig")["securityEvents"]["eventUris"]

    assert {f"{EVENT}prov:patch:full", f"{EVENT}prov:patch:notice", f"{EVENT}prov:delete"} <= set(uris)


def test_one_event_in_full_leaves_the_others(scim: Scim) -> None:
    receiver = Receiver(scim, events=[f"{EVENT}prov:create:full", f"{EVENT}prov:patch:notice"])
    person = receiver.world.hire(title="Engineer")
    employment_id = receiver.world.employments(person)[0].id
    receiver.world.change(intake.Move(principal_id=person, employment_id=employment_id, values={"title": "Lead"}))

    assert [list(events) for _, events in receiver.told()] == [["prov:create:full"], ["prov:patch:notice"]]


# --- pause ------------------------------------------------------------------------------------------------------------


def test_paused_stream_tells_nothing_and_loses_nothing(receiver: Receiver) -> None:
    world = receiver.world
    world.hire()
    with world.database.transaction() as session:
        pause_stream(session, receiver.id, now=world.clock())
    world.hire()
    meanwhile = receiver.ask().json()
    with world.database.transaction() as session, pytest.raises(Conflict):
        pause_stream(session, receiver.id, now=world.clock())
    with world.database.transaction() as session:
        resume_stream(session, receiver.id, now=world.clock())
    with world.database.transaction() as session, pytest.raises(Conflict):
        resume_stream(session, receiver.id, now=world.clock())
    with world.database.transaction() as session, pytest.raises(NotFound):
        pause_stream(session, "evs_x", now=world.clock())

    assert meanwhile == {"sets": {}}
    with world.database.read() as session:
        (stream,) = list_streams(session)
    assert (stream.paused_at, stream.waiting, stream.is_full) == (None, 4, True)
    assert len(receiver.told()) == 2
