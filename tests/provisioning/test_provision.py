"""Making accounts: created once, adopted rightly, never taken over, never for somebody who left."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import update

from idhub.access.tables import Application
from idhub.db import Database
from idhub.delivery.channel import Grade, Outcome
from idhub.directory.tables import Person, Principal
from idhub.provisioning.outbound import records
from tests.provisioning.conftest import IMPATIENT, Scene
from tests.provisioning.stand_ins import StandIn

ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"


def shown(outcome: Outcome) -> str:
    """Everything of an outcome that anybody may read later."""
    return json.dumps([outcome.evidence, outcome.error], ensure_ascii=False)


def test_account_is_created_with_the_persons_attributes(scene: Scene, service: StandIn) -> None:
    application = scene.application(service)
    boss = scene.person("boss")
    scene.entitle(boss, application, external_id="u77", known_state="active")
    person = scene.person(manager_id=boss)
    account = scene.entitle(person, application)
    outcome = scene.send_one(account, "provision")
    assert (outcome.kind, outcome.grade, outcome.status_code) == ("done", Grade.E1, 201)
    assert outcome.evidence["action"] == "created"
    assert service.users["u1"] == {
        "id": "u1",
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User", ENTERPRISE],
        "externalId": person,
        "userName": "alice@corp.example",
        "name": {"formatted": "爱丽丝", "familyName": "爱", "givenName": "丽丝"},
        "displayName": "爱丽丝",
        "title": "工程师",
        "active": True,
        "emails": [{"value": "alice@corp.example", "type": "work", "primary": True}],
        "phoneNumbers": [{"value": "13800000000", "type": "mobile"}],
        ENTERPRISE: {
            "employeeNumber": "QY-alice",
            "organization": "总部",
            "department": "底盘",
            "manager": {"value": "u77"},
        },
    }
    row = scene.account(account)
    assert (row["external_id"], row["user_name"], row["known_state"]) == ("u1", "alice@corp.example", "active")
    assert row["observed_at"] is not None
    assert scene.events(account) == ["account.provisioned"]


def test_account_is_looked_up_by_external_id_and_user_name_before_a_create(scene: Scene, service: StandIn) -> None:
    person = scene.person()
    scene.send_one(scene.entitle(person, scene.application(service)), "provision")
    assert [(one.method, one.filter) for one in service.seen] == [
        ("GET", f'externalId eq "{person}"'),
        ("GET", 'userName eq "alice@corp.example"'),
        ("POST", None),
    ]


def test_user_name_is_the_employee_number_where_the_application_says_so(scene: Scene, service: StandIn) -> None:
    account = scene.entitle(scene.person(), scene.application(service, user_name_attribute="employee_number"))
    scene.send_one(account, "provision")
    assert service.users["u1"]["userName"] == "QY-alice"


def test_person_without_mail_is_named_by_number(scene: Scene, service: StandIn) -> None:
    account = scene.entitle(scene.person(email=None), scene.application(service))
    assert scene.send_one(account, "provision").kind == "done"
    assert service.users["u1"]["userName"] == "QY-alice"
    assert "emails" not in service.users["u1"]


def test_sending_again_changes_nothing_and_writes_nothing(scene: Scene, service: StandIn) -> None:
    account = scene.entitle(scene.person(), scene.application(service))
    scene.send_one(account, "provision")
    written = len(service.writes())
    outcome = scene.send_one(account, "provision", attempt=2)
    assert (outcome.kind, outcome.evidence["action"]) == ("done", "none")
    assert len(service.writes()) == written
    assert len(service.users) == 1
    assert scene.events(account) == ["account.provisioned"]


def test_change_of_the_person_updates_what_differs_and_keeps_what_the_application_added(
    scene: Scene, service: StandIn, database: Database
) -> None:
    person = scene.person()
    account = scene.entitle(person, scene.application(service))
    scene.send_one(account, "provision")
    service.users["u1"]["nickName"] = "Al"
    service.users["u1"]["emails"].append({"value": "al@home.example", "type": "home"})
    with database.transaction() as session:
        session.execute(update(Person).where(Person.id == person).values(email="alice.new@corp.example", mobile=None))
    outcome = scene.send_one(account, "provision")
    assert outcome.evidence["changed"] == ["emails", "phoneNumbers", "userName"]
    user = service.users["u1"]
    assert user["userName"] == "alice.new@corp.example"
    assert user["nickName"] == "Al"
    assert "phoneNumbers" not in user
    assert [entry["value"] for entry in user["emails"]] == ["al@home.example", "alice.new@corp.example"]
    assert scene.events(account) == ["account.provisioned", "account.updated"]


def test_unowned_account_of_the_same_user_name_is_adopted(scene: Scene, service: StandIn) -> None:
    user_id = service.add("ALICE@corp.example", nickName="Al")
    person = scene.person()
    account = scene.entitle(person, scene.application(service))
    outcome = scene.send_one(account, "provision")
    assert (outcome.kind, outcome.evidence["action"]) == ("done", "adopted")
    assert list(service.users) == [user_id]
    assert service.users[user_id]["externalId"] == person
    assert service.users[user_id]["userName"] == "ALICE@corp.example"
    assert scene.account(account)["external_id"] == user_id
    assert scene.events(account) == ["account.linked", "account.updated"]


def test_inactive_account_of_a_returner_is_switched_on(scene: Scene, service: StandIn) -> None:
    person = scene.person()
    user_id = service.add("alice@corp.example", external_id=person, active=False)
    account = scene.entitle(person, scene.application(service), external_id=user_id, known_state="inactive")
    assert scene.send_one(account, "provision").kind == "done"
    assert service.users[user_id]["active"] is True
    assert "account.reactivated" in scene.events(account)


def test_account_of_somebody_else_is_not_taken_over(scene: Scene, service: StandIn) -> None:
    """D14: a userName that is taken by another externalId needs a person's decision."""
    service.add("alice@corp.example", external_id="per_somebody_else", title="CFO")
    before = json.dumps(service.users)
    account = scene.entitle(scene.person(), scene.application(service))
    outcome = scene.send_one(account, "provision")
    assert (outcome.kind, outcome.grade) == ("dead", Grade.E0)
    assert outcome.error == (
        "The application's account of this name carries another externalId: it belongs to somebody else. "
        "Rename one of the two, or correct the externalId there."
    )
    assert json.dumps(service.users) == before
    assert scene.account(account)["external_id"] is None


