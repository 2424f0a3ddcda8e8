"""Sign-in: what is asked, what is answered, and what is refused."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from providers.saml_wire import names
from tests.flows.every_door import NUMBER, PASSWORD, submit
from tests.wsfed.relying_party import CLAIMS, NS, REALM, REPLY, ROLE, Parties, form_of


@pytest.fixture
def again(parties: Parties) -> Parties:
    """The application as it is connected by default, whatever another test made of it."""
    parties.connect()
    return parties


def _time(text: str | None) -> datetime:
    assert text is not None
    return datetime.fromisoformat(text)


def test_a_signed_in_person_is_answered_at_once(again: Parties) -> None:
    """WS-Federation 13.2.2; WS-Trust February 2005 section 4.2: one signed assertion of SAML 2.0, for this realm."""
    page = again.ask(again.scene.signed_in(), wctx="rm=0&id=passive", wreply=REPLY)
    token = again.read(page)
    assert (token.action, token.fields["wa"], token.fields["wctx"]) == (REPLY, "wsignin1.0", "rm=0&id=passive")
    assert token.response.tag == f"{{{names.TRUST}}}RequestSecurityTokenResponse"
    assert token.response.findtext(".//wsa:Address", None, NS) == REALM
    assert token.response.findtext("t:TokenType", None, NS) == names.ASSERTION
    assert token.response.findtext("t:RequestType", None, NS) == f"{names.TRUST}/Issue"
    assert token.text("saml:Issuer") == again.issuer
    assert token.text(".//saml:Audience") == REALM
    assert token.text(".//saml:AuthnContextClassRef") == names.PASSWORD_PROTECTED
    assert token.attributes[f"{CLAIMS}/name"] == ["林晓雯"]
    assert token.attributes[f"{CLAIMS}/emailaddress"] == ["qy000001@qiyue.example"]
    assert token.attributes[f"{CLAIMS}/privatepersonalidentifier"] == [NUMBER]
    assert token.attributes[ROLE] == ["member"]
    confirmation = token.assertion.find(".//saml:SubjectConfirmationData", NS)
    assert dict(confirmation.attrib).keys() == {"NotOnOrAfter"}, "Windows Identity Foundation takes nothing more"
    assert "form-action 'self' https://portal.example" in page.headers["content-security-policy"]
    assert page.headers["cache-control"] == "no-store"


def test_saml_1_1_says_the_same(again: Parties) -> None:
    """SAML 1.1 Core 2.3, 5.4: the identifier is AssertionID, the signature stands last."""
    again.connect(token="saml1.1")
    token = again.read(again.ask(again.scene.signed_in()), version="1.1")
    assert "wctx" not in token.fields
    assert token.response.findtext("t:TokenType", None, NS) == names.ASSERTION11
    assert (token.assertion.get("MajorVersion"), token.assertion.get("MinorVersion")) == ("1", "1")
    assert token.assertion.get("Issuer") == again.issuer
    assert token.text(".//saml1:Audience") == REALM
    assert token.text(".//saml1:ConfirmationMethod") == names.BEARER11
    statement = token.assertion.find("saml1:AuthenticationStatement", NS)
    assert statement.get("AuthenticationMethod") == names.PASSWORD11
    assert token.attributes[f"{CLAIMS}/name"] == ["林晓雯"]
    assert token.attributes[ROLE] == ["member"]
    names_given = {one.text for one in token.assertion.iterfind(".//saml1:NameIdentifier", NS)}
    assert len(names_given) == 1
    held = token.response.find("t:RequestedSecurityToken/saml1:Assertion", NS)
    assert held[-1].tag == f"{{{names.DS}}}Signature"


def test_somebody_who_is_not_signed_in_signs_in_first(again: Parties) -> None:
    browser = again.scene.browser()
    sent = again.ask(browser, wctx="state-1", whr="urn:somewhere", wct="2026-11-23T08:00:00Z", popupui="1")
    assert sent.status_code == 303
    assert sent.headers["location"].startswith("/login?transaction=")
    page = browser.get(sent.headers["location"])
    assert "portal" in page.text
    signed = submit(browser, page, "/login", username=NUMBER, password=PASSWORD)
    assert signed.headers["location"].startswith("/wsfed/resume?transaction=")
    token = again.read(browser.get(signed.headers["location"]))
    assert token.fields["wctx"] == "state-1"
    over = browser.get(signed.headers["location"])
    assert over.status_code == 400
    assert "This sign-in is over" in over.text


def test_a_form_of_another_site_is_taken_up_by_the_browser_with_its_cookies(again: Parties) -> None:
    """SameSite=Lax: a cross-site POST comes without cookies, the redirect after it with them."""
    browser, stranger = again.scene.signed_in(), again.scene.browser()
    sent = stranger.post("/wsfed", data={"wa": "wsignin1.0", "wtrealm": REALM, "wctx": "c"})
    assert sent.status_code == 303, sent.text
    claimed = browser.get(sent.headers["location"])
    assert claimed.status_code == 303
    assert again.read(browser.get(claimed.headers["location"])).fields["wctx"] == "c"
    assert again.scene.browser().get(sent.headers["location"]).status_code == 400, "the value works once"


@pytest.mark.parametrize(
    "context",
    [
        "",
        "a=b&c=d%26",
        '"><script>alert(1)</script>',
        "'\"&amp;&lt;",
        "中文 ü \u202e \U0001f600",
        " leading ",
        "x" * 8192,
    ],
)
@pytest.mark.parametrize("by_post", [False, True])
def test_the_context_comes_back_byte_for_byte(again: Parties, context: str, by_post: bool) -> None:
    """WS-Federation 13.2.2: wctx is opaque; in the page it is text and never markup."""
    browser = again.scene.signed_in()
    if by_post:
        sent = browser.post("/wsfed", data={"wa": "wsignin1.0", "wtrealm": REALM, "wctx": context})
        page = browser.get(browser.get(sent.headers["location"]).headers["location"])
    else:
        page = again.ask(browser, wctx=context)
    _, fields = form_of(page)
    assert fields["wctx"] == context
    assert "<script>alert" not in page.text
    assert page.text.count("<form") == page.text.count("</form>")


def test_fresh_zero_asks_again_and_says_when(again: Parties) -> None:
    """WS-Federation 13.2.2: wfresh, in minutes; 0 is a sign-in now."""
    browser = again.scene.signed_in()
    again.scene.stage.clock.advance(seconds=90)
    before = again.read(again.ask(browser)).assertion.find(".//saml:AuthnStatement", NS).get("AuthnInstant")
    assert again.ask(browser, wfresh="2").status_code == 200
    assert again.ask(browser, wfresh="1").headers["location"].startswith("/login?transaction=")
    sent = again.ask(browser, wfresh="0")
    assert sent.headers["location"].startswith("/login?transaction=")
    page = browser.get(sent.headers["location"])
    signed = submit(browser, page, "/login", username=NUMBER, password=PASSWORD)
    token = again.read(browser.get(signed.headers["location"]))
    assert _time(token.assertion.find(".//saml:AuthnStatement", NS).get("AuthnInstant")) > _time(before)


@pytest.mark.parametrize(
    ("wanted", "version", "stated"),
    [
        (names.PASSWORD, "2.0", names.PASSWORD),
        (names.PASSWORD11, "2.0", names.PASSWORD_PROTECTED),
        (names.PASSWORD11, "1.1", names.PASSWORD11),
        (names.UNSPECIFIED11, "1.1", names.UNSPECIFIED11),
    ],
)
def test_the_kind_of_sign_in_that_is_wanted_is_stated(again: Parties, wanted: str, version: str, stated: str) -> None:
    again.connect(token=f"saml{version}")
    token = again.read(again.ask(again.scene.signed_in(), wauth=wanted), version=version)
    if version == "2.0":
        assert token.text(".//saml:AuthnContextClassRef") == stated
    else:
        assert token.assertion.find("saml1:AuthenticationStatement", NS).get("AuthenticationMethod") == stated


@pytest.mark.parametrize(
    "wanted",
    [
        "urn:ietf:rfc:2246",
        "urn:federation:authentication:windows",
        "",
        "x" * 5000,
    ],
)
def test_another_kind_of_sign_in_is_refused_on_a_page(again: Parties, wanted: str) -> None:
    page = again.ask(again.scene.signed_in(), wauth=wanted)
    assert page.status_code == 400
    assert "The application asks for another kind of sign-in" in page.text
    assert "wresult" not in page.text


def test_what_a_companys_own_sign_in_may_give_leads_there(again: Parties) -> None:
    """The hub's own sign-in has one factor; a company's provider may say that it took two."""
    sent = again.ask(again.scene.signed_in(), wauth="http://schemas.microsoft.com/claims/multipleauthn")
    assert sent.headers["location"].startswith("/login?transaction=")


def test_the_token_is_valid_for_five_minutes_unless_its_end_is_the_applications_session(again: Parties) -> None:
    """One that lives longer ends with the session at the latest; it is to be delivered within minutes all the same."""
    browser = again.scene.signed_in()
    conditions = again.read(again.ask(browser)).assertion.find("saml:Conditions", NS)
    assert _time(conditions.get("NotOnOrAfter")) == again.now + timedelta(minutes=5)
    assert _time(conditions.get("NotBefore")) == again.now - timedelta(minutes=1)
    again.connect(token_lifetime="1h")
    token = again.read(again.ask(browser))
    assert _time(token.assertion.find("saml:Conditions", NS).get("NotOnOrAfter")) == again.now + timedelta(hours=1)
    assert _time(token.response.findtext(".//wsu:Expires", None, NS)) == again.now + timedelta(hours=1)
    delivered = token.assertion.find(".//saml:SubjectConfirmationData", NS).get("NotOnOrAfter")
    assert _time(delivered) == again.now + timedelta(minutes=5)
    again.connect(token_lifetime="12h")
    token = again.read(again.ask(browser))
    session_ends = token.assertion.find(".//saml:AuthnStatement", NS).get("SessionNotOnOrAfter")
    assert _time(token.assertion.find("saml:Conditions", NS).get("NotOnOrAfter")) <= _time(session_ends)


def test_the_person_is_named_as_the_application_wants(again: Parties) -> None:
    for wanted, expected in (("email", "qy000001@qiyue.example"), ("unspecified", NUMBER)):
        again.connect(name_id_format=wanted)
        assert again.read(again.ask(again.scene.signed_in())).text(".//saml:NameID") == expected
    again.connect()
    first = again.read(again.ask(again.scene.signed_in())).text(".//saml:NameID")
    assert again.read(again.ask(again.scene.signed_in())).text(".//saml:NameID") == first


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("fields", "sentence", "reason"),
    [
        ({"wa": None}, "This link is damaged", "wsfed.action"),
        ({"wa": "wattr1.0"}, "This link is damaged", "wsfed.action"),
        ({"wa": "wpseudo1.0"}, "This link is damaged", "wsfed.action"),
        ({"wa": "WSIGNIN1.0"}, "This link is damaged", "wsfed.action"),
        ({"wtrealm": None}, "The hub does not know this application", "wsfed.realm"),
        ({"wtrealm": ""}, "The hub does not know this application", "wsfed.realm"),
        ({"wtrealm": "urn:portal:two"}, "The hub does not know this application", "wsfed.realm"),
        ({"wtrealm": REALM.upper()}, "The hub does not know this application", "wsfed.realm"),
        ({"wtrealm": REALM + "\0"}, "The hub does not know this application", "wsfed.realm"),
        ({"wtrealm": "x" * 5000}, "The hub does not know this application", "wsfed.realm"),
        ({"wreply": "https://evil.example/_trust/"}, "This link leads somewhere that was not agreed", "wsfed.reply"),
        ({"wctx": "x" * 8193}, "This link is damaged", "wsfed.context"),
        ({"wctx": "line\nend"}, "This link is damaged", "wsfed.context"),
        ({"wctx": "nul\0"}, "This link is damaged", "wsfed.context"),
        ({"wct": "yesterday"}, "This link is damaged", "wsfed.time"),
        ({"wct": "2026-11-23"}, "This link is damaged", "wsfed.time"),
        ({"wfresh": "-1"}, "This link is damaged", "wsfed.fresh"),
        ({"wfresh": "1.5"}, "This link is damaged", "wsfed.fresh"),
        ({"wfresh": "٣"}, "This link is damaged", "wsfed.fresh"),
        ({"wfresh": "9" * 5000}, "This link is damaged", "wsfed.fresh"),
        ({"wreq": "<t:RequestSecurityToken/>"}, "This link is damaged", "wsfed.request"),
        ({"wreqptr": "http://169.254.169.254/"}, "This link is damaged", "wsfed.request"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_shown_and_goes_nowhere(
    again: Parties, fields: dict[str, str | None], sentence: str, reason: str
) -> None:
    browser = again.scene.signed_in()
    issued = len(again.scene.events("assertion.issued"))
    again.reasons()
    page = again.ask(browser, **fields)
    assert page.status_code == 400
    assert sentence in page.text
    assert "wresult" not in page.text
    assert "location" not in page.headers
    assert len(again.scene.events("assertion.issued")) == issued
    assert again.reasons() == {f"shown.{reason}"}


@pytest.mark.parametrize(
    "reply",
    [
        "https://portal.example/_trust",
        "https://portal.example/_trust//",
        "https://portal.example/_trust/?x=1",
        "https://portal.example/_trust/#x",
        "https://portal.example/_trust/../",
        "https://portal.example/_TRUST/",
        "https://PORTAL.example/_trust/",
        "https://portal.example:443/_trust/",
        "http://portal.example/_trust/",
        "https://portal.example@evil.example/_trust/",
        "https://portal.example.evil.example/_trust/",
        "https://portal.example/_trust/%2f..%2fevil",
        "//portal.example/_trust/",
        "/\\evil.example",
        "javascript:alert(1)",
        "data:text/html,x",
        " https://portal.example/_trust/",
        "https://portal.example/_trust/\r\nX: y",
        "",
    ],
)
def test_answers_go_to_registered_addresses_to_the_letter(again: Parties, reply: str) -> None:
    for browser in (again.scene.signed_in(), again.scene.browser()):
        page = again.ask(browser, wreply=reply)
        assert page.status_code == 400
        assert "This link leads somewhere that was not agreed" in page.text
        assert "evil" not in page.text


@pytest.mark.parametrize(
    "query",
    [
        f"wa=wsignin1.0&wtrealm={REALM}&wtrealm=urn:portal:two",
        f"wa=wsignin1.0&wa=wsignout1.0&wtrealm={REALM}",
        f"wa=wsignin1.0&wtrealm={REALM}&wreply=https://portal.example/_trust/&wreply=https://evil.example/",
        f"wa=wsignin1.0&wtrealm={REALM}&wctx=%ff",
        f"wa=wsignin1.0&wtrealm={REALM}&wctx=%ED%A0%80",
        f"wa=wsignin1.0&wtrealm={REALM}&" + "&".join(f"p{n}=1" for n in range(40)),
        f"wa=wsignin1.0&wtrealm={REALM}&wctx=" + "x" * 33000,
    ],
)  # fmt: skip
def test_a_parameter_comes_once_and_is_text(again: Parties, query: str) -> None:
    browser = again.scene.signed_in()
    page = browser.get("/wsfed?" + query)
    assert page.status_code == 400
    assert "This link is damaged" in page.text
    posted = browser.post("/wsfed", content=query, headers={"content-type": "application/x-www-form-urlencoded"})
    # A form may be longer than a query: there it is the context itself that is too long.
    assert posted.status_code == 400


def test_query_beside_a_form_is_refused(again: Parties) -> None:
    posted = again.scene.signed_in().post(f"/wsfed?wtrealm={REALM}", data={"wa": "wsignin1.0"})
    assert posted.status_code == 400


def test_who_is_not_entitled_reads_so_and_nothing_is_sent(again: Parties) -> None:
    again.scene.apply(
        {
            "slug": "portal", "name": "portal",
            "wsfed": {"realm": REALM, "reply_urls": [REPLY]},
            "entitle": [{"role": "member", "rule": 'employments.companyCode eq "nobody"'}],
        }
    )  # fmt: skip
    browser = again.scene.signed_in()
    sent = again.ask(browser)
    assert sent.status_code == 303
    page = browser.get(sent.headers["location"])
    assert page.status_code == 403
    assert "You cannot open portal" in page.text


def test_a_relying_party_is_no_service_provider_and_the_other_way_round(again: Parties) -> None:
    """The same key signs for both: what one may ask for, the other may not in its name."""
    again.scene.connect()
    browser = again.scene.signed_in()
    assert again.ask(browser, wtrealm=again.scene.partner.entity_id).status_code == 400
    from tests.saml.partner import Partner

    disguised = Partner(again.scene.partner.issuer, REALM, REPLY)
    page = browser.get(disguised.redirect(disguised.authn_request(again.now), signed=False))
    assert page.status_code == 400
    assert "The hub does not know this application" in page.text
    launched = browser.get("/saml/launch/portal")
    assert launched.status_code == 400


def test_one_resumption_of_a_transaction_answers(again: Parties) -> None:
    browser = again.scene.browser()
    sent = again.ask(browser)
    page = browser.get(sent.headers["location"])
    signed = submit(browser, page, "/login", username=NUMBER, password=PASSWORD)
    transaction = signed.headers["location"].partition("transaction=")[2]
    assert browser.get(f"/saml/sso/resume?transaction={transaction}").status_code == 400, "of the other protocol"
    assert again.scene.browser().get(signed.headers["location"]).status_code == 400, "of another browser"
    again.read(browser.get(signed.headers["location"]))


def test_a_reply_address_that_is_taken_back_meanwhile_gets_nothing(again: Parties) -> None:
    browser = again.scene.browser()
    sent = again.ask(browser, wreply=REPLY)
    page = browser.get(sent.headers["location"])
    again.connect(reply="https://portal.example/elsewhere/")
    signed = submit(browser, page, "/login", username=NUMBER, password=PASSWORD)
    refused: Any = browser.get(signed.headers["location"])
    assert refused.status_code == 400
    assert "This link leads somewhere that was not agreed" in refused.text
