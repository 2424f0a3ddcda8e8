"""Identity providers that nobody here wrote sign people in, over real HTTP, to an application end to end."""

import base64
import html
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs, urlencode, urlsplit
from urllib.request import urlopen

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from idhub.demo.browser import Browser, Page
from idhub.login.federation import find_asked
from idhub.login.providers import find_provider
from providers import saml
from providers.saml_wire.errors import WireError
from tests.flows.every_door import CALLBACK, CHALLENGE, COMPANY, NUMBER, PASSWORD
from tests.saml.conftest import Scene, scene_on_a_port
from tests.saml.hostile import mutants
from tests.saml.identity_providers import IDENTITY_PROVIDERS, Running
from tests.saml.partner import one_signer, pem_of
from tests.saml.products import Key, opened
from tests.saml.test_products import Person
from tests.support.databases import Databases
from tests.support.processes import free_port, wait_until


@pytest.fixture(scope="module")
def hub(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A hub on a port of its own."""
    folder = tmp_path_factory.mktemp("upstream-hub")
    with scene_on_a_port(databases, folder) as scene:
        yield scene


@pytest.fixture(scope="module", params=list(IDENTITY_PROVIDERS))
def provider(request: pytest.FixtureRequest, hub: Scene) -> Iterator[Running]:
    """A running provider that the hub knows by the provider's own metadata, and the provider the hub by the hub's."""
    name = request.param
    key = one_signer().private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    with urlopen(f"{hub.stage.hub.settings.issuer}/login/saml/metadata", timeout=20) as answer:
        ours = answer.read().decode()
    with (
        TemporaryDirectory(prefix=f"idhub-{name}-", ignore_cleanup_errors=True) as made,
        IDENTITY_PROVIDERS[name](
            opened(Path(made)), free_port(), Key(key, pem_of(one_signer().certificate)), ours
        ) as running,
    ):
        with urlopen(running.address + running.metadata, timeout=20) as answer:
            hub.stage.folder.joinpath(f"{name}.xml").write_bytes(answer.read())
        hub.configure(
            providers=[
                {
                    "slug": name, "name": name, "organization": COMPANY,
                    "link": [{"match": "employee_number", "attribute": running.number}],
                    "saml": {"metadata_file": f"{name}.xml", "name_id_format": "persistent"},
                }
            ]
        )  # fmt: skip
        yield running


def _sign_in(hub: Scene, provider: Running, browser: Browser) -> Page:
    address = f"{hub.stage.hub.settings.issuer}/login/with/{provider.name}?return_to=/account/sessions"
    return Person(browser).open(address)


def test_somebody_signs_in(hub: Scene, provider: Running) -> None:
    with Browser(language="en") as browser:
        page = _sign_in(hub, provider, browser)
        assert page.status == 200, page.html[:3000]
        assert page.url == f"{hub.stage.hub.settings.issuer}/account/sessions"
    signed = hub.events("login.succeeded")[-1]
    assert (signed["person_id"], signed["details"]["provider"]) == (hub.stage.person, provider.name)


def test_somebody_gets_into_an_application_by_oidc(hub: Scene, provider: Running) -> None:
    """From the application's authorization request over the provider to the code, and its claims."""
    issuer = hub.stage.hub.settings.issuer
    query = {
        "response_type": "code", "client_id": "jwt-app", "redirect_uri": CALLBACK.format(slug="jwt-app"), "state": "s",
        "scope": "openid", "code_challenge": CHALLENGE, "code_challenge_method": "S256",
    }  # fmt: skip
    with Browser(language="en") as browser:

        def button() -> re.Match[str] | None:
            shown = browser.get(f"{issuer}/oauth2/authorize?{urlencode(query)}")
            return re.search(rf'href="(/login/with/{provider.name}\?transaction=[^"]+)"', shown.html)

        # The page may offer what was configured a second ago.
        wait_until(lambda: button() is not None, seconds=5, what="the provider is offered")
        offered = button()
        assert offered
        # The application's own address answers to nobody here.
        with pytest.raises(httpx2.ConnectError) as caught:
            Person(browser).open(issuer + html.unescape(offered[1]))
    code = parse_qs(urlsplit(str(caught.value.request.url)).query)["code"][0]
    tokens = hub.stage.redeem("jwt-app", code)
    assert tokens.status_code == 200, tokens.text
    claims = jwt.decode(tokens.json()["id_token"], options={"verify_signature": False})
    assert claims["amr"][0] == "fed"


def test_encrypted_assertions(hub: Scene, provider: Running) -> None:
    """pysaml2 (xmlsec1) encrypts with AES-GCM and is read; SimpleSAMLphp knows AES-CBC alone and is refused."""
    switch = provider.log.parent / "encrypt"
    switch.touch()
    try:
        with Browser(language="en") as browser:
            page = _sign_in(hub, provider, browser)
    finally:
        switch.unlink()
    if provider.name == "pysaml2":
        assert page.url == f"{hub.stage.hub.settings.issuer}/account/sessions", page.html[:2000]
    else:
        assert (page.status, 'data-test="notice-upstream_answer"' in page.html) == (400, True)


def _read(hub: Scene, document: bytes) -> saml.Asserted:
    """As the hub reads it, for the request that is open."""
    services, issuer = hub.stage.app.state.services, hub.stage.hub.settings.issuer
    with services.database.read() as session:
        asked = find_asked(session, saml.peek(document).request_id, now=hub.now)
        if asked is None:
            raise WireError("saml.unknown_request", "It answers no request that is open.")
        provider = find_provider(session, now=hub.now, id=asked.provider_id)
        assert provider is not None
    expected = saml.Expected(
        entity_id=f"{issuer}/login/saml/metadata", consumer=f"{issuer}/login/saml/acs", request_id=asked.request_id,
        asked_at=asked.asked_at,
    )  # fmt: skip
    return saml.read_response(document, provider.trusted, expected, now=asked.asked_at)


def test_a_real_answer_that_was_changed_says_nothing_else(hub: Scene, provider: Running) -> None:
    """Mutants of what the product itself sent: none says anything that it did not, none is a fault."""
    issuer = hub.stage.hub.settings.issuer
    with Browser(language="en") as browser:
        page = browser.get(f"{issuer}/login/with/{provider.name}?return_to=/account/sessions")
        assert page.login_form is not None, page.html[:2000]
        page = browser.submit(page, page.login_form, {"username": NUMBER, "password": PASSWORD})
        form = page.form(lambda one: "SAMLResponse" in one.fields)
        assert form is not None, page.html[:2000]
        document = base64.b64decode(form.fields["SAMLResponse"])
        said = _read(hub, document)
        refused = 0
        for mutant, _ in zip(mutants(document, seed=1), range(300), strict=False):
            try:
                assert _read(hub, mutant) == said, mutant
            except WireError:
                refused += 1
        assert refused > 200
        done = browser.submit(page, form)
        assert done.url == f"{issuer}/account/sessions", done.html[:2000]


@pytest.mark.parametrize("provider", ["simplesamlphp"], indirect=True)
def test_a_logout_at_the_product_ends_the_session_here(hub: Scene, provider: Running) -> None:
    """The product asks by Redirect, signed, and goes on with the hub's answer."""
    account = f"{hub.stage.hub.settings.issuer}/account/sessions"
    with Browser(language="en") as browser, Browser(language="en") as other:
        assert _sign_in(hub, provider, browser).url == account
        assert _sign_in(hub, provider, other).url == account
        home = f"{provider.address}/simplesaml/"
        query = urlencode({"ReturnTo": home})
        page = Person(browser).open(f"{provider.address}/simplesaml/saml2/idp/SingleLogoutService.php?{query}")
        assert page.url.startswith(home) and page.status == 200, (page.url, page.html[:2000])
        assert browser.get(account).login_form is not None, "the session that the provider began has ended"
        assert other.get(account).login_form is None, "another one of the same person has not"
    ended = hub.events("session.ended")[-1]
    assert ended["person_id"] == hub.stage.person


def test_the_product_found_nothing_to_complain_about(provider: Running) -> None:
    """Last of its tests: what it wrote down about our metadata and requests meanwhile."""
    text = provider.log.read_text(errors="replace")
    lines = [line for line in text.splitlines() if re.search(r"error|exception|traceback|invalid", line, re.IGNORECASE)]
    assert lines == []
