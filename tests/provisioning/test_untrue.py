"""Services that answer with success and mean something else: for another person's account, with an error as body, with
two words on one question. None of it links an account, switches one off, or proves a leave.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import select

from idhub.delivery.channel import Grade
from idhub.provisioning.outbound.tables import OutboundGroup
from tests.provisioning.conftest import Scene
from tests.provisioning.quirky import Answer, Quirks, Quirky

ERROR = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:Error"], "status": "500", "detail": "database is down"}
Lie = Callable[[str, str, Any, Answer], Answer]


@dataclass
class Liar(Quirky):
    """A service whose answers pass through `lie`, after it did what was asked."""

    lie: Lie | None = None

    def answer(self, method: str, url: str, headers: Any, body: Any) -> Answer | None:
        told = super().answer(method, url, headers, body)
        return told if told is None or self.lie is None else self.lie(method, url, body, told)


@dataclass
class Stage:
    """An application of a liar, with the live account of a colleague in it."""

    scene: Scene
    service: Liar
    application: str
    colleague: str
    """Their account here."""
    colleagues_id: str
    """Their account there."""

    def hire(self, name: str = "alice") -> tuple[str, str]:
        person = self.scene.person(name)
        return person, self.scene.entitle(person, self.application)


@pytest.fixture
def stage(scene: Scene) -> Stage:
    _, application = scene.quirks(Quirks())
    service = Liar(Quirks())
    scene.quirky = service
    scene.alive_in(service, application)
    person = scene.person("bob")
    user_id = service.add_user(userName="bob@corp.example", externalId=person)
    account = scene.entitle(
        person, application, external_id=user_id, user_name="bob@corp.example", known_state="active"
    )
    return Stage(scene, service, application, account, user_id)


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ("their record", "carries another externalId: it belongs to somebody else."),
        ("their id alone", "is already linked to another person."),
    ],
)
def test_create_that_is_answered_with_a_colleagues_account_links_nothing(stage: Stage, form: str, reason: str) -> None:
    """Linked, it would have stood in the way of both their leaves: an account of two people is nobody's to touch."""
    _, account = stage.hire()

    def lie(method: str, url: str, body: Any, told: Answer) -> Answer:
        if method != "POST":
            return told
        theirs = dict(stage.service.users[stage.colleagues_id])
        return 201, {}, theirs if form == "their record" else {**told[2], "id": stage.colleagues_id}

    stage.service.lie = lie
    outcome = stage.scene.send_one(account, "provision")
    assert (outcome.kind, stage.scene.account(account)["external_id"]) == ("dead", None)
    assert reason in (outcome.error or "")
    stage.service.lie = None
    bob = stage.scene.account(stage.colleague)["principal_id"]
    stage.scene.leave(bob)
    left = stage.scene.send_one(stage.colleague, "deprovision")
    assert (left.kind, left.grade) == ("done", Grade.E2), left.error


def test_search_that_is_answered_with_a_colleagues_account_switches_it_not_off(stage: Stage) -> None:
    """Their account, read back as inactive, was proof of the leave of somebody whose own account lived on."""
    person, account = stage.hire()
    assert stage.scene.send_one(account, "provision").kind == "done"
    own = stage.scene.account(account)["external_id"]
    stage.scene.leave(person)

    def lie(method: str, url: str, body: Any, told: Answer) -> Answer:
        if "externalId" not in url or method != "GET":
            return told
        found = {**stage.service.users[stage.colleagues_id], "externalId": person}
        return 200, {}, {"totalResults": 1, "Resources": [found]}

    stage.service.lie = lie
    outcome = stage.scene.send_one(account, "deprovision")
    assert (outcome.kind, outcome.grade) == ("dead", Grade.E1)
    assert "linked to another person" in (outcome.error or "")
    assert stage.service.users[stage.colleagues_id]["active"] is True
    assert stage.service.users[own]["active"] is False, "their own goes off all the same"
    stage.service.lie = None
    assert stage.scene.send_one(account, "deprovision", attempt=2).grade == Grade.E2


@pytest.mark.parametrize("status", [200, 201, 202])
@pytest.mark.parametrize("operation", ["provision", "update", "deprovision"])
def test_success_with_an_error_as_its_body_is_a_failure(stage: Stage, operation: str, status: int) -> None:
    """Gateways answer 200 to everything and put the outcome into the body."""
    person, account = stage.hire()
    if operation != "provision":
        assert stage.scene.send_one(account, "provision").kind == "done"
        stage.service.user("alice@corp.example")["displayName"] = "changed there"
    if operation == "deprovision":
        stage.scene.leave(person)

    def lie(method: str, url: str, body: Any, told: Answer) -> Answer:
        return told if method == "GET" else (status, {}, ERROR)

    stage.service.lie = lie
    outcome = stage.scene.send_one(account, "deprovision" if operation == "deprovision" else "provision")
    assert (outcome.kind, outcome.grade) == ("retry", Grade.E0)
    assert "database is down" in (outcome.error or "")


@pytest.mark.parametrize("more", [{"Active": True}, {"ACTIVE": "true"}, {"Active": None}])
def test_two_words_on_whether_it_is_active_prove_nothing(stage: Stage, more: dict[str, Any]) -> None:
    """RFC 7643 section 2.1: names differ by more than their case. Which of two is meant, nobody knows."""
    person, account = stage.hire()
    assert stage.scene.send_one(account, "provision").kind == "done"
    stage.scene.leave(person)
    own = stage.scene.account(account)["external_id"]

    def lie(method: str, url: str, body: Any, told: Answer) -> Answer:
        return (told[0], told[1], {**told[2], **more}) if method == "GET" and url.endswith(own) else told

    stage.service.lie = lie
    outcome = stage.scene.send_one(account, "deprovision")
    assert (outcome.kind, outcome.grade) == ("retry", Grade.E1)
    assert outcome.evidence["read_back"]["counts"] is False


@pytest.mark.parametrize("form", ["their record", "their id alone"])
def test_group_that_is_answered_with_another_group_is_not_linked(stage: Stage, form: str) -> None:
    scene, now = stage.scene, stage.scene.clock()
    rows = [
        OutboundGroup(
            id=f"grp_{name}", application_id=stage.application, source_kind="role", source_ref=name, name=name,
            is_wanted=True, external_id=external_id, known_name=external_id and name, dirty_at=now,
            created_at=now,
        )
        for name, external_id in (("admins", "g-admins"), ("readers", None))
    ]  # fmt: skip
    stage.service.groups["g-admins"] = {"id": "g-admins", "displayName": "admins", "members": []}
    with scene.database.transaction() as session:
        session.add_all(rows)

    def lie(method: str, url: str, body: Any, told: Answer) -> Answer:
        if method != "POST":
            return told
        theirs = stage.service.groups["g-admins"]
        return 201, {}, theirs if form == "their record" else {**told[2], "id": "g-admins"}

    stage.service.lie = lie
    (outcome,) = scene.send(scene.target_delivery(stage.application, "group", group="grp_readers"))
    assert outcome.kind in {"retry", "dead"}
    with scene.database.read() as session:
        kept = session.scalars(select(OutboundGroup.external_id).where(OutboundGroup.id == "grp_readers")).one()
    assert kept is None
