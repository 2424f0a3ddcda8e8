"""Encrypted assertions: AES-GCM for the content, RSA-OAEP for its key. CBC and PKCS #1 v1.5 are neither written nor
read: what they decrypt to can be found out by asking often (S23, S25).

The key transport we write is `rsa-oaep-mgf1p`, the one that every product knows; the SHA-1 in it is a mask, not a
signature.

XML Encryption 1.1, sections 5.2.4 and 5.5.2.
"""

import base64
import binascii
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, SHA384, SHA512, HashAlgorithm

from providers.saml_wire import names, parsing
from providers.saml_wire.certificates import read_certificate
from providers.saml_wire.errors import WireError
from providers.saml_wire.names import tag
from providers.saml_wire.parsing import Element
from providers.saml_wire.writing import Node, render

_AES_GCM: Final = names.XENC11 + "aes256-gcm"
_OAEP: Final = names.XENC + "rsa-oaep-mgf1p"
_OAEP_11: Final = names.XENC11 + "rsa-oaep"
READ: Final = (_AES_GCM, names.XENC11 + "aes128-gcm", _OAEP, _OAEP_11)
"""What our metadata asks for, in the order in which it is liked."""
_KEY_BYTES: Final[Mapping[str, int]] = {names.XENC11 + f"aes{bits}-gcm": bits // 8 for bits in (128, 192, 256)}
_MORE: Final = "http://www.w3.org/2001/04/xmldsig-more#"
_DIGESTS: Final[Mapping[str, Callable[[], HashAlgorithm]]] = {
    names.DS + "sha1": SHA1,
    names.XENC + "sha256": SHA256,
    _MORE + "sha384": SHA384,
    names.XENC + "sha512": SHA512,
}
_MASKS: Final[Mapping[str, Callable[[], HashAlgorithm]]] = {
    names.XENC11 + "mgf1sha1": SHA1,
    names.XENC11 + "mgf1sha256": SHA256,
    names.XENC11 + "mgf1sha384": SHA384,
    names.XENC11 + "mgf1sha512": SHA512,
}
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


def decrypt(encrypted: Element, keys: Sequence[rsa.RSAPrivateKey]) -> bytes:
    """The octets of the one element in an EncryptedAssertion.

    Whatever fails once a key is used fails alike, in word and in work: which part was wrong is nobody's business (S25).

    Raises:
        WireError: encryption.form, encryption.algorithm: told before a key is touched; encryption.failed.
    """
    data = parsing.required_child(encrypted, _xenc("EncryptedData"))
    key_info = parsing.only_child(data, tag("ds", "KeyInfo"))
    places = [encrypted] if key_info is None else [encrypted, key_info]
    transported = [one for place in places for one in place.iterchildren(_xenc("EncryptedKey"))]
    if len(transported) != 1:
        raise WireError("encryption.form", "An encrypted assertion must hold one encrypted key.")
    algorithm = _method(data).get("Algorithm") or ""
    if algorithm not in _KEY_BYTES:
        raise WireError("encryption.algorithm", "An assertion must be encrypted with AES-GCM.")
    masked = _padding(_method(transported[0]))
    sealed_key, content = _octets(transported[0]), _octets(data)
    opened: bytes | None = None
    for key in keys:
        try:
            content_key = key.decrypt(sealed_key, masked)
        except ValueError:
            content_key = b""
        if len(content_key) != _KEY_BYTES[algorithm]:
            # The work goes on with a key that opens nothing.
            content_key = os.urandom(_KEY_BYTES[algorithm])
        try:
            opened = AESGCM(content_key).decrypt(content[:_NONCE_BYTES], content[_NONCE_BYTES:], None)
        except (InvalidTag, ValueError):
            continue
    if opened is None:
        raise WireError("encryption.failed", "The assertion cannot be decrypted with a key of our metadata.")
    return opened


def _xenc(name: str) -> str:
    return f"{{{names.XENC}}}{name}"


def _method(element: Element) -> Element:
    return parsing.required_child(element, _xenc("EncryptionMethod"))


def _padding(method: Element) -> padding.OAEP:
    algorithm = method.get("Algorithm") or ""
    if algorithm not in {_OAEP, _OAEP_11}:
        raise WireError("encryption.algorithm", "The key of an assertion must be encrypted with RSA-OAEP.")
    if parsing.only_child(method, _xenc("OAEPparams")) is not None:
        raise WireError("encryption.form", "RSA-OAEP with parameters is not read.")
    digest = _named(method, tag("ds", "DigestMethod"), _DIGESTS, names.DS + "sha1")
    mask: Callable[[], HashAlgorithm] = SHA1
    if algorithm == _OAEP_11:
        mask = _named(method, f"{{{names.XENC11}}}MGF", _MASKS, names.XENC11 + "mgf1sha1")
    return padding.OAEP(mgf=padding.MGF1(mask()), algorithm=digest(), label=None)


def _named(
    method: Element, name: str, known: Mapping[str, Callable[[], HashAlgorithm]], default: str
) -> Callable[[], HashAlgorithm]:
    found = parsing.only_child(method, name)
    algorithm = default if found is None else found.get("Algorithm") or ""
    if algorithm not in known:
        raise WireError("encryption.algorithm", "RSA-OAEP with a digest or mask that is not read.")
    return known[algorithm]


def _octets(element: Element) -> bytes:
    data = parsing.required_child(element, _xenc("CipherData"))
    text = parsing.text_of(parsing.required_child(data, _xenc("CipherValue")))
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise WireError("encryption.form", "An encrypted assertion holds something that is not base64.") from error
