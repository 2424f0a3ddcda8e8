"""Signing in with a real Chromium: script on and off, both languages and themes, and the policy of every page."""

import http.server
import re
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, expect
from sqlalchemy import insert, update

from idhub.access.tables import Entitlement, OidcClient
from idhub.app import create_app
from idhub.credentials import transactions
from idhub.db import new_id
from idhub.errors import Unavailable
from idhub.login.passwords import HashingPool
from idhub.services import open_hub, utc_now
from idhub.settings import Settings
from tests.browser.conftest import axe
from tests.login.world import HERE, PASSWORD, World
from tests.support.clock import Clock
from tests.web.hub import begin, join, make_application

NUMBER = "QY-0418273"


class _Now(Clock):
    """The present: a browser's cookies and a server's clock should agree."""

    def __call__(self) -> Any:
        return utc_now()


@dataclass
class Entrance:
    """A whole hub on a port of its own, one person, two applications, and a relying party's page."""

    world: World
    url: str
    callback: str
    person_id: str
    office: str
    wiki: str

    def session(self) -> str:
        return self.world.minted(NUMBER, browser=replace(HERE, user_agent="Chrome/140.0 Windows")).token

    def transaction(self, *, refusal: str | None = None) -> tuple[str, str]:
        request = {"redirect_uri": self.callback, "scope": "openid profile email phone organization offline_access"}
        found = begin(self.world, protocol="oidc", request=request, client_id="office", application_id=self.office)
        if refusal is not None:
            with self.world.database.transaction() as session:
                transactions.refuse(session, *found, reason=refusal, now=utc_now())
        return found


