"""Single Sign-On: what is asked, what is answered, and what is refused where."""

from datetime import timedelta
from typing import Any

import pytest

from providers.saml_wire import names
from providers.saml_wire.writing import Node
from tests.flows.every_door import NUMBER, PASSWORD, submit
from tests.saml.conftest import ENTITLED, Scene
from tests.saml.partner import NS, Partner, make_signer, read_answer


@pytest.fixture
def again(scene: Scene) -> Scene:
    """The application as it is connected by default, whatever another test made of it."""
    scene.connect()
    return scene


def test_a_signed_in_person_is_answered_at_once(again: Scene) -> None:
    """Profiles 4.1.4.2: issuer, subject, confirmation, audience, statement; both signatures hold for signxml."""
    browser = again.signed_in()
    request = again.partner.authn_request(again.now)
    page = browser.get(again.partner.redirect(request, relay_state="r&<\">'s"))
    answer = read_answer(page)
    assert answer.action == again.partner.acs
    assert answer.relay_state == "r&<\">'s"
    assert answer.status == ["Success"]
    assert answer.root.get("InResponseTo") == request.attributes["ID"]
    assert answer.root.get("Destination") == again.partner.acs
    response = answer.verify(again.certificate)
    assert response.tag == f"{{{names.PROTOCOL}}}Response"
    assertion = answer.verify(again.certificate, "saml:Assertion")
    assert assertion.findtext("saml:Issuer", None, NS) == again.entity_id
    confirmation = assertion.find(".//saml:SubjectConfirmationData", NS)
    assert confirmation.get("Recipient") == again.partner.acs
    assert confirmation.get("InResponseTo") == request.attributes["ID"]
    assert assertion.findtext(".//saml:Audience", None, NS) == again.partner.entity_id
    assert assertion.find(".//saml:AuthnStatement", NS).get("SessionIndex")
    assert answer.text(".//saml:AuthnContextClassRef") == names.PASSWORD_PROTECTED
    assert answer.attributes["employeeNumber"] == [NUMBER]
    assert answer.attributes["displayName"] == ["林晓雯"]
    assert answer.attributes["roles"] == ["member"]
    assert "form-action 'self' https://partner.example" in page.headers["content-security-policy"]
    assert page.headers["cache-control"] == "no-store"


def test_somebody_who_is_not_signed_in_signs_in_first(again: Scene) -> None:
    browser = again.browser()
    sent = again.ask(browser, relay_state="state-1")
    assert sent.status_code == 303
    assert sent.headers["location"].startswith("/login?transaction=")
    page = browser.get(sent.headers["location"])
    assert "partner" in page.text
    signed = submit(browser, page, "/login", username=NUMBER, password=PASSWORD)
    assert signed.headers["location"].startswith("/saml/sso/resume?transaction=")
    answer = read_answer(browser.get(signed.headers["location"]))
    assert (answer.status, answer.relay_state) == (["Success"], "state-1")
    over = browser.get(signed.headers["location"])
    assert over.status_code == 400
    assert "This sign-in is over" in over.text


def test_a_form_of_another_site_is_taken_up_by_the_browser_with_its_cookies(again: Scene) -> None:
    """SameSite=Lax: a cross-site POST comes without cookies, the redirect after it with them."""
    browser = again.signed_in()
    stranger = again.browser()
    form = again.partner.form(again.partner.authn_request(again.now), RelayState="s")
    sent = stranger.post("/saml/sso", data=form)
    assert sent.status_code == 303, sent.text
    claimed = browser.get(sent.headers["location"])
    assert claimed.status_code == 303
    assert read_answer(browser.get(claimed.headers["location"])).status == ["Success"]
    other = again.browser()
    assert other.get(sent.headers["location"]).status_code == 400, "the value works once"


def test_the_name_of_a_person_stays_and_is_another_at_another_application(again: Scene) -> None:
    """Core 8.3.7: persistent, pairwise."""
    other = Partner(again.partner.issuer, "https://other.example/sp", "https://other.example/acs")
    again.connect("other", partner=other)
    first = again.sign_on(again.signed_in()).text(".//saml:NameID")
    assert again.sign_on(again.signed_in()).text(".//saml:NameID") == first
    assert again.sign_on(again.signed_in(), partner=other).text(".//saml:NameID") not in {None, first}


