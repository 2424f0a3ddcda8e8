"""Where a SCIM sender is served: its terms, the resource types as it has them, the directory a transaction at a time.

Both who calls over HTTP and the worker, which does what was asked for asynchronously, come to the same desk.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from math import ceil
from typing import Protocol

import structlog
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from idhub.api.access import ApiCaller, caller_of
from idhub.changes import Event, EventType, record
from idhub.db import Database, chunked
from idhub.errors import Unavailable
from idhub.keys import Keyring
from idhub.lifecycle.doors import Door
from idhub.login.throttling import claim_call
from idhub.provisioning.events.streams import events_of_sender
from idhub.provisioning.inbound.documents import Document, form_of, keep_documents
from idhub.provisioning.inbound.extensions import read_registered
from idhub.provisioning.inbound.sender import Sender, provider_of
from idhub.provisioning.inbound.store import DirectoryStore, kinds_with
from idhub.provisioning.inbound.terms import Terms, limited, read_terms
from idhub.settings import Settings
from idhub.turns import bulk_work
from scim.attributes import ResourceType, Schema
from scim.errors import NotUnique, RequestError
from scim.messages import Forbidden
from scim.server import Limits, Server, Store

PREFIX = "/scim/v2"
LIMITS = Limits()
_KEPT_TOGETHER, _PATIENCE = 500, 0.1
"""Documents of one transaction, and seconds that it waits for others who write."""
_MADE_TOGETHER = 50
"""So many that nobody waits long for SQLite's one writer."""
_LOG = structlog.get_logger(__name__)


class NoToken(RequestError):
    """The token does not work, or not any more."""

    status = 401


class Later(RequestError):
    """The database cannot be reached now."""

    status = 503


class TooOften(RequestError):
    """The token has made more calls than it may (RFC 6585 section 4)."""

    status = 429

    def __init__(self, seconds: int, description: str = "This token may make no more calls now.") -> None:
        super().__init__(description)
        self.seconds = seconds


class DeskServices(Protocol):
    """What a desk needs of the application, or of the worker's hub."""

    @property
    def settings(self) -> Settings: ...

    @property
    def database(self) -> Database: ...

    @property
    def keyring(self) -> Keyring: ...

    @property
    def clock(self) -> Callable[[], datetime]: ...


def base_url_of(services: DeskServices) -> str:
    """Address of the server, without a slash at its end."""
    return services.settings.issuer.rstrip("/") + PREFIX


@dataclass(frozen=True, slots=True)
class _Service:
    """The server as one token sees it."""

    server: Server
    kinds: Mapping[str, ResourceType]


@lru_cache(maxsize=256)
def _service(terms: Terms, extensions: tuple[Schema, ...], base_url: str) -> _Service:
    kinds = {
        kind.name: limited(kind, terms)
        for kind in kinds_with(extensions)
        if terms.resources is None or kind.name in terms.resources
    }
    server = Server(
        list(kinds.values()),
        base_url=base_url,
        limits=LIMITS,
        replace_makes=terms.replace_makes,
        made_together=_MADE_TOGETHER,
    )
    return _Service(server, kinds)


