"""Which OIDC clients must be told that a session has ended: deliveries of `backchannel_logout`. Sends nothing."""

from datetime import timedelta
from typing import Final

from idhub.credentials.participants import Protocol
from idhub.credentials.sessions import LOGOUT_CHANNELS
from idhub.lifecycle.logouts import LogoutPlanner

CHANNEL: Final = LOGOUT_CHANNELS["oidc"]


class BackchannelPlanner(LogoutPlanner):
    """Plans the `backchannel_logout` channel."""

    protocol: Protocol = "oidc"

    def exposure(self, *, is_told: bool, left: timedelta | None) -> timedelta | None:
        """An application that is told stops when its access tokens have; of another nobody knows."""
        return max(left or timedelta(), self._attempt_deadline) if is_told else None
