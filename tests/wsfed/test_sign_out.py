"""Sign-out: asked by applications, confirmed by the person, carried by the browser; and what a leave says of it."""

import re
from typing import Any
from urllib.parse import urlencode

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from idhub.access.tables import Application
from idhub.credentials.tables import SamlLogout, SsoSession
from idhub.lifecycle.doors import Door
from idhub.lifecycle.ports import planners_of
from idhub.lifecycle.tables import CaseRow
from tests.flows.every_door import LEAVES, NUMBER, PASSWORD, submit
from tests.saml.conftest import ENTITLED
from tests.saml.partner import Partner, read_answer
from tests.wsfed.relying_party import REALM, REPLY, Parties

_FRAME = re.compile(r'<iframe src="([^"]+)"')


@pytest.fixture
def again(parties: Parties) -> Parties:
    parties.connect()
    return parties


def _ask(browser: TestClient, **fields: str | None) -> Any:
    wanted = {"wa": "wsignout1.0", **fields}
    return browser.get("/wsfed?" + urlencode({name: value for name, value in wanted.items() if value is not None}))


def _is_signed_in(browser: TestClient) -> bool:
    return bool(browser.get("/").status_code == 200)


def _confirm(browser: TestClient, asked: Any) -> Any:
    """The person says yes; the page that follows."""
    assert asked.status_code == 303, asked.text
    assert asked.headers["location"].startswith("/logout?transaction=")
    page = browser.get(asked.headers["location"])
    assert page.status_code == 200
    return browser.get(submit(browser, page, "/logout").headers["location"])


def _goes_on(page: Any) -> str:
    found = re.search(r'href="([^"]+)" data-go-on', page.text)
    assert found, page.text
    assert page.headers["refresh"].endswith(f";url={found[1]}"), "also where no script runs"
    return found[1]


def test_a_person_who_signs_out_is_signed_out_of_applications_by_hidden_frames(again: Parties) -> None:
    """WS-Federation 13.2.4: wsignoutcleanup1.0 at every application; the way ends where the application asked."""
    again.connect("second", realm="urn:portal:second", reply="https://second.example/_trust/?x=1")
    browser = again.scene.signed_in()
    again.read(again.ask(browser))
    again.read(again.ask(browser, wtrealm="urn:portal:second"))
    page = _confirm(browser, _ask(browser, wtrealm=REALM, wreply=REPLY))
    assert sorted(_FRAME.findall(page.text)) == [
        f"{REPLY}?wa=wsignoutcleanup1.0",
        "https://second.example/_trust/?x=1&amp;wa=wsignoutcleanup1.0",
    ]
    assert "frame-src https://portal.example https://second.example" in page.headers["content-security-policy"]
    assert "They do not say whether they did." in page.text
    on = browser.get(_goes_on(page))
    assert on.headers["location"].startswith("/wsfed/signout?transaction=")
    assert browser.get(on.headers["location"]).headers["location"] == REPLY
    assert browser.get(on.headers["location"]).status_code == 400, "once"
    assert not _is_signed_in(browser)
    assert again.ask(browser).headers["location"].startswith("/login")
    with again.scene.stage.hub.database.read() as session:
        states = set(session.execute(select(SamlLogout.state)).scalars())
    assert states == {"sent"}, "nobody confirmed, so nothing is called done"
    shown = browser.get("/logout").text
    assert "portal" in shown
    assert "second" in shown


def test_saml_and_ws_federation_applications_are_told_in_one_go(again: Parties) -> None:
    partner = Partner(again.scene.partner.issuer, "https://both.example/sp", "https://both.example/acs")
    again.scene.connect("both", partner=partner, logout=[{"binding": "post", "url": "https://both.example/slo"}])
    browser = again.scene.signed_in()
    again.read(again.ask(browser))
    again.scene.sign_on(browser, partner=partner)
    page = browser.get("/logout")
    cleaning = browser.get(submit(browser, page, "/logout").headers["location"])
    assert _FRAME.findall(cleaning.text) == [f"{REPLY}?wa=wsignoutcleanup1.0"]
    visit = browser.get(_goes_on(cleaning))
    assert read_answer(visit).action == "https://both.example/slo"


