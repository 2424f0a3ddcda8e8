"""Which applications must be told that a session has ended: deliveries of back-channel logout. Sends nothing."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from idhub.access.tables import OidcClient
from idhub.credentials.revoke import EndedParticipant
from idhub.credentials.sessions import LOGOUT_CHANNEL, logout_delivery
from idhub.credentials.tables import SessionParticipant
from idhub.delivery import queue
from idhub.delivery.channel import Grade, PlannedDelivery
from idhub.lifecycle.ports import ApplicationTerms, Batch, PreviewRow

CHANNEL = LOGOUT_CHANNEL
CEILING = Grade.E1
_TAKING_PART = (
    select(
        SessionParticipant.application_id,
        SessionParticipant.id,
        SessionParticipant.token_expires_at,
        OidcClient.backchannel_logout_uri,
    )
    .join(OidcClient, OidcClient.client_id == SessionParticipant.client_id)
    .where(SessionParticipant.principal_id == bindparam("whose"), SessionParticipant.ended_at.is_(None))
    .order_by(SessionParticipant.application_id, SessionParticipant.id)
)


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


class BackchannelPlanner:
    """Plans the `backchannel_logout` channel."""

    channel = CHANNEL
    ceiling = CEILING

    def __init__(self, attempt_deadline: timedelta) -> None:
        self._attempt_deadline = attempt_deadline

    def plan(self, session: Session, batch: Batch, *, now: datetime) -> list[PlannedDelivery]:
        """One logout per application that used a session or grant which ended."""
        planned = [
            plan_logout(
                participant,
                now=now,
                case_id=batch.cases.get(participant.principal_id),
                terms=batch.terms.get(participant.application_id),
            )
            for participant in batch.participants
            if participant.service_provider_id is None
        ]
        return [delivery for delivery in planned if delivery is not None]

    def preview(self, session: Session, principal_id: str, *, now: datetime) -> list[PreviewRow]:
        """One row per application that a session of the person is in."""
        rows = session.connection().execute(_TAKING_PART, {"whose": principal_id})
        held = {hold.application_id for hold in queue.holds(session)}
        preview = []
        for application_id, _, token_expires_at, logout_uri in rows:
            residual = max(token_expires_at - now, timedelta()) if token_expires_at else timedelta()
            told = logout_uri is not None
            notes = [note for note, applies in (("not_told", not told), ("held", application_id in held)) if applies]
            preview.append(
                PreviewRow(
                    application_id=application_id,
                    channel=CHANNEL if told else "none",
                    action="end_sessions",
                    ceiling=CEILING if told else Grade.E0,
                    exposure=None if notes else max(residual, self._attempt_deadline),
                    notes=notes,
                )
            )
        return preview
