"""Signed messages in forms that two readers of XML could read in two ways. Plain functions from texts to a text.

Each is handed the message as it was signed and the same with what the attacker wants to be read, under the same ID and
with the same signature. What comes out must be refused, or be read as what was signed.

Sources: ruby-saml CVE-2024-45409, CVE-2025-25291, -25292, -25293, -66567, -66568; xml-crypto CVE-2025-29774, -29775;
passport and GitHub's CVE-2025-23369; "The Fragile Lock" (PortSwigger, 2025).
"""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping

from lxml import etree

from providers.saml_wire import names
from tests.saml.partner import one_signer

Mix = Callable[[str, str], str]
"""From the message that was signed, and the evil one."""
_SIGNATURE = re.compile(r"<ds:Signature .*?</ds:Signature>", re.S)
_INFO = re.compile(r"<ds:SignedInfo>.*?</ds:SignedInfo>", re.S)
_DIGEST = re.compile(r"(<ds:DigestValue>)(.*?)(</ds:DigestValue>)")
_OPEN = re.compile(r"<[^>]*>")


def _first_tag(document: str) -> str:
    found = _OPEN.match(document)
    assert found is not None
    return found[0]


def _at_root(document: str, attributes: str) -> str:
    """More attributes, or declarations, in the first tag."""
    tag = _first_tag(document)
    return document.replace(tag, f"{tag[:-1]} {attributes}>", 1)


def _inside(document: str, inner: str) -> str:
    """Something more at the end of the message."""
    at = document.rindex("</")
    return document[:at] + inner + document[at:]


def _id_of(document: str) -> str:
    found = re.search(r'\bID="([^"]*)"', document)
    assert found is not None
    return found[1]


def _original_with(good: str, attribute: str) -> str:
    """The message that was signed, its ID in another attribute and its signature elsewhere."""
    return _SIGNATURE.sub("", good).replace(f'ID="{_id_of(good)}"', f'{attribute}="{_id_of(good)}"', 1)


def _with_other_ids(document: str) -> str:
    """The message without its signature, to stand in another that has the same IDs."""
    return re.sub(r'\bID="', 'ID="_other', _SIGNATURE.sub("", document))


def _digest(document: str) -> str:
    found = _DIGEST.search(document)
    assert found is not None
    return found[2]


def _with_digest(document: str, digest: str) -> str:
    return _DIGEST.sub(lambda found: found[1] + digest + found[3], document, count=1)


def _signed_again(document: str) -> str:
    """SignedInfo as it stands, signed with the partner's own key: for what an attacker got signed elsewhere."""
    found = _INFO.search(document)
    assert found is not None
    # Alone: the message itself may have no canonical form.
    info = etree.fromstring(found[0].replace("<ds:SignedInfo", f'<ds:SignedInfo xmlns:ds="{names.DS}"', 1))
    value = base64.b64encode(one_signer().sign(etree.tostring(info, method="c14n", exclusive=True))).decode()
    return re.sub(
        r"(<ds:SignatureValue>).*?(</ds:SignatureValue>)", lambda found: found[1] + value + found[2], document
    )


_NOTHING = base64.b64encode(hashlib.sha256(b"").digest()).decode()


def _info_with(evil: str, before: str = "", after: str = "") -> str:
    return _INFO.sub(lambda found: before + found[0] + after, evil, count=1)


def _evil_info(good: str) -> str:
    found = _INFO.search(good)
    assert found is not None
    return _with_digest(found[0], _NOTHING)


