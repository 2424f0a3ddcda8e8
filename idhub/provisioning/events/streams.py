"""Streams of SCIM events: made, listed, removed; and who listens, as whoever writes events needs to know it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, NamedTuple

import structlog
from sqlalchemy import ColumnElement, Select, delete, func, or_, select, update
from sqlalchemy.orm import Session

from idhub.authority import Action, Subject, visible_organizations
from idhub.credentials.api_tokens import is_usable
from idhub.credentials.tables import ApiToken
from idhub.db import bulk_insert, new_id
from idhub.directory.organizations import root_organization
from idhub.directory.tables import Installation
from idhub.errors import Conflict, Invalid, NotFound
from idhub.keys import Keyring
from idhub.provisioning.events.tables import EventRow, EventStream
from idhub.provisioning.inbound.terms import read_terms
from scim.events import BY_URI, LISTING, PLAIN, Happening, Kind

_SCOPES: Final = ("scim:read", "scim:write")
STREAMS: Final = "Events"
"""Below the address of the SCIM server: a stream's own address, and where it is polled."""
_PATH: Final = f"/scim/v2/{STREAMS}"
_MOST_AUTHORIZATION: Final = 4_096
_LONGEST_AUDIENCE: Final = 2_000
_AS_IT_IS: Final = {"stream.paused": "This stream is paused.", "stream.told": "This stream is not paused."}
_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamWish:
    """What a stream is to be.

    Args:
        token_name, organization_id: of the token with whose eyes the receiver sees.
        events: URIs; none named: all that there are, without data.
        is_full: those that can carry data do.
        push_url: where tokens are sent, checked by the caller; None: the receiver fetches them.
        authorization: value of the header `Authorization` that is sent along.
        audience: `aud` of the tokens; None: the stream's address.
    """

    token_name: str
    organization_id: str | None
    events: Sequence[str] = ()
    is_full: bool = False
    push_url: str | None = None
    authorization: str | None = None
    audience: str | None = None


