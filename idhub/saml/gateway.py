"""What the SAML endpoints share beside `idhub.gateway`: messages that a browser carries, SOAP faults."""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response

from idhub.gateway import Browser, BrowserGateway, BrowserServices, ShownError, read_posted
from idhub.pages.notices import Carried
from idhub.saml.metadata import entity_id, signer_of
from providers.saml_wire.bindings import Received, read_post, read_redirect
from providers.saml_wire.errors import WireError
from providers.saml_wire.parsing import MAX_MESSAGE
from providers.saml_wire.writing import Node, render

MAX_BODY: Final = MAX_MESSAGE * 4 // 3 + 8_192
"""Bytes of the largest form: a message in base64, and its relay state."""
MAX_QUERY: Final = 32_768
_FORM: Final = "application/x-www-form-urlencoded"
_MAX_FIELDS: Final = 10


class SamlServices(BrowserServices, Protocol):
    """The part of `idhub.app.Services` that these endpoints use."""

    def carrying_page(self, request: Request, carried: Carried, /) -> Response:
        """The page whose form the browser carries to an application."""

    def cleaning_page(self, request: Request, addresses: Sequence[str], go_on: str, /) -> Response:
        """The page that calls the clean-up addresses of applications and then leads on."""


class Gateway(BrowserGateway):
    """What the endpoints share: messages that a browser carries, and what a machine gets in place of a page."""

    def __init__(self, services: SamlServices, *, door: str = "saml") -> None:
        super().__init__(services, door=door, target_kind="service_provider")
        self.services = services
        self.door = door
        self.entity_id = entity_id(services.settings.issuer)
        self.signer = signer_of(services.keyring)

    def received(self, request: Request, form: Mapping[str, str] | None) -> Received:
        """The message that a browser carried, by Redirect (GET) or POST.

        Raises:
            ShownError: request_malformed.
        """
        try:
            if request.method != "POST":
                query: bytes = request.scope["query_string"]
                if len(query) > MAX_QUERY:
                    raise WireError("xml.size", "The address is too long.")
                return read_redirect(query)
            if form is None:
                raise WireError("binding.form", "The form cannot be read.")
            return read_post(form)
        except WireError as error:
            raise ShownError("request_malformed", error.reason) from error

    def fault(self, browser: Browser, error: ShownError) -> Response:
        """See `soap_fault`."""
        return soap_fault(self, browser, error)


def soap_fault(gateway: BrowserGateway, browser: Browser, error: ShownError) -> Response:
    """What a machine gets in place of a page: a SOAP fault without the reason (SAML Bindings 3.2.3.3)."""
    gateway.note_refusal(browser, reason=f"shown.{error.cause}", target_id=None, signed=None)
    content = [Node("soap:faultcode", {}, ["Client"]), Node("soap:faultstring", {}, ["The request was refused."])]
    envelope = Node("soap:Envelope", {}, [Node("soap:Body", {}, [Node("soap:Fault", {}, content)])])
    return Response(render(envelope), 400, media_type="text/xml")


async def read_body(request: Request) -> bytes | None:
    """What was posted; None when it is larger than any message."""
    return await read_posted(request, most=MAX_BODY)


def form_of(request: Request, body: bytes | None, *, most: int = _MAX_FIELDS) -> dict[str, str] | None:
    """The fields of a message that was posted; None when there are none to be read, or the address has a query."""
    if body is None or request.scope["query_string"]:
        return None
    return read_form(request.headers.get("content-type", ""), body, most=most)


def read_form(content_type: str, body: bytes, *, most: int = _MAX_FIELDS) -> dict[str, str] | None:
    """The fields of a form that was posted; None when it is none, holds a field twice, or what is not text."""
    return read_fields(body, most=most) if content_type.split(";", 1)[0].strip().lower() == _FORM else None


def read_fields(body: bytes, *, most: int = _MAX_FIELDS) -> dict[str, str] | None:
    """Fields in the form of a query; None when one comes twice, there are too many, or they are not text."""
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=most)
    except ValueError:
        return None
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else None
