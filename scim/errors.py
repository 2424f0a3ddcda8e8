"""What can go wrong when SCIM is spoken, on this side of the wire and on the other.

ScimError                    description (safe to show, stable) and cause (logs only)
 ├─ RequestError             a request to our server cannot be met; carries its scimType
 │   ├─ InvalidFilter        the filter cannot be read, or does not fit the attributes it names
 │   ├─ InvalidPath          the path of a PATCH cannot be read, or names no attribute
 │   ├─ InvalidSyntax        the body is not what the schema of the message says
 │   ├─ InvalidValue         a value does not fit its attribute
 │   ├─ InvalidCursor        a cursor that is not of this list (RFC 9865)
 │   ├─ InvalidCount         no number of resources for a list by cursor (RFC 9865)
 │   ├─ NoTarget             a PATCH operation selects nothing that it could act upon
 │   ├─ NotMutable           the attribute cannot be changed so
 │   ├─ NotUnique            somebody else has a value that must be unique
 │   ├─ NotFound             there is no such resource, or none that the caller may see
 │   ├─ VersionDiffers       If-Match names another version
 │   └─ TooMany              the filter would have to look at more than the server is willing to
 └─ RemoteError              the other side, or the way to it
     ├─ RemoteUnavailable    try again: time-out, connection, 429, 5xx, an answer that makes no sense
     ├─ RemoteUnauthorized   our credential is refused: 401, 403
     ├─ RemoteNotFound       404, 410
     ├─ RemoteConflict       409, or scimType uniqueness: somebody else has what we asked for
     └─ RemoteRefused        any other 4xx: sending the same again changes nothing
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final, Literal, TypeAlias

MAX_REMOTE_TEXT: Final = 300
"""How many characters of the other side's words an error keeps."""

# Control, format (bidi, zero width), surrogate and line-separating characters reach no page, log line or terminal.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\uffff]+"
)
_CREDENTIAL: Final = re.compile(r"(?i)\b(bearer|basic|dpop)\s+[A-Za-z0-9._~+/=-]{4,}")


class ScimError(Exception):
    """Base of everything the `scim` package raises on purpose."""

    def __init__(self, description: str, *, cause: str | None = None) -> None:
        super().__init__(description)
        self.description = description
        self.cause = cause


class RequestError(ScimError):
    """A request that our server cannot meet, in the words of RFC 7644 section 3.12, table 9.

    `attribute` names the attribute that is unknown or misused, as the request spells it.
    """

    status: int = 400
    scim_type: str | None = None

    def __init__(self, description: str, *, attribute: str | None = None) -> None:
        super().__init__(description)
        self.attribute = attribute


class InvalidFilter(RequestError):
    """The filter cannot be read or does not fit (RFC 7644 section 3.12, scimType `invalidFilter`)."""

    scim_type = "invalidFilter"

    def __init__(self, description: str, *, attribute: str | None = None, position: int | None = None) -> None:
        super().__init__(description, attribute=attribute)
        self.position = position


class InvalidPath(RequestError):
    """The path of a PATCH operation cannot be read or leads to no attribute."""

    scim_type = "invalidPath"


class InvalidSyntax(RequestError):
    """The body is no JSON, or is not built as the message's schema says."""

    scim_type = "invalidSyntax"


class InvalidValue(RequestError):
    """A required value is missing, or a value does not fit the attribute's type."""

    scim_type = "invalidValue"


class InvalidCursor(RequestError):
    """The cursor is not of this list (RFC 9865 section 2.1, `invalidCursor`)."""

    scim_type = "invalidCursor"


class InvalidCount(RequestError):
    """A list by cursor is asked for with no number of resources (RFC 9865 section 2.1, `invalidCount`)."""

    scim_type = "invalidCount"


class NoTarget(RequestError):
    """A PATCH operation selects nothing that it could act upon."""

    scim_type = "noTarget"


class NotMutable(RequestError):
    """The attribute's mutability does not permit the change."""

    scim_type = "mutability"


class NotUnique(RequestError):
    """Another resource has a value that must be unique (RFC 7644 section 3.3)."""

    status = 409
    scim_type = "uniqueness"


class NotFound(RequestError):
    """There is no such resource or address, or none that the caller may see."""

    status = 404


class VersionDiffers(RequestError):
    """The resource is of another version than the one that If-Match names (RFC 7644 section 3.14)."""

    status = 412


class TooMany(RequestError):
    """The filter would look at, or find, more than the server is willing to."""

    scim_type = "tooMany"


class RemoteError(ScimError):
    """The other side refused, failed or could not be reached.

    `description` carries its own words, bounded and without credentials or control characters.
    `status_code` is None when no answer came.
    """

    def __init__(
        self,
        description: str,
        *,
        status_code: int | None = None,
        scim_type: str | None = None,
        cause: str | None = None,
    ) -> None:
        super().__init__(description, cause=cause)
        self.status_code = status_code
        self.scim_type = scim_type


Failing: TypeAlias = Literal["failing", "unreachable", "tls", "rate_limit"]
"""How a service is unavailable: answers 5xx or nonsense; no connection or no answer; no trust; asks for patience."""


class RemoteUnavailable(RemoteError):
    """Worth trying again, not before `retry_after` when the other side named one.

    `may_have_arrived`: no answer came, so the request may have been applied or may still be.
    """

    def __init__(
        self,
        description: str,
        *,
        status_code: int | None = None,
        retry_after: timedelta | None = None,
        may_have_arrived: bool = False,
        how: Failing = "failing",
        cause: str | None = None,
    ) -> None:
        super().__init__(description, status_code=status_code, cause=cause)
        self.how = how
        self.retry_after = retry_after
        self.may_have_arrived = may_have_arrived


class RemoteUnauthorized(RemoteError):
    """Our credential is missing, expired or not enough (401, 403)."""


class RemoteNotFound(RemoteError):
    """The resource is not there (404, 410)."""


class RemoteConflict(RemoteError):
    """A unique value we sent belongs to another resource (409; RFC 7644 section 3.3, `uniqueness`)."""


class RemoteRefused(RemoteError):
    """The request itself is not acceptable to the other side; repeating it changes nothing."""


def words_of(answer: object, *, secrets: tuple[str, ...] = ()) -> str:
    """What the body of an error says, by RFC 7644 section 3.12 or in a name that others use; fit to show."""
    said = answer if isinstance(answer, dict) else {}
    texts = (remote_text(said.get(name), secrets=secrets) for name in ("detail", "message", "error"))
    return next(filter(None, texts), "")


def remote_text(text: object, *, secrets: tuple[str, ...] = ()) -> str:
    """The other side's words, made fit to show: one line, bounded, without credentials.

    A reply may echo what it was sent, so every string of `secrets` is struck out, and so is
    anything that looks like an Authorization value.
    """
    if not isinstance(text, str):
        return ""
    # The secrets go first: cutting before would let the first half of one through.
    for secret in secrets:
        if secret:
            text = text.replace(secret, "[redacted]")
    text = _CREDENTIAL.sub(r"\1 [redacted]", text[: MAX_REMOTE_TEXT * 8])
    text = " ".join(_UNSAFE.sub(" ", text).split())
    return text if len(text) <= MAX_REMOTE_TEXT else text[: MAX_REMOTE_TEXT - 1] + "…"
