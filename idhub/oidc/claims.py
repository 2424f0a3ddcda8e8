"""Scopes, the claims they release, and the tokens that carry claims."""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import orjson

from idhub.credentials.spending import Issued
from idhub.keys import Keyring
from idhub.login import contexts
from idhub.oidc.clients import Client

SCOPES: Final[Mapping[str, tuple[str, ...]]] = {
    "openid": ("sub",),
    "profile": ("name", "given_name", "family_name", "preferred_username", "locale", "updated_at"),
    "email": ("email", "email_verified"),
    "phone": ("phone_number", "phone_number_verified"),
    "organization": ("organization", "employments"),
    "offline_access": (),
}
"""Every scope that concerns a person, with the claims it releases at userinfo (OIDC Core section 5.4)."""

CLAIMS: Final = tuple(dict.fromkeys(claim for claims in SCOPES.values() for claim in claims))
ACCESS_TOKEN_TYP: Final = "at+jwt"  # noqa: S105 - a media type
ID_TOKEN_TYP: Final = "JWT"  # noqa: S105 - a media type


def person_claims(
    scope: Iterable[str], sub: str, person: Mapping[str, Any], employments: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Claims about a person that the scope releases; a claim without a value is left out (OIDC Core section 5.3.2).

    Mail and phone come from HR. Nobody has proven to the hub that the person receives there, so neither is called
    verified: an application that links accounts by a verified address must not be misled by a typing error.
    """
    main = next((row for row in employments if row["id"] == person["main_employment_id"]), None)
    main = main or next(iter(employments), None)
    values: dict[str, Any] = {
        "sub": sub,
        "name": person["display_name"],
        "given_name": person["given_name"],
        "family_name": person["family_name"],
        "preferred_username": main["employee_number"] if main is not None else None,
        "locale": person["locale"],
        "updated_at": person["changed_at"] // 1_000_000,
        "email": person["email"],
        "email_verified": False if person["email"] else None,
        "phone_number": person["mobile"],
        "phone_number_verified": False if person["mobile"] else None,
        "organization": _employment(main) if main is not None else None,
        "employments": [_employment(row) for row in employments] or None,
    }
    released = {claim for value in scope for claim in SCOPES.get(value, ())} | {"sub"}
    return {name: values[name] for name in values if name in released and values[name] is not None}


def _employment(row: Mapping[str, Any]) -> dict[str, Any]:
    values = {
        "code": row["organization_code"],
        "name": row["organization_name"],
        "department": row["department_path"],
        "title": row["title"],
        "employee_number": row["employee_number"],
        "employment_type": row["type"],
    }
    return {name: value for name, value in values.items() if value is not None}


def access_token(keyring: Keyring, issuer: str, client: Client, issued: Issued, *, jti: str, now: datetime) -> str:
    """A self-contained access token (RFC 9068 section 2), signed as the client's ID tokens are."""
    claims: dict[str, Any] = {
        "iss": issuer,
        "sub": issued.sub,
        "aud": client.audience,
        "client_id": client.client_id,
        "iat": int(now.timestamp()),
        "exp": int(issued.access_expires_at.timestamp()),
        "jti": jti,
        "scope": issued.scope,
    }
    if issued.authenticated_at is not None:
        claims["auth_time"] = int(issued.authenticated_at.timestamp())
    if issued.sid is not None:
        claims["sid"] = issued.sid
    return keyring.sign_jws("token", ACCESS_TOKEN_TYP, claims, alg=client.id_token_alg)


def id_token(keyring: Keyring, issuer: str, client: Client, issued: Issued, *, access_value: str, now: datetime) -> str:
    """An ID token: who signed in, when and how; what a scope releases stays at userinfo (OIDC Core 2, 3.1.3.6)."""
    claims: dict[str, Any] = {
        "iss": issuer,
        "sub": issued.sub,
        "aud": client.client_id,
        "iat": int(now.timestamp()),
        "exp": int(issued.access_expires_at.timestamp()),
        "at_hash": half_hash(access_value),
    }
    if issued.authenticated_at is not None:
        claims["auth_time"] = int(issued.authenticated_at.timestamp())
    if issued.amr_json:
        claims["amr"] = amr = orjson.loads(issued.amr_json)
        claims["acr"] = contexts.achieved(amr)
    if issued.nonce is not None:
        claims["nonce"] = issued.nonce
    if issued.sid is not None:
        claims["sid"] = issued.sid
    return keyring.sign_jws("token", ID_TOKEN_TYP, claims, alg=client.id_token_alg)


def half_hash(value: str) -> str:
    """Left half of SHA-256 in base64url, for ES256 and RS256 (OIDC Core section 3.1.3.6)."""
    digest = hashlib.sha256(value.encode()).digest()
    return base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=").decode()
