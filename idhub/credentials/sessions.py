"""SSO sessions: one person in one browser. Started under the principal's lock, read on every use, ended for good."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

import orjson
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from audit.events import JsonValue
from idhub.access.tables import Application
from idhub.changes import Actor, Event, EventType, record
from idhub.credentials import opaque
from idhub.credentials.operations import LOCK, Operation, Row, Step, run_in, together
from idhub.credentials.operations import record as recording
from idhub.credentials.participants import IS_VISITED, LOGOUT_URI, Protocol, with_registrations
from idhub.credentials.predicate import installation_epoch
from idhub.credentials.revoke import EndedParticipant, end_sessions
from idhub.credentials.tables import SessionParticipant, SsoSession
from idhub.db import from_micros, new_id
from idhub.delivery.channel import Grade, PlannedDelivery
from idhub.delivery.queue import plan
from idhub.directory.tables import Principal
from idhub.errors import NotPermitted
from idhub.settings import Settings

LOGOUT_CHANNELS: Mapping[Protocol, str] = {
    "oidc": "backchannel_logout",
    "saml": "saml_logout",
    "cas": "cas_logout",
}
"""The channel by which participants of each protocol are told."""
_NOTHING: Mapping[str, JsonValue] = MappingProxyType({})
# A session's last use is written at most this often; reading a page writes nothing.
_MAX_USER_AGENT = 400
_MAX_IP = 45


@dataclass(frozen=True, slots=True)
class Epochs:
    """The three epochs a credential is stamped with, as they were before its proof was checked."""

    access: int
    enrolment: int
    installation: int


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who uses a session, established by `authenticate`."""

    principal_id: str
    session_id: str
    display_name: str
    locale: str | None
    amr: Sequence[str]
    authenticated_at: datetime
    last_seen_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Participant:
    """An application that a session was used for."""

    id: str
    application_id: str
    application_name: str
    application_name_zh: str | None
    is_told: bool
    """Whether the application can be told without a browser."""
    is_visited: bool
    """Whether the browser itself must carry the logout to it (SAML front channel)."""


def read_epochs(session: Session, principal_id: str) -> Epochs | None:
    """The principal's epochs of this moment, to be read *before* a password or assertion is checked.

    None when there is no such principal; check the proof all the same, so that both cases take equally long.
    """
    row = session.execute(
        select(Principal.access_epoch, Principal.enrolment_epoch, installation_epoch()).where(
            Principal.id == principal_id
        )
    ).first()
    return None if row is None else Epochs(row[0], row[1], row[2])


def lock_principal(session: Session, principal_id: str) -> None:
    """Hold back transitions of the principal until this transaction ends (design section 2, invariant 2).

    `FOR SHARE` on PostgreSQL; on SQLite the write transaction itself does it.
    """
    session.execute(select(Principal.id).where(Principal.id == principal_id).with_for_update(read=True))


def hold_for_entry(session: Session, session_id: str, *, now: datetime, settings: Settings) -> bool:
    """Let an application join the session: locks its principal, then the session's row, and notes the use.

    Whoever asks the use predicate after it sees every transition and logout that began before; one that begins later
    sees what is written now. False: there is no such session.
    """
    owner = session.execute(select(SsoSession.principal_id).where(SsoSession.id == session_id)).scalar()
    if owner is None:
        return False
    lock_principal(session, owner)
    session.execute(
        update(SsoSession)
        .where(SsoSession.id == session_id, SsoSession.ended_at.is_(None), SsoSession.idle_expires_at > now)
        .values(last_seen_at=now, idle_expires_at=now + settings.session_idle)
    )
    return True


def start_session(
    session: Session,
    principal_id: str,
    *,
    epochs_read: Epochs,
    amr: Sequence[str],
    now: datetime,
    ip: str | None,
    user_agent: str | None,
    settings: Settings,
    authenticated_at: datetime | None = None,
    request_id: str | None = None,
    said: Mapping[str, JsonValue] = _NOTHING,
) -> tuple[str, str]:
    """Start a session after a proof was accepted; returns its token (for the cookie) and its id.

    Locks the principal and asks again whether it may act; a transition that ended access while the proof was being
    checked wins, because the session is stamped with the epochs read before that. That somebody signed in and that the
    session began is one event, written here.

    Args:
        authenticated_at: when the person proved who they are, where that was not just now.
        said: what the event says of the way in, beside `amr`.

    Raises:
        NotPermitted: rule `session.recovery`, `session.standing` or `session.epoch`.
    """
    return run_in(
        session,
        starting(
            principal_id, epochs_read=epochs_read, amr=amr, now=now, ip=ip, user_agent=user_agent, settings=settings,
            authenticated_at=authenticated_at, request_id=request_id, said=said,
        ),
    )  # fmt: skip


