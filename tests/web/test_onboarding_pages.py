"""The form of a first day: what it refuses, what its preview shows, what confirming does, and who may."""

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select
from starlette.testclient import TestClient

from audit.tables import audit_events
from idhub.delivery.tables import Delivery
from idhub.directory.kinds import OrganizationKind, Standing
from idhub.directory.organizations import create_organization
from idhub.directory.people import PersonView, find_person, show_person
from idhub.directory.tables import Department, Person, Principal
from tests.support.clock import Clock
from tests.support.row_counts import row_counts
from tests.web.conftest import SignIn
from tests.web.html import rows_of, text_of, token_of
from tests.web.sample import SampleHub

SQLITE = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
PATH = "/hr/people/new"
HR = "沈佳宁"
NEW = {
    "display_name": "陈雨桐",
    "given_name": "Yutong",
    "family_name": "Chen",
    "email": "chen.yutong@qiyue.example",
    "mobile": "13800138111",
    "company": "QYC",
    "employee_number": "QY-0900001",
    "employment_type": "regular",
    "department": "研发中心/底盘开发部",
    "title": "工程师",
    "manager": "魏东来",
    "start_date": "2026-12-01",
    "end_date": "",
}


def preview(client: TestClient, path: str = PATH, **changes: str) -> tuple[str, dict[str, str]]:
    """The page after the first press, and the fields of the second."""
    fields = {**NEW, **changes, "csrf_token": token_of(client.get("/").text), "step": "preview"}
    page = client.post(path, data=fields).text
    found = re.search(r'name="fingerprint" value="([^"]+)"', page)
    return page, {**fields, "step": "confirm", "fingerprint": found[1] if found else ""}


def person_of(hub: SampleHub, name: str) -> PersonView:
    """The person of that name."""
    with hub.database.read() as session:
        person_id = session.execute(select(Person.id).where(Person.display_name == name)).scalar_one()
        return show_person(session, person_id)


def people(hub: SampleHub) -> int:
    """How many there are."""
    with hub.database.read() as session:
        return session.execute(select(func.count()).select_from(Principal)).scalar_one()


def test_a_preview_shows_what_follows_and_writes_nothing(hub: SampleHub, sign_in: SignIn) -> None:
    client = sign_in(HR)
    before = row_counts(hub.database)

    page, _ = preview(client)

    assert row_counts(hub.database) == before
    assert "Preview, nothing has been written" in page
    assert text_of(page, "standing") == "Staged"
    assert text_of(page, "begins") == "1 Dec 2026"
    assert "from 1 Dec 2026, 00:00 (UTC+8)" in page
    assert rows_of(page) == [f"gained:{slug}" for slug in ("expenses", "gitlab", "jira", "mail", "plm", "sap")]
    assert text_of(page, "deliveries") == "6"
    assert "Create account" in page


def test_confirming_makes_the_person_through_the_console(hub: SampleHub, sign_in: SignIn) -> None:
    client = sign_in(HR)
    _, fields = preview(client)

    response = client.post(PATH, data=fields)

    person = person_of(hub, "陈雨桐")
    assert response.status_code == 303
    assert response.headers["location"] == f"/hr/people/{person.id}"
    assert person.standing == Standing.STAGED
    assert person.main is not None
    assert (person.main.starts_on, person.main.department, person.main.manager, person.main.title) == (
        date(2026, 12, 1), "研发中心/底盘开发部", "魏东来", "工程师",
    )  # fmt: skip
    with hub.database.read() as session:
        row = session.execute(
            select(audit_events.c.body, audit_events.c.actor_id).where(audit_events.c.type == "person.onboarded")
            .order_by(audit_events.c.id.desc()).limit(1)
        ).one()  # fmt: skip
    assert b'"door":"console"' in bytes(row.body)
    assert row.actor_id == hub.people[HR]
    assert "Staged" in client.get(response.headers["location"]).text


def test_a_first_day_that_is_here_begins_at_once(hub: SampleHub, sign_in: SignIn) -> None:
    client = sign_in(HR)
    page, fields = preview(client, start_date="today")
    assert text_of(page, "standing") == "Active"

    client.post(PATH, data=fields)

    person = person_of(hub, "陈雨桐")
    assert person.standing == Standing.ACTIVE
    with hub.database.read() as session:
        planned = session.execute(
            select(func.count()).select_from(Delivery).where(Delivery.principal_id == person.id)
        ).scalar_one()  # fmt: skip
    assert planned == 6


