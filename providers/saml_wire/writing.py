"""Writing messages: a small tree that renders itself as Exclusive Canonical XML 1.0, byte for byte.

What is written is therefore what is signed: no canonicalizer runs over our own output, and a signed message is made at
the speed of its signatures. Prefixes are fixed (`names.PREFIXES`); a namespace is declared where it is first used.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from providers.saml_wire import names

_NAMESPACES: Final[Mapping[str, str]] = {
    **names.PREFIXES,
    "xenc": names.XENC,
    "xenc11": names.XENC11,
    "soap": names.SOAP,
    "xml": names.XML,
}
# XML 1.0 section 2.2: what no document may hold, however it is escaped.
_FORBIDDEN: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TEXT: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#xD;"})
_ATTRIBUTE: Final = str.maketrans(
    {"&": "&amp;", "<": "&lt;", '"': "&quot;", "\t": "&#x9;", "\n": "&#xA;", "\r": "&#xD;"}
)


@dataclass(slots=True)
class Node:
    """An element to be written.

    Args:
        tag: with its prefix, `saml:Issuer`.
        attributes: by name, prefixed or not; None values are left out.
        content: elements and texts in order.
    """

    tag: str
    attributes: Mapping[str, str | None] = field(default_factory=dict)
    content: "Sequence[Node | str]" = ()


def render(node: Node) -> str:
    """The element as Exclusive Canonical XML (without comments)."""
    out: list[str] = []
    _render(node, frozenset({"xml"}), out)
    return "".join(out)


def _render(node: Node, declared: frozenset[str], out: list[str]) -> None:
    given = [(name, value) for name, value in node.attributes.items() if value is not None]
    used = {node.tag.partition(":")[0], *(name.partition(":")[0] for name, _ in given if ":" in name)}
    missing = used - declared
    out.append(f"<{node.tag}")
    for prefix in sorted(missing):
        out.append(f' xmlns:{prefix}="{_NAMESPACES[prefix]}"')
    for name, value in sorted(given, key=_attribute_order):
        out.append(f' {name}="{_clean(value).translate(_ATTRIBUTE)}"')
    out.append(">")
    within = declared | missing if missing else declared
    for part in node.content:
        if isinstance(part, str):
            out.append(_clean(part).translate(_TEXT))
        else:
            _render(part, within, out)
    out.append(f"</{node.tag}>")


def _attribute_order(attribute: tuple[str, str]) -> tuple[str, str]:
    # Canonical XML section 2.2: by namespace, then by local name; those without a namespace come first.
    prefix, colon, local = attribute[0].partition(":")
    return (_NAMESPACES[prefix], local) if colon else ("", prefix)


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
