"""Certificates of metadata: carriers of a key. Who issued them and until when is not asked (SAML Metadata 2.4.1.1);
that one runs out is for a warning.
"""

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from providers.saml_wire.errors import WireError
from providers.saml_wire.signatures import PublicKey

_LEAST_RSA_BITS: Final = 2048
_CURVES: Final = frozenset({"secp256r1", "secp384r1", "secp521r1"})
_PEM_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_PEM_END: Final = "-----END CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Certificate:
    """A key that a partner publishes.

    Args:
        der: base64 without line breaks; what is stored and compared.
    """

    der: str
    public_key: PublicKey
    subject: str
    expires_at: datetime
    fingerprint: str
    """SHA-256 in hex, as people compare it."""


@lru_cache(maxsize=4096)
def read_certificate(der: str) -> Certificate:
    """A certificate from base64 DER. Parsed once: a key is read much slower than it is used.

    Raises:
        WireError: certificate.form, certificate.key.
    """
    try:
        octets = base64.b64decode("".join(der.split()), validate=True)
        parsed = x509.load_der_x509_certificate(octets)
        key = parsed.public_key()
        subject, expires_at = parsed.subject.rfc4514_string(), parsed.not_valid_after_utc
    except (binascii.Error, ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise WireError("certificate.form", "A certificate cannot be read.") from error
    if isinstance(key, rsa.RSAPublicKey):
        is_strong = key.key_size >= _LEAST_RSA_BITS
    else:
        is_strong = isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES
    if not is_strong:
        raise WireError(
            "certificate.key", f"A certificate must hold an RSA key of {_LEAST_RSA_BITS} bits or more, or a NIST curve."
        )
    assert isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey)  # noqa: S101 - narrowed above
    return Certificate(base64.b64encode(octets).decode(), key, subject, expires_at, parsed.fingerprint(SHA256()).hex())


def read_pem(text: str) -> Certificate:
    """The one certificate of a PEM file, or of a file that holds its base64 alone.

    Raises:
        WireError: certificate.form, certificate.key.
    """
    body = text.strip()
    if _PEM_BEGIN in body:
        if body.count(_PEM_BEGIN) != 1 or _PEM_END not in body:
            raise WireError("certificate.form", "A file must hold one certificate.")
        body = body.partition(_PEM_BEGIN)[2].partition(_PEM_END)[0]
    return read_certificate("".join(body.split()))
