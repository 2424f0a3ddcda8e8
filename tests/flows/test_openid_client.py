"""An independent relying party (npm openid-client) against a running hub, on both databases.

openid-client is certified by the OpenID Foundation and refuses what a provider gets wrong: issuer, PKCE, state, nonce,
ID token signature and claims, `iss` of the answer, content types, token responses.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from idhub.demo.browser import Browser
from idhub.demo.processes import Server
from tests.flows.conftest import CONTRACTOR, PEOPLE, RunningHub

pytestmark = pytest.mark.slow
_SCRIPT = Path(__file__).parent / "relying_party.mjs"


@pytest.fixture
def application(request: pytest.FixtureRequest, running_hub: RunningHub, tmp_path: Path) -> Iterator[httpx2.Client]:
    """The relying party's own process; the client speaks to it."""
    node = shutil.which("node")
    modules = _SCRIPT.parent.parent / "node_modules" / "openid-client"
    assert node and modules.is_dir(), "node or openid-client is missing: `make test` installs them"
    method = getattr(request, "param", "basic")
    arguments = [str(running_hub.application_port), running_hub.hub.address, f"portal-{method}", method]
    with Server("openid-client", running_hub.application_port, tmp_path / "node.log") as server:
        server.start([node, _SCRIPT, *arguments], env={"CLIENT_SECRET": running_hub.client_secret})
        with httpx2.Client(base_url=running_hub.application, timeout=30) as client:
            yield client


@pytest.fixture
def browser() -> Iterator[Browser]:
    """A person's browser."""
    with Browser(language="en") as opened:
        yield opened


@pytest.fixture
def number(running_hub: RunningHub) -> str:
    """An employee of this test alone."""
    return running_hub.new_employee()


def _ok(answer: httpx2.Response) -> dict[str, object]:
    assert answer.status_code == 200, answer.text
    document: dict[str, object] = answer.json()
    return document


@pytest.mark.parametrize("application", ["basic", "post"], indirect=True)
def test_sign_in_refresh_introspection_revocation_and_logout(
    running_hub: RunningHub, application: httpx2.Client, browser: Browser, number: str
) -> None:
    signed_in = running_hub.sign_in(browser, f"{running_hub.application}/login", number)
    assert signed_in.page.status == 200, signed_in.page.html
    assert signed_in.asked_for_password
    assert '"token_type":"bearer"' in signed_in.page.html

    userinfo = _ok(application.get("/userinfo"))
    assert userinfo["name"] == PEOPLE[number][0]
    assert userinfo["email"] == f"{number.lower()}@qiyue.example"
    introspected = _ok(application.get("/introspect"))
    assert introspected["active"] is True
    assert introspected["sub"] == userinfo["sub"]
    assert str(introspected["client_id"]).startswith("portal-")
    assert _ok(application.get("/refresh"))["rotated"] is True
    assert _ok(application.get("/userinfo"))["sub"] == userinfo["sub"]

    _ok(application.get("/revoke"))
    refused = application.get("/refresh")
    assert refused.status_code == 502
    assert (refused.json()["error"], refused.json()["status"]) == ("invalid_grant", 400)
    assert _ok(application.get("/introspect")) == {"active": False}


def test_a_second_sign_in_needs_no_password_and_prompt_none_answers_at_once(
    running_hub: RunningHub, application: httpx2.Client, browser: Browser, number: str
) -> None:
    running_hub.sign_in(browser, f"{running_hub.application}/login", number)

    again = running_hub.sign_in(browser, f"{running_hub.application}/login?prompt=none", number)

    assert again.page.status == 200
    assert not again.asked_for_password


def test_prompt_none_without_a_session_answers_login_required(
    running_hub: RunningHub, application: httpx2.Client, browser: Browser
) -> None:
    """OIDC Core 3.1.2.1: nothing may be shown."""
    page = browser.get(f"{running_hub.application}/login?prompt=none")

    assert page.url.startswith(f"{running_hub.application}/callback?")
    assert '"error":"login_required"' in page.html


def test_prompt_login_asks_for_the_password_again(
    running_hub: RunningHub, application: httpx2.Client, browser: Browser, number: str
) -> None:
    running_hub.sign_in(browser, f"{running_hub.application}/login", number)

    again = running_hub.sign_in(browser, f"{running_hub.application}/login?prompt=login", number)

    assert again.page.status == 200
    assert again.asked_for_password


def test_logout_at_the_hub_returns_to_the_application_and_ends_the_session(
    running_hub: RunningHub, application: httpx2.Client, browser: Browser, number: str
) -> None:
    """RP-Initiated Logout 1.0 sections 2 and 3."""
    running_hub.sign_in(browser, f"{running_hub.application}/login", number)

    page = browser.get(f"{running_hub.application}/logout")
    form = page.form(lambda form: form.action == "/logout")
    assert form is not None, page.html
    assert "Portal asks to sign you out" in page.text
    page = browser.submit(page, form)

    assert page.url == f"{running_hub.application}/signed-out?state=bye", page.html
    assert browser.get(f"{running_hub.hub.address}/").login_form is not None
    assert application.get("/refresh").json()["error"] == "invalid_grant"


def test_somebody_who_is_not_entitled_gets_a_page_and_the_application_gets_nothing(
    running_hub: RunningHub, application: httpx2.Client, browser: Browser
) -> None:
    running_hub.give_password(CONTRACTOR)

    page = running_hub.sign_in(browser, f"{running_hub.application}/login", CONTRACTOR).page

    assert page.url.startswith(running_hub.hub.address)
    assert page.status == 403
    assert "Portal" in page.text


def test_offboarding_ends_what_the_application_holds(
    running_hub: RunningHub, application: httpx2.Client, browser: Browser, number: str
) -> None:
    running_hub.sign_in(browser, f"{running_hub.application}/login", number)

    running_hub.hub.run("offboard", number)

    assert application.get("/refresh").json()["error"] == "invalid_grant"
    assert _ok(application.get("/introspect")) == {"active": False}
    assert application.get("/userinfo").status_code == 502
    again = running_hub.sign_in(browser, f"{running_hub.application}/login", number)
    assert not again.page.url.startswith(running_hub.application)
