"""Hostile forms of signed messages: signature wrapping, and mutants. Plain functions from a document to documents."""

import copy
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lxml import etree

from providers.saml_wire import names

_SIGNATURE = f"{{{names.DS}}}Signature"
_OBJECT = f"{{{names.DS}}}Object"
_EXTENSIONS = f"{{{names.PROTOCOL}}}Extensions"
Spoil = Callable[[Any], None]
"""Makes of a copy of the signed element what the attacker wants to be read."""


def _parts(document: bytes, spoil: Spoil) -> tuple[Any, Any, Any]:
    """The signed element without its signature, the evil one without any, and the signature."""
    signed = etree.fromstring(document)
    signature = signed.find(_SIGNATURE)
    assert signature is not None
    signed.remove(signature)
    evil = copy.deepcopy(signed)
    evil.set("ID", "_evil")
    spoil(evil)
    return signed, evil, signature


def _with_signature(element: Any, signature: Any) -> Any:
    element.insert(1, signature)
    return element


def _original(document: bytes) -> Any:
    return etree.fromstring(document)


def _in_object(document: bytes, spoil: Spoil, *, same_id: bool = False) -> Any:
    signed, evil, signature = _parts(document, spoil)
    if same_id:
        evil.set("ID", signed.get("ID"))
    etree.SubElement(signature, _OBJECT).append(signed)
    return _with_signature(evil, signature)


def _beside(document: bytes, spoil: Spoil, *, first: bool, same_id: bool = False) -> Any:
    signed, evil, signature = _parts(document, spoil)
    if same_id:
        evil.set("ID", signed.get("ID"))
    evil.insert(0, signed) if first else evil.append(signed)
    return _with_signature(evil, signature)


def _around(document: bytes, spoil: Spoil) -> Any:
    """The whole original, signature and all, within the evil one."""
    _, evil, _ = _parts(document, spoil)
    etree.SubElement(evil, _EXTENSIONS).append(_original(document))
    return evil


def _within(document: bytes, spoil: Spoil) -> Any:
    """The evil one within the original."""
    _, evil, _ = _parts(document, spoil)
    root = _original(document)
    etree.SubElement(root, _EXTENSIONS).append(evil)
    return root


def _signature_of_extensions(document: bytes, spoil: Spoil) -> Any:
    signed, evil, signature = _parts(document, spoil)
    extensions = etree.SubElement(evil, _EXTENSIONS)
    extensions.append(signed)
    extensions.append(signature)
    return evil


def _two_signatures(document: bytes, spoil: Spoil) -> Any:
    signed, evil, signature = _parts(document, spoil)
    evil.append(copy.deepcopy(signature))
    signed.insert(1, signature)
    etree.SubElement(evil, _EXTENSIONS).append(signed)
    return evil


WRAPPINGS: Mapping[str, Callable[[bytes, Spoil], Any]] = {
    "XSW1 original beside, after": lambda d, s: _beside(d, s, first=False),
    "XSW2 original beside, before": lambda d, s: _beside(d, s, first=True),
    "XSW3 original within the evil one": _around,
    "XSW4 evil one within the original": _within,
    "XSW5 same ID, original beside": lambda d, s: _beside(d, s, first=False, same_id=True),
    "XSW6 original in the signature's object": _in_object,
    "XSW7 both in extensions": _signature_of_extensions,
    "XSW8 same ID, in the signature's object": lambda d, s: _in_object(d, s, same_id=True),
    "two signatures": _two_signatures,
}


def _edit(document: bytes, path: str, change: Callable[[Any], None]) -> bytes:
    root = etree.fromstring(document)
    found = root.find(path, {"ds": names.DS})
    assert found is not None, path
    change(found)
    return etree.tostring(root)


def _set(path: str, value: str, name: str = "Algorithm") -> Callable[[bytes], bytes]:
    return lambda document: _edit(document, path, lambda element: element.set(name, value))


def _add(path: str, child: str, text: str = "") -> Callable[[bytes], bytes]:
    def change(element: Any) -> None:
        etree.SubElement(element, child).text = text

    return lambda document: _edit(document, path, change)


def _drop(path: str) -> Callable[[bytes], bytes]:
    return lambda document: _edit(document, path, lambda element: element.getparent().remove(element))


