"""Encrypted assertions: AES-256-GCM for the content, RSA-OAEP for its key. Only encrypting; CBC is not offered (S23).

The key transport is `rsa-oaep-mgf1p`, the one that every product knows; the SHA-1 in it is a mask, not a signature.

XML Encryption 1.1, sections 5.2.4 and 5.5.2.
"""

import base64
import os
from typing import Final

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA1

from providers.saml_wire import names
from providers.saml_wire.certificates import read_certificate
from providers.saml_wire.errors import WireError
from providers.saml_wire.writing import Node, render

_AES_GCM: Final = names.XENC11 + "aes256-gcm"
_OAEP: Final = names.XENC + "rsa-oaep-mgf1p"
_SHA1: Final = names.DS + "sha1"
_ELEMENT: Final = names.XENC + "Element"
_KEY_BITS: Final = 256
_NONCE_BYTES: Final = 12
_PADDING: Final = padding.OAEP(mgf=padding.MGF1(SHA1()), algorithm=SHA1(), label=None)  # noqa: S303 - see above


def encrypt(node: Node, certificate: str) -> Node:
    """EncryptedData that only the holder of the certificate's key can open.

    Args:
        certificate: base64 DER.

    Raises:
        WireError: certificate.key: its key is none that can be encrypted for.
    """
    read = read_certificate(certificate)
    if not isinstance(read.public_key, rsa.RSAPublicKey):
        raise WireError("certificate.key", "Assertions are encrypted for RSA keys only.")
    key = AESGCM.generate_key(bit_length=_KEY_BITS)
    nonce = os.urandom(_NONCE_BYTES)
    content = nonce + AESGCM(key).encrypt(nonce, render(node).encode(), None)
    method = Node("xenc:EncryptionMethod", {"Algorithm": _OAEP}, [Node("ds:DigestMethod", {"Algorithm": _SHA1})])
    encrypted_key = Node("xenc:EncryptedKey", {}, [method, _cipher(read.public_key.encrypt(key, _PADDING))])
    return Node(
        "xenc:EncryptedData",
        {"Type": _ELEMENT},
        [
            Node("xenc:EncryptionMethod", {"Algorithm": _AES_GCM}),
            Node("ds:KeyInfo", {}, [encrypted_key]),
            _cipher(content),
        ],
    )


def _cipher(octets: bytes) -> Node:
    return Node("xenc:CipherData", {}, [Node("xenc:CipherValue", {}, [base64.b64encode(octets).decode()])])
