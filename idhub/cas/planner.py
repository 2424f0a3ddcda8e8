"""Which CAS applications must be told that a session has ended: deliveries of `cas_logout`. Sends nothing."""

from datetime import timedelta
from typing import Final

from idhub.credentials.participants import Protocol
from idhub.credentials.sessions import LOGOUT_CHANNELS
from idhub.lifecycle.logouts import LogoutPlanner

CHANNEL: Final = LOGOUT_CHANNELS["cas"]


class CasPlanner(LogoutPlanner):
    """Plans the `cas_logout` channel."""

    protocol: Protocol = "cas"

    def exposure(self, *, is_told: bool, left: timedelta | None) -> timedelta | None:
        """An answer says nothing of when its session ends: without a message, nobody knows."""
        return self._attempt_deadline if is_told else None
