"""Single Logout: asked by applications, carried by browsers, told by the worker, and what a leave says of it."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from idhub.credentials.tables import SamlLogout, SessionParticipant, SsoSession
from idhub.delivery.channel import Grade, LeasedDelivery
from idhub.delivery.http import OutboundHttp, OutboundResponse, OutboundTimeout
from idhub.delivery.tables import Delivery
from idhub.lifecycle.doors import Door
from idhub.saml.channel import SamlLogoutChannel
from providers.saml_wire import names, parsing
from providers.saml_wire.bindings import read_redirect, read_soap, write_soap
from providers.saml_wire.certificates import read_certificate
from providers.saml_wire.signatures import sign, verify
from providers.saml_wire.writing import Node
from tests.flows.every_door import SUSPENSIONS, submit
from tests.saml.conftest import Scene
from tests.saml.hostile import DOWNGRADES
from tests.saml.partner import NS, Answer, Partner, make_signer, query_of, read_answer, refresh_target
from tests.saml.test_sign_on import _shown

SOAP_LOGOUT = {"binding": "soap", "url": "https://partner.example/slo/soap"}
REDIRECT_LOGOUT = {"binding": "redirect", "url": "https://partner.example/slo"}
POST_LOGOUT = {
    "binding": "post",
    "url": "https://partner.example/slo",
    "response_url": "https://partner.example/slo/done",
}


@pytest.fixture
def again(scene: Scene) -> Scene:
    scene.connect()
    return scene


@pytest.fixture(scope="module")
def other(scene: Scene) -> Partner:
    """A second application that the browser has to visit, by POST."""
    partner = Partner(scene.partner.issuer, "https://other.example/sp", "https://other.example/acs")
    scene.connect("other", partner=partner, logout=[{"binding": "post", "url": "https://other.example/slo"}])
    return partner


def _is_signed_in(browser: TestClient) -> bool:
    return bool(browser.get("/").status_code == 200)


def _named(answer: Answer) -> tuple[str, str]:
    name, index = answer.text(".//saml:NameID"), answer.attribute(".//saml:AuthnStatement", "SessionIndex")
    assert name is not None and index is not None
    return name, index


def _follow(browser: TestClient, page: Any) -> Any:
    """Redirects within the hub."""
    while page.status_code == 303 and page.headers["location"].startswith("/"):
        page = browser.get(page.headers["location"])
    return page


def _ask(scene: Scene, browser: TestClient, *, name: str, index: str, **changes: Any) -> Any:
    request = scene.partner.logout_request(scene.now, name, index, **changes)
    return _follow(browser, browser.get(scene.partner.redirect(request, relay_state="rs")))


def _response(scene: Scene, page: Any) -> Any:
    """The LogoutResponse that a redirect carries to the partner, its signature verified."""
    assert page.status_code == 303, (page.status_code, page.text[:1000])
    location = page.headers["location"]
    assert location.startswith("https://partner.example/slo?"), location
    received = read_redirect(location.partition("?")[2].encode())
    received.verify_query([read_certificate(scene.certificate).public_key])
    assert received.relay_state == "rs"
    return parsing.parse(received.document)


def _codes(response: Any) -> list[str]:
    return [one.get("Value").rpartition(":")[2] for one in response.iterfind(".//samlp:StatusCode", NS)]


def test_an_application_signs_its_person_out_everywhere(again: Scene) -> None:
    browser = again.signed_in()
    name, index = _named(again.sign_on(browser))
    response = _response(again, _ask(again, browser, name=name, index=index))
    assert _codes(response) == ["Success"]
    assert not _is_signed_in(browser)
    asked = again.events("logout.requested")[-1]
    assert asked["person_id"] == again.stage.person
    ended = again.events("session.ended")[-1]
    assert ended["reason"] == "logout"


def test_the_browser_visits_the_others_and_the_answer_says_how_it_went(again: Scene, other: Partner) -> None:
    browser = again.signed_in()
    name, index = _named(again.sign_on(browser))
    theirs, their_index = _named(again.sign_on(browser, partner=other))
    page = _ask(again, browser, name=name, index=index)
    visit = read_answer(page)
    assert visit.action == "https://other.example/slo"
    visit.verify(again.certificate)
    assert visit.text("saml:NameID") == theirs
    assert visit.text("samlp:SessionIndex") == their_index
    answer = other.logout_response(again.now, visit.root.get("ID"))
    carried = browser.post(
        "/saml/slo", data=other.form(answer, kind="SAMLResponse", RelayState=visit.relay_state or "")
    )
    assert _codes(_response(again, _follow(browser, carried))) == ["Success"]
    assert again.events("logout.answered")[-1]["outcome"] == "success"


def test_what_an_application_says_of_the_way_on_adds_nothing_to_it(again: Scene, other: Partner) -> None:
    """RelayState comes back as one value: no other parameter of the hub's is given by it."""
    browser = again.signed_in()
    name, index = _named(again.sign_on(browser))
    again.sign_on(browser, partner=other)
    visit = read_answer(_ask(again, browser, name=name, index=index))
    state = f"{visit.relay_state}&given=x#//evil.example"
    answer = other.logout_response(again.now, visit.root.get("ID"))
    carried = browser.post("/saml/slo", data=other.form(answer, kind="SAMLResponse", RelayState=state))
    location = urlsplit(carried.headers["location"])
    assert (location.path, location.fragment, parse_qs(location.query)) == (
        "/saml/logout",
        "",
        {"transaction": [state]},
    )


