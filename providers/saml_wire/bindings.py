"""Bindings: how a message travels. Redirect (deflated, signature over the query), POST (base64), SOAP.

SAML Bindings 3.2, 3.4, 3.5.
"""

import base64
import binascii
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import quote, unquote_to_bytes

from providers.saml_wire import names, parsing
from providers.saml_wire.errors import WireError
from providers.saml_wire.parsing import MAX_MESSAGE, Element
from providers.saml_wire.signatures import RSA_SHA256, PublicKey, Signer, verify_octets
from providers.saml_wire.writing import Node, render

Kind = Literal["SAMLRequest", "SAMLResponse"]
MAX_RELAY_STATE: Final = 1024
"""Bytes. SAML Bindings 3.4.3 says 80; products send more, which is handed back as it came."""
_DEFLATE: Final = "urn:oasis:names:tc:SAML:2.0:bindings:URL-Encoding:DEFLATE"
_ARTIFACT: Final = "SAMLart"
_NO_ARTIFACTS: Final = "Artifacts are not taken here; send the message itself, by Redirect or POST."
_NAMES: Final = frozenset(
    {_ARTIFACT, "SAMLRequest", "SAMLResponse", "RelayState", "SigAlg", "Signature", "SAMLEncoding"}
)
_MAX_ENCODED: Final = MAX_MESSAGE * 4 // 3 + 4


@dataclass(frozen=True, slots=True)
class Received:
    """A message as a browser brought it, not verified.

    Args:
        document: the XML.
        relay_state: opaque; only ever handed back to whom it came from.
        signed_query: the octets that the Redirect binding's signature covers; None: that binding's signature is absent.
    """

    kind: Kind
    document: bytes
    relay_state: str | None = None
    signed_query: bytes | None = None
    algorithm: str = ""
    signature: bytes = b""

    @property
    def has_query_signature(self) -> bool:
        """Whether the Redirect binding's own signature came with it."""
        return self.signed_query is not None

    def verify_query(self, keys: Sequence[PublicKey]) -> None:
        """Verify the Redirect binding's signature over the query as it was sent, octet for octet.

        SAML Bindings 3.4.4.1.

        Raises:
            WireError: signature.missing, signature.algorithm, signature.key.
        """
        if self.signed_query is None:
            raise WireError("signature.missing", "The message is not signed.")
        verify_octets(self.signed_query, self.signature, self.algorithm, keys)


def read_redirect(query: bytes) -> Received:
    """The message of a Redirect binding's query.

    Raises:
        WireError: a parameter twice, both kinds, no message or an artifact in its place, not base64, or more than a
            message may hold unpacked.
    """
    raw = _split(query)
    kind = _kind(raw)
    if raw.get("SAMLEncoding", _quoted(_DEFLATE)) not in {_quoted(_DEFLATE), _DEFLATE.encode()}:
        raise WireError("binding.encoding", "SAMLEncoding must be DEFLATE.")
    document = inflate(_unbase64(unquote_to_bytes(raw[kind].replace(b"+", b"%2B"))))
    relay_state = _relay_state(raw)
    if ("Signature" in raw) != ("SigAlg" in raw):
        raise WireError("signature.form", "Signature and SigAlg come together or not at all.")
    if "Signature" not in raw:
        return Received(kind, document, relay_state)
    # The order is the specification's, whatever the order they came in; the octets are the sender's own.
    signed = b"&".join(name.encode() + b"=" + raw[name] for name in (kind, "RelayState", "SigAlg") if name in raw)
    return Received(
        kind, document, relay_state, signed, _text(raw["SigAlg"]),
        _unbase64(unquote_to_bytes(raw["Signature"].replace(b"+", b"%2B"))),
    )  # fmt: skip


def read_post(fields: Mapping[str, str]) -> Received:
    """The message of a POST binding's form.

    Raises:
        WireError: both kinds, no message or an artifact in its place, or not base64.
    """
    if _ARTIFACT in fields:
        raise WireError("binding.artifact", _NO_ARTIFACTS)
    present = [name for name in ("SAMLRequest", "SAMLResponse") if name in fields]
    if len(present) != 1:
        raise WireError("binding.message", "Exactly one of SAMLRequest and SAMLResponse must be sent.")
    kind: Kind = "SAMLRequest" if present[0] == "SAMLRequest" else "SAMLResponse"
    relay_state = fields.get("RelayState")
    _check_relay_state(relay_state)
    return Received(kind, _unbase64("".join(fields[kind].split()).encode()), relay_state)


