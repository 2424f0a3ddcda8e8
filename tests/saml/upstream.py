"""An identity provider that a test plays: it answers requests of the hub as it likes, sound or not."""

import html
import re
import zlib
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import unquote

from lxml import etree
from starlette.testclient import TestClient

from idhub.saml.messages import new_id
from providers.saml_wire import names
from providers.saml_wire.bindings import post_value
from providers.saml_wire.encryption import encrypt
from providers.saml_wire.signatures import Signer, sign
from providers.saml_wire.writing import Node, instant, render
from tests.saml.partner import one_signer, query_of

ACS = "/login/saml/acs"
COMPANY, NUMBER = "HQ", "QY000001"
_FIELD = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)"')


@dataclass(frozen=True)
class Request:
    """What the hub asked."""

    id: str
    root: Any
    destination: str


@dataclass(frozen=True)
class Answer:
    """What is put into a response; each field is what a sound one says unless a test changes it."""

    issuer: str
    response_issuer: str | None
    destination: str | None
    recipient: str | None
    audience: Sequence[str] | None
    in_response_to: str | None
    confirmed_request: str | None
    name_id: str
    name_id_format: str | None
    attributes: Mapping[str, Sequence[str]]
    issued_at: datetime
    assertion_issued_at: datetime
    not_before: datetime | None
    not_on_or_after: datetime | None
    confirmed_until: datetime | None
    authenticated_at: datetime
    session_ends_at: datetime | None = None
    confirmation_not_before: datetime | None = None
    method: str = names.BEARER
    context: str = names.PASSWORD_PROTECTED
    status: str = names.SUCCESS
    detail: str | None = None
    version: str = "2.0"
    assertion_id: str = field(default_factory=new_id)
    session_index: str = field(default_factory=new_id)
    conditions: Sequence[Node] = ()
    signs_response: bool = False
    signs_assertion: bool = True
    encrypts_for: str | None = None
    signer: Signer = field(default_factory=one_signer)


