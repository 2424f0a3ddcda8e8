"""What is done about findings: through the lanes, under the brake, with its trace; and what a receipt says then."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from idhub.access.tables import Account, Entitlement
from idhub.authority import HubRole, assign_role, remove_role
from idhub.changes import Actor
from idhub.delivery import queue
from idhub.delivery.channel import Grade
from idhub.delivery.http import OutboundHttp
from idhub.directory.tables import OrganizationClosure, Principal
from idhub.errors import Conflict, Invalid, NotFound
from idhub.lifecycle import receipts
from idhub.lifecycle.hr_brake import Brake
from idhub.lifecycle.tables import ReceiptDue
from idhub.provisioning.outbound.channel import ScimChannel
from idhub.provisioning.reconcile import findings, remedy
from idhub.provisioning.reconcile.kinds import Policy
from idhub.provisioning.reconcile.tables import Finding
from tests.provisioning.conftest import PATIENT
from tests.provisioning.reconcile.conftest import Ground

ADMIN = Actor(kind="person", id="per_admin")
TIGHT = Brake(floor=2, per_mille=0)
LONG_AGO = datetime(2026, 11, 1, tzinfo=UTC)
sqlite_only = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


def act(ground: Ground, action: remedy.Action, *subjects: str, brake: Brake = remedy.DEFAULT_BRAKE) -> remedy.Acted:
    with ground.scene.database.transaction() as session:
        ids = session.execute(select(Finding.id).where(Finding.subject.in_(subjects)).order_by(Finding.id)).scalars()
        found = [findings.get(session, finding_id) for finding_id in list(ids)]
        return remedy.act(session, found, action, now=ground.scene.clock(), actor=ADMIN, door="console", brake=brake)


def approver(ground: Ground, name: str) -> Actor:
    """Somebody who may release what is held."""
    scene, found = ground.scene, ground.scene.person(name)
    with scene.database.transaction() as session:
        # The company alone is there, without the tree around it.
        itself = {"ancestor_id": scene.organization_id, "descendant_id": scene.organization_id, "depth": 0}
        session.merge(OrganizationClosure(**itself))
        assign_role(
            session, found, HubRole.ADMINISTRATOR, organization_id=scene.organization_id, now=scene.clock(),
            assigned_by="cli",
        )  # fmt: skip
    return Actor(kind="person", id=found)


def deliver(ground: Ground) -> None:
    """Let the queue run dry."""
    scene = ground.scene
    settings = scene.settings.model_copy(update={"outbound_allow": ",".join(scene.allowed)})
    scene.clock.advance(seconds=30)

    async def sent() -> None:
        async with OutboundHttp(settings) as http:
            channel = ScimChannel(scene.database, scene.keyring, http, timeout=PATIENT)
            while leased := queue.lease(scene.database, worker="w1", now=scene.clock(), limit=50, settings=settings):
                for one in leased:
                    outcome = await channel.send(one, now=scene.clock())
                    scene.clock.advance(seconds=30)
                    queue.settle(scene.database, one, outcome, now=scene.clock(), settings=settings)

    asyncio.run(sent())


def state_of(ground: Ground, user_name: str) -> bool:
    return next(bool(u["active"]) for u in ground.service.users.values() if u["userName"] == user_name)


def test_ghost_is_switched_off_through_the_lane_read_back_and_done(ground: Ground) -> None:
    ground.member("amy")
    ground.service.add("nobody")
    ground.run()
    acted = act(ground, "disable", "nobody")
    assert len(acted.deliveries) == 1
    finding = ground.findings()[0]
    assert (finding.state, finding.delivery_id) == ("accepted", acted.deliveries[finding.id])
    deliver(ground)
    assert not state_of(ground, "nobody")
    assert state_of(ground, "amy@corp.example")
    delivery = ground.deliveries()[0]
    assert (delivery.state, delivery.grade, delivery.principal_id) == ("done", Grade.E2, None)
    with ground.scene.database.transaction() as session:
        assert findings.settle_delivered(session, now=ground.scene.clock()) == 1
    assert ground.findings()[0].state == "done"
    assert ground.run().found == {}


@sqlite_only
def test_ghost_that_comes_back_is_reenabled(ground: Ground) -> None:
    ground.member("amy")
    user_id = ground.service.add("nobody")
    ground.run()
    act(ground, "disable", "nobody")
    deliver(ground)
    ground.run()
    ground.service.users[user_id]["active"] = True
    assert ground.run().found == {"reenabled": 1}


@sqlite_only
def test_disabling_a_further_account_of_somebody_leaves_their_own_alone(ground: Ground) -> None:
    """The delivery names the account, not the person: whose first account is alive and theirs."""
    twice, _ = ground.member("twice")
    ground.service.add("twice.2", external_id=twice)
    ground.run()
    act(ground, "disable", "twice.2")
    deliver(ground)
    assert state_of(ground, "twice@corp.example")
    assert not state_of(ground, "twice.2")


def test_orphan_is_linked_and_brought_up_to_date(ground: Ground) -> None:
    loose = ground.scene.person("loose")
    account = ground.scene.entitle(loose, ground.application_id)
    user_id = ground.service.add("l.loose", emails=[{"value": "loose@corp.example", "type": "work"}])
    ground.run()
    act(ground, "link", "l.loose")
    deliver(ground)
    assert ground.scene.account(account)["external_id"] == user_id
    assert ground.service.users[user_id]["externalId"] == loose
    assert ground.run().found == {}


def test_orphan_of_somebody_who_left_since_is_not_linked(ground: Ground) -> None:
    """The next comparison says that it is alive and whose; linked, it would be wished to live."""
    loose = ground.scene.person("loose")
    account = ground.scene.entitle(loose, ground.application_id)
    ground.service.add("l.loose", emails=[{"value": "loose@corp.example", "type": "work"}])
    ground.run()
    ground.scene.prove_leave(loose, account)

    with pytest.raises(Conflict, match="compare the application again") as refused:
        act(ground, "link", "l.loose")

    assert refused.value.rule == "finding.changed"
    assert ground.scene.account(account)["external_id"] is None
    assert ground.scene.account(account)["desired_state"] == "inactive"
    ground.run()
    assert ground.kinds() == {"l.loose": "left_alive"}


@sqlite_only
def test_drift_is_put_right(ground: Ground) -> None:
    ground.member("amy", title="Director")
    ground.run()
    act(ground, "restore", "amy@corp.example")
    deliver(ground)
    assert next(iter(ground.service.users.values()))["title"] == "工程师"
    ground.run()
    assert ground.kinds() == {}


@sqlite_only
def test_second_account_is_not_linked_over_the_first(ground: Ground) -> None:
    twice, _ = ground.member("twice")
    ground.service.add("twice.2", external_id=twice)
    ground.run()
    with pytest.raises(Conflict):
        act(ground, "link", "twice.2")


def test_brake_holds_what_is_too_much_until_two_people_have_said_so(ground: Ground) -> None:
    for number in range(5):
        ground.service.add(f"nobody{number}")
    ground.run()
    acted = act(ground, "disable", *(f"nobody{n}" for n in range(5)), brake=TIGHT)
    assert (len(acted.deliveries), len(acted.held)) == (2, 3)
    one, other = approver(ground, "one"), approver(ground, "other")
    database, now = ground.scene.database, ground.scene.clock()
    with database.transaction() as session:
        first = remedy.approve(session, ground.application_id, approver=one, now=now, door="console")
    assert (first.state, first.findings) == ("waiting", 3)
    with pytest.raises(Conflict, match="second person"), database.transaction() as session:
        remedy.approve(session, ground.application_id, approver=one, now=now, door="console")
    assert len(ground.deliveries()) == 2
    with database.transaction() as session:
        second = remedy.approve(session, ground.application_id, approver=other, now=now, door="console")
    assert (second.state, second.findings) == ("released", 3)
    assert len(ground.deliveries()) == 5
    with pytest.raises(NotFound), database.transaction() as session:
        remedy.approve(session, ground.application_id, approver=other, now=now, door="console")
    types = ground.event_types()
    assert (types.count("finding.held"), types.count("finding.released")) == (3, 2)


@sqlite_only
def test_a_first_yes_of_somebody_who_may_no_longer_say_it_counts_for_nothing(ground: Ground) -> None:
    for number in range(5):
        ground.service.add(f"nobody{number}")
    ground.run()
    act(ground, "disable", *(f"nobody{n}" for n in range(5)), brake=TIGHT)
    one, other, third = (approver(ground, name) for name in ("one", "other", "third"))
    database, now = ground.scene.database, ground.scene.clock()
    said = []
    for who in (one, other, third):
        with database.transaction() as session:
            said.append(remedy.approve(session, ground.application_id, approver=who, now=now, door="console").state)
            if who is one:
                remove_role(session, one.id, HubRole.ADMINISTRATOR, now=now)
    assert said == ["waiting", "waiting", "released"]


@sqlite_only
def test_brake_counts_a_day_and_not_only_one_go(ground: Ground) -> None:
    for number in range(4):
        ground.service.add(f"nobody{number}")
    ground.run()
    assert not act(ground, "disable", "nobody0", "nobody1", brake=TIGHT).held
    assert act(ground, "disable", "nobody2", brake=TIGHT).held
    ground.scene.clock.advance(hours=25)
    assert not act(ground, "disable", "nobody3", brake=TIGHT).held


def test_policy_disables_what_nothing_speaks_for_up_to_the_brake(ground: Ground) -> None:
    ground.member("amy")
    for number in range(3):
        ground.service.add(f"nobody{number}")
    ground.service.add("alike", displayName="爱丽丝")
    loose = ground.scene.person("loose")
    ground.scene.entitle(loose, ground.application_id)
    ground.service.add("loose@corp.example")
    ground.plan("disable")
    report = ground.run(brake=TIGHT)
    assert (report.disabled, report.held) == (2, 1)
    deliver(ground)
    assert state_of(ground, "alike")
    assert state_of(ground, "loose@corp.example")
    assert state_of(ground, "amy@corp.example")
    # Held ones are not asked for again and again, and nothing slips through beside them.
    again = ground.run(brake=TIGHT)
    assert (again.disabled, again.held) == (0, 0)


@sqlite_only
@pytest.mark.parametrize("policy", ["report", "ask"])
def test_other_policies_touch_nothing(ground: Ground, policy: str) -> None:
    ground.service.add("nobody")
    ground.plan(policy)
    assert ground.run().disabled == 0
    assert ground.deliveries() == []


@sqlite_only
def test_incomplete_run_disables_nobody_by_itself(ground: Ground) -> None:
    ground.service.add("nobody")
    ground.plan("disable")
    ground.service.on_list = lambda _asked, page: {**page, "totalResults": 7}
    report = ground.run()
    assert (report.is_complete, report.disabled) == (False, 0)
    assert ground.kinds() == {"nobody": "ghost"}


def test_receipt_is_contradicted_and_proven_anew(ground: Ground) -> None:
    person, account = ground.member("left")
    ground.member("amy")
    case_id = ground.scene.prove_leave(person, account)
    ground.know(account, known_state="inactive", desired_state="inactive")

    def receipt() -> receipts.ReceiptView:
        with ground.scene.database.read() as session:
            return receipts.current(session, case_id, now=ground.scene.clock())

    assert receipt().is_complete
    assert ground.run().found == {"reenabled": 1}
    view = receipt()
    assert not view.is_complete
    assert (view.rows[0].state, view.rows[0].grade) == ("pending", 0)
    assert "seen alive at 2026-11-23T02:01" in (view.rows[0].error or "")
    with ground.scene.database.read() as session:
        assert session.execute(select(ReceiptDue.case_id)).scalars().all() == [case_id]
    act(ground, "disable", "left@corp.example")
    deliver(ground)
    assert receipt().is_complete
    signed = receipts.sign_due(
        ground.scene.database, ground.scene.keyring, issuer="https://hub.example", now=ground.scene.clock()
    )
    assert signed == 1
    with ground.scene.database.read() as session:
        newest = receipts.current(session, case_id, now=ground.scene.clock())
        document = receipts.export(newest)
    verdict = receipts_claims(document, ground)
    assert verdict["scope"]["last_reconcile_at"] is not None
    assert verdict["complete"]


def receipt_of(ground: Ground, case_id: str) -> receipts.ReceiptView:
    with ground.scene.database.read() as session:
        return receipts.current(session, case_id, now=ground.scene.clock())


def add_loose(ground: Ground) -> tuple[str, str, str]:
    """Somebody who left, an account of theirs that the hub never knew, and the receipt that says all is proven."""
    ground.member("amy")
    person = ground.scene.person("loose")
    account = ground.scene.entitle(person, ground.application_id)
    case_id = ground.scene.prove_leave(person, account)
    user_id = ground.service.add("l.loose", emails=[{"value": "loose@corp.example", "type": "work"}])
    assert receipt_of(ground, case_id).is_complete
    return person, case_id, user_id


def test_receipt_is_contradicted_by_an_account_that_nobody_knew_of(ground: Ground) -> None:
    _, case_id, user_id = add_loose(ground)

    assert ground.run().found == {"left_alive": 1}

    view = receipt_of(ground, case_id)
    assert [(row.state, row.grade) for row in view.rows] == [("pending", 0)]
    assert "seen alive at 2026-11-23T02:0" in (view.rows[0].error or "")
    with ground.scene.database.read() as session:
        assert session.execute(select(ReceiptDue.case_id)).scalars().all() == [case_id]
    ground.run()
    assert len(receipt_of(ground, case_id).rows) == 1

    act(ground, "disable", "l.loose")
    assert [(row.state, row.attempts) for row in receipt_of(ground, case_id).rows] == [("pending", 0)]
    deliver(ground)

    assert ground.service.users[user_id]["active"] is False
    proven = receipt_of(ground, case_id)
    assert (proven.is_complete, proven.rows[0].grade) == (True, Grade.E2)
    assert ground.run().found == {}
    assert receipt_of(ground, case_id).is_complete


def test_receipt_gets_a_row_for_an_application_in_which_nobody_knew_of_an_account(ground: Ground) -> None:
    ground.member("amy")
    person = ground.scene.person("loose")
    elsewhere = ground.scene.application(base_url="https://elsewhere.example:443/scim/v2")
    case_id = ground.scene.prove_leave(person, ground.scene.entitle(person, elsewhere))
    user_id = ground.service.add("l.loose", emails=[{"value": "loose@corp.example", "type": "work"}])

    ground.run()
    ground.run()

    view = receipt_of(ground, case_id)
    rows = {row.note: (row.state, row.grade, row.required_grade) for row in view.rows}
    assert (len(view.rows), rows["found"], view.is_complete) == (2, ("pending", 0, 2), False)
    act(ground, "disable", "l.loose")
    deliver(ground)
    assert ground.service.users[user_id]["active"] is False
    proven = receipt_of(ground, case_id)
    assert {row.note: (row.state, row.grade) for row in proven.rows} == {None: ("done", 2), "found": ("done", 2)}
    assert proven.is_complete


@pytest.mark.parametrize("is_linked", [True, False])
@pytest.mark.parametrize("is_deleted", [True, False])
def test_receipt_that_was_contradicted_is_proven_when_somebody_switched_the_account_off_there(
    ground: Ground, is_linked: bool, is_deleted: bool
) -> None:
    person, case_id, user_id = add_loose(ground)
    if is_linked:
        with ground.scene.database.transaction() as session:
            session.execute(update(Account).where(Account.principal_id == person).values(external_id=user_id))
    ground.run()
    assert not receipt_of(ground, case_id).is_complete
    if is_deleted:
        del ground.service.users[user_id]
    else:
        ground.service.users[user_id]["active"] = False
    ground.scene.clock.advance(minutes=5)

    assert ground.run().found == {}
    deliver(ground)

    proven = receipt_of(ground, case_id)
    assert (proven.is_complete, proven.rows[0].grade) == (True, Grade.E2)
    sent = len(ground.deliveries())
    ground.run()
    assert len(ground.deliveries()) == sent, "proven once"


def test_nobody_who_came_back_loses_anything_for_what_was_found_before(ground: Ground) -> None:
    person, case_id, user_id = add_loose(ground)
    ground.run()
    with ground.scene.database.transaction() as session:
        session.execute(update(Principal).where(Principal.id == person).values(standing="active", access_ends_at=None))
        session.execute(update(Entitlement).where(Entitlement.principal_id == person).values(superseded_at=None))
        session.execute(update(Account).where(Account.principal_id == person).values(desired_state="active"))
    ground.service.users[user_id]["active"] = False

    ground.run()
    deliver(ground)

    assert [delivery for delivery in ground.deliveries() if delivery.operation == "deprovision"][1:] == []
    assert ground.scene.account(next(iter(_accounts_of(ground, person))))["desired_state"] == "active"
    assert not receipt_of(ground, case_id).is_complete


def _accounts_of(ground: Ground, person: str) -> list[str]:
    with ground.scene.database.read() as session:
        return list(session.execute(select(Account.id).where(Account.principal_id == person)).scalars())


def receipts_claims(document: bytes, ground: Ground) -> dict[str, dict[str, str | None]]:
    from idhub.lifecycle.receipt_document import verify

    verdict = verify(document, ground.scene.keyring.jwks("receipt"))
    assert verdict.is_valid, verdict.problems
    return dict(verdict.claims)


@sqlite_only
def test_exception_needs_a_reason_and_an_end_and_ends(ground: Ground) -> None:
    ground.service.add("nobody")
    ground.run()
    finding_id, now = ground.findings()[0].id, ground.scene.clock()

    def dismiss(reason: str, days: int) -> None:
        with ground.scene.database.transaction() as session:
            findings.dismiss(
                session,
                findings.get(session, finding_id),
                reason=reason,
                until=(now + timedelta(days=days)).date(),
                now=now,
                actor=ADMIN,
                door="console",
            )

    for reason, days, field in (
        ("", 10, "reason"),
        ("x" * 501, 10, "reason"),
        ("why", -1, "until"),
        ("why", 400, "until"),
    ):
        with pytest.raises(Invalid) as refused:
            dismiss(reason, days)
        assert refused.value.field == field
    dismiss("machine account of the paint shop", 10)
    with pytest.raises(Conflict):
        dismiss("again", 10)
    ground.run()
    assert ground.findings()[0].state == "dismissed"
    with ground.scene.database.transaction() as session:
        findings.take_back(session, findings.get(session, finding_id), now=now, actor=ADMIN, door="console")
    found = ground.findings()[0]
    assert (found.state, found.reason, found.dismissed_until) == ("reopened", None, None)
    assert found.deadline_at == now + timedelta(days=7)
    dismiss("machine account of the paint shop", 10)
    ground.scene.clock.advance(days=11)
    ground.run()
    assert ground.findings()[0].state == "reopened"


@sqlite_only
def test_finding_is_accepted_once(ground: Ground) -> None:
    ground.service.add("nobody")
    ground.run()
    finding_id = ground.findings()[0].id

    def accept() -> None:
        with ground.scene.database.transaction() as session:
            found = findings.get(session, finding_id)
            findings.accept(session, found, now=ground.scene.clock(), actor=ADMIN, door="console")

    accept()
    with pytest.raises(Conflict):
        accept()
    with pytest.raises(Conflict):
        act(ground, "restore", "nobody")
    assert "finding.accepted" in ground.event_types()


@sqlite_only
def test_account_row_of_a_ghost_is_made_once_and_has_no_person(ground: Ground) -> None:
    ground.service.add("nobody")
    ground.run()
    act(ground, "disable", "nobody")
    act(ground, "disable", "nobody")
    with ground.scene.database.read() as session:
        rows = session.execute(select(Account.principal_id, Account.kind, Account.desired_state)).all()
    assert [tuple(row) for row in rows] == [(None, "orphan", "inactive")]


@sqlite_only
def test_nobody_is_switched_off_who_may_be_there_by_now(ground: Ground) -> None:
    """Hired again, entitled or linked between the look and the decision: the finding is not what it was."""
    ground.member("amy")
    stranger = ground.scene.person("stranger")
    user_id = ground.service.add("stranger@corp.example")
    ground.scene.entitle(stranger, ground.application_id, external_id=user_id, known_state="active")
    with ground.scene.database.transaction() as session:
        session.execute(update(Entitlement).where(Entitlement.principal_id == stranger).values(valid_to=LONG_AGO))
    ghost_id = ground.service.add("nobody")
    ground.run()
    assert ground.kinds() == {"stranger@corp.example": "unentitled", "nobody": "ghost"}
    newcomer = ground.scene.person("newcomer")
    ground.scene.entitle(newcomer, ground.application_id, external_id=ghost_id, known_state="active")
    with ground.scene.database.transaction() as session:
        session.execute(update(Entitlement).where(Entitlement.principal_id == stranger).values(valid_to=None))
    for subject in ("stranger@corp.example", "nobody"):
        with pytest.raises(Conflict, match="changed since"):
            act(ground, "disable", subject)
    second = approver(ground, "second").id
    with ground.scene.database.transaction() as session:
        session.execute(update(Finding).values(held_at=ground.scene.clock(), first_approver=second))
    with ground.scene.database.transaction() as session:
        now = ground.scene.clock()
        released = remedy.approve(session, ground.application_id, approver=ADMIN, now=now, door="console")
        place = findings.place_of(session, ground.application_id, run_id="rec_x", policy=Policy.DISABLE)
        session.execute(update(Finding).values(last_run_id="rec_x"))
        acted = remedy.automatic(session, place, now=now)
    assert (released.findings, acted.deliveries, ground.deliveries()) == (0, {}, [])
