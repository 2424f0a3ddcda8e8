"""A service provider that a test plays: it writes requests as it likes, and reads what it gets with another library."""

import base64
import html
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from lxml import etree
from signxml.algorithms import DigestAlgorithm, SignatureMethod
from signxml.verifier import SignatureConfiguration, XMLVerifier

from idhub.saml.messages import new_id
from providers.saml_wire import names
from providers.saml_wire.bindings import Kind, post_value, write_redirect
from providers.saml_wire.signatures import Signer, sign
from providers.saml_wire.writing import Node, instant, render

NS = {"saml": names.ASSERTION, "samlp": names.PROTOCOL, "ds": names.DS, "md": names.METADATA}
_FIELD = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)"')
_ACTION = re.compile(r'<form method="post" action="([^"]*)"[^>]*data-carry')
_REFRESH = re.compile(r"0;url=(.*)")


def make_signer(name: str = "partner", *, bits: int = 2048, now: datetime | None = None, days: int = 3650) -> Signer:
    """A fresh key with a certificate that it signs for itself."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    begin = now or datetime.fromisoformat("2026-01-01T00:00:00+00:00")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - timedelta(days=1))
        .not_valid_after(begin + timedelta(days=days))
        .sign(key, SHA256())
    )
    return Signer(key, base64.b64encode(certificate.public_bytes(Encoding.DER)).decode())


@cache
def one_signer() -> Signer:
    """One key for everybody who does not care which: making one takes a tenth of a second."""
    return make_signer("shared")


def pem_of(certificate: str) -> str:
    lines = [certificate[at : at + 64] for at in range(0, len(certificate), 64)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])


@dataclass
class Answer:
    """What came back by POST: verified against the hub's certificate by signxml, where it was signed."""

    action: str
    relay_state: str | None
    document: bytes
    root: Any = field(init=False)

    def __post_init__(self) -> None:
        self.root = etree.fromstring(self.document)

    @property
    def status(self) -> list[str]:
        """Status codes from the top down, without their common part."""
        return [one.get("Value").rpartition(":")[2] for one in self.root.iterfind(".//samlp:StatusCode", NS)]

    def text(self, path: str) -> str | None:
        found: str | None = self.root.findtext(path, None, NS)
        return found

    def attribute(self, path: str, name: str) -> str | None:
        found = self.root.find(path, NS)
        return None if found is None else found.get(name)

    @property
    def attributes(self) -> dict[str, list[str]]:
        found = self.root.iterfind(".//saml:Attribute", NS)
        return {one.get("Name"): [value.text for value in one.iterfind("saml:AttributeValue", NS)] for one in found}

    def verify(self, certificate: str, path: str | None = None) -> Any:
        """What signxml says was signed: the whole message, or the element at `path`."""
        data = self.root if path is None else self.root.find(path, NS)
        config = SignatureConfiguration(
            location="./",
            signature_methods=frozenset({SignatureMethod.RSA_SHA256}),
            digest_algorithms=frozenset({DigestAlgorithm.SHA256}),
            verification_time=datetime.fromisoformat("2026-11-24T00:00:00+00:00"),
        )
        verifier = XMLVerifier()
        verified = verifier.verify(
            etree.fromstring(etree.tostring(data)), x509_cert=pem_of(certificate), expect_config=config,
            id_attribute="ID",
        )  # fmt: skip
        assert not isinstance(verified, list)
        return verified.signed_xml


def read_answer(page: Any) -> Answer:
    """The form that a page carries to the application."""
    action = _ACTION.search(page.text)
    assert action, page.text[:3000]
    fields = {name: html.unescape(value) for name, value in _FIELD.findall(page.text.partition("data-carry")[2])}
    value = fields.get("SAMLResponse") or fields["SAMLRequest"]
    return Answer(html.unescape(action[1]), fields.get("RelayState"), base64.b64decode(value))


def read_artifact(page: Any) -> tuple[str, str, str | None]:
    """Where a page sends the browser with an artifact, the artifact, and the relay state."""
    url = refresh_target(page)
    query = query_of(url)
    return url.partition("?")[0], query["SAMLart"], query.get("RelayState")


def refresh_target(page: Any) -> str:
    """Where a page sends the browser by itself."""
    match = _REFRESH.fullmatch(page.headers.get("refresh", ""))
    assert match, page.headers
    return match[1]