@pytest.mark.parametrize(
    ("name_id_format", "urn", "expected"),
    [
        ("email", names.EMAIL, "qy000001@qiyue.example"),
        ("unspecified", names.UNSPECIFIED, NUMBER),
        ("transient", names.TRANSIENT, None),
    ],
)
def test_formats_of_names(again: Scene, name_id_format: str, urn: str, expected: str | None) -> None:
    again.connect(name_id_format=name_id_format)
    browser = again.signed_in()
    answer = again.sign_on(browser)
    assert answer.attribute(".//saml:NameID", "Format") == urn
    name = answer.text(".//saml:NameID")
    if expected is not None:
        assert name == expected
        return
    assert again.sign_on(browser).text(".//saml:NameID") == name, "one in a session, so that logout knows it"
    assert again.sign_on(again.signed_in()).text(".//saml:NameID") != name


@pytest.mark.parametrize(
    ("signs", "response", "assertion"),
    [("both", True, True), ("assertion", False, True), ("response", True, False)],
)
def test_what_is_signed_is_the_applications_choice(again: Scene, signs: str, response: bool, assertion: bool) -> None:
    again.connect(sign=signs)
    answer = again.sign_on(again.signed_in())
    assert (answer.root.find("ds:Signature", NS) is not None) is response
    assert (answer.root.find("saml:Assertion/ds:Signature", NS) is not None) is assertion


def test_attributes_are_those_that_configuration_names_under_its_names(again: Scene) -> None:
    again.connect(attributes={"urn:oid:0.9.2342.19200300.100.1.3": "email", "tel": "mobile", "uid": "employee_number"})
    answer = again.sign_on(again.signed_in())
    assert answer.attributes == {"urn:oid:0.9.2342.19200300.100.1.3": ["qy000001@qiyue.example"], "uid": [NUMBER]}
    assert answer.attribute(".//saml:Attribute[@Name='uid']", "NameFormat") == names.ATTRIBUTE_BASIC


# ---------------------------------------------------------------------- what a request may ask


def test_is_passive_without_a_session_is_answered(again: Scene) -> None:
    page = again.ask(again.browser(), IsPassive="true")
    answer = read_answer(page)
    assert answer.status == ["Responder", "NoPassive"]
    assert answer.root.find("saml:Assertion", NS) is None
    answer.verify(again.certificate)


def test_force_authn_asks_again_and_says_when(again: Scene) -> None:
    browser = again.signed_in()
    before = again.sign_on(browser).attribute(".//saml:AuthnStatement", "AuthnInstant")
    again.stage.clock.advance(seconds=90)
    sent = again.ask(browser, ForceAuthn="true")
    assert sent.headers["location"].startswith("/login?transaction=")
    page = browser.get(sent.headers["location"])
    signed = submit(browser, page, "/login", username=NUMBER, password=PASSWORD)
    answer = read_answer(browser.get(signed.headers["location"]))
    assert answer.status == ["Success"]
    assert answer.attribute(".//saml:AuthnStatement", "AuthnInstant") != before


def test_force_authn_and_is_passive_exclude_each_other(again: Scene) -> None:
    answer = again.sign_on(again.signed_in(), ForceAuthn="true", IsPassive="true")
    assert answer.status == ["Responder", "NoPassive"]


def _context(comparison: str | None, *classes: str) -> Node:
    refs = [Node("saml:AuthnContextClassRef", {}, [one]) for one in classes]
    return Node("samlp:RequestedAuthnContext", {"Comparison": comparison}, refs)


@pytest.mark.parametrize(
    ("requested", "stated"),
    [
        (_context(None, names.PASSWORD), names.PASSWORD),
        (_context("exact", "urn:x", names.PASSWORD_PROTECTED), names.PASSWORD_PROTECTED),
        (_context("minimum", names.PASSWORD), names.PASSWORD_PROTECTED),
        (_context("better", names.PASSWORD), names.PASSWORD_PROTECTED),
        (_context("maximum", names.PASSWORD_PROTECTED), names.PASSWORD_PROTECTED),
        (_context("better", names.PASSWORD, "urn:x"), None),
        (_context("exact", "urn:oasis:names:tc:SAML:2.0:ac:classes:TimeSyncToken"), None),
        (_context("nearly", names.PASSWORD), None),
        (Node("samlp:RequestedAuthnContext", {}, [Node("saml:AuthnContextDeclRef", {}, ["urn:x"])]), None),
    ],
)
def test_requested_authentication_context(again: Scene, requested: Node, stated: str | None) -> None:
    """Core 3.3.2.2.1: what cannot be promised is not stated."""
    request = again.partner.authn_request(again.now, [requested])
    answer = read_answer(again.signed_in().get(again.partner.redirect(request)))
    if stated is None:
        assert answer.status == ["Responder", "NoAuthnContext"]
    else:
        assert answer.text(".//saml:AuthnContextClassRef") == stated


