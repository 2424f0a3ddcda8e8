"""Logouts that the browser itself carries: to SAML applications one after the other (SAML Profiles 4.4), to clean-up
addresses of WS-Federation all at once (WS-Federation 13.2.4).

Rows of `saml_logouts` say which applications wait, which were visited and how each took it; what nobody confirmed is
never called done. A clean-up address confirms nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from idhub.access.tables import SamlServiceProvider
from idhub.changes import Actor, Event, EventType, record
from idhub.credentials import transactions
from idhub.credentials.revoke import EndedParticipant
from idhub.credentials.tables import SamlLogout, SessionParticipant
from idhub.saml.messages import new_id
from idhub.settings import Settings
from providers.saml_wire import names

State = Literal["waiting", "sent", "done", "failed"]
VISITED_BINDINGS = (names.POST, names.REDIRECT)
"""Bindings of a browser, in the order in which they are preferred."""
_CARRIED: Final = frozenset({*VISITED_BINDINGS, names.WSFED})


@dataclass(frozen=True, slots=True)
class Visit:
    """One application that the browser goes to."""

    request_id: str
    service_provider_id: str
    name_id: str
    name_id_format: str
    session_index: str


def plan_visits(session: Session, ended: Sequence[EndedParticipant], *, session_id: str, now: datetime) -> int:
    """Note which of the ended participants only the browser can tell; returns how many there are."""
    found = {p.service_provider_id: p for p in ended if p.service_provider_id is not None and p.logout_uri is None}
    if not found:
        return 0
    providers = session.execute(
        select(SamlServiceProvider.id, SamlServiceProvider.logout_services).where(SamlServiceProvider.id.in_(found))
    )
    visited = [
        found[row.id].id for row in providers if any(service["binding"] in _CARRIED for service in row.logout_services)
    ]
    by_id = {p.id: p for p in ended}
    rows = [
        {
            "request_id": new_id(),
            "session_id": session_id,
            "participant_id": participant_id,
            "service_provider_id": by_id[participant_id].service_provider_id,
            "state": "waiting",
            "created_at": now,
            "changed_at": now,
        }
        for participant_id in sorted(visited)
    ]
    if rows:
        session.execute(insert(SamlLogout), rows)
    return len(rows)


def begin_chain(
    session: Session, request: dict[str, Any], browser_token: str, *, now: datetime, settings: Settings
) -> str:
    """Store where the visits stand and where they lead; returns the transaction that the browser goes on with.

    Args:
        request: `session_ids` whose visits these are; `return_to`, a path of ours, or `initiator` and `in_response_to`
            (with `relay_state`): whom the outcome is answered to.
    """
    return transactions.begin(
        session, protocol="saml_logout", browser_token=browser_token, request=request, now=now, settings=settings
    )


def next_visit(session: Session, session_ids: Sequence[str], *, now: datetime) -> Visit | None:
    """Take the next application that waits; it counts as visited from here on. None when there is none left."""
    while True:
        row = session.execute(
            select(
                SamlLogout.request_id,
                SamlLogout.service_provider_id,
                SessionParticipant.name_id,
                SessionParticipant.name_id_format,
                SessionParticipant.sid,
            )
            .join(SessionParticipant, SessionParticipant.id == SamlLogout.participant_id)
            .join(SamlServiceProvider, SamlServiceProvider.id == SamlLogout.service_provider_id)
            .where(
                SamlLogout.session_id.in_(session_ids),
                SamlLogout.state == "waiting",
                SamlServiceProvider.protocol == "saml",
            )
            .order_by(SamlLogout.request_id)
            .limit(1)
        ).first()
        if row is None:
            return None
        if _move(session, row.request_id, "waiting", "sent", now=now):
            return Visit(row.request_id, row.service_provider_id, row.name_id or "", row.name_id_format or "", row.sid)


def take_cleanups(session: Session, session_ids: Sequence[str], *, now: datetime) -> list[str]:
    """Clean-up addresses that the browser has not called yet; they count as called from here on."""
    rows = session.execute(
        select(SamlLogout.request_id, SamlServiceProvider.logout_services)
        .join(SamlServiceProvider, SamlServiceProvider.id == SamlLogout.service_provider_id)
        .where(
            SamlLogout.session_id.in_(session_ids),
            SamlLogout.state == "waiting",
            SamlServiceProvider.protocol == "wsfed",
        )
    ).all()
    addresses: dict[str, None] = {}
    for row in rows:
        if _move(session, row.request_id, "waiting", "sent", now=now):
            found = [one["location"] for one in row.logout_services if one["binding"] == names.WSFED]
            addresses |= dict.fromkeys(_cleanup(one) for one in found)
            if not found:
                give_up(session, row.request_id, now=now)
    return list(addresses)


def _cleanup(address: str) -> str:
    return f"{address}{'&' if '?' in address else '?'}wa=wsignoutcleanup1.0"


def confirm(session: Session, request_id: str, service_provider_id: str, *, is_success: bool, now: datetime) -> bool:
    """Note how an application took its logout; False when it was not asked, or has answered before."""
    found = session.execute(
        select(SamlLogout.session_id, SessionParticipant.principal_id, SessionParticipant.application_id)
        .join(SessionParticipant, SessionParticipant.id == SamlLogout.participant_id)
        .where(SamlLogout.request_id == request_id, SamlLogout.service_provider_id == service_provider_id)
    ).first()
    if found is None or not _move(session, request_id, "sent", "done" if is_success else "failed", now=now):
        return False
    note_answer(
        session, service_provider_id, found.principal_id, found.application_id, found.session_id,
        is_success=is_success, now=now,
    )  # fmt: skip
    return True


def give_up(session: Session, request_id: str, *, now: datetime) -> None:
    """Nothing can be sent to it after all."""
    _move(session, request_id, "sent", "failed", now=now)


def note_answer(
    session: Session,
    service_provider_id: str,
    principal_id: str,
    application_id: str,
    session_id: str,
    *,
    is_success: bool,
    now: datetime,
) -> None:
    """Record what an application said of a logout."""
    answered = Event(
        type=EventType.LOGOUT_ANSWERED,
        at=now,
        actor=Actor(kind="client", id=service_provider_id),
        door="saml",
        target_kind="session",
        target_id=session_id,
        outcome="success" if is_success else "failure",
        reason=None if is_success else "saml.logout_refused",
        person_id=principal_id,
        application_id=application_id,
        details={"service_provider": service_provider_id},
    )
    record(session, [answered])


def is_whole(session: Session, session_ids: Sequence[str]) -> bool:
    """Whether every application that had to be visited has confirmed."""
    open_ones = select(SamlLogout.request_id).where(SamlLogout.session_id.in_(session_ids), SamlLogout.state != "done")
    return session.execute(open_ones.limit(1)).first() is None


def _move(session: Session, request_id: str, before: State, after: State, *, now: datetime) -> bool:
    moved = session.execute(
        update(SamlLogout)
        .where(SamlLogout.request_id == request_id, SamlLogout.state == before)
        .values(state=after, changed_at=now)
        .returning(SamlLogout.request_id)
    ).first()
    return moved is not None
