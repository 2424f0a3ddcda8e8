"""HR files that are wrong as a real HR department makes them wrong: nobody who left works, nobody is put off in mass.

Beside `test_hr_import`: what the rows, taken at their word, would do to the wrong human.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from idhub.directory.kinds import EmploymentState, OrganizationKind, Standing
from idhub.directory.organizations import create_organization, root_organization
from idhub.directory.tables import Employment
from idhub.errors import Conflict, Invalid
from idhub.lifecycle import intake
from idhub.lifecycle.hr_release import approve, carry_out, held_groups, list_held
from idhub.lifecycle.tables import HeldChange
from idhub.lifecycle.transition import transition
from tests.lifecycle.hr_hub import Hub, people, person, problems

NEXT_WEEK = datetime(2026, 11, 30, 4, tzinfo=UTC)


# ---------------------------------------------------------------------- what another door has said


def test_leave_scheduled_by_another_door_is_not_lifted_by_a_row_that_says_nothing_of_an_end(hub: Hub) -> None:
    hub.read(person("1"))
    hub.door(lambda who, _: intake.Offboard(principal_id=who, at=NEXT_WEEK), "1")
    report = hub.read(person("1", title="经理"))
    assert (report.changed, report.refused) == (1, 0)
    post = hub.person("1").employments[0]
    assert (post.title, post.ends_on) == ("经理", NEXT_WEEK.date())
    hub.clock.advance(timedelta(days=8))
    hub.door(lambda who, _: intake.Reevaluate(principal_id=who), "1")
    assert hub.standing("1") == Standing.LEFT


def test_leave_scheduled_by_another_door_is_not_put_off_by_the_contract_end_of_the_file(hub: Hub) -> None:
    hub.read(person("1", end_date="2027-06-30"))
    hub.door(lambda who, _: intake.Offboard(principal_id=who, at=NEXT_WEEK), "1")
    hub.read(person("1", end_date="2027-12-31"))
    assert hub.person("1").employments[0].ends_on == NEXT_WEEK.date()


def test_end_that_the_file_set_is_moved_and_lifted_by_the_file(hub: Hub) -> None:
    hub.read(person("1", end_date="2027-06-30"))
    hub.read(person("1", end_date="2027-12-31"))
    assert str(hub.person("1").employments[0].ends_on) == "2027-12-31"
    hub.read(person("1"))
    assert hub.person("1").employments[0].ends_on is None


def test_suspension_by_another_door_outlives_one_by_the_file(hub: Hub) -> None:
    """Security suspends; HR says so too, for a leave of absence; HR says it is over: security has not."""
    hub.read(person("1"))
    hub.door(lambda who, _: intake.Suspend(principal_id=who), "1")
    hub.read(person("1", status="suspended", title="甲"))
    hub.read(person("1", status="suspended", title="乙"))
    hub.read(person("1", title="丙"))
    assert hub.standing("1") == Standing.SUSPENDED
    hub.door(lambda who, _: intake.Reactivate(principal_id=who), "1")
    hub.read(person("1", status="suspended", title="丁"))
    assert hub.standing("1") == Standing.SUSPENDED
    hub.read(person("1", title="戊"))
    assert hub.standing("1") == Standing.ACTIVE


# ---------------------------------------------------------------------- rows about another human


FACTS = {"email": "li@qiyue.example", "mobile": "13900000002", "name": "李四"}


def _known(number: str) -> dict[str, str]:
    return person(number, mobile=f"138{int(number):08}")


def test_number_that_names_somebody_else_in_everything_is_refused(hub: Hub) -> None:
    """Two people merged into one number, or a column sorted without the others: whose account it is stays theirs."""
    hub.read(_known("1"), _known("2"))
    report = hub.read(_known("1") | FACTS, _known("2"))
    assert problems(report) == [(2, "employee_number", "reused_employee_number")]
    assert (hub.person("1").display_name, hub.standing("1")) == ("员工1", Standing.ACTIVE)


def test_column_sorted_without_the_others_changes_nobody(hub: Hub) -> None:
    rows = [_known(f"{number:05}") for number in range(1, 31)]
    hub.read(*rows)
    names = ("name", "email", "mobile")
    shifted = [row | {name: rows[(index + 1) % 30][name] for name in names} for index, row in enumerate(rows)]
    report = hub.read(*shifted)
    assert (report.refused, report.changed, report.would_leave) == (30, 0, 0)
    assert hub.person("00001").email == "p00001@qiyue.example"


@pytest.mark.parametrize("kept", ["name", "email", "mobile"])
def test_somebody_whose_name_mail_and_mobile_do_not_all_change_is_the_same(hub: Hub, kept: str) -> None:
    """A marriage, a new domain, a new telephone."""
    hub.read(_known("1"))
    report = hub.read(_known("1") | {name: value for name, value in FACTS.items() if name != kept})
    assert (report.refused, report.changed) == (0, 1)


def test_everything_may_change_where_the_national_id_says_who_it_is(hub: Hub) -> None:
    hub.read(_known("1") | {"national_id": "A"})
    assert hub.read(_known("1") | FACTS | {"national_id": "A"}).changed == 1


def test_national_id_of_a_leaver_gives_a_joiner_of_another_name_nothing_of_theirs(hub: Hub) -> None:
    hub.read(person("1", national_id="A"))
    hub.read(person("1", national_id="A", status="left"))
    before = hub.person("1")
    report = hub.read(person("1", national_id="A", status="left"), person("5", national_id="A", name="新人"))
    assert problems(report) == [(3, "national_id", "national_id_of_another")]
    assert (hub.standing("1"), hub.person("1").enrolment_epoch) == (Standing.LEFT, before.enrolment_epoch)


def test_national_id_of_a_leaver_brings_nobody_back_in_another_company_under_another_name(hub: Hub) -> None:
    hub.read(person("1", national_id="A"))
    hub.read(person("1", national_id="A", status="left"), person("9", company="柏林"))
    report = hub.read(person("5", national_id="A", name="新人", company="柏林"), snapshot=False)
    assert problems(report) == [(2, "national_id", "national_id_of_another")]
    assert hub.standing("1") == Standing.LEFT


def test_national_id_of_a_colleague_of_the_same_company_makes_no_second_post_under_another_name(hub: Hub) -> None:
    hub.read(person("1", national_id="A"))
    report = hub.read(person("1", national_id="A"), person("5", national_id="A", name="新人"))
    assert problems(report) == [(3, "national_id", "national_id_of_another")]
    assert len(hub.person("1").employments) == 1


def test_one_human_may_be_written_otherwise_in_another_company(hub: Hub) -> None:
    hub.read(person("1", national_id="A"), person("9", company="柏林"))
    report = hub.read(person("1", national_id="A"), person("5", national_id="A", name="Fang Wang", company="柏林"))
    assert (report.added, report.refused) == (1, 0)


# ---------------------------------------------------------------------- numbers written otherwise


@pytest.mark.parametrize("written", ["７", "ＱＹ７", "7\ufe0f", "7\u3164", "7\u034f", "\u115f7", "7\u2800"])
def test_number_that_looks_like_another_is_refused(hub: Hub, written: str) -> None:
    """Full width, variation selectors, fillers: two numbers that nobody can tell apart."""
    hub.read(person("7"), person("8"))
    report = hub.read(person(written, email=""), person("8"))
    assert problems(report) == [(2, "employee_number", "invalid_employee_number")]
    assert (report.left, report.absence_unproven) == (0, ["总部"])


def _rekeyed(number: int, written: str) -> dict[str, str]:
    known = person(f"{number:05}", mobile=f"138{number:08}")
    return known | {"employee_number": written.format(number)}


@pytest.mark.parametrize("written", ["{}", "QY{:05}", "O{:04}"])
def test_company_whose_numbers_were_all_written_otherwise_is_not_there_twice(hub: Hub, written: str) -> None:
    """Leading zeros lost by a spreadsheet, a prefix, O for 0: mail and mobile would sign in nobody any more."""
    hub.read(*(_rekeyed(number, "{:05}") for number in range(1, 31)))
    report = hub.read(*(_rekeyed(number, written) for number in range(1, 31)))
    assert (report.new, report.refused, report.left, report.quarantined) == (0, 30, 0, 0)
    assert {rule for _, _, rule in problems(report)} == {"another_number"}
    assert hub.standing("00001") == Standing.ACTIVE


def test_company_whose_numbers_were_all_written_otherwise_keeps_its_people_where_national_ids_say_so(hub: Hub) -> None:
    hub.read(*(_rekeyed(number, "{:05}") | {"national_id": f"n{number}"} for number in range(1, 31)))
    report = hub.read(*(_rekeyed(number, "QY{:05}") | {"national_id": f"n{number}"} for number in range(1, 31)))
    assert (report.new, report.added, report.refused, report.quarantined) == (0, 30, 0, 30)
    assert hub.person("00001").id == hub.person("QY00001").id


def test_one_person_under_two_numbers_stays_one(hub: Hub) -> None:
    hub.read(_known("1"), _known("2"))
    report = hub.read(_known("1"), _known("2"), _known("1") | {"employee_number": "9"})
    assert problems(report) == [(4, "employee_number", "another_number")]


def test_who_comes_back_under_another_number_joins(hub: Hub) -> None:
    hub.read(_known("1"), _known("2"))
    hub.read(_known("1") | {"status": "left"}, _known("2"))
    report = hub.read(_known("1") | {"status": "left"}, _known("2"), _known("1") | {"employee_number": "9"})
    assert (report.new, report.refused) == (1, 0)


@pytest.mark.parametrize("shared", ["name", "mail"])
def test_name_alone_and_mailbox_alone_are_shared_by_many(hub: Hub, shared: str) -> None:
    hub.read(_known("1"))
    other = _known("2") | ({"name": "员工1"} if shared == "name" else {"email": "p1@qiyue.example"})
    assert hub.read(_known("1"), other).new == 1


# ---------------------------------------------------------------------- files


def test_file_of_one_company_sent_as_another_empties_no_small_company(hub: Hub) -> None:
    """All whom it should list are absent: within the limit of twenty, but no such company exists."""
    hub.read(*people(5, company="柏林"))
    hub.clock.advance(timedelta(days=1))
    report = hub.read(*(person(f"X{number}", company="柏林") for number in range(30)))
    assert (report.absent, report.left, report.quarantined) == (5, 0, 5)
    assert hub.standing("00001", "柏林") == Standing.ACTIVE
    # With one of them listed it is a company in which four have left.
    report = hub.read(*(person(f"X{number}", company="柏林") for number in range(30)), person("00001", company="柏林"))
    assert (report.absent, report.left, report.quarantined) == (4, 4, 0)


def test_company_of_which_the_file_changes_somebody_is_not_another(hub: Hub) -> None:
    """Whom a row of this file was written of has been listed, as who stays as they are."""
    hub.read(*people(6, company="柏林"))
    hub.clock.advance(timedelta(days=1))
    report = hub.read(person("00001", company="柏林", title="经理"))
    assert (report.changed, report.absent, report.left, report.quarantined) == (1, 5, 5, 0)


def test_four_of_a_small_company_may_all_go(hub: Hub) -> None:
    hub.read(*people(4, company="柏林"))
    hub.clock.advance(timedelta(days=1))
    report = hub.read(person("X", company="柏林"))
    assert (report.absent, report.left, report.quarantined) == (4, 4, 0)


def test_snapshot_without_rows_is_refused(hub: Hub) -> None:
    hub.read(person("1"))
    with pytest.raises(Invalid) as caught:
        hub.read()
    assert caught.value.rule == "hr_file.empty"
    assert hub.read(snapshot=False).rows == 0
    assert hub.standing("1") == Standing.ACTIVE


def test_company_that_is_not_named_any_more_is_told(hub: Hub) -> None:
    """Renamed in the HR system, or left out: its people stay, and somebody has to hear of it."""
    hub.read(person("1"), person("2", company="柏林"))
    assert hub.read(person("1"), person("3", company="柏林分公司")).companies_not_named == ["柏林"]
    assert hub.read(person("1"), person("2", company="柏林", title="甲")).companies_not_named == ["柏林分公司"]
    assert hub.read(person("1"), snapshot=False).companies_not_named == []
    assert hub.standing("2", "柏林") == Standing.ACTIVE


def _halves(hub: Hub, first: str, second: str) -> Any:
    # Of an even number of bytes in each value, as half of all are: read as GB18030 every one is good.
    same = {"title": "信息技术部高级工程师", "name": "欧阳晓明", "given_name": "", "family_name": "欧阳"}
    rows = [person(f"{number:05}", **same) for number in range(1, 41)]
    path, other = hub.write(*rows[:20]), hub.write(*rows[20:])
    _, _, rest = other.read_text().partition("\n")
    path.write_bytes(path.read_text().encode(first) + rest.encode(second))
    return path


@pytest.mark.parametrize(("first", "second"), [("utf-8", "gb18030"), ("gb18030", "utf-8")])
def test_file_of_two_encodings_is_refused_whichever_comes_first(hub: Hub, first: str, second: str) -> None:
    with pytest.raises(Invalid) as caught:
        hub.take(_halves(hub, first, second))
    assert caught.value.rule == "hr_file.encoding"


def test_file_of_one_encoding_is_read(hub: Hub) -> None:
    assert hub.take(_halves(hub, "gb18030", "gb18030")).new == 40


# ---------------------------------------------------------------------- two files at once


def _meanwhile(hub: Hub, newer: Any, at: int, **options: Any) -> Any:
    """`progress` that takes a newer file in once."""
    taken: list[Any] = []

    def told(rows: int) -> None:
        if rows >= at and not taken:
            taken.append(None)
            taken[0] = hub.take(newer, **options)

    return told


def test_who_left_by_the_newer_file_is_not_brought_back_by_the_older_one(hub: Hub) -> None:
    """The older file is still being read: its rows about them come later than the newer one's."""
    hub.read(*people(300))
    newer = [each | ({"status": "left"} if each["employee_number"] == "00290" else {}) for each in people(300)]
    told = _meanwhile(hub, hub.write(*newer), 1)
    hub.read(*people(300, title="经理"), progress=told)
    assert hub.standing("00290") == Standing.LEFT


