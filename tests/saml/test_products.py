"""Sign-in, attributes and logout both ways with service providers that nobody here wrote, over real HTTP."""

import html
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import select

from idhub.access.tables import Application, SamlServiceProvider
from idhub.credentials.tables import SamlArtifact
from idhub.delivery.tables import Delivery
from idhub.demo.browser import Browser, Page
from tests.flows.every_door import NUMBER, PASSWORD
from tests.saml.conftest import ENTITLED, Scene, scene_on_a_port
from tests.saml.partner import one_signer, pem_of
from tests.saml.products import PRODUCTS, HubFacts, Key, Product, opened
from tests.support.databases import Databases
from tests.support.processes import free_port, wait_until

_LINK = re.compile(r'<a [^>]*href="([^"]+)" data-test="carry"')
_COMPLAINT = re.compile(r"error|crit|exception|refused|invalid", re.IGNORECASE)
_MOST_PAGES = 12
PORTS = {name: free_port() for name in PRODUCTS}


class Person:
    """Somebody with a browser that has no script: presses what the pages offer."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser

    def open(self, url: str) -> Page:
        """Open an address and do what the pages ask, until one asks for nothing."""
        return self.go_on(self.browser.get(url))

    def go_on(self, page: Page) -> Page:
        """Do what the pages ask, from this one on."""
        for _ in range(_MOST_PAGES):
            carried = page.form(lambda form: bool({"SAMLRequest", "SAMLResponse"} & form.fields.keys()))
            link = _LINK.search(page.html)
            if carried is not None:
                page = self.browser.submit(page, carried)
            elif link is not None:
                page = self.browser.get(html.unescape(link[1]))
            elif page.login_form is not None:
                page = self.browser.submit(page, page.login_form, {"username": NUMBER, "password": PASSWORD})
            else:
                return page
        raise AssertionError(f"no end of pages: {page.url}")

    def is_in(self, address: str) -> bool:
        """Whether an address shows itself without a sign-in at the hub."""
        return "/saml/sso" not in " ".join(self.browser.get(address).visited)


@pytest.fixture(scope="module")
def hub(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A hub on a port of its own, with its worker; it may call the products."""
    folder = tmp_path_factory.mktemp("saml-hub")
    with scene_on_a_port(databases, folder, with_worker=True, may_call=PORTS.values()) as scene:
        yield scene


@pytest.fixture(scope="module", params=list(PRODUCTS))
def product(request: pytest.FixtureRequest, hub: Scene) -> Iterator[Product]:
    """A running product that the hub knows by the product's own metadata."""
    name = request.param
    key = one_signer().private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    with urlopen(f"{hub.stage.hub.settings.issuer}/saml/metadata", timeout=20) as answer:
        facts = HubFacts(hub.entity_id, answer.read().decode(), pem_of(hub.certificate))
    with (
        # Not below pytest's own folder, which nobody else may enter: Apache leaves root's rights behind.
        TemporaryDirectory(prefix=f"idhub-{name}-", ignore_cleanup_errors=True) as made,
        PRODUCTS[name](opened(Path(made)), PORTS[name], Key(key, pem_of(one_signer().certificate)), facts) as product,
    ):
        with urlopen(product.address + product.metadata, timeout=20) as answer:
            metadata = answer.read().decode()
        for binding in product.drops:
            metadata = re.sub(rf"<[^<>]*SingleLogoutService[^<>]*:{binding}\"[^<>]*/>", "", metadata)
        hub.stage.folder.joinpath(f"{name}.xml").write_text(metadata)
        hub.apply(
            {
                "slug": name, "name": name, "saml": {"metadata_file": f"{name}.xml", **product.options},
                "entitle": ENTITLED,
            }
        )  # fmt: skip
        yield product


def _told(page: Page) -> dict[str, str]:
    pairs = (line.partition("=") for line in page.html.splitlines())
    # Apache shows what it does not know as "(none)", beside the other module's name for it.
    return {name: value.replace("(none)", "").strip(";") for name, _, value in pairs}