def test_the_same_form_sent_twice_makes_one_person(hub: SampleHub, sign_in: SignIn) -> None:
    client = sign_in(HR)
    _, fields = preview(client)
    before = people(hub)

    first, second = client.post(PATH, data=fields), client.post(PATH, data=fields)

    assert first.status_code == second.status_code == 303
    assert first.headers["location"] == second.headers["location"]
    assert people(hub) == before + 1


def test_two_presses_at_the_same_moment_make_one_person(hub: SampleHub, sign_in: SignIn) -> None:
    before = people(hub)
    presses = []
    for _ in range(4):
        client = sign_in(HR)
        presses.append((client, preview(client)[1]))

    with ThreadPoolExecutor(len(presses)) as pool:
        answers = list(pool.map(lambda press: press[0].post(PATH, data=press[1]), presses))

    assert [answer.status_code for answer in answers] == [303] * 4
    assert len({answer.headers["location"] for answer in answers}) == 1
    assert people(hub) == before + 1


@SQLITE
@pytest.mark.parametrize(
    ("changes", "field", "sentence"),
    [
        ({"display_name": ""}, "display_name", "This must not be empty."),
        ({"display_name": "x" * 300}, "display_name", "This is too long."),
        ({"display_name": "a\u202eb"}, "display_name", "This contains characters that do not belong here."),
        ({"email": "nobody"}, "email", "Write one address, such as name@company.example."),
        ({"mobile": "call me"}, "mobile", "Write digits only, with an optional leading +."),
        ({"company": ""}, "company", "This must not be empty."),
        ({"company": "NOPE"}, "company", "There is no such company, or you may not employ people there."),
        ({"employee_number": ""}, "employee_number", "This must not be empty."),
        ({"employee_number": "a b"}, "employee_number", "An employee number has no blanks and no slashes."),
        ({"employment_type": "king"}, "employment_type", "Choose one of the listed types."),
        ({"department": "a//b"}, "department", "A part of the department path is empty."),
        ({"department": "/".join("x" * 20)}, "department", "The department path has too many levels."),
        ({"manager": "nobody at all"}, "manager", "Nobody is named so, or they have left."),
        ({"start_date": ""}, "start_date", "This must not be empty."),
        ({"start_date": "soon"}, "start_date", "The date could not be read."),
        ({"start_date": "2026-13-01"}, "start_date", "The date could not be read."),
        ({"start_date": "0202-01-01"}, "start_date", "The year must lie between 1900 and 2199."),
        ({"end_date": "2026-11-30"}, "end_date", "The end lies before the start."),
        ({"start_date": "2020-01-01", "end_date": "2020-02-01"}, "end_date", "The last day has passed."),
    ],
)
def test_every_field_is_judged_and_what_was_typed_stays(
    hub: SampleHub, sign_in: SignIn, changes: dict[str, str], field: str, sentence: str
) -> None:
    client = sign_in(HR)
    before = row_counts(hub.database, with_log=False)

    for step in ("preview", "confirm"):
        fields = {**NEW, **changes, "csrf_token": token_of(client.get("/").text), "step": step}
        response = client.post(PATH, data=fields)
        assert response.status_code == 409
        assert re.search(rf'<a href="#f-{field}">[\w ]+: {re.escape(sentence)}', response.text)
        assert f'id="e-{field}"' in response.text
        assert 'value="Yutong"' in response.text
        assert 'data-test="confirm"' not in response.text
    assert row_counts(hub.database, with_log=False) == before


@SQLITE
def test_all_errors_are_said_at_once(hub: SampleHub, sign_in: SignIn) -> None:
    page, _ = preview(sign_in(HR), display_name="", email="x", start_date="")

    assert re.findall(r'<li><a href="#f-(\w+)">', page) == ["display_name", "email", "start_date"]


def test_a_number_that_is_somebody_elses_is_a_conflict_with_their_name(hub: SampleHub, sign_in: SignIn) -> None:
    client = sign_in(HR)
    number = person_of(hub, "吴建国").employee_number
    before = people(hub)

    page, fields = preview(client, employee_number=number)
    response = client.post(PATH, data=fields)

    assert "This number is 吴建国&#39;s in this company." in page
    assert f'href="/hr/people/{hub.people["吴建国"]}"' in page
    assert response.status_code == 409
    assert people(hub) == before


@SQLITE
def test_what_was_not_read_is_not_written(hub: SampleHub, sign_in: SignIn) -> None:
    client = sign_in(HR)
    before = people(hub)
    _, fields = preview(client)

    changed = client.post(PATH, data={**fields, "title": "厂长"})
    unread = client.post(PATH, data={**fields, "fingerprint": ""})

    assert changed.status_code == unread.status_code == 409
    assert "What would follow has changed since you read it." in changed.text
    assert people(hub) == before