def test_who_is_listed_by_the_newer_file_is_not_ended_by_the_older_one(hub: Hub) -> None:
    hub.read(*people(30))
    older = [each | ({"status": "left"} if each["employee_number"] == "00003" else {}) for each in people(30)]
    report = hub.read(*older, progress=_meanwhile(hub, hub.write(*people(31)), 1))
    assert (hub.standing("00003"), report.left) == (Standing.ACTIVE, 0)


def test_who_is_said_to_have_left_leaves_when_the_newer_file_says_nothing_of_them(hub: Hub) -> None:
    hub.read(*people(30))
    older = [each | ({"status": "left"} if each["employee_number"] == "00003" else {}) for each in people(30)]
    newer = hub.write(person("00007", title="经理"))
    hub.read(*older, progress=_meanwhile(hub, newer, 1, snapshot=False))
    assert hub.standing("00003") == Standing.LEFT


# ---------------------------------------------------------------------- releases


def _held(hub: Hub, **changes: str) -> tuple[str, Any, Any]:
    """A run that holds the leaves of 30 people; and two of another company who may release them."""
    others = [person(number, company="柏林") for number in ("00001", "00002")]
    hub.read(*people(32), *others)
    hub.clock.advance(timedelta(hours=1))
    report = hub.read(*people(2, **changes), *others)
    assert report.quarantined == 30
    return report.run_id, hub.approver("00001", "柏林"), hub.approver("00002", "柏林")


