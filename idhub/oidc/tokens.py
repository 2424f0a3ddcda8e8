"""Reading tokens that we signed ourselves: ID token hints and self-contained access tokens.

RFC 8725: the algorithm belongs to the key, `typ` says the kind, nothing in the header chooses a key but a `kid` that we
gave out, and `jku`, `x5u`, `jwk` and `crit` are never followed.
"""

import re
from typing import Any, Final

import jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey

from idhub.keys import Keyring
from idhub.oidc.claims import ACCESS_TOKEN_TYP, ID_TOKEN_TYP

_MAX_LENGTH: Final = 8_192
# Three non-empty parts: no JSON serialization, no unsigned token, no JWE (RFC 7515 section 7.1).
_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]{1,2048}\.[A-Za-z0-9_-]{1,6144}\.[A-Za-z0-9_-]{1,1024}")
_KID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HEADER: Final = frozenset({"alg", "kid", "typ"})


class TokenReader:
    """Verifies with the hub's own public keys. One a process."""

    def __init__(self, keyring: Keyring, issuer: str) -> None:
        self._keyring = keyring
        self._issuer = issuer
        self._keys = keyring.verification_keys("token")

    def access_token_id(self, unverified_token: str) -> str | None:
        """`jti` of an access token that we signed; None for anything else. Expiry is the database's to decide."""
        claims = self._claims(unverified_token, typ=ACCESS_TOKEN_TYP)
        if claims is None:
            return None
        jti = claims.get("jti")
        return jti if isinstance(jti, str) and jti else None

    def id_token_hint(self, unverified_token: str) -> dict[str, Any] | None:
        """Claims of an ID token that we signed, expired or not (OIDC RP-Initiated Logout 1.0 section 2)."""
        return self._claims(unverified_token, typ=ID_TOKEN_TYP)

    def _claims(self, unverified_token: str, *, typ: str) -> dict[str, Any] | None:
        if len(unverified_token) > _MAX_LENGTH or not _COMPACT.fullmatch(unverified_token):
            return None
        try:
            unverified_header = jwt.get_unverified_header(unverified_token)
            # A header of ours has these three members; anything more (crit, jwk, jku, zip) was not written here.
            if set(unverified_header) != _HEADER or unverified_header["typ"] != typ:
                return None
            kid = unverified_header["kid"]
            if not isinstance(kid, str) or not _KID.fullmatch(kid):
                return None
            found = self._key(kid)
            if found is None or unverified_header["alg"] != found[0]:
                return None
            claims: dict[str, Any] = jwt.decode(
                unverified_token,
                _public(found[1]),
                algorithms=[found[0]],
                issuer=self._issuer,
                # No instant is compared: the library would ask this machine's clock, another node's may be ahead.
                options={
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                    "verify_aud": False,
                    "require": ["iss", "sub", "aud", "iat", "exp"],
                },
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
            # PyJWT lets a few defects of hostile JSON through as these; each is a token that we did not sign.
            return None
        return claims if _is_well_typed(claims) else None

    def _key(self, kid: str) -> tuple[str, Any] | None:
        if kid not in self._keys:
            self._keys = self._keyring.verification_keys("token")
        return self._keys.get(kid)


def _is_well_typed(claims: dict[str, Any]) -> bool:
    """Each claim has the one type in which we write it; `True` is no number of seconds."""
    texts = all(isinstance(claims[name], str) for name in ("iss", "sub", "aud"))
    return texts and all(type(claims[name]) is int for name in ("iat", "exp"))


def _public(key: ECKey | RSAKey | OKPKey) -> Any:
    return key.public_key
