"""The people list and a person's page: scope, search, paging, notices, suspending."""

import re

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from audit.tables import audit_events
from idhub.authority import HubRole, assign_role
from idhub.directory.organizations import root_organization
from idhub.directory.people import show_person
from idhub.directory.tables import Principal
from idhub.web.listing import Cursor
from idhub.web.queries_people import Found
from tests.web.conftest import SignIn
from tests.web.html import links_of, rows_of, token_of
from tests.web.sample import NAMES, SampleHub, Story

SQLITE = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


def _names(client: TestClient, path: str) -> list[str]:
    return re.findall(r"data-row-link>([^<]+)</a><small", client.get(path).text)


def test_nobody_signed_in_is_asked_to_and_comes_back(hub: SampleHub) -> None:
    client = TestClient(hub.app, base_url=hub.settings.issuer, follow_redirects=False)

    response = client.get("/hr/people?state=active")

    assert response.status_code == 303
    assert response.headers["location"] == "/login?return_to=%2Fhr%2Fpeople%3Fstate%3Dactive"


@pytest.mark.parametrize("path", ["/hr/people", "/hr/receipts", "/admin/apps", "/admin/deliveries", "/audit/events"])
def test_an_employee_without_a_role_finds_nothing(look: SignIn, path: str) -> None:
    response = look("郑可欣").get(path)

    assert response.status_code == 404
    assert "Not found, or you may not see it" in response.text


@SQLITE
def test_what_does_not_exist_and_what_is_outside_answer_alike(hub: SampleHub, sign_in: SignIn) -> None:
    stranger, missing = hub.people["郑可欣"], "per_" + "0" * 26
    with hub.database.transaction() as session:
        assign_role(
            session, hub.people["魏东来"], HubRole.HR, organization_id=hub.organizations["QYC"], now=hub.clock(),
            assigned_by="cli",
        )  # fmt: skip
    client = sign_in("魏东来")
    pages = [client.get(f"/hr/people/{who}") for who in (stranger, missing)]

    assert [page.status_code for page in pages] == [404, 404]
    strip = [re.sub(r'value="[^"]*"', "", page.text) for page in pages]
    assert strip[0] == strip[1]


def test_a_list_shows_only_the_subtree_of_the_role(hub: SampleHub, sign_in: SignIn) -> None:
    with hub.database.transaction() as session:
        assign_role(
            session, hub.people["魏东来"], HubRole.HR, organization_id=hub.organizations["QYM"], now=hub.clock(),
            assigned_by="cli",
        )  # fmt: skip

    shown = _names(sign_in("魏东来"), "/hr/people")

    assert set(shown) == {NAMES[n][0] for n in range(len(NAMES)) if n % 5 == 3}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("q=林晓", ["林晓雯"]),
        ("q=linxiaowen", ["林晓雯"]),
        ("q=lxw", ["林晓雯"]),
        ("q=QY-0418273", ["吴建国"]),
        ("q=KR%C3%9CGER", ["Daniel Krüger"]),
        ("q=p1@qiyue.example", ["林晓雯"]),
        ("q=%25", []),
        ("q=_", []),
        ("q=nobody", []),
        ("type=intern", ["马诗涵"]),
        ("org=QYM&q=zhou", ["周子昂"]),
    ],
)
def test_search_takes_whatever_names_a_person(look: SignIn, query: str, found: list[str]) -> None:
    assert _names(look("沈佳宁"), f"/hr/people?{query}") == found


