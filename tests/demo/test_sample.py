"""The sample group's HR file: what the story needs is in it, and exactly a dozen rows are refused."""

from __future__ import annotations

import csv
from collections import Counter
from datetime import date, timedelta
from pathlib import Path

import pytest

from idhub.demo.sample import COMPANIES, FAULTS, HEADQUARTERS, SAMPLE_SIGNINS, SampleFile, write_hr_file
from providers.hr_file import HrFile, HrRow, HrStatus, RefusedRow

TODAY = date(2026, 11, 23)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> SampleFile:
    return write_hr_file(tmp_path_factory.mktemp("sample") / "people.csv", today=TODAY)


@pytest.fixture(scope="module")
def records(sample: SampleFile) -> list[HrRow | RefusedRow]:
    with HrFile(sample.path) as file:
        return list(file.records())


@pytest.fixture(scope="module")
def rows(records: list[HrRow | RefusedRow]) -> list[HrRow]:
    return [each for each in records if isinstance(each, HrRow)]


def test_exactly_a_dozen_rows_are_refused_each_by_another_rule(
    sample: SampleFile, records: list[HrRow | RefusedRow]
) -> None:
    refused = [each for each in records if isinstance(each, RefusedRow)]
    found = [(problem.line, problem.field, problem.rule) for each in refused for problem in each.problems]
    assert found == [(fault.line, fault.field, fault.rule) for fault in sample.faults]
    assert len(found) == len(refused) == len({rule for _, _, rule in found}) == len(FAULTS) == 12
    assert len(records) == sample.rows


def test_two_thousand_people_of_whom_some_hold_two_posts(rows: list[HrRow]) -> None:
    posts = Counter(row.national_id for row in rows)
    assert len(posts) == 2000
    assert set(posts.values()) == {1, 2}
    assert 20 <= sum(count == 2 for count in posts.values()) <= 60
    assert 2000 < len(rows) + 12 < 2100
    twice = {national_id for national_id, count in posts.items() if count == 2}
    for national_id in twice:
        first, second = [row for row in rows if row.national_id == national_id]
        assert first.name == second.name
        assert first.company != second.company


def test_every_kind_of_life_is_in_it(rows: list[HrRow]) -> None:
    assert {row.employment_type.value for row in rows} == {"regular", "contractor", "intern", "dispatched"}
    assert {row.status for row in rows} == set(HrStatus)
    assert sum(row.start_on > TODAY for row in rows) >= 10
    assert all(row.end_on for row in rows if row.employment_type == "contractor")
    assert all(row.end_on and row.end_on <= TODAY for row in rows if row.status is HrStatus.LEFT)
    assert all(row.end_on is None or row.end_on > TODAY for row in rows if row.status is HrStatus.ACTIVE)
    assert max(len(row.department) for row in rows) >= 3


def test_several_companies_in_several_time_zones_with_dealers_and_suppliers(rows: list[HrRow]) -> None:
    assert {row.company for row in rows} == {company.name for company in COMPANIES}
    assert {"Europe/Berlin", "Asia/Shanghai", "America/Detroit"} == {company.time_zone for company in COMPANIES}
    assert {company.kind.value for company in COMPANIES} >= {"dealer", "supplier", "subsidiary"}


def test_every_manager_is_in_the_file_and_nobody_manages_themself(rows: list[HrRow]) -> None:
    posts = {(row.company, row.employee_number) for row in rows}
    managed = [row for row in rows if row.manager_employee_number]
    assert len(managed) > 1900
    assert all((row.manager_company or row.company, row.manager_employee_number) in posts for row in managed)
    assert all(row.notice is None for row in rows)


def test_people_of_the_story_stand_at_headquarters(rows: list[HrRow]) -> None:
    by_number = {row.employee_number: row for row in rows if row.company == HEADQUARTERS}
    names = Counter(row.name for row in rows)
    for part in SAMPLE_SIGNINS.values():
        row = by_number[part.employee_number]
        assert (row.name, row.email) == (part.name, f"{part.mail}@qiyue.example")
        assert row.status is HrStatus.ACTIVE
        assert row.start_on <= TODAY - timedelta(days=60)
        assert names[part.name] == 1
    assert by_number[SAMPLE_SIGNINS["not_entitled"].employee_number].employment_type == "contractor"
    assert SAMPLE_SIGNINS["administrator"].employee_number == "QY000123"


def test_mail_addresses_are_unique_but_for_second_posts_and_are_reserved(rows: list[HrRow]) -> None:
    owners: dict[str, set[str | None]] = {}
    for row in rows:
        if row.email:
            owners.setdefault(row.email, set()).add(row.national_id)
    assert all(len(people) == 1 for people in owners.values())
    assert all(email.endswith("@qiyue.example") for email in owners)


def test_leading_zeros_are_in_it(rows: list[HrRow]) -> None:
    assert any(row.employee_number == "000017" for row in rows)


def test_same_day_and_seed_give_the_same_bytes(sample: SampleFile, tmp_path: Path) -> None:
    again = write_hr_file(tmp_path / "again.csv", today=TODAY)
    other = write_hr_file(tmp_path / "other.csv", today=TODAY, seed=1)
    assert again.path.read_bytes() == sample.path.read_bytes() != other.path.read_bytes()


def test_opens_with_a_byte_order_mark_for_spreadsheets(sample: SampleFile) -> None:
    assert sample.path.read_bytes().startswith(b"\xef\xbb\xbf")
    with sample.path.open(encoding="utf-8-sig", newline="") as stream:
        assert len(list(csv.reader(stream))) == sample.rows + 1


def test_more_people_and_more_faults_for_benchmarks(tmp_path: Path) -> None:
    big = write_hr_file(tmp_path / "big.csv", today=TODAY, people=12_000, faults=36)
    with HrFile(big.path) as file:
        refused = [each for each in file.records() if isinstance(each, RefusedRow)]
    assert [each.line for each in refused] == [fault.line for fault in big.faults]
    assert len(refused) == 36
