"""argon2id (RFC 9106) through libsodium, which computes it in vectors: less than half the time of the reference code.

Hashes are written in the format of the reference implementation, so that either reads what the other wrote.
"""

import base64
import binascii
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Final

from nacl.bindings import crypto_pwhash_alg, crypto_pwhash_ALG_ARGON2ID13

_SALT_BYTES: Final = 16
DIGEST_BYTES: Final = 32
"""Length of a hash that is made here."""
# One lane and salts of 16 bytes: what libsodium computes, and all that this module writes.
_OURS: Final = re.compile(
    r"\$argon2id\$v=19\$m=([1-9][0-9]{0,7}),t=([1-9][0-9]{0,5}),p=1\$([A-Za-z0-9+/]{22})\$([A-Za-z0-9+/]{22,171})"
)
_FEWEST_KIB: Final = 8


@dataclass(frozen=True, slots=True)
class Costs:
    """Memory and passes."""

    memory_kib: int
    time: int


@dataclass(frozen=True, slots=True)
class Argon2id:
    """A stored hash."""

    costs: Costs
    salt: bytes
    digest: bytes

    def matches(self, password: str) -> bool:
        """Whether the password has this hash."""
        return hmac.compare_digest(_derive(password, self.salt, self.costs, len(self.digest)), self.digest)


def read(stored: str) -> Argon2id | None:
    """A hash as it is stored; None for what this module does not compute: other kinds, several lanes, other salts."""
    found = _OURS.fullmatch(stored)
    if found is None or int(found[1]) < _FEWEST_KIB:
        return None
    try:
        salt, digest = _decode(found[3]), _decode(found[4])
    except binascii.Error:
        return None
    return Argon2id(Costs(int(found[1]), int(found[2])), salt, digest)


def hash_password(password: str, costs: Costs) -> str:
    """A new hash under a salt of its own."""
    salt = secrets.token_bytes(_SALT_BYTES)
    digest = _derive(password, salt, costs, DIGEST_BYTES)
    return f"$argon2id$v=19$m={costs.memory_kib},t={costs.time},p=1${_encode(salt)}${_encode(digest)}"


def matches_other(password: str, stored: str) -> bool:
    """Whether the password has this argon2 hash of another form, which only the reference code computes."""
    # Imported when the first such hash is met: hashes of ours never need it.
    from passlib.hash import argon2  # type: ignore[import-untyped]

    try:
        return bool(argon2.verify(password, stored))
    except ValueError:
        return False


def _derive(password: str, salt: bytes, costs: Costs, size: int) -> bytes:
    return crypto_pwhash_alg(
        size, password.encode(), salt, costs.time, costs.memory_kib * 1024, crypto_pwhash_ALG_ARGON2ID13
    )


def _encode(raw: bytes) -> str:
    return base64.b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
