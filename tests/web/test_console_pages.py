"""Portal, applications, deliveries and the event log."""

import re
from pathlib import Path
from typing import get_args

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from audit.checkpoint import load_keys
from audit.events import Actor, Event, EventType
from audit.tables import audit_events
from audit.verify import verify_proof
from idhub.access.tables import Application
from idhub.authority import HubRole, assign_role
from idhub.changes import record
from idhub.delivery.channel import Operation
from idhub.delivery.tables import Delivery
from idhub.lifecycle.doors import Door
from idhub.web import labels
from idhub.web.event_labels import EVENT
from tests.web.conftest import SignIn
from tests.web.html import links_of, rows_of, text_of, token_of
from tests.web.sample import SampleHub, Story

ROOT = Path(__file__).parents[2]
SQLITE = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


def test_the_portal_shows_own_applications_only(look: SignIn) -> None:
    page = look("郑可欣").get("/").text

    assert set(re.findall(r'class="card tile"[^>]*data-test="([a-z]+)"', page)) == {
        "mail", "plm", "sap", "gitlab", "jira", "expenses",
    }  # fmt: skip
    assert "/hr/people" not in page


def test_the_portal_searches_without_script(look: SignIn) -> None:
    page = look("郑可欣").get("/?q=邮箱").text

    assert re.findall(r'data-test="([a-z]+)"', page) == ["mail"]
    assert "No application of yours matches." in look("郑可欣").get("/?q=%3Cscript%3E").text


def test_somebody_without_entitlements_is_told_why(look: SignIn) -> None:
    assert "not entitled to any application yet" in look("刘思远").get("/").text


@pytest.mark.parametrize(
    ("path", "target"), [("/hr", "/hr/people"), ("/admin", "/admin/apps"), ("/audit", "/audit/events")]
)
def test_front_doors_of_the_consoles(look: SignIn, path: str, target: str) -> None:
    assert look("沈佳宁").get(path).headers["location"] == target


def test_side_bar_links_only_what_the_role_may_open(look: SignIn) -> None:
    for who, pages in (
        ("沈佳宁", {"/hr/people", "/hr/receipts", "/hr/sources", "/admin/ghosts"}),
        (
            "高远",
            {
                "/hr/people",
                "/hr/receipts",
                "/hr/sources",
                "/admin/apps",
                "/admin/providers",
                "/admin/deliveries",
                "/admin/streams",
                "/admin/ghosts",
            },
        ),
        (
            "何慕青",
            {
                "/hr/people",
                "/hr/receipts",
                "/hr/sources",
                "/admin/apps",
                "/admin/providers",
                "/admin/deliveries",
                "/admin/streams",
                "/admin/ghosts",
                "/audit/events",
            },
        ),
    ):
        client = look(who)
        side = client.get("/hr/people").text.split('<nav class="side"')[1].split("</nav>")[0]
        assert set(re.findall(r'<a href="([^"]+)"', side)) == pages
        assert {client.get(path).status_code for path in pages} == {200}


@pytest.mark.parametrize(
    ("query", "slugs"),
    [
        ("", ["bi", "expenses", "gitlab", "jira", "mail", "plm", "sap"]),
        ("?protocol=scim&state=ok", ["expenses", "jira", "mail", "plm", "sap"]),
        ("?state=trouble", ["gitlab"]),
        ("?state=disabled", []),
        ("?q=plm", ["plm"]),
        ("?q=企业", ["mail"]),
        ("?q=%25", []),
        ("?sort=-slug&q=g", ["gitlab"]),
    ],
)
def test_applications_can_be_filtered(look: SignIn, query: str, slugs: list[str]) -> None:
    assert rows_of(look("高远").get(f"/admin/apps{query}").text) == slugs


def test_one_application_shows_no_secret(look: SignIn) -> None:
    page = look("高远").get("/admin/apps/plm").text

    assert "https://plm.qiyue.example/scim/v2" in page
    assert "employments.type ne &#34;contractor&#34;" in page
    assert "t" * 40 not in page
    assert "s" * 43 not in page


@pytest.mark.parametrize("slug", ["nothing", "..%2f", "a" * 500])
def test_an_unknown_application_is_not_found(look: SignIn, slug: str) -> None:
    assert look("高远").get(f"/admin/apps/{slug}").status_code == 404


def test_deliveries_show_the_original_error(look: SignIn) -> None:
    page = look("高远").get("/admin/deliveries").text

    assert text_of(page, "dead") == "1"
    assert "409 uniqueness: userName is taken" in page
    assert "Send again" in page


