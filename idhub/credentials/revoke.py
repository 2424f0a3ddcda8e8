"""What a transition ends: sessions, grants and with them every token, and whom a logout must tell; and what a client
has of everybody.

The epochs alone make every credential unusable; ending the rows as well keeps lists truthful and yields the
participants whose applications must be told.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Row, Update, and_, bindparam, or_, select, update
from sqlalchemy.orm import Session

from idhub.access.tables import OidcClient
from idhub.changes import Actor, Event, EventType, record
from idhub.credentials.participants import LOGOUT_URI, Protocol, with_registrations
from idhub.credentials.tables import Grant, Invitation, RememberedDevice, SessionParticipant, SsoSession
from idhub.db import Database, Instant, chunked
from idhub.directory.tables import Principal
from idhub.errors import NotFound
from idhub.kept import Kept

_GRANTS_AT_ONCE = 500
_PEOPLE: BindParameter[Any] = bindparam("people", expanding=True)
_AT = bindparam("at", type_=Instant())


def _ending(kind: type[SsoSession] | type[Grant]) -> Update:
    return (
        update(kind)
        .where(kind.principal_id.in_(_PEOPLE), kind.ended_at.is_(None))
        .values(ended_at=_AT, end_reason=bindparam("reason"))
    )


# Made once: building a statement costs more than what it asks.
_END_SESSIONS = Kept(_ending(SsoSession).returning(SsoSession.principal_id))
_END_GRANTS = Kept(_ending(Grant).returning(Grant.principal_id))
_SPEND_INVITATIONS = Kept(
    update(Invitation).where(Invitation.principal_id.in_(_PEOPLE), Invitation.spent_at.is_(None)).values(spent_at=_AT)
)
_FORGET_DEVICES = Kept(
    update(RememberedDevice)
    .where(RememberedDevice.principal_id.in_(_PEOPLE), RememberedDevice.expires_at > _AT)
    .values(expires_at=_AT)
)
_PARTICIPANTS = with_registrations(
    select(
        SessionParticipant.id,
        SessionParticipant.principal_id,
        SessionParticipant.application_id,
        SessionParticipant.client_id,
        SessionParticipant.sid,
        SessionParticipant.sub,
        LOGOUT_URI.label("logout_uri"),
        SessionParticipant.token_expires_at,
        SessionParticipant.service_provider_id,
        SessionParticipant.name_id,
        SessionParticipant.name_id_format,
        SessionParticipant.cas_service_id,
    ).where(SessionParticipant.ended_at.is_(None))
)
_THEIR_PARTICIPANTS = Kept(_PARTICIPANTS.where(SessionParticipant.principal_id.in_(_PEOPLE)))
_END_PARTICIPANTS = Kept(
    update(SessionParticipant).where(SessionParticipant.id.in_(bindparam("ids", expanding=True))).values(ended_at=_AT)
)


@dataclass(frozen=True, slots=True)
class EndedParticipant:
    """An application that used a session which has ended.

    Args:
        client_id: of an OIDC client.
        logout_uri: where it can be told without a browser; None: nowhere.
        token_expires_at: until when it may go on by itself: access tokens, or its own session.
        service_provider_id: of a SAML service provider, with the name and format by which it knows the person.
        cas_service_id: of a CAS service; `sid` is the spent ticket.
    """

    id: str
    principal_id: str
    application_id: str
    client_id: str | None
    sid: str
    sub: str
    logout_uri: str | None
    token_expires_at: datetime | None
    service_provider_id: str | None = None
    name_id: str | None = None
    name_id_format: str | None = None
    cas_service_id: str | None = None

    @property
    def protocol(self) -> Protocol:
        """What it speaks, which decides how it is told."""
        if self.service_provider_id is not None:
            return "saml"
        return "oidc" if self.cas_service_id is None else "cas"

    @property
    def registration(self) -> str:
        """Whom it is registered as: for events."""
        return self.client_id or self.service_provider_id or self.cas_service_id or ""


@dataclass(slots=True)
class Ended:
    """What ended, by principal."""

    sessions: dict[str, int] = field(default_factory=dict)
    grants: dict[str, int] = field(default_factory=dict)
    participants: list[EndedParticipant] = field(default_factory=list)


def end_credentials(session: Session, principal_ids: Sequence[str], *, reason: str, now: datetime) -> Ended:
    """End every session and grant of the principals.

    Runs after their rows were locked and their epochs raised, in the same transaction.
    """
    ended = Ended()
    for part in chunked(principal_ids):
        sessions, grants = (
            kept.ask(session, people=part, at=now, reason=reason) for kept in (_END_SESSIONS, _END_GRANTS)
        )
        participants = _THEIR_PARTICIPANTS.ask(session, people=part)
        for (principal_id,) in sessions.rows():
            ended.sessions[principal_id] = ended.sessions.get(principal_id, 0) + 1
        for (principal_id,) in grants.rows():
            ended.grants[principal_id] = ended.grants.get(principal_id, 0) + 1
        ended.participants += _end_participants(session, participants.rows(), now=now)
    return ended


def end_enrolments(session: Session, principal_ids: Sequence[str], *, now: datetime) -> None:
    """Spend invitations and forget remembered devices of people who have left; their epoch is over anyway."""
    for part in chunked(principal_ids):
        _SPEND_INVITATIONS.run(session, people=part, at=now)
        _FORGET_DEVICES.run(session, people=part, at=now)


def end_application_access(
    session: Session, pairs: Sequence[tuple[str, str]], *, reason: str, now: datetime
) -> list[EndedParticipant]:
    """End the grants of (principal, application) pairs whose entitlement is gone; the sessions live on."""
    told: list[EndedParticipant] = []
    for part in chunked(pairs, 400):
        session.execute(
            update(Grant)
            .where(
                Grant.ended_at.is_(None),
                or_(*(and_(Grant.principal_id == p, Grant.application_id == a) for p, a in part)),
            )
            .values(ended_at=now, end_reason=reason)
            .execution_options(synchronize_session=False)
        )
        matches = or_(
            *(and_(SessionParticipant.principal_id == p, SessionParticipant.application_id == a) for p, a in part)
        )
        told += _end_participants(session, _rows(session, matches), now=now)
    return told


def end_sessions(session: Session, session_ids: Sequence[str], *, reason: str, now: datetime) -> list[EndedParticipant]:
    """End sessions with the grants that live on them (logout, "end all others")."""
    told: list[EndedParticipant] = []
    for part in chunked(session_ids):
        session.execute(
            update(SsoSession)
            .where(SsoSession.id.in_(part), SsoSession.ended_at.is_(None))
            .values(ended_at=now, end_reason=reason)
            .execution_options(synchronize_session=False)
        )
        session.execute(
            update(Grant)
            .where(Grant.session_id.in_(part), Grant.ended_at.is_(None))
            .values(ended_at=now, end_reason=reason)
            .execution_options(synchronize_session=False)
        )
        told += _end_participants(session, _rows(session, SessionParticipant.session_id.in_(part)), now=now)
    return told


def end_client_credentials(
    database: Database,
    client_id: str,
    *,
    reason: str | None,
    clock: Callable[[], datetime],
    actor: Actor,
    door: str,
) -> int:
    """End every grant that a client has, and with it every code and token; returns how many there were.

    People stay signed in here and the client may ask anew: what it has is gone, its registration stays as it is.
    Opens its own transactions, a few hundred grants and one event each. A refresh token that is spent meanwhile stays
    under its grant; whoever signs in meanwhile does so anew.

    Raises:
        NotFound: no such client.
    """
    with database.read() as session:
        if session.get(OidcClient, client_id) is None:
            raise NotFound("There is no such client.", field="client", rule="client.unknown")
    said = {"reason_given": reason} if reason else {}
    ended, last = 0, ""
    while True:
        with database.read() as session:
            of_client = (Grant.client_id == client_id, Grant.ended_at.is_(None), Grant.id > last)
            wanted = select(Grant.id, Grant.principal_id).where(*of_client).order_by(Grant.id)
            grants = session.execute(wanted.limit(_GRANTS_AT_ONCE)).all()
        if not grants:
            return ended
        event = Event(
            type=EventType.CLIENT_CREDENTIALS_ENDED, at=clock(), actor=actor, door=door, target_kind="client",
            target_id=client_id, details=said,
        )  # fmt: skip
        ended += database.run(partial(_end_grants, grants=grants, event=event))
        last = grants[-1].id
        database.give_way()


def _end_grants(session: Session, *, grants: Sequence[Row[str, str]], event: Event) -> int:
    # Principals first and in order, as a transition locks them.
    owners = select(Principal.id).where(Principal.id.in_({grant.principal_id for grant in grants}))
    session.execute(owners.order_by(Principal.id).with_for_update(read=True))
    done = session.execute(
        update(Grant)
        .where(Grant.id.in_([grant.id for grant in grants]), Grant.ended_at.is_(None))
        .values(ended_at=event.at, end_reason="client_ended")
        .returning(Grant.id)
    ).all()
    if done:
        record(session, [event._replace(details={"grants": len(done), **event.details})])
    return len(done)


def _rows(session: Session, criterion: ColumnElement[bool]) -> Sequence[Any]:
    return session.connection().execute(_PARTICIPANTS.where(criterion)).all()


def _end_participants(session: Session, rows: Sequence[Any], *, now: datetime) -> list[EndedParticipant]:
    for part in chunked([row.id for row in rows]):
        _END_PARTICIPANTS.run(session, ids=part, at=now)
    return [EndedParticipant(*row) for row in rows]