def test_account_linked_to_another_of_our_people_is_not_adopted(scene: Scene, service: StandIn) -> None:
    """A service that keeps no externalId must not hand the first Alice's account to the second."""
    application = scene.application(service)
    user_id = service.add("alice@corp.example")
    scene.entitle(scene.person("old-alice"), application, external_id=user_id, known_state="active")
    outcome = scene.send_one(scene.entitle(scene.person("alice"), application), "provision")
    assert outcome.kind == "dead"
    assert outcome.error == "The application's account of this name is already linked to another person."
    assert service.writes() == []


def test_what_attempts_ask_together_is_answered_to_each(scene: Scene, service: StandIn, database: Database) -> None:
    application = scene.application(service)
    person, other = scene.person(), scene.person("bob")
    own = scene.entitle(person, application, external_id="u1")
    scene.entitle(other, application, external_id="u2")
    scene.leave(other)
    elsewhere = scene.application(service)
    asked: list[records.VersionOf | records.LinkedElsewhere] = [
        records.LinkedElsewhere(application, "u2", own),
        records.VersionOf(other),
        records.LinkedElsewhere(application, "u1", own),
        records.VersionOf(person),
        records.LinkedElsewhere(elsewhere, "u2", own),
        records.VersionOf(None),
        records.LinkedElsewhere(application, "u1", None),
        records.VersionOf("per_nobody"),
    ]
    with database.read() as session:
        assert records.look(session, asked) == [1, 2, 0, 1, 0, 0, 1, 0]
        assert [records.look(session, [one])[0] for one in asked] == [1, 2, 0, 1, 0, 0, 1, 0]


def test_two_accounts_with_our_external_id_need_somebody(scene: Scene, service: StandIn) -> None:
    person = scene.person()
    service.add("a1", external_id=person)
    service.add("a2", external_id=person)
    outcome = scene.send_one(scene.entitle(person, scene.application(service)), "provision")
    assert (outcome.kind, service.writes()) == ("review", [])


def test_time_out_after_the_create_leads_to_one_account(scene: Scene, service: StandIn) -> None:
    """D13: the next attempt finds what the first one left, and adopts it."""
    service.hang_after_create = True
    person = scene.person()
    account = scene.entitle(person, scene.application(service))
    first = scene.send_one(account, "provision", timeout=IMPATIENT)
    # Without a status the queue keeps counting the write as under way until its deadline.
    assert (first.kind, first.grade, first.status_code) == ("retry", Grade.E0, None)
    assert first.error == "The application did not answer in time."
    assert scene.account(account)["external_id"] is None
    second = scene.send_one(account, "provision", attempt=2)
    assert (second.kind, second.evidence["action"]) == ("done", "adopted")
    assert len(service.users) == 1
    assert scene.account(account)["external_id"] == "u1"