@pytest.mark.parametrize("status", [names.RESPONDER, names.REQUESTER])
def test_an_application_that_does_not_confirm_makes_it_a_partial_logout(
    again: Scene, other: Partner, status: str
) -> None:
    browser = again.signed_in()
    name, index = _named(again.sign_on(browser))
    again.sign_on(browser, partner=other)
    visit = read_answer(_ask(again, browser, name=name, index=index))
    answer = other.logout_response(again.now, visit.root.get("ID"), status)
    url = other.redirect(answer, kind="SAMLResponse", relay_state=visit.relay_state)
    assert _codes(_response(again, _follow(browser, browser.get(url)))) == ["Success", "PartialLogout"]
    assert again.events("logout.answered")[-1]["outcome"] == "failure"


def test_an_application_that_takes_no_message_makes_it_a_partial_logout(again: Scene) -> None:
    mute = Partner(again.partner.issuer, "https://mute.example/sp", "https://mute.example/acs")
    again.connect("mute", partner=mute, logout=[], certificates=[])
    browser = again.signed_in()
    name, index = _named(again.sign_on(browser))
    page = browser.get(mute.redirect(mute.authn_request(again.now), signed=False))
    assert read_answer(page).status == ["Success"]
    assert _codes(_response(again, _ask(again, browser, name=name, index=index))) == ["Success", "PartialLogout"]


def test_signing_out_at_the_hub_visits_the_applications_and_shows_how_each_took_it(
    again: Scene, other: Partner
) -> None:
    browser = again.signed_in()
    again.sign_on(browser)
    again.sign_on(browser, partner=other)
    page = browser.get("/logout")
    assert page.text.count("Is told to sign you out") == 2
    page = _follow(browser, submit(browser, page, "/logout"))
    targets = []
    for _ in range(2):
        if "refresh" in page.headers:
            url = refresh_target(page)
            targets.append(url.partition("?")[0])
            request = parsing.parse(read_redirect(url.partition("?")[2].encode()).document)
            answer = again.partner.logout_response(again.now, request.get("ID") or "")
            state = query_of(url)["RelayState"]
            back = again.partner.redirect(answer, kind="SAMLResponse", relay_state=state)
            page = _follow(browser, browser.get(back))
        else:
            visit = read_answer(page)
            targets.append(visit.action)
            # This one never sends the browser back by itself: its person comes back with the address they have.
            page = _follow(browser, browser.get(f"/saml/logout?transaction={visit.relay_state}"))
    assert sorted(targets) == ["https://other.example/slo", "https://partner.example/slo"]
    assert "You are signed out" in page.text
    assert 'data-test="told"' in page.text
    assert 'data-test="unconfirmed"' in page.text