class _Callback(http.server.BaseHTTPRequestHandler):
    """A relying party's callback: greets whoever arrives with a code."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>Office</title><h1>Arrived at Office</h1>")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def entrance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Entrance]:
    relying_party = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Callback)
    threading.Thread(target=relying_party.serve_forever, daemon=True).start()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        settings = Settings(
            issuer=url, data_dir=tmp_path_factory.mktemp("entrance"), login_name="启岳汽车集团", argon2_memory_kib=1024,
            argon2_time_cost=1,
        )  # fmt: skip
        hub = open_hub(settings)
        app = create_app(hub, with_worker=False)
        world = World(hub.database, hub.keyring, settings, _Now(), app.state.services.hashing)
        person_id, _ = world.person(name="王磊", number=NUMBER)
        owner_id, _ = world.onboard(name="陈晨")
        office, wiki = make_application(world, owner_id=owner_id), make_application(world, "wiki", is_told=False)
        callback = f"http://127.0.0.1:{relying_party.server_address[1]}/callback"
        with hub.database.transaction() as session:
            session.execute(update(OidcClient).values(redirect_uris=[callback], scopes=["openid", "profile"]))
            session.execute(
                insert(Entitlement).values(
                    id=new_id("ent"), principal_id=person_id, application_id=office, role="member",
                    reason_kind="direct", valid_from=utc_now(), recorded_at=utc_now(),
                )
            )  # fmt: skip
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield Entrance(world, url, callback, person_id, office, wiki)
        finally:
            server.should_exit = True
            thread.join(10)
            relying_party.shutdown()
            relying_party.server_close()
            hub.close()


class Window:
    """A browser window, with what it complained about."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context, self.url = context, url
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self._note(message.type, message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _note(self, kind: str, text: str) -> None:
        # A refusal's status is what the page is about, not a fault of it.
        if kind in {"error", "warning"} and not re.search(r"status of (400|403|410|503)", text):
            self.complaints.append(text)

    def open(self, path: str) -> Page:
        self.page.goto(self.url + path, wait_until="load")
        return self.page

    def cookie(self, name: str, value: str) -> None:
        self.context.add_cookies([{"name": f"idhub_{name}", "value": value, "url": self.url}])

    def sign_in(self, password: str = PASSWORD) -> None:
        self.page.fill("#f-username", NUMBER)
        self.page.fill("#f-password", password)
        self.page.press("#f-password", "Enter")
        self.page.wait_for_load_state()


def open_window(
    browser: Browser,
    entrance: Entrance,
    *,
    language: str = "zh-CN",
    theme: str = "light",
    width: int = 1440,
    script: bool = True,
) -> Window:
    context = browser.new_context(
        viewport={"width": width, "height": 900 if width > 500 else 844}, locale=language,
        color_scheme="dark" if theme == "dark" else "light", java_script_enabled=script, reduced_motion="reduce",
    )  # fmt: skip
    return Window(context, entrance.url)


@pytest.fixture(params=[True, False], ids=["script", "no-script"])
def window(request: pytest.FixtureRequest, browser: Browser, entrance: Entrance) -> Iterator[Window]:
    made = open_window(browser, entrance, script=request.param)
    yield made
    made.context.close()


def test_a_person_signs_in_by_keyboard_and_reaches_the_portal(window: Window) -> None:
    window.open("/")
    assert window.page.url.endswith("/login?return_to=%2F")
    window.sign_in()
    assert window.page.url == window.url + "/"
    assert "王磊" in window.page.content()
    assert window.complaints == []


def test_a_wrong_password_keeps_the_name_and_says_one_sentence(window: Window) -> None:
    window.open("/login")
    window.sign_in("wrong words altogether")
    expect(window.page.get_by_role("alert")).to_contain_text("工号、手机号、邮箱或密码不正确")
    assert window.page.input_value("#f-username") == NUMBER
    assert window.page.input_value("#f-password") == ""
    assert window.complaints == []


def test_the_error_summary_gets_the_focus(browser: Browser, entrance: Entrance) -> None:
    window = open_window(browser, entrance)
    window.open("/login")
    window.sign_in("wrong words altogether")
    assert window.page.evaluate("document.activeElement.dataset.test") == "errors"
    window.context.close()


def test_the_password_is_shown_on_demand_with_script_only(browser: Browser, entrance: Entrance) -> None:
    window = open_window(browser, entrance)
    window.open("/login")
    window.page.fill("#f-password", "words")
    window.page.click("[data-reveal]")
    assert window.page.get_attribute("#f-password", "type") == "text"
    window.context.close()
    plain = open_window(browser, entrance, script=False)
    plain.open("/login")
    assert not plain.page.is_visible("[data-reveal]")
    plain.context.close()


def test_an_application_asks_and_is_reached_across_origins(window: Window, entrance: Entrance) -> None:
    """The page's policy lets its form end at the application that asked, and the browser agrees."""
    query = (
        f"client_id=office&response_type=code&redirect_uri={entrance.callback}&scope=openid%20profile&state={secrets.token_hex(8)}"
        f"&code_challenge={'E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM'}&code_challenge_method=S256"
    )
    window.open(f"/oauth2/authorize?{query}")
    expect(window.page.locator("[data-test=application]")).to_contain_text("办公")
    window.sign_in()
    assert window.page.url.startswith(entrance.callback + "?")
    assert "Arrived at Office" in window.page.content()
    assert window.complaints == []


def test_signing_out_ends_the_session_and_says_so(window: Window) -> None:
    window.open("/login")
    window.sign_in()
    window.open("/logout")
    window.page.click("[data-test=sign-out]")
    window.page.wait_for_load_state()
    expect(window.page.locator("h1")).to_have_text("你已退出")
    window.open("/")
    assert "/login" in window.page.url
    assert window.complaints == []


def test_a_one_time_link_sets_the_password(browser: Browser, entrance: Entrance) -> None:
    principal_id, _ = entrance.world.onboard(name="李娜")
    window = open_window(browser, entrance, width=390)
    window.open(f"/login/first?token={entrance.world.invite(principal_id)}")
    window.page.fill("#f-password", PASSWORD)
    window.page.click("[data-test=set-password]")
    window.page.wait_for_load_state()
    assert window.page.url == window.url + "/"
    assert "李娜" in window.page.content()
    assert window.complaints == []
    window.context.close()


def test_other_sessions_are_ended_from_the_account_page(browser: Browser, entrance: Entrance) -> None:
    other = entrance.session()
    window = open_window(browser, entrance, width=390)
    window.cookie("session", entrance.session())
    window.open("/account/sessions")
    window.page.click("[data-test=end-others]")
    window.page.wait_for_load_state()
    expect(window.page.locator("[data-test=ended]")).to_be_visible()
    expect(window.page.locator("[data-test=only]")).to_be_visible()
    assert entrance.world.session_of(other) is None
    assert window.complaints == []
    window.context.close()


PAGES = [
    "login",
    "wrong",
    "busy",
    "first",
    "gone",
    "logout",
    "signed-out",
    "consent",
    "refused",
    "error",
    "sessions",
    "security",
]


def show(window: Window, entrance: Entrance, name: str) -> None:
    """Bring a window to one of the pages."""
    if name in {"logout", "consent", "refused", "sessions", "security"}:
        token = entrance.session()
        window.cookie("session", token)
        signed_in = entrance.world.session_of(token)
        assert signed_in is not None
        join(entrance.world, signed_in.session_id, entrance.person_id, entrance.office, "office")
        join(entrance.world, signed_in.session_id, entrance.person_id, entrance.wiki, "wiki")
    transaction, browser_token = entrance.transaction(refusal="not_entitled" if name == "refused" else None)
    window.cookie("browser", browser_token)
    if name == "first":
        token = entrance.world.invite(entrance.world.onboard(name="李娜")[0])
        window.open(f"/login/first?token={token}")
        return
    window.open(
        {
            "login": f"/login?transaction={transaction}", "wrong": f"/login?transaction={transaction}",
            "busy": f"/login?transaction={transaction}",
            "gone": "/login/first?token=x", "logout": "/logout", "signed-out": "/logout",
            "consent": f"/consent?transaction={transaction}", "refused": f"/error?transaction={transaction}",
            "error": "/error", "sessions": "/account/sessions", "security": "/account/security",
        }[name]
    )  # fmt: skip
    if name == "wrong":
        window.page.fill("#f-username", "nobody-" + secrets.token_hex(4))
        window.page.fill("#f-password", "wrong words")
        window.page.click("details.forgot summary")
        window.page.press("#f-password", "Enter")
        window.page.wait_for_load_state()
    if name == "busy":
        with no_room(entrance.world.pool):
            window.sign_in()
        expect(window.page.locator("[data-test=busy]")).to_be_visible()


@contextmanager
def no_room(pool: HashingPool) -> Iterator[None]:
    """Every place in the queue for hashing is taken."""
    with ExitStack() as taken:
        with suppress(Unavailable):
            while True:
                taken.enter_context(pool.enter())
        yield


# Every pair of language, theme and size once.
@pytest.mark.parametrize(
    ("language", "theme", "width"),
    [("zh-CN", "light", 1440), ("en", "dark", 390)],  # no colour depends on the language, no word on the theme
)
def test_axe_finds_nothing_and_nothing_breaks_the_policy(
    browser: Browser, entrance: Entrance, language: str, theme: str, width: int, request: pytest.FixtureRequest
) -> None:
    """Brief section 10; every page of signing in, in one combination of language, theme and size."""
    pictures = request.config.rootpath / ".pytest_cache" / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    for name in PAGES:
        window = open_window(browser, entrance, language=language, theme=theme, width=width)
        show(window, entrance, name)
        assert axe(window.page) == [], name
        assert window.page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert window.page.get_attribute("html", "lang") == language
        assert window.complaints == [], name
        window.page.screenshot(path=Path(pictures) / f"{name}-{language}-{theme}-{width}.png")
        window.context.close()


@pytest.mark.parametrize("name", PAGES)
def test_pages_fit_the_narrowest_screen(browser: Browser, entrance: Entrance, name: str) -> None:
    """WCAG 2.2, 1.4.10: 320 px without sideways scrolling."""
    window = open_window(browser, entrance, language="en", width=320)
    show(window, entrance, name)
    assert window.page.evaluate("document.documentElement.scrollWidth") <= 320
    window.context.close()
