"""Errors of OAuth and OpenID Connect: a code of the specifications, a sentence for the other side, a cause for us."""

from typing import Final

_STATUS: Final = {
    "invalid_client": 401,
    "invalid_token": 401,
    "insufficient_scope": 403,
    "server_error": 500,
    "temporarily_unavailable": 503,
    "slow_down": 429,
}


class OAuthError(Exception):
    """A refusal in the words of RFC 6749 sections 4.1.2.1 and 5.2, RFC 6750 section 3.1, OIDC Core 3.1.2.6.

    Args:
        error: registered error code.
        description: safe for the other side; stable, tested; ASCII without quote and back-slash (RFC 6749 appendix A).
        reason: stable code for the audit log, finer than `error`; never told.
        retry_after: seconds after which trying again makes sense.
    """

    def __init__(
        self, error: str, description: str, *, reason: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(f"{error}: {description}")
        self.error = error
        self.description = description
        self.reason = f"{error}.{reason}" if reason else error
        self.retry_after = retry_after
        self.is_recorded = False
        """Its event was written by the transaction that refused."""
        self.client_id: str | None = None
        """Registered client that was spoken for without proof, for the audit log; nobody's word otherwise."""

    @property
    def status(self) -> int:
        """HTTP status of the JSON answer."""
        return _STATUS.get(self.error, 400)


def invalid_request(description: str, *, reason: str | None = None) -> OAuthError:
    """`invalid_request` with the parameter named in the description."""
    return OAuthError("invalid_request", description, reason=reason)


def invalid_grant(reason: str, *, is_recorded: bool = False) -> OAuthError:
    """`invalid_grant` with one sentence for all causes: who holds a stolen code learns nothing from it."""
    error = OAuthError(
        "invalid_grant", "The grant is invalid, expired, already used or was issued to another client.", reason=reason
    )
    error.is_recorded = is_recorded
    return error