def test_a_request_by_post_is_answered_by_post(again: Scene) -> None:
    again.connect(logout=[POST_LOGOUT, REDIRECT_LOGOUT])
    browser = again.signed_in()
    name, index = _named(again.sign_on(browser))
    form = again.partner.form(again.partner.logout_request(again.now, name, index), RelayState="rs")
    answer = read_answer(_follow(browser, browser.post("/saml/slo", data=form)))
    assert answer.action == "https://partner.example/slo/done"
    assert (answer.status, answer.relay_state) == (["Success"], "rs")
    assert answer.root.get("Destination") == answer.action
    answer.verify(again.certificate)


def test_without_an_index_every_session_of_the_person_there_ends(again: Scene) -> None:
    first, second = again.signed_in(), again.signed_in()
    name, _ = _named(again.sign_on(first))
    again.sign_on(second)
    request = again.partner.logout_request(again.now, name)
    _response(again, _follow(first, first.get(again.partner.redirect(request, relay_state="rs"))))
    assert not _is_signed_in(first)
    assert not _is_signed_in(second)


# ---------------------------------------------------------------------- what is refused


def test_logout_messages_must_be_signed(again: Scene) -> None:
    """S18: otherwise anybody could sign people out."""
    browser = again.signed_in()
    name, index = _named(again.sign_on(browser))
    request = again.partner.logout_request(again.now, name, index)
    _shown(again, browser.get(again.partner.redirect(request, signed=False)), "signature.missing")
    _shown(again, browser.post("/saml/slo", data=again.partner.form(request, signed=False)), "signature.missing")
    thief = Partner(again.partner.issuer, signer=make_signer("thief"))
    _shown(again, browser.get(thief.redirect(request)), "signature.key")
    response = again.partner.logout_response(again.now, "_x")
    url = again.partner.redirect(response, kind="SAMLResponse", signed=False)
    _shown(again, browser.get(url), "signature.missing")
    assert _is_signed_in(browser)


def test_an_application_signs_out_its_own_people_and_sessions_alone(again: Scene, other: Partner) -> None:
    """S18: also for a user not of this service provider."""
    browser = again.signed_in()
    name, index = _named(again.sign_on(browser))
    theirs, their_index = _named(again.sign_on(browser, partner=other))
    for strange, wanted in ((theirs, their_index), (theirs, index), (name, their_index), (f"{name}x", index)):
        response = _response(again, _ask(again, browser, name=strange, index=wanted))
        assert _codes(response) == ["Requester", "UnknownPrincipal"]
    assert _is_signed_in(browser)


def test_a_logout_request_works_once_and_not_too_late(again: Scene) -> None:
    browser = again.signed_in()
    name, index = _named(again.sign_on(browser))
    request = again.partner.logout_request(again.now, name, index)
    url = again.partner.redirect(request, relay_state="rs")
    _response(again, _follow(browser, browser.get(url)))
    _shown(again, browser.get(url), "request_replayed")
    late = again.partner.logout_request(again.now, name, index, NotOnOrAfter="2026-11-23T01:00:00Z")
    _shown(again, browser.get(again.partner.redirect(late)), "saml.not_on_or_after")
    elsewhere = again.partner.logout_request(again.now, name, index, destination="https://elsewhere.example/slo")
    _shown(again, browser.get(again.partner.redirect(elsewhere)), "saml.destination")


def test_an_answer_to_nothing_or_of_another_application_counts_for_nothing(again: Scene, other: Partner) -> None:
    browser = again.signed_in()
    name, index = _named(again.sign_on(browser))
    again.sign_on(browser, partner=other)
    visit = read_answer(_ask(again, browser, name=name, index=index))
    wanted = str(visit.root.get("ID"))
    for response in (other.logout_response(again.now, "_unknown"), again.partner.logout_response(again.now, wanted)):
        sender = other if response.content[0].content == [other.entity_id] else again.partner  # type: ignore[union-attr]
        _shown(again, browser.get(sender.redirect(response, kind="SAMLResponse")), "saml.in_response_to")
    with again.stage.hub.database.read() as session:
        assert session.execute(select(SamlLogout.state).where(SamlLogout.request_id == wanted)).scalar() == "sent"