def test_pages_follow_each_other_and_lead_back(sign_in: SignIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("idhub.web.listing.SIZES", (4, 25, 50, 100))
    client = sign_in("沈佳宁")
    path: str | None = "/hr/people?size=4&sort=-start"
    seen: list[list[str]] = []
    back: str | None = None
    while path is not None:
        page = client.get(path).text
        seen.append(rows_of(page))
        path, back = links_of(page, "next"), links_of(page, "prev")

    everyone = [row for rows in seen for row in rows]
    assert len(everyone) == len(set(everyone)) == len(NAMES)
    assert [len(rows) for rows in seen] == [4, 4, 4, 3]
    assert back is not None
    assert rows_of(client.get(back).text) == seen[-2]


@pytest.mark.parametrize(
    "query",
    [
        "sort=evil", "size=7", "state=nonsense", "after=%00", "after=AAAA", "before=e30", "type=x&size=-1",
        "after=" + "A" * 5000, "sort=number;drop",
    ],
)  # fmt: skip
def test_an_unusable_parameter_is_dropped_with_a_notice(look: SignIn, query: str) -> None:
    response = look("沈佳宁").get(f"/hr/people?{query}")

    assert response.status_code == 200
    assert "could not be used and was left out" in response.text
    assert len(rows_of(response.text)) == len(NAMES)


@pytest.mark.parametrize("text", ["WzEsMl0", "eyJhIjoxfQ", "bnVsbA", "", "W3RydWUsIngiXQ", "é", "WzFlMzA4LCJ4Il0"])
def test_a_cursor_that_we_did_not_write_is_no_cursor(text: str) -> None:
    assert Cursor.read(text) is None


def test_how_many_match_is_counted_once_and_shown_on_every_page(
    sign_in: SignIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("idhub.web.listing.SIZES", (4, 25, 50, 100))
    client = sign_in("沈佳宁")
    path: str | None = "/hr/people?q=qy&size=4"
    back: str | None = None
    seen: list[str] = []
    while path is not None:
        page = client.get(path).text
        assert f"{len(NAMES)} match" in page
        seen += rows_of(page)
        path, back = links_of(page, "next"), links_of(page, "prev")
    assert len(seen) == len(set(seen)) == len(NAMES)
    assert back is not None
    assert f"{len(NAMES)} match" in client.get(back).text


def test_what_is_not_counted_to_its_end_is_more_than_a_round_number(
    sign_in: SignIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("idhub.web.listing.SIZES", (4, 25, 50, 100))
    monkeypatch.setattr("idhub.web.queries_people._ROUND", 3)
    monkeypatch.setattr("idhub.directory.search._LOOKS_FOR_COUNT", 8)
    client = sign_in("沈佳宁")
    page = client.get("/hr/people?q=qy&state=active&size=4").text
    assert "more than 6 match" in page
    following = links_of(page, "next")
    assert following is not None
    assert "more than 6 match" in client.get(following).text
    # An order is that of all of them.
    sorted_ = client.get("/hr/people?q=qy&state=active&size=4&sort=number").text
    assert "Too many people match to sort them" in sorted_
    assert "Too many" not in client.get("/hr/people?q=qy&size=4&sort=number").text


@pytest.mark.parametrize("value", ["hit", "hit x", "hit -1", "hit 1e9", "hit 99999999999", "12", "hit ٣", "number 7"])
def test_a_count_that_we_did_not_write_is_none(value: str) -> None:
    assert Found.read(value) is None


def test_a_search_does_not_claim_an_order_that_nobody_asked_for(look: SignIn) -> None:
    client = look("沈佳宁")

    assert 'aria-sort="ascending"' in client.get("/hr/people").text
    assert "aria-sort" not in client.get("/hr/people?q=wu").text
    assert 'aria-sort="ascending"' in client.get("/hr/people?q=wu&sort=number").text


def test_a_cursor_of_another_sort_starts_from_the_beginning(look: SignIn) -> None:
    cursor = Cursor("QY", "per_x").write()

    response = look("沈佳宁").get(f"/hr/people?sort=start&after={cursor}")

    assert response.status_code == 200
    assert len(rows_of(response.text)) == len(NAMES)


def test_an_identifier_in_the_search_field_leads_to_its_page(story: Story, look: SignIn) -> None:
    client, person = look("沈佳宁"), story.hub.people["林晓雯"]

    assert client.get(f"/hr/people?q={person}").headers["location"] == f"/hr/people/{person}"
    assert client.get("/hr/people?q=r-2026-11-0387").headers["location"] == "/hr/receipts/R-2026-11-0387"


def test_no_match_says_so_and_offers_to_clear(look: SignIn) -> None:
    page = look("沈佳宁").get("/hr/people?q=nobody").text

    assert "Nobody matches these filters." in page
    assert 'href="/hr/people"' in page


def test_a_visit_is_an_event(hub: SampleHub, sign_in: SignIn) -> None:
    person = hub.people["林晓雯"]

    sign_in("何慕青").get(f"/hr/people/{person}?tab=audit")

    with hub.database.read() as session:
        visits = session.execute(
            select(audit_events.c.actor_id, audit_events.c.person_id).where(audit_events.c.type == "page.viewed")
        ).all()
    assert visits == [(hub.people["何慕青"], person)]


@SQLITE
def test_looking_at_oneself_is_no_event(hub: SampleHub, sign_in: SignIn) -> None:
    sign_in("沈佳宁").get(f"/hr/people/{hub.people['沈佳宁']}")

    with hub.database.read() as session:
        assert not session.execute(select(audit_events.c.id).where(audit_events.c.type == "page.viewed")).all()


@pytest.mark.parametrize("tab", ["overview", "receipts", "audit", "nonsense"])
def test_every_tab_opens(story: Story, look: SignIn, tab: str) -> None:
    response = look("沈佳宁").get(f"/hr/people/{story.hub.people['林晓雯']}?tab={tab}")

    assert response.status_code == 200
    assert "林晓雯" in response.text


def _standing(hub: SampleHub, name: str) -> str:
    with hub.database.read() as session:
        return session.execute(select(Principal.standing).where(Principal.id == hub.people[name])).scalar_one()


def test_suspending_and_reactivating_by_form(hub: SampleHub, sign_in: SignIn) -> None:
    client, path = sign_in("沈佳宁"), f"/hr/people/{hub.people['林晓雯']}"

    page = client.get(f"{path}?tab=suspend").text
    response = client.post(f"{path}/suspend", data={"csrf_token": token_of(page), "reason": "long leave"})
    assert (response.status_code, response.headers["location"]) == (303, path)
    assert _standing(hub, "林晓雯") == "suspended"

    page = client.get(f"{path}?tab=reactivate").text
    client.post(f"{path}/reactivate", data={"csrf_token": token_of(page)})
    assert _standing(hub, "林晓雯") == "active"


@SQLITE
def test_the_last_administrator_is_not_suspended_by_form(hub: SampleHub, sign_in: SignIn) -> None:
    """Design: nobody is left to run the hub. P14."""
    client, path = sign_in("沈佳宁"), f"/hr/people/{hub.people['高远']}"
    token = token_of(client.get(f"{path}?tab=suspend").text)
    response = client.post(f"{path}/suspend", data={"csrf_token": token, "reason": "r"})
    assert response.status_code == 409
    assert "last administrator" in response.text
    assert _standing(hub, "高远") == "active"


@SQLITE
def test_hr_of_a_company_neither_reactivates_nor_unlinks_who_has_authority_beyond_it(
    hub: SampleHub, sign_in: SignIn
) -> None:
    person = hub.people["林晓雯"]
    with hub.database.transaction() as session:
        home = show_person(session, person).organization_id
        assign_role(session, hub.people["魏东来"], HubRole.HR, organization_id=home, now=hub.clock(), assigned_by="cli")
        assign_role(
            session, person, HubRole.AUDITOR, organization_id=root_organization(session), now=hub.clock(),
            assigned_by="cli",
        )  # fmt: skip
    client, path = sign_in("魏东来"), f"/hr/people/{person}"
    token = token_of(client.get(f"{path}?tab=suspend").text)
    assert client.post(f"{path}/suspend", data={"csrf_token": token, "reason": "r"}).status_code == 303
    assert "tab=reactivate" not in client.get(path).text
    refused = client.post(f"{path}/reactivate", data={"csrf_token": token, "reason": "r"})
    assert (refused.status_code, "reaches further than yours" in refused.text) == (409, True)
    assert _standing(hub, "林晓雯") == "suspended"


@SQLITE
def test_suspending_needs_a_reason(hub: SampleHub, sign_in: SignIn) -> None:
    client, path = sign_in("沈佳宁"), f"/hr/people/{hub.people['林晓雯']}"
    token = token_of(client.get(f"{path}?tab=suspend").text)

    response = client.post(f"{path}/suspend", data={"csrf_token": token, "reason": "  "})

    assert response.status_code == 409
    assert 'role="alert"' in response.text
    assert 'href="#f-reason"' in response.text
    assert _standing(hub, "林晓雯") == "active"


@SQLITE
@pytest.mark.parametrize(("who", "status"), [("何慕青", 404), ("高远", 404), ("郑可欣", 404)])
def test_who_may_only_read_cannot_suspend(hub: SampleHub, sign_in: SignIn, who: str, status: int) -> None:
    client, path = sign_in(who), f"/hr/people/{hub.people['林晓雯']}"
    token = token_of(client.get("/").text)

    response = client.post(f"{path}/suspend", data={"csrf_token": token, "reason": "r"})

    assert response.status_code == status
    assert _standing(hub, "林晓雯") == "active"
    assert "tab=suspend" not in client.get(path).text


@SQLITE
@pytest.mark.parametrize("verb", ["suspend", "reactivate"])
def test_a_change_without_its_token_changes_nothing(hub: SampleHub, sign_in: SignIn, verb: str) -> None:
    response = sign_in("沈佳宁").post(f"/hr/people/{hub.people['林晓雯']}/{verb}", data={"reason": "r"})

    assert response.status_code == 403
    assert _standing(hub, "林晓雯") == "active"


@SQLITE
def test_a_token_of_another_session_is_refused(hub: SampleHub, sign_in: SignIn) -> None:
    token = token_of(sign_in("沈佳宁").get("/hr/people").text)

    response = sign_in("沈佳宁").post(
        f"/hr/people/{hub.people['林晓雯']}/suspend", data={"csrf_token": token, "reason": "r"}
    )

    assert response.status_code == 403


@SQLITE
def test_nobody_suspends_themselves(hub: SampleHub, sign_in: SignIn) -> None:
    client, path = sign_in("沈佳宁"), f"/hr/people/{hub.people['沈佳宁']}"
    token = token_of(client.get("/").text)

    response = client.post(f"{path}/suspend", data={"csrf_token": token, "reason": "r"})

    assert response.status_code == 409
    assert _standing(hub, "沈佳宁") == "active"
