"""Reading XML of strangers: no DTD, no entities, no network, bounded size and depth, one reading of every text.

What two XML libraries could read in two ways is refused, not interpreted: document types, processing instructions,
repeated IDs, elements inside of a value. Comments vanish while parsing, so that a text they stood in is read whole
(S02: `admin@corp<!---->.evil`).
"""

import re
from datetime import UTC, datetime
from typing import Final

from lxml import etree

from providers.saml_wire.errors import WireError

Element = etree._Element

MAX_MESSAGE: Final = 256 * 1024
"""Bytes of the largest protocol message."""
MAX_METADATA: Final = 2 * 1024 * 1024
"""Bytes of the largest metadata document."""
_MAX_ELEMENTS: Final = 20_000
_MAX_MARKS: Final = 10_000
"""Of a message, how many `<`. 428 bytes inflate to 40,000 elements, which took 20 ms to be read and refused; an answer
with a thousand groups has 2,100."""
_NCNAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,255}")
# xs:dateTime in UTC: SAML Core 1.3.3 wants no other zone. Fractions are read as far as microseconds.
_INSTANT: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|\+00:00)")
_ID_ATTRIBUTES: Final = ("ID", "Id", "id", "{http://www.w3.org/XML/1998/namespace}id")


def parse(document: bytes, *, max_bytes: int = MAX_MESSAGE) -> Element:
    """The root of a document.

    Raises:
        WireError: too large, not UTF-8, not well-formed, with a document type, too deep, or with an ID twice.
    """
    if len(document) > max_bytes:
        raise WireError("xml.size", f"The document is larger than {max_bytes} bytes.")
    try:
        text = document.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise WireError("xml.encoding", "The document is not UTF-8.") from error
    if "\0" in text:
        raise WireError("xml.encoding", "The document is not UTF-8.")
    if max_bytes <= MAX_MESSAGE and text.count("<") > _MAX_MARKS:
        raise WireError("xml.size", f"The document has more than {_MAX_MARKS} marks.")
    # Before the parser sees it: not even the declarations of a document type are read.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise WireError("xml.dtd", "The document has a document type, which is not allowed.")
    try:
        root = etree.fromstring(text.encode(), _parser())
    except (etree.XMLSyntaxError, ValueError) as error:
        raise WireError("xml.form", "The document is not well-formed XML.") from error
    _check_tree(root)
    return root


def _parser() -> etree.XMLParser:
    # One for each document: a parser that threads share queues them.
    return etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        attribute_defaults=False,
        huge_tree=False,
        remove_comments=True,
        strip_cdata=True,
        collect_ids=False,
    )


def _check_tree(root: Element) -> None:
    seen: set[str] = set()
    for count, node in enumerate(root.iter()):
        if count >= _MAX_ELEMENTS:
            raise WireError("xml.size", f"The document has more than {_MAX_ELEMENTS} elements.")
        if not isinstance(node.tag, str):
            raise WireError("xml.instruction", "The document has processing instructions, which are not allowed.")
        for name in _ID_ATTRIBUTES:
            value = node.get(name)
            if value is None:
                continue
            if value in seen:
                raise WireError("xml.repeated_id", "The document has an ID twice.")
            seen.add(value)


def text_of(element: Element) -> str:
    """The whole text of an element that holds nothing else.

    Raises:
        WireError: it holds elements.
    """
    if len(element):
        raise WireError("xml.value", f"{local_name(element)} must hold text alone.")
    # The blanks of XML alone (XML 1.0 section 2.3): a no-break space tells one name from another.
    return (element.text or "").strip(" \t\r\n")


def local_name(element: Element) -> str:
    """The tag without its namespace."""
    return etree.QName(element).localname


def only_child(element: Element, tag: str) -> Element | None:
    """The child with the tag, None without one.

    Raises:
        WireError: there are several.
    """
    found = list(element.iterchildren(tag))
    if len(found) > 1:
        raise WireError("xml.repeated", f"{etree.QName(tag).localname} may stand only once.")
    return found[0] if found else None


def required_child(element: Element, tag: str) -> Element:
    """The only child with the tag.

    Raises:
        WireError: there is none, or there are several.
    """
    found = only_child(element, tag)
    if found is None:
        raise WireError("xml.missing", f"{etree.QName(tag).localname} is missing.")
    return found


def required(element: Element, name: str) -> str:
    """The value of an attribute.

    Raises:
        WireError: it is missing or empty.
    """
    value = element.get(name)
    if not value:
        raise WireError("xml.missing", f"{name} is missing.")
    return value


def read_id(element: Element) -> str:
    """The `ID` of a message: an NCName, so that it can stand in no expression as anything else.

    Raises:
        WireError: missing, or no NCName.
    """
    value = required(element, "ID")
    if not _NCNAME.fullmatch(value):
        raise WireError("xml.id", "ID is not an XML name.")
    return value


def is_name(value: str) -> bool:
    """Whether the value could be the ID of a message."""
    return _NCNAME.fullmatch(value) is not None


def read_instant(value: str, name: str) -> datetime:
    """An instant in UTC (SAML Core 1.3.3).

    Raises:
        WireError: it is none.
    """
    match = _INSTANT.fullmatch(value)
    if match is None:
        raise WireError("xml.instant", f"{name} is not an instant in UTC.")
    try:
        whole = datetime.strptime(match[1], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    except ValueError as error:
        raise WireError("xml.instant", f"{name} is not an instant in UTC.") from error
    return whole.replace(microsecond=int((match[2] or "0").ljust(6, "0")[:6]))


def read_bool(value: str | None, name: str) -> bool:
    """xs:boolean; absent is false.

    Raises:
        WireError: it is none.
    """
    if value in {None, "false", "0"}:
        return False
    if value in {"true", "1"}:
        return True
    raise WireError("xml.boolean", f"{name} must be true or false.")