@pytest.mark.parametrize(
    ("policy", "status"),
    [
        ({"Format": names.TRANSIENT}, ["Success"]),
        ({"Format": names.EMAIL}, ["Success"]),
        ({"Format": names.UNSPECIFIED, "AllowCreate": "true"}, ["Success"]),
        ({"Format": "urn:oasis:names:tc:SAML:2.0:nameid-format:kerberos"}, ["Requester", "InvalidNameIDPolicy"]),
        ({"SPNameQualifier": "https://affiliation.example"}, ["Requester", "InvalidNameIDPolicy"]),
    ],
)
def test_name_id_policy(again: Scene, policy: dict[str, str], status: list[str]) -> None:
    request = again.partner.authn_request(again.now, [Node("samlp:NameIDPolicy", policy)])
    answer = read_answer(again.signed_in().get(again.partner.redirect(request)))
    assert answer.status == status


def test_the_mail_address_is_no_name_where_it_is_no_attribute(again: Scene) -> None:
    again.connect(attributes={"uid": "employee_number"})
    request = again.partner.authn_request(again.now, [Node("samlp:NameIDPolicy", {"Format": names.EMAIL})])
    answer = read_answer(again.signed_in().get(again.partner.redirect(request)))
    assert answer.status == ["Requester", "InvalidNameIDPolicy"]


def test_a_request_about_somebody_is_not_answered_about_somebody_else(again: Scene) -> None:
    subject = Node("saml:Subject", {}, [Node("saml:NameID", {}, ["somebody"])])
    request = again.partner.authn_request(again.now, [subject])
    answer = read_answer(again.signed_in().get(again.partner.redirect(request)))
    assert answer.status == ["Requester", "RequestUnsupported"]


# ---------------------------------------------------------------------- who may enter


def test_who_is_not_entitled_gets_a_page_and_the_application_nothing(again: Scene) -> None:
    again.connect(entitle=[{"role": "member", "rule": 'employments.companyCode eq "nobody"'}])
    browser = again.signed_in()
    sent = again.ask(browser)
    assert sent.headers["location"].startswith("/error?transaction=")
    page = browser.get(sent.headers["location"])
    assert page.status_code == 403
    assert "You cannot open partner" in page.text
    assert again.events("authorization.refused")[-1]["reason"] == "access_denied.not_entitled"


def test_an_application_may_want_to_say_no_itself(again: Scene) -> None:
    again.connect(entitle=[{"role": "member", "rule": 'employments.companyCode eq "nobody"'}], not_entitled="answer")
    assert again.sign_on(again.signed_in()).status == ["Responder", "RequestDenied"]


def test_an_application_that_is_switched_off_gets_nobody(again: Scene) -> None:
    again.apply(
        {"slug": "partner", "name": "partner", "enabled": False, "saml": again.partner.block(), "entitle": ENTITLED}
    )
    page = again.ask(again.signed_in())
    assert page.status_code == 400
    assert "does not know this application" in page.text


def test_sign_in_without_a_request_is_off_until_it_is_allowed(again: Scene) -> None:
    """Profiles 4.1.5: whoever can send one can sign a victim in to what they like."""
    browser = again.signed_in()
    assert browser.get("/saml/launch/partner").status_code == 400
    again.connect(idp_initiated=True)
    answer = read_answer(browser.get("/saml/launch/partner"))
    assert answer.status == ["Success"]
    assert answer.root.get("InResponseTo") is None
    assert answer.attribute(".//saml:SubjectConfirmationData", "InResponseTo") is None
    assert browser.get("/saml/launch/unknown").status_code == 400


# ---------------------------------------------------------------------- what is shown, never sent


