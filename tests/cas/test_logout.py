"""Logout: what an application may bring about, and what it is told. CAS 2.3."""

import asyncio
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from sqlalchemy import select

from idhub.access.tables import Application, CasService
from idhub.cas.channel import CasLogoutChannel, logout_request
from idhub.cas.planner import CasPlanner
from idhub.credentials.tables import SessionParticipant
from idhub.delivery.channel import Grade, LeasedDelivery, Outcome
from idhub.delivery.http import OutboundHttp
from idhub.delivery.tables import Delivery
from idhub.lifecycle import commands
from idhub.lifecycle.ports import planners_of
from idhub.lifecycle.tables import CaseRow
from tests.cas.conftest import SERVICE, CasScene, open_cas_scene
from tests.delivery.servers import serving
from tests.flows.every_door import submit
from tests.lifecycle.world import CALLER
from tests.support.databases import Databases

TOLD = "https://told.example/login"


@pytest.fixture(scope="module", autouse=True)
def _connected(cas: CasScene) -> None:
    cas.connect("told", services=[TOLD], logout="service")
    cas.connect("elsewhere", services=["https://elsewhere.example/"], logout="https://elsewhere.example/slo")


def _planned(cas: CasScene) -> list[Delivery]:
    with cas.stage.hub.database.read() as session:
        rows = session.execute(select(Delivery).where(Delivery.channel == "cas_logout").order_by(Delivery.id)).scalars()
        found = list(rows)
        session.expunge_all()
        return found


def test_an_application_that_wants_a_logout_gets_a_question_to_the_person(cas: CasScene) -> None:
    """ASVS 10.6.2: nobody is signed out by a link."""
    browser = cas.signed_in()
    asked = browser.get("/cas/logout", params={"service": SERVICE})
    assert asked.headers["location"].startswith("/logout?transaction=")
    assert browser.get("/").status_code == 200, "still signed in"
    page = browser.get(asked.headers["location"])
    assert "form-action 'self' https://app.example" in page.headers["content-security-policy"]
    left = submit(browser, page, "/logout")
    assert left.headers["location"].startswith("/cas/logout/resume?transaction=")
    back = browser.get(left.headers["location"])
    assert (back.status_code, back.headers["location"]) == (303, SERVICE)
    assert browser.get("/").status_code == 303, "signed out"
    assert browser.get(left.headers["location"]).status_code == 400, "once"
    assert cas.scene.events("logout.requested")[-1]["door"] == "cas"


def test_a_person_who_stays_is_not_sent_to_the_application(cas: CasScene) -> None:
    browser = cas.signed_in()
    asked = browser.get("/cas/logout", params={"service": SERVICE})
    resume = asked.headers["location"].replace("/logout?", "/cas/logout/resume?")
    answer = browser.get(resume)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert cas.browser().get(resume).status_code == 400, "of another browser"


def test_another_sites_form_signs_nobody_out(cas: CasScene) -> None:
    browser = cas.signed_in()
    asked = browser.get("/cas/logout", params={"service": SERVICE})
    transaction = asked.headers["location"].partition("transaction=")[2]
    forged = browser.post("/logout", data={"transaction": transaction}, headers={"origin": "https://evil.example"})
    assert forged.status_code == 400
    assert browser.get("/").status_code == 200


def test_without_an_address_or_a_session_there_is_nothing_to_ask(cas: CasScene) -> None:
    assert cas.signed_in().get("/cas/logout").headers["location"] == "/logout"
    assert cas.browser().get("/cas/logout", params={"service": SERVICE}).headers["location"] == SERVICE
    refused = cas.browser().get("/cas/logout", params={"service": "https://evil.example/"})
    assert refused.status_code == 400
    assert "location" not in refused.headers
    assert "You are as signed in as before" in refused.text


def test_the_old_parameter_of_logout_leads_nowhere(cas: CasScene) -> None:
    """CAS 2.3.1: `url` is not to be used any more."""
    answer = cas.signed_in().get("/cas/logout", params={"url": "https://evil.example/"})
    assert answer.headers["location"] == "/logout"


