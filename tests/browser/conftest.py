"""A served sample hub and a real Chromium."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from idhub.db import create_database
from idhub.keys import MasterKey, load_keyring
from idhub.migrations import migrate
from idhub.settings import Settings
from tests.support.clock import Clock
from tests.web.sample import SampleHub, Story

AXE = Path(__file__).parent.parent / "node_modules" / "axe-core" / "axe.min.js"
CHROMIUM_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
# What a page shows, it shows at once; a machine that is busy with another test is another matter.
expect.set_options(timeout=20_000)


class Served:
    """The sample hub with its story, answering on a port of its own."""

    def __init__(self, story: Story, url: str) -> None:
        self.story, self.hub, self.url = story, story.hub, url


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The sample hub on a free port of the loopback.

    What a module puts into it is put once for the package too: a process that takes tests over from another comes back
    to modules that it has left.
    """
    folder = tmp_path_factory.mktemp("browser")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
        url = f"http://127.0.0.1:{port}"
        settings = Settings(issuer=url, data_dir=folder, login_name="启岳汽车集团")
        database = create_database(settings)
        migrate(database)
        clock = Clock(datetime(2026, 11, 23, 5, 30, tzinfo=UTC))
        keyring = load_keyring(database, MasterKey.load(settings.effective_master_key_file, create=True), now=clock())
        served = Served(Story(SampleHub(settings, database, keyring, clock).fill(), clock).tell(), url)
        server = uvicorn.Server(uvicorn.Config(served.hub.app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.02)
        try:
            yield served
        finally:
            server.should_exit = True
            thread.join(10)
            database.dispose()


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; its absence fails the test rather than skipping it."""
    # Of this package alone: as long as it runs, no other test of the process can run an event loop.
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM_ARGUMENTS)
        yield launched
        launched.close()


class Visit:
    """A browser window of somebody who is signed in, with what it complained about."""

    def __init__(self, context: BrowserContext, served: Served) -> None:
        self.context, self.served = context, served
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self._note(message.type, message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _note(self, kind: str, text: str) -> None:
        if kind in {"error", "warning"} and "404" not in text and "409" not in text:
            self.complaints.append(text)

    def open(self, path: str) -> Page:
        """Go to a page of the hub."""
        self.page.goto(self.served.url + path, wait_until="load")
        return self.page

    def axe(self) -> list[str]:
        """What axe finds on the page, one line each."""
        return axe(self.page)


def axe(page: Page) -> list[str]:
    """What axe finds on a page, one line each. It does not list what it found right: that takes a third of its time."""
    page.evaluate(AXE.read_text())
    found: dict[str, Any] = page.evaluate("async () => await axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{v['id']}: {json.dumps([n['html'][:160] for n in v['nodes'][:3]], ensure_ascii=False)}"
        for v in found["violations"]
    ]


def open_visit(
    browser: Browser,
    served: Served,
    name: str | None,
    *,
    language: str = "zh-CN",
    theme: str = "light",
    phone: bool = False,
    script: bool = True,
) -> Visit:
    """A window for a person of the sample (None: nobody signed in)."""
    context = browser.new_context(
        viewport={"width": 390, "height": 844} if phone else {"width": 1440, "height": 900},
        locale=language,
        color_scheme="dark" if theme == "dark" else "light",
        java_script_enabled=script,
        reduced_motion="reduce",
    )
    if name is not None:
        context.add_cookies([{"name": "idhub_session", "value": served.hub.sign_in(name), "url": served.url}])
    return Visit(context, served)
