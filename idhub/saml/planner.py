"""Which service providers must be told that a session has ended: deliveries of `saml_logout`. Sends nothing."""

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from idhub.access.tables import SamlServiceProvider
from idhub.credentials.sessions import SAML_LOGOUT_CHANNEL, logout_delivery
from idhub.credentials.tables import SessionParticipant
from idhub.delivery import queue
from idhub.delivery.channel import Grade, PlannedDelivery
from idhub.lifecycle.ports import Batch, PreviewRow

CHANNEL: Final = SAML_LOGOUT_CHANNEL
CEILING: Final = Grade.E1
_TAKING_PART = (
    select(
        SessionParticipant.application_id,
        SessionParticipant.id,
        SessionParticipant.token_expires_at,
        SamlServiceProvider.soap_logout_url,
    )
    .join(SamlServiceProvider, SamlServiceProvider.id == SessionParticipant.service_provider_id)
    .where(SessionParticipant.principal_id == bindparam("whose"), SessionParticipant.ended_at.is_(None))
    .order_by(SessionParticipant.application_id, SessionParticipant.id)
)


class SamlPlanner:
    """Plans the `saml_logout` channel: service providers that take a logout by SOAP."""

    channel = CHANNEL
    ceiling = CEILING

    def __init__(self, attempt_deadline: timedelta) -> None:
        self._attempt_deadline = attempt_deadline

    def plan(self, session: Session, batch: Batch, *, now: datetime) -> list[PlannedDelivery]:
        """One logout per service provider that used a session which ended, or whose entitlement is gone."""
        planned = []
        for participant in batch.participants:
            if participant.service_provider_id is None or participant.logout_uri is None:
                continue
            terms = batch.terms.get(participant.application_id)
            planned.append(
                logout_delivery(
                    participant,
                    now=now,
                    case_id=batch.cases.get(participant.principal_id),
                    required_grade=terms.required(CEILING) if terms else CEILING,
                    deadline_at=now + terms.revocation_deadline if terms else None,
                )
            )
        return planned

    def preview(self, session: Session, principal_id: str, *, now: datetime) -> list[PreviewRow]:
        """One row per service provider that a session of the person is in.

        One that only a browser can tell goes on until its own session ends: nobody's browser is at hand at a leave.
        """
        rows = session.connection().execute(_TAKING_PART, {"whose": principal_id})
        held = {hold.application_id for hold in queue.holds(session)}
        preview = []
        for application_id, _, ends_at, soap_logout_url in rows:
            told = soap_logout_url is not None
            notes = [note for note, applies in (("not_told", not told), ("held", application_id in held)) if applies]
            left = max(ends_at - now, timedelta()) if ends_at else None
            preview.append(
                PreviewRow(
                    application_id=application_id,
                    channel=CHANNEL if told else "none",
                    action="end_sessions",
                    ceiling=CEILING if told else Grade.E0,
                    # Without a message its session ends when the assertion said (SessionNotOnOrAfter).
                    exposure=None if "held" in notes else self._attempt_deadline if told else left,
                    notes=notes,
                )
            )
        return preview