@SQLITE
def test_a_new_department_is_named_as_new_and_made_on_confirming_only(hub: SampleHub, sign_in: SignIn) -> None:
    client = sign_in(HR)

    def departments() -> list[str]:
        with hub.database.read() as session:
            return list(session.execute(select(Department.path).order_by(Department.path)).scalars())

    before = departments()
    page, fields = preview(client, department="研发中心/ 线控底盘部")

    assert departments() == before
    assert "研发中心 / 线控底盘部" in page
    assert "circle-plus" in page.partition("What is recorded")[2].partition("</section>")[0]
    client.post(PATH, data=fields)
    assert departments() == [*before, "研发中心/线控底盘部"]


@SQLITE
def test_a_contractor_is_entitled_to_nothing_here(hub: SampleHub, sign_in: SignIn) -> None:
    page, _ = preview(sign_in(HR), employment_type="contractor")

    assert rows_of(page) == []
    assert "No rule entitles to an application" in page


@SQLITE
@pytest.mark.parametrize(
    "text", ["魏东来", "per", "QYC", "p14@qiyue.example", "13800130014"], ids=["name", "id", "path", "mail", "mobile"]
)
def test_a_manager_is_named_in_any_way(hub: SampleHub, sign_in: SignIn, text: str) -> None:
    manager = person_of(hub, "魏东来")
    text = {"per": manager.id, "QYC": f"QYC/{manager.employee_number}"}.get(text, text)

    page, _ = preview(sign_in(HR), manager=text)

    assert "魏东来" in page.partition("What is recorded")[2]


@SQLITE
def test_a_name_that_several_have_lists_them(hub: SampleHub, sign_in: SignIn) -> None:
    client = sign_in(HR)
    for number in ("QY-1", "QY-2"):
        _, fields = preview(client, employee_number=number, display_name="王伟", start_date="today")
        client.post(PATH, data=fields)

    page, _ = preview(client, manager="王伟")

    assert "Several people are named so: 王伟 QYC/QY-1, 王伟 QYC/QY-2." in page


@SQLITE
def test_whoever_has_left_is_no_manager(hub: SampleHub, sign_in: SignIn) -> None:
    hub.leave("魏东来")

    page, _ = preview(sign_in(HR))

    assert "Nobody is named so, or they have left." in page


@SQLITE
@pytest.mark.parametrize("who", ["高远", "何慕青", "郑可欣"])
def test_who_may_not_change_people_finds_no_form(hub: SampleHub, sign_in: SignIn, who: str) -> None:
    client = sign_in(who)
    before = people(hub)

    assert client.get(PATH).status_code == 404
    fields = {**NEW, "csrf_token": token_of(client.get("/").text), "step": "confirm"}
    assert client.post(PATH, data=fields).status_code == 404
    assert client.get("/hr/pick/people?q=wu").status_code == 404
    assert client.get("/hr/pick/companies?q=QY").status_code == 404
    assert people(hub) == before
    assert 'data-test="onboard"' not in client.get("/hr/people").text


@SQLITE
def test_a_form_of_another_session_is_refused(hub: SampleHub, sign_in: SignIn) -> None:
    client = sign_in(HR)
    _, fields = preview(client)
    before = people(hub)

    response = client.post(PATH, data={**fields, "csrf_token": token_of(sign_in("高远").get("/").text)})

    assert response.status_code == 403
    assert people(hub) == before


@SQLITE
def test_a_doubled_field_is_refused(hub: SampleHub, sign_in: SignIn) -> None:
    client = sign_in(HR)
    body = f"csrf_token={token_of(client.get('/').text)}&company=QYC&company=QYM"

    response = client.post(PATH, content=body, headers={"content-type": "application/x-www-form-urlencoded"})

    assert response.status_code == 400
    assert "The field company was sent twice." in response.text


@SQLITE
def test_many_companies_are_searched_not_listed(hub: SampleHub, sign_in: SignIn) -> None:
    client = sign_in(HR)
    assert '<select id="f-company"' in client.get(PATH).text
    with hub.database.transaction() as session:
        for n in range(20):
            create_organization(
                session, code=f"SUB{n:02d}", name=f"子公司{n:02d}", kind=OrganizationKind.COMPANY,
                parent_id=hub.organizations["root"], time_zone="Asia/Shanghai", now=hub.clock(),
            )  # fmt: skip

    page = client.get(PATH).text

    assert '<input id="f-company"' in page
    assert 'data-pick="/hr/pick/companies"' in page
    assert [row["value"] for row in client.get("/hr/pick/companies?q=sub1").json()["rows"]] == [
        f"SUB{n}" for n in range(10, 20)
    ]
    assert len(client.get("/hr/pick/companies?q=").json()["rows"]) == 20
    page, _ = preview(client, company="子公司07")
    assert "Preview, nothing has been written" in page