def _shown(scene: Scene, page: Any, cause: str) -> None:
    assert page.status_code == 400, (page.status_code, page.headers)
    assert "data-carry" not in page.text
    assert "location" not in page.headers
    portal = scene.stage.machine.portal
    assert portal is not None
    portal.call(scene.stage.app.state.services.journal.flush)
    reasons = [event["reason"] for event in scene.events("authorization.refused")]
    assert reasons[-1] == f"shown.{cause}", reasons


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"AssertionConsumerServiceURL": "https://evil.example/acs"}, "saml.consumer_url"),
        ({"AssertionConsumerServiceURL": "https://partner.example/acs/"}, "saml.consumer_url"),
        ({"AssertionConsumerServiceURL": "https://partner.example/acs?x=1"}, "saml.consumer_url"),
        ({"AssertionConsumerServiceURL": "HTTPS://partner.example/acs"}, "saml.consumer_url"),
        ({"AssertionConsumerServiceURL": "javascript:alert(1)"}, "saml.consumer_url"),
        ({"AssertionConsumerServiceURL": None, "AssertionConsumerServiceIndex": "7"}, "saml.consumer_index"),
        ({"AssertionConsumerServiceURL": None, "AssertionConsumerServiceIndex": "-1"}, "saml.consumer_index"),
        ({"AssertionConsumerServiceURL": None, "AssertionConsumerServiceIndex": "9" * 30}, "saml.consumer_index"),
        (
            {"AssertionConsumerServiceURL": None, "AssertionConsumerServiceIndex": "0" * 6 + "9" * 5_000},
            "saml.consumer_index",
        ),
        ({"AssertionConsumerServiceIndex": "0"}, "saml.consumer_twice"),
        ({"ProtocolBinding": "urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Artifact"}, "saml.binding"),
        ({"Destination": "https://elsewhere.example/saml/sso"}, "saml.destination"),
        ({"Destination": None}, "saml.destination"),
        ({"Version": "1.1"}, "saml.version"),
        ({"ID": "x' or '1'='1"}, "xml.id"),
        ({"ID": None}, "xml.missing"),
        ({"IssueInstant": "2026-11-23T02:00:00+08:00"}, "xml.instant"),
        ({"IssueInstant": "2026-02-30T02:00:00Z"}, "xml.instant"),
        ({"IssueInstant": "2026-11-22T02:00:00Z"}, "saml.issue_instant"),
        ({"IssueInstant": "2027-11-22T02:00:00Z"}, "saml.issue_instant"),
        ({"ForceAuthn": "yes"}, "xml.boolean"),
    ],
)
def test_a_request_that_cannot_be_trusted_is_shown(again: Scene, changes: dict[str, Any], cause: str) -> None:
    _shown(again, again.ask(again.browser(), **changes), cause)


def test_an_index_or_nothing_names_a_registered_place(again: Scene) -> None:
    again.connect(acs_urls=["https://partner.example/acs", {"url": "https://partner.example/b", "index": 9}])
    browser = again.signed_in()
    by_index = again.sign_on(browser, AssertionConsumerServiceURL=None, AssertionConsumerServiceIndex="9")
    assert by_index.action == "https://partner.example/b"
    assert again.sign_on(browser, AssertionConsumerServiceURL=None).action == "https://partner.example/acs"


def test_an_unknown_service_provider_is_shown(again: Scene) -> None:
    stranger = Partner(again.partner.issuer, "https://stranger.example/sp")
    page = again.ask(again.browser(), partner=stranger)
    _shown(again, page, "unknown_service_provider")


def test_signed_requests_are_a_matter_of_policy(again: Scene) -> None:
    request = again.partner.authn_request(again.now)
    browser = again.signed_in()
    assert read_answer(browser.get(again.partner.redirect(request, signed=False))).status == ["Success"]
    again.connect(want_signed_requests=True)
    request = again.partner.authn_request(again.now)
    _shown(again, browser.get(again.partner.redirect(request, signed=False)), "signature.missing")
    unsigned = again.partner.form(again.partner.authn_request(again.now), signed=False)
    _shown(again, browser.post("/saml/sso", data=unsigned), "signature.missing")
    assert read_answer(browser.get(again.partner.redirect(request))).status == ["Success"]


def test_a_signature_that_is_there_must_hold_wanted_or_not(again: Scene) -> None:
    thief = Partner(again.partner.issuer, signer=make_signer("thief"))
    _shown(again, again.ask(again.browser(), partner=thief), "signature.key")
    form = thief.form(thief.authn_request(again.now))
    _shown(again, again.browser().post("/saml/sso", data=form), "signature.key")


def test_a_request_works_once(again: Scene) -> None:
    browser = again.signed_in()
    url = again.partner.redirect(again.partner.authn_request(again.now))
    assert read_answer(browser.get(url)).status == ["Success"]
    _shown(again, browser.get(url), "request_replayed")
    again.stage.clock.advance(timedelta(minutes=5, seconds=1))
    _shown(again, again.browser().get(url), "saml.issue_instant")


def test_a_transaction_of_another_registration_is_over(again: Scene) -> None:
    """The registration is looked at again when the sign-in resumes."""
    browser = again.browser()
    sent = again.ask(browser)
    page = browser.get(sent.headers["location"])
    again.connect(acs_urls=["https://partner.example/moved"])
    signed = submit(browser, page, "/login", username=NUMBER, password=PASSWORD)
    page = browser.get(signed.headers["location"])
    assert page.status_code == 400
    assert "was not agreed" in page.text
