"""Artifacts: short references to a message that its receiver fetches for itself. Type 0x0004 alone.

    type (2 octets) | index of the endpoint that resolves it (2) | SHA-1 of the issuer's entity ID (20) | handle (20)

SAML Bindings 3.6.4.
"""

import base64
import binascii
import hashlib
import secrets
from typing import Final

from providers.saml_wire.errors import WireError

_TYPE: Final = b"\x00\x04"
_HANDLE_BYTES: Final = 20
_BYTES: Final = 44
_MAX_TEXT: Final = 200


def make_artifact(entity_id: str, *, index: int = 0) -> str:
    """An artifact of the issuer with a fresh handle of 160 random bits, in base64."""
    source = _source_of(entity_id)
    octets = _TYPE + index.to_bytes(2, "big") + source + secrets.token_bytes(_HANDLE_BYTES)
    return base64.b64encode(octets).decode()


def check_artifact(text: str, entity_id: str) -> str:
    """The artifact in its one spelling.

    Raises:
        WireError: artifact.form; artifact.source: another issuer's.
    """
    try:
        octets = base64.b64decode("".join(text[:_MAX_TEXT].split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise WireError("artifact.form", "The artifact is not base64.") from error
    if len(octets) != _BYTES or octets[:2] != _TYPE:
        raise WireError("artifact.form", "The artifact is of another type than 0x0004.")
    if octets[4:24] != _source_of(entity_id):
        raise WireError("artifact.source", "The artifact is another issuer's.")
    return base64.b64encode(octets).decode()


def _source_of(entity_id: str) -> bytes:
    # A name, by the specification; nothing rests on its strength.
    return hashlib.sha1(entity_id.encode(), usedforsecurity=False).digest()
