"""What the provider says of itself (OIDC Discovery 1.0 section 3, RFC 8414 section 2). Only what is true."""

from typing import Any

from idhub.login import contexts
from idhub.oidc.claims import CLAIMS, SCOPES
from idhub.oidc.grants import GRANT_TYPES

AUTHORIZE_PATH = "/oauth2/authorize"
RESUME_PATH = "/oauth2/authorize/resume"
TOKEN_PATH = "/oauth2/token"  # noqa: S105 - a path
INTROSPECT_PATH = "/oauth2/introspect"
REVOKE_PATH = "/oauth2/revoke"
USERINFO_PATH = "/oauth2/userinfo"
LOGOUT_PATH = "/oauth2/logout"
LOGOUT_RESUME_PATH = "/oauth2/logout/resume"
JWKS_PATH = "/oauth2/jwks"
DISCOVERY_PATHS = ("/.well-known/openid-configuration", "/.well-known/oauth-authorization-server")
HOT_PATHS = (TOKEN_PATH, INTROSPECT_PATH, REVOKE_PATH, USERINFO_PATH, JWKS_PATH, *DISCOVERY_PATHS)
"""What `idhub.oidc.hot` answers, before any routing."""

_SECRETS = ["client_secret_basic", "client_secret_post"]


def metadata(issuer: str) -> dict[str, Any]:
    """The document of both discovery paths."""
    return {
        "issuer": issuer,
        "authorization_endpoint": issuer + AUTHORIZE_PATH,
        "token_endpoint": issuer + TOKEN_PATH,
        "userinfo_endpoint": issuer + USERINFO_PATH,
        "jwks_uri": issuer + JWKS_PATH,
        "introspection_endpoint": issuer + INTROSPECT_PATH,
        "revocation_endpoint": issuer + REVOKE_PATH,
        "end_session_endpoint": issuer + LOGOUT_PATH,
        "scopes_supported": list(SCOPES),
        "claims_supported": [*CLAIMS, "iss", "aud", "exp", "iat", "auth_time", "nonce", "acr", "amr", "at_hash", "sid"],
        "acr_values_supported": list(contexts.LADDER),
        "claim_types_supported": ["normal"],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": list(GRANT_TYPES),
        "subject_types_supported": ["public", "pairwise"],
        "id_token_signing_alg_values_supported": ["ES256", "RS256"],
        "token_endpoint_auth_methods_supported": [*_SECRETS, "none"],
        "introspection_endpoint_auth_methods_supported": _SECRETS,
        "revocation_endpoint_auth_methods_supported": [*_SECRETS, "none"],
        "code_challenge_methods_supported": ["S256"],
        "prompt_values_supported": ["none", "login", "consent", "select_account"],
        "authorization_response_iss_parameter_supported": True,
        "backchannel_logout_supported": True,
        "backchannel_logout_session_supported": True,
        "frontchannel_logout_supported": False,
        "claims_parameter_supported": False,
        "request_parameter_supported": False,
        "request_uri_parameter_supported": False,
    }