def test_a_filtered_list_of_deliveries_says_why_each_was_given_up(look: SignIn) -> None:
    """It is where "see why" of an application leads to."""
    client = look("高远")
    dead, done = client.get("/admin/deliveries?state=dead").text, client.get("/admin/deliveries?state=done").text

    assert text_of(dead, "error") == "409 uniqueness: userName is taken"
    assert 'data-test="error"' not in done


def test_an_application_leads_to_why_its_letters_are_dead(story: Story, look: SignIn) -> None:
    client = look("高远")
    with story.hub.database.read() as session:
        slug = session.scalars(
            select(Application.slug).join(Delivery, Delivery.application_id == Application.id).where(
                Delivery.state == "dead"
            )
        ).one()  # fmt: skip
    link = f'href="/admin/deliveries?app={slug}&amp;state=dead"'

    assert link in client.get(f"/admin/apps/{slug}").text
    assert "state=dead" not in client.get("/admin/apps/jira").text


def test_an_auditor_reads_deliveries_and_cannot_send_them_again(story: Story, look: SignIn) -> None:
    client = look("何慕青")
    with story.hub.database.read() as session:
        dead = session.execute(select(Delivery.id).where(Delivery.state == "dead")).scalar_one()

    assert "Send again" not in client.get("/admin/deliveries").text.replace('class="vh">Send again', "")
    response = client.post(f"/admin/deliveries/{dead}/retry", data={"csrf_token": token_of(client.get("/").text)})
    assert response.status_code == 404


def test_a_dead_letter_is_sent_again(hub: SampleHub, sign_in: SignIn) -> None:
    with hub.database.transaction() as session:
        delivery = session.execute(select(Delivery.id).limit(1)).scalar_one()
        session.execute(update(Delivery).where(Delivery.id == delivery).values(state="dead", finished_at=hub.clock()))
    client, path = sign_in("高远"), f"/admin/deliveries/{delivery}"
    page = client.get(path).text
    assert text_of(page, "state") == "Dead letter"

    response = client.post(f"{path}/retry", data={"csrf_token": token_of(page)})

    assert response.headers["location"] == path
    assert text_of(client.get(path).text, "state") == "Waiting"
    again = client.post(f"{path}/retry", data={"csrf_token": token_of(page)})
    assert again.status_code == 409
    assert "Only dead letters are sent again" in again.text


@pytest.mark.parametrize(
    ("query", "count"), [("state=dead", 1), ("kind=deprovision&app=mail", 1), ("q=409", 1), ("app=nothing", 0)]
)
def test_deliveries_can_be_filtered(look: SignIn, query: str, count: int) -> None:
    assert len(rows_of(look("高远").get(f"/admin/deliveries?{query}").text)) == count


def _types(look: SignIn, query: str) -> set[str]:
    page = look("何慕青").get(f"/audit/events?size=100&{query}").text
    return set(re.findall(r'<dt>Type</dt><dd class="mono">([a-z_.]+)</dd>', page))


def test_an_auditor_of_one_company_finds_nobody_of_another_by_mobile(hub: SampleHub, sign_in: SignIn) -> None:
    """Who acts in an event that is visible is of another company: the search must not tell whose number it is."""
    stranger, mine = hub.people["沈佳宁"], hub.people["周子昂"]
    with hub.database.transaction() as session:
        assign_role(
            session, hub.people["魏东来"], HubRole.AUDITOR, organization_id=hub.organizations["QYM"], now=hub.clock(),
            assigned_by="cli",
        )  # fmt: skip
        acted = Event(
            type=EventType.REQUEST_REFUSED, at=hub.clock(), actor=Actor("person", stranger), door="console",
            target_kind="person", target_id=mine, organization_id=hub.organizations["QYM"],
        )  # fmt: skip
        record(session, [acted])
    limited, whole = sign_in("魏东来"), sign_in("何慕青")

    def found(client: TestClient, text: str) -> bool:
        return stranger in client.get(f"/audit/events?size=100&q={text}").text

    assert found(limited, stranger)
    assert not found(limited, "13800130011")
    assert not found(limited, "p11@qiyue.example")
    assert found(whole, "13800130011")
    assert "周子昂" in limited.get("/audit/events?size=100&q=13800130003").text


def test_the_event_log_says_what_is_proven_and_what_is_not(look: SignIn) -> None:
    page = look("何慕青").get("/audit/events").text

    assert "Signed through event" in page
    assert re.search(r"\d+ events? not yet proven", page)
    assert "not yet in the signed log" in page
    sealed = look("何慕青").get("/audit/events?action=receipt").text
    assert "under the signed checkpoint" in sealed


