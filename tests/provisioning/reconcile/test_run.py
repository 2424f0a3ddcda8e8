"""The three-way compare: what is found, what is not, and what nothing is concluded from."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from idhub.access.reconcile_plan import due, plan_of
from idhub.access.tables import Application
from idhub.db import new_id
from idhub.delivery.leases import hold
from idhub.errors import Conflict, NotFound
from idhub.lifecycle.tables import SourceRun
from idhub.provisioning.reconcile.tables import ReconcileRun
from tests.provisioning.reconcile.conftest import Ground

sqlite_only = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


def test_clean_application_has_no_findings(ground: Ground) -> None:
    for name in ("amy", "ben", "carl"):
        ground.member(name)
    report = ground.run()
    assert report.is_complete, report.gaps
    assert (report.total, report.read, report.found) == (3, 3, {})
    assert ground.findings() == []


def test_every_kind_is_found_by_its_name(ground: Ground) -> None:
    ground.service.page_size = 3
    ground.member("clean")
    ground.member("drifted", title="Director")
    _, hand = ground.member("hand")
    ground.know(hand, known_state="inactive", desired_state="inactive")
    left, _ = ground.member("left")
    ground.scene.leave(left)
    _, _gone = ground.member("gone")
    ground.member("off", active=False)
    ground.service.add("dev_test07", displayName="临时账号")
    loose = ground.scene.person("loose")
    ground.scene.entitle(loose, ground.application_id)
    ground.service.add("loose@corp.example")
    twice, _ = ground.member("twice")
    ground.service.add("twice.2", external_id=twice)
    stranger = ground.scene.person("stranger")
    ground.service.add("s.stranger", emails=[{"value": "Stranger@corp.example", "type": "work"}])
    leaver = ground.scene.person("leaver")
    ground.scene.leave(leaver)
    extension = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
    ground.service.users[ground.service.add("old-account")][extension] = {"employeeNumber": "QY-leaver"}
    ground.service.add("long-gone", active=False)
    ground.service.users.pop(next(k for k, v in ground.service.users.items() if v["userName"] == "gone@corp.example"))
    report = ground.run()
    assert report.is_complete, report.gaps
    assert ground.kinds() == {
        "drifted@corp.example": "drift",
        "hand@corp.example": "reenabled",
        "left@corp.example": "left_alive",
        "gone@corp.example": "missing",
        "off@corp.example": "disabled_there",
        "dev_test07": "ghost",
        "loose@corp.example": "orphan",
        "twice.2": "duplicate",
        "s.stranger": "unentitled",
        "old-account": "left_alive",
    }
    by_subject = {finding.subject: finding for finding in ground.findings()}
    assert by_subject["drifted@corp.example"].evidence["differences"] == {
        "title": {"should": "工程师", "is": "Director"}
    }
    assert by_subject["s.stranger"].basis == "mail"
    assert by_subject["old-account"].basis == "employee_number"
    assert (by_subject["s.stranger"].principal_id, by_subject["old-account"].principal_id) == (stranger, leaver)
    assert by_subject["dev_test07"].proposal == "disable"
    types = ground.event_types()
    assert types.count("finding.opened") == 10
    assert types.count("reconcile.finished") == 1


def test_dry_run_finds_the_same_and_writes_nothing(ground: Ground) -> None:
    ground.member("amy")
    ground.service.add("nobody")
    report = ground.run(dry_run=True)
    assert (report.found, report.is_complete) == ({"ghost": 1}, True)
    assert ground.findings() == []
    assert ground.event_types() == []
    with ground.scene.database.read() as session:
        assert session.query(ReconcileRun).count() == 0
        assert plan_of(session, ground.application_id).completed_at is None


def test_incomplete_run_concludes_nothing_from_absence_and_says_why(ground: Ground) -> None:
    ground.service.page_size = 2
    for name in ("amy", "ben", "carl"):
        ground.member(name)
    ground.service.add("nobody")
    assert ground.run().found == {"ghost": 1}

    def broken(asked: dict[str, Any], page: dict[str, Any]) -> dict[str, Any] | None:
        return page if int(asked["startIndex"]) == 1 else {**page, "totalResults": 99}

    ground.service.on_list = broken
    report = ground.run()
    assert not report.is_complete
    assert "99" in report.gaps[0]
    assert ground.kinds() == {"nobody": "ghost"}
    with ground.scene.database.read() as session:
        plan = plan_of(session, ground.application_id)
        assert plan.completed_at is not None
        assert plan.completed_at < report.started_at
        newest = session.execute(select(ReconcileRun).order_by(ReconcileRun.started_at.desc()).limit(1)).scalar_one()
        assert (newest.state, newest.gaps) == ("incomplete", list(report.gaps))


def test_finding_is_closed_when_it_is_gone_and_reopened_when_it_is_back(ground: Ground) -> None:
    ground.member("amy")
    user_id = ground.service.add("nobody")
    ground.run()
    ghost = ground.service.users.pop(user_id)
    assert ground.run().closed == 1
    assert [finding.state for finding in ground.findings()] == ["done"]
    ground.service.users[user_id] = ghost
    assert ground.run().reopened == 1
    assert [finding.state for finding in ground.findings()] == ["reopened"]
    assert [t for t in ground.event_types() if t.startswith("finding")] == [
        "finding.opened",
        "finding.done",
        "finding.reopened",
    ]


@sqlite_only
def test_credential_that_sees_only_a_part_is_not_believed(ground: Ground) -> None:
    for number in range(12):
        ground.member(f"m{number}")
    for user_id in list(ground.service.users)[3:]:
        del ground.service.users[user_id]
    report = ground.run()
    assert not report.is_complete
    assert report.gaps == ("Of 12 accounts that were alive, 9 were not listed: that is not believed.",)
    assert ground.kinds() == {}


@sqlite_only
def test_what_is_on_its_way_or_was_seen_later_is_left_alone(ground: Ground) -> None:
    left, account = ground.member("left")
    ground.scene.leave(left)
    ground.know(account, observed_at=ground.scene.clock() + timedelta(hours=1))
    assert ground.run().found == {}
    ground.know(account, observed_at=None)
    assert ground.run().found == {"left_alive": 1}
    ground.know(account, observed_at=ground.scene.clock() + timedelta(hours=1))
    # It neither stands nor is it over: nothing is known of it in this run.
    assert ground.run().closed == 0
    assert ground.kinds() == {"left@corp.example": "left_alive"}


@sqlite_only
def test_service_accounts_are_nobodys_by_intention(ground: Ground) -> None:
    ground.member("amy")
    ground.service.add("Backup-Robot")
    ground.plan("report", "backup-robot")
    assert ground.run().found == {}


@sqlite_only
def test_likeness_is_a_question_beside_a_ghost_never_a_match(ground: Ground) -> None:
    ground.member("amy")
    ground.service.add("xx1", displayName="爱丽丝")
    ground.service.add("xx2", phoneNumbers=[{"value": "+86 199-0000-0000"}])
    ground.run()
    first, second = (f for f in ground.findings() if f.subject in {"xx1", "xx2"})
    assert (first.kind, first.proposal, first.principal_id) == ("ghost", "ask", None)
    assert first.evidence["likeness"] == {"name": 1}
    assert (second.kind, second.proposal) == ("ghost", "disable")


@sqlite_only
def test_several_people_behind_one_account_are_a_question(ground: Ground) -> None:
    amy, ben = ground.scene.person("amy"), ground.scene.person("ben")
    ground.service.add("both", external_id=amy, emails=[{"value": "ben@corp.example"}])
    assert ben
    ground.run()
    assert [(f.kind, f.basis, f.principal_id) for f in ground.findings()] == [("question", "several", None)]


@sqlite_only
def test_without_a_complete_register_nobody_is_nobody(ground: Ground) -> None:
    with ground.scene.database.transaction() as session:
        session.execute(
            insert(SourceRun).values(
                id=new_id("run"),
                provider="hr_file",
                started_at=ground.scene.clock(),
                finished_at=ground.scene.clock(),
                is_complete=False,
                is_snapshot=True,
                counts={},
                problems=[],
                started_by="cli",
            )
        )
    ground.service.add("nobody")
    assert ground.run().found == {"question": 1}
    assert ground.findings()[0].evidence["why"] == "register_incomplete"


@sqlite_only
def test_texts_of_the_application_are_cut_and_cleaned(ground: Ground) -> None:
    ground.service.add("evil\u202ename\r\n" + "x" * 900, displayName="<script>" + "y" * 900)
    assert ground.run().is_complete
    finding = ground.findings()[0]
    assert len(finding.subject) <= 254
    assert "\u202e" not in finding.subject
    assert "\n" not in finding.subject
    assert len(finding.evidence["account"]["display_name"]) <= 300


@sqlite_only
@pytest.mark.parametrize("behaviour", ["failing", "silent"])
def test_application_that_does_not_answer_is_incomplete(ground: Ground, behaviour: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("idhub.provisioning.reconcile.reading.PAGE_TIMEOUT", timedelta(milliseconds=200))
    monkeypatch.setattr("scim.listing._FIRST_WAIT", timedelta(0))
    monkeypatch.setattr("scim.listing._LONGEST_WAIT", timedelta(0))
    ground.member("amy")
    ground.service.behaviour = behaviour
    report = ground.run()
    assert not report.is_complete
    assert "stand-in-token" not in str(report.gaps)
    assert ground.kinds() == {}


@sqlite_only
def test_wrong_token_is_incomplete_and_shown_nowhere(ground: Ground) -> None:
    ground.service.token = "another"
    report = ground.run()
    assert report.gaps == ("Page 1: The application answered 401: Bearer [redacted] is not welcome",)


def test_only_one_reconciles_an_application(ground: Ground) -> None:
    held = hold(
        ground.scene.database,
        f"reconcile:{ground.application_id}",
        "another",
        now=ground.scene.clock(),
        lifetime=timedelta(minutes=5),
    )
    assert held is not None
    with pytest.raises(Conflict, match="already"):
        ground.run()


@sqlite_only
def test_run_whose_lease_was_taken_over_writes_nothing_more(ground: Ground) -> None:
    ground.service.add("nobody")

    def late(_asked: Any, page: dict[str, Any]) -> dict[str, Any]:
        ground.scene.clock.advance(hours=1)
        hold(
            ground.scene.database,
            f"reconcile:{ground.application_id}",
            "another",
            now=ground.scene.clock(),
            lifetime=timedelta(minutes=5),
        )
        return page

    ground.service.on_list = late
    with pytest.raises(Conflict, match="taken this run over"):
        ground.run()
    assert ground.findings() == []


@sqlite_only
def test_application_without_a_target_is_refused(ground: Ground) -> None:
    ground.application_id = "app_none"
    with pytest.raises(NotFound):
        ground.run()


@sqlite_only
def test_due_applications_and_the_next_time(ground: Ground) -> None:
    ground.plan()
    with ground.scene.database.read() as session:
        assert due(session, now=ground.scene.clock()) == [ground.application_id]
    ground.run()
    with ground.scene.database.read() as session:
        assert due(session, now=ground.scene.clock()) == []
        assert due(session, now=ground.scene.clock() + timedelta(days=1)) == [ground.application_id]
    with ground.scene.database.transaction() as session:
        session.execute(update(Application).values(is_enabled=False))
    with ground.scene.database.read() as session:
        assert due(session, now=ground.scene.clock() + timedelta(days=1)) == []