def test_an_address_that_nobody_owns_any_more_is_not_gone_back_to(cas: CasScene) -> None:
    service = "https://passing.example/"
    cas.connect("passing", services=[service])
    browser = cas.signed_in()
    page = browser.get(browser.get("/cas/logout", params={"service": service}).headers["location"])
    cas.scene.apply({"slug": "passing", "name": "passing"})
    left = submit(browser, page, "/logout")
    answer = browser.get(left.headers["location"])
    assert (answer.status_code, "location" in answer.headers) == (400, False)


def test_every_ticket_that_was_used_is_told_of_and_no_other(cas: CasScene) -> None:
    browser = cas.signed_in()
    used = [cas.ticket(browser, TOLD), cas.ticket(browser, f"{TOLD}?site=2")]
    assert cas.validate(used[0], TOLD).user
    assert cas.validate(used[1], f"{TOLD}?site=2").user
    assert cas.ticket(browser, TOLD)
    assert cas.validate(cas.ticket(browser)).user, "of an application that is not told"
    other = cas.ticket(browser, "https://elsewhere.example/")
    assert cas.validate(other, "https://elsewhere.example/").user
    known = len(_planned(cas))
    submit(browser, browser.get("/logout"), "/logout")
    planned = {row.payload["sid"]: row.payload["logout_url"] for row in _planned(cas)[known:]}
    assert planned == {used[0]: TOLD, used[1]: f"{TOLD}?site=2", other: "https://elsewhere.example/slo"}


def test_an_entitlement_that_ends_is_told(cas: CasScene) -> None:
    service = "https://brief.example/"
    cas.connect("brief", services=[service], logout="service")
    ticket = cas.ticket(cas.signed_in(), service)
    assert cas.validate(ticket, service).user
    known = len(_planned(cas))
    cas.connect("brief", services=[service], logout="service", entitle=[])
    assert [row.payload["sid"] for row in _planned(cas)[known:]] == [ticket]


def test_a_leave_tells_and_its_receipt_says_what_it_can(databases: Databases, tmp_path: Path) -> None:
    for cas in open_cas_scene("sqlite", databases, tmp_path):
        cas.connect("told", services=[TOLD], logout="service")
        browser, stage = cas.signed_in(), cas.stage
        ticket = cas.ticket(browser, TOLD)
        assert cas.validate(ticket, TOLD).user
        assert cas.validate(cas.ticket(browser)).user
        with stage.hub.database.read() as session:
            (planner,) = [p for p in planners_of(session) if isinstance(p, CasPlanner)]
            rows = planner.preview(session, stage.person, now=stage.clock())
        assert {(r.channel, int(r.ceiling), tuple(r.notes), r.exposure is None) for r in rows} == {
            ("cas_logout", 1, (), False),
            ("none", 0, ("not_told",), True),
        }
        with stage.hub.database.transaction() as session:
            commands.offboard(session, CALLER, stage.person, now=stage.clock())
        (planned,) = _planned(cas)
        assert (planned.payload["sid"], planned.required_grade, planned.case_id is not None) == (ticket, 1, True)
        with stage.hub.database.read() as session:
            found = {(r.channel, r.ceiling) for r in session.execute(select(CaseRow)).scalars()}
            ended = session.execute(
                select(SessionParticipant.ended_at).where(SessionParticipant.cas_service_id.is_not(None))
            ).scalars()
            assert all(at is not None for at in ended)
        assert ("cas_logout", 1) in found
        assert ("none", 0) in found, "what is not told is not left out"


# ---------------------------------------------------------------------- the message


def test_the_message_names_the_ticket_as_markup_cannot() -> None:
    text = logout_request("dlv_1", "ST-<&>", now=datetime(2026, 11, 23, 9, 0, tzinfo=UTC))
    root = ET.fromstring(text)  # noqa: S314 - our own message
    assert root.attrib == {"ID": "_dlv_1", "Version": "2.0", "IssueInstant": "2026-11-23T09:00:00Z"}
    assert root.findtext("{urn:oasis:names:tc:SAML:2.0:protocol}SessionIndex") == "ST-<&>"
    assert root.findtext("{urn:oasis:names:tc:SAML:2.0:assertion}NameID") == "@NOT_USED@"