def test_a_saml_application_that_asks_is_answered_partial_because_of_one_that_confirms_nothing(again: Parties) -> None:
    again.scene.connect()
    browser = again.scene.signed_in()
    again.read(again.ask(browser))
    answer = again.scene.sign_on(browser)
    name, index = answer.text(".//saml:NameID"), answer.attribute(".//saml:AuthnStatement", "SessionIndex")
    assert name and index
    request = again.scene.partner.logout_request(again.now, name, index)
    page = browser.get(again.scene.partner.redirect(request))
    while page.status_code == 303 and page.headers["location"].startswith("/"):
        page = browser.get(page.headers["location"])
    back = browser.get(_goes_on(page))
    from providers.saml_wire.bindings import read_redirect

    received = read_redirect(back.headers["location"].partition("?")[2].encode())
    assert b"status:PartialLogout" in received.document


@pytest.mark.parametrize("action", ["wsignout1.0", "wsignoutcleanup1.0"])
def test_nobody_is_signed_out_by_a_link_alone(again: Parties, action: str) -> None:
    """ASVS 10.6.2: the request is signed by nobody, so the person is asked."""
    browser = again.scene.signed_in()
    asked = _ask(browser, wa=action, wtrealm=REALM)
    assert asked.headers["location"].startswith("/logout?transaction=")
    assert _is_signed_in(browser)
    stayed = browser.get(asked.headers["location"].replace("/logout", "/wsfed/signout"))
    assert stayed.headers["location"] == "/", "the person stayed"
    posted = again.scene.browser().post("/wsfed", data={"wa": action, "wtrealm": REALM, "wreply": REPLY, "x": "y"})
    assert posted.status_code == 303
    oversized = again.scene.browser().post("/wsfed", data={"wa": action, "wtrealm": "x" * 100_000})
    assert oversized.status_code == 400, "nothing of a form is handed back unread"
    assert posted.headers["location"] == f"/wsfed?{urlencode({'wa': action, 'wtrealm': REALM, 'wreply': REPLY})}"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"wtrealm": REALM, "wreply": "https://evil.example/"}, "wsfed.reply"),
        ({"wtrealm": REALM, "wreply": REPLY + "x"}, "wsfed.reply"),
        ({"wtrealm": REALM, "wreply": ""}, "wsfed.reply"),
        ({"wtrealm": REALM, "wreply": REPLY + "\r\nSet-Cookie: a=b"}, "wsfed.reply"),
        ({"wtrealm": "urn:nobody"}, "wsfed.realm"),
        ({"wtrealm": "nul\0"}, "wsfed.realm"),
        ({"wtrealm": "x" * 5000}, "wsfed.realm"),
        ({"wtrealm": REALM, "wreply": "https://evil.example/" + "x" * 5000}, "wsfed.reply"),
        ({"wreply": "https://evil.example/"}, "wsfed.reply"),
        # Registered, but not of an application of this session, and nobody says whose it is.
        ({"wreply": "https://unused.example/"}, "wsfed.reply"),
    ],
)  # fmt: skip
def test_a_sign_out_that_leads_elsewhere_changes_nothing(again: Parties, fields: dict[str, str], reason: str) -> None:
    again.connect("unused", realm="urn:unused", reply="https://unused.example/")
    browser = again.scene.signed_in()
    again.read(again.ask(browser))
    again.reasons()
    page = _ask(browser, **fields)
    assert page.status_code == 400
    assert "evil" not in page.text
    assert _is_signed_in(browser)
    assert again.reasons() == {f"shown.{reason}"}


def test_without_a_realm_the_address_of_an_application_of_the_session_will_do(again: Parties) -> None:
    again.connect(home="https://portal.example/start", cleanup_url="https://portal.example/clean")
    browser = again.scene.signed_in()
    again.read(again.ask(browser))
    page = _confirm(browser, _ask(browser, wreply="https://portal.example/start"))
    assert _FRAME.findall(page.text) == ["https://portal.example/clean?wa=wsignoutcleanup1.0"]
    on = browser.get(_goes_on(page)).headers["location"]
    assert browser.get(on).headers["location"] == "https://portal.example/start"


def test_an_address_that_is_taken_back_meanwhile_is_not_gone_to(again: Parties) -> None:
    browser = again.scene.signed_in()
    asked = _ask(browser, wtrealm=REALM, wreply=REPLY)
    again.connect(reply="https://portal.example/elsewhere/")
    assert _confirm(browser, asked).status_code == 400


