"""What every step of the story has at hand: processes, people, browsers, and how to look at things."""

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx2

from idhub.demo import signing_in
from idhub.demo.applications import Application, ScimTarget
from idhub.demo.browser import Browser
from idhub.demo.hub import Client, Hub
from idhub.demo.narrator import Narrator, StoryFailed
from idhub.demo.processes import wait_until
from idhub.demo.sample import SAMPLE_SIGNINS, SampleSignIn
from idhub.demo.signing_in import SignedIn

_ZONE = ZoneInfo("Asia/Shanghai")
_LOOK_EVERY_SECONDS = 0.02


@dataclass
class Remembered:
    """What the leaver had before, tried again after each change of standing."""

    browser: Browser
    link: str
    sub: str
    tokens: Mapping[str, Any]
    case: str = ""


class Stage:
    """One telling, in a folder of its own. `close` ends every process, whatever happened."""

    def __init__(self, narrator: Narrator, folder: Path) -> None:
        self.tell = narrator
        self.folder = folder
        self.today: date = datetime.now(_ZONE).date()
        self.office = Application(folder, slug="office", title="Office", title_zh="办公")
        self.wiki = Application(folder, slug="wiki", title="Wiki", title_zh="知识库")
        self.scim = ScimTarget(folder)
        ports = (self.scim.server.port, self.office.server.port, self.wiki.server.port)
        self.hub = Hub(folder, outbound_allow=",".join(f"127.0.0.1:{port}" for port in ports))
        self.password = secrets.token_urlsafe(18)
        self._browsers: list[Browser] = []
        self._client: Client | None = None
        self._remembered: Remembered | None = None

    @staticmethod
    def cast(part: str) -> SampleSignIn:
        """Who plays a part."""
        return SAMPLE_SIGNINS[part]

    @property
    def remembered(self) -> Remembered:
        """What the leaver had."""
        if self._remembered is None:
            raise StoryFailed("the leaver has not signed in yet")
        return self._remembered

    @remembered.setter
    def remembered(self, remembered: Remembered) -> None:
        self._remembered = remembered

    @property
    def client(self) -> Client:
        """Office's own client credentials at the hub's machine endpoints."""
        if self._client is None:
            self._client = Client(self.hub.discovery(), "office", self.office.client_secret)
        return self._client

    def browser(self) -> Browser:
        """A new browser, without cookies."""
        browser = Browser()
        self._browsers.append(browser)
        return browser

    def invite(self, person: SampleSignIn) -> str:
        """A one-time link for a person, as `idhub people invite` prints it."""
        return self.hub.run("people", "invite", person.employee_number).stdout.strip()

    def first_password(self, person: SampleSignIn, *, password: str | None = None) -> str:
        """Invite a person and choose the password as that person would. Returns the used link."""
        link = self.invite(person)
        signing_in.set_first_password(self.browser(), link, password or self.password)
        return link

    def sign_in(
        self, browser: Browser, application: Application, person: SampleSignIn, *, password: str | None = None
    ) -> SignedIn:
        """Sign in to an application."""
        start = f"{application.address}/login"
        return signing_in.sign_in(browser, start, person.employee_number, password or self.password)

    def can_sign_in(self, person: SampleSignIn, *, password: str | None = None) -> bool:
        """Whether a fresh browser gets into Office, by the account of Office itself."""
        page = self.sign_in(self.browser(), self.office, person, password=password).page
        return page.url.startswith(self.office.address) and self.office.session_of(person.name) is not None

    def person_id(self, person: SampleSignIn) -> str:
        """The hub's id of a person."""
        shown = self.hub.run("people", "show", person.employee_number, "--json").data
        return str(shown["id"])

    def scim_account(self, person: SampleSignIn) -> Mapping[str, Any]:
        """A person's account, read from the SCIM server itself.

        Raises:
            StoryFailed: there is none, or more than one.
        """
        found = self.scim.by_external_id(self.person_id(person))
        if len(found) != 1:
            raise StoryFailed(f"{person.name} has {len(found)} SCIM accounts, not one")
        return found[0]

    def receipt(self, case: str) -> Mapping[str, Any]:
        """A receipt as it stands."""
        shown: Mapping[str, Any] = self.hub.run("receipt", "show", case, "--json").data
        return shown

    def wait_for_complete_receipt(self, case: str, *, seconds: float = 60) -> Mapping[str, Any]:
        """The receipt, once every row has reached its required grade."""
        wait_until(lambda: bool(self.receipt(case)["complete"]), seconds=seconds, what=f"receipt {case} is complete")
        return self.receipt(case)

    def seconds_per_call(self, *, calls: int = 40) -> float:
        """Median time of an introspection at the hub, one call after the other."""
        times = []
        for _ in range(calls):
            start = time.perf_counter()
            self.client.is_active("nothing-of-ours")
            times.append(time.perf_counter() - start)
        return sorted(times)[calls // 2]

    def close(self) -> None:
        """End every process."""
        for browser in self._browsers:
            browser.close()
        if self._client is not None:
            self._client.close()
        for part in (self.office, self.wiki, self.scim, self.hub):
            part.close()


class Watch:
    """Looks at conditions from the side, so that each gets its own time, whatever the story does meanwhile."""

    def __init__(self, conditions: Mapping[str, Callable[[], bool]]) -> None:
        self._seen_at: dict[str, float] = {}
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._look, args=(name, condition), daemon=True)
            for name, condition in conditions.items()
        ]
        for thread in self._threads:
            thread.start()

    def _look(self, name: str, condition: Callable[[], bool]) -> None:
        while not self._stop.is_set():
            try:
                if condition():
                    self._seen_at[name] = time.time()
                    return
            except (httpx2.HTTPError, KeyError):
                pass  # not readable at this moment: not seen
            self._stop.wait(_LOOK_EVERY_SECONDS)

    def wait(self, *, seconds: float) -> Mapping[str, float]:
        """When each condition was first seen to hold, in seconds since 1970.

        Raises:
            TimeoutError: some were not within `seconds`; names them.
        """
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        missing = [thread.name for thread in self._threads if thread.is_alive()]
        self._stop.set()
        if missing:
            raise TimeoutError(f"not within {seconds:g} s; seen so far: {', '.join(self._seen_at) or 'nothing'}")
        return self._seen_at
