"""A whole hub with people and CAS applications in it, one for each module of tests."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from starlette.testclient import TestClient

from idhub.settings import Settings
from tests.flows.furniture import STAGE
from tests.saml.conftest import ENTITLED, Scene, furnished
from tests.support.clock import Clock
from tests.support.databases import DatabaseKind, Databases

SERVICE = "https://app.example/login"
_CAS = "{http://www.yale.edu/tp/cas}"


@dataclass
class Said:
    """What a validation answered."""

    user: str | None = None
    code: str | None = None
    text: str = ""
    attributes: dict[str, list[str]] = field(default_factory=dict)


class CasScene:
    """The hub, and what tests of CAS do with it again and again."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.stage = scene.stage

    def connect(self, slug: str = "app", *, entitle: Any = None, **block: Any) -> Any:
        """Connect an application."""
        wanted = {"services": [SERVICE], "user": "employee_number", **block}
        return self.scene.apply(
            {"slug": slug, "name": slug, "cas": wanted, "entitle": ENTITLED if entitle is None else entitle}
        )

    def browser(self) -> TestClient:
        """A browser without cookies, whose person reads English."""
        return self.scene.browser()

    def signed_in(self, number: str = "QY000001") -> TestClient:
        return self.scene.signed_in(number)

    def ask(self, browser: TestClient, service: str = SERVICE, **parameters: str) -> Any:
        """What a browser gets that an application sends here."""
        return browser.get("/cas/login", params={"service": service, **parameters})

    def ticket(self, browser: TestClient, service: str = SERVICE, **parameters: str) -> str:
        """A ticket for an application, of a browser that has a session."""
        answer = self.ask(browser, service, **parameters)
        return ticket_in(answer)

    def validate(self, ticket: str, service: str = SERVICE, *, path: str = "p3/serviceValidate", **more: str) -> Said:
        """What an application is told of a ticket."""
        answer = self.stage.machine.get(f"/cas/{path}", params={"ticket": ticket, "service": service, **more})
        assert answer.status_code == 200, answer.text
        return read(answer.text)


def ticket_in(answer: Any) -> str:
    """The ticket that a browser is sent to an application with."""
    assert answer.status_code == 303, (answer.status_code, answer.text[:2000])
    location: str = answer.headers["location"]
    return parse_qs(urlsplit(location).query)["ticket"][0]


def read(text: str) -> Said:
    """An answer in XML."""
    root = ET.fromstring(text)  # noqa: S314 - our own answer
    assert root.tag == f"{_CAS}serviceResponse"
    (content,) = root
    if content.tag == f"{_CAS}authenticationFailure":
        return Said(code=content.get("code"), text=content.text or "")
    assert content.tag == f"{_CAS}authenticationSuccess"
    said = Said(user=content.findtext(f"{_CAS}user"))
    for one in content.findall(f"{_CAS}attributes/*"):
        said.attributes.setdefault(one.tag.removeprefix(_CAS), []).append(one.text or "")
    return said


def open_cas_scene(kind: DatabaseKind, databases: Databases, folder: Any) -> Iterator[CasScene]:
    with databases.fresh(kind, folder, migrated=True, furnishing=STAGE) as url:
        settings = Settings(
            data_dir=folder, database_url=url, database_pool_size=8, argon2_memory_kib=1024, argon2_time_cost=1
        )
        with furnished(settings, databases, Clock(), furniture=databases.made_of(kind, STAGE)) as scene:
            opened = CasScene(scene)
            opened.connect()
            yield opened


@pytest.fixture(scope="module")
def cas(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CasScene]:
    """A furnished hub on SQLite with the application `app`, without a worker."""
    yield from open_cas_scene("sqlite", databases, tmp_path_factory.mktemp("cas"))
