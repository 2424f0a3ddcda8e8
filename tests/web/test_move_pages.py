"""Moving somebody: what the preview says is gained, lost and kept; what confirming does; what is refused."""

import re
from datetime import date, timedelta

import pytest
from sqlalchemy import func, insert, select, update
from starlette.testclient import TestClient

from audit.tables import audit_events
from idhub.access.tables import Application, EntitlementRule
from idhub.authority import LOCAL, HubRole, assign_role
from idhub.changes import COMMAND_LINE
from idhub.db import new_id
from idhub.delivery import queue
from idhub.delivery.tables import Delivery
from idhub.directory.people import PersonView, show_person
from idhub.lifecycle import commands
from idhub.lifecycle.commands import Caller
from tests.support.clock import Clock
from tests.support.row_counts import row_counts
from tests.web.conftest import SignIn
from tests.web.html import rows_of, text_of, token_of
from tests.web.sample import SampleHub

SQLITE = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
HR = "沈佳宁"
NAME = "赵明轩"


def person_of(hub: SampleHub, name: str = NAME) -> PersonView:
    """The person as they are."""
    with hub.database.read() as session:
        return show_person(session, hub.people[name])


def fields_of(page: str) -> dict[str, str]:
    """The form as a browser would send it back untouched."""
    form = page.partition('id="post-form"')[2].partition("</form>")[0]
    found = dict(re.findall(r'<input[^>]* name="(\w+)"[^>]* value="([^"]*)"', form))
    for name, body in re.findall(r'<select[^>]* name="(\w+)"[^>]*>(.*?)</select>', form, re.S):
        chosen = re.search(r'<option value="([^"]*)" selected', body)
        found[name] = chosen[1] if chosen else ""
    return found


def preview(client: TestClient, hub: SampleHub, **changes: str) -> tuple[str, dict[str, str]]:
    """The page after the first press, and the fields of the second."""
    path = f"/hr/people/{hub.people[NAME]}/move"
    fields = {**fields_of(client.get(path).text), **changes, "step": "preview"}
    page = client.post(path, data=fields).text
    found = re.search(r'name="fingerprint" value="([^"]+)"', page)
    return page, {**fields, "step": "confirm", "fingerprint": found[1] if found else ""}


def rule_for_mobility(hub: SampleHub) -> None:
    """Let the analytics be for people of QYM alone, and the PLM for those of QYC alone."""
    with hub.database.transaction() as session:
        ids = {row.slug: row.id for row in session.execute(select(Application.id, Application.slug))}
        session.execute(
            update(EntitlementRule)
            .where(EntitlementRule.application_id == ids["plm"])
            .values(rule='employments.companyCode eq "QYC"')
        )
        session.execute(
            insert(EntitlementRule).values(
                id=new_id("rul"), application_id=ids["bi"], role="analyst", rule='employments.companyCode eq "QYM"',
                valid_from=hub.clock(), recorded_at=hub.clock(),
            )
        )  # fmt: skip


def test_a_preview_names_gained_lost_and_kept_and_writes_nothing(hub: SampleHub, sign_in: SignIn) -> None:
    rule_for_mobility(hub)
    client = sign_in(HR)
    path = f"/hr/people/{hub.people[NAME]}/move"
    fields = {**fields_of(client.get(path).text), "company": "QYM", "department": "", "step": "preview"}
    before = row_counts(hub.database)

    page = client.post(path, data=fields).text

    assert row_counts(hub.database) == before
    assert rows_of(page) == [
        "gained:bi", "lost:plm", *[f"kept:{slug}" for slug in ("expenses", "gitlab", "jira", "mail", "sap")],
    ]  # fmt: skip
    assert (text_of(page, "gained"), text_of(page, "lost"), text_of(page, "kept")) == ("1", "1", "5")
    assert "Opens at sign-in; no account is made" in page
    assert page.count("Deactivate account") == 1
    assert page.count("Update account") == 5
    assert "Qiyue Passenger Cars" in page.partition("What is recorded")[2]
    assert "Qiyue Mobility" in page.partition("What is recorded")[2]
    assert person_of(hub).main.company_code == "QYC"  # type: ignore[union-attr]


def test_confirming_moves_and_tells_the_applications(hub: SampleHub, sign_in: SignIn) -> None:
    rule_for_mobility(hub)
    client = sign_in(HR)
    _, fields = preview(client, hub, company="QYM", department="车联网部", title="架构师", manager="周子昂")

    response = client.post(f"/hr/people/{hub.people[NAME]}/move", data=fields)

    assert response.status_code == 303
    main = person_of(hub).main
    assert main is not None
    assert (main.company_code, main.department, main.title, main.manager) == ("QYM", "车联网部", "架构师", "周子昂")
    with hub.database.read() as session:
        pending = session.execute(
            select(Delivery.operation, func.count())
            .where(Delivery.principal_id == hub.people[NAME], Delivery.state == "pending")
            .group_by(Delivery.operation)
        ).all()
        event = session.execute(
            select(audit_events.c.body).where(audit_events.c.type.in_(("person.moved", "employment.changed")))
            .order_by(audit_events.c.id.desc()).limit(1)
        ).scalar_one()  # fmt: skip
    assert {row[0]: row[1] for row in pending} == {"deprovision": 1, "provision": 5}
    assert b'"door":"console"' in bytes(event)


