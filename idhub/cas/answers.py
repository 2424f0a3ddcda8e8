"""What an application is answered about a ticket: in a line, in XML or in JSON. CAS 2.4, 2.5, appendix A."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import orjson
from starlette.responses import Response

from providers.saml_wire.writing import Node, render

Code = Literal["INVALID_REQUEST", "INVALID_TICKET_SPEC", "INVALID_TICKET", "INVALID_SERVICE", "UNAUTHORIZED_SERVICE"]
Form = Literal["line", "xml", "json"]
_WORDS: Final[Mapping[Code, str]] = {
    "INVALID_REQUEST": "The request needs service and ticket, each once.",
    "INVALID_TICKET_SPEC": "The ticket does not have the form of a service ticket.",
    "INVALID_TICKET": "The ticket is unknown, spent or no longer valid.",
    "INVALID_SERVICE": "The ticket was issued for another service.",
    "UNAUTHORIZED_SERVICE": "This server issues no proxy tickets.",
}
_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """Who came.

    Args:
        attributes: None: the endpoint tells none.
    """

    user: str
    attributes: Mapping[str, Sequence[str]] | None
    authenticated_at: datetime
    is_fresh: bool

    def told(self) -> dict[str, Sequence[str]]:
        """The attributes, with those that the protocol itself defines (CAS 2.5.7)."""
        if self.attributes is None:
            return {}
        return {
            "authenticationDate": [self.authenticated_at.isoformat(timespec="seconds").replace("+00:00", "Z")],
            "longTermAuthenticationRequestTokenUsed": ["false"],
            "isFromNewLogin": ["true" if self.is_fresh else "false"],
            **self.attributes,
        }


def success(answered: Answered, form: Form) -> Response:
    """The person and what is told of them."""
    if form == "line":
        # CAS 2.4.2: the name ends with its line; what stands in the next one would be read as something else.
        return _response("yes\n" + " ".join(answered.user.splitlines()) + "\n", form)
    told = answered.told()
    if form == "json":
        said: dict[str, Any] = {"user": answered.user, **({"attributes": told} if told else {})}
        return _json({"authenticationSuccess": said})
    attributes = [Node(f"cas:{name}", {}, [value]) for name, values in told.items() for value in values]
    content = [Node("cas:user", {}, [answered.user])]
    if attributes:
        content.append(Node("cas:attributes", {}, attributes))
    return _xml(Node("cas:authenticationSuccess", {}, content))


def failure(code: Code, form: Form) -> Response:
    """Why not; no more than that. The status is 200, as clients expect."""
    if form == "line":
        return _response("no\n\n", form)
    if form == "json":
        return _json({"authenticationFailure": {"code": code, "description": _WORDS[code]}})
    return _xml(Node("cas:authenticationFailure", {"code": code}, [_WORDS[code]]))


def no_proxy_ticket() -> Response:
    """CAS 2.7.2: nobody holds a proxy-granting ticket of ours."""
    return _xml(Node("cas:proxyFailure", {"code": "UNAUTHORIZED_SERVICE"}, [_WORDS["UNAUTHORIZED_SERVICE"]]))


def _xml(content: Node) -> Response:
    return _response(render(Node("cas:serviceResponse", {}, [content])), "xml")


def _json(content: Mapping[str, Any]) -> Response:
    return _response(orjson.dumps({"serviceResponse": content}).decode(), "json")


def _response(text: str, form: Form) -> Response:
    media_type = {"line": "text/plain", "xml": "application/xml", "json": "application/json"}[form]
    return Response(text, media_type=f"{media_type}; charset=utf-8", headers=_HEADERS)
