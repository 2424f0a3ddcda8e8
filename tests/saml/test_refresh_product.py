"""Metadata of SimpleSAMLphp that is read again while it runs: a new key is taken over, nothing that is spoiled is."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import select, update

from idhub.access.tables import SamlServiceProvider
from idhub.delivery.http import OutboundError, OutboundHttp
from idhub.demo.browser import Browser
from idhub.errors import Unavailable
from idhub.saml.refresh import refresh_due, warnings
from providers.saml_wire.signatures import Signer
from tests.flows.every_door import NUMBER
from tests.saml.conftest import ENTITLED, Scene, scene_on_a_port
from tests.saml.partner import make_signer, one_signer, pem_of
from tests.saml.products import HubFacts, Key, Product, opened, simplesamlphp
from tests.saml.test_products import Person, _told
from tests.support.databases import Databases
from tests.support.processes import free_port

Spoil = Callable[[bytes], bytes]


def _key_of(signer: Signer) -> Key:
    private = signer.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Key(private.decode(), pem_of(signer.certificate))


@dataclass
class Street:
    """Where the hub reads the product's metadata: as the product writes it at that moment, unless it is spoiled."""

    product: Product
    folder: Path
    port: int
    hub: Scene
    spoil: Spoil = field(default=lambda document: document)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/metadata"

    def change_key(self, signer: Signer, name: str = "key.pem", certificate: str = "certificate.pem") -> None:
        key = _key_of(signer)
        (self.folder / name).write_text(key.private)
        (self.folder / certificate).write_text(key.certificate)

    def read_again(self) -> SamlServiceProvider:
        """What the worker does when it is due; what is known then."""
        hub = self.hub.stage.hub
        now = datetime.now(UTC)
        with hub.database.transaction() as session:
            session.execute(update(SamlServiceProvider).values(metadata_due_at=now))

        async def fetched(url: str) -> bytes:
            async with OutboundHttp(hub.settings) as http:
                answer = await http.request("GET", url, timeout=timedelta(seconds=30))
                return answer.body

        def fetch(url: str) -> bytes:
            try:
                return asyncio.run(fetched(url))
            except OutboundError as error:
                raise Unavailable(error.description) from error

        assert refresh_due(hub.database, fetch, now=now) == 1
        with hub.database.read() as session:
            row = session.execute(
                select(SamlServiceProvider).where(SamlServiceProvider.metadata_url == self.url)
            ).scalar_one()
            session.expunge_all()
        return row

    def signs_in(self) -> bool:
        with Browser(language="en") as browser:
            page = Person(browser).open(self.product.address + self.product.login)
            return page.status == 200 and _told(page).get("employeeNumber") == NUMBER


@pytest.fixture
def street(databases: Databases, tmp_path: Path) -> Iterator[Street]:
    ports = free_port(), free_port()
    with ExitStack() as stack:
        scene = stack.enter_context(scene_on_a_port(databases, tmp_path, may_call=ports))
        with urlopen(f"{scene.stage.hub.settings.issuer}/saml/metadata", timeout=20) as answer:
            facts = HubFacts(scene.entity_id, answer.read().decode(), pem_of(scene.certificate))
        folder = opened(Path(stack.enter_context(TemporaryDirectory(prefix="idhub-refresh-"))))
        product = stack.enter_context(simplesamlphp(folder, ports[0], _key_of(one_signer()), facts))
        made = Street(product, folder, ports[1], scene)

        class Serve(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with urlopen(product.address + product.metadata, timeout=20) as answer:
                    document = made.spoil(answer.read())
                self.send_response(200)
                self.end_headers()
                self.wfile.write(document)

            def log_message(self, format: str, *args: object) -> None:
                """Silent."""

        server = ThreadingHTTPServer(("127.0.0.1", ports[1]), Serve)
        stack.callback(server.server_close)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        stack.callback(server.shutdown)
        yield made


def test_a_new_key_is_taken_over_and_nothing_that_is_spoiled(street: Street) -> None:
    hub, entity_id = street.hub, f"http://127.0.0.1:{street.product.port}/sp"
    federation = one_signer()
    (hub.stage.folder / "federation.pem").write_text(pem_of(federation.certificate))
    block = {"metadata_url": street.url, "entity_id": entity_id, "metadata_certificate_file": "federation.pem"}
    hub.apply({"slug": "street", "name": "street", "saml": block, "entitle": ENTITLED})
    row = street.read_again()
    assert (row.metadata_error, row.signing_certificates) == (None, [one_signer().certificate])
    assert street.signs_in()

    new = make_signer("renewed", now=datetime.now(UTC), days=20)
    street.change_key(new)
    assert not street.signs_in(), "it signs with a key that the hub does not know yet"
    row = street.read_again()
    assert (row.metadata_error, row.signing_certificates) == (None, [new.certificate])
    assert street.signs_in()
    changed = hub.events("application.changed")[-1]
    assert changed["outcome"] == "success"
    assert "saml.signing_certificates" in {one["field"] for one in changed["details"]["changes"]}
    with hub.stage.hub.database.read() as session:
        said = [one for one in warnings(session, now=datetime.now(UTC)) if one.startswith("street:")]
    assert any("signing certificate" in one and "expires on" in one for one in said), said

    opening = b"<md:EntityDescriptor"
    # Signed by the product anew: what another key signs, whoever is spoken of.
    street.change_key(make_signer("thief"), "sign.key", "sign.pem")
    _stays(street, new, "No key in the issuer's metadata verifies the signature.")
    street.change_key(federation, "sign.key", "sign.pem")
    spoiled: dict[str, tuple[Spoil, str]] = {
        "an octet": (lambda document: document.replace(b"/sp\"", b"/sq\"", 1), "The message is not what was signed."),
        "unsigned": (_without, "The message is not signed."),
        "another place": (
            lambda document: document.replace(b"Location=\"http://127.0.0.1", b"Location=\"http://127.0.0.2"),
            "The message is not what was signed.",
        ),
        "nothing": (lambda document: b"", "The document is not well-formed XML."),
    }  # fmt: skip
    for spoil, sentence in spoiled.values():
        street.spoil = spoil
        _stays(street, new, sentence)

    hub.apply(
        {
            "slug": "street", "name": "street", "saml": {"metadata_url": street.url, "entity_id": entity_id},
            "entitle": ENTITLED,
        }
    )  # fmt: skip
    street.spoil = lambda document: document.replace(opening, opening + b' validUntil="2026-01-01T00:00:00Z"', 1)
    _stays(street, new, "The metadata is no longer valid (validUntil).")
    street.spoil = lambda document: document.replace(b'/sp"', b'/other"', 1)
    _stays(street, new, "The metadata is about another entity.")
    street.spoil = lambda document: document
    assert street.read_again().metadata_error is None
    assert street.signs_in()


def _without(document: bytes) -> bytes:
    start, end = document.index(b"<ds:Signature"), document.index(b"</ds:Signature>") + len(b"</ds:Signature>")
    return document[:start] + document[end:]


def _stays(street: Street, signer: Signer, sentence: str) -> None:
    """What was known before stays in force, and an operator is told why."""
    row = street.read_again()
    assert row.metadata_error == sentence
    assert row.signing_certificates == [signer.certificate]
    assert street.signs_in()
    with street.hub.stage.hub.database.read() as session:
        assert any(sentence in one for one in warnings(session, now=datetime.now(UTC)))
