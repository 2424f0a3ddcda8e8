"""What participants of sessions are registered as, and where they are told: the one place that joins every protocol.

A participant is an OIDC client, a SAML service provider or a CAS service. Whoever asks where it is told asks here.
"""

from typing import Any, Final, Literal, TypeVarTuple

from sqlalchemy import ColumnElement, Select, Text, and_, case, func, type_coerce

from idhub.access.tables import CasService, OidcClient, SamlServiceProvider
from idhub.credentials.tables import SessionParticipant

Protocol = Literal["oidc", "saml", "cas"]

LOGOUT_URI: Final[ColumnElement[Any]] = func.coalesce(
    OidcClient.backchannel_logout_uri,
    SamlServiceProvider.soap_logout_url,
    case(
        (CasService.logout == "service", SessionParticipant.service_url),
        (CasService.logout == "url", CasService.logout_url),
    ),
)
"""Where a participant can be told without a browser; null: nowhere. Of a statement `with_registrations`."""
IS_VISITED: Final[ColumnElement[bool]] = and_(
    SamlServiceProvider.soap_logout_url.is_(None), type_coerce(SamlServiceProvider.logout_services, Text) != "[]"
)
"""Whether the browser itself must carry a logout to it. Of a statement `with_registrations`."""

_Columns = TypeVarTuple("_Columns")


def with_registrations(statement: Select[*_Columns]) -> Select[*_Columns]:
    """A statement over `SessionParticipant`, joined with whatever each participant is registered as."""
    return (
        statement.outerjoin(OidcClient, OidcClient.client_id == SessionParticipant.client_id)
        .outerjoin(SamlServiceProvider, SamlServiceProvider.id == SessionParticipant.service_provider_id)
        .outerjoin(CasService, CasService.id == SessionParticipant.cas_service_id)
    )


def of_protocol(protocol: Protocol) -> ColumnElement[bool]:
    """Participants that speak it."""
    columns: dict[Protocol, ColumnElement[Any]] = {
        "oidc": SessionParticipant.client_id.expression,
        "saml": SessionParticipant.service_provider_id.expression,
        "cas": SessionParticipant.cas_service_id.expression,
    }
    return columns[protocol].is_not(None)