@SQLITE
def test_people_are_picked_by_name_pinyin_and_number(hub: SampleHub, sign_in: SignIn) -> None:
    client = sign_in(HR)

    def picked(text: str) -> list[str]:
        answer = client.get("/hr/pick/people", params={"q": text})
        assert answer.headers["cache-control"] == "no-store"
        return [row["label"] for row in answer.json()["rows"]]

    hub.leave("林晓雯")
    assert picked("魏东") == picked("wdl") == picked("weidonglai") == ["魏东来"]
    assert picked(person_of(hub, "魏东来").employee_number.lower()) == ["魏东来"]
    assert picked("lxw") == picked("%") == picked("") == []
    assert len(picked("qy-")) == 14


# ---- rehire


def left(hub: SampleHub, clock: Clock, name: str = "赵明轩") -> PersonView:
    """Somebody who left a month ago, everywhere."""
    hub.leave(name)
    hub.deliver()
    clock.advance(timedelta(days=30))
    return person_of(hub, name)


def post_fields(person: PersonView, **changes: str) -> dict[str, Any]:
    """A post with the number the person had."""
    return {**NEW, "employee_number": person.employee_number, "company": "QYC", "start_date": "tomorrow", **changes}


def test_a_number_of_somebody_who_left_offers_the_rehire(hub: SampleHub, sign_in: SignIn, clock: Clock) -> None:
    person = left(hub, clock)
    client = sign_in(HR)
    before = people(hub)

    page, fields = preview(client, **post_fields(person))

    assert "赵明轩 had this number in this company and has left." in page
    assert f'formaction="/hr/people/{person.id}/rehire"' in page
    assert client.post(PATH, data=fields).status_code == 409
    assert people(hub) == before
    offered = client.post(f"/hr/people/{person.id}/rehire", data={**fields, "step": "preview"}).text
    assert "Nothing from before works again." in offered
    assert text_of(offered, "standing") == "Staged"
    assert 'data-test="confirm"' in offered


def test_a_rehire_is_previewed_then_made_and_brings_nothing_back(hub: SampleHub, sign_in: SignIn, clock: Clock) -> None:
    old_cookie = hub.sign_in("赵明轩")
    person = left(hub, clock)
    client, path = sign_in(HR), f"/hr/people/{person.id}/rehire"
    form = client.get(path).text
    assert f'value="{person.employee_number}"' in form
    before = row_counts(hub.database)

    page, fields = preview(client, path, **post_fields(person, start_date="today"))

    assert row_counts(hub.database) == before
    assert len(rows_of(page)) == 6
    assert "Reactivate account" in page
    first, second = client.post(path, data=fields), client.post(path, data=fields)
    assert first.status_code == second.status_code == 303
    assert first.headers["location"] == second.headers["location"] == f"/hr/people/{person.id}"
    again = person_of(hub, "赵明轩")
    assert again.standing == Standing.ACTIVE
    assert again.enrolment_epoch > 1
    client.cookies.set("idhub_session", old_cookie)
    assert client.get("/").headers["location"].startswith("/login")


@SQLITE
def test_whoever_has_not_left_is_not_rehired(hub: SampleHub, sign_in: SignIn) -> None:
    client, person = sign_in(HR), person_of(hub, "赵明轩")
    path = f"/hr/people/{person.id}/rehire"

    assert client.get(path).headers["location"] == f"/hr/people/{person.id}"
    fields = {**post_fields(person), "csrf_token": token_of(client.get("/").text), "step": "confirm"}
    response = client.post(path, data=fields)
    assert response.status_code == 409
    assert "This person has been rehired already, or never left." in response.text


@SQLITE
@pytest.mark.parametrize("who", ["高远", "何慕青", "郑可欣"])
def test_who_may_not_change_people_rehires_nobody(hub: SampleHub, sign_in: SignIn, clock: Clock, who: str) -> None:
    person = left(hub, clock)
    client, path = sign_in(who), f"/hr/people/{person.id}/rehire"

    assert client.get(path).status_code == 404
    fields = {**post_fields(person), "csrf_token": token_of(client.get("/").text), "step": "confirm"}
    assert client.post(path, data=fields).status_code == 404
    with hub.database.read() as session:
        assert show_person(session, find_person(session, person.id)).standing == Standing.LEFT
