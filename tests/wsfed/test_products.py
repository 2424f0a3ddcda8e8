"""Sign-in, attributes and sign-out with a relying party that nobody here wrote, over real HTTP.

Debian's Shibboleth speaks it too, as ADFS 1 did, and got as far as our metadata and its own request: version 3.4.1 of
its extension answers every token, of anybody, with "Unimplemented decode method".
"""

import html
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin
from urllib.request import urlopen

import httpx2
import pytest

from idhub.demo.browser import Browser, Page
from tests.flows.every_door import NUMBER, PASSWORD
from tests.saml.conftest import ENTITLED, Scene, scene_on_a_port
from tests.support.databases import Databases
from tests.support.processes import free_port, running
from tests.wsfed.relying_party import CLAIMS, ROLE, form_of

_SCRIPT = Path(__file__).with_name("passport.mjs")
_FRAME = re.compile(r'<iframe src="([^"]+)"')
_ON = re.compile(r'href="([^"]+)" data-go-on')
_MOST_PAGES = 12


@dataclass(frozen=True, kw_only=True)
class Product:
    """A running relying party, and how the hub is told of it."""

    name: str
    address: str
    wsfed: Mapping[str, Any]
    told: Mapping[str, str]
    """What it shows at /secret of the person, by the names it has for it."""
    logout: str
    ends_at: str


@contextmanager
def _passport(folder: Path, port: int, metadata: str) -> Iterator[Product]:
    node = shutil.which("node")
    assert node and (_SCRIPT.parent.parent / "node_modules" / "passport-wsfed-saml2").is_dir(), (
        "node or passport-wsfed-saml2 is missing: `make test` installs them"
    )
    folder.joinpath("hub.xml").write_text(metadata)
    address = f"http://127.0.0.1:{port}"
    with running([node, _SCRIPT, str(port), folder], port=port, log=folder / "error.log"):
        yield Product(
            name="passport",
            address=address,
            wsfed={
                "realm": "urn:passport",
                "reply_urls": [f"{address}/acs", f"{address}/acs/out"],
                "cleanup_url": f"{address}/clean",
            },
            told={
                f"{CLAIMS}/privatepersonalidentifier": NUMBER,
                f"{CLAIMS}/name": "林晓雯",
                ROLE: "member",
                "wctx": '/secret?a=1&b="<2>"',
            },
            logout="/logout",
            ends_at=f"{address}/acs/out",
        )


@pytest.fixture(scope="module")
def hub(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A hub on a port of its own."""
    folder = tmp_path_factory.mktemp("wsfed-hub")
    with scene_on_a_port(databases, folder) as scene:
        yield scene


@pytest.fixture(scope="module")
def product(hub: Scene, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A running product that reads the hub's own federation metadata."""
    with urlopen(f"{hub.stage.hub.settings.issuer}/wsfed/metadata", timeout=20) as answer:
        metadata = answer.read().decode()
    with _passport(tmp_path_factory.mktemp("passport"), free_port(), metadata) as found:
        yield found


def _connect(hub: Scene, product: Product, token: str) -> None:
    hub.apply(
        {"slug": product.name, "name": product.name, "wsfed": {**product.wsfed, "token": token}, "entitle": ENTITLED}
    )


class Person:
    """Somebody with a browser that has no script, which loads the frames of a page."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self.framed: list[str] = []

    def open(self, url: str) -> Page:
        """Open an address and do what the pages ask, until one asks for nothing."""
        return self.go_on(self._browser.get(url))

    def go_on(self, page: Page) -> Page:
        """Do what the pages ask, from this one on."""
        for _ in range(_MOST_PAGES):
            carried = page.form(lambda form: "wresult" in form.fields)
            leave = page.form(lambda form: form.action.endswith("/logout") and "csrf_token" in form.fields)
            on = _ON.search(page.html)
            if carried is not None:
                page = self._browser.submit(page, carried)
            elif page.login_form is not None:
                page = self._browser.submit(page, page.login_form, {"username": NUMBER, "password": PASSWORD})
            elif on is not None:
                for address in _FRAME.findall(page.html):
                    self.framed.append(html.unescape(address))
                    assert self._browser.get(self.framed[-1]).status == 200
                page = self._browser.get(urljoin(page.url, html.unescape(on[1])))
            elif leave is not None and "/logout?transaction=" in page.url:
                page = self._browser.submit(page, leave)
            else:
                return page
        raise AssertionError(f"no end of pages: {page.url}")

    def is_in(self, address: str) -> bool:
        """Whether an address shows itself without a sign-in at the hub."""
        return "/wsfed" not in " ".join(self._browser.get(address).visited)


def _told(page: Page) -> dict[str, str]:
    pairs = (line.partition("=") for line in page.html.splitlines())
    return {name: html.unescape(value).replace("(none)", "").strip(";") for name, _, value in pairs}


@pytest.mark.parametrize("token", ["saml1.1", "saml2.0"])
def test_sign_in_shows_the_attributes(hub: Scene, product: Product, token: str) -> None:
    _connect(hub, product, token)
    with Browser(language="en") as browser:
        page = Person(browser).open(f"{product.address}/secret")
        assert page.status == 200, page.html[:3000]
        told = _told(page)
    assert {name: told.get(name) for name in product.told} == dict(product.told)


def _token_for(hub: Scene, realm: str) -> dict[str, str]:
    """The form that carries a token for a realm."""
    page = hub.signed_in().get("/wsfed", params={"wa": "wsignin1.0", "wtrealm": realm})
    return form_of(page)[1]


def test_a_token_of_another_realm_or_one_that_was_changed_is_refused_there(hub: Scene, product: Product) -> None:
    """The audience is the realm; the signature covers what is said. The product itself is asked."""
    _connect(hub, product, "saml2.0")
    wsfed = {"realm": "urn:other", "reply_urls": ["https://other.example/"]}
    hub.apply({"slug": "other", "name": "other", "wsfed": wsfed, "entitle": ENTITLED})
    own = _token_for(hub, product.wsfed["realm"])
    for form, status in (
        (own, 303),
        (_token_for(hub, "urn:other"), 500),
        ({**own, "wresult": own["wresult"].replace(">member<", ">admin<")}, 500),
    ):
        answer = httpx2.post(f"{product.address}/acs", data=form)
        assert answer.status_code == status, answer.text


def test_sign_out_that_the_application_asks_for(hub: Scene, product: Product) -> None:
    _connect(hub, product, "saml1.1")
    with Browser(language="en") as browser:
        person = Person(browser)
        person.open(f"{product.address}/secret")
        assert person.is_in(f"{product.address}/secret")
        ended = person.open(product.address + product.logout)
        assert ended.url.endswith(product.ends_at), ended.url
        assert not person.is_in(f"{product.address}/secret")
        assert ended.status == 200


def test_sign_out_at_the_hub_reaches_the_application_by_a_frame(hub: Scene, product: Product) -> None:
    _connect(hub, product, "saml1.1")
    with Browser(language="en") as browser:
        person = Person(browser)
        person.open(f"{product.address}/secret")
        issuer = hub.stage.hub.settings.issuer
        page = browser.get(f"{issuer}/logout")
        leave = page.form(lambda form: form.action.endswith("/logout") and "csrf_token" in form.fields)
        assert leave is not None
        ended = person.go_on(browser.submit(page, leave))
        assert person.framed == [f"{product.wsfed['cleanup_url']}?wa=wsignoutcleanup1.0"]
        assert "Not confirmed" in ended.html
        assert not person.is_in(f"{product.address}/secret")
