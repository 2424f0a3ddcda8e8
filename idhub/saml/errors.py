"""Refusals of SAML: shown to the person, or answered to the service provider as a status."""

from collections.abc import Mapping
from typing import Final

from providers.saml_wire import names


class SamlError(Exception):
    """A refusal that is answered to the verified service provider; no reason but the status is told (security 2.6).

    Args:
        status: top-level status code of SAML Core 3.2.2.2.
        detail: second-level status code.
        reason: stable code for the audit log.
    """

    def __init__(self, status: str, detail: str | None, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.detail = detail
        self.reason = reason


def responder(detail: str, reason: str) -> SamlError:
    """We cannot do what a sound request asks."""
    return SamlError(names.RESPONDER, detail, reason)


def requester(detail: str, reason: str) -> SamlError:
    """The request asks for what cannot be given to this service provider."""
    return SamlError(names.REQUESTER, detail, reason)


UNNAMED: Final[Mapping[str, SamlError]] = {
    reason: responder(names.INVALID_NAME_ID_POLICY, reason) for reason in ("no_name_id", "ambiguous_name_id")
}
"""Why somebody cannot be named as the service provider wants: no value for the format, or one that another has too."""
