"""Issuing an authorization code: the moment when an application joins a session."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from idhub.changes import Actor, Event, EventType
from idhub.credentials import opaque
from idhub.credentials.operations import LOCK_SESSION, Operation, Row, Step, record, run_in, together
from idhub.credentials.predicate import Refused, first_failing
from idhub.credentials.sessions import Epochs
from idhub.credentials.statements_browser import PUBLIC_SECTOR
from idhub.db import new_id
from idhub.entropy import random_bytes
from idhub.settings import Settings

__all__ = ["PUBLIC_SECTOR", "CodeRequest", "issue_code", "issuing_code", "subject_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeRequest:
    """What a code is bound to. All values have been checked against the client's registration."""

    client_id: str
    redirect_uri: str
    code_challenge: str
    scope: str
    nonce: str | None
    ip: str | None
    request_id: str | None = None


def issue_code(
    session: Session, session_id: str, request: CodeRequest, *, now: datetime, settings: Settings
) -> str | Refused:
    """`issuing_code`, in the caller's transaction."""
    return run_in(session, issuing_code(session_id, request, now=now, settings=settings))


def issuing_code(
    session_id: str, request: CodeRequest, *, now: datetime, settings: Settings
) -> Operation[str | Refused]:
    """Issue a code under the session and return its value, or say which criterion of the use predicate failed.

    Locks the principal, then the session's row, and only then asks the predicate: a transition or a logout that began
    before is seen here, one that begins later sees the participant written here. The grant is stamped with the
    session's epochs, which were read before the password was checked.
    """
    check = {"session_id": session_id, "client_id": request.client_id, "now": now}
    _, rows = yield together((LOCK_SESSION, {"session_id": session_id}), ("code.check", check))
    if not rows:
        return Refused("session_ended")
    yield "session.extend", {"session_id": session_id, "idle_expires_at": now + settings.session_idle, "now": now}
    row = rows[0]
    refused = first_failing(row)
    if refused is not None:
        return refused
    return (yield from _issuing(row, session_id, str(row["principal_id"]), request, now, settings))


def asking_entry(principal_id: str, client_id: str, *, now: datetime) -> Step:
    """What the database is asked before `issuing_first_code`; `entry_of` reads the answer."""
    return "code.enter", {"principal_id": principal_id, "client_id": client_id, "now": now}


def entry_of(rows: Sequence[Row]) -> Row | Refused:
    """What `issuing_first_code` goes by, or the criterion that fails: client, application or entitlement."""
    if not rows:
        return Refused("client_disabled")
    return first_failing(rows[0]) or rows[0]


def issuing_first_code(
    entry: Row,
    session_id: str,
    request: CodeRequest,
    *,
    principal_id: str,
    epochs: Epochs,
    now: datetime,
    settings: Settings,
) -> Operation[str]:
    """Issue a code in the transaction that starts its session: the principal is locked there and was found to be
    allowed to act with these epochs.

    Args:
        entry: of `entry_of`, as it is in this transaction.
    """
    row = {
        **entry,
        "access_epoch": epochs.access,
        "enrolment_epoch": epochs.enrolment,
        "installation_epoch": epochs.installation,
        "authenticated_at": now,
        "participant_id": None,
    }
    return (yield from _issuing(row, session_id, principal_id, request, now, settings))


def _issuing(
    row: Row, session_id: str, principal_id: str, request: CodeRequest, now: datetime, settings: Settings
) -> Operation[str]:
    sub = row["sub"]
    if sub is None:
        sub = yield from _subject(principal_id, row["sector"], now)
    participant_id, has_joined = yield from _join(row, session_id, principal_id, request.client_id, sub, now)
    grant_id, code = new_id("grt"), opaque.make("ac")
    yield (
        "grant.issue",
        {
            "id": grant_id,
            "principal_id": principal_id,
            "client_id": request.client_id,
            "application_id": row["application_id"],
            "session_id": session_id,
            "participant_id": participant_id,
            "scope": request.scope,
            "access_epoch": row["access_epoch"],
            "enrolment_epoch": row["enrolment_epoch"],
            "installation_epoch": row["installation_epoch"],
            "authenticated_at": row["authenticated_at"],
            "created_at": now,
            "ended_at": None,
            "end_reason": None,
        },
    )
    yield (
        "code.insert",
        {
            "code_hash": opaque.hash_of(code),
            "grant_id": grant_id,
            "client_id": request.client_id,
            "redirect_uri": request.redirect_uri,
            "code_challenge": request.code_challenge,
            "nonce": request.nonce,
            "expires_at": now + settings.code_lifetime,
            "spent_at": None,
        },
    )
    issued = Event(
        type=EventType.CODE_ISSUED,
        at=now,
        actor=Actor(kind="person", id=principal_id, session_id=session_id, ip=request.ip),
        door="oidc",
        target_kind="client",
        target_id=request.client_id,
        request_id=request.request_id,
        person_id=principal_id,
        application_id=row["application_id"],
        details={"grant": grant_id, "scope": request.scope, "joined": has_joined},
    )
    yield record([issued])
    return code


def subject_of(session: Session, principal_id: str, sector: str, *, now: datetime) -> str:
    """The `sub` of the principal towards a sector, made on first use and kept for ever (OIDC Core section 8)."""
    return run_in(session, _subject(principal_id, sector, now))


def _subject(principal_id: str, sector: str, now: datetime) -> Operation[str]:
    who = {"principal_id": principal_id, "sector": sector}
    found = yield "subject.find", who
    if not found:
        # Not a client_id by any registration (RFC 9700 section 4.15): 160 random bits.
        made = {"sub": secrets.token_hex(20), "is_active": True, "created_at": now}
        yield "subject.insert", {**who, **made}
        found = yield "subject.find", who
    sub: str = found[0]["sub"]
    return sub


def _join(
    row: Row, session_id: str, principal_id: str, client_id: str, sub: str, now: datetime
) -> Operation[tuple[str, bool]]:
    """The participant row of this client in this session, alive; and whether it is new. The session's row is locked."""
    participant_id: str | None = row["participant_id"]
    if participant_id is None:
        participant_id = new_id("par")
        yield (
            "participant.insert",
            {
                "id": participant_id,
                "session_id": session_id,
                "principal_id": principal_id,
                "application_id": row["application_id"],
                "client_id": client_id,
                "sid": random_bytes(20).hex(),
                "sub": sub,
                "service_provider_id": None,
                "name_id": None,
                "name_id_format": None,
                "cas_service_id": None,
                "service_url": None,
                "joined_at": now,
                "last_used_at": now,
                "token_expires_at": None,
                "ended_at": None,
            },
        )
        return participant_id, True
    if row["participant_ended_at"] is None:
        yield "participant.use", {"participant_id": participant_id, "now": now}
        return participant_id, False
    # It was told that this session is over and may remember that: it comes back under another name.
    yield "participant.return", {"participant_id": participant_id, "sid": secrets.token_hex(20), "now": now}
    return participant_id, True