@dataclass
class Partner:
    """A service provider and its key."""

    issuer: str
    entity_id: str = "https://partner.example/sp"
    acs: str = "https://partner.example/acs"
    signer: Signer = field(default_factory=one_signer)

    @property
    def sso(self) -> str:
        return f"{self.issuer}/saml/sso"

    @property
    def slo(self) -> str:
        return f"{self.issuer}/saml/slo"

    def block(self, **changes: Any) -> dict[str, Any]:
        """`saml:` of the configuration, by guided entry."""
        return {
            "entity_id": self.entity_id,
            "acs_urls": [self.acs],
            "certificates": [self.signer.certificate],
            "logout": [{"binding": "redirect", "url": "https://partner.example/slo"}],
            **changes,
        }

    def metadata(self, *, extra: str = "", attributes: str = "", acs: str | None = None) -> bytes:
        """Our metadata, as products write it."""
        return f"""<?xml version="1.0"?>
<md:EntityDescriptor xmlns:md="{names.METADATA}" xmlns:ds="{names.DS}" ID="_m" entityID="{self.entity_id}" {attributes}>
 <md:SPSSODescriptor protocolSupportEnumeration="{names.PROTOCOL}" AuthnRequestsSigned="true">
  <md:KeyDescriptor><ds:KeyInfo><ds:X509Data><ds:X509Certificate>
   {self.signer.certificate}
  </ds:X509Certificate></ds:X509Data></ds:KeyInfo></md:KeyDescriptor>
  <md:SingleLogoutService Binding="{names.REDIRECT}" Location="https://partner.example/slo"/>
  <md:AssertionConsumerService Binding="{names.POST}" Location="{acs or self.acs}" index="3" isDefault="true"/>
  <md:AssertionConsumerService Binding="urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Artifact"
    Location="https://partner.example/artifact" index="4"/>{extra}
 </md:SPSSODescriptor>
</md:EntityDescriptor>""".encode()

    # ------------------------------------------------------------------ requests

    def authn_request(self, now: datetime, content: list[Node] | None = None, **attributes: str | None) -> Node:
        given: dict[str, str | None] = {
            "ID": new_id(),
            "Version": "2.0",
            "IssueInstant": instant(now),
            "Destination": self.sso,
            "AssertionConsumerServiceURL": self.acs,
            **attributes,
        }
        return Node("samlp:AuthnRequest", given, [Node("saml:Issuer", {}, [self.entity_id]), *(content or [])])

    def logout_request(
        self, now: datetime, name_id: str, *indexes: str, destination: str | None = None, **attributes: str | None
    ) -> Node:
        given: dict[str, str | None] = {
            "ID": new_id(),
            "Version": "2.0",
            "IssueInstant": instant(now),
            "Destination": destination or self.slo,
            **attributes,
        }
        content = [
            Node("saml:Issuer", {}, [self.entity_id]),
            Node("saml:NameID", {}, [name_id]),
            *(Node("samlp:SessionIndex", {}, [index]) for index in indexes),
        ]
        return Node("samlp:LogoutRequest", given, content)

    def logout_response(self, now: datetime, in_response_to: str, status: str = names.SUCCESS) -> Node:
        given = {
            "ID": new_id(),
            "Version": "2.0",
            "IssueInstant": instant(now),
            "Destination": self.slo,
            "InResponseTo": in_response_to,
        }
        state = Node("samlp:Status", {}, [Node("samlp:StatusCode", {"Value": status})])
        return Node("samlp:LogoutResponse", given, [Node("saml:Issuer", {}, [self.entity_id]), state])

    def artifact_resolve(self, now: datetime, artifact: str, **attributes: str | None) -> Node:
        given: dict[str, str | None] = {
            "ID": new_id(),
            "Version": "2.0",
            "IssueInstant": instant(now),
            "Destination": f"{self.issuer}/saml/artifact",
            **attributes,
        }
        content = [Node("saml:Issuer", {}, [self.entity_id]), Node("samlp:Artifact", {}, [artifact])]
        return Node("samlp:ArtifactResolve", given, content)

    def redirect(
        self, message: Node | str, *, kind: Kind = "SAMLRequest", relay_state: str | None = None, signed: bool = True
    ) -> str:
        """Path and query by which a browser carries the message to the hub."""
        text = message if isinstance(message, str) else render(message)
        path = "/saml/slo" if "Logout" in text[:60] else "/saml/sso"
        return write_redirect(path, kind, text, relay_state=relay_state, signer=self.signer if signed else None)

    def form(
        self, message: Node | str, *, kind: Kind = "SAMLRequest", signed: bool = True, **fields: str
    ) -> dict[str, str]:
        """Form by which a browser carries the message to the hub."""
        if isinstance(message, Node):
            message = render(sign(message, self.signer) if signed else message)
        return {kind: post_value(message), **fields}


def query_of(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def quoted(value: str) -> str:
    return quote(value, safe="")
