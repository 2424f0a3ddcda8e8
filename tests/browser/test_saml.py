"""The page that carries a response or a token to an application, and the one that asks applications to clean up: by
themselves, and with script off by their buttons.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import pytest
from playwright.sync_api import Browser
from playwright.sync_api import Error as PlaywrightError

from idhub.settings import Settings
from tests.saml.conftest import ENTITLED, Scene, furnished, serving
from tests.saml.partner import Partner
from tests.support.clock import Clock
from tests.support.databases import Databases

ASKED: list[str] = []
"""Paths that the application was asked for by GET."""


class _Application(BaseHTTPRequestHandler):
    """Says which fields were posted to it."""

    def do_POST(self) -> None:
        fields = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(f"<h1>got {' '.join(sorted(fields))}</h1>".encode())

    def do_GET(self) -> None:
        """Somebody is sent back, or a clean-up is asked for; no icon."""
        ASKED.append(self.path)
        self.send_response(204 if self.path == "/favicon.ico" else 200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"" if self.path == "/favicon.ico" else b"<h1>back</h1>")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing of it is news."""


@pytest.fixture(scope="module")
def application() -> Iterator[str]:
    """An application that takes responses."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Application)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/acs"
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture(scope="module")
def hub(application: str, databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A hub that knows it, and begins the sign-in itself."""
    folder = tmp_path_factory.mktemp("carrying")
    with socket.socket() as listener, databases.fresh("sqlite", folder, migrated=True) as url, ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        settings = Settings(
            data_dir=folder, database_url=url, issuer=f"http://127.0.0.1:{listener.getsockname()[1]}",
            argon2_memory_kib=1024, argon2_time_cost=1,
        )  # fmt: skip
        scene = stack.enter_context(furnished(settings, databases, Clock()))
        scene.connect("carried", partner=Partner(settings.issuer, application, application), idp_initiated=True)
        wsfed = {"realm": "urn:framed", "reply_urls": [application], "cleanup_url": f"{application}/clean"}
        scene.apply({"slug": "framed", "name": "framed", "wsfed": wsfed, "entitle": ENTITLED})
        stack.enter_context(serving(scene, listener, with_worker=False))
        yield scene


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_a_response_reaches_the_application(hub: Scene, browser: Browser, application: str, script: bool) -> None:
    token = hub.signed_in().cookies["idhub_session"]
    issuer = hub.stage.hub.settings.issuer
    context = browser.new_context(locale="en", java_script_enabled=script)
    context.add_cookies([{"name": "idhub_session", "value": token, "url": issuer}])
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(f"{issuer}/saml/launch/carried", wait_until="commit")
    if not script:
        assert page.url.startswith(issuer), "nothing happens by itself"
        page.get_by_role("button", name="Continue").click()
    page.wait_for_url(application)
    assert page.locator("h1").inner_text() == "got SAMLResponse"
    assert complaints == []
    context.close()


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_a_token_reaches_the_application_and_a_frame_asks_it_to_clean_up(
    hub: Scene, browser: Browser, application: str, script: bool
) -> None:
    """WS-Federation 13.2: also under the hub's policy, which names this application's origin for form and frame."""
    token = hub.signed_in().cookies["idhub_session"]
    issuer = hub.stage.hub.settings.issuer
    context = browser.new_context(locale="en", java_script_enabled=script)
    context.add_cookies([{"name": "idhub_session", "value": token, "url": issuer}])
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(f"{issuer}/wsfed?wa=wsignin1.0&wtrealm=urn:framed&wctx=%22%3E%3Cb", wait_until="commit")
    if not script:
        page.get_by_role("button", name="Continue").click()
    page.wait_for_url(application)
    assert page.locator("h1").inner_text() == "got wa wctx wresult"
    ASKED.clear()
    page.goto(f"{issuer}/wsfed?wa=wsignout1.0&wtrealm=urn:framed&wreply={application}")
    page.get_by_role("button", name="Sign out everywhere").click()
    if not script:
        # Only when the frame has asked: who leaves the page before that has left it unasked.
        while not any("clean" in one for one in ASKED):
            page.wait_for_timeout(20)
        with suppress(PlaywrightError):
            # On a slow machine the page has gone on by itself.
            page.get_by_role("link", name="Continue").click(timeout=2_000)
    page.wait_for_url(application)
    assert [one for one in ASKED if one != "/favicon.ico"] == ["/acs/clean?wa=wsignoutcleanup1.0", "/acs"]
    assert complaints == []
    context.close()