_INFO = ".//ds:SignedInfo"
_REFERENCE = _INFO + "/ds:Reference"
_METHOD = _INFO + "/ds:SignatureMethod"
DOWNGRADES: Mapping[str, Callable[[bytes], bytes]] = {
    "RSA with SHA-1": _set(_METHOD, names.DS + "rsa-sha1"),
    "DSA": _set(_METHOD, names.DS + "dsa-sha1"),
    "HMAC with SHA-1": _set(_METHOD, names.DS + "hmac-sha1"),
    "HMAC with SHA-256": _set(_METHOD, "http://www.w3.org/2001/04/xmldsig-more#hmac-sha256"),
    "truncated HMAC": _add(_METHOD, f"{{{names.DS}}}HMACOutputLength", "1"),
    "no algorithm": _set(_METHOD, ""),
    "RSA-MD5": _set(_METHOD, "http://www.w3.org/2001/04/xmldsig-more#rsa-md5"),
    "digest SHA-1": _set(_REFERENCE + "/ds:DigestMethod", names.DS + "sha1"),
    "no digest": _set(_REFERENCE + "/ds:DigestMethod", ""),
    "inclusive canonicalization": _set(
        _INFO + "/ds:CanonicalizationMethod", "http://www.w3.org/TR/2001/REC-xml-c14n-20010315"
    ),
    "XSLT": _set(_REFERENCE + "/ds:Transforms/ds:Transform[2]", "http://www.w3.org/TR/1999/REC-xslt-19991116"),
    "XPath": _set(_REFERENCE + "/ds:Transforms/ds:Transform[2]", "http://www.w3.org/TR/1999/REC-xpath-19991116"),
    "base64": _set(_REFERENCE + "/ds:Transforms/ds:Transform[1]", names.DS + "base64"),
    "a third transform": _add(_REFERENCE + "/ds:Transforms", f"{{{names.DS}}}Transform"),
    "no transforms": _drop(_REFERENCE + "/ds:Transforms"),
    "the whole document": _set(_REFERENCE, "", "URI"),
    "an outer address": _set(_REFERENCE, "https://evil.example/x.xml", "URI"),
    "an XPointer": _set(_REFERENCE, "#xpointer(/)", "URI"),
    "no URI": lambda document: _edit(document, _REFERENCE, lambda element: element.attrib.pop("URI")),
    "a second reference": _add(_INFO, f"{{{names.DS}}}Reference"),
    "a second digest value": _add(_REFERENCE, f"{{{names.DS}}}DigestValue", "AAAA"),
    "an object": _add(".//ds:Signature", _OBJECT),
    "no value": _drop(".//ds:SignatureValue"),
    "no signed info": _drop(_INFO),
}
"""S03, S24 and their siblings. Whatever of it breaks the signature's value too is refused before that is looked at."""


def mutants(document: bytes, *, seed: int) -> Iterator[bytes]:
    """Endless changes of a document: bytes, pieces of text, elements, attributes."""
    chance = random.Random(seed)
    snippets = [
        b"<!---->", b"<?x?>", b"<![CDATA[x]]>", b"&#65;", b"&amp;", b"&lt;", b"\r\n", b" ", b"\x00", b"\xff",
        b'ID="_evil"', b"<a/>", b"<!DOCTYPE a>", b"&x;", b'xmlns:samlp="urn:evil"', b"xml:id='_evil'", b"]]>",
        b"\xef\xbb\xbf", b"\xc3\xa9",
    ]  # fmt: skip
    while True:
        data = bytearray(document)
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            at = chance.randrange(len(data))
            end = min(len(data), at + chance.choice((1, 1, 2, 8, 40, 200)))
            what = chance.randrange(8)
            if what == 0:
                data[at] ^= 1 << chance.randrange(8)
            elif what == 1:
                del data[at:end]
            elif what == 2:
                data[at:at] = data[at:end]
            elif what == 3:
                data[at:at] = chance.choice(snippets)
            elif what == 4:
                other = chance.randrange(len(data))
                data[other:other] = data[at:end]
            else:
                tree = _mutated_tree(bytes(data), chance)
                if tree is not None:
                    data = bytearray(tree)
        yield bytes(data)


def _mutated_tree(data: bytes, chance: random.Random) -> bytes | None:
    try:
        root = etree.fromstring(data, etree.XMLParser(resolve_entities=False, no_network=True))
    except (etree.XMLSyntaxError, ValueError):
        return None
    elements = [one for one in root.iter() if isinstance(one.tag, str)]
    one, other = chance.choice(elements), chance.choice(elements)
    what = chance.randrange(7)
    parent = one.getparent()
    if what == 0 and parent is not None:
        parent.remove(one)
    elif what == 1:
        other.append(copy.deepcopy(one))
    elif what == 2:
        one.text = (one.text or "") + "x"
    elif what == 3:
        one.tail = (one.tail or "") + "x"
    elif what == 4 and one.attrib:
        one.set(chance.choice(list(one.attrib)), "x")
    elif what == 5:
        one.set(chance.choice(("ID", "Id", "id", "x")), chance.choice(("_evil", str(root.get("ID")))))
    elif what == 6:
        one.addprevious(copy.deepcopy(other)) if one is not root else None
    return etree.tostring(root)