REFUSED: Mapping[str, Mix] = {
    # A canonical form that fails must not be the empty one, whose digest everybody knows.
    "no canonical form, digest of nothing": lambda good, evil: _signed_again(
        _with_digest(_at_root(evil, 'xmlns:x="relative"'), _NOTHING)
    ),
    "no canonical form within, digest of nothing": lambda good, evil: _signed_again(
        _with_digest(_inside(evil, '<x:a xmlns:x="./relative"/>'), _NOTHING)
    ),
    "digest of nothing": lambda good, evil: _signed_again(_with_digest(evil, _NOTHING)),
    "no digest at all": lambda good, evil: _signed_again(_with_digest(evil, "")),
    # Which digest, which SignedInfo.
    "the right digest in a comment": lambda good, evil: _with_digest(evil, f"<!--{_digest(good)}-->{_digest(good)}"),
    "another digest before a comment": lambda good, evil: _with_digest(good, f"{_NOTHING}<!---->{_digest(good)}"),
    "a digest in a comment alone": lambda good, evil: _with_digest(good, f"<!--{_digest(good)}-->"),
    "a digest in pieces of CDATA": lambda good, evil: _with_digest(evil, f"<![CDATA[{_digest(good)}]]>"),
    "a second SignedInfo before": lambda good, evil: _info_with(evil, before=_evil_info(good)),
    "a second SignedInfo behind": lambda good, evil: _info_with(evil, after=_evil_info(good)),
    "a second SignedInfo in the first": lambda good, evil: evil.replace(
        "</ds:SignedInfo>", f"{_evil_info(good)}</ds:SignedInfo>", 1
    ),
    "SignedInfo of another namespace": lambda good, evil: _info_with(
        evil, before=_evil_info(good).replace("ds:SignedInfo", "samlp:SignedInfo")
    ),
    "a DigestValue of another namespace": lambda good, evil: evil.replace(
        "<ds:DigestValue>", f'<x:DigestValue xmlns:x="urn:x">{_NOTHING}</x:DigestValue><ds:DigestValue>', 1
    ),
    "SignedInfo in ds:Object": lambda good, evil: evil.replace(
        "</ds:Signature>", f"<ds:Object>{_evil_info(good)}</ds:Object></ds:Signature>", 1
    ),
    # Which element, by which ID.
    "ID in a namespace": lambda good, evil: _at_root(
        evil.replace(f'ID="{_id_of(evil)}"', 'ID="_evil"', 1), f'samlp:ID="{_id_of(evil)}"'
    ),
    "the original within, its ID in a namespace": lambda good, evil: _inside(evil, _original_with(good, "samlp:ID")),
    "the original within, its ID as AssertionID": lambda good, evil: _inside(evil, _original_with(good, "AssertionID")),
    "the original within, its ID as xml:id": lambda good, evil: _inside(evil, _original_with(good, "xml:id")),
    "the original within, its ID as id": lambda good, evil: _inside(evil, _original_with(good, "id")),
    "the original within, without any ID": lambda good, evil: _inside(evil, _original_with(good, "x")),
    "the original in the signature's KeyInfo": lambda good, evil: evil.replace(
        "</ds:KeyInfo>", f"{_with_other_ids(good)}</ds:KeyInfo>", 1
    ),
    "the original behind the root": lambda good, evil: evil + good,
    "one ID under two prefixes": lambda good, evil: _at_root(
        evil, f'xmlns:a="urn:a" xmlns:b="urn:a" a:ID="{_id_of(evil)}" b:ID="_other"'
    ),
    # Which signature.
    "the signature in Extensions": lambda good, evil: _inside(
        _SIGNATURE.sub("", good), f"<samlp:Extensions>{(_SIGNATURE.search(good) or [''])[0]}</samlp:Extensions>"
    ),
    "a namespace that looks like the signature's": lambda good, evil: good.replace(
        f'xmlns:ds="{names.DS}"', f'xmlns:ds="{names.DS[:-1]}"'
    ),
    "a signature without its prefix": lambda good, evil: good.replace("ds:", "").replace("xmlns:ds=", "xmlns="),
    # Which text.
    "DOCTYPE and an entity": lambda good, evil: '<!DOCTYPE a [<!ENTITY x "y">]>' + evil,
    "DOCTYPE with attributes by default": lambda good, evil: (
        f'<!DOCTYPE a [<!ATTLIST {_first_tag(good)[1:].split()[0]} x CDATA "y">]>' + good
    ),
    "DOCTYPE in a comment": lambda good, evil: "<!-- <!DOCTYPE a> -->" + good,
    "UTF-7, declared": lambda good, evil: '<?xml version="1.0" encoding="UTF-7"?>' + good.replace("<", "+ADw-", 1),
    "the evil message after an end that is none": lambda good, evil: good + "<!--" + evil,
    "an instruction in the message": lambda good, evil: _inside(good, "<?evil x?>"),
    "XInclude": lambda good, evil: _inside(
        good, '<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="file:///etc/hostname" parse="text"/>'
    ),
    "a carriage return": lambda good, evil: good.replace("</saml:Issuer>", "&#13;</saml:Issuer>", 1),
    "a character that looks the same": lambda good, evil: good.replace("</saml:Issuer>", "&#x200b;</saml:Issuer>", 1),
    "another prefix list": lambda good, evil: good.replace(
        f'<ds:Transform Algorithm="{names.EXCLUSIVE}"></ds:Transform>',
        f'<ds:Transform Algorithm="{names.EXCLUSIVE}"><ec:InclusiveNamespaces xmlns:ec="{names.EXCLUSIVE}" '
        'PrefixList="#default"></ec:InclusiveNamespaces></ds:Transform>',
    ),
    "evil, and nothing more": lambda good, evil: evil,
}
READ_AS_SIGNED: Mapping[str, Mix] = {
    "as it was": lambda good, evil: good,
    "comments in every text": lambda good, evil: good.replace("</saml:Issuer>", "<!-- evil --></saml:Issuer>", 1),
    "a text in CDATA": lambda good, evil: re.sub(
        r"(<saml:Issuer[^>]*>)([^<]*)(</saml:Issuer>)", r"\1<![CDATA[\2]]>\3", good, count=1
    ),
    "characters by number": lambda good, evil: re.sub(
        r"(<saml:Issuer[^>]*>)(.)", lambda found: f"{found[1]}&#{ord(found[2])};", good, count=1
    ),
    "a digest with a comment in it": lambda good, evil: _with_digest(good, f"<!--{_NOTHING}-->{_digest(good)}"),
    "a value over several lines": lambda good, evil: good.replace("<ds:SignatureValue>", "<ds:SignatureValue>\n ", 1),
    "a namespace that nothing uses": lambda good, evil: _at_root(good, 'xmlns:evil="urn:evil"'),
    "the signature's namespace by a number": lambda good, evil: good.replace(names.DS, f"{names.DS[:-1]}&#35;", 1),
    "the evil message in KeyInfo": lambda good, evil: good.replace(
        "</ds:KeyInfo>", f"{_with_other_ids(evil)}</ds:KeyInfo>", 1
    ),
    "declared as Latin-1": lambda good, evil: '<?xml version="1.0" encoding="ISO-8859-1"?>' + good,
    "an order mark": lambda good, evil: "\ufeff" + good,
    "an instruction before it": lambda good, evil: '<?xml-stylesheet href="evil.xsl"?>' + good,
    "a comment behind it": lambda good, evil: f"{good}<!-- evil -->",
}