def inflate(packed: bytes, *, most: int = MAX_MESSAGE) -> bytes:
    """Undo DEFLATE (RFC 1951), at most `most` bytes of it; a bomb is stopped before it is large (S14).

    Raises:
        WireError: broken, cut short, followed by something, or larger.
    """
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        document = decoder.decompress(packed, most + 1)
    except zlib.error as error:
        raise WireError("binding.deflate", "The message cannot be unpacked.") from error
    if len(document) > most:
        raise WireError("xml.size", f"The document is larger than {most} bytes.")
    if not decoder.eof or decoder.unused_data:
        raise WireError("binding.deflate", "The message cannot be unpacked.")
    return document


def write_redirect(
    destination: str, kind: Kind, document: str, *, relay_state: str | None, signer: Signer | None
) -> str:
    """The address that carries a message by the Redirect binding, signed when there is a signer."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(document.encode()) + packer.flush()
    query = f"{kind}={_escaped(base64.b64encode(packed).decode())}"
    if relay_state is not None:
        query += f"&RelayState={_escaped(relay_state)}"
    if signer is not None:
        query += f"&SigAlg={_escaped(RSA_SHA256)}"
        query += f"&Signature={_escaped(base64.b64encode(signer.sign(query.encode())).decode())}"
    return destination + ("&" if "?" in destination else "?") + query


def write_artifact(destination: str, artifact: str, *, relay_state: str | None) -> str:
    """The address that carries an artifact in place of a message (SAML Bindings 3.6.4.1)."""
    query = f"{_ARTIFACT}={_escaped(artifact)}"
    if relay_state is not None:
        query += f"&RelayState={_escaped(relay_state)}"
    return destination + ("&" if "?" in destination else "?") + query


def post_value(document: str) -> str:
    """What stands in the form field of the POST binding."""
    return base64.b64encode(document.encode()).decode()


def read_soap(document: bytes) -> Element:
    """The one element in the Body of a SOAP 1.1 envelope.

    Raises:
        WireError: no envelope, or another number of elements in it.
    """
    root = parsing.parse(document)
    if root.tag != f"{{{names.SOAP}}}Envelope":
        raise WireError("binding.soap", "The document is no SOAP envelope.")
    body = parsing.required_child(root, f"{{{names.SOAP}}}Body")
    if len(body) != 1:
        raise WireError("binding.soap", "The SOAP body must hold one message.")
    return body[0]


def write_soap(message: Node) -> bytes:
    """A message in a SOAP 1.1 envelope."""
    return render(Node("soap:Envelope", {}, [Node("soap:Body", {}, [message])])).encode()


def _split(query: bytes) -> dict[str, bytes]:
    """The raw values of the binding's parameters; others are ignored (an address may have a query of its own)."""
    found: dict[str, bytes] = {}
    for part in query.split(b"&"):
        name, equals, value = part.partition(b"=")
        # Compared as they came: an encoded name would be one parameter to us and another to whoever signed.
        known = name.decode("ascii", "replace")
        if known not in _NAMES:
            continue
        if not equals or known in found:
            raise WireError("binding.repeated", f"{known} may be sent only once, with a value.")
        found[known] = value
    return found


def _kind(raw: Mapping[str, bytes]) -> Kind:
    if _ARTIFACT in raw:
        raise WireError("binding.artifact", _NO_ARTIFACTS)
    if ("SAMLRequest" in raw) == ("SAMLResponse" in raw):
        raise WireError("binding.message", "Exactly one of SAMLRequest and SAMLResponse must be sent.")
    return "SAMLRequest" if "SAMLRequest" in raw else "SAMLResponse"


def _relay_state(raw: Mapping[str, bytes]) -> str | None:
    if "RelayState" not in raw:
        return None
    value = _text(raw["RelayState"])
    _check_relay_state(value)
    return value


def _check_relay_state(value: str | None) -> None:
    if value is not None and (len(value.encode("utf-8", "replace")) > MAX_RELAY_STATE or "\0" in value):
        raise WireError("binding.relay_state", f"RelayState is longer than {MAX_RELAY_STATE} bytes.")


def _text(value: bytes) -> str:
    try:
        return unquote_to_bytes(value.replace(b"+", b" ")).decode()
    except UnicodeDecodeError as error:
        raise WireError("binding.encoding", "A parameter is not UTF-8.") from error


def _unbase64(text: bytes) -> bytes:
    if len(text) > _MAX_ENCODED:
        raise WireError("xml.size", f"The document is larger than {MAX_MESSAGE} bytes.")
    try:
        # Some senders break lines; nothing else is let through.
        return base64.b64decode(b"".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise WireError("binding.base64", "The message is not base64.") from error


def _escaped(value: str) -> str:
    return quote(value, safe="")


def _quoted(value: str) -> bytes:
    return _escaped(value).encode()