def test_conflict_with_our_own_late_create_is_adopted(scene: Scene, service: StandIn) -> None:
    """The create of an earlier attempt lands between look-up and create of this one."""
    person = scene.person()
    account = scene.entitle(person, scene.application(service))

    def land_late(method: str, user_id: str) -> None:
        if method == "POST":
            service.add("alice@corp.example", external_id=person)

    service.before = land_late
    outcome = scene.send_one(account, "provision")
    assert (outcome.kind, outcome.evidence["action"]) == ("done", "adopted")
    assert list(service.users) == ["u1"]


def test_conflict_without_an_account_to_be_seen_needs_somebody(scene: Scene, service: StandIn) -> None:
    """Some services keep the name of a deleted account."""

    def come_and_go(method: str, user_id: str) -> None:
        service.users.clear()
        if method == "POST":
            service.add("alice@corp.example", external_id="per_somebody_else")

    service.before = come_and_go
    outcome = scene.send_one(scene.entitle(scene.person(), scene.application(service)), "provision")
    assert outcome.kind == "dead"
    assert outcome.error == ("The application refuses a new account. The application answered 409: userName is taken")


def test_provision_of_a_leaver_switches_nothing_on(scene: Scene, service: StandIn) -> None:
    """O11: the delivery says whom to look at; what is sent follows from what holds now."""
    person = scene.person()
    user_id = service.add("alice@corp.example", external_id=person, active=False)
    account = scene.entitle(person, scene.application(service), external_id=user_id, known_state="inactive")
    delivery = scene.delivery(account, "provision")
    scene.leave(person)
    outcome = scene.send(delivery)[0]
    assert outcome.evidence["reason"] == "not_entitled_now"
    assert service.users[user_id]["active"] is False
    assert service.writes() == []
    # It is over, so that the deprovision behind it in the lane is not held up.
    assert (outcome.kind, outcome.grade) == ("done", Grade.E1)


def test_provision_of_a_leaver_creates_nothing(scene: Scene, service: StandIn) -> None:
    person = scene.person()
    account = scene.entitle(person, scene.application(service))
    scene.leave(person)
    assert scene.send_one(account, "provision").kind == "done"
    assert service.users == {}


def test_provision_of_a_leaver_whose_account_is_on_switches_it_off(scene: Scene, service: StandIn) -> None:
    person = scene.person()
    user_id = service.add("alice@corp.example", external_id=person)
    account = scene.entitle(person, scene.application(service), external_id=user_id, known_state="active")
    scene.leave(person)
    assert scene.send_one(account, "provision").evidence["action"] == "deactivated"
    assert service.users[user_id]["active"] is False
    assert scene.account(account)["known_state"] == "inactive"
    assert scene.events(account) == ["account.deactivated"]


def test_leave_during_the_attempt_stops_the_create(scene: Scene, service: StandIn) -> None:
    """The version gate: the person left after the situation was read and before the create was sent."""
    person = scene.person()
    account = scene.entitle(person, scene.application(service))

    def leave_meanwhile(method: str, user_id: str) -> None:
        service.before = None
        scene.leave(person)

    service.before = leave_meanwhile
    outcome = scene.send_one(account, "provision")
    assert (outcome.kind, outcome.error) == ("retry", "The person changed while this was being prepared.")
    assert outcome.retry_after == timedelta(0)
    assert service.writes() == []


@pytest.mark.parametrize("standing", ["staged", "suspended", "left"])
def test_only_active_standing_gets_an_account(
    scene: Scene, service: StandIn, database: Database, standing: str
) -> None:
    person = scene.person()
    account = scene.entitle(person, scene.application(service))
    with database.transaction() as session:
        session.execute(update(Principal).where(Principal.id == person).values(standing=standing))
    scene.send_one(account, "provision")
    assert service.users == {}


def test_dates_are_part_of_the_gate(scene: Scene, service: StandIn, database: Database) -> None:
    """Invariant 10: a worker that was down at midnight gives nobody another day."""
    person = scene.person()
    account = scene.entitle(person, scene.application(service))
    with database.transaction() as session:
        ends = scene.clock() - timedelta(microseconds=1)
        session.execute(update(Principal).where(Principal.id == person).values(access_ends_at=ends))
    scene.send_one(account, "provision")
    assert service.users == {}