class StreamView(NamedTuple):
    """A stream and how it fares."""

    id: str
    token_name: str
    organization_id: str | None
    events: Sequence[str]
    audience: str | None
    push_url: str | None
    created_at: datetime
    waiting: int
    """Events that the receiver does not have yet."""
    oldest_at: datetime | None
    heard_at: datetime | None
    failures: int
    last_error: str | None
    refused: int
    lost: int
    paused_at: datetime | None

    @property
    def is_full(self) -> bool:
        """Whether any of its events carries data."""
        return bool(full_kinds(self.events))


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A stream, as far as it decides what is written down for it."""

    id: str
    token_name: str
    organization_id: str | None
    kinds: frozenset[Kind]
    subject: Subject
    resources: frozenset[str] | None
    """Types of resources; None: all."""
    readable: frozenset[str] | None
    """Attributes; None: all."""

    def scope(self, session: Session) -> Collection[str] | None:
        """Ids of the organizations that it hears of; None: of all."""
        visible = visible_organizations(session, self.subject, Action.PEOPLE_READ)
        return None if visible is None else frozenset(session.execute(visible).scalars())

    def hears(self, resource: str) -> bool:
        """Whether it is told of this type at all."""
        return self.resources is None or resource in self.resources

    def told(self, happening: Happening) -> Happening | None:
        """What it may hear of it: attributes that its token may not read are not named. None: nothing."""
        if happening.kind not in self.kinds:
            return None
        if self.readable is None or not happening.attributes:
            return happening
        names = [name for name in happening.attributes if self._reads(name)]
        return replace(happening, attributes=names) if names else None

    def _reads(self, path: str) -> bool:
        urn, _, name = path.rpartition(":")
        name = name.partition(".")[0]
        allowed = self.readable or frozenset()
        return name == "id" or (f"{urn}:{name}" in allowed or urn in allowed if urn else name in allowed)


def create_stream(session: Session, wish: StreamWish, *, keyring: Keyring, now: datetime) -> str:
    """Make a stream. It hears of what happens from about a second later on. Returns its id.

    Raises:
        NotFound: there is no such SCIM token.
        Invalid: an event that there is not, or a header or audience that cannot be one.
    """
    if _token_of(session, wish.token_name, wish.organization_id) is None:
        raise NotFound("There is no token with a SCIM scope of that name and company.", field="token", rule="token")
    unknown = next((uri for uri in wish.events if uri not in BY_URI), None)
    if unknown is not None:
        raise Invalid(
            f"There is no event {unknown[:100]!r}; there are {', '.join(BY_URI)}.", field="event", rule="event.unknown"
        )
    header, audience = wish.authorization, wish.audience
    if header is not None and (wish.push_url is None or not _is_text(header, _MOST_AUTHORIZATION)):
        raise Invalid(
            "The authorization is one line of at most 4,096 ASCII characters, for a stream that is pushed.",
            field="authorization_file",
            rule="authorization",
        )
    if audience is not None and not _is_text(audience, _LONGEST_AUDIENCE):
        raise Invalid("The audience is one line of ASCII characters.", field="audience", rule="audience")
    stream_id = new_id("evs")
    sealed = None if header is None else keyring.seal(authorization_context(stream_id), header.encode())
    row = {
        "id": stream_id,
        "token_name": wish.token_name,
        "organization_id": wish.organization_id,
        "requested": _requested(wish),
        "audience": audience,
        "push_url": wish.push_url,
        "authorization_sealed": sealed,
        "created_at": now,
        "failures": 0,
        "next_attempt_at": now,
        "heard_at": None,
        "last_error": None,
        "refused": 0,
        "lost": 0,
        "paused_at": None,
    }
    bulk_insert(session, EventStream, [row])
    return stream_id


def _requested(wish: StreamWish) -> list[str]:
    named = dict.fromkeys(wish.events) or dict.fromkeys(PLAIN)
    return list(dict.fromkeys(BY_URI[uri].full_uri for uri in named)) if wish.is_full else list(named)


def full_kinds(requested: Sequence[str]) -> frozenset[Kind]:
    """Events of which a stream wants the form that carries data."""
    return frozenset(kind for kind in LISTING if kind.full_uri in requested)


def _is_text(value: str, longest: int) -> bool:
    return 0 < len(value) <= longest and value.isascii() and value.isprintable() and value == value.strip()


def authorization_context(stream_id: str) -> str:
    """What the sealed header of a stream is bound to."""
    return f"scim_event_streams:{stream_id}"


def remove_stream(session: Session, stream_id: str) -> str:
    """Forget a stream and what waits for it. Returns its token's name.

    Raises:
        NotFound: there is none.
    """
    name = session.execute(
        delete(EventStream).where(EventStream.id == stream_id).returning(EventStream.token_name)
    ).scalar_one_or_none()
    if name is None:
        raise NotFound("There is no such stream.", field="stream", rule="stream.unknown")
    session.execute(delete(EventRow).where(EventRow.stream_id == stream_id))
    return name


def pause_stream(session: Session, stream_id: str, *, now: datetime) -> str:
    """Tell a receiver nothing until somebody says go on; what happens meanwhile waits. Returns its token's name.

    Raises:
        NotFound: there is none.
        Conflict: it is paused.
    """
    return _set(session, stream_id, EventStream.paused_at.is_(None), "stream.paused", {"paused_at": now})


def resume_stream(session: Session, stream_id: str, *, now: datetime) -> str:
    """Go on with a stream that was paused, or that waits after an error: at once. Returns its token's name.

    Raises:
        NotFound: there is none.
        Conflict: it is told already.
    """
    waits = or_(EventStream.paused_at.is_not(None), EventStream.failures > 0)
    return _set(session, stream_id, waits, "stream.told", {"paused_at": None, "next_attempt_at": now})


def _set(session: Session, stream_id: str, where: ColumnElement[bool], rule: str, values: dict[str, Any]) -> str:
    statement = update(EventStream).where(EventStream.id == stream_id, where).values(**values)
    done = session.execute(
        statement.returning(EventStream.token_name).execution_options(synchronize_session=False)
    ).scalar_one_or_none()
    if done is not None:
        return done
    if session.execute(select(EventStream.id).where(EventStream.id == stream_id)).first() is None:
        raise NotFound("There is no such stream.", field="stream", rule="stream.unknown")
    raise Conflict(_AS_IT_IS[rule], field="stream", rule=rule)


def list_streams(session: Session, *, within: Select[str] | None = None) -> list[StreamView]:
    """Every stream, oldest first.

    Args:
        within: ids of organizations; of streams whose token is limited to none, the root's decides.
    """
    waiting: dict[str, tuple[int, datetime | None]] = {
        row[0]: (row[1], row[2])
        for row in session.execute(
            select(EventRow.stream_id, func.count(), func.min(EventRow.happened_at)).group_by(EventRow.stream_id)
        )
    }
    statement = select(EventStream).order_by(EventStream.created_at, EventStream.id)
    if within is not None:
        owner = func.coalesce(EventStream.organization_id, root_organization(session))
        statement = statement.where(owner.in_(within))
    return [_view(each, *waiting.get(each.id, (0, None))) for each in session.execute(statement).scalars()]


def _view(stream: EventStream, waiting: int, oldest_at: datetime | None) -> StreamView:
    return StreamView(
        id=stream.id,
        token_name=stream.token_name,
        organization_id=stream.organization_id,
        events=stream.requested,
        audience=stream.audience,
        push_url=stream.push_url,
        created_at=stream.created_at,
        waiting=waiting,
        oldest_at=oldest_at,
        heard_at=stream.heard_at,
        failures=stream.failures,
        last_error=stream.last_error,
        refused=stream.refused,
        lost=stream.lost,
        paused_at=stream.paused_at,
    )


def events_of_sender(session: Session, token_name: str, organization_id: str | None) -> list[str]:
    """URIs of the events that streams of a sender tell; none where it has no stream."""
    wanted = session.execute(
        select(EventStream.requested).where(
            EventStream.token_name == token_name, EventStream.organization_id.is_not_distinct_from(organization_id)
        )
    ).scalars()
    named = {uri for uris in wanted for uri in uris}
    # What is too large, or gone, is told in the other form.
    named |= {BY_URI[uri].uri for uri in named if uri in BY_URI}
    return [uri for uri in BY_URI if uri in named]


def listeners(session: Session) -> tuple[Listener, ...]:
    """Every stream that something is written down for: also while its token does not work, until a new one does."""
    rows = session.execute(
        select(EventStream.id, EventStream.token_name, EventStream.organization_id, EventStream.requested)
    ).all()
    found = []
    for row in rows:
        token = _token_of(session, row.token_name, row.organization_id)
        if token is None:
            continue
        try:
            terms = read_terms(token.terms)
        except ValueError as error:
            # A limit that is not understood is not passed over.
            _LOG.warning("scim.terms_not_understood", stream=row.id, term=str(error)[:60])
            continue
        found.append(
            Listener(
                id=row.id,
                token_name=row.token_name,
                organization_id=row.organization_id,
                kinds=frozenset(BY_URI[uri] for uri in row.requested if uri in BY_URI),
                subject=Subject(
                    principal_id=token.principal_id,
                    actions=frozenset({Action.PEOPLE_READ}),
                    organization_id=row.organization_id,
                ),
                resources=terms.resources,
                readable=terms.readable,
            )
        )
    return tuple(found)


def address_of(issuer: str, stream_id: str) -> str:
    """Where the stream is polled; also `aud` of its tokens, unless another was chosen."""
    return f"{issuer.rstrip('/')}{_PATH}/{stream_id}"


class Sending(NamedTuple):
    """A SCIM sender for whom a stream can be made."""

    token_id: str
    name: str
    organization_id: str | None


def senders(session: Session, *, within: Select[str] | None, now: datetime) -> list[Sending]:
    """Senders whose token works, by name, each with the newest of its tokens.

    Args:
        within: ids of organizations; of tokens that are limited to none, the root's decides.
    """
    usable = select(ApiToken).where(ApiToken.installation_epoch == select(Installation.epoch).scalar_subquery())
    statement = usable.order_by(ApiToken.name, ApiToken.created_at.desc(), ApiToken.id.desc())
    if within is not None:
        owner = func.coalesce(ApiToken.organization_id, root_organization(session))
        statement = statement.where(owner.in_(within))
    found: dict[tuple[str, str | None], Sending] = {}
    for row in session.execute(statement).scalars():
        if _is_sender(row) and is_usable(session, row, now=now):
            found.setdefault((row.name, row.organization_id), Sending(row.id, row.name, row.organization_id))
    return list(found.values())


def _is_sender(row: ApiToken) -> bool:
    return not set(_SCOPES).isdisjoint(row.scopes)


def tokens_of(session: Session, token_name: str, organization_id: str | None) -> list[str]:
    """Ids of tokens with a SCIM scope of that name and company, the newest first, whether they work or not."""
    return [row.id for row in _tokens(session, token_name, organization_id)]


def _tokens(session: Session, name: str, organization_id: str | None) -> list[ApiToken]:
    rows = session.execute(
        select(ApiToken)
        .where(ApiToken.name == name, ApiToken.organization_id.is_not_distinct_from(organization_id))
        .order_by(ApiToken.created_at.desc(), ApiToken.id.desc())
    ).scalars()
    return [row for row in rows if _is_sender(row)]


def _token_of(session: Session, name: str, organization_id: str | None) -> ApiToken | None:
    return next(iter(_tokens(session, name, organization_id)), None)