def _release(hub: Hub, run: str, *who: Any) -> None:
    for each in who:
        hub.release(run, each)


def test_release_lets_nobody_go_whom_a_newer_word_of_the_file_keeps(hub: Hub) -> None:
    run, one, other = _held(hub)
    hub.read(person("00020", title="经理"), snapshot=False)
    _release(hub, run, one, other)
    assert (hub.standing("00020"), hub.standing("00021")) == (Standing.ACTIVE, Standing.LEFT)


def test_release_lets_nobody_go_who_works_for_another_company_by_now(hub: Hub) -> None:
    run, one, other = _held(hub)
    with hub.database.transaction() as session:
        tokyo = create_organization(
            session, code="tokyo", name="东京", kind=OrganizationKind.SUBSIDIARY, parent_id=root_organization(session),
            time_zone="Asia/Tokyo", now=hub.clock(),
        )  # fmt: skip
    hub.door(
        lambda who, post: intake.Move(
            principal_id=who, employment_id=post, values={"organization_id": tokyo, "department_id": None}
        ),
        "00020",
    )
    _release(hub, run, one, other)
    assert hub.standing("00020", "东京") == Standing.ACTIVE
    assert hub.standing("00021") == Standing.LEFT


def test_release_lets_nobody_go_who_left_and_came_back_since(hub: Hub) -> None:
    run, one, other = _held(hub)
    facts = hub.person("00020").employments[0]
    hub.door(lambda who, _: intake.Offboard(principal_id=who), "00020")
    hub.clock.advance(timedelta(days=2))
    with hub.database.read() as session:
        root = session.execute(select(Employment.organization_id).where(Employment.id == facts.id)).scalar_one()
    again = intake.EmploymentFacts(
        organization_id=root, employee_number="00020", type=facts.type, starts_on=hub.clock().date(),
        state=EmploymentState.ACTIVE,
    )  # fmt: skip
    hub.door(lambda who, _: intake.AddEmployment(principal_id=who, employment=again), "00020")
    _release(hub, run, one, other)
    assert (hub.standing("00020"), hub.standing("00021")) == (Standing.ACTIVE, Standing.LEFT)