def test_sign_in_shows_the_attributes(hub: Scene, product: Product) -> None:
    with Browser(language="en") as browser:
        page = Person(browser).open(product.address + product.login)
        assert page.status == 200, page.html[:3000]
        told = _told(page)
    assert told["employeeNumber"] == NUMBER
    assert told["displayName"] == "林晓雯"
    assert told["roles"] == "member"


def test_signing_out_at_the_product_ends_the_session_at_the_hub(hub: Scene, product: Product) -> None:
    with Browser(language="en") as browser:
        person = Person(browser)
        person.open(product.address + product.login)
        assert person.is_in(product.address + product.login)
        assert browser.get(hub.stage.hub.settings.issuer).login_form is None
        page = person.open(product.address + product.logout)
        assert page.status == 200, page.html[:3000]
        assert page.url.startswith(product.address), page.url
        assert browser.get(hub.stage.hub.settings.issuer).login_form is not None
        assert not person.is_in(product.address + product.login)


def test_signing_out_at_the_hub_ends_the_session_at_the_product(hub: Scene, product: Product) -> None:
    with Browser(language="en") as browser:
        person = Person(browser)
        person.open(product.address + product.login)
        assert person.is_in(product.address + product.login)
        page = browser.get(hub.stage.hub.settings.issuer + "/logout")
        asked = page.form(lambda form: form.action.endswith("/logout"))
        assert asked is not None
        page = browser.submit(page, asked)
        if product.is_told_by_soap:
            # By the worker: nobody's browser has anything to do with it.
            wait_until(lambda: _deliveries(hub, product) == [("done", True)], seconds=30, what="the worker told it")
        else:
            page = person.go_on(page)
            assert 'data-test="told"' in page.html, page.html[-3000:]
            assert 'data-test="unconfirmed"' not in page.html
        assert page.url.startswith(hub.stage.hub.settings.issuer), page.url
        assert not person.is_in(product.address + product.login)


def test_sign_in_by_artifact(hub: Scene, product: Product) -> None:
    """The browser carries a reference; the product fetches the response itself, over SOAP that both sides sign."""
    if product.artifact is None:
        assert product.name in {"simplesamlphp", "node-saml"}, "one needs PHP's SOAP module, the other knows none"
        return
    issuer = hub.stage.hub.settings.issuer
    start = product.artifact.format(hub=issuer) if "{" in product.artifact else product.address + product.artifact
    with Browser(language="en") as browser:
        person = Person(browser)
        person.open(start)
        assert person.is_in(product.address + product.login)
        told = _told(browser.get(product.address + product.login))
    assert (told["employeeNumber"], told["displayName"], told["roles"]) == (NUMBER, "林晓雯", "member")
    with hub.stage.hub.database.read() as session:
        rows = session.execute(
            select(SamlArtifact.spent_at)
            .join(SamlServiceProvider, SamlServiceProvider.id == SamlArtifact.service_provider_id)
            .join(Application, Application.id == SamlServiceProvider.application_id)
            .where(Application.slug == product.name)
        ).all()
    assert [row.spent_at is not None for row in rows] == [True]


def _deliveries(hub: Scene, product: Product) -> list[tuple[str, bool]]:
    """State of what the worker was to tell the product, and whether its answer was signed."""
    with hub.stage.hub.database.read() as session:
        rows = session.execute(
            select(Delivery.state, Delivery.evidence)
            .join(Application, Application.id == Delivery.application_id)
            .where(Application.slug == product.name, Delivery.channel == "saml_logout")
        )
        return [(str(row.state), row.evidence.get("is_signed", False)) for row in rows]


def test_the_product_found_nothing_to_complain_about(hub: Scene, product: Product) -> None:
    """Last of its tests: what it wrote down about our metadata and messages meanwhile."""
    lines = [line for path in product.logs for line in path.read_text(errors="replace").splitlines()]
    assert [line for line in lines if _COMPLAINT.search(line)] == []
