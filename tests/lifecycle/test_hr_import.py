"""The HR-file door: joiners, movers and leavers of a file, on both databases (security catalogue D29, D32-D34)."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from contextlib import closing, suppress
from datetime import timedelta
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
from sqlalchemy import event, select

from audit.tables import audit_events
from idhub.changes import Actor
from idhub.db import new_id
from idhub.demo.sample import FAULTS, create_sample_organizations, write_hr_file
from idhub.directory.kinds import EmploymentState, EmploymentType, OrganizationKind, Standing
from idhub.directory.organizations import create_organization, ensure_department, root_organization
from idhub.directory.tables import Department, Employment, Organization, Person, Principal
from idhub.errors import Conflict, Invalid, NotFound
from idhub.lifecycle import hr_import, intake
from idhub.lifecycle.hr_ahead import BATCH, Reader, Terms
from idhub.lifecycle.hr_brake import Brake
from idhub.lifecycle.hr_companies import Companies
from idhub.lifecycle.hr_import import ImportReport
from idhub.lifecycle.hr_release import approve, approve_release, carry_out, held_groups, list_held
from idhub.lifecycle.tables import HeldChange, SourceRun
from idhub.lifecycle.transition import transition
from providers.hr_file import Rule
from tests.lifecycle.hr_hub import HR, Hub, people, person, problems
from tests.providers.hr_samples import row, write_csv


def test_new_people_go_in_with_companies_and_departments_that_are_made_and_listed(hub: Hub) -> None:
    report = hub.read(person("0001"), person("0002", company="柏林", department="IT/Cloud", start_date="2027-01-01"))
    assert (report.rows, report.new, report.refused, report.quarantined) == (2, 2, 0, 0)
    assert report.created_companies == ["总部", "柏林"]
    assert report.created_departments == 4
    assert hub.standing("0001") == Standing.ACTIVE
    assert hub.standing("0002", "柏林") == Standing.STAGED
    found = hub.person("0001")
    assert (found.employee_number, found.employments[0].department) == ("0001", "信息技术/平台")
    assert hub.events("person.onboarded") == 2
    assert hub.events("organization.created") == 2
    assert hub.events("department.created") == 4
    assert hub.events("import.finished") == 1


def test_company_is_found_by_code_or_name_and_case_does_not_matter(hub: Hub) -> None:
    with hub.database.transaction() as session:
        create_sample_organizations(session, now=hub.clock())
    report = hub.read(person("1", company="总部"), person("2", company="hq"), person("1", company="HQ"))
    assert report.created_companies == []
    assert problems(report) == [(4, "employee_number", "repeated_employee_number")]
    assert hub.person("2").employments[0].company == "总部"


def test_same_file_again_changes_nothing(hub: Hub) -> None:
    path = hub.write(*people(30))
    hub.take(path)
    before = hub.events("person.onboarded"), hub.count(Employment), hub.events("employment.changed")
    report = hub.take(path)
    assert (report.rows, report.unchanged, report.new, report.changed, report.left) == (30, 30, 0, 0, 0)
    assert (hub.events("person.onboarded"), hub.count(Employment), hub.events("employment.changed")) == before


def test_changed_rows_update_and_move(hub: Hub) -> None:
    hub.read(person("1"), person("2"))
    report = hub.read(
        person("1", title="经理", department="财务部", email="new@qiyue.example"), person("2"), snapshot=False
    )
    assert (report.changed, report.unchanged) == (1, 1)
    found = hub.person("1")
    assert (found.email, found.employments[0].title, found.employments[0].department) == (
        "new@qiyue.example",
        "经理",
        "财务部",
    )


def test_value_that_the_file_never_knew_is_not_emptied_by_it(hub: Hub) -> None:
    hub.read(person("1", email=""))
    hub.door(lambda who, _: intake.UpdatePerson(principal_id=who, values={"email": "own@qiyue.example"}), "1")
    hub.read(person("1", email="", title="经理"))
    assert hub.person("1").email == "own@qiyue.example"


def test_left_ends_access_and_suspended_holds_it(hub: Hub) -> None:
    hub.read(*people(5))
    rows = people(5)
    rows[0] |= {"status": "left", "end_date": "2026-11-20"}
    rows[1] |= {"status": "left"}
    rows[2] |= {"status": "suspended"}
    rows[3] |= {"end_date": "2026-11-22"}
    report = hub.read(*rows)
    assert (report.left, report.suspended, report.quarantined) == (3, 1, 0)
    states = [hub.standing(f"{number:05}") for number in range(1, 6)]
    assert states == [Standing.LEFT, Standing.LEFT, Standing.SUSPENDED, Standing.LEFT, Standing.ACTIVE]


def test_suspension_by_the_file_is_undone_by_the_file(hub: Hub) -> None:
    hub.read(person("1", status="suspended"))
    assert hub.standing("1") == Standing.SUSPENDED
    report = hub.read(person("1"))
    assert report.reactivated == 1
    assert hub.standing("1") == Standing.ACTIVE


def test_suspension_through_another_door_is_not_undone_by_the_file(hub: Hub) -> None:
    hub.read(person("1"))
    hub.door(lambda who, post: intake.Suspend(principal_id=who, employment_id=post), "1")
    hub.read(person("1", title="经理"))
    assert hub.standing("1") == Standing.SUSPENDED
    assert hub.person("1").employments[0].title == "经理"


def test_somebody_who_left_before_the_hub_knew_them_goes_in_as_left(hub: Hub) -> None:
    hub.read(person("1", status="left", end_date="2026-01-31"))
    found = hub.person("1")
    assert found.standing == Standing.LEFT
    assert found.employments[0].ends_on.isoformat() == "2026-01-31"


def test_absent_from_a_complete_snapshot_leaves(hub: Hub) -> None:
    hub.read(*people(5))
    report = hub.read(*people(4))
    assert (report.absent, report.left, report.quarantined) == (1, 1, 0)
    assert hub.standing("00005") == Standing.LEFT


def test_absent_from_a_file_of_changes_stays(hub: Hub) -> None:
    hub.read(*people(5))
    report = hub.read(person("00001", title="经理"), snapshot=False)
    assert (report.absent, report.left, report.changed) == (0, 0, 1)
    assert hub.standing("00005") == Standing.ACTIVE


def test_company_that_the_file_does_not_name_is_untouched(hub: Hub) -> None:
    hub.read(person("1"), person("1", company="柏林"))
    report = hub.read(person("1", title="经理"))
    assert report.absent == 0
    assert hub.standing("1", "柏林") == Standing.ACTIVE


def test_person_never_seen_in_a_file_is_not_absent_from_it(hub: Hub) -> None:
    hub.read(person("1"))
    organization = hub.person("1").organization_id
    facts = intake.EmploymentFacts(
        organization_id=organization,
        employee_number="C1",
        type=hub.person("1").employments[0].type,
        starts_on=hub.clock().date(),
    )
    wish = intake.Onboard(principal_id="per_c1", person=intake.PersonFacts(display_name="甲"), employment=facts)
    with hub.database.transaction() as session:
        transition(session, [wish], now=hub.clock() + timedelta(hours=12), actor=HR, door="console").only()
    assert hub.read(person("1", title="经理")).absent == 0
    assert hub.standing("C1") == Standing.ACTIVE


def test_d32_person_whose_row_is_refused_is_not_absent(hub: Hub) -> None:
    hub.read(*people(3))
    rows = people(3)
    rows[2]["status"] = "gone"
    report = hub.read(*rows)
    assert (report.refused, report.absent, report.left) == (1, 0, 0)
    assert hub.standing("00003") == Standing.ACTIVE


def test_row_that_could_be_anybody_leaves_absence_unproven_in_its_company(hub: Hub) -> None:
    hub.read(*people(3), person("1", company="柏林"), person("2", company="柏林"))
    report = hub.read(*people(2), person(""), person("1", company="柏林"))
    assert report.absence_unproven == ["总部"]
    assert hub.standing("00003") == Standing.ACTIVE
    assert hub.standing("2", "柏林") == Standing.LEFT


def test_d33_half_written_file_goes_in_but_nobody_is_absent(hub: Hub) -> None:
    hub.read(*people(9))
    path = hub.write(*[person(f"{n:05}", title="经理") for n in range(1, 10)])
    content = path.read_text(encoding="utf-8")
    path.write_text(content[: len(content) * 2 // 3], encoding="utf-8")
    report = hub.take(path)
    assert not report.is_complete
    assert report.changed > 0
    assert (report.absent, report.left) == (0, 0)
    assert {hub.standing(f"{n:05}") for n in range(1, 10)} == {Standing.ACTIVE}


def test_d33_wrong_encoding_is_refused_whole_and_recorded(hub: Hub) -> None:
    path = hub.write(*people(3))
    path.write_bytes(path.read_bytes() + b"\xff\xff\n")
    with pytest.raises(Invalid) as caught:
        hub.take(path)
    assert caught.value.rule == "hr_file.encoding"
    assert (hub.count(Person), hub.count(SourceRun), hub.events("import.finished")) == (0, 0, 1)


def test_d33_yesterdays_file_again_is_refused_and_reactivates_nobody(hub: Hub) -> None:
    yesterday = hub.write(*people(3))
    hub.take(yesterday)
    hub.clock.advance(timedelta(days=1))
    rows = people(3)
    rows[0] |= {"status": "left"}
    hub.read(*rows)
    with pytest.raises(Conflict) as caught:
        hub.take(yesterday)
    assert caught.value.rule == "hr_file.replayed"
    assert hub.standing("00001") == Standing.LEFT


def test_file_of_another_company_in_between_is_no_replay(hub: Hub) -> None:
    first = hub.write(*people(3))
    hub.take(first)
    hub.read(person("1", company="柏林"))
    assert hub.take(first).unchanged == 3


def test_somebody_offboarded_here_is_not_brought_back_by_a_changed_row(hub: Hub) -> None:
    hub.read(person("1"))
    hub.door(lambda who, _: intake.Offboard(principal_id=who), "1")
    report = hub.read(person("1", title="经理"))
    assert problems(report) == [(2, "status", "left_elsewhere")]
    assert hub.standing("1") == Standing.LEFT


def test_new_start_date_after_the_leave_is_the_rehire_under_new_epochs(hub: Hub) -> None:
    hub.read(person("1"))
    before = hub.person("1")
    hub.door(lambda who, _: intake.Offboard(principal_id=who), "1")
    hub.clock.advance(timedelta(days=10))
    report = hub.read(person("1", start_date="2026-12-02"))
    after = hub.person("1")
    assert report.rehired == 1
    assert (after.id, after.standing) == (before.id, Standing.ACTIVE)
    assert after.access_epoch > before.access_epoch
    assert after.enrolment_epoch > before.enrolment_epoch


def test_d32_number_handed_on_to_another_human_is_refused(hub: Hub) -> None:
    hub.read(person("1", national_id="A"), person("2"))
    hub.read(person("1", national_id="A", status="left"), person("2", status="left"))
    report = hub.read(
        person("1", national_id="B", name="别人", start_date="2027-01-01"),
        person("2", name="又一人", start_date="2027-01-01"),
    )
    assert problems(report) == [
        (2, "employee_number", "reused_employee_number"),
        (3, "employee_number", "reused_employee_number"),
    ]
    assert hub.person("1").display_name == "员工1"


def test_one_human_in_two_companies_is_found_by_national_id_alone(hub: Hub) -> None:
    same = {"name": "王芳", "email": "fang@qiyue.example", "mobile": "13800000000"}
    report = hub.read(
        person("1", national_id="n-1", **same),
        person("9", national_id="N-1", company="柏林", **same),
        person("2", company="柏林", **same),
    )
    assert (report.new, report.added) == (2, 1)
    assert hub.person("1").id == hub.person("9", "柏林").id != hub.person("2", "柏林").id
    assert len(hub.person("1").employments) == 2
    report = hub.read(person("1", national_id="n-1", status="left", **same), snapshot=False)
    assert report.left == 0
    assert hub.standing("1") == Standing.ACTIVE
    hub.read(person("9", national_id="N-1", company="柏林", status="left", **same), snapshot=False)
    assert hub.standing("1") == Standing.LEFT


def test_national_id_is_stored_only_as_a_keyed_hash(hub: Hub) -> None:
    hub.read(person("1", national_id="110101199001011234"))
    with hub.database.read() as session:
        stored = session.execute(select(Person.national_id_hash)).scalar_one()
    assert stored
    assert "110101199001011234" not in stored


def test_managers_above_below_and_in_another_company(hub: Hub) -> None:
    report = hub.read(
        person("1", manager_employee_number="3"),
        person("2", manager_employee_number="1"),
        person("3"),
        person("4", company="柏林", manager_employee_number="2", manager_company="总部"),
    )
    assert (report.refused, report.notices) == (0, [])
    managers = [
        hub.manager("1"),
        hub.manager("2"),
        hub.manager("4", "柏林"),
    ]
    assert managers == ["员工3", "员工1", "员工2"]
    assert hub.read(person("3"), snapshot=False).unchanged == 1


def test_d34_manager_missing_or_oneself_goes_in_without_and_is_listed_each_time(hub: Hub) -> None:
    path = hub.write(person("1", manager_employee_number="404"), person("2", manager_employee_number="2"))
    for _ in range(2):
        report = hub.take(path)
        assert report.refused == 0
        assert [(each.line, each.rule) for each in report.notices] == [
            (3, Rule.OWN_MANAGER),
            (2, Rule.UNKNOWN_MANAGER),
        ]
        assert hub.manager("1") is None
    assert hub.events("employment.changed") == 0


def test_d34_manager_who_comes_later_is_set_although_the_row_did_not_change(hub: Hub) -> None:
    hub.read(person("1", manager_employee_number="9"))
    hub.read(person("1", manager_employee_number="9"), person("9"))
    assert hub.manager("1") == "员工9"


def test_d34_manager_loop_goes_in(hub: Hub) -> None:
    report = hub.read(person("1", manager_employee_number="2"), person("2", manager_employee_number="1"))
    assert (report.new, report.refused) == (2, 0)
    assert hub.manager("1") == "员工2"
    assert hub.manager("2") == "员工1"


def test_d29_mass_absence_is_held_whole_and_the_rest_goes_in(hub: Hub) -> None:
    hub.read(*people(60))
    report = hub.read(*people(6, title="经理"))
    assert (report.absent, report.quarantined, report.left, report.changed) == (54, 54, 0, 6)
    assert hub.standing("00060") == Standing.ACTIVE
    assert hub.person("00001").employments[0].title == "经理"
    assert hub.events("import.quarantined") == 1
    with hub.database.read() as session:
        held = list_held(session, run_id=report.run_id)
    assert len(held) == 54
    assert {each.kind for each in held} == {"absent"}


def test_d29_twenty_may_always_leave_and_one_more_is_too_many(hub: Hub) -> None:
    hub.read(*people(60))
    assert hub.read(*people(40), dry_run=True).quarantined == 0
    assert hub.read(*people(39), dry_run=True).quarantined == 21


def test_d29_said_leaves_go_up_to_the_limit_and_the_excess_is_held(hub: Hub) -> None:
    hub.read(*people(60))
    rows = people(60)
    for each in rows[:25]:
        each["status"] = "left"
    report = hub.read(*rows)
    assert (report.would_leave, report.left, report.quarantined) == (25, 20, 5)
    assert hub.standing("00020") == Standing.LEFT
    assert hub.standing("00021") == Standing.ACTIVE


def test_d29_brake_adds_up_over_24_hours(hub: Hub) -> None:
    hub.read(*people(60))
    hub.read(*people(45))
    hub.clock.advance(timedelta(hours=23))
    report = hub.read(*people(30))
    assert (report.left, report.quarantined) == (0, 15)
    hub.clock.advance(timedelta(hours=2))
    report = hub.read(*people(31))
    assert (report.left, report.quarantined) == (14, 0)


def test_d29_two_runs_at_once_have_one_limit_between_them(hub: Hub) -> None:
    """The second run lets its people go after the first has asked how many may, and before it lets them."""
    hub.read(*people(60))
    said = [each | {"status": "left"} for each in people(60)]
    other = hub.write(*said[15:30])
    inner: list[ImportReport] = []

    def asked(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("SELECT") and "leave_counts" in statement and not inner:
            inner.append(cast(ImportReport, None))
            inner[0] = hub.take(other, snapshot=False)

    event.listen(hub.database.engine, "after_cursor_execute", asked)
    try:
        outer = hub.read(*said[:15], snapshot=False)
    finally:
        event.remove(hub.database.engine, "after_cursor_execute", asked)
    assert (inner[0].left, inner[0].quarantined) == (15, 0)
    assert (outer.would_leave, outer.left, outer.quarantined) == (15, 5, 10)
    assert hub.count(HeldChange) == 10


@pytest.mark.parametrize("is_crashed", [False, True])
def test_who_is_absent_from_an_older_file_stays_when_a_newer_one_speaks_meanwhile(hub: Hub, is_crashed: bool) -> None:
    hub.read(*people(5))
    newer = hub.write(*people(6))
    runs: list[str] = []

    def crash(rows: int) -> None:
        if is_crashed:
            raise OSError(rows)

    def meanwhile(_rows: int) -> None:
        if not runs:
            runs.append("newer")
            with suppress(OSError):
                hub.take(newer, progress=crash)

    outer = hub.read(*people(3), progress=meanwhile)
    assert (outer.absent, outer.left, outer.absence_unproven) == (0, 0, ["总部"])
    assert outer.gaps == (
        "a run that began later " + ("has not come to its end" if is_crashed else "has spoken for its companies"),
    )
    assert hub.standing("00004") == hub.standing("00005") == Standing.ACTIVE
    assert hub.read(*people(3), allow_replay=True).absent == (2 if is_crashed else 3)


def test_d29_near_end_dates_count_as_leaves(hub: Hub) -> None:
    hub.read(*people(30))
    report = hub.read(*people(30, end_date="2026-11-24"))
    assert (report.would_leave, report.quarantined) == (30, 10)


def test_two_per_mille_of_a_big_company_may_leave() -> None:
    assert Brake().limit(5_000) == 100
    assert Brake().limit(999) == 20


def test_release_needs_two_different_people(hub: Hub) -> None:
    hub.read(*people(60))
    report = hub.read(*people(6))

    def say_yes(who: Actor) -> Any:
        return approve_release(hub.database, report.run_id, keyring=hub.keyring, approver=who, now=hub.clock())

    one, other = hub.approver("00001"), hub.approver("00002")
    assert say_yes(one).state == "waiting"
    assert hub.standing("00060") == Standing.ACTIVE
    with pytest.raises(Conflict) as caught:
        say_yes(one)
    assert caught.value.rule == "release.same_person"
    released = say_yes(other)
    assert (released.state, released.changes, released.left) == ("released", 54, 54)
    assert hub.standing("00060") == Standing.LEFT
    with pytest.raises(NotFound):
        say_yes(other)
    assert hub.events("import.released") == 3


def test_each_company_of_a_run_is_told_of_by_itself_when_it_is_released(hub: Hub) -> None:
    """What one company's release says counts nothing of another's."""
    cities = ("柏林", "总部")
    kept = [person(f"{number:05}", company=city) for city in cities for number in range(1, 7)]
    gone = [person(f"{number:05}", company=city) for city in cities for number in range(7, 61)]
    hub.read(*kept, *gone)
    run = hub.read(*kept).run_id
    people_of_two = [hub.approver("00001"), hub.approver("00002")]
    with hub.database.read() as session:
        companies = [group.organization_id for group in held_groups(session, run_id=run)]
    assert len(companies) == 2
    for company in companies:
        for who in people_of_two:
            with hub.database.transaction() as session:
                approve(session, run, [company], approver=who, now=hub.clock())
        assert carry_out(hub.database, hub.keyring, now=hub.clock()) == 54
    with hub.database.read() as session:
        ours = audit_events.c.type == "import.released"
        bodies = session.execute(select(audit_events.c.body).where(ours).order_by(audit_events.c.id)).scalars()
        said = [orjson.loads(body) for body in bodies]
    done = [one for one in said if one["details"]["state"] == "released"]
    assert [(one["organization_id"], one["details"]["changes"]) for one in done] == [(one, 54) for one in companies]


def test_held_leave_is_dropped_when_a_complete_newer_file_lists_the_person(hub: Hub) -> None:
    hub.read(*people(60))
    report = hub.read(*people(6))
    hub.read(*people(60, title="经理"))
    with hub.database.read() as session:
        assert list_held(session, run_id=report.run_id) == []
        states = set(session.execute(select(HeldChange.state)).scalars())
    assert states == {"dropped"}


def test_dry_run_says_what_would_happen_and_writes_nothing(hub: Hub) -> None:
    hub.read(*people(5))
    before = [hub.count(table) for table in (Person, Employment, Organization, Department, SourceRun, Principal)]
    rows = [*people(3, title="经理"), person("00009", company="柏林", national_id="x"), person("00001")]
    twice = person("7", company="东京", national_id="x")
    report = hub.read(*rows, twice, dry_run=True)
    assert (report.changed, report.new, report.added, report.would_leave, report.refused) == (3, 1, 1, 0, 1)
    assert report.absence_unproven == ["总部"]
    report = hub.read(*rows[:-1], dry_run=True)
    assert (report.would_leave, report.absent, report.quarantined) == (2, 2, 0)
    after = [hub.count(table) for table in (Person, Employment, Organization, Department, SourceRun, Principal)]
    assert after == before
    assert hub.standing("00005") == Standing.ACTIVE


def test_refused_rows_are_events_up_to_a_cap_and_counts_beyond(hub: Hub) -> None:
    report = hub.read(person("1"), *[person(f"x{number}", status="?") for number in range(250)])
    assert (report.refused, len(report.problems), report.new) == (250, 250, 1)
    assert hub.events("import.row_refused") == 200
    with hub.database.read() as session:
        counts = session.execute(select(SourceRun.counts)).scalar_one()
    assert counts["refused"] == 250


def test_row_that_contradicts_the_directory_is_refused_alone(hub: Hub) -> None:
    """Nobody holds more than fifty posts (lifecycle.rules.MAX_EMPLOYMENTS)."""
    report = hub.read(*people(51, national_id="A", name="王芳"), person("x"))
    assert (report.new, report.refused) == (2, 1)
    assert problems(report) == [(52, "employment", "conflict")]


def test_d32_two_runs_of_one_file_at_once_make_nobody_twice(hub: Hub) -> None:
    """The second run takes everything in while the first has the file open and has not seen the companies."""
    path = hub.write(*people(5, national_id=""), person("9", company="柏林"), person("x", status="?"))
    inner: list[ImportReport] = []
    outer = hub.take(path, on_refused=lambda _row: inner.append(hub.take(path)))
    assert (inner[0].new, inner[0].refused) == (6, 1)
    assert (outer.new, outer.unchanged, outer.refused) == (0, 6, 1)
    assert (hub.count(Person), hub.count(Employment), hub.count(Organization)) == (6, 6, 3)


def test_company_that_another_run_made_meanwhile_is_used_not_made_again(hub: Hub) -> None:
    other = hub.write(person("8", company="柏林"))
    outer = hub.read(
        person("9", company="柏林"), person("x", status="?"), on_refused=lambda _row: hub.take(other), snapshot=False
    )
    assert (outer.new, outer.refused, outer.created_companies) == (1, 1, [])
    assert hub.person("8", "柏林").organization_id == hub.person("9", "柏林").organization_id


def test_progress_is_told(hub: Hub) -> None:
    seen: list[int] = []
    hub.take(hub.write(*people(10)), progress=seen.append)
    assert seen[-1] == 10


def test_a_slow_disk_makes_no_more_transactions(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, joins = [0.0], list[None]()  # time passes while a commit waits for the disk, and at no other time

    @event.listens_for(hub.database.engine, "commit")
    def wait(_: object) -> None:
        seconds[0] += 1.0

    def counted(*values: Any, **context: Any) -> Any:
        joins.append(None)
        return transition(*values, **context)

    monkeypatch.setattr(hr_import, "time", SimpleNamespace(perf_counter=lambda: seconds[0]))
    monkeypatch.setattr(hr_import, "transition", counted)
    hub.read(*people(3_000))
    assert len(joins) < 3_000 / 250  # the smallest hold so many people


def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every transaction seem to take its whole time, so that pieces stay as small as they may be."""
    monkeypatch.setattr(hr_import, "time", SimpleNamespace(perf_counter=count().__next__))


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_joiners_are_committed_as_soon_as_somebody_waits(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    line = os.open(f"{hub.database.engine.url.database}-line", os.O_RDWR | os.O_CREAT)

    def followed(*values: Any, **context: Any) -> Any:
        made = transition(*values, **context)
        happened.append("piece")
        if "waits" not in happened and happened[-4:] == ["piece", "piece", "commit", "piece"]:
            fcntl.flock(line, fcntl.LOCK_SH)
            happened.append("waits")
        return made

    @event.listens_for(hub.database.engine, "commit")
    def committed(_: object) -> None:
        happened.append("commit")
        fcntl.flock(line, fcntl.LOCK_UN)

    slowly(monkeypatch)
    monkeypatch.setattr(hr_import, "transition", followed)
    report = hub.read(*people(12 * BATCH))
    os.close(line)
    came = happened.index("waits")
    assert happened[came : came + 2] == ["waits", "commit"], "four pieces were there, of which one had gone in"
    assert report.new == hub.count(Person) == 12 * BATCH


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_one_who_is_known_after_all_keeps_only_those_of_the_same_piece_from_joining_together(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone: list[Any] = []

    def followed(session: Any, changes: Any, **context: Any) -> Any:
        alone.extend(changes)
        return transition(session, changes, **context)

    everybody = people(12 * BATCH, national_id="")
    wrong = 5 * BATCH + 10  # in the midst of a transaction of four pieces
    other = hub.write(everybody[wrong - 1])
    slowly(monkeypatch)
    monkeypatch.setattr(hr_import, "transition", followed)
    rows = [*everybody[:wrong], person("x", status="?"), *everybody[wrong:]]
    report = hub.read(*rows, on_refused=lambda _row: hub.take(other, snapshot=False), snapshot=False)
    assert (report.new, report.unchanged, report.refused) == (12 * BATCH - 1, 1, 1)
    assert hub.count(Person) == 12 * BATCH
    assert 0 < len(alone) < BATCH


def test_unknown_columns_are_reported(hub: Hub, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", [person("1")], columns=[*row(), "salary"])
    assert hub.take(path).unknown_columns == ("salary",)


def test_sample_group_goes_in_but_for_its_dozen(hub: Hub, tmp_path: Path) -> None:
    with hub.database.transaction() as session:
        create_sample_organizations(session, now=hub.clock())
    sample = write_hr_file(tmp_path / "people.csv", today=hub.clock().date())
    report = hub.take(sample.path)
    assert (report.rows, report.refused, report.quarantined) == (sample.rows, len(FAULTS), 0)
    assert problems(report) == [(fault.line, fault.field, fault.rule.value) for fault in sample.faults]
    assert report.new == 2000
    assert (report.notices, report.created_companies) == ([], [])
    assert hub.count(Person) == 2000
    again = hub.take(sample.path)
    assert (again.unchanged, again.new, again.changed, again.left) == (sample.rows - 12, 0, 0, 0)
    with hub.database.read() as session:
        states = set(session.execute(select(Employment.state)).scalars())
    assert states == set(EmploymentState)


def test_d29_slow_drain_is_stopped_by_the_rolling_window_and_ends_with_it(hub: Hub) -> None:
    """4 % of 500 an hour is 20, the limit of one run: the first goes, every further one within 24 hours is held."""
    hub.read(*people(500))
    report = hub.read(*people(480))
    assert (report.left, report.quarantined) == (20, 0)
    for hour in range(1, 4):
        hub.clock.advance(timedelta(hours=1))
        report = hub.read(*people(480 - 19 * hour, title=f"第{hour}次"))
        assert (report.left, report.quarantined, report.changed) == (0, 19 * hour, 480 - 19 * hour)
    hub.clock.advance(timedelta(hours=24))
    report = hub.read(*people(470))
    assert (report.left, report.quarantined) == (10, 0)


def test_d29_numbers_renamed_in_bulk_let_nobody_go(hub: Hub) -> None:
    hub.read(*people(30))
    report = hub.read(*(person(f"N{number:05}") for number in range(30)))
    assert (report.new, report.absent, report.quarantined, report.left) == (30, 30, 30, 0)
    assert hub.standing("00001") == Standing.ACTIVE


def test_d29_everybody_in_another_company_lets_nobody_go(hub: Hub) -> None:
    hub.read(*people(31))
    moved = [person(f"{number:05}", company="柏林") for number in range(1, 31)]
    report = hub.read(*moved, person("00031"))
    assert (report.new, report.quarantined, report.left) == (30, 30, 0)
    report = hub.read(*moved, person("00031"), snapshot=False)
    assert (report.quarantined, report.left) == (0, 0)
    assert hub.standing("00001") == Standing.ACTIVE


@pytest.mark.parametrize("snapshot", [True, False])
@pytest.mark.parametrize(
    "wrong", [{"status": "left"}, {"end_date": "2026-12-01"}, {"status": "suspended"}, {"start_date": "2027-03-01"}]
)
def test_d29_whatever_takes_access_in_bulk_is_held_beyond_the_limit(
    hub: Hub, wrong: dict[str, str], snapshot: bool
) -> None:
    hub.read(*people(50))
    report = hub.read(*people(50, title="经理", **wrong), snapshot=snapshot)
    assert (report.quarantined, report.changed) == (30, 50)
    standings = [hub.standing(f"{number:05}") for number in range(1, 51)]
    without = 0 if "end_date" in wrong else 20
    assert standings.count(Standing.ACTIVE) == 50 - without
    again = hub.read(*people(50, title="经理", **wrong), snapshot=snapshot, allow_replay=True)
    assert again.quarantined == 30


@pytest.mark.parametrize(
    ("wrong", "standing"), [({"status": "suspended"}, "suspended"), ({"start_date": "2027-03-01"}, "staged")]
)
def test_release_lets_held_suspensions_and_late_starts_happen(hub: Hub, wrong: dict[str, str], standing: str) -> None:
    others = [person(number, company="柏林") for number in ("00001", "00002")]
    hub.read(*people(25), *others)
    one, other = (hub.approver(number, "柏林") for number in ("00001", "00002"))
    report = hub.read(*people(25, **wrong), *others)
    assert hub.standing("00025") == Standing.ACTIVE
    assert hub.release(report.run_id, one).state == "waiting"
    with pytest.raises(Conflict, match="second person"):
        hub.release(report.run_id, one)
    assert hub.release(report.run_id, other).changes == 5
    assert hub.standing("00025") == standing
    hub.read(*people(25, title="经理"), *others)
    assert hub.standing("00025") == Standing.ACTIVE


def test_large_file_read_ahead_by_another_process_says_the_same(hub: Hub, tmp_path: Path) -> None:
    small, large = tmp_path / "small.csv", tmp_path / "large.csv"
    with hub.database.transaction() as session:
        create_sample_organizations(session, now=hub.clock())
    write_hr_file(small, today=hub.clock().date(), people=400)
    # Blank lines are passed over: the same rows in a file that is worth a process of its own.
    large.write_bytes(small.read_bytes() + b"\n" * (1 << 20))
    expected = hub.take(large, dry_run=True)
    report = hub.take(large)
    assert (report.new, report.refused) == (expected.new, expected.refused) == (400, len(FAULTS))
    assert problems(report) == problems(expected)
    again = hub.take(small, allow_replay=True)
    assert (again.unchanged, again.new, again.absent) == (report.rows - report.refused, 0, 0)


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_import_that_fails_leaves_no_reading_process_behind(hub: Hub, tmp_path: Path) -> None:
    """Batches wait for the writer in a thread of its own; nobody takes them any more, and yet everything ends."""
    with hub.database.transaction() as session:
        create_sample_organizations(session, now=hub.clock())
    large = tmp_path / "large.csv"
    write_hr_file(large, today=hub.clock().date(), people=8_000)

    def full(_rows: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    before = _children()
    with pytest.raises(OSError, match="no space left"):
        hub.take(large, progress=full)
    assert _children() <= before
    assert "hr_file" not in {thread.name for thread in threading.enumerate()}


def _children() -> set[int]:
    """Processes that this one has started."""
    found: set[int] = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            number, _, rest = status.read_text().rpartition(")")
            if int(rest.split()[1]) == os.getpid():
                found.add(int(number.split()[0]))
    return found


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_department_that_a_further_post_names_first_has_one_id_for_all(hub: Hub) -> None:
    """Rows that go the longer way are foreseen too: else whoever was made ready after them would name another id."""
    human = {"national_id": "X1"}
    rows = [person("0001", **human), person("0002", company="二厂", department="新部", **human)]
    rows += [person(f"{number:04}") for number in range(3, BATCH + 1)]
    path = hub.write(*rows, person("9001", company="二厂", department="新部/一组"))
    with hub.database.read() as session:
        companies = Companies(session)
    terms = Terms("run_1", hub.clock(), HR, "hr_file", None, is_dry_run=False)
    with closing(Reader(hub.database, path, companies, hub.keyring, terms)) as reader:
        first, second = reader.batches()
    assert [row.employee_number for row in first.news] == ["0002"]
    assert first.foreseen is not None
    assert second.ready is not None
    assert first.foreseen.companies["二厂"] == second.ready.foreseen.companies["二厂"]
    assert first.foreseen.departments.items() <= second.ready.foreseen.departments.items()


@pytest.mark.parametrize("meanwhile", ["person", "department", "company"])
def test_what_another_door_makes_while_the_file_is_read_stands(hub: Hub, meanwhile: str) -> None:
    """Rows made ready ahead are compared with what is when they are written; then each goes in by itself."""
    hub.read(person("0001"))
    company = "柏林" if meanwhile == "company" else "总部"
    rows = [person(f"{number:04}", company=company, department="新部/一组") for number in (2, 3, 4)]
    rows[1]["manager_employee_number"] = "0002"

    def while_it_is_read(_rows: int) -> None:
        now = hub.clock()
        with hub.database.transaction() as session:
            root = root_organization(session)
            if meanwhile == "company" and not hub.count(Person) > 3 and not session.scalar(_named("柏林")):
                create_organization(
                    session,
                    code="BER",
                    name="柏林",
                    kind=OrganizationKind.COMPANY,
                    parent_id=root,
                    time_zone="Europe/Berlin",
                    now=now,
                )
            place = session.scalar(_named("总部"))
            if meanwhile == "department" and place:
                ensure_department(session, place, "新部", now=now)
            if meanwhile == "person" and not session.scalar(
                select(Employment.id).where(Employment.employee_number == "0003")
            ):
                facts = intake.EmploymentFacts(
                    organization_id=place or "",
                    employee_number="0003",
                    type=EmploymentType.REGULAR,
                    starts_on=now.date(),
                )
                known = intake.Onboard(
                    principal_id=new_id("per"),
                    person=intake.PersonFacts(display_name="员工0003"),
                    employment=facts,
                )
                transition(session, [known], now=now, actor=HR, door="console").only()

    report = hub.read(*rows, snapshot=False, progress=while_it_is_read)
    assert (report.rows, report.refused, report.problems) == (3, 0, [])
    assert (report.new, report.changed) == ((2, 1) if meanwhile == "person" else (3, 0))
    assert hub.count(Person) == 4
    assert hub.manager("0003", company) == "员工0002"
    assert hub.count(Organization) == (3 if meanwhile == "company" else 2)
    assert hub.read(*rows, snapshot=False, allow_replay=True).unchanged == 3


def _named(name: str) -> Any:
    return select(Organization.id).where(Organization.name == name)


@pytest.mark.parametrize("how", ["said", "absent"])
def test_d29_a_department_is_not_emptied_within_the_limit_of_its_company(hub: Hub, how: str) -> None:
    """Design invariant 5: the brake works per company and department, in one file and over 24 hours."""
    brake = Brake(floor=2, per_mille=100)
    team = [person(f"{number:05}", department="研发/电池") for number in range(1, 11)]
    others = [person(f"{number:05}", department="制造") for number in range(11, 61)]
    hub.read(*team, *others)

    def without(*gone: int) -> list[dict[str, str]]:
        rows = [*team, *others]
        if how == "absent":
            return [each for number, each in enumerate(rows, 1) if number not in gone]
        return [each | {"status": "left"} if number in gone else each for number, each in enumerate(rows, 1)]

    report = hub.read(*without(1, 2, 3, 4, 30), brake=brake)
    of_team = 0 if how == "absent" else 2
    assert (report.would_leave, report.left, report.quarantined) == (5, of_team + 1, 4 - of_team)
    hub.clock.advance(timedelta(hours=1))
    again = hub.read(*without(1, 2, 5, 30), brake=brake, allow_replay=True)
    assert again.quarantined == (3 if how == "absent" else 1)
    hub.clock.advance(timedelta(hours=24))
    later = hub.read(*without(1, 5, 30), brake=brake, allow_replay=True)
    assert (later.quarantined, hub.standing("00005")) == (0, Standing.LEFT)