@dataclass
class Upstream:
    """The provider and its key."""

    issuer: str
    """The hub."""
    slug: str = "acme"
    entity_id: str = "https://idp.acme.example/metadata"
    sso: str = "https://idp.acme.example/sso"
    signer: Signer = field(default_factory=one_signer)

    @property
    def acs(self) -> str:
        return self.issuer + ACS

    @property
    def audience(self) -> str:
        return f"{self.issuer}/login/saml/metadata"

    def block(self, *, saml: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        """An entry of `providers:`, by guided entry."""
        return {
            "slug": self.slug,
            "name": {"en": "Acme sign-in", "zh": "艾可登录"},
            "organization": COMPANY,
            "link": [{"match": "employee_number", "attribute": "employeeNumber"}],
            "saml": {
                "entity_id": self.entity_id,
                "sign_on": [{"binding": "redirect", "url": self.sso}],
                "certificates": [self.signer.certificate],
                **(saml or {}),
            },
            **changes,
        }

    def read(self, location: str) -> Request:
        """The request of a Redirect address."""
        assert location.startswith(self.sso), location
        root = etree.fromstring(zlib.decompress(b64decode(unquote(query_of(location)["SAMLRequest"])), -15))
        return Request(str(root.get("ID")), root, str(root.get("Destination")))

    def answer(self, request: Request | None, now: datetime, **changes: Any) -> Answer:
        request_id = None if request is None else request.id
        sound = Answer(
            issuer=self.entity_id,
            response_issuer=self.entity_id,
            destination=self.acs,
            recipient=self.acs,
            audience=[self.audience],
            in_response_to=request_id,
            confirmed_request=request_id,
            name_id="7f3c-subject",
            name_id_format=names.PERSISTENT,
            attributes={"employeeNumber": [NUMBER]},
            issued_at=now,
            assertion_issued_at=now,
            not_before=now - timedelta(seconds=30),
            not_on_or_after=now + timedelta(minutes=5),
            confirmed_until=now + timedelta(minutes=5),
            authenticated_at=now,
            signer=self.signer,
        )
        return replace(sound, **changes)

    def document(self, answer: Answer) -> bytes:
        return render(response_of(answer)).encode()

    def logout_request(
        self, now: datetime, name_id: str, *indexes: str, path: str = "/login/saml/slo", **attributes: str | None
    ) -> Node:
        given: dict[str, str | None] = {
            "ID": new_id(),
            "Version": "2.0",
            "IssueInstant": instant(now),
            "Destination": self.issuer + path,
            **attributes,
        }
        content = [
            Node("saml:Issuer", {}, [self.entity_id]),
            Node("saml:NameID", {"Format": names.PERSISTENT}, [name_id]),
            *(Node("samlp:SessionIndex", {}, [index]) for index in indexes),
        ]
        return Node("samlp:LogoutRequest", given, content)


def response_of(answer: Answer) -> Node:
    content = [] if answer.response_issuer is None else [Node("saml:Issuer", {}, [answer.response_issuer])]
    inner = [] if answer.detail is None else [Node("samlp:StatusCode", {"Value": answer.detail})]
    content.append(Node("samlp:Status", {}, [Node("samlp:StatusCode", {"Value": answer.status}, inner)]))
    if answer.status == names.SUCCESS:
        assertion = assertion_of(answer)
        if answer.signs_assertion:
            assertion = sign(assertion, answer.signer)
        if answer.encrypts_for is not None:
            assertion = Node("saml:EncryptedAssertion", {}, [encrypt(assertion, answer.encrypts_for)])
        content.append(assertion)
    attributes = {
        "ID": new_id(),
        "Version": answer.version,
        "IssueInstant": instant(answer.issued_at),
        "Destination": answer.destination,
        "InResponseTo": answer.in_response_to,
    }
    made = Node("samlp:Response", attributes, content)
    return sign(made, answer.signer) if answer.signs_response else made


def _at(value: datetime | None) -> str | None:
    return None if value is None else instant(value)


def assertion_of(answer: Answer) -> Node:
    data = {
        "Recipient": answer.recipient,
        "InResponseTo": answer.confirmed_request,
        "NotOnOrAfter": _at(answer.confirmed_until),
        "NotBefore": _at(answer.confirmation_not_before),
    }
    confirmation = Node(
        "saml:SubjectConfirmation", {"Method": answer.method}, [Node("saml:SubjectConfirmationData", data)]
    )
    name_id = Node("saml:NameID", {"Format": answer.name_id_format}, [answer.name_id])
    restrictions = [] if answer.audience is None else [
        Node("saml:AudienceRestriction", {}, [Node("saml:Audience", {}, [one]) for one in answer.audience])
    ]  # fmt: skip
    limits = {"NotBefore": _at(answer.not_before), "NotOnOrAfter": _at(answer.not_on_or_after)}
    context = Node("saml:AuthnContext", {}, [Node("saml:AuthnContextClassRef", {}, [answer.context])])
    statement = {
        "AuthnInstant": instant(answer.authenticated_at),
        "SessionIndex": answer.session_index,
        "SessionNotOnOrAfter": _at(answer.session_ends_at),
    }
    content = [
        Node("saml:Issuer", {}, [answer.issuer]),
        Node("saml:Subject", {}, [name_id, confirmation]),
        Node("saml:Conditions", limits, [*restrictions, *answer.conditions]),
        Node("saml:AuthnStatement", statement, [context]),
    ]
    if answer.attributes:
        listed = [
            Node(
                "saml:Attribute",
                {"Name": name, "NameFormat": names.ATTRIBUTE_BASIC},
                [Node("saml:AttributeValue", {}, [value]) for value in values],
            )
            for name, values in answer.attributes.items()
        ]
        content.append(Node("saml:AttributeStatement", {}, listed))
    attributes = {
        "ID": answer.assertion_id, "Version": answer.version, "IssueInstant": instant(answer.assertion_issued_at)
    }  # fmt: skip
    return Node("saml:Assertion", attributes, content)


# ---------------------------------------------------------------- what a browser does


def begin(browser: TestClient, upstream: Upstream, *, transaction: str = "", return_to: str = "") -> Request:
    """Press the provider's button; what it is asked then."""
    query = {"transaction": transaction} if transaction else {"return_to": return_to} if return_to else {}
    sent = browser.get(f"/login/with/{upstream.slug}", params=query)
    assert sent.status_code == 303, (sent.status_code, sent.text[:2000])
    return upstream.read(sent.headers["location"])


def deliver(browser: TestClient, document: bytes) -> Any:
    """The provider's form, which brings none of the hub's cookies (SameSite)."""
    kept = dict(browser.cookies)
    browser.cookies.clear()
    headers = {"origin": "https://idp.acme.example", "sec-fetch-site": "cross-site"}
    try:
        answer = browser.post(ACS, data={"SAMLResponse": post_value(document.decode())}, headers=headers)
        # Nor does it take any of them away from the browser.
        assert "set-cookie" not in answer.headers
        return answer
    finally:
        browser.cookies.update(kept)


def follow(browser: TestClient, page: Any) -> Any:
    """Where the hub's own redirects end: elsewhere, or at a page."""
    while page.status_code == 303 and page.headers["location"].startswith("/"):
        page = browser.get(page.headers["location"])
    return page


def sign_in(browser: TestClient, upstream: Upstream, now: datetime, **changes: Any) -> Any:
    """A whole sign-in that leads to the portal; the last page."""
    request = begin(browser, upstream)
    return follow(browser, deliver(browser, upstream.document(upstream.answer(request, now, **changes))))


def is_in(browser: TestClient) -> bool:
    return browser.get("/").status_code == 200


def hidden(page: Any) -> dict[str, str]:
    return {name: html.unescape(value) for name, value in _FIELD.findall(page.text)}