def test_application_that_is_switched_off_is_left_alone(scene: Scene, service: StandIn, database: Database) -> None:
    person = scene.person()
    application = scene.application(service)
    user_id = service.add("alice@corp.example", external_id=person)
    account = scene.entitle(person, application, external_id=user_id, known_state="active")
    with database.transaction() as session:
        session.execute(update(Application).where(Application.id == application).values(is_enabled=False))
    outcome = scene.send_one(account, "provision")
    assert outcome.kind == "dead"
    assert service.seen == []


def test_throttled_application_is_given_the_time_it_asks_for(scene: Scene, service: StandIn) -> None:
    """D12."""
    service.behaviour = "failing"
    outcome = scene.send_one(scene.entitle(scene.person(), scene.application(service)), "provision")
    assert (outcome.kind, outcome.status_code, outcome.retry_after) == ("retry", 503, timedelta(seconds=7))
    assert service.token not in shown(outcome)
    assert outcome.error == "The application answered 503: maintenance, Bearer [redacted]"


def test_refused_credential_waits_and_resumes(scene: Scene, service: StandIn) -> None:
    """D17: an expired token is the connection's fault; the delivery is kept."""
    account = scene.entitle(scene.person(), scene.application(service))
    good, service.token = service.token, "renewed"
    outcome = scene.send_one(account, "provision")
    assert (outcome.kind, outcome.status_code, outcome.grade) == ("retry", 401, Grade.E0)
    assert good not in shown(outcome)
    service.token = good
    assert scene.send_one(account, "provision", attempt=2).kind == "done"


def test_update_whose_answer_was_lost_has_its_event(scene: Scene, service: StandIn, database: Database) -> None:
    """I3: the change landed without an answer; the attempt that sees it records it, once."""
    person = scene.person()
    account = scene.entitle(person, scene.application(service))
    scene.send_one(account, "provision")
    with database.transaction() as session:
        session.execute(update(Person).where(Person.id == person).values(mobile="13911111111"))

    def lose_the_answer(method: str, user_id: str) -> None:
        if method == "PATCH":
            service.before = None
            service.users["u1"]["phoneNumbers"] = [{"value": "13911111111", "type": "mobile"}]
            service.wait_for_release(IMPATIENT.total_seconds() + 1)

    service.before = lose_the_answer
    assert scene.send_one(account, "provision", attempt=2, timeout=IMPATIENT).status_code is None
    assert scene.events(account) == ["account.provisioned"]
    assert scene.send_one(account, "provision", attempt=3).evidence["action"] == "none"
    assert scene.send_one(account, "provision", attempt=4).evidence["action"] == "none"
    assert scene.events(account) == ["account.provisioned", "account.updated"]


def test_address_that_the_guard_refuses_is_not_called(scene: Scene, service: StandIn) -> None:
    account = scene.entitle(scene.person(), scene.application(service))
    scene.allowed.clear()
    outcome = scene.send_one(account, "provision")
    assert (outcome.kind, outcome.evidence["requests"][0]["status"]) == ("dead", None)
    assert service.seen == []


def test_evidence_names_no_person(scene: Scene, service: StandIn) -> None:
    account = scene.entitle(scene.person(), scene.application(service))
    text = shown(scene.send_one(account, "provision"))
    for secret in ("alice", "爱", "13800000000", "QY-alice", service.token):
        assert secret not in text


def test_old_news_is_not_written_over_newer(scene: Scene, service: StandIn) -> None:
    """D11: a worker that was stopped past its lease comes back with what it saw long ago."""
    account = scene.entitle(
        scene.person(),
        scene.application(service),
        observed_at=scene.clock() + timedelta(hours=1),
        known_state="inactive",
    )
    scene.send_one(account, "provision")
    assert scene.account(account)["known_state"] == "inactive"
    assert scene.events(account) == []


def test_unknown_account_or_dialect_is_dead(scene: Scene, service: StandIn) -> None:
    account = scene.entitle(scene.person(), scene.application(service, dialect="klingon"))
    outcome = scene.send_one(account, "provision")
    assert (outcome.kind, outcome.error) == ("dead", "The SCIM dialect 'klingon' is unknown.")
    unknown = replace(scene.delivery(account, "provision"), account_id="acc_none")
    assert scene.send(unknown)[0].kind == "dead"


def test_operation_of_another_channel_is_dead(scene: Scene, service: StandIn) -> None:
    account = scene.entitle(scene.person(), scene.application(service))
    outcome = scene.send_one(account, "logout")
    assert (outcome.kind, outcome.error) == ("dead", "SCIM has no operation 'logout'.")