def test_the_same_move_sent_twice_is_one_move(hub: SampleHub, sign_in: SignIn) -> None:
    client, path = sign_in(HR), f"/hr/people/{hub.people[NAME]}/move"
    _, fields = preview(client, hub, title="副部长")

    first = client.post(path, data=fields)
    after_first = row_counts(hub.database)
    second = client.post(path, data=fields)

    assert first.status_code == second.status_code == 303
    assert row_counts(hub.database) == after_first
    assert person_of(hub).main.title == "副部长"  # type: ignore[union-attr]


@SQLITE
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "Nothing changes: every field is as it is."),
        ({"company": "NOPE"}, "There is no such company, or you may not employ people there."),
        ({"employment_type": ""}, "Choose one of the listed types."),
        ({"department": "/"}, "A part of the department path is empty."),
        ({"title": "x" * 201}, "This is too long."),
        ({"manager": NAME}, "Nobody manages themself."),
        ({"manager": "nobody"}, "Nobody is named so, or they have left."),
        ({"end_date": "2026-11-22"}, "The last day has passed."),
        ({"end_date": "1999-01-01"}, "The end lies before the start."),
        ({"end_date": "never"}, "The date could not be read."),
    ],
)
def test_what_cannot_be_is_said_and_changes_nothing(
    hub: SampleHub, sign_in: SignIn, changes: dict[str, str], sentence: str
) -> None:
    client, path = sign_in(HR), f"/hr/people/{hub.people[NAME]}/move"
    fields = {**fields_of(client.get(path).text), **changes, "step": "preview"}
    before = row_counts(hub.database, with_log=False)

    response = client.post(path, data=fields)

    assert response.status_code == 409
    assert sentence in response.text
    assert 'data-test="confirm"' not in response.text
    assert row_counts(hub.database, with_log=False) == before


@SQLITE
def test_a_plan_that_changed_meanwhile_is_read_again(hub: SampleHub, sign_in: SignIn) -> None:
    client, path = sign_in(HR), f"/hr/people/{hub.people[NAME]}/move"
    _, fields = preview(client, hub, company="QYM", department="")
    rule_for_mobility(hub)

    response = client.post(path, data=fields)

    assert response.status_code == 409
    assert "What would follow has changed since you read it." in response.text
    assert "lost:plm" in rows_of(response.text)
    assert person_of(hub).main.company_code == "QYC"  # type: ignore[union-attr]


@SQLITE
def test_a_manager_who_has_left_stays_until_another_is_named(hub: SampleHub, sign_in: SignIn) -> None:
    client, path = sign_in(HR), f"/hr/people/{hub.people[NAME]}/move"
    _, fields = preview(client, hub, manager="魏东来")
    client.post(path, data=fields)
    hub.leave("魏东来")

    _, fields = preview(client, hub, title="副部长")
    client.post(path, data=fields)

    assert person_of(hub).main.manager == "魏东来"  # type: ignore[union-attr]
    assert person_of(hub).main.title == "副部长"  # type: ignore[union-attr]


@SQLITE
def test_an_end_and_a_leave_that_is_registered_are_shown(hub: SampleHub, sign_in: SignIn, clock: Clock) -> None:
    client = sign_in(HR)
    page, fields = preview(client, hub, end_date="2026-12-31")
    assert "31 Dec 2026" in page.partition("What is recorded")[2]
    client.post(f"/hr/people/{hub.people[NAME]}/move", data=fields)
    assert str(person_of(hub).main.ends_on) == "2026-12-31"  # type: ignore[union-attr]

    hub.leave(NAME, at=clock() + timedelta(days=1))

    assert "A leave is registered for" in client.get(f"/hr/people/{hub.people[NAME]}/move").text


@SQLITE
def test_a_queue_that_stands_still_is_said_before_it_matters(hub: SampleHub, sign_in: SignIn) -> None:
    with hub.database.transaction() as session:
        mail = session.execute(select(Application.id).where(Application.slug == "mail")).scalar_one()
        queue.pause(session, mail, now=hub.clock(), actor=COMMAND_LINE, note="maintenance")

    page, _ = preview(sign_in(HR), hub, title="副部长")

    assert page.count("Queue is held up") == 1


@SQLITE
@pytest.mark.parametrize("who", ["高远", "何慕青", "郑可欣"])
def test_who_may_not_change_people_moves_nobody(hub: SampleHub, sign_in: SignIn, who: str) -> None:
    client, path = sign_in(who), f"/hr/people/{hub.people[NAME]}/move"

    assert client.get(path).status_code == 404
    fields = {"csrf_token": token_of(client.get("/").text), "company": "QYM", "step": "confirm"}
    assert client.post(path, data=fields).status_code == 404
    assert person_of(hub).main.company_code == "QYC"  # type: ignore[union-attr]


