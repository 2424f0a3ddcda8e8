"""What is told of SCIM events, and to whom: tokens of a stream, made and signed while its own token works."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from idhub.api.access import ApiCaller, caller_of
from idhub.api.scim_desk import Desk, DeskServices
from idhub.authority import Action
from idhub.lifecycle.doors import Door
from idhub.provisioning.events.streams import address_of, full_kinds, tokens_of
from idhub.provisioning.events.tables import EventStream
from idhub.provisioning.events.waiting import Waiting, external_ids, waiting_for
from scim.attributes import ResourceType
from scim.event_data import full_payload
from scim.events import TOKEN_TYPE, Full, Kind
from scim.schemas import Resource


@dataclass(frozen=True, slots=True)
class Told:
    """A token, as it goes to the receiver."""

    id: str
    resource_id: str
    """Tokens of one resource are told one after the other."""
    token: str


def address_of_stream(services: DeskServices, stream_id: str) -> str:
    """See `address_of`."""
    return address_of(services.settings.issuer, stream_id)


def caller_of_stream(session: Session, stream: EventStream, *, now: datetime) -> ApiCaller | None:
    """Whoever the stream is for; None: no token of its name and company works."""
    for token_id in tokens_of(session, stream.token_name, stream.organization_id):
        caller = caller_of(session, token_id, door=Door.SCIM, now=now)
        if caller is not None and Action.PEOPLE_READ in (caller.subject.actions or ()):
            return caller
    return None


def next_tokens(
    services: DeskServices, session: Session, stream: EventStream, caller: ApiCaller, *, most: int
) -> list[Told]:
    """The next tokens of a stream, oldest first; what was told before and not taken is told again.

    Nothing while it is paused.

    Raises:
        Forbidden: the terms of the stream's token are not understood here.
    """
    if stream.paused_at is not None:
        return []
    desk = Desk(services, caller, session)
    listed = waiting_for(session, stream.id, most=most)
    called = _called(session, desk, listed)
    data = _Data(desk, session, full_kinds(stream.requested))
    audience = stream.audience or address_of_stream(services, stream.id)
    told = []
    for each in listed:
        claims = each.claims(
            issuer=services.settings.issuer,
            audience=audience,
            external_id=called.get(each.resource_id),
            full=data.of(each),
        )
        token = services.keyring.sign_jws("event", TOKEN_TYPE, claims)
        told.append(Told(claims["jti"], each.resource_id, token))
    return told


class _Data:
    """What tokens carry: resources as a GET by the receiver's own token shows them now.

    They are read when they are told and kept nowhere. What the token may not see (any more), and what is gone, is told
    without.
    """

    def __init__(self, desk: Desk, session: Session, kinds: Collection[Kind]) -> None:
        self._kinds, self._server, self._store = kinds, desk.server, desk.store(session)
        self._known: dict[tuple[str, str], tuple[ResourceType, Resource] | None] = {}

    def of(self, each: Waiting) -> Full:
        """Payloads of what happened to one resource."""

        def full(kind: Kind, names: Sequence[str]) -> dict[str, Any] | None:
            if kind not in self._kinds:
                return None
            found = self._found(each.resource, each.resource_id)
            return None if found is None else full_payload(kind, names, found[1], found[0])

        return full

    def _found(self, resource: str, resource_id: str) -> tuple[ResourceType, Resource] | None:
        key = (resource, resource_id)
        if key not in self._known:
            self._known[key] = self._server.shown(self._store, *key)
        return self._known[key]


def _called(session: Session, desk: Desk, listed: Sequence[Waiting]) -> Mapping[str, str]:
    readable = desk.sender.terms.readable
    if readable is not None and "externalId" not in readable:
        return {}
    return external_ids(session, desk.sender.provider, listed)


def stream_of(session: Session, stream_id: str) -> EventStream | None:
    """The stream of that id."""
    return session.execute(select(EventStream).where(EventStream.id == stream_id)).scalar_one_or_none()
