"""CAS service tickets: issued to an application's address, spent once by whoever serves it; then it has joined."""

import secrets
import string
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from idhub.access.tables import Application, CasService
from idhub.changes import Actor, Event, EventType, record
from idhub.credentials import opaque
from idhub.credentials.codes import subject_of
from idhub.credentials.naming import is_somebody_elses
from idhub.credentials.predicate import Refused, entitled, first_failing, refusal, session_criteria
from idhub.credentials.sessions import hold_for_entry
from idhub.credentials.tables import ServiceTicket, SessionParticipant, SsoSession
from idhub.db import new_id
from idhub.directory.tables import Employment, Person, Principal
from idhub.settings import Settings

TICKET_LIFETIME: Final = timedelta(seconds=30)
"""A browser is sent on, an application asks at once: more is only time for whoever stole it."""
_PREFIX: Final = "ST-"
_ALPHABET: Final = string.ascii_letters + string.digits
_RANDOM: Final = 23
"""Letters: 136 random bits. With prefix and checksum 32 characters, which every client must take (CAS 3.1.1)."""
_CHECKSUM: Final = 6


def make_ticket() -> str:
    """A new service ticket. CAS 3.1, 3.7."""
    random = "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM))
    return f"{_PREFIX}{random}{_checksum(random)}"


def looks_like_ticket(value: str) -> bool:
    """Whether it has the form of a service ticket; says nothing about whether it was ever given out."""
    if len(value) != len(_PREFIX) + _RANDOM + _CHECKSUM or not value.startswith(_PREFIX) or not value.isascii():
        return False
    body = value[len(_PREFIX) :]
    return body.isalnum() and _checksum(body[:_RANDOM]) == body[_RANDOM:]


def _checksum(random: str) -> str:
    number, letters = zlib.crc32(b"ST" + random.encode()), []
    for _ in range(_CHECKSUM):
        number, rest = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[rest])
    return "".join(letters)


@dataclass(frozen=True, kw_only=True, slots=True)
class TicketRequest:
    """What a ticket is bound to. The address has been checked against the registration.

    Args:
        is_fresh: the person signed in for this very request.
    """

    service_id: str
    service_url: str
    is_fresh: bool
    ip: str | None
    request_id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Validated:
    """Who came with a ticket.

    Args:
        user: what the application calls the person.
        released: name in the answer -> name of a value of the person.
    """

    user: str
    principal_id: str
    application_id: str
    released: Mapping[str, str]
    authenticated_at: datetime
    is_fresh: bool


@dataclass(frozen=True, slots=True)
class TicketRefused:
    """A ticket that was not believed.

    Args:
        reason: stable code for the audit log: `request_malformed`, `ticket_unknown`, `ticket_expired`,
            `ticket_replayed`, `wrong_service`, `not_fresh`, beside those of `issue_ticket`.
        service_id: whose ticket it was, where it was one.
        principal_id: whose sign-in it was; given the one time that a ticket goes from good to useless.
    """

    reason: str
    service_id: str | None = None
    principal_id: str | None = None
    application_id: str | None = None


def issue_ticket(
    session: Session, session_id: str, request: TicketRequest, *, now: datetime, settings: Settings
) -> str | Refused:
    """Issue a ticket under the session and return it, or say which criterion of the use predicate failed.

    Reasons beside the predicate's: `no_user`: the person has no value to be called by; `ambiguous_user`: another
    person who may enter has the same.
    """
    if not hold_for_entry(session, session_id, now=now, settings=settings):
        return Refused("session_ended")
    row = _facts(session, session_id, request.service_id, now)
    if row is None:
        return Refused("client_disabled")
    refused = first_failing(row) or _nameless(_user(session, row, now))
    if refused is not None:
        return refused
    ticket = make_ticket()
    session.execute(
        insert(ServiceTicket).values(
            ticket_hash=opaque.hash_of(ticket),
            session_id=session_id,
            service_id=request.service_id,
            service_url=request.service_url,
            is_fresh=request.is_fresh,
            expires_at=now + TICKET_LIFETIME,
            spent_at=None,
        )
    )
    issued = Event(
        type=EventType.TICKET_ISSUED,
        at=now,
        actor=Actor(kind="person", id=row["principal_id"], session_id=session_id, ip=request.ip),
        door="cas",
        target_kind="cas_service",
        target_id=request.service_id,
        request_id=request.request_id,
        person_id=row["principal_id"],
        application_id=row["application_id"],
        details={"is_fresh": request.is_fresh},
    )
    record(session, [issued])
    return ticket