def test_held_change_that_does_not_apply_any_more_is_dropped_and_not_counted_as_released(hub: Hub) -> None:
    run, one, other = _held(hub)
    hub.read(person("00020", title="经理"), snapshot=False)
    hub.release(run, one)
    released = hub.release(run, other)
    assert (released.changes, released.left) == (29, 29)
    with hub.database.read() as session:
        who = hub.person("00020").id
        assert session.execute(select(HeldChange.state).where(HeldChange.principal_id == who)).scalar_one() == "dropped"
        assert list_held(session, run_id=run) == []


def test_release_waits_for_a_newer_file_that_is_being_read(hub: Hub) -> None:
    """The newer file lists them as before: rows that say nothing new bring nobody back whom a release let go."""
    run, one, other = _held(hub)
    hub.release(run, one)
    refused: list[Conflict] = []

    def meanwhile(_rows: int) -> None:
        if not refused:
            with pytest.raises(Conflict) as caught:
                hub.release(run, other)
            refused.append(caught.value)
            assert carry_out(hub.database, hub.keyring, now=hub.clock()) == 0

    others = [person(number, company="柏林") for number in ("00001", "00002")]
    hub.read(*people(32), *others, progress=meanwhile, allow_replay=True)
    assert refused[0].rule == "release.newer_run"
    assert hub.standing("00020") == Standing.ACTIVE
    with hub.database.read() as session:
        assert list_held(session) == []