def test_a_log_without_a_checkpoint_is_not_called_proven(hub: SampleHub, sign_in: SignIn) -> None:
    page = sign_in("何慕青").get("/audit/events").text

    assert "No checkpoint has been signed yet." in page
    assert "Signed through" not in page


@pytest.mark.parametrize(
    ("query", "types"),
    [
        ("action=receipt", {"receipt.issued"}),
        ("action=person.suspended", {"person.suspended"}),
        ("action=role", set()),
        ("q=10.20.4.17&action=login", {"login.succeeded"}),
        ("q=nothing-like-this", set()),
        ("from=2020-01-01&to=2020-01-02", set()),
    ],
)
def test_events_are_found(look: SignIn, query: str, types: set[str]) -> None:
    assert _types(look, query) == types


def test_events_are_found_by_receipt_person_and_id(story: Story, look: SignIn) -> None:
    person = story.hub.people[story.LEAVER]

    assert "person.offboarded" in _types(look, f"q={story.receipt}") | _types(look, f"q={person}")
    assert "person.offboarded" in _types(look, "q=xuhaoran&action=person")
    assert _types(look, f"object={story.hub.people['吴建国']}&action=person.offboarded") == set()


def test_an_event_opens_in_place_without_script(story: Story, look: SignIn) -> None:
    with story.hub.database.read() as session:
        row = session.execute(
            select(audit_events.c.event_id, audit_events.c.id).where(audit_events.c.type == "receipt.issued").limit(1)
        ).one()

    page = look("何慕青").get(f"/audit/events?action=receipt&open={row.event_id}").text

    assert f'<tr class="detail" id="d-{row.id}"><td' in page


def test_an_event_is_handed_out_with_its_proof(hub: SampleHub, sign_in: SignIn, tmp_path: Path) -> None:
    hub.seal_log()
    auditor, mine = sign_in("何慕青"), hub.people["周子昂"]
    address = re.search(
        r'href="(/audit/events/(evt_[0-9a-z]+)/download)"', auditor.get(f"/audit/events?object={mine}").text
    )
    assert address is not None
    got = auditor.get(address[1])
    assert (got.status_code, got.headers["content-type"]) == (200, "application/jsonl")
    assert got.headers["content-disposition"] == f'attachment; filename="{address[2]}.proof.jsonl"'
    (tmp_path / "proof.jsonl").write_bytes(got.content)
    keys = load_keys(hub.services.keyring.jwks("checkpoint"))
    result = verify_proof(tmp_path / "proof.jsonl", keys=keys)
    assert (result.findings, result.event["event_id"], result.event["person_id"]) == ([], address[2], mine)
    assert auditor.get("/audit/events/evt_nothing/download").status_code == 404
    # An auditor of another company has no such event.
    with hub.database.transaction() as session:
        assign_role(
            session, hub.people["魏东来"], HubRole.AUDITOR, organization_id=hub.organizations["QYM"], now=hub.clock(),
            assigned_by="cli",
        )  # fmt: skip
    assert sign_in("魏东来").get(address[1]).status_code == 404


def test_an_event_that_waits_for_its_checkpoint_has_no_proof_yet(hub: SampleHub, sign_in: SignIn) -> None:
    auditor, mine = sign_in("何慕青"), hub.people["周子昂"]
    (event, *_) = rows_of(auditor.get(f"/audit/events?object={mine}").text)
    refused = auditor.get(f"/audit/events/{event}/download")
    assert refused.status_code == 409
    assert "No signed checkpoint covers this event yet." in refused.text


def test_what_was_changed_in_the_tables_is_not_handed_out_as_proven(hub: SampleHub, sign_in: SignIn) -> None:
    hub.seal_log()
    auditor, mine = sign_in("何慕青"), hub.people["周子昂"]
    (event, *_) = rows_of(auditor.get(f"/audit/events?object={mine}").text)
    with hub.database.transaction() as session:
        connection = session.connection()
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        else:
            guards = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'audit_events'"
            for guard in list(connection.exec_driver_sql(guards).scalars()):
                connection.exec_driver_sql(f"DROP TRIGGER {guard}")
        connection.execute(update(audit_events).where(audit_events.c.event_id == event).values(leaf_hash=bytes(32)))
    refused = auditor.get(f"/audit/events/{event}/download")
    assert refused.status_code == 409
    assert "idhub audit verify" in refused.text


