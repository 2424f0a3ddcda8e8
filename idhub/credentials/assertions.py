"""Issuing a SAML assertion, by whichever protocol: the moment when a service provider joins a session. And what becomes
of its requests.
"""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import and_, insert, select, update
from sqlalchemy.orm import Session

from idhub.access.tables import Application, SamlServiceProvider
from idhub.changes import Actor, Event, EventType, record
from idhub.credentials.codes import subject_of
from idhub.credentials.naming import is_somebody_elses
from idhub.credentials.predicate import Refused, entitled, first_failing, refusal, session_criteria
from idhub.credentials.sessions import hold_for_entry
from idhub.credentials.tables import SamlRequest, SessionParticipant, SsoSession
from idhub.db import new_id, upsert
from idhub.directory.tables import Person, Principal
from idhub.settings import Settings

NameIdKind = Literal["persistent", "transient", "email", "employee_number"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AssertionRequest:
    """What an assertion is bound to. All values have been checked against the service provider's registration.

    Args:
        name_id_kind: how the person is named.
        name_id_format: the format's URN, as it stands in the assertion.
        employee_number: what `employee_number` names the person by.
        door: the protocol, in events.
    """

    service_provider_id: str
    name_id_kind: NameIdKind
    name_id_format: str
    employee_number: str | None
    in_response_to: str | None
    ip: str | None
    request_id: str | None = None
    door: str = "saml"


@dataclass(frozen=True, slots=True)
class IssuedAssertion:
    """What the assertion says of session and person."""

    name_id: str
    session_index: str
    authenticated_at: datetime
    session_ends_at: datetime
    amr: Sequence[str] = ()
    """How the person signed in (RFC 8176)."""


def issue_assertion(
    session: Session, session_id: str, request: AssertionRequest, *, now: datetime, settings: Settings
) -> IssuedAssertion | Refused:
    """Let the service provider join the session, or say which criterion of the use predicate failed.

    Reasons beside the predicate's: `no_name_id`: the person has no value for the format; `ambiguous_name_id`: another
    person who may enter has the same.
    """
    if not hold_for_entry(session, session_id, now=now, settings=settings):
        return Refused("session_ended")
    row = _facts(session, session_id, request.service_provider_id, now)
    if row is None:
        return Refused("client_disabled")
    refused = first_failing(row)
    if refused is not None:
        return refused
    name_id = _name_id(session, row, request, now)
    if name_id is None:
        return Refused("no_name_id")
    whose = {"principal_id": row["principal_id"], "application_id": row["application_id"]}
    if is_somebody_elses(session, request.name_id_kind, name_id, **whose, now=now):
        return Refused("ambiguous_name_id")
    session_index, has_joined = _join(session, row, session_id, request, name_id, now)
    _note(session, row, session_id, request, has_joined=has_joined, now=now)
    return IssuedAssertion(name_id, session_index, row["authenticated_at"], row["expires_at"], tuple(row["amr"]))


def _facts(session: Session, session_id: str, provider_id: str, now: datetime) -> Any:
    criteria = {
        **session_criteria(now),
        "client_disabled": SamlServiceProvider.is_enabled.is_(True),
        "application_disabled": Application.is_enabled.is_(True),
        "not_entitled": entitled(
            now, principal_id=SsoSession.principal_id, application_id=SamlServiceProvider.application_id
        ),
    }
    statement = (
        select(
            SsoSession.principal_id,
            SsoSession.authenticated_at,
            SsoSession.amr,
            SsoSession.expires_at,
            SamlServiceProvider.application_id,
            SamlServiceProvider.entity_id,
            Person.email,
            SessionParticipant.id.label("participant_id"),
            SessionParticipant.sid,
            SessionParticipant.name_id,
            SessionParticipant.name_id_format,
            SessionParticipant.ended_at.label("participant_ended_at"),
            refusal(criteria),
        )
        .join(Principal, Principal.id == SsoSession.principal_id)
        .join(Person, Person.id == SsoSession.principal_id)
        .join(SamlServiceProvider, SamlServiceProvider.id == provider_id)
        .join(Application, Application.id == SamlServiceProvider.application_id)
        .outerjoin(
            SessionParticipant,
            and_(
                SessionParticipant.session_id == SsoSession.id,
                SessionParticipant.service_provider_id == SamlServiceProvider.id,
            ),
        )
        .where(SsoSession.id == session_id)
    )
    return session.execute(statement).mappings().first()


def _name_id(session: Session, row: Any, request: AssertionRequest, now: datetime) -> str | None:
    if request.name_id_kind == "persistent":
        # SAML Core 8.3.7: pairwise; made on first use, kept for ever, never another person's.
        sector = f"saml:{request.service_provider_id}"
        return subject_of(session, row["principal_id"], sector, now=now)
    if request.name_id_kind == "transient":
        # SAML Core 8.3.8: another one in every session; within one, logout must know it again.
        is_known = row["participant_ended_at"] is None and row["name_id_format"] == request.name_id_format
        return row["name_id"] if is_known and row["name_id"] else f"_{secrets.token_hex(20)}"
    if request.name_id_kind == "email":
        return row["email"] or None
    return request.employee_number


def _join(
    session: Session, row: Any, session_id: str, request: AssertionRequest, name_id: str, now: datetime
) -> tuple[str, bool]:
    """SessionIndex of the service provider in this session, and whether it is new. The principal's row is locked."""
    named = {"name_id": name_id, "name_id_format": request.name_id_format}
    if row["participant_id"] is None:
        session_index = f"_{secrets.token_hex(20)}"
        session.execute(
            insert(SessionParticipant).values(
                id=new_id("par"),
                session_id=session_id,
                principal_id=row["principal_id"],
                application_id=row["application_id"],
                client_id=None,
                service_provider_id=request.service_provider_id,
                sid=session_index,
                sub="",
                joined_at=now,
                last_used_at=now,
                # Its own session may last as long as the assertion lets it (SessionNotOnOrAfter): the residual.
                token_expires_at=row["expires_at"],
                ended_at=None,
                **named,
            )
        )
        return session_index, True
    used: dict[str, Any] = {"last_used_at": now, "token_expires_at": row["expires_at"], **named}
    has_returned = row["participant_ended_at"] is not None
    if has_returned:
        # It was told that this session is over: it comes back under another name.
        used |= {"sid": f"_{secrets.token_hex(20)}", "joined_at": now, "ended_at": None}
    session.execute(update(SessionParticipant).where(SessionParticipant.id == row["participant_id"]).values(**used))
    return used.get("sid", row["sid"]), has_returned


def _note(
    session: Session, row: Any, session_id: str, request: AssertionRequest, *, has_joined: bool, now: datetime
) -> None:
    issued = Event(
        type=EventType.ASSERTION_ISSUED,
        at=now,
        actor=Actor(kind="person", id=row["principal_id"], session_id=session_id, ip=request.ip),
        door=request.door,
        target_kind="service_provider",
        target_id=request.service_provider_id,
        request_id=request.request_id,
        person_id=row["principal_id"],
        application_id=row["application_id"],
        details={
            "name_id": request.name_id_kind,
            "solicited": request.in_response_to is not None,
            "joined": has_joined,
        },
    )
    record(session, [issued])


def is_first_use(session: Session, service_provider_id: str, request_id: str, *, expires_at: datetime) -> bool:
    """Remember the ID of a service provider's request; False when it was seen before, by whichever process.

    One conditional insert: of two that come at once exactly one is the first.
    """
    key = hashlib.sha256(f"{service_provider_id}\0{request_id}".encode()).hexdigest()
    statement = upsert(session, SamlRequest).values(key=key, expires_at=expires_at)
    inserted = session.execute(statement.on_conflict_do_nothing(index_elements=["key"]).returning(SamlRequest.key))
    return inserted.first() is not None
