"""Errors that are shown to the person instead of being sent to the application."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ErrorNotice:
    """An error that is shown, never redirected.

    Args:
        reason: stable code that picks the sentences: unknown_client, invalid_redirect_uri, transaction_gone,
            request_malformed, invalid_logout_request.
    """

    reason: str
    status: int = 400
