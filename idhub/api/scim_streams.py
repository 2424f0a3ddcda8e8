"""What is told of SCIM events, and to whom: tokens of a stream, made and signed while its own token works."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from idhub.api.access import ApiCaller, caller_of
from idhub.api.scim_desk import DeskServices, base_url_of
from idhub.authority import Action
from idhub.lifecycle.doors import Door
from idhub.provisioning.events.streams import tokens_of
from idhub.provisioning.events.tables import EventStream
from idhub.provisioning.events.waiting import Waiting, external_ids, waiting_for
from idhub.provisioning.inbound.sender import provider_of
from idhub.provisioning.inbound.terms import read_terms
from scim.events import TOKEN_TYPE

STREAMS = "Events"
"""Below the address of the SCIM server: a stream's own address, and where it is polled."""


@dataclass(frozen=True, slots=True)
class Told:
    """A token, as it goes to the receiver."""

    id: str
    resource_id: str
    """Tokens of one resource are told one after the other."""
    token: str


def address_of_stream(services: DeskServices, stream_id: str) -> str:
    """Where the stream is polled; also `aud` of its tokens, unless another was chosen."""
    return f"{base_url_of(services)}/{STREAMS}/{stream_id}"


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
    """The next tokens of a stream, oldest first; what was told before and not taken is told again, the same."""
    listed = waiting_for(session, stream.id, most=most)
    called = _called(session, caller, listed)
    audience = stream.audience or address_of_stream(services, stream.id)
    return [Told(each.token_id, each.resource_id, _signed(services, each, audience, called)) for each in listed]


def _called(session: Session, caller: ApiCaller, listed: Sequence[Waiting]) -> Mapping[str, str]:
    readable = read_terms(caller.terms).readable
    if readable is not None and "externalId" not in readable:
        return {}
    return external_ids(session, provider_of(caller.name), listed)


def _signed(services: DeskServices, each: Waiting, audience: str, called: Mapping[str, str]) -> str:
    claims: dict[str, Any] = each.claims(
        issuer=services.settings.issuer, audience=audience, external_id=called.get(each.resource_id)
    )
    return services.keyring.sign_jws("event", TOKEN_TYPE, claims)


def stream_of(session: Session, stream_id: str) -> EventStream | None:
    """The stream of that id."""
    return session.execute(select(EventStream).where(EventStream.id == stream_id)).scalar_one_or_none()
