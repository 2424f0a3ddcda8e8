"""Writing messages: a small tree that renders itself as Exclusive Canonical XML 1.0, byte for byte.

What is written is therefore what is signed: no canonicalizer runs over our own output, and a signed message is made at
the speed of its signatures. Prefixes are fixed (`names.PREFIXES`); a namespace is declared where it is first used.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Final

from providers.saml_wire import names

_NAMESPACES: Final[Mapping[str, str]] = {
    **names.PREFIXES,
    "xenc": names.XENC,
    "xenc11": names.XENC11,
    "soap": names.SOAP,
    "saml1": names.ASSERTION11,
    "t": names.TRUST,
    "wsu": names.UTILITY,
    "wsp": names.POLICY,
    "wsa": names.ADDRESSING,
    "fed": names.WSFED,
    "auth": names.AUTHORIZATION,
    "xsi": names.XSI,
    "ec": names.EXCLUSIVE,
    "xml": names.XML,
    "cas": names.CAS,
}
# XML 1.0 section 2.2: what no document may hold, however it is escaped.
_FORBIDDEN: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TEXT: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#xD;"})
_ATTRIBUTE: Final = str.maketrans(
    {"&": "&amp;", "<": "&lt;", '"': "&quot;", "\t": "&#x9;", "\n": "&#xA;", "\r": "&#xD;"}
)
# What either of them changes, or XML forbids: most texts hold none of it, and looking is faster than copying.
_IN_TEXT: Final = re.compile("[^\t\n\u0020-%'-;=?-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_IN_ATTRIBUTE: Final = re.compile("[^\u0020!#-%'-;=-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_OUTERMOST: Final = frozenset({"xml"})


@dataclass(slots=True)
class Node:
    """An element to be written.

    Args:
        tag: with its prefix, `saml:Issuer`.
        attributes: by name, prefixed or not; None values are left out.
        content: elements and texts in order.
        declares: prefixes that values of attributes use (`xsi:type="fed:..."`): canonical XML does not see those, so
            they are declared here, and a signature must name them (`sign`).
    """

    tag: str
    attributes: Mapping[str, str | None] = field(default_factory=dict)
    content: "Sequence[Node | str]" = ()
    declares: tuple[str, ...] = ()


@dataclass(slots=True)
class Written(Node):
    """An element that was written before, as a document of its own, and is put into others as it stands.

    Exclusive canonical form depends on what surrounds an element by one thing alone: which of the namespaces it uses
    are declared already. Where it declares one of those itself, it is written anew.

    Args:
        text: its canonical form.
    """

    text: str = ""

    def stands_within(self, declared: frozenset[str]) -> bool:
        """Whether it is written the same where these are declared; its values may make this false, never true."""
        return not any(f" xmlns:{prefix}=" in self.text for prefix in declared if prefix != "xml")


def instant(value: datetime) -> str:
    """xs:dateTime in UTC, to the millisecond."""
    return value.isoformat(timespec="milliseconds")[:23] + "Z"


def render(node: Node) -> str:
    """The element as Exclusive Canonical XML (without comments)."""
    out: list[str] = []
    _render(node, _OUTERMOST, out)
    return "".join(out)


def render_open(node: Node, first: int) -> tuple[str, str, frozenset[str]]:
    """`render`, cut in two behind the node's first `first` parts: where a signature will stand.

    The third is the prefixes that are declared there.
    """
    before: list[str] = []
    within = _begin(node, _OUTERMOST, before)
    _render_parts(node.content[:first], within, before)
    after: list[str] = []
    _render_parts(node.content[first:], within, after)
    after.append(f"</{node.tag}>")
    return "".join(before), "".join(after), within


def escaped_attribute(value: str) -> str:
    """A value as it stands between the quotes of an attribute."""
    return value if _IN_ATTRIBUTE.search(value) is None else _clean(value).translate(_ATTRIBUTE)


def _render(node: Node, declared: frozenset[str], out: list[str]) -> None:
    if isinstance(node, Written) and node.stands_within(declared):
        out.append(node.text)
        return
    within = _begin(node, declared, out)
    _render_parts(node.content, within, out)
    out.append(f"</{node.tag}>")


def _render_parts(parts: "Sequence[Node | str]", within: frozenset[str], out: list[str]) -> None:
    for part in parts:
        if isinstance(part, str):
            out.append(part if _IN_TEXT.search(part) is None else _clean(part).translate(_TEXT))
        else:
            _render(part, within, out)


def _begin(node: Node, declared: frozenset[str], out: list[str]) -> frozenset[str]:
    """The start tag; returns what is declared behind it."""
    names_given = tuple(name for name, value in node.attributes.items() if value is not None)
    opening, ordered, within = _shape(node.tag, names_given, node.declares, declared)
    out.append(opening)
    for name in ordered:
        out.append(f' {name}="{escaped_attribute(node.attributes[name] or "")}"')
    out.append(">")
    return within


@lru_cache(maxsize=1024)
def _shape(
    tag: str, given: tuple[str, ...], declares: tuple[str, ...], declared: frozenset[str]
) -> tuple[str, tuple[str, ...], frozenset[str]]:
    """What of a start tag does not depend on values: its beginning with declarations, the order of its attributes, and
    what is declared behind it. The same few hundred come again in every message.
    """
    missing = (_used(tag, given) | frozenset(declares)) - declared
    declarations = "".join(f' xmlns:{prefix}="{_NAMESPACES[prefix]}"' for prefix in sorted(missing))
    return f"<{tag}{declarations}", tuple(sorted(given, key=_attribute_order)), declared | missing


def _used(tag: str, names_given: tuple[str, ...]) -> frozenset[str]:
    return frozenset({tag.partition(":")[0], *(name.partition(":")[0] for name in names_given if ":" in name)})


def _attribute_order(name: str) -> tuple[str, str]:
    # Canonical XML section 2.2: by namespace, then by local name; those without a namespace come first.
    prefix, colon, local = name.partition(":")
    return (_NAMESPACES[prefix], local) if colon else ("", prefix)


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
