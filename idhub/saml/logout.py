"""Single Logout: what service providers ask for, and the visits by which a browser tells the others.

    service provider --LogoutRequest--> /saml/slo --> /saml/logout (visits) --> LogoutResponse to whoever asked
    page /logout ------------------------------------> /saml/logout (visits) --> /logout

SAML Core 3.7, Profiles 4.4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import urlencode

from sqlalchemy import select, update
from sqlalchemy.orm import Session
from starlette.responses import Response

from idhub.changes import Actor, record
from idhub.credentials import transactions
from idhub.credentials.assertions import is_first_use
from idhub.credentials.sessions import end_session, lock_principal
from idhub.credentials.tables import SessionParticipant
from idhub.gateway import Browser, ShownError
from idhub.logout import logout_requested
from idhub.pages import new_browser_token
from idhub.pages.notices import Carried
from idhub.saml import front_channel, messages
from idhub.saml.front_channel import Visit
from idhub.saml.gateway import Gateway
from idhub.saml.metadata import CHAIN_PATH, LOGOUT_PATH, SOAP_PATH
from idhub.saml.providers import ServiceProvider, find_provider, load_provider
from idhub.saml.requests import (
    REQUEST_LIFETIME,
    SKEW,
    LogoutRequest,
    open_message,
    open_soap,
    read_logout_request,
    read_logout_response,
)
from providers.saml_wire import names
from providers.saml_wire.bindings import Kind, Received, post_value, write_redirect, write_soap
from providers.saml_wire.signatures import sign
from providers.saml_wire.writing import Node, render

_XML: Final = "text/xml"


@dataclass(frozen=True, slots=True)
class _Ended:
    """What a logout request came to.

    Args:
        is_whole: everybody was told or can be; False: an application takes no message at all.
    """

    session_ids: Sequence[str]
    visits: int
    is_known: bool
    is_whole: bool


class SingleLogout:
    """Logouts by SAML messages."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    # ---------------------------------------------------------------- what arrives

    def receive(self, browser: Browser, received: Received) -> Response:
        """A LogoutRequest or a LogoutResponse that a browser carried.

        Raises:
            ShownError: it is not signed by whom it says, or not meant for here.
        """
        gateway = self._gateway
        expected = "LogoutRequest" if received.kind == "SAMLRequest" else "LogoutResponse"
        with gateway.database.read() as session:
            envelope = open_message(
                received,
                [expected],
                gateway.issuer + LOGOUT_PATH,
                lambda entity_id: find_provider(session, entity_id, now=browser.now),
                now=browser.now,
            )
        if not envelope.is_signed:
            raise ShownError("invalid_signature", "signature.missing")
        if expected == "LogoutRequest":
            request = read_logout_request(envelope, received.relay_state, now=browser.now)
            return self._log_out(browser, request)
        answer = read_logout_response(envelope)
        with gateway.database.transaction(durable=False) as session:
            is_ours = front_channel.confirm(
                session, answer.in_response_to, answer.provider.id, is_success=answer.is_success, now=browser.now
            )
        if not is_ours:
            raise ShownError("transaction_gone", "saml.in_response_to")
        # Whoever holds this value still needs the browser's cookie; it came back as we gave it, or is nobody's.
        return gateway.redirect(f"{CHAIN_PATH}?{urlencode({'transaction': (received.relay_state or '')[:200]})}")

    def receive_soap(self, browser: Browser, document: bytes | None) -> Response:
        """A LogoutRequest that a service provider sent by itself.

        Raises:
            ShownError: it is not signed by whom it says, or not meant for here.
        """
        gateway = self._gateway
        with gateway.database.read() as session:
            envelope = open_soap(
                document,
                ["LogoutRequest"],
                gateway.issuer + SOAP_PATH,
                lambda entity_id: find_provider(session, entity_id, now=browser.now),
                now=browser.now,
            )
        request = read_logout_request(envelope, None, now=browser.now)
        ended = self._end(browser, request)
        # Nobody carries a logout to the applications that only a browser can tell.
        is_whole = ended.is_whole and ended.visits == 0
        answer = self._answer(request.id, ended.is_known, is_whole, browser)
        return Response(write_soap(sign(answer, gateway.signer)), media_type=_XML)

    # ---------------------------------------------------------------- ending

    def _log_out(self, browser: Browser, request: LogoutRequest) -> Response:
        gateway = self._gateway
        ended = self._end(browser, request)
        given = new_browser_token()
        with gateway.database.transaction(durable=False) as session:
            transaction_id = front_channel.begin_chain(
                session,
                {
                    "session_ids": list(ended.session_ids),
                    "initiator": request.provider.id,
                    "in_response_to": request.id,
                    "relay_state": request.relay_state,
                    "is_known": ended.is_known,
                    "is_whole": ended.is_whole,
                    "by_post": browser.request.method == "POST",
                },
                given,
                now=browser.now,
                settings=gateway.settings,
            )
        # Also without visits: the one place that answers. A form of another site brought no cookies (SameSite).
        return gateway.redirect(f"{CHAIN_PATH}?transaction={transaction_id}&given={given}")

    def _end(self, browser: Browser, request: LogoutRequest) -> _Ended:
        """End the sessions that are meant, with everything that rests on them."""
        now = browser.now
        with self._gateway.database.transaction() as session:
            expires_at = now + REQUEST_LIFETIME + SKEW
            if not is_first_use(session, request.provider.id, request.id, expires_at=expires_at):
                raise ShownError("request_replayed")
            rows = session.execute(
                select(
                    SessionParticipant.id,
                    SessionParticipant.session_id,
                    SessionParticipant.principal_id,
                    SessionParticipant.sid,
                    SessionParticipant.ended_at,
                ).where(
                    # S18: nobody but those whom this very service provider knows by this name.
                    SessionParticipant.service_provider_id == request.provider.id,
                    SessionParticipant.name_id == request.name_id,
                )
            ).all()
            meant = [row for row in rows if not request.session_indexes or row.sid in request.session_indexes]
            visits, is_whole = 0, True
            alive = [row for row in meant if row.ended_at is None]
            for principal_id in sorted({row.principal_id for row in alive}):
                lock_principal(session, principal_id)
            for row in alive:
                asked = logout_requested(
                    browser,
                    Actor(kind="client", id=request.provider.id, ip=browser.ip),
                    row.principal_id,
                    row.session_id,
                    door="saml",
                    application_id=request.provider.application_id,
                    asked_by={"service_provider": request.provider.id},
                )
                record(session, [asked])
                # It ends its own session itself: it is not told.
                session.execute(update(SessionParticipant).where(SessionParticipant.id == row.id).values(ended_at=now))
                ended = end_session(
                    session,
                    row.session_id,
                    reason="logout",
                    now=now,
                    actor=Actor(kind="client", id=request.provider.id, ip=browser.ip),
                    door="saml",
                )
                planned = front_channel.plan_visits(session, ended, session_id=row.session_id, now=now)
                visits += planned
                is_whole = is_whole and planned == sum(one.logout_uri is None for one in ended)
        return _Ended([row.session_id for row in alive], visits, bool(meant), is_whole)

    # ---------------------------------------------------------------- visits

    def go_on(self, browser: Browser, transaction_id: str, given: str | None) -> Response:
        """Send the browser to the next application that waits, and at last to where all this began.

        Raises:
            ShownError: transaction_gone.
        """
        gateway = self._gateway
        if given is not None:
            return gateway.claim(browser, CHAIN_PATH, transaction_id, given)
        with gateway.database.transaction(durable=False) as session:
            transaction = transactions.load(session, transaction_id, browser.browser_token, now=browser.now)
            if transaction is None or transaction.protocol != "saml_logout":
                raise ShownError("transaction_gone")
            stored = transaction.request
            addresses = front_channel.take_cleanups(session, stored["session_ids"], now=browser.now)
        if addresses:
            return gateway.services.cleaning_page(
                browser.request, addresses, f"{CHAIN_PATH}?transaction={transaction_id}"
            )
        with gateway.database.transaction(durable=False) as session:
            following = _following(session, stored["session_ids"], now=browser.now)
            is_whole = initiator = None
            if following is None:
                if not transactions.complete(session, transaction_id, browser.browser_token or "", now=browser.now):
                    raise ShownError("transaction_gone")
                if "initiator" in stored:
                    is_whole = stored["is_whole"] and front_channel.is_whole(session, stored["session_ids"])
                    initiator = load_provider(session, stored["initiator"], now=browser.now)
        if following is not None:
            return self._visit(browser, *following, transaction_id)
        if "initiator" not in stored:
            return gateway.redirect(str(stored["return_to"]))
        if initiator is None:
            raise ShownError("unknown_service_provider")
        answer = self._answer(stored["in_response_to"], stored["is_known"], bool(is_whole), browser)
        bindings = (names.POST, names.REDIRECT) if stored["by_post"] else (names.REDIRECT, names.POST)
        if not _takes(initiator, bindings):
            # It asked and names no address for the answer: then the person reads it here.
            return gateway.redirect("/logout")
        return self._send(browser, initiator, answer, bindings, relay_state=stored["relay_state"], is_response=True)

    def _visit(self, browser: Browser, visit: Visit, provider: ServiceProvider, transaction_id: str) -> Response:
        request = messages.logout_request(
            self._gateway.entity_id,
            "",
            message_id=visit.request_id,
            audience=provider.entity_id,
            name_id=visit.name_id,
            name_id_format=visit.name_id_format,
            session_index=visit.session_index,
            reason=names.LOGOUT_USER,
            now=browser.now,
        )
        return self._send(
            browser, provider, request, front_channel.VISITED_BINDINGS, relay_state=transaction_id, is_response=False
        )

    def _answer(self, in_response_to: str, is_known: bool, is_whole: bool, browser: Browser) -> Node:
        status, detail = names.SUCCESS, None if is_whole else names.PARTIAL_LOGOUT
        if not is_known:
            status, detail = names.REQUESTER, names.UNKNOWN_PRINCIPAL
        return messages.logout_response(
            self._gateway.entity_id, None, in_response_to, status=status, detail=detail, now=browser.now
        )

    def _send(
        self,
        browser: Browser,
        provider: ServiceProvider,
        message: Node,
        bindings: Sequence[str],
        *,
        relay_state: str | None,
        is_response: bool,
    ) -> Response:
        """Carry a logout message by the first of the bindings that the service provider takes; it takes one."""
        gateway = self._gateway
        binding = next(one for one in bindings if one in provider.logout_services)
        destination = provider.logout_address(binding, is_response=is_response) or ""
        addressed = Node(message.tag, {**message.attributes, "Destination": destination}, message.content)
        kind: Kind = "SAMLResponse" if is_response else "SAMLRequest"
        if binding == names.POST:
            fields = [(str(kind), post_value(render(sign(addressed, gateway.signer))))]
            if relay_state is not None:
                fields.append(("RelayState", relay_state))
            carried = Carried(action=destination, fields=tuple(fields), purpose="logout")
            return gateway.services.carrying_page(browser.request, carried)
        url = write_redirect(destination, kind, render(addressed), relay_state=relay_state, signer=gateway.signer)
        if is_response:
            return gateway.redirect(url)
        # By a page of its own: the policy of the form that began this names no address of other applications.
        return gateway.services.carrying_page(browser.request, Carried(action=url, fields=(), purpose="logout"))


def _following(session: Session, session_ids: Sequence[str], *, now: datetime) -> tuple[Visit, ServiceProvider] | None:
    """The next application to visit; one that can no longer be visited has failed."""
    while (visit := front_channel.next_visit(session, session_ids, now=now)) is not None:
        provider = load_provider(session, visit.service_provider_id, now=now)
        if provider is not None and _takes(provider, front_channel.VISITED_BINDINGS):
            return visit, provider
        front_channel.give_up(session, visit.request_id, now=now)
    return None


def _takes(provider: ServiceProvider, bindings: Sequence[str]) -> bool:
    return any(binding in provider.logout_services for binding in bindings)
