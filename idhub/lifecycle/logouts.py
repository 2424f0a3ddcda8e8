"""Which applications must be told that a session has ended: logout deliveries, whatever protocol. Sends nothing."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from idhub.credentials.participants import LOGOUT_URI, Protocol, of_protocol, with_registrations
from idhub.credentials.revoke import EndedParticipant
from idhub.credentials.sessions import LOGOUT_CHANNELS, logout_delivery
from idhub.credentials.tables import SessionParticipant
from idhub.delivery import queue
from idhub.delivery.channel import Grade, PlannedDelivery
from idhub.lifecycle.ports import ApplicationTerms, Batch, PreviewRow

CEILING = Grade.E1
"""An application says that it ended its session: its word, no look at its own access."""


def plan_logout(
    participant: EndedParticipant, *, now: datetime, case_id: str | None = None, terms: ApplicationTerms | None = None
) -> PlannedDelivery | None:
    """The delivery that tells one application of one ended session; None when it has no address for it."""
    if participant.logout_uri is None:
        return None
    return logout_delivery(
        participant,
        now=now,
        case_id=case_id,
        required_grade=terms.required(CEILING) if terms else CEILING,
        deadline_at=now + terms.revocation_deadline if terms else None,
    )


def tell_participants(session: Session, participants: Sequence[EndedParticipant], *, now: datetime) -> list[str]:
    """Plan the logout deliveries of sessions that ended otherwise than by a transition. Returns delivery ids."""
    planned = [plan_logout(participant, now=now) for participant in participants]
    return queue.plan(session, [delivery for delivery in planned if delivery is not None], now=now)


class LogoutPlanner(ABC):
    """Plans and previews the logouts of one protocol.

    Args:
        attempt_deadline: total deadline of one attempt: what an application that is told may take.
    """

    protocol: Protocol
    ceiling = CEILING

    def __init__(self, attempt_deadline: timedelta) -> None:
        self._attempt_deadline = attempt_deadline
        self._taking_part = with_registrations(
            select(
                SessionParticipant.application_id,
                SessionParticipant.id,
                SessionParticipant.token_expires_at,
                LOGOUT_URI,
            )
            .where(
                SessionParticipant.principal_id == bindparam("whose"),
                SessionParticipant.ended_at.is_(None),
                of_protocol(self.protocol),
            )
            .order_by(SessionParticipant.application_id, SessionParticipant.id)
        )

    @property
    def channel(self) -> str:
        """Name of the channel."""
        return LOGOUT_CHANNELS[self.protocol]

    @abstractmethod
    def exposure(self, *, is_told: bool, left: timedelta | None) -> timedelta | None:
        """Worst case until a session at the application is over; None: unknown.

        Args:
            left: how much longer it may go on by itself; None: nothing is known of that.
        """

    def plan(self, session: Session, batch: Batch, *, now: datetime) -> list[PlannedDelivery]:
        """One logout per application of the protocol that used a session which ended, or whose entitlement is gone."""
        planned = [
            plan_logout(
                participant,
                now=now,
                case_id=batch.cases.get(participant.principal_id),
                terms=batch.terms.get(participant.application_id),
            )
            for participant in batch.participants
            if participant.protocol == self.protocol
        ]
        return [delivery for delivery in planned if delivery is not None]

    def preview(self, session: Session, principal_id: str, *, now: datetime) -> list[PreviewRow]:
        """One row per application of the protocol that a session of the person is in."""
        rows = session.connection().execute(self._taking_part, {"whose": principal_id})
        held = {hold.application_id for hold in queue.holds(session)}
        preview = []
        for application_id, _, ends_at, logout_uri in rows:
            is_told, is_held = logout_uri is not None, application_id in held
            left = max(ends_at - now, timedelta()) if ends_at else None
            preview.append(
                PreviewRow(
                    application_id=application_id,
                    channel=self.channel if is_told else "none",
                    action="end_sessions",
                    ceiling=CEILING if is_told else Grade.E0,
                    exposure=None if is_held else self.exposure(is_told=is_told, left=left),
                    notes=[note for note, applies in (("not_told", not is_told), ("held", is_held)) if applies],
                )
            )
        return preview