def test_the_chain_belongs_to_its_browser(again: Scene) -> None:
    browser = again.signed_in()
    again.sign_on(browser)
    page = submit(browser, browser.get("/logout"), "/logout")
    location = page.headers["location"]
    assert location.startswith("/saml/logout?transaction=")
    assert again.browser().get(location).status_code == 400
    assert browser.get("/saml/logout?transaction=x").status_code == 400


# ---------------------------------------------------------------------- SOAP, inwards


def _soap(scene: Scene, message: Node) -> Any:
    return scene.browser().post("/saml/slo/soap", content=write_soap(message), headers={"content-type": "text/xml"})


def test_an_application_signs_somebody_out_by_itself(again: Scene) -> None:
    browser = again.signed_in()
    name, index = _named(again.sign_on(browser))
    request = again.partner.logout_request(again.now, name, index, destination=f"{again.partner.slo}/soap")
    answer = _soap(again, sign(request, again.partner.signer))
    assert answer.status_code == 200, answer.text
    response = verify(read_soap(answer.content), [read_certificate(again.certificate).public_key])
    assert response.get("InResponseTo") == request.attributes["ID"]
    assert _codes(response) == ["Success"]
    assert not _is_signed_in(browser)


@pytest.mark.parametrize("content", [b"", b"x", b"<a/>", b"<!DOCTYPE a><a/>", b"\xff", b"<a>" * 1_000])
def test_what_is_no_soap_message_is_a_fault(again: Scene, content: bytes) -> None:
    answer = again.browser().post("/saml/slo/soap", content=content)
    assert answer.status_code == 400
    assert b"<soap:Fault>" in answer.content
    request = again.partner.logout_request(again.now, "x", destination=f"{again.partner.slo}/soap")
    assert _soap(again, request).status_code == 400, "not signed"


# ---------------------------------------------------------------------- SOAP, outwards: the channel


class _Wire:
    """The application's end of the channel."""

    def __init__(self, scene: Scene, status: str = names.SUCCESS) -> None:
        self.scene, self.status = scene, status
        self.asked: list[Any] = []
        self.signs, self.answers, self.http_status = True, "", 200
        self.spoil: Callable[[bytes], bytes] = lambda document: document

    async def request(self, method: str, url: str, **values: Any) -> OutboundResponse:
        assert (method, url) == ("POST", "https://partner.example/slo/soap")
        if self.http_status == 0:
            raise OutboundTimeout("partner.example did not answer.")
        request = verify(read_soap(values["data"]), [read_certificate(self.scene.certificate).public_key])
        self.asked.append(request)
        response = self.scene.partner.logout_response(
            self.scene.now, self.answers or str(request.get("ID")), self.status
        )
        signed = sign(response, self.scene.partner.signer) if self.signs else response
        return OutboundResponse(self.http_status, {}, self.spoil(write_soap(signed)))


def _planned(scene: Scene) -> LeasedDelivery:
    with scene.stage.hub.database.read() as session:
        row = session.execute(
            select(Delivery).where(Delivery.channel == "saml_logout").order_by(Delivery.id.desc()).limit(1)
        ).scalar_one()
        return LeasedDelivery(
            id=row.id, application_id=row.application_id, channel=row.channel, lane=row.lane, operation="logout",
            payload=row.payload, attempt=1, principal_id=row.principal_id, account_id=None,
            participant_id=row.participant_id, case_id=row.case_id, required_grade=Grade.E1, deadline_at=None,
            quiet_after=None,
        )  # fmt: skip


def _send(scene: Scene, wire: _Wire, delivery: LeasedDelivery) -> Any:
    hub = scene.stage.hub
    channel = SamlLogoutChannel(
        hub.database,
        hub.keyring,
        cast("OutboundHttp", wire),
        issuer=hub.settings.issuer,
        timeout=timedelta(seconds=1),
    )
    return asyncio.run(channel.send(delivery, now=scene.now))