def starting(
    principal_id: str,
    *,
    epochs_read: Epochs,
    amr: Sequence[str],
    now: datetime,
    ip: str | None,
    user_agent: str | None,
    settings: Settings,
    authenticated_at: datetime | None = None,
    request_id: str | None = None,
    said: Mapping[str, JsonValue] = _NOTHING,
) -> Operation[tuple[str, str]]:
    """See `start_session`."""
    _, rows = yield together(*asking_to_start(principal_id, now=now))
    check_start(rows, epochs_read)
    return (
        yield from starting_now(
            principal_id, epochs_read=epochs_read, amr=amr, now=now, ip=ip, user_agent=user_agent, settings=settings,
            authenticated_at=authenticated_at, request_id=request_id, said=said,
        )
    )  # fmt: skip


def asking_to_start(principal_id: str, *, now: datetime) -> tuple[Step, Step]:
    """What the database is asked before a session starts: for the lock, and for what `check_start` looks at."""
    return (LOCK, {"principal_id": principal_id}), ("principal.epochs", {"principal_id": principal_id, "now": now})


def check_start(rows: Sequence[Row], epochs_read: Epochs) -> None:
    """See that the principal may act under these epochs.

    Raises:
        NotPermitted: as of `start_session`.
    """
    if rows and rows[0]["recovery_reason"] is not None:
        # Who has left since the backup is not known; their password is as good as anybody's (design section 8).
        raise NotPermitted("The hub was restored and waits for its operator; nobody signs in.", rule="session.recovery")
    if not rows or not rows[0]["ok_standing"]:
        raise NotPermitted("Signing in is not possible at this time.", rule="session.standing")
    row = rows[0]
    if epochs_read != Epochs(row["access_epoch"], row["enrolment_epoch"], row["installation_epoch"]):
        raise NotPermitted("Something about your access changed while you signed in. Try again.", rule="session.epoch")


def starting_now(
    principal_id: str,
    *,
    epochs_read: Epochs,
    amr: Sequence[str],
    now: datetime,
    ip: str | None,
    user_agent: str | None,
    settings: Settings,
    authenticated_at: datetime | None = None,
    request_id: str | None = None,
    said: Mapping[str, JsonValue] = _NOTHING,
) -> Operation[tuple[str, str]]:
    """`starting` in a transaction in which `check_start` has passed under the lock."""
    token, session_id = opaque.make("ses"), new_id("ses")
    expires_at = now + settings.session_lifetime
    yield (
        "session.insert",
        {
            "id": session_id,
            "token_hash": opaque.hash_of(token),
            "principal_id": principal_id,
            "access_epoch": epochs_read.access,
            "enrolment_epoch": epochs_read.enrolment,
            "installation_epoch": epochs_read.installation,
            "authenticated_at": authenticated_at or now,
            "amr": orjson.dumps(list(amr)).decode(),
            "created_at": now,
            "last_seen_at": now,
            "idle_expires_at": min(now + settings.session_idle, expires_at),
            "expires_at": expires_at,
            "ended_at": None,
            "end_reason": None,
            "ip": ip[:_MAX_IP] if ip else None,
            "user_agent": user_agent[:_MAX_USER_AGENT] if user_agent else None,
        },
    )
    signed_in = Event(
        type=EventType.LOGIN_SUCCEEDED,
        at=now,
        actor=Actor(kind="person", id=principal_id, session_id=session_id, ip=ip),
        door="login",
        target_kind="session",
        target_id=session_id,
        person_id=principal_id,
        request_id=request_id,
        details={"amr": list(amr), **said},
    )
    yield recording([signed_in])
    return token, session_id


def authenticate(session: Session, token: str | None, *, now: datetime) -> SignedIn | None:
    """Who uses this session token now; None for everything that is not a usable session. A pure read."""
    return run_in(session, authenticating(token, now=now))


def authenticating(token: str | None, *, now: datetime) -> Operation[SignedIn | None]:
    """See `authenticate`."""
    if not token or not opaque.looks_valid("ses", token):
        return None
    rows = yield "session.find", {"token_hash": opaque.hash_of(token), "now": now}
    return _signed_in(rows[0]) if rows else None


@dataclass(frozen=True, slots=True)
class Entry:
    """Somebody in front of an application."""

    signed_in: SignedIn
    is_entitled: bool
    consented_scope: str
    """What the person allowed the client before, as long as nobody has left since."""


def entering(token: str | None, *, client_id: str, application_id: str, now: datetime) -> Operation[Entry | None]:
    """Who uses this session token now, and what they may in an application; None as `authenticate`. A pure read."""
    if not token or not opaque.looks_valid("ses", token):
        return None
    asked = {"token_hash": opaque.hash_of(token), "client_id": client_id, "application_id": application_id, "now": now}
    rows = yield "session.enter", asked
    return Entry(_signed_in(rows[0]), bool(rows[0]["is_entitled"]), rows[0]["consented"] or "") if rows else None


