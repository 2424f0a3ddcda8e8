"""XML signatures in the one form that SAML knows: enveloped, over the element that carries it (SAML Core 5.4).

The verifier believes nothing that a message says of its own key: keys are handed in, KeyInfo is never read. It returns
the element parsed anew from the very octets that were signed; whoever reads anything else has not verified it.

Refused rather than supported: several references, references to anything but the carrying element, other transforms
than the two of SAML Core 5.4.4, other digests than SHA-2, HMAC, truncated MACs, ds:Object.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from lxml import etree

from providers.saml_wire import names, parsing
from providers.saml_wire.errors import WireError
from providers.saml_wire.parsing import Element
from providers.saml_wire.writing import Node, Written, escaped_attribute, render, render_open

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

RSA_SHA256: Final = "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256"
SHA256: Final = "http://www.w3.org/2001/04/xmlenc#sha256"
ENVELOPED: Final = names.DS + "enveloped-signature"
EXCLUSIVE: Final = names.EXCLUSIVE

_MORE: Final = "http://www.w3.org/2001/04/xmldsig-more#"
_RSA: Final[Mapping[str, Callable[[], hashes.HashAlgorithm]]] = {
    RSA_SHA256: hashes.SHA256,
    _MORE + "rsa-sha384": hashes.SHA384,
    _MORE + "rsa-sha512": hashes.SHA512,
}
_ECDSA: Final[Mapping[str, Callable[[], hashes.HashAlgorithm]]] = {
    _MORE + "ecdsa-sha256": hashes.SHA256,
    _MORE + "ecdsa-sha384": hashes.SHA384,
    _MORE + "ecdsa-sha512": hashes.SHA512,
}
_DIGESTS: Final[Mapping[str, Callable[[bytes], Any]]] = {
    SHA256: hashlib.sha256,
    _MORE + "sha384": hashlib.sha384,
    "http://www.w3.org/2001/04/xmlenc#sha512": hashlib.sha512,
}
_SIGNATURE: Final = f"{{{names.DS}}}Signature"
_INCLUSIVE: Final = f"{{{EXCLUSIVE}}}InclusiveNamespaces"
_PKCS1: Final = padding.PKCS1v15()


def _ds(name: str) -> str:
    return f"{{{names.DS}}}{name}"


@dataclass(frozen=True, slots=True)
class Signer:
    """A private RSA key that is held parsed, and the certificate that metadata publishes for it.

    Args:
        private_key: of at least 2048 bits.
        certificate: DER in base64, as it stands in metadata.
    """

    private_key: rsa.RSAPrivateKey
    certificate: str

    def sign(self, octets: bytes) -> bytes:
        """RSASSA-PKCS1-v1_5 with SHA-256: what every SAML product verifies."""
        return self.private_key.sign(octets, _PKCS1, hashes.SHA256())


# ---------------------------------------------------------------- signing


def _signed_info(reference: str, digest: str, inclusive: Sequence[str] = ()) -> Node:
    prefixes = [Node("ec:InclusiveNamespaces", {"PrefixList": " ".join(inclusive)})] if inclusive else []
    transforms = [
        Node("ds:Transform", {"Algorithm": ENVELOPED}),
        Node("ds:Transform", {"Algorithm": EXCLUSIVE}, prefixes),
    ]
    content = [
        Node("ds:Transforms", {}, transforms),
        Node("ds:DigestMethod", {"Algorithm": SHA256}),
        Node("ds:DigestValue", {}, [digest]),
    ]
    return Node(
        "ds:SignedInfo",
        {},
        [
            Node("ds:CanonicalizationMethod", {"Algorithm": EXCLUSIVE}),
            Node("ds:SignatureMethod", {"Algorithm": RSA_SHA256}),
            Node("ds:Reference", {"URI": f"#{reference}"}, content),
        ],
    )


def _signature(signed_info: Node, value: str, certificate: str) -> Node:
    data = Node("ds:X509Data", {}, [Node("ds:X509Certificate", {}, [certificate])])
    return Node(
        "ds:Signature", {}, [signed_info, Node("ds:SignatureValue", {}, [value]), Node("ds:KeyInfo", {}, [data])]
    )


# Every signature differs from every other by four values alone: its canonical form is cut once where they stand.
_HERE: Final = "value-stands-here"
_INFO: Final = render(_signed_info(_HERE, _HERE)).split(_HERE)
_SIGNATURE_PARTS: Final = render(_signature(_signed_info(_HERE, _HERE), _HERE, _HERE)).split(_HERE)


def _filled(parts: Sequence[str], *values: str) -> str:
    return "".join(part + value for part, value in zip(parts, (*values, ""), strict=True))


def sign(node: Node, signer: Signer, *, inclusive: Sequence[str] = ()) -> Written:
    """The element with its signature in it: after Issuer, or first where there is none (SAML schemas).

    The element carries an `ID`; an assertion of SAML 1.1 carries an `AssertionID`, and its signature last. It is
    written once: what the digest covers is what is sent, around the signature.

    Args:
        inclusive: prefixes that the element or something in it declares for values of attributes (`Node.declares`).
    """
    first = node.content[0] if node.content else None
    is_saml11 = node.tag == "saml1:Assertion"
    at = len(node.content) if is_saml11 else 1 if isinstance(first, Node) and first.tag == "saml:Issuer" else 0
    before, after, declared = render_open(node, at)
    digest = base64.b64encode(hashlib.sha256((before + after).encode()).digest()).decode()
    reference = node.attributes["AssertionID" if is_saml11 else "ID"] or ""
    covered = (escaped_attribute(reference), digest)
    info = _signed_info(reference, digest, inclusive)
    octets = render(info) if inclusive else _filled(_INFO, *covered)
    value = base64.b64encode(signer.sign(octets.encode())).decode()
    signature = _signature(info, value, signer.certificate)
    content = [*node.content[:at], signature, *node.content[at:]]
    if inclusive or "ds" in declared:
        # The element is of that namespace itself (none of SAML's is), and declares it before its signature would.
        text = render(Node(node.tag, node.attributes, content, node.declares))
    else:
        text = f"{before}{_filled(_SIGNATURE_PARTS, *covered, value, signer.certificate)}{after}"
    return Written(node.tag, node.attributes, content, node.declares, text)


# ---------------------------------------------------------------- verifying


def is_signed(element: Element) -> bool:
    """Whether the element carries a signature of its own; says nothing of its worth."""
    return next(element.iterchildren(_SIGNATURE), None) is not None


def verify(element: Element, keys: Sequence[PublicKey]) -> Element:
    """Verify the element's own signature and return the element as it was signed, without the signature.

    Args:
        element: of a document that `parsing.parse` read, so that no ID stands in it twice.
        keys: of the issuer's metadata. One of them must have signed.

    Raises:
        WireError: `signature.*`: missing, of another form, by another key, or over other octets.
    """
    signature = _the_signature(element)
    signed_info, value = _parts(signature)
    verify_octets(_canonical(_alone(signed_info), _method_prefixes(signed_info)), value, _algorithm(signed_info), keys)
    octets = _signed_octets(element, signed_info)
    return parsing.parse(octets, max_bytes=max(len(octets), parsing.MAX_MESSAGE))


def verify_octets(octets: bytes, value: bytes, algorithm: str, keys: Iterable[PublicKey]) -> None:
    """Verify a bare signature with the algorithm that is named, by a key whose type is that algorithm's.

    Raises:
        WireError: signature.algorithm, signature.key.
    """
    if algorithm not in _RSA and algorithm not in _ECDSA:
        raise WireError("signature.algorithm", "The signature algorithm is not allowed; use RSA or ECDSA with SHA-2.")
    for key in keys:
        if _is_by(key, octets, value, algorithm):
            return
    raise WireError("signature.key", "No key in the issuer's metadata verifies the signature.")


def _is_by(key: PublicKey, octets: bytes, value: bytes, algorithm: str) -> bool:
    try:
        if isinstance(key, rsa.RSAPublicKey):
            if algorithm not in _RSA:
                return False
            key.verify(value, octets, _PKCS1, _RSA[algorithm]())
            return True
        size = (key.key_size + 7) // 8
        # XML Signature 6.4.3: R and S, each as long as the key; a zero among them is no signature (CVE-2022-21449).
        if algorithm not in _ECDSA or len(value) != 2 * size:
            return False
        r, s = int.from_bytes(value[:size]), int.from_bytes(value[size:])
        key.verify(encode_dss_signature(r, s), octets, ec.ECDSA(_ECDSA[algorithm]()))
    except InvalidSignature:
        return False
    return True


def _the_signature(element: Element) -> Element:
    found = list(element.iterchildren(_SIGNATURE))
    if not found:
        raise WireError("signature.missing", "The message is not signed.")
    if len(found) > 1:
        raise WireError("signature.form", "The message has several signatures.")
    return found[0]


def _parts(signature: Element) -> tuple[Element, bytes]:
    _only(signature, "SignedInfo", "SignatureValue", "KeyInfo")
    signed_info = parsing.required_child(signature, _ds("SignedInfo"))
    _only(signed_info, "CanonicalizationMethod", "SignatureMethod", "Reference")
    if parsing.required_child(signed_info, _ds("CanonicalizationMethod")).get("Algorithm") != EXCLUSIVE:
        raise WireError("signature.transform", "SignedInfo must be canonicalized by Exclusive XML Canonicalization.")
    return signed_info, _base64(parsing.required_child(signature, _ds("SignatureValue")))


def _only(element: Element, *allowed: str) -> None:
    """Nothing else may stand in the element: what nobody reads, somebody will one day."""
    for child in element:
        if child.tag not in {_ds(name) for name in allowed}:
            raise WireError("signature.form", "The signature holds something that SAML does not allow there.")


def _algorithm(signed_info: Element) -> str:
    method = parsing.required_child(signed_info, _ds("SignatureMethod"))
    if len(method):
        # HMACOutputLength stands here (CVE-2009-0217).
        raise WireError("signature.form", "The signature method takes no parameters.")
    return method.get("Algorithm") or ""


def _method_prefixes(signed_info: Element) -> list[str]:
    return _prefixes(parsing.required_child(signed_info, _ds("CanonicalizationMethod")))


def _prefixes(element: Element) -> list[str]:
    """The PrefixList of an exclusive canonicalization."""
    inner = list(element)
    if not inner:
        return []
    if len(inner) > 1 or inner[0].tag != _INCLUSIVE or len(inner[0]):
        raise WireError("signature.transform", "A canonicalization holds something that it does not take.")
    return ["" if name == "#default" else name for name in (inner[0].get("PrefixList") or "").split()]


def _signed_octets(element: Element, signed_info: Element) -> bytes:
    """The octets that the one reference covers, when their digest is the one signed."""
    reference = parsing.required_child(signed_info, _ds("Reference"))
    _only(reference, "Transforms", "DigestMethod", "DigestValue")
    # SAML Core 5.4.2: the element that carries the signature, by its ID; never another, never "the document".
    if reference.get("URI") != f"#{parsing.read_id(element)}":
        raise WireError("signature.reference", "The signature refers to another element than the one that carries it.")
    prefixes = _transforms(parsing.required_child(reference, _ds("Transforms")))
    method = parsing.required_child(reference, _ds("DigestMethod"))
    digest = _DIGESTS.get(method.get("Algorithm") or "")
    if digest is None or len(method):
        raise WireError("signature.algorithm", "The digest algorithm is not allowed; use SHA-2.")
    alone = _alone(element)
    _cut(parsing.required_child(alone, _SIGNATURE))
    octets = _canonical(alone, prefixes)
    expected = _base64(parsing.required_child(reference, _ds("DigestValue")))
    if not hmac.compare_digest(digest(octets).digest(), expected):
        raise WireError("signature.digest", "The message is not what was signed.")
    return octets


def _transforms(transforms: Element) -> list[str]:
    _only(transforms, "Transform")
    found = [transform.get("Algorithm") for transform in transforms]
    # SAML Core 5.4.4: these two and no others. The second decides the octets; the first takes the signature out.
    if found != [ENVELOPED, EXCLUSIVE]:
        raise WireError("signature.transform", "The signature has other transforms than SAML allows.")
    if len(transforms[0]):
        raise WireError("signature.transform", "The enveloped signature transform takes no parameters.")
    return _prefixes(transforms[1])


def _alone(element: Element) -> Element:
    """The element in a document of its own, with the namespaces that are in scope where it stands."""
    octets = etree.tostring(element, with_tail=False)
    return parsing.parse(octets, max_bytes=max(len(octets), parsing.MAX_MESSAGE))


def _cut(signature: Element) -> None:
    """Take the signature out and leave the text behind it in."""
    parent, before = signature.getparent(), signature.getprevious()
    tail = signature.tail or ""
    if parent is None:
        raise WireError("signature.form", "The signature does not stand in an element.")
    if before is not None:
        before.tail = (before.tail or "") + tail
    else:
        parent.text = (parent.text or "") + tail
    parent.remove(signature)


def _canonical(element: Element, prefixes: list[str]) -> bytes:
    try:
        return etree.tostring(
            element, method="c14n", exclusive=True, with_comments=False, inclusive_ns_prefixes=prefixes or None
        )
    except etree.LxmlError as error:
        # Relative namespace names and the like: well-formed, and without a canonical form.
        raise WireError("signature.form", "The message has no canonical form.") from error


def _base64(element: Element) -> bytes:
    text = "".join(parsing.text_of(element).split())
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise WireError("signature.form", "The signature holds something that is not base64.") from error
