"""Rules of a logout token, as an application checks them (Back-Channel Logout 1.0 section 2.6)."""

from collections.abc import Mapping
from typing import Any

EVENT = "http://schemas.openid.net/event/backchannel-logout"
TYPE = "logout+jwt"
LEEWAY_SECONDS = 60
MAX_AGE_SECONDS = 600


class LogoutTokenError(Exception):
    """A logout token breaks a rule; the text says which."""


def check_logout_claims(
    header: Mapping[str, Any], claims: Mapping[str, Any], *, issuer: str, client_id: str, now: float
) -> None:
    """Check a logout token whose signature holds (Back-Channel Logout 1.0 section 2.6).

    Raises:
        LogoutTokenError: a rule is broken.
    """
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    issued_at, expires_at = claims.get("iat"), claims.get("exp")
    events = claims.get("events")
    if str(header.get("typ", "")).lower() != TYPE:
        raise LogoutTokenError("typ must be logout+jwt")
    if claims.get("iss") != issuer:
        raise LogoutTokenError("iss is not the hub")
    if client_id not in audiences:
        raise LogoutTokenError("aud does not name this application")
    if not isinstance(issued_at, (int, float)) or not -LEEWAY_SECONDS <= now - issued_at <= MAX_AGE_SECONDS:
        raise LogoutTokenError("iat is missing, too old or in the future")
    if not isinstance(expires_at, (int, float)) or expires_at < now - LEEWAY_SECONDS:
        raise LogoutTokenError("exp is missing or past")
    if not isinstance(events, dict) or not isinstance(events.get(EVENT), dict):
        raise LogoutTokenError("events does not hold the logout event")
    if "nonce" in claims:
        raise LogoutTokenError("nonce is prohibited")
    if not (_is_text(claims.get("sub")) or _is_text(claims.get("sid"))):
        raise LogoutTokenError("sub or sid is required")
    if not _is_text(claims.get("jti")):
        raise LogoutTokenError("jti is required")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""