def test_somebody_who_is_signed_out_already_goes_back_at_once(again: Parties) -> None:
    browser = again.scene.browser()
    assert _ask(browser, wtrealm=REALM, wreply=REPLY).headers["location"] == REPLY
    assert _ask(browser, wtrealm=REALM).headers["location"] == "/logout"
    assert _ask(browser, wreply="https://evil.example/").headers["location"] == "/logout"
    assert _ask(browser, wtrealm=REALM, wreply="https://evil.example/").status_code == 400


def test_an_application_without_a_clean_up_address_is_called_untold(again: Parties) -> None:
    again.scene.apply(
        {"slug": "portal", "name": "portal", "wsfed": {"realm": REALM, "reply_urls": [REPLY]}, "entitle": ENTITLED}
    )
    browser = again.scene.signed_in()
    again.read(again.ask(browser))
    page = browser.get("/logout")
    ended = browser.get(submit(browser, page, "/logout").headers["location"])
    assert "<iframe" not in ended.text
    assert "Was not told" in ended.text


# ---------------------------------------------------------------------- a leave (last: it ends the person)


def test_a_leave_between_sign_in_and_answer_and_after_it(again: Parties) -> None:
    """Decision 0005: no channel reaches it, so its row says E0 with the time its session may still last."""
    browser, waiting = again.scene.signed_in(), again.scene.browser()
    token = again.read(again.ask(browser))
    sent = again.ask(waiting)
    page = waiting.get(sent.headers["location"])
    signed = submit(waiting, page, "/login", username=NUMBER, password=PASSWORD)
    given = again.scene.browser().post("/wsfed", data={"wa": "wsignin1.0", "wtrealm": REALM}).headers["location"]
    asked = _ask(browser, wtrealm=REALM, wreply=REPLY)
    with again.scene.stage.hub.database.read() as session:
        previewed = [
            (row.channel, int(row.ceiling), list(row.notes), row.exposure)
            for planner in planners_of(session)
            for row in planner.preview(session, again.scene.stage.person, now=again.now)
            if planner.channel == "saml_logout"
        ]
    ends_at = token.assertion.find(".//{*}AuthnStatement").get("SessionNotOnOrAfter")
    assert {(channel, ceiling, *notes) for channel, ceiling, notes, _ in previewed} == {("none", 0, "not_told")}
    assert all(exposure is not None for *_, exposure in previewed)

    LEAVES[Door.CLI, "now"](again.scene.stage)

    mine = SsoSession.principal_id == again.scene.stage.person
    with again.scene.stage.hub.database.read() as session:
        rows = session.execute(
            select(CaseRow.channel, CaseRow.ceiling, CaseRow.required_grade, CaseRow.note, CaseRow.residual_until,
                   CaseRow.delivery_id)
            .join(Application, Application.id == CaseRow.application_id)
            .where(Application.slug == "portal")
        ).all()  # fmt: skip
        alive = session.execute(select(SsoSession.id).where(mine, SsoSession.ended_at.is_(None))).all()
    found = {(row.channel, row.ceiling, row.required_grade, row.note, row.delivery_id) for row in rows}
    assert found == {("none", 0, 0, "not_told", None)}
    assert ends_at[:19] in {f"{row.residual_until:%Y-%m-%dT%H:%M:%S}" for row in rows}
    assert alive == []
    # Nothing that was begun before goes on.
    resumed = waiting.get(signed.headers["location"])
    assert resumed.headers["location"].startswith("/login"), resumed.text
    claimed = browser.get(given)
    assert browser.get(claimed.headers["location"]).headers["location"].startswith("/login")
    assert again.ask(browser).headers["location"].startswith("/login")
    refused = submit(browser, browser.get(again.ask(browser).headers["location"]), "/login", username=NUMBER,
                     password=PASSWORD)  # fmt: skip
    assert refused.status_code != 303
    for action in ("wsignout1.0", "wsignoutcleanup1.0"):
        assert _ask(browser, wa=action, wtrealm=REALM, wreply=REPLY).headers["location"] == REPLY
    assert browser.get(asked.headers["location"]).status_code == 303
    assert not _is_signed_in(browser)
