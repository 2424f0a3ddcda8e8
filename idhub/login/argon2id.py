"""argon2id (RFC 9106), computed by whichever of two libraries is faster where this process runs.

libsodium finds out what the processor can do and uses its widest vectors, but asks the system for new memory each time,
which is zeroed first. argon2-cffi keeps its memory; its wheel runs on every processor and so is the slower one, while
built for one processor it takes two thirds of libsodium's time (docs/operate/sizing.md). They compute the same.

Hashes are written in the format of the reference implementation, which argon2-cffi contains.
"""

import base64
import binascii
import hmac
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from argon2.low_level import Type, hash_secret_raw
from nacl.bindings import crypto_pwhash_alg, crypto_pwhash_ALG_ARGON2ID13

_SALT_BYTES: Final = 16
DIGEST_BYTES: Final = 32
"""Length of a hash that is made here."""
# One lane and salts of 16 bytes: what both libraries compute, and all that this module writes.
_OURS: Final = re.compile(
    r"\$argon2id\$v=19\$m=([1-9][0-9]{0,7}),t=([1-9][0-9]{0,5}),p=1\$([A-Za-z0-9+/]{22})\$([A-Za-z0-9+/]{22,171})"
)
_FEWEST_KIB: Final = 8
# What the libraries are compared by: a twentieth of what is recommended, three times.
_TRIAL_KIB: Final = 1024
_TRIALS: Final = 3


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
    """A stored hash; None for what not both of `LIBRARIES` compute: other kinds, several lanes, other salts."""
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
    """Whether the password has this argon2 hash of another form, which argon2-cffi alone computes."""
    # Imported when the first such hash is met: hashes of ours never need it.
    from passlib.hash import argon2  # type: ignore[import-untyped]

    try:
        return bool(argon2.verify(password, stored))
    except ValueError:
        return False


Compute = Callable[[bytes, bytes, Costs, int], bytes]
"""Password, salt, costs and length of the digest to the digest."""


def by_libsodium(password: bytes, salt: bytes, costs: Costs, size: int) -> bytes:
    """The digest, by libsodium."""
    return crypto_pwhash_alg(size, password, salt, costs.time, costs.memory_kib * 1024, crypto_pwhash_ALG_ARGON2ID13)


def by_argon2_cffi(password: bytes, salt: bytes, costs: Costs, size: int) -> bytes:
    """The digest, by argon2-cffi."""
    return hash_secret_raw(password, salt, costs.time, costs.memory_kib, 1, size, Type.ID)


LIBRARIES: Final[Mapping[str, Compute]] = {"libsodium": by_libsodium, "argon2-cffi": by_argon2_cffi}


@cache
def fastest() -> str:
    """Which of `LIBRARIES` takes less of the processor's time. Measured once a process, in some milliseconds."""
    costs = Costs(_TRIAL_KIB, 2)
    spent = dict.fromkeys(LIBRARIES, float("inf"))
    for _ in range(_TRIALS):
        for name, compute in LIBRARIES.items():
            began = time.thread_time()
            compute(b"", bytes(_SALT_BYTES), costs, DIGEST_BYTES)
            spent[name] = min(spent[name], time.thread_time() - began)
    return min(spent, key=lambda name: spent[name])


def _derive(password: str, salt: bytes, costs: Costs, size: int) -> bytes:
    return LIBRARIES[fastest()](password.encode(), salt, costs, size)


def _encode(raw: bytes) -> str:
    return base64.b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
