"""Which lane a request of a SCIM sender takes: quick is what an index finds and walks, whatever there is besides.

Told by the request's text alone, before anything is looked at. A request that is taken for quick and is not holds a
thread; one that is taken for slow and is not waits for slow ones. Neither is answered otherwise. Nor is who is known
(`KnownSenders`) asked any less whether their token works.
"""

import hashlib
import re
from collections import OrderedDict
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson

_MOST_SHOWN: Final = 200
_FURTHEST: Final = 1_000
_LONGEST: Final = 2_048
_MOST_KNOWN: Final = 4_096
_VALUE = r'\s+"(?:[^"\\]|\\.)*"\s*'
_FOUND = re.compile(
    r"\s*(?:urn:ietf:params:scim:schemas:(?:core|extension:enterprise):2\.0:User:)?"
    r"(?:id|externalId|userName|employeeNumber|(?:emails|phoneNumbers)(?:\[type eq \"[a-z]+\"\])?(?:\.value)?)\s+eq"
    + _VALUE,
    re.IGNORECASE,
)
"""Filters that an index answers."""
_WALKED = re.compile(
    r"\s*(?:urn:ietf:params:scim:schemas:core:2\.0:User:)?"
    r"(?:userName|displayName|name\.familyName|name\.givenName)\s+sw" + _VALUE,
    re.IGNORECASE,
)
"""Filters in whose order an index is walked, by cursor."""
_BY_NAME = re.compile(r"\s*displayName\s+eq" + _VALUE, re.IGNORECASE)


class KnownSenders:
    """Which tokens were found to work when they were said last: for the line that a request stands in, and nothing
    else. On the event loop alone.
    """

    def __init__(self) -> None:
        self._ids: OrderedDict[bytes, str] = OrderedDict()

    def find(self, unverified_authorization: str) -> str | None:
        """The id of the token; None: nobody has seen it work."""
        return self._ids.get(_digest(unverified_authorization))

    def note(self, authorization: str, token_id: str | None) -> None:
        """Remember which token it was; None: it did not work (any more)."""
        digest = _digest(authorization)
        if token_id is None:
            self._ids.pop(digest, None)
            return
        self._ids[digest] = token_id
        self._ids.move_to_end(digest)
        if len(self._ids) > _MOST_KNOWN:
            self._ids.popitem(last=False)


def _digest(authorization: str) -> bytes:
    return hashlib.sha256(authorization.encode("utf-8", "surrogatepass")).digest()


class Reading(StrEnum):
    """How much a request reads, as far as its text tells."""

    ONE = "one"
    """Whom an index finds, or what describes the server."""
    WALK = "walk"
    """A page in the order of an index."""
    LONG = "long"
    """Whatever else."""


def reading_of(method: str, path: str, query: str, body: bytes) -> Reading:
    """How much a request reads."""
    parts = [part for part in path.split("/") if part]
    if len(query) > _LONGEST or len(body) > _LONGEST:
        return Reading.LONG
    wishes = _wishes(query if method == "GET" else None, body)
    if wishes is None:
        return Reading.LONG
    match parts:
        case ["Users"] | ["Users", ".search"]:
            return _reading_of_list(wishes)
        case ["Groups"] | ["Groups", _]:
            # A group is as long as its members are many.
            left_out = str(wishes.get("excludedattributes", "")).lower().split(",")
            is_short = "members" in left_out
            is_one = len(parts) == 2 or _BY_NAME.fullmatch(str(wishes.get("filter", ""))) is not None
            return Reading.ONE if is_short and is_one else Reading.LONG
        case [] | [".search"]:
            return Reading.LONG
    return Reading.ONE


def _wishes(query: str | None, body: bytes) -> Mapping[str, Any] | None:
    try:
        if query is not None:
            return {name.lower(): value for name, value in parse_qsl(query, keep_blank_values=True, max_num_fields=50)}
        return {name.lower(): value for name, value in orjson.loads(body).items()}
    except (ValueError, AttributeError):
        # It is refused, where it is known why.
        return None


def _reading_of_list(wishes: Mapping[str, Any]) -> Reading:
    try:
        count, start = int(wishes.get("count", 0)), int(wishes.get("startindex", 1))
    except (ValueError, TypeError):
        return Reading.LONG
    if count > _MOST_SHOWN or start > _FURTHEST or "sortby" in wishes:
        return Reading.LONG
    if not count and "count" in wishes and "cursor" in wishes:
        # Asked for no one, it counts everybody.
        return Reading.LONG
    filter_ = wishes.get("filter")
    if filter_ is None:
        return Reading.WALK if "cursor" in wishes else Reading.LONG
    if not isinstance(filter_, str):
        return Reading.LONG
    if _FOUND.fullmatch(filter_) is not None:
        return Reading.ONE
    is_walk = "cursor" in wishes and _WALKED.fullmatch(filter_) is not None
    return Reading.WALK if is_walk else Reading.LONG
