"""Adoption, deletion, groups' planning, runs, tokens, pace: the parts of the engine around one account's deliveries."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, insert, select, update

from idhub.access.tables import Account, Application, ScimTarget
from idhub.changes import SYSTEM
from idhub.db import new_id
from idhub.delivery import queue
from idhub.delivery.tables import Delivery
from idhub.directory.tables import Group, Person
from idhub.errors import Conflict, Invalid, NotFound
from idhub.lifecycle import receipts
from idhub.lifecycle.tables import ReceiptDue
from idhub.provisioning.outbound import adoption, deletion, discovering, groups, planner, sync, tokens, upkeep
from idhub.provisioning.outbound.mapping import MANAGER
from idhub.provisioning.outbound.options import AdoptRule, WantedGroup
from idhub.provisioning.outbound.preview import preview
from idhub.provisioning.outbound.tables import AdoptionReview, OutboundGroup, OutboundMember
from scim.schemas import attribute
from tests.provisioning.conftest import Scene
from tests.provisioning.quirky import Quirks

one_database = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


def planned(scene: Scene, operation: str) -> list[tuple[str | None, str]]:
    with scene.database.read() as session:
        rows = session.execute(
            select(Delivery.account_id, Delivery.lane)
            .where(Delivery.operation == operation, Delivery.state == "pending")
            .order_by(Delivery.id)
        )
        return [(row[0], row[1]) for row in rows]


# --- adoption ---------------------------------------------------------------------------------------------------------


@one_database
def test_account_of_the_same_mail_waits_for_somebody_and_is_linked_when_confirmed(scene: Scene) -> None:
    service, application = scene.quirks(
        Quirks(), options={"adopt": {"automatic": ["external_id"], "review": ["email"]}}
    )
    theirs = service.add_user(userName="al", emails=[{"value": "ALICE@corp.example", "type": "work"}])
    person = scene.person()
    account = scene.entitle(person, application)
    waiting = scene.send_one(account, "provision")
    assert (waiting.kind, "list of reviews" in str(waiting.error)) == ("review", True)
    assert service.writes() == []
    with scene.database.transaction() as session:
        (review,) = adoption.open_reviews(session, application)
        assert (review.user_id, review.rule, review.problem, review.candidates) == (theirs, "email", "review", [person])
        who: dict[str, Any] = {"now": scene.clock(), "actor": SYSTEM, "door": "cli"}
        with pytest.raises(NotFound):
            adoption.confirm(session, review.id, "per_x", application_id=application, **who)
        with pytest.raises(NotFound):
            adoption.confirm(session, review.id, person, application_id="app_x", **who)
        adoption.confirm(session, review.id, person, application_id=application, **who)
        with pytest.raises(Conflict):
            adoption.reject(session, review.id, application_id=application, **who)
    assert planned(scene, "provision") == [(account, f"scim:{account}")]
    done = scene.send_one(account, "provision", attempt=2)
    assert (done.kind, done.evidence["action"]) == ("done", "updated")
    assert service.users[theirs]["externalId"] == person
    assert len(service.users) == 1
    assert "account.linked" in scene.events(account)


def test_account_that_is_confirmed_to_be_a_leavers_ends_and_the_receipt_waits_for_it(scene: Scene) -> None:
    """Their leave found nothing under their name, and said so; the account that nobody had decided about lives on."""
    service, application = scene.quirks(
        Quirks(), options={"adopt": {"automatic": ["external_id"], "review": ["email"]}}
    )
    scene.alive_in(service, application)
    theirs = service.add_user(userName="al", emails=[{"value": "alice@corp.example"}])
    person = scene.person()
    account = scene.entitle(person, application)
    assert scene.send_one(account, "provision").kind == "review"
    case_id = scene.prove_leave(person, account)
    with scene.database.transaction() as session:
        (review,) = adoption.open_reviews(session, application)
        adoption.confirm(
            session, review.id, person, application_id=application, now=scene.clock(), actor=SYSTEM, door="cli"
        )

    assert planned(scene, "provision") == []
    assert planned(scene, "deprovision") == [(account, f"scim:{account}")]
    with scene.database.read() as session:
        waiting = receipts.current(session, case_id, now=scene.clock())
        delivery = session.execute(select(Delivery.case_id, Delivery.required_grade).order_by(Delivery.seq.desc()))
        assert tuple(delivery.first() or ()) == (case_id, 2)
        assert session.execute(select(ReceiptDue.case_id)).scalars().all() == [case_id]
    assert [(row.state, row.grade) for row in waiting.rows] == [("pending", 0)]
    done = scene.send_one(account, "deprovision", attempt=2)
    assert (done.kind, done.grade) == ("done", 2)
    assert service.users[theirs]["active"] is False


def test_account_that_a_scan_links_while_its_person_leaves_ends(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    service, application = scene.quirks(Quirks())
    theirs = service.add_user(userName="al", emails=[{"value": "alice@corp.example"}])
    person = scene.person()
    account = scene.entitle(person, application)

    def leave_first(session: Any, people: Any) -> None:
        # Somebody else's leave commits while the locks are awaited.
        session.execute(update(Account).where(Account.id == account).values(desired_state="inactive"))
        planner.hold_people(session, people)

    monkeypatch.setattr(f"{adoption.__name__}.hold_people", leave_first)
    scanned = adoption.match_page(
        scene.database, application, [service.users[theirs]], automatic=["email"], review=[], now=scene.clock()
    )

    assert scanned.linked == 1
    assert (planned(scene, "provision"), planned(scene, "deprovision")) == ([], [(account, f"scim:{account}")])


@one_database
def test_rejected_account_is_left_alone_and_the_person_gets_one(scene: Scene) -> None:
    service, application = scene.quirks(
        Quirks(), options={"adopt": {"automatic": ["external_id"], "review": ["email"]}}
    )
    theirs = service.add_user(userName="al", emails=[{"value": "alice@corp.example"}])
    account = scene.entitle(scene.person(), application)
    scene.send_one(account, "provision")
    with scene.database.transaction() as session:
        (review,) = adoption.open_reviews(session, application)
        adoption.reject(session, review.id, application_id=application, now=scene.clock(), actor=SYSTEM, door="cli")
    done = scene.send_one(account, "provision", attempt=2)
    assert (done.kind, done.evidence["action"]) == ("done", "created")
    assert service.users[theirs].get("externalId") is None
    assert len(service.users) == 2


@one_database
@pytest.mark.parametrize("rule", ["email", "user_name"])
def test_shared_mailbox_is_ambiguous_even_where_it_adopts(scene: Scene, rule: AdoptRule) -> None:
    service, application = scene.quirks(Quirks(), options={"adopt": {"automatic": [rule], "review": []}})
    service.add_user(userName="alice@corp.example", emails=[{"value": "alice@corp.example"}])
    account = scene.entitle(scene.person(), application)
    scene.person("bob", email="Alice@corp.example")
    outcome = scene.send_one(account, "provision")
    assert outcome.kind == "review"
    with scene.database.read() as session:
        assert [review.problem for review in adoption.open_reviews(session, application)] == ["ambiguous"]


@one_database
def test_whoever_shares_a_mailbox_goes_on_when_the_account_is_said_to_be_the_others(scene: Scene) -> None:
    """The list of reviews has nothing to decide about any more, so nobody may wait for it."""
    service, application = scene.quirks(
        Quirks(), options={"adopt": {"automatic": ["external_id"], "review": ["email"]}}
    )
    shared = service.add_user(userName="front-desk", emails=[{"value": "desk@corp.example"}])
    people = {name: scene.person(name, email="desk@corp.example") for name in ("alice", "bob")}
    mapping = {"user_name_attribute": "employee_number"}
    with scene.database.transaction() as session:
        session.execute(update(ScimTarget).where(ScimTarget.application_id == application).values(**mapping))
    accounts = {name: scene.entitle(person, application) for name, person in people.items()}
    for account in accounts.values():
        assert scene.send_one(account, "provision").kind == "review"
    with scene.database.transaction() as session:
        (review,) = adoption.open_reviews(session, application)
        assert (review.problem, review.candidates) == ("ambiguous", sorted(people.values()))
        adoption.confirm(
            session, review.id, people["alice"], application_id=application, now=scene.clock(), actor=SYSTEM, door="cli"
        )

    assert {account for account, _ in planned(scene, "provision")} == set(accounts.values())
    done = {name: scene.send_one(account, "provision", attempt=2) for name, account in accounts.items()}
    assert {name: (one.kind, one.evidence.get("action")) for name, one in done.items()} == {
        "alice": ("done", "updated"),
        "bob": ("done", "created"),
    }
    assert service.users[shared]["externalId"] == people["alice"]
    with scene.database.read() as session:
        assert adoption.open_reviews(session, application) == []


@one_database
def test_several_accounts_of_one_person_are_decided_in_the_list_of_reviews(scene: Scene) -> None:
    service, application = scene.quirks(Quirks(), options={"adopt": {"automatic": ["email"], "review": []}})
    ids = [service.add_user(userName=name, emails=[{"value": "alice@corp.example"}]) for name in ("al", "alice.old")]
    person = scene.person()
    account = scene.entitle(person, application)
    assert scene.send_one(account, "provision").kind == "review"
    with scene.database.transaction() as session:
        reviews = {review.user_id: review for review in adoption.open_reviews(session, application)}
        assert {user: review.problem for user, review in reviews.items()} == dict.fromkeys(ids, "ambiguous")
        who: dict[str, Any] = {"now": scene.clock(), "actor": SYSTEM, "door": "cli"}
        adoption.confirm(session, reviews[ids[0]].id, person, application_id=application, **who)
    done = scene.send_one(account, "provision", attempt=2)
    assert (done.kind, service.users[ids[0]]["externalId"], service.users[ids[1]].get("externalId")) == (
        "done",
        person,
        None,
    )


@one_database
def test_an_account_whose_decision_was_undone_is_asked_about_again(scene: Scene) -> None:
    service, application = scene.quirks(
        Quirks(), options={"adopt": {"automatic": ["external_id"], "review": ["email"]}}
    )
    service.add_user(userName="al", emails=[{"value": "alice@corp.example"}])
    person = scene.person()
    account = scene.entitle(person, application)
    scene.send_one(account, "provision")
    with scene.database.transaction() as session:
        (review,) = adoption.open_reviews(session, application)
        adoption.confirm(
            session, review.id, person, application_id=application, now=scene.clock(), actor=SYSTEM, door="cli"
        )
        session.execute(update(Account).where(Account.id == account).values(external_id=None))

    assert scene.send_one(account, "provision", attempt=2).kind == "review"
    with scene.database.read() as session:
        assert [one.user_id for one in adoption.open_reviews(session, application)] == [review.user_id]


def test_scan_links_what_fits_and_puts_the_rest_to_review(scene: Scene) -> None:
    _, application = scene.quirks(Quirks())
    people = {name: scene.person(name) for name in ("alice", "bob", "carol", "dave")}
    accounts = {name: scene.entitle(person, application) for name, person in people.items()}
    users: list[dict[str, Any]] = [
        {"id": "1", "userName": "x", "externalId": people["alice"]},
        {"id": "2", "userName": "BOB@corp.example"},
        {"id": "3", "userName": "c", "emails": [{"value": "carol@corp.example"}]},
        {"id": "4", "userName": "dave@corp.example", "externalId": "somebody-else"},
        {"id": "5", "userName": "nobody", "displayName": "爱丽丝"},
    ]
    now = scene.clock()
    rules: dict[str, Any] = {"automatic": ["external_id", "user_name"], "review": ["email"]}
    found = adoption.match_page(scene.database, application, users, **rules, now=now)
    assert (found.read, found.linked, found.to_review, found.unmatched) == (5, 2, 3, 2)
    assert [scene.account(accounts[name])["external_id"] for name in ("alice", "bob", "carol")] == ["1", "2", None]
    with scene.database.read() as session:
        reviews = {r.user_id: (r.problem, r.candidates) for r in adoption.open_reviews(session, application)}
    assert reviews == {"3": ("review", [people["carol"]]), "4": ("unmatched", []), "5": ("unmatched", [])}
    strangers = [{"id": "6", "userName": "zed", "emails": [{"value": "zed@elsewhere.example"}]}]
    unknown = adoption.match_page(scene.database, application, strangers, **rules, now=now)
    assert (unknown.linked, unknown.to_review, unknown.unmatched) == (0, 1, 1)
    again = adoption.match_page(scene.database, application, users, **rules, now=now)
    assert (again.known, again.linked, again.to_review) == (2, 0, 0)


@one_database
@pytest.mark.parametrize("rule", ["email", "user_name"])
def test_scan_takes_nothing_over_by_a_mailbox_that_somebody_else_has_too(scene: Scene, rule: AdoptRule) -> None:
    """Also when the other one is to have no account there."""
    _, application = scene.quirks(Quirks())
    person = scene.person()
    other = scene.person("bob", email="Alice@corp.example")
    account = scene.entitle(person, application)
    users = [{"id": "1", "userName": "ALICE@corp.example", "emails": [{"value": "alice@corp.example"}]}]
    found = adoption.match_page(
        scene.database, application, users, automatic=["external_id", rule], review=[], now=scene.clock()
    )
    assert (found.linked, found.to_review, found.unmatched) == (0, 1, 0)
    assert scene.account(account)["external_id"] is None
    with scene.database.read() as session:
        (review,) = adoption.open_reviews(session, application)
    assert (review.problem, set(review.candidates)) == ("ambiguous", {person, other})


def test_what_an_application_says_of_its_accounts_is_text_of_a_stranger(scene: Scene) -> None:
    """Nothing that it may answer stops a scan: no NUL, which PostgreSQL refuses, no half of a surrogate pair."""
    _, application = scene.quirks(Quirks())
    scene.entitle(scene.person(), application)
    users: list[dict[str, Any]] = [
        {"id": "1", "userName": "ali\0ce", "emails": [{"value": "\ud800@corp.example"}], "externalId": "\0"},
        {"id": "2\0", "userName": "alice@corp.example"},
        {"id": "3" * 300, "userName": "alice@corp.example"},
        {"id": "4", "userName": "x" * 5_000, "emails": [{"value": "y" * 5_000}]},
        {"id": "5", "userName": 7, "emails": "z", "externalId": ["a"]},
    ]
    found = adoption.match_page(
        scene.database, application, users, automatic=["external_id", "email"], review=["user_name"], now=scene.clock()
    )
    assert (found.read, found.linked, found.to_review, found.unmatched) == (5, 0, 3, 5)
    with scene.database.read() as session:
        reviews = {one.user_id: (one.user_name, one.problem) for one in adoption.open_reviews(session, application)}
    assert reviews == {"1": ("ali ce", "unmatched"), "4": ("x" * 254, "unmatched"), "5": (None, "unmatched")}


@pytest.mark.parametrize("user_id", ["u\0", "u" * 300], ids=["NUL", "long"])
def test_account_whose_id_cannot_be_kept_waits_for_somebody(scene: Scene, user_id: str) -> None:
    service, application = scene.quirks(Quirks())
    person = scene.person()
    service.users[user_id] = {"id": user_id, "active": True, "userName": "a", "externalId": person}
    outcome = scene.send_one(scene.entitle(person, application), "provision")
    assert (outcome.kind, outcome.error) == ("dead", "The application gives this user no id that can be kept.")


def test_name_that_an_application_shows_is_text_of_a_stranger(scene: Scene) -> None:
    service, application = scene.quirks(Quirks(no_rename=True))
    person = scene.person()
    service.add_user(userName="ali\0ce", externalId=person)
    account = scene.entitle(person, application)
    scene.send_one(account, "provision")
    assert scene.account(account)["external_id"] == "u1"
    assert "\0" not in scene.account(account)["user_name"]


# --- deletion ---------------------------------------------------------------------------------------------------------


def test_account_is_deleted_when_its_time_is_over_and_the_receipt_needs_nothing_of_it(scene: Scene) -> None:
    service, application = scene.quirks(Quirks(), options={"delete_after": 86_400})
    kept = scene.entitle(scene.person("kept"), application)
    person = scene.person()
    account = scene.entitle(person, application)
    scene.send_one(kept, "provision")
    scene.send_one(account, "provision")
    scene.leave(person)
    scene.send_one(account, "deprovision")
    off_since = scene.account(account)["off_since"]
    assert off_since is not None
    assert upkeep.tend_slowly(scene.database, now=scene.clock()) == 0
    scene.clock.advance(hours=25)
    assert upkeep.tend_slowly(scene.database, now=scene.clock()) == 1
    assert upkeep.tend_slowly(scene.database, now=scene.clock()) == 0
    assert planned(scene, "delete") == [(account, f"scim:{account}")]
    done = scene.send_one(account, "delete")
    assert (done.kind, done.evidence["action"]) == ("done", "deleted")
    assert [user["userName"] for user in service.users.values()] == ["kept@corp.example"]
    row = scene.account(account)
    assert (row["known_state"], row["external_id"], row["known_attributes"]) == ("absent", None, None)
    assert scene.events(account)[-1] == "account.deleted"


@one_database
@pytest.mark.parametrize(
    ("dialect", "quirks"), [("slack", Quirks(soft_delete=True)), ("salesforce", Quirks(no_delete=True))]
)
def test_service_that_deletes_nothing_needs_somebody(scene: Scene, dialect: str, quirks: Quirks) -> None:
    service, application = scene.quirks(quirks, dialect)
    user_id = service.add_user(userName="alice@corp.example", active=False)
    person = scene.person()
    account = scene.entitle(person, application, external_id=user_id, known_state="inactive")
    scene.leave(person)
    outcome = scene.send_one(account, "delete")
    assert (outcome.kind, service.writes()) == ("dead", [])


@one_database
def test_nobody_is_deleted_who_came_back_or_was_switched_on_by_hand(scene: Scene) -> None:
    service, application = scene.quirks(Quirks())
    person = scene.person()
    user_id = service.add_user(userName="alice@corp.example")
    account = scene.entitle(person, application, external_id=user_id, known_state="inactive")
    assert scene.send_one(account, "delete").evidence["reason"] == "entitled_again"
    scene.leave(person)
    assert scene.send_one(account, "delete").kind == "dead"
    assert service.writes() == []


# --- groups -----------------------------------------------------------------------------------------------------------


def test_groups_are_planned_when_something_about_them_changed(scene: Scene) -> None:
    _, application = scene.quirks(Quirks())
    now = scene.clock()
    with scene.database.transaction() as session:
        session.execute(
            insert(Group).values(id="grp_1", organization_id=scene.organization_id, name="底盘组", created_at=now)
        )
        wanted = [WantedGroup("group", "grp_1"), WantedGroup("role", "member", "Members")]
        groups.set_wanted(session, application, wanted, now=now)
    assert upkeep.tend(scene.database, now=now) == 3  # both groups, and the first discovery
    assert upkeep.tend(scene.database, now=now) == 0
    assert len(planned(scene, "group")) == 2
    with scene.database.transaction() as session:
        session.execute(update(Delivery).values(state="done"))
        assert groups.plan_due(session, now=now) == 0
        session.execute(update(Group).values(version=Group.version + 1, name="底盘二组"))
        session.execute(update(OutboundGroup).values(known_name=OutboundGroup.name))
        assert groups.plan_due(session, now=now) == 1
        names = session.scalars(select(OutboundGroup.name).order_by(OutboundGroup.name)).all()
        assert names == ["Members", "底盘二组"]
        session.execute(update(Delivery).values(state="done"))
        groups.set_wanted(session, application, wanted[:1], now=now)
        assert groups.plan_due(session, now=now) == 1


@one_database
def test_group_of_a_role_follows_accounts_and_goes_when_it_is_not_wanted(scene: Scene) -> None:
    service, application = scene.quirks(Quirks())
    with scene.database.transaction() as session:
        groups.set_wanted(session, application, [WantedGroup("role", "member", "Members")], now=scene.clock())
    account = scene.entitle(scene.person(), application)
    scene.send_one(account, "provision")
    with scene.database.read() as session:
        row = session.scalars(select(OutboundGroup)).one()
        assert row.dirty_at is not None

    def push() -> Any:
        (outcome,) = scene.send(scene.target_delivery(application, "group", group=row.id))
        return outcome

    assert push().kind == "done"
    (group,) = service.groups.values()
    assert (group["displayName"], len(group["members"])) == ("Members", 1)
    with scene.database.transaction() as session:
        groups.set_wanted(session, application, [], now=scene.clock())
    assert push().kind == "done"
    assert service.groups == {}
    with scene.database.read() as session:
        assert session.scalar(select(func.count()).select_from(OutboundGroup)) == 0
        assert session.scalar(select(func.count()).select_from(OutboundMember)) == 0


# --- runs -------------------------------------------------------------------------------------------------------------


def test_run_goes_through_every_account_few_at_a_time_and_can_be_paused(scene: Scene) -> None:
    _, application = scene.quirks(Quirks())
    accounts = [scene.entitle(scene.person(f"p{n}"), application) for n in range(23)]
    now = scene.clock()
    who: dict[str, Any] = {"now": now, "actor": SYSTEM, "door": "cli"}

    def tend() -> int:
        return sum(
            scene.database.run(lambda session, one=run: sync.advance(session, run_id=one, now=now, ahead=20))  # type: ignore[misc]
            for run in scene.database.run(sync.under_way)
        )

    with scene.database.transaction() as session:
        sync.start(session, application, **who)
        with pytest.raises(Conflict):
            sync.start(session, application, **who)
        with pytest.raises(NotFound):
            sync.start(session, "app_x", **who)
    assert tend() == 20
    assert tend() == 0
    with scene.database.transaction() as session:
        progress = sync.progress(session, application)
        assert (progress.total, progress.planned, progress.waiting, progress.done) == (23, 20, 20, 0)
        sync.take_step(session, application, "pause", **who)
        session.execute(update(Delivery).values(state="done"))
    assert tend() == 0
    with scene.database.transaction() as session:
        sync.take_step(session, application, "resume", **who)
        session.execute(update(Account).where(Account.id == accounts[-1]).values(desired_state="inactive"))
    assert tend() == 2
    with scene.database.transaction() as session:
        session.execute(update(Delivery).values(state="done"))
    assert tend() == 0
    with scene.database.transaction() as session:
        assert sync.progress(session, application).state == "done"
        with pytest.raises(Conflict):
            sync.take_step(session, application, "cancel", **who)


# --- tokens and discovery ---------------------------------------------------------------------------------------------


@one_database
def test_new_token_takes_over_and_the_old_one_is_forgotten(scene: Scene) -> None:
    service, application = scene.quirks(Quirks())
    who: dict[str, Any] = {"now": scene.clock(), "actor": SYSTEM, "door": "cli"}
    keyring = scene.keyring
    account = scene.entitle(scene.person(), application)
    service.token = "new-token"
    assert scene.send_one(account, "provision").status_code == 401
    with scene.database.transaction() as session:
        with pytest.raises(Conflict):
            tokens.switch(session, application, seal=keyring.seal, open_sealed=keyring.open, **who)
        with pytest.raises(Invalid):
            tokens.stage(session, application, "two words", expires_at=None, seal=keyring.seal, **who)
        tokens.stage(session, application, "new-token", expires_at=None, seal=keyring.seal, **who)
        tokens.switch(session, application, seal=keyring.seal, open_sealed=keyring.open, **who)
    assert scene.send_one(account, "provision", attempt=2).kind == "done"
    with scene.database.read() as session:
        target = session.scalars(select(ScimTarget)).one()
        assert (target.next_token_sealed, b"new-token" in (target.token_sealed or b"")) == (None, False)


@one_database
def test_token_that_ends_soon_is_an_event_once_a_day(scene: Scene) -> None:
    _, application = scene.quirks(Quirks(), token_expires_at=scene.clock() + timedelta(days=10))
    assert upkeep.tend_slowly(scene.database, now=scene.clock()) == 1
    assert upkeep.tend_slowly(scene.database, now=scene.clock()) == 0
    assert scene.events(application) == ["application.token_expires"]
    assert upkeep.tend_slowly(scene.database, now=scene.clock() + timedelta(days=1, hours=1)) == 1


@one_database
def test_discovery_is_planned_once_kept_and_asked_again_after_a_change_of_address(scene: Scene) -> None:
    _, application = scene.quirks(Quirks(no_patch=True, says_patch=False))
    now = scene.clock()
    assert upkeep.tend(scene.database, now=now) == 1
    assert upkeep.tend(scene.database, now=now) == 0
    scene.send(scene.target_delivery(application, "discover"))
    with scene.database.transaction() as session:
        session.execute(update(Delivery).values(state="done"))
        known = discovering.known(session, application)
        assert known is not None
        assert (known.capabilities["patch"], known.attributes["level"]["type"]) == (False, "integer")
    account = scene.entitle(scene.person(), application)
    scene.send_one(account, "provision")
    assert scene.send_one(account, "provision", attempt=2).kind == "done"
    later = now + timedelta(hours=2)
    assert upkeep.tend(scene.database, now=later) == 0
    with scene.database.transaction() as session:
        session.execute(update(ScimTarget).values(base_url="https://quirky.example/scim/v2/other"))
        assert discovering.known(session, application) is None
    assert upkeep.tend(scene.database, now=later) == 1
    assert scene.events(application) == ["application.discovered"]


# --- preview ----------------------------------------------------------------------------------------------------------


@one_database
def test_preview_shows_what_would_be_sent_and_what_of_it_is_new(scene: Scene) -> None:
    service, application = scene.quirks(
        Quirks(), "slack", options={"mapping": {"nickName": "pinyin(display_name)", "title": None}}
    )
    person = scene.person("Alice")
    account = scene.entitle(person, application)
    with scene.database.read() as session:
        before = preview(session, application, person, now=scene.clock())
        with pytest.raises(NotFound):
            preview(session, application, "per_x", now=scene.clock())
    assert (before.is_known, before.is_wanted, before.missing) == (False, True, [])
    assert before.resource["userName"] == "alice@corp.example"
    assert "title" not in before.resource
    assert service.seen == []
    scene.send_one(account, "provision")
    (sent,) = [body for method, _, body in service.seen if method == "POST"]
    assert sent == before.resource
    with scene.database.transaction() as session:
        session.execute(update(Person).where(Person.id == person).values(display_name="李四"))
    with scene.database.read() as session:
        after = preview(session, application, person, now=scene.clock())
    assert {line.path for line in after.lines if line.is_changed} == {"displayName", "name", "nickName"}
    nick = next(line for line in after.lines if line.path == "nickName")
    assert (nick.known, nick.value, nick.rule) == ("ailisi", "lisi", "nickName: pinyin(display_name)")


@one_database
def test_reviews_of_the_same_account_are_one(scene: Scene) -> None:
    service, application = scene.quirks(Quirks(), options={"adopt": {"automatic": [], "review": ["email"]}})
    service.add_user(userName="al", emails=[{"value": "alice@corp.example"}])
    account = scene.entitle(scene.person(), application)
    scene.send_one(account, "provision")
    scene.send_one(account, "provision", attempt=2)
    with scene.database.read() as session:
        assert session.scalar(select(func.count()).select_from(AdoptionReview)) == 1


def test_dead_letters_of_an_application_are_sent_again_at_once(scene: Scene) -> None:
    _, application = scene.quirks(Quirks())
    accounts = [scene.entitle(scene.person(name), application) for name in ("alice", "bob")]
    now = scene.clock()
    with scene.database.transaction() as session:
        for account in accounts:
            session.execute(
                insert(Delivery).values(
                    id=new_id("dlv"), seq=1, application_id=application, channel="scim", lane=f"scim:{account}",
                    operation="provision", payload={}, account_id=account, required_grade=1, state="dead",
                    evidence={}, next_attempt_at=now, planned_at=now,
                )
            )  # fmt: skip
        assert queue.send_dead_again(session, application, now=now, actor=SYSTEM) == (2, 0)
        assert queue.send_dead_again(session, application, now=now, actor=SYSTEM) == (0, 0)
    assert len(planned(scene, "provision")) == 2


def test_deletion_is_due_only_where_the_application_says_so(scene: Scene) -> None:
    scene.quirks(Quirks())
    with scene.database.read() as session:
        assert deletion.is_due(session, now=scene.clock()) is False


# --- managers who come later ------------------------------------------------------------------------------------------


def _manager_of(service: Any, person: str) -> Any:
    user = next(user for user in service.users.values() if user.get("externalId") == person)
    return attribute(user, MANAGER)


def _reports(scene: Scene, application: str) -> tuple[str, str, str, str]:
    """A manager and a report, each with an account that is to be made."""
    boss = scene.person("boss")
    report = scene.person("report", manager_id=boss)
    return boss, scene.entitle(boss, application), report, scene.entitle(report, application)


def _due(scene: Scene) -> list[str | None]:
    """Accounts for which the worker plans a delivery now."""
    upkeep.tend(scene.database, now=scene.clock())
    return [account for account, _ in planned(scene, "provision")]


def _send_what_is_due(scene: Scene, account: str) -> None:
    """Send the one delivery that the worker plans, and see that no other comes of it."""
    assert _due(scene) == [account]
    assert scene.send_one(account, "provision").kind == "done"
    with scene.database.transaction() as session:
        session.execute(update(Delivery).values(state="done"))
    assert _due(scene) == []


@pytest.mark.parametrize("comes_first", ["report", "both at once"])
def test_account_made_before_its_managers_gets_the_manager_when_that_one_is_known(
    scene: Scene, comes_first: str
) -> None:
    service, application = scene.quirks(Quirks())
    _, bosses, report, reports = _reports(scene, application)
    provision = [scene.delivery(account, "provision") for account in (reports, bosses)]
    if comes_first == "report":
        assert scene.send(provision[0])[0].kind == "done"
        assert _manager_of(service, report) is None
        assert _due(scene) == [], "nobody is there yet"
        assert scene.send(provision[1])[0].kind == "done"
    else:
        assert [outcome.kind for outcome in scene.send(*provision)] == ["done", "done"]
    _send_what_is_due(scene, reports)
    assert _manager_of(service, report) == {"value": scene.account(bosses)["external_id"]}
    assert scene.account(reports)["awaited_manager_id"] is None


def test_manager_who_gets_in_much_later_is_told_to_those_who_were_there(scene: Scene) -> None:
    service, application = scene.quirks(Quirks())
    boss = scene.person("boss")
    report = scene.person("report", manager_id=boss)
    reports = scene.entitle(report, application)
    assert scene.send_one(reports, "provision").kind == "done"
    assert scene.account(reports)["awaited_manager_id"] == boss
    bosses = scene.entitle(boss, application)
    assert scene.send_one(bosses, "provision").kind == "done"
    _send_what_is_due(scene, reports)
    assert _manager_of(service, report) == {"value": scene.account(bosses)["external_id"]}


@one_database
def test_whoever_left_meanwhile_is_not_sent_again_for_a_manager(scene: Scene) -> None:
    _, application = scene.quirks(Quirks())
    _, bosses, report, reports = _reports(scene, application)
    assert scene.send_one(reports, "provision").kind == "done"
    scene.leave(report)
    assert scene.send_one(bosses, "provision").kind == "done"
    assert _due(scene) == []
    assert scene.account(reports)["due_again_at"] is None
    assert scene.account(reports)["desired_state"] == "inactive"


@one_database
def test_mapping_without_managers_waits_for_none(scene: Scene) -> None:
    _, application = scene.quirks(Quirks(), options={"mapping": {MANAGER: None}})
    _, bosses, _, reports = _reports(scene, application)
    for account in (reports, bosses):
        assert scene.send_one(account, "provision").kind == "done"
        assert scene.account(account)["awaited_manager_id"] is None
    assert _due(scene) == []


@one_database
def test_accounts_of_an_application_that_is_off_wait_until_it_is_on(scene: Scene) -> None:
    _, application = scene.quirks(Quirks())
    _, bosses, _, reports = _reports(scene, application)
    for account in (reports, bosses):
        assert scene.send_one(account, "provision").kind == "done"
    with scene.database.transaction() as session:
        session.execute(update(Application).values(is_enabled=False))
    assert _due(scene) == []
    with scene.database.transaction() as session:
        session.execute(update(Application).values(is_enabled=True))
    _send_what_is_due(scene, reports)
