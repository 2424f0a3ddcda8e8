"""Which service providers must be told that a session has ended: deliveries of `saml_logout`. Sends nothing."""

from datetime import timedelta
from typing import Final

from idhub.credentials.participants import Protocol
from idhub.credentials.sessions import LOGOUT_CHANNELS
from idhub.lifecycle.logouts import LogoutPlanner

CHANNEL: Final = LOGOUT_CHANNELS["saml"]


class SamlPlanner(LogoutPlanner):
    """Plans the `saml_logout` channel: service providers that take a logout by SOAP.

    One that only a browser can tell goes on until its own session ends: nobody's browser is at hand at a leave.
    """

    protocol: Protocol = "saml"

    def exposure(self, *, is_told: bool, left: timedelta | None) -> timedelta | None:
        """Without a message its session ends when the assertion said (SessionNotOnOrAfter)."""
        return self._attempt_deadline if is_told else left