def test_the_worker_tells_an_application_and_its_word_is_the_evidence(again: Scene) -> None:
    again.connect(logout=[SOAP_LOGOUT])
    browser = again.signed_in()
    name, index = _named(again.sign_on(browser))
    submit(browser, browser.get("/logout"), "/logout")
    delivery = _planned(again)
    wire = _Wire(again)
    outcome = _send(again, wire, delivery)
    assert (outcome.kind, outcome.grade, outcome.status_code) == ("done", Grade.E1, 200)
    assert outcome.evidence["is_signed"] is True
    assert wire.asked[0].findtext("saml:NameID", None, NS) == name
    assert wire.asked[0].findtext("samlp:SessionIndex", None, NS) == index
    second = _send(again, wire, replace(delivery, attempt=2))
    assert second.kind == "done"
    assert wire.asked[0].get("ID") != wire.asked[1].get("ID"), "an ID that comes twice is a replay"


def test_what_the_worker_hears_is_not_taken_for_more(again: Scene) -> None:
    again.connect(logout=[SOAP_LOGOUT])
    browser = again.signed_in()
    again.sign_on(browser)
    submit(browser, browser.get("/logout"), "/logout")
    delivery = _planned(again)
    for status in (names.RESPONDER, names.PARTIAL_LOGOUT, ""):
        outcome = _send(again, _Wire(again, status), delivery)
        assert (outcome.kind, outcome.grade) == ("retry", Grade.E0), status
    wire = _Wire(again)
    wire.answers = "_another"
    assert _send(again, wire, delivery).error == "The answer is to another request."
    for http_status in (500, 403, 0):
        wire = _Wire(again)
        wire.http_status = http_status
        assert _send(again, wire, delivery).kind == "retry"
    wire = _Wire(again)
    wire.signs = False
    outcome = _send(again, wire, delivery)
    assert (outcome.kind, outcome.evidence["is_signed"]) == ("done", False)
    wire = _Wire(again)
    wire.spoil = DOWNGRADES["RSA with SHA-1"]
    outcome = _send(again, wire, delivery)
    assert (outcome.kind, outcome.evidence["is_signed"]) == ("done", False), "as good as none, and no worse"
    wire.spoil = DOWNGRADES["XSLT"]
    assert _send(again, wire, delivery).kind == "retry"
    again.connect(logout=[])
    assert _send(again, _Wire(again), delivery).kind == "dead"


# ---------------------------------------------------------------------- leaving, suspension, loss of entitlement


def _rows(scene: Scene, person: str) -> list[Any]:
    with scene.stage.hub.database.read() as session:
        return list(
            session.execute(
                select(SessionParticipant.ended_at, Delivery.channel, Delivery.case_id, Delivery.required_grade)
                .join(SsoSession, SsoSession.id == SessionParticipant.session_id)
                .outerjoin(Delivery, Delivery.participant_id == SessionParticipant.id)
                .where(SsoSession.principal_id == person, SessionParticipant.service_provider_id.is_not(None))
                .order_by(SessionParticipant.joined_at.desc(), SessionParticipant.id.desc())
            )
        )


def test_losing_the_entitlement_reaches_the_application(again: Scene) -> None:
    again.connect(logout=[SOAP_LOGOUT])
    browser = again.signed_in()
    again.sign_on(browser)
    before = len(_rows(again, again.stage.person))
    again.connect(logout=[SOAP_LOGOUT], entitle=[{"role": "member", "rule": 'employments.companyCode eq "nobody"'}])
    told = [row for row in _rows(again, again.stage.person) if row.channel == "saml_logout"]
    assert len(_rows(again, again.stage.person)) >= before
    assert told and told[0].ended_at is not None
    assert _is_signed_in(browser), "the session itself goes on"
    assert again.ask(browser).headers["location"].startswith("/error")


def test_a_suspension_reaches_the_application(again: Scene) -> None:
    again.connect(logout=[SOAP_LOGOUT])
    browser = again.signed_in()
    again.sign_on(browser)
    before = len([row for row in _rows(again, again.stage.person) if row.channel == "saml_logout"])
    suspend, reactivate = SUSPENSIONS[Door.CLI]
    suspend(again.stage)
    after = [row for row in _rows(again, again.stage.person) if row.channel == "saml_logout"]
    # More than one where other tests left sessions: which those are depends on how tests are spread over workers.
    assert len(after) > before
    assert not _is_signed_in(browser)
    reactivate(again.stage)
