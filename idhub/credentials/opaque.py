"""Opaque values: a typed prefix, 256 random bits and a checksum; stored as SHA-256, never as themselves.

The prefix lets a scanner find a leaked value and lets an endpoint refuse the wrong kind unread; the checksum lets it
refuse garbage without asking the database. Neither is a secret.
"""

import base64
import binascii
import hashlib
import zlib
from typing import Literal, get_args

from idhub.entropy import random_bytes

Kind = Literal["at", "rt", "ac", "ses", "inv", "api", "tx", "dev"]
"""access token, refresh token, authorization code, SSO session, one-time link, API token, login transaction, device."""

KINDS: frozenset[str] = frozenset(get_args(Kind))
_RANDOM_BYTES = 32
_CHECKSUM_BYTES = 4
_BODY_LENGTH = 48
_TO_BASE64 = str.maketrans("-_", "+/")
_BEGUN: dict[str, tuple[str, int]] = {kind: (f"idh_{kind}_", zlib.crc32(kind.encode())) for kind in KINDS}
"""Prefix of a kind, and the checksum of its name, with which that of the random bytes goes on."""
# Longer input is refused before it is hashed or decoded.
MAX_LENGTH = len("idh_ses_") + _BODY_LENGTH


def make(kind: Kind) -> str:
    """A new value of `kind`; characters `[A-Za-z0-9_-]`."""
    prefix, begun = _BEGUN[kind]
    random = random_bytes(_RANDOM_BYTES)
    return prefix + base64.urlsafe_b64encode(random + _checksum(random, begun)).decode()


def hash_of(value: str) -> str:
    """What is stored and looked up: hex SHA-256. The value has 256 random bits, so a slow hash would add nothing."""
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()


def looks_valid(kind: Kind, value: str) -> bool:
    """Whether `value` has the form of `kind`; says nothing about whether it was ever given out."""
    prefix, begun = _BEGUN[kind]
    if len(value) != len(prefix) + _BODY_LENGTH or not value.startswith(prefix) or not value.isascii():
        return False
    try:
        raw = binascii.a2b_base64(value[len(prefix) :].translate(_TO_BASE64), strict_mode=True)
    except binascii.Error:
        return False
    return raw[_RANDOM_BYTES:] == _checksum(raw[:_RANDOM_BYTES], begun)


def _checksum(random: bytes, begun: int) -> bytes:
    return zlib.crc32(random, begun).to_bytes(_CHECKSUM_BYTES, "big")
