"""What the browser endpoints share beside `idhub.gateway`: parameters, transactions, refusals on the event loop."""

from typing import Protocol

from starlette.requests import Request

from idhub.admission import Admission
from idhub.changes import Event
from idhub.credentials.operations import Operation
from idhub.credentials.operations import record as recording
from idhub.credentials.sessions import SignedIn
from idhub.credentials.store import Store
from idhub.gateway import Browser, BrowserGateway, BrowserServices, ShownError
from idhub.oidc.errors import OAuthError
from idhub.oidc.parameters import MAX_BODY, MAX_QUERY, Parameters, parse
from idhub.oidc.tokens import TokenReader

_FORM = "application/x-www-form-urlencoded"


class OidcServices(BrowserServices, Protocol):
    """The part of `idhub.app.Services` that these endpoints use."""

    @property
    def store(self) -> Store:
        """The narrow store: what every sign-in passes."""

    @property
    def admission(self) -> Admission:
        """How many sign-ins are worked on at once."""


class Gateway(BrowserGateway):
    """What the browser endpoints share: reading requests, resuming transactions, refusals on the event loop."""

    def __init__(self, services: OidcServices) -> None:
        super().__init__(services, door="oidc", target_kind="client")
        self.services = services
        self.store = services.store
        self.reader = TokenReader(services.keyring, services.settings.issuer)

    def parameters(self, request: Request, body: bytes | None) -> Parameters:
        """Parameters of the query (GET) or of the form (POST), never of both.

        Raises:
            ShownError: request_malformed.
        """
        query = request.scope["query_string"]
        if request.method == "POST":
            media_type = request.headers.get("content-type", "").split(";", 1)[0].strip().lower()
            if body is None or query or media_type != _FORM:
                raise ShownError("request_malformed")
            query = body
        if len(query) > (MAX_BODY if request.method == "POST" else MAX_QUERY):
            raise ShownError("request_malformed")
        try:
            return parse(query)
        except OAuthError as error:
            raise ShownError("request_malformed") from error

    async def tell_refusal(
        self,
        browser: Browser,
        *,
        reason: str,
        target_id: str | None,
        signed: SignedIn | None,
        application_id: str | None = None,
    ) -> None:
        """`note_refusal`, on the event loop."""
        event = self.refusal(browser, reason, target_id, signed, application_id)
        if event is not None:
            await self.store.write(lambda: _recording(event))


def _recording(event: Event) -> Operation[None]:
    yield recording([event])
