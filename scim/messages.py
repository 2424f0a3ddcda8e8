"""Requests, answers and the errors of a server, apart from any web framework (RFC 7644 section 3.12)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from scim.errors import RequestError
from scim.schemas import ERROR

MEDIA_TYPE: Final = "application/scim+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScimRequest:
    """A request: `path` below the base address, header names in lower case."""

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScimResponse:
    """An answer; `error` is what was refused, `refused` what operations of a bulk were, for whoever records it."""

    status: int
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    error: RequestError | None = None
    refused: tuple[RequestError, ...] = ()


class Forbidden(RequestError):
    """Not to be had by anybody, or not by this caller."""

    status = 403


class MethodNotAllowed(RequestError):
    """The address does not take this method."""

    status = 405

    def __init__(self, allowed: Sequence[str]) -> None:
        super().__init__(f"This address takes {', '.join(allowed)}.")
        self.allowed = tuple(allowed)


class TooLarge(RequestError):
    """The body is larger than the server reads."""

    status = 413


class UnsupportedMedia(RequestError):
    """The body is of a media type that the server does not read."""

    status = 415


def error_response(error: RequestError) -> ScimResponse:
    """RFC 7644 section 3.12."""
    document: dict[str, Any] = {"schemas": [ERROR], "status": str(error.status), "detail": error.description}
    if error.scim_type is not None:
        document["scimType"] = error.scim_type
    headers = {"Allow": ", ".join(error.allowed)} if isinstance(error, MethodNotAllowed) else {}
    return ScimResponse(
        status=error.status,
        body=orjson.dumps(document),
        headers={"Content-Type": MEDIA_TYPE, **headers},
        error=error,
    )