class Desk:
    """Opens the directory for one caller, a transaction at a time."""

    def __init__(self, services: DeskServices, caller: ApiCaller, snapshot: Session | None = None) -> None:
        """
        Args:
            snapshot: in which the caller was found, where it stays open as long as the desk is needed: whoever only
                reads needs no other.

        Raises:
            Forbidden: the token's terms are of a later version: a limit that is not understood is not passed over.
        """
        try:
            terms = read_terms(caller.terms)
        except ValueError as error:
            _LOG.warning("scim.terms_not_understood", token=caller.token_id, term=str(error)[:60])
            raise Forbidden("The terms of this token are not understood here.") from error
        service = _service(terms, read_registered(caller.extensions), base_url_of(services))
        self.services, self.server = services, service.server
        self._kinds, self._base_url, self._snapshot = service.kinds, base_url_of(services), snapshot
        self._token_id, self._token_name, self._has_written = caller.token_id, caller.name, False
        self._documents: list[Document] = []
        self.sender = Sender(
            caller=caller.lifecycle,
            provider=provider_of(caller.name),
            organization_id=caller.subject.organization_id,
            terms=terms,
        )

    def count_call(self) -> None:
        """Count a request of the token, where its terms limit them.

        Raises:
            TooOften: it has made more than it may.
        """
        if self.sender.terms.calls_a_minute is not None:
            with self.services.database.transaction(durable=False) as session:
                self.count_in(session)

    def count_in(self, session: Session, calls: int = 1) -> None:
        """See `count_call`; in a transaction that does something besides, which may be worth several."""
        a_minute = self.sender.terms.calls_a_minute
        if a_minute is None:
            return
        for _ in range(calls):
            wait = claim_call(
                session, self.services.keyring, self._token_id, a_minute=a_minute, now=self.services.clock()
            )
            if wait is not None:
                raise TooOften(max(1, ceil(wait.total_seconds())))

    @contextmanager
    def reading(self) -> Iterator[Store]:
        """A snapshot."""
        with (
            translated(),
            self.services.database.read(keeps_plans=True)
            if self._snapshot is None
            else nullcontext(self._snapshot) as session,
        ):
            store = self.store(session)
            yield store
            self._documents += store.documents

    def events(self) -> Sequence[str]:
        """URIs of the events that the sender is told of."""
        with translated(), self.services.database.read() as session:
            return events_of_sender(session, self._token_name, self.sender.organization_id)

    @property
    def has_documents(self) -> bool:
        """Whether lists were read of people who had no document that holds."""
        return bool(self._documents)

    def keep_documents(self) -> None:
        """Keep the documents that lists had to make, in transactions of their own; nobody waits for it.

        Where others write they are not kept: whoever reads next makes them anew.
        """
        made, self._documents = self._documents, []
        try:
            for part in chunked(made, _KEPT_TOGETHER):
                with bulk_work(), self.services.database.transaction(durable=False, patience=_PATIENCE) as session:
                    keep_documents(session, part, form=form_of(self._base_url))
        except OperationalError as error:
            _LOG.info("scim.documents_not_kept", reason=type(error.orig).__name__)

    @contextmanager
    def writing(self) -> Iterator[Store]:
        """A transaction, committed when the operation has been done.

        Raises:
            NoToken: the token, which worked when the request came, does not any more: a bulk request lasts.
        """
        with translated(), self.services.database.transaction() as session:
            if caller_of(session, self._token_id, door=Door.SCIM, now=self.services.clock()) is None:
                raise NoToken("This token does not work any more.")
            if self._has_written:
                # An operation of a bulk request weighs as much as a request; the first is the request's own.
                self.count_in(session)
            yield self.store(session)
        self._has_written = True

    def store(self, session: Session) -> DirectoryStore:
        """The directory inside a transaction."""
        return DirectoryStore(
            session,
            self.sender,
            self.services.keyring,
            self._kinds,
            base_url=self._base_url,
            now=self.services.clock(),
            # An operation of a bulk request weighs as much as a request; one of them was counted already.
            count=lambda made: self.count_in(session, made - 1),
        )


@contextmanager
def translated() -> Iterator[None]:
    """Failures of the database in the words of SCIM."""
    try:
        yield
    except IntegrityError as error:
        _LOG.warning("scim.lost_a_race", exc_info=error)
        raise NotUnique("Somebody changed the same thing at this moment; look and try again.") from error
    except (OperationalError, Unavailable) as error:
        _LOG.warning("scim.database_unavailable", exc_info=error)
        raise Later("The database cannot be reached; try again.") from error


def record_refusals(services: DeskServices, caller: ApiCaller, endpoint: str, errors: Sequence[RequestError]) -> None:
    """Refusals of an authenticated caller, each of a bulk by itself; the attribute's name, never what was sent."""
    events = [
        Event(
            type=EventType.AUTHORIZATION_DENIED if isinstance(error, Forbidden) else EventType.REQUEST_REFUSED,
            at=services.clock(),
            actor=caller.lifecycle.actor,
            door=Door.SCIM,
            target_kind="endpoint",
            target_id=endpoint,
            outcome="failure",
            reason=error.scim_type or f"scim.{error.status}",
            request_id=caller.lifecycle.request_id,
            details={"attribute": error.attribute, "status": error.status},
        )
        for error in errors
    ]
    try:
        with services.database.transaction() as session:
            record(session, events)
    except OperationalError as failure:
        _LOG.warning("scim.refusal_not_recorded", exc_info=failure)