def _leased(logout_url: str, service_id: str) -> LeasedDelivery:
    return LeasedDelivery(
        id="dlv_1", application_id="app", channel="cas_logout", lane="participant:1", operation="logout",
        payload={"service_id": service_id, "logout_url": logout_url, "sid": "ST-1"}, attempt=1, principal_id="per",
        account_id=None, participant_id="par", case_id=None, required_grade=Grade.E1, deadline_at=None,
        quiet_after=None,
    )  # fmt: skip


def _service(cas: CasScene, slug: str) -> str:
    with cas.stage.hub.database.read() as session:
        statement = select(CasService.id).join(Application, Application.id == CasService.application_id)
        return session.execute(statement.where(Application.slug == slug)).scalar_one()


def _send(cas: CasScene, answer: web.Response, *, allow: bool = True) -> tuple[Outcome, list[Any]]:
    """What becomes of a logout that the application answers so, and what it was sent."""
    seen: list[Any] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append((request.method, request.content_type, dict(await request.post())))
        return answer

    async def run() -> Outcome:
        async with serving(handler) as port:
            settings = cas.stage.hub.settings.model_copy(
                update={"outbound_allow": f"127.0.0.1:{port}" if allow else ""}
            )
            async with OutboundHttp(settings) as http:
                channel = CasLogoutChannel(cas.stage.hub.database, http, timeout=settings.delivery_timeout)
                delivery = _leased(f"http://127.0.0.1:{port}/login?site=1", _service(cas, "told"))
                return await channel.send(delivery, now=cas.stage.clock())

    return asyncio.run(run()), seen


@pytest.mark.parametrize("status", [200, 204, 302])
def test_a_message_that_was_taken_is_evidence_of_that_alone(cas: CasScene, status: int) -> None:
    """The protocol defines no answer; django-cas-ng redirects when it has ended the session."""
    outcome, seen = _send(cas, web.Response(status=status, headers={"Location": "https://elsewhere.example/"}))
    assert (outcome.kind, outcome.grade, outcome.evidence["status"]) == ("done", Grade.E1, status)
    ((method, content_type, form),) = seen
    assert (method, content_type, list(form)) == ("POST", "application/x-www-form-urlencoded", ["logoutRequest"])
    assert "<samlp:SessionIndex>ST-1</samlp:SessionIndex>" in form["logoutRequest"]


@pytest.mark.parametrize("status", [300, 301, 304, 307, 308])
def test_a_message_that_is_wanted_elsewhere_was_not_taken(cas: CasScene, status: int) -> None:
    """RFC 9110 section 15.4: the same message is to be sent to another address, which is not followed."""
    outcome, seen = _send(cas, web.Response(status=status, headers={"Location": "https://told.example/slo"}))
    assert (outcome.kind, outcome.grade, len(seen)) == ("retry", Grade.E0, 1)
    assert outcome.error == f"The application answered {status}: its address for logouts is another one."


@pytest.mark.parametrize("status", [400, 403, 404, 500, 503])
def test_a_message_that_was_not_taken_is_sent_again(cas: CasScene, status: int) -> None:
    outcome, _ = _send(cas, web.Response(status=status, headers={"Retry-After": "7"}))
    assert (outcome.kind, outcome.grade, outcome.error) == ("retry", Grade.E0, f"The application answered {status}.")
    assert outcome.retry_after == timedelta(seconds=7)


def test_an_address_within_is_not_called(cas: CasScene) -> None:
    """SSRF: also not when the configuration named it."""
    outcome, seen = _send(cas, web.Response(), allow=False)
    assert (outcome.kind, outcome.grade, seen) == ("dead", Grade.E0, [])


def test_an_application_that_takes_none_any_more(cas: CasScene) -> None:
    cas.connect("told", services=[TOLD])
    try:
        outcome, seen = _send(cas, web.Response())
        assert (outcome.kind, outcome.error, seen) == ("dead", "The application takes no logout any more.", [])
    finally:
        cas.connect("told", services=[TOLD], logout="service")