def test_events_follow_each_other_and_lead_back(look: SignIn) -> None:
    client = look("何慕青")
    first = client.get("/audit/events?size=25&action=delivery").text
    older = links_of(first, "next")
    assert older is not None
    second = client.get(older).text
    newer = links_of(second, "prev")
    assert newer is not None

    assert not set(rows_of(first)) & set(rows_of(second))
    assert rows_of(client.get(newer).text) == rows_of(first)


@pytest.mark.parametrize("query", ["from=x", "to=%00", "after=AAAA", "range=1y", "from=" + "9" * 200])
def test_bad_parameters_of_the_log_are_dropped(look: SignIn, query: str) -> None:
    assert look("何慕青").get(f"/audit/events?{query}").status_code == 200


def test_who_finds_no_company_sign_in_is_told_how_one_is_connected(look: SignIn) -> None:
    page = look("高远").get("/admin/providers").text
    assert "None is connected: everybody signs in with a password." in page
    assert "idhub apply" in page
    assert 'href="/login/saml/metadata"' in page


def test_the_chart_is_a_table_too(look: SignIn) -> None:
    page = look("何慕青").get("/audit/events?view=table").text

    assert '<th scope="col" class="n">Refused</th>' in page


def test_every_event_type_has_its_words() -> None:
    assert {str(kind) for kind in EventType} <= EVENT.keys()


def test_every_door_has_its_words() -> None:
    """Those of the registry, and those that protocols and the worker record."""
    sources = "\n".join(path.read_text("utf-8") for path in (ROOT / "idhub").rglob("*.py"))
    recorded = set(re.findall(r'\bdoor="([a-z_]+)"', sources)) | set(re.findall(r'DOOR = "([a-z_]+)"', sources))

    assert len(recorded) > 10
    assert recorded | {str(door) for door in Door} <= labels.DOOR.keys()


def test_doors_and_applications_are_named_in_the_language_of_the_page(story: Story, look: SignIn) -> None:
    auditor, person = look("何慕青"), story.hub.people[story.SCHEDULED]
    log = "/audit/events?range=all&action=entitlement.entitled"

    assert '<td class="t2 hide wide">Command line</td>' in (page := auditor.get(log).text)
    assert "→ Corporate mail" in page
    auditor.headers["accept-language"] = "zh-CN"
    assert '<td class="t2 hide wide">命令行</td>' in (page := auditor.get(log).text)
    assert "→ 企业邮箱" in page
    assert "授予授权 · 企业邮箱" in auditor.get(f"/hr/people/{person}").text


def test_every_stored_code_has_its_words() -> None:
    assert {"pending", "leased", "done", "review", "dead", "superseded"} == labels.DELIVERY_STATE.keys()
    assert set(get_args(Operation)) == labels.OPERATION.keys()


def test_unknown_addresses_answer_as_they_were_asked(look: SignIn) -> None:
    client = look("沈佳宁")

    assert "Not found, or you may not see it" in client.get("/nothing").text
    assert client.get("/api/nothing").json()["error"] == "not_found"
    answer = client.put("/hr/people", headers={"accept": "*/*"})
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


@SQLITE
@pytest.mark.parametrize("size", [1_000_000])
def test_a_huge_form_is_refused_or_ignored(sign_in: SignIn, size: int) -> None:
    response = sign_in("沈佳宁").post("/preferences", data={"language": "x" * size})

    assert response.status_code < 500


def test_every_list_opens_on_both_databases(hub: SampleHub, sign_in: SignIn) -> None:
    """The same queries on SQLite and PostgreSQL: filters, counts, histogram, keyset."""
    number = hub.leave("徐浩然")
    hub.deliver()
    hub.sign_receipts()
    people, administrator, auditor = sign_in("沈佳宁"), sign_in("高远"), sign_in("何慕青")
    for client, paths in (
        (people, ("/hr/people?q=wu&sort=-start&org=QYC&type=regular&state=active", "/hr/receipts?q=xu&month=2026-11")),
        (people, (f"/hr/receipts/{number}", f"/hr/people/{hub.people['徐浩然']}?tab=audit", "/")),
        (administrator, ("/admin/apps?q=mail&protocol=oidc&state=ok&sort=-name", "/admin/apps/plm")),
        (administrator, ("/admin/deliveries", "/admin/deliveries?q=xu&kind=deprovision&state=done&app=mail")),
        (auditor, ("/audit/events?range=7d", f"/audit/events?q={number}&result=success&view=table")),
    ):
        for path in paths:
            response = client.get(path)
            assert response.status_code == 200, path
            assert 'data-test="empty"' not in response.text or path == "/", path
