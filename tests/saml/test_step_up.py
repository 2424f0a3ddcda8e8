"""RequestedAuthnContext: who must sign in again for it, what is stated, and when no sign-in could give it."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from idhub.login.contexts import MULTIFACTOR
from providers.saml_wire import names
from providers.saml_wire.writing import instant
from tests.flows.every_door import NUMBER, PASSWORD, submit
from tests.saml import upstream
from tests.saml.conftest import Scene
from tests.saml.partner import Answer, read_answer, read_artifact
from tests.saml.test_sign_on import _context

UNKNOWN = "urn:oasis:names:tc:SAML:2.0:ac:classes:unspecified"


@pytest.fixture
def again(scene: Scene) -> Scene:
    scene.connect()
    return scene


def _by_provider(scene: Scene, context: str) -> TestClient:
    """A browser whose person signed in at their company, which said so of how."""
    scene.stage.clock.advance(timedelta(seconds=1))
    browser = scene.browser()
    upstream.sign_in(browser, scene.stage.upstream, scene.now, context=context)
    assert upstream.is_in(browser)
    return browser


def _ask(scene: Scene, browser: TestClient, *classes: str, comparison: str | None = None, **changes: Any) -> Any:
    request = scene.partner.authn_request(scene.now, [_context(comparison, *classes)], **changes)
    return browser.get(scene.partner.redirect(request))


def _sign_in_again(scene: Scene, browser: TestClient, page: Any) -> Answer:
    """The person is asked for the password, and gives it."""
    assert page.status_code == 303, page.text[:500]
    assert page.headers["location"].startswith("/login?transaction="), page.headers
    scene.stage.clock.advance(timedelta(minutes=1))
    form = browser.get(page.headers["location"])
    assert form.status_code == 200 and 'name="password"' in form.text
    signed = submit(browser, form, "/login", username=NUMBER, password=PASSWORD)
    return read_answer(browser.get(signed.headers["location"]))


def _stated(answer: Answer) -> tuple[str | None, str | None]:
    return answer.text(".//saml:AuthnContextClassRef"), answer.attribute(".//saml:AuthnStatement", "AuthnInstant")


def test_a_sign_in_at_the_company_is_stated_as_what_it_is_known_to_be(again: Scene) -> None:
    """Never as a password over TLS, which nobody said it was."""
    for said, stated in (
        ("urn:x", UNKNOWN),
        (names.PASSWORD_PROTECTED, names.PASSWORD_PROTECTED),
        (MULTIFACTOR, MULTIFACTOR),
    ):
        answer = again.sign_on(_by_provider(again, said))
        assert _stated(answer)[0] == stated, said


def test_a_sign_in_that_is_not_good_enough_is_asked_for_again(again: Scene) -> None:
    browser = _by_provider(again, "urn:x")
    before = again.now
    answer = _sign_in_again(again, browser, _ask(again, browser, names.PASSWORD_PROTECTED))
    assert _stated(answer) == (names.PASSWORD_PROTECTED, instant(before + timedelta(minutes=1)))
    later = read_answer(_ask(again, browser, names.PASSWORD, comparison="minimum"))
    assert _stated(later) == _stated(answer), "it is good enough from now on, and as old as it is"


def test_a_stronger_sign_in_comes_from_the_company(again: Scene) -> None:
    browser = again.signed_in()
    page = _ask(again, browser, MULTIFACTOR)
    again.stage.clock.advance(timedelta(seconds=1))
    transaction = page.headers["location"].partition("transaction=")[2]
    asked = upstream.begin(browser, again.stage.upstream, transaction=transaction)
    document = again.stage.upstream.document(again.stage.upstream.answer(asked, again.now, context=MULTIFACTOR))
    answer = read_answer(upstream.follow(browser, upstream.deliver(browser, document)))
    assert _stated(answer)[0] == MULTIFACTOR


def test_who_signs_in_again_and_not_so_is_not_asked_for_ever(again: Scene) -> None:
    browser = again.signed_in()
    answer = _sign_in_again(again, browser, _ask(again, browser, names.PASSWORD_PROTECTED, comparison="better"))
    assert answer.status == ["Responder", "NoAuthnContext"]
    assert answer.root.find(".//{*}Assertion") is None
    assert again.events("authorization.refused")[-1]["reason"] == "unmet_authentication_requirements"


def test_who_may_not_be_asked_is_not(again: Scene) -> None:
    answer = read_answer(_ask(again, _by_provider(again, "urn:x"), names.PASSWORD, IsPassive="true"))
    assert answer.status == ["Responder", "NoPassive"]


@pytest.mark.parametrize("strange", ["urn:oasis:names:tc:SAML:2.0:ac:classes:TimeSyncToken", "x" * 5_000])
def test_what_no_sign_in_gives_is_refused_before_anybody_is_asked(again: Scene, strange: str) -> None:
    for browser in (again.browser(), again.signed_in()):
        assert read_answer(_ask(again, browser, strange)).status == ["Responder", "NoAuthnContext"]
    many = [f"urn:x:{number}" for number in range(20)]
    assert read_answer(_ask(again, again.browser(), *many, names.PASSWORD)).status == ["Responder", "NoAuthnContext"]


def test_without_providers_several_factors_are_out_of_reach(again: Scene) -> None:
    from sqlalchemy import update

    from idhub.login.tables import IdentityProvider

    def switch(is_enabled: bool) -> None:
        with again.stage.hub.database.transaction() as session:
            session.execute(update(IdentityProvider).values(is_enabled=is_enabled))

    switch(False)
    try:
        assert read_answer(_ask(again, again.signed_in(), MULTIFACTOR)).status == ["Responder", "NoAuthnContext"]
    finally:
        switch(True)
    assert _ask(again, again.signed_in(), MULTIFACTOR).status_code == 303


def test_force_authn_takes_no_old_sign_in_however_strong(again: Scene) -> None:
    """Core 3.4.1: the password again, also where the session would do; the instant is the new one."""
    browser = _by_provider(again, MULTIFACTOR)
    before = again.now
    page = _ask(again, browser, names.PASSWORD, comparison="minimum", ForceAuthn="true")
    answer = _sign_in_again(again, browser, page)
    assert _stated(answer) == (names.PASSWORD_PROTECTED, instant(before + timedelta(minutes=1)))
    forced = _ask(again, again.signed_in(), names.PASSWORD, ForceAuthn="true", IsPassive="true")
    assert read_answer(forced).status == ["Responder", "NoPassive"]


def test_what_was_asked_holds_for_artifacts_too(again: Scene) -> None:
    from tests.saml.test_artifact import ASKED, CONSUMERS, _resolve

    again.connect(acs_urls=CONSUMERS)
    browser = again.signed_in()
    answer = _resolve(again, read_artifact(_ask(again, browser, names.PASSWORD, **ASKED))[1])
    assert answer is not None and _stated(answer)[0] == names.PASSWORD
    said = _stated(answer)[1]
    assert said is not None and datetime.fromisoformat(said) <= again.now
