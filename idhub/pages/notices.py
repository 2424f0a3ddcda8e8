"""Errors of a protocol that are shown to the person instead of being sent to the application."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ErrorNotice:
    """An error that is shown, never redirected.

    Args:
        reason: stable code that picks the sentences: unknown_client, invalid_redirect_uri, transaction_gone,
            request_malformed, invalid_logout_request; of SAML unknown_service_provider, invalid_consumer,
            invalid_signature, request_expired, request_replayed; of WS-Federation, which has no other answer,
            unsupported_authentication, nameless; of CAS unknown_service.
    """

    reason: str
    status: int = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class Carried:
    """A form that the browser carries to an application by itself; a button does where no script runs.

    Args:
        action: a registered address of the application.
        fields: hidden fields.
        targets: further origins of the application that its answer may redirect to, for the page's policy.
        purpose: picks the sentence: sign_in or logout.
    """

    action: str
    fields: tuple[tuple[str, str], ...]
    targets: tuple[str, ...] = ()
    purpose: str = "sign_in"