def _signed_in(row: Row) -> SignedIn:
    return SignedIn(
        principal_id=row["principal_id"],
        session_id=row["id"],
        display_name=row["display_name"],
        locale=row["locale"],
        amr=tuple(orjson.loads(row["amr"])),
        authenticated_at=from_micros(row["authenticated_at"]),
        last_seen_at=from_micros(row["last_seen_at"]),
        expires_at=from_micros(row["expires_at"]),
    )


def touch(session: Session, session_id: str, *, now: datetime, settings: Settings) -> None:
    """Record that the session is in use, which moves its idle end; its absolute end stays."""
    idle_expires_at = now + settings.session_idle
    session.execute(
        update(SsoSession)
        .where(SsoSession.id == session_id, SsoSession.ended_at.is_(None), SsoSession.idle_expires_at > now)
        .values(last_seen_at=now, idle_expires_at=idle_expires_at)
    )


def participants_of(session: Session, session_id: str) -> list[Participant]:
    """Applications that the session was used for and that have not been told of its end, by name."""
    statement = with_registrations(
        select(
            SessionParticipant.id,
            SessionParticipant.application_id,
            Application.name.label("application_name"),
            Application.name_zh.label("application_name_zh"),
            LOGOUT_URI.is_not(None).label("is_told"),
            IS_VISITED.label("is_visited"),
        )
        .join(Application, Application.id == SessionParticipant.application_id)
        .where(SessionParticipant.session_id == session_id, SessionParticipant.ended_at.is_(None))
        .order_by(Application.name, SessionParticipant.id)
    )
    rows = session.execute(statement).all()
    flags = ("is_told", "is_visited")
    return [Participant(**{**row._mapping, **{name: bool(row._mapping[name]) for name in flags}}) for row in rows]


def end_session(
    session: Session,
    session_id: str,
    *,
    reason: str,
    now: datetime,
    actor: Actor | None = None,
    door: str = "login",
) -> list[EndedParticipant]:
    """End a session with everything that rests on it, and plan a logout for each participant that the worker can tell.

    Returns the participants, told or not; an empty list also when it had ended before. Serialized with
    `codes.issue_code` by the session's row: a participant that joins meanwhile is either told or refused.
    """
    principal_id = session.execute(select(SsoSession.principal_id).where(SsoSession.id == session_id)).scalar()
    if principal_id is None:
        return []
    lock_principal(session, principal_id)
    ended = session.execute(
        update(SsoSession)
        .where(SsoSession.id == session_id, SsoSession.ended_at.is_(None))
        .values(ended_at=now, end_reason=reason)
        .returning(SsoSession.id)
    ).first()
    if ended is None:
        return []
    participants = end_sessions(session, [session_id], reason=reason, now=now)
    told = [participant for participant in participants if participant.logout_uri]
    plan(session, [logout_delivery(participant, now=now) for participant in told], now=now)
    record(
        session,
        [
            Event(
                type=EventType.SESSION_ENDED,
                at=now,
                actor=actor or Actor(kind="person", id=principal_id, session_id=session_id),
                door=door,
                target_kind="session",
                target_id=session_id,
                person_id=principal_id,
                reason=reason,
                details={"participants": [participant.registration for participant in participants]},
            )
        ],
    )
    return participants


def logout_delivery(
    participant: EndedParticipant,
    *,
    now: datetime,
    case_id: str | None = None,
    required_grade: Grade = Grade.E1,
    deadline_at: datetime | None = None,
) -> PlannedDelivery:
    """The effect of telling a participant that its session is over: OIDC Back-Channel Logout 1.0, SAML by SOAP, CAS."""
    residual = participant.token_expires_at
    whom: dict[str, str | None] = {"client_id": participant.client_id, "sub": participant.sub}
    if participant.protocol == "saml":
        whom = {
            "service_provider_id": participant.service_provider_id,
            "name_id": participant.name_id,
            "name_id_format": participant.name_id_format,
        }
    if participant.protocol == "cas":
        whom = {"service_id": participant.cas_service_id, "logout_url": participant.logout_uri}
    return PlannedDelivery(
        application_id=participant.application_id,
        channel=LOGOUT_CHANNELS[participant.protocol],
        lane=f"participant:{participant.id}",
        operation="logout",
        payload={
            **whom,
            "sid": participant.sid,
            "residual_until": residual.isoformat() if residual is not None and residual > now else None,
        },
        principal_id=participant.principal_id,
        participant_id=participant.id,
        case_id=case_id,
        required_grade=required_grade,
        deadline_at=deadline_at,
    )
