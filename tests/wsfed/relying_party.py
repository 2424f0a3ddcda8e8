"""A relying party that a test plays: it asks as it likes, and reads what it gets with another library."""

import html
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from lxml import etree
from signxml.algorithms import DigestAlgorithm, SignatureMethod
from signxml.verifier import SignatureConfiguration, XMLVerifier
from starlette.testclient import TestClient

from tests.saml.conftest import ENTITLED, Scene
from tests.saml.partner import pem_of

NS = {
    "t": "http://schemas.xmlsoap.org/ws/2005/02/trust",
    "saml": "urn:oasis:names:tc:SAML:2.0:assertion",
    "saml1": "urn:oasis:names:tc:SAML:1.0:assertion",
    "wsu": "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd",
    "wsa": "http://www.w3.org/2005/08/addressing",
    "ds": "http://www.w3.org/2000/09/xmldsig#",
}
CLAIMS = "http://schemas.xmlsoap.org/ws/2005/05/identity/claims"
ROLE = "http://schemas.microsoft.com/ws/2008/06/identity/claims/role"
REALM = "urn:portal:one"
REPLY = "https://portal.example/_trust/"
_FIELD = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)"')
_ACTION = re.compile(r'<form method="post" action="([^"]*)"[^>]*data-carry')


@dataclass(frozen=True)
class Token:
    """What came back: the form, and the assertion as signxml says it was signed."""

    action: str
    fields: dict[str, str]
    response: Any
    assertion: Any

    @property
    def attributes(self) -> dict[str, list[str]]:
        found = self.assertion.iterfind(".//saml:Attribute", NS)
        named = {one.get("Name"): one for one in found}
        for one in self.assertion.iterfind(".//saml1:Attribute", NS):
            named[f"{one.get('AttributeNamespace')}/{one.get('AttributeName')}"] = one
        return {name: [value.text for value in one] for name, one in named.items()}

    def text(self, path: str) -> str | None:
        found: str | None = self.assertion.findtext(path, None, NS)
        return found


def verified(element: Any, certificate: str, id_attribute: str = "ID") -> Any:
    """What signxml says was signed."""
    config = SignatureConfiguration(
        location="./",
        signature_methods=frozenset({SignatureMethod.RSA_SHA256}),
        digest_algorithms=frozenset({DigestAlgorithm.SHA256}),
        verification_time=datetime.fromisoformat("2026-11-24T00:00:00+00:00"),
    )
    found = XMLVerifier().verify(
        etree.fromstring(etree.tostring(element)), x509_cert=pem_of(certificate), expect_config=config,
        id_attribute=id_attribute,
    )  # fmt: skip
    assert not isinstance(found, list)
    return found.signed_xml


def form_of(page: Any) -> tuple[str, dict[str, str]]:
    """The form that a page carries to the application, as a browser reads it."""
    action = _ACTION.search(page.text)
    assert action, (page.status_code, page.text[:3000])
    fields = {name: html.unescape(value) for name, value in _FIELD.findall(page.text.partition("data-carry")[2])}
    return html.unescape(action[1]), fields


class Parties:
    """The hub, and what tests do with it again and again."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.issuer = scene.entity_id
        self._seen = 0

    @property
    def now(self) -> datetime:
        now: datetime = self.scene.now
        return now

    def reasons(self) -> set[str]:
        """Why anybody was refused since the last look, as the audit log has it."""
        machine, services = self.scene.stage.machine, self.scene.stage.app.state.services
        assert machine.portal is not None
        machine.portal.call(services.journal.flush)
        machine.portal.call(services.store.flush)
        refused = self.scene.events("authorization.refused")
        found = {event["reason"] for event in refused[self._seen :] if event["door"] == "wsfed"}
        self._seen = len(refused)
        return found

    def connect(
        self, slug: str = "portal", *, realm: str = REALM, reply: str = REPLY, home: str | None = None, **block: Any
    ) -> Any:
        """Connect an application."""
        wsfed = {"realm": realm, "reply_urls": [reply], "cleanup_url": reply, **block}
        application = {"slug": slug, "name": slug, "wsfed": wsfed, "entitle": ENTITLED, "home_url": home}
        return self.scene.apply({name: value for name, value in application.items() if value is not None})

    def ask(self, browser: TestClient, **fields: str | None) -> Any:
        """A sign-in; what is None is left out."""
        wanted = {"wa": "wsignin1.0", "wtrealm": REALM, **fields}
        return browser.get("/wsfed?" + urlencode({name: value for name, value in wanted.items() if value is not None}))

    def read(self, page: Any, *, version: str = "2.0") -> Token:
        """The token of a page that carries one."""
        assert page.status_code == 200, (page.status_code, page.headers, page.text[:2000])
        action, fields = form_of(page)
        response = etree.fromstring(fields["wresult"].encode())
        path, name = ("saml:Assertion", "ID") if version == "2.0" else ("saml1:Assertion", "AssertionID")
        held = response.find(f"t:RequestedSecurityToken/{path}", NS)
        assert held is not None, fields["wresult"]
        return Token(action, fields, response, verified(held, self.scene.certificate, name))