def validate_ticket(
    session: Session,
    ticket: str,
    service_url: str,
    *,
    must_be_fresh: bool,
    ip: str | None,
    request_id: str | None,
    now: datetime,
    settings: Settings,
) -> Validated | TicketRefused:
    """Spend a ticket and say who came with it; the application has joined the session from here on.

    The ticket is spent by one conditional UPDATE before anything is looked at, so of several that ask at once one at
    most succeeds, and one that asks with a wrong address has used it up (CAS 2.5.3: MUST invalidate).
    """
    ticket_hash = opaque.hash_of(ticket)
    spent = session.execute(
        update(ServiceTicket)
        .where(
            ServiceTicket.ticket_hash == ticket_hash, ServiceTicket.spent_at.is_(None), ServiceTicket.expires_at > now
        )
        .values(spent_at=now)
        .returning(
            ServiceTicket.session_id, ServiceTicket.service_id, ServiceTicket.service_url, ServiceTicket.is_fresh
        )
    ).first()
    if spent is None:
        known = session.execute(
            select(ServiceTicket.service_id, ServiceTicket.spent_at).where(ServiceTicket.ticket_hash == ticket_hash)
        ).first()
        if known is None:
            return TicketRefused("ticket_unknown")
        return TicketRefused("ticket_expired" if known.spent_at is None else "ticket_replayed", known.service_id)
    # Its session's owner: named in what is recorded, whatever becomes of it.
    is_there = hold_for_entry(session, spent.session_id, now=now, settings=settings)
    row = _facts(session, spent.session_id, spent.service_id, now) if is_there else None
    if row is None:
        return TicketRefused("session_ended", spent.service_id)

    def refused(reason: str) -> TicketRefused:
        return TicketRefused(reason, spent.service_id, row["principal_id"], row["application_id"])

    if spent.service_url != service_url:
        return refused("wrong_service")
    if must_be_fresh and not spent.is_fresh:
        return refused("not_fresh")
    user = _user(session, row, now)
    failing = first_failing(row) or _nameless(user)
    if failing is not None:
        return refused(failing.reason)
    _join(session, row, ticket, spent, ip=ip, request_id=request_id, now=now)
    return Validated(
        user=str(user),
        principal_id=row["principal_id"],
        application_id=row["application_id"],
        released=row["attributes"],
        authenticated_at=row["authenticated_at"],
        is_fresh=spent.is_fresh,
    )


def _facts(session: Session, session_id: str, service_id: str, now: datetime) -> Any:
    criteria = {
        **session_criteria(now),
        "client_disabled": CasService.is_enabled.is_(True),
        "application_disabled": Application.is_enabled.is_(True),
        "not_entitled": entitled(now, principal_id=SsoSession.principal_id, application_id=CasService.application_id),
    }
    statement = (
        select(
            SsoSession.principal_id,
            SsoSession.authenticated_at,
            CasService.id.label("service_id"),
            CasService.application_id,
            CasService.user_value,
            CasService.attributes,
            Person.email,
            Employment.employee_number,
            refusal(criteria),
        )
        .join(Principal, Principal.id == SsoSession.principal_id)
        .join(Person, Person.id == SsoSession.principal_id)
        .outerjoin(Employment, Employment.id == Person.main_employment_id)
        .join(CasService, CasService.id == service_id)
        .join(Application, Application.id == CasService.application_id)
        .where(SsoSession.id == session_id)
    )
    return session.execute(statement).mappings().first()


def _user(session: Session, row: Any, now: datetime) -> str | Refused:
    """What the application calls the person."""
    if row["user_value"] == "pairwise":
        # As a persistent name of SAML: made on first use, kept for ever, never another person's.
        return subject_of(session, row["principal_id"], f"cas:{row['service_id']}", now=now)
    value: str | None = row[row["user_value"]]
    if not value:
        return Refused("no_user")
    if is_somebody_elses(
        session,
        row["user_value"],
        value,
        principal_id=row["principal_id"],
        application_id=row["application_id"],
        now=now,
    ):
        return Refused("ambiguous_user")
    return value


def _nameless(user: str | Refused) -> Refused | None:
    return user if isinstance(user, Refused) else None


def _join(
    session: Session, row: Any, ticket: str, spent: Any, *, ip: str | None, request_id: str | None, now: datetime
) -> None:
    session.execute(
        insert(SessionParticipant).values(
            id=new_id("par"),
            session_id=spent.session_id,
            principal_id=row["principal_id"],
            application_id=row["application_id"],
            client_id=None,
            service_provider_id=None,
            cas_service_id=spent.service_id,
            service_url=spent.service_url,
            # Spent, so no secret any more: the name by which the application knows its own session (CAS 2.3.3).
            sid=ticket,
            sub="",
            joined_at=now,
            last_used_at=now,
            # How long it goes on by itself, the application alone knows.
            token_expires_at=None,
            ended_at=None,
        )
    )
    validated = Event(
        type=EventType.TICKET_VALIDATED,
        at=now,
        actor=Actor(kind="client", id=spent.service_id, ip=ip),
        door="cas",
        target_kind="cas_service",
        target_id=spent.service_id,
        request_id=request_id,
        person_id=row["principal_id"],
        application_id=row["application_id"],
        details={"session": spent.session_id},
    )
    record(session, [validated])