def test_what_two_people_have_approved_waits_for_a_newer_file_too(hub: Hub) -> None:
    run, one, other = _held(hub)
    with hub.database.transaction() as session:
        companies = [group.organization_id for group in held_groups(session, run_id=run)]
        for who in (one, other):
            approve(session, run, companies, approver=who, now=hub.clock())
    done: list[int] = []
    others = [person(number, company="柏林") for number in ("00001", "00002")]
    hub.read(
        *people(32),
        *others,
        progress=lambda _: done.append(carry_out(hub.database, hub.keyring, now=hub.clock())),
        allow_replay=True,
    )
    assert done[0] == 0
    assert hub.standing("00020") == Standing.ACTIVE


def test_release_does_not_wait_for_a_newer_run_that_was_broken_off(hub: Hub) -> None:
    run, one, other = _held(hub)

    def broken(_rows: int) -> None:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        hub.read(*people(32), progress=broken)
    hub.clock.advance(timedelta(hours=2))
    _release(hub, run, one, other)
    assert hub.standing("00020") == Standing.LEFT


def test_nobody_releases_a_run_that_holds_their_own_leave(hub: Hub) -> None:
    run, one, _other = _held(hub)
    leaver = hub.approver("00020")
    with pytest.raises(Conflict) as caught:
        hub.release(run, leaver)
    assert caught.value.rule == "release.own_row"
    # Whose leave came to be held after they had said yes counts no more either.
    hub.release(run, one)
    with hub.database.transaction() as session:
        held = select(HeldChange.id).where(HeldChange.principal_id == leaver.id).scalar_subquery()
        session.execute(update(HeldChange).where(HeldChange.id == held).values(principal_id=one.id))
    third = hub.approver("00002", "柏林")
    assert hub.release(run, third).state == "waiting"


@pytest.mark.parametrize("shared", [{"email": "zhao@qiyue.example"}, {"mobile": "13700000001"}])
def test_one_human_under_two_accounts_is_not_two_people(hub: Hub, shared: Mapping[str, str]) -> None:
    run, one, other = _held(hub)
    for who in (one, other):
        with hub.database.transaction() as session:
            wish = intake.UpdatePerson(principal_id=who.id, values=dict(shared))
            transition(session, [wish], now=hub.clock(), actor=one, door="console").only()
    hub.release(run, one)
    with pytest.raises(Conflict) as caught:
        hub.release(run, other)
    assert caught.value.rule == "release.same_person"
    assert hub.standing("00020") == Standing.ACTIVE