@SQLITE
def test_hr_of_one_company_moves_nobody_into_another(hub: SampleHub, sign_in: SignIn) -> None:
    with hub.database.transaction() as session:
        assign_role(
            session, hub.people["郑可欣"], HubRole.HR, organization_id=hub.organizations["QYC"], now=hub.clock(),
            assigned_by="cli",
        )  # fmt: skip
    client, path = sign_in("郑可欣"), f"/hr/people/{hub.people[NAME]}/move"
    fields = {**fields_of(client.get(path).text), "step": "confirm"}
    assert "QYM" not in client.get(path).text

    response = client.post(path, data={**fields, "company": "QYM"})

    assert "There is no such company, or you may not employ people there." in response.text
    assert client.get(f"/hr/people/{hub.people['周子昂']}/move").status_code == 404


@SQLITE
def test_hr_of_one_company_neither_sees_nor_moves_a_further_post_in_another(hub: SampleHub, sign_in: SignIn) -> None:
    """The person is theirs, by the main post; the other post does not exist for them."""
    with hub.database.transaction() as session:
        assign_role(
            session, hub.people["郑可欣"], HubRole.HR, organization_id=hub.organizations["QYC"], now=hub.clock(),
            assigned_by="cli",
        )  # fmt: skip
        commands.rehire(
            session, Caller(subject=LOCAL, actor=COMMAND_LINE, door="cli"), hub.people[NAME],
            organization_id=hub.organizations["QYM"], employee_number="QYM009999", employment_type="regular",
            starts_on=date(2026, 1, 1), title="秘密顾问", now=hub.clock(),
        )  # fmt: skip
    assert person_of(hub).main.company_code == "QYC"  # type: ignore[union-attr]
    further = next(post for post in person_of(hub).employments if post.company_code == "QYM")
    client, path = sign_in("郑可欣"), f"/hr/people/{hub.people[NAME]}/move"
    own = client.get(path)
    assert own.status_code == 200

    for answer in (
        client.get(path, params={"employment": further.id}),
        client.post(path, data={**fields_of(own.text), "employment": further.id, "title": "x", "step": "preview"}),
        client.post(path, data={**fields_of(own.text), "employment": further.id, "title": "x", "step": "confirm"}),
    ):
        assert answer.status_code == 404
        assert "秘密顾问" not in answer.text
    assert next(post for post in person_of(hub).employments if post.id == further.id).title == "秘密顾问"


@SQLITE
def test_nobody_moves_themselves(hub: SampleHub, sign_in: SignIn) -> None:
    client, path = sign_in(HR), f"/hr/people/{hub.people[HR]}/move"
    page = client.get(path).text
    assert "You cannot change your own post. Ask a colleague." in page
    assert 'data-test="move"' not in client.get(f"/hr/people/{hub.people[HR]}").text

    fields = {"csrf_token": token_of(page), "company": "QYM", "employment_type": "regular", "step": "confirm"}
    assert client.post(path, data=fields).status_code == 409
    assert person_of(hub, HR).main.company_code == "QYC"  # type: ignore[union-attr]


@SQLITE
def test_a_further_employment_is_moved_by_itself(hub: SampleHub, sign_in: SignIn) -> None:
    with hub.database.transaction() as session:
        commands.rehire(
            session, Caller(subject=LOCAL, actor=COMMAND_LINE, door="cli"), hub.people[NAME],
            organization_id=hub.organizations["QYM"], employee_number="QYM-7", employment_type="dispatched",
            starts_on=hub.clock().date(), now=hub.clock(),
        )  # fmt: skip
    other = next(e for e in person_of(hub).employments if e.employee_number == "QYM-7")
    client, path = sign_in(HR), f"/hr/people/{hub.people[NAME]}/move"
    assert f"?employment={other.id}" in client.get(path).text

    page = client.get(f"{path}?employment={other.id}").text
    fields = {**fields_of(page), "title": "标定负责人", "step": "preview"}
    shown = client.post(path, data=fields).text
    found = re.search(r'name="fingerprint" value="([^"]+)"', shown)
    client.post(path, data={**fields, "step": "confirm", "fingerprint": found[1] if found else ""})

    titles = {e.employee_number: e.title for e in person_of(hub).employments}
    assert titles["QYM-7"] == "标定负责人"
    assert titles[person_of(hub).employee_number] == "主任工程师"
    assert client.get(f"{path}?employment=emp_unknown").status_code == 404


@SQLITE
def test_who_has_left_is_not_moved(hub: SampleHub, sign_in: SignIn) -> None:
    hub.leave(NAME)
    client, path = sign_in(HR), f"/hr/people/{hub.people[NAME]}/move"

    assert client.get(path).headers["location"] == f"/hr/people/{hub.people[NAME]}"
    page = client.get(f"/hr/people/{hub.people[NAME]}").text
    assert 'data-test="move"' not in page
    assert f'href="/hr/people/{hub.people[NAME]}/rehire"' in page
