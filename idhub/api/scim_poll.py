"""A receiver fetches the tokens of its stream and says which it has (RFC 8936)."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from idhub.api.access import ApiCaller
from idhub.api.scim_desk import DeskServices, translated
from idhub.api.scim_streams import next_tokens, stream_of
from idhub.authority import Action
from idhub.provisioning.events.waiting import take_away
from scim.errors import InvalidSyntax, InvalidValue, NotFound
from scim.messages import Forbidden, MethodNotAllowed, ScimResponse, TooLarge, UnsupportedMedia
from scim.reading import parse_json

WAIT_SECONDS: Final = 10
"""How long a request waits for something to be told, unless it says `returnImmediately`."""
_MOST: Final = 100
_MOST_NAMED: Final = 1_000
_MAX_BODY: Final = 1_000_000
_LONGEST_ID: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    most: int = _MOST
    waits: bool = True
    taken: Collection[str] = ()
    refused: Collection[str] = field(default_factory=tuple)


def poll(
    services: DeskServices,
    caller: ApiCaller,
    stream_id: str,
    *,
    method: str,
    media_type: str,
    body: bytes,
    may_wait: bool,
) -> ScimResponse | None:
    """Forget what the receiver has, and answer with what is next. None: nothing is, and it would rather wait.

    Raises:
        RequestError: the request is not one of RFC 8936 section 2.2, or the stream is not this token's.
    """
    if Action.PEOPLE_READ not in (caller.subject.actions or ()):
        raise Forbidden("This token reads nobody.")
    if method != "POST":
        raise MethodNotAllowed(["POST"])
    if media_type not in {"", "application/json"}:
        raise UnsupportedMedia("Send application/json.")
    if len(body) > _MAX_BODY:
        raise TooLarge(f"The body has more than {_MAX_BODY} bytes.")
    wish = _read(parse_json(body or b"{}"))
    with translated():
        with services.database.read() as session:
            stream = stream_of(session, stream_id)
            own = (caller.name, caller.subject.organization_id)
            if stream is None or stream.push_url is not None or (stream.token_name, stream.organization_id) != own:
                raise NotFound("There is no such stream for this token to poll.")
        if wish.taken or wish.refused:
            with services.database.transaction() as session:
                take_away(session, stream_id, wish.taken, wish.refused, now=services.clock())
        with services.database.read() as session:
            # One more than is asked for tells whether there are more.
            listed = next_tokens(services, session, stream, caller, most=wish.most + 1)
    told, more = listed[: wish.most], len(listed) > wish.most
    if not told and wish.most and wish.waits and may_wait:
        return None
    answer = {"sets": {each.id: each.token for each in told}, **({"moreAvailable": True} if more else {})}
    return ScimResponse(status=200, body=orjson.dumps(answer), headers={"Content-Type": "application/json"})


def _read(document: Mapping[str, Any]) -> _Wish:
    most, at_once = document.get("maxEvents", _MOST), document.get("returnImmediately", False)
    if not isinstance(most, int) or isinstance(most, bool) or most < 0:
        raise InvalidValue("maxEvents must be a whole number, not below zero.", attribute="maxEvents")
    if not isinstance(at_once, bool):
        raise InvalidValue("returnImmediately must be true or false.", attribute="returnImmediately")
    taken, errors = document.get("ack", []), document.get("setErrs", {})
    if not isinstance(taken, list) or not _are_ids(taken):
        raise InvalidValue("ack must be a list of jti, at most 1,000.", attribute="ack")
    if not isinstance(errors, dict) or not _are_ids(errors) or not all(isinstance(e, dict) for e in errors.values()):
        raise InvalidSyntax("setErrs must be an object of objects, by jti, at most 1,000.", attribute="setErrs")
    return _Wish(most=min(most, _MOST), waits=not at_once, taken=taken, refused=tuple(errors))


def _are_ids(values: Collection[Any]) -> bool:
    return len(values) <= _MOST_NAMED and all(isinstance(each, str) and len(each) <= _LONGEST_ID for each in values)
