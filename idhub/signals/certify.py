"""How well a relying party ends sessions, and an SSF receiver takes events: named checks, each with its section.

Both are shown what is right and what is wrong; what is wrong first, so that a session that ends early is noticed. What
is signed is signed with the hub's own key, which the other side knows already.
"""

import base64
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import orjson
import sqlalchemy as sa
from sqlalchemy import orm

from idhub.access.tables import OidcClient
from idhub.credentials.tables import SessionParticipant
from idhub.db import new_id
from idhub.delivery.http import OutboundError, OutboundHttp, OutboundRefused, OutboundResponse
from idhub.errors import NotFound
from idhub.keys import Keyring
from idhub.signals.backchannel import EVENT as LOGOUT_EVENT
from scim.certify import Check, Result
from scim.errors import remote_text

TIMEOUT: Final = timedelta(seconds=30)
VERIFICATION: Final = "https://schemas.openid.net/secevent/ssf/event-type/verification"
_LOGOUT: Final = "Back-Channel Logout 1.0 section"
_LIFETIME: Final = 120
_BAD_SIGNATURE: Final = ("invalid_key", "invalid_request", "authentication_failed")
"""Section 2.4 of RFC 8935 has no code of its own for it; each of these fits its words."""
_PATIENCE: Final = 3
"""So many questions without an answer, and none with one, are enough."""
Sign = Callable[[str, Mapping[str, Any]], str]

_WRONG: Final = (
    *("wrong_signature", "alg_none", "wrong_issuer", "wrong_audience", "nonce_present", "events_missing"),
    *("subject_missing", "expired"),
)
"""Tokens that must be refused."""
LOGOUT_CHECKS: Final = tuple(
    Check(*row)
    for row in (
        ("wrong_signature", f"{_LOGOUT} 2.6", "refuses a token with another token's signature", "must"),
        ("alg_none", f"{_LOGOUT} 2.6", "refuses a token without a signature", "must"),
        ("wrong_issuer", f"{_LOGOUT} 2.6", "refuses another issuer's token", "must"),
        ("wrong_audience", f"{_LOGOUT} 2.6", "refuses a token for another client", "must"),
        ("nonce_present", f"{_LOGOUT} 2.4", "refuses a token with a nonce: it may be an ID token", "must"),
        ("events_missing", f"{_LOGOUT} 2.4", "refuses a token without the logout event", "must"),
        ("subject_missing", f"{_LOGOUT} 2.4", "refuses a token that names neither sub nor sid", "must"),
        ("expired", f"{_LOGOUT} 2.6", "refuses a token whose time is over", "must"),
        ("session_survives", f"{_LOGOUT} 2.6", "ends no session for what it refused", "must", _WRONG),
        ("valid_accepted", f"{_LOGOUT} 2.8", "takes a valid token", "must"),
        ("session_ended", f"{_LOGOUT} 2.7", "ends the session for it", "must", ("valid_accepted",)),
        ("replayed_jti", f"{_LOGOUT} 2.6", "refuses the same token again", "should", ("valid_accepted",)),
        ("not_cached", f"{_LOGOUT} 2.8", "forbids to store its answer", "should", ("valid_accepted",)),
    )
)
SSF_CHECKS: Final = tuple(
    Check(*row)
    for row in (
        ("no_authorization", "RFC 8935 section 2.4", "refuses whoever has no credential", "must"),
        ("wrong_signature", "RFC 8935 section 2.4", "refuses a token with another token's signature", "must"),
        ("alg_none", "RFC 8935 section 2.4", "refuses a token without a signature", "must"),
        ("wrong_issuer", "RFC 8935 section 2.4", "refuses another issuer's token", "must"),
        ("wrong_audience", "RFC 8935 section 2.4", "refuses another receiver's token", "must"),
        ("not_a_set", "RFC 8935 section 2.4", "refuses what is no token", "must"),
        ("events_missing", "RFC 8417 section 2.2", "refuses a token without events", "should"),
        ("wrong_media_type", "RFC 8935 section 2.1", "takes application/secevent+jwt alone", "should"),
        ("error_form", "RFC 8935 section 2.3", "refuses by 400 and JSON with `err` and `description`", "should"),
        ("error_codes", "RFC 8935 section 2.4", "says the code of what was wrong", "should", ("error_form",)),
        ("valid_accepted", "RFC 8935 section 2.2", "answers 202 and nothing to a valid token", "must"),
        ("duplicate_accepted", "RFC 8935 section 2", "takes the same token again", "should", ("valid_accepted",)),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Whose session a logout token names, and where one can see whether it lives (`probe`: address and cookie)."""

    client_id: str
    sub: str
    sid: str | None = None
    probe: tuple[str, str] | None = None


def session_of(session: orm.Session, client_id: str, principal_id: str) -> Session:
    """The person's newest live session there, named as this hub's own logout tokens name it.

    Raises:
        NotFound: the person has none.
    """
    row = session.execute(
        sa.select(SessionParticipant.sub, SessionParticipant.sid)
        .where(
            SessionParticipant.client_id == client_id,
            SessionParticipant.principal_id == principal_id,
            SessionParticipant.ended_at.is_(None),
        )
        .order_by(SessionParticipant.last_used_at.desc())
        .limit(1)
    ).one_or_none()
    if row is None:
        raise NotFound("That person has no live session there: sign in to the application first.")
    return Session(client_id=client_id, sub=row.sub, sid=row.sid)


def alg_of(session: orm.Session, client_id: str) -> str:
    """How this hub signs the client's tokens; of a client that it does not know, as most are signed."""
    found = session.scalar(sa.select(OidcClient.id_token_alg).where(OidcClient.client_id == client_id))
    return found or "ES256"


class _Failed(Exception):
    """A check did not find what it looked for."""


class _Absent(Exception):
    """Nothing was named by which this could be seen."""


def broken(results: Sequence[Result]) -> list[Result]:
    """Checks that failed."""
    return [result for result in results if result.verdict == "fail"]


async def certify_logout(
    http: OutboundHttp, uri: str, session: Session, *, keyring: Keyring, issuer: str, alg: str, now: datetime
) -> list[Result]:
    """Grade a relying party's back-channel logout address.

    Raises:
        OutboundRefused: the guard does not let it through.
        OutboundError: nobody answers there.
    """
    kit = _Logout(http, uri, session, lambda typ, claims: keyring.sign_jws("event", typ, claims, alg=alg), issuer, now)
    return await _run(LOGOUT_CHECKS, kit)


async def certify_ssf(
    http: OutboundHttp,
    uri: str,
    audience: str,
    *,
    token: str | None,
    keyring: Keyring,
    issuer: str,
    now: datetime,
    alg: str | None = None,
) -> list[Result]:
    """Grade a receiver of security event tokens by push (RFC 8935); `alg` as streams are signed unless it is named.

    Raises:
        OutboundRefused: the guard does not let it through.
        OutboundError: nobody answers there.
    """
    kit = _Push(
        http, uri, audience, token, lambda typ, claims: keyring.sign_jws("event", typ, claims, alg=alg), issuer, now
    )
    return await _run(SSF_CHECKS, kit)


async def _run(checks: Sequence[Check], kit: Any) -> list[Result]:
    results: dict[str, Result] = {}
    unanswered: list[OutboundError] = []
    for check in checks:
        missing = [name for name in check.needs if results[name].verdict != "pass"]
        if missing:
            results[check.name] = Result(check, "skipped", f"rests on {missing[0]}")
            continue
        step: Callable[[], Awaitable[None]] = getattr(kit, check.name)
        try:
            await step()
        except _Failed as failed:
            results[check.name] = Result(check, "fail", str(failed)[:300])
        except _Absent as absent:
            results[check.name] = Result(check, "absent", str(absent))
        except OutboundRefused:
            raise
        except OutboundError as error:
            unanswered.append(error)
            if len(unanswered) == _PATIENCE == sum(result.verdict != "absent" for result in results.values()) + 1:
                # Nobody is there: that is no verdict on anybody.
                raise
            results[check.name] = Result(check, "fail", error.description[:300])
        else:
            results[check.name] = Result(check, "pass")
    return list(results.values())


def _spliced(one: str, other: str) -> str:
    """The content of a token under the signature of another one: each is right, together they are not."""
    return f"{one.rpartition('.')[0]}.{other.rpartition('.')[2]}"


def _unsigned(typ: str, claims: Mapping[str, Any]) -> str:
    parts = (orjson.dumps({"alg": "none", "typ": typ}), orjson.dumps(dict(claims)))
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + "."


class _Logout:
    """The checks of a back-channel logout address, each under its name."""

    _TYPE: Final = "logout+jwt"

    def __init__(self, http: OutboundHttp, uri: str, session: Session, sign: Sign, issuer: str, now: datetime) -> None:
        self._http, self._uri, self._session = http, uri, session
        self._sign, self._issuer = sign, issuer
        self._start, self._began = now.timestamp(), time.monotonic()
        self._valid: tuple[str, OutboundResponse] | None = None

    def _claims(self, **changes: Any) -> dict[str, Any]:
        issued_at = int(self._start + time.monotonic() - self._began)
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "aud": self._session.client_id,
            "iat": issued_at,
            "exp": issued_at + _LIFETIME,
            "jti": new_id("crt"),
            "events": {LOGOUT_EVENT: {}},
            "sub": self._session.sub,
            **({"sid": self._session.sid} if self._session.sid else {}),
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    async def _post(self, token: str) -> OutboundResponse:
        return await self._http.request("POST", self._uri, data={"logout_token": token}, timeout=TIMEOUT)

    async def _refused(self, token: str) -> None:
        answer = await self._post(token)
        if not 400 <= answer.status < 500:
            raise _Failed(f"answered {answer.status}")

    async def wrong_signature(self) -> None:
        one, other = (self._sign(self._TYPE, self._claims()) for _ in range(2))
        await self._refused(_spliced(one, other))

    async def alg_none(self) -> None:
        await self._refused(_unsigned(self._TYPE, self._claims()))

    async def wrong_issuer(self) -> None:
        await self._refused(self._sign(self._TYPE, self._claims(iss="https://another-issuer.example")))

    async def wrong_audience(self) -> None:
        await self._refused(self._sign(self._TYPE, self._claims(aud="another-client")))

    async def nonce_present(self) -> None:
        await self._refused(self._sign(self._TYPE, self._claims(nonce="n-0S6_WzA2Mj")))

    async def events_missing(self) -> None:
        await self._refused(self._sign(self._TYPE, self._claims(events=None)))

    async def subject_missing(self) -> None:
        await self._refused(self._sign(self._TYPE, self._claims(sub=None, sid=None)))

    async def expired(self) -> None:
        long_ago = int(self._start) - 86_400
        await self._refused(self._sign(self._TYPE, self._claims(iat=long_ago, exp=long_ago + _LIFETIME)))

    async def session_survives(self) -> None:
        if not await self._lives():
            raise _Failed("the session ended before a valid token was sent")

    async def valid_accepted(self) -> None:
        token = self._sign(self._TYPE, self._claims())
        answer = await self._post(token)
        # Section 2.8: 200, and 204 by implementations that say "no content".
        if answer.status not in {200, 204}:
            raise _Failed(f"answered {answer.status}")
        self._valid = (token, answer)

    async def session_ended(self) -> None:
        if await self._lives():
            # Some know sessions by one of the two alone; tokens of this hub have both.
            raise _Failed("the session goes on" + ("" if self._session.sid else "; it was named by sub alone, not sid"))

    async def replayed_jti(self) -> None:
        if self._valid is not None:
            await self._refused(self._valid[0])

    async def not_cached(self) -> None:
        said = self._valid[1].headers.get("Cache-Control", "") if self._valid else ""
        if "no-store" not in said.lower():
            raise _Failed(f"says Cache-Control: {remote_text(said) or 'nothing'}")

    async def _lives(self) -> bool:
        if self._session.probe is None:
            raise _Absent("no page of the session was named")
        address, cookie = self._session.probe
        answer = await self._http.request("GET", address, headers={"Cookie": cookie}, timeout=TIMEOUT)
        return answer.is_success


class _Push:
    """The checks of a receiver of pushed event tokens, each under its name."""

    _TYPE: Final = "secevent+jwt"

    def __init__(
        self, http: OutboundHttp, uri: str, audience: str, token: str | None, sign: Sign, issuer: str, now: datetime
    ) -> None:
        self._http, self._uri, self._audience, self._token = http, uri, audience, token
        self._sign, self._issuer, self._now = sign, issuer, now
        self._errors: list[OutboundResponse] = []
        self._wrong_codes: list[str] = []
        self._valid = ""

    def _claims(self, **changes: Any) -> dict[str, Any]:
        jti = new_id("crt")
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "aud": self._audience,
            "iat": int(self._now.timestamp()),
            "jti": jti,
            "sub_id": {"format": "opaque", "id": jti},
            "events": {VERIFICATION: {"state": jti}},
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    async def _post(self, token: str, *, media: str = "application/secevent+jwt", anonymous: bool = False) -> Any:
        headers = {"Content-Type": media, "Accept": "application/json"}
        if self._token and not anonymous:
            headers["Authorization"] = f"Bearer {self._token}"
        answer = await self._http.request("POST", self._uri, data=token.encode(), headers=headers, timeout=TIMEOUT)
        if answer.status == 400:
            self._errors.append(answer)
        return answer

    async def _refused(self, token: str, *codes: str) -> None:
        """It must be refused; in which words is looked at later, by checks of their own."""
        answer = await self._post(token)
        if not 400 <= answer.status < 500:
            raise _Failed(f"answered {answer.status}")
        if answer.status != 400:
            self._errors.append(answer)
        said = _document(answer).get("err")
        if said not in codes:
            self._wrong_codes.append(f"{remote_text(said)[:60]} for {' or '.join(codes)}")

    async def no_authorization(self) -> None:
        if self._token is None:
            raise _Absent("no credential was given")
        answer = await self._post(self._sign(self._TYPE, self._claims()), anonymous=True)
        is_told = answer.status == 400 and _document(answer).get("err") in {"authentication_failed", "access_denied"}
        if answer.status not in {401, 403} and not is_told:
            raise _Failed(f"answered {answer.status}")

    async def wrong_signature(self) -> None:
        one, other = (self._sign(self._TYPE, self._claims()) for _ in range(2))
        await self._refused(_spliced(one, other), *_BAD_SIGNATURE)

    async def alg_none(self) -> None:
        await self._refused(_unsigned(self._TYPE, self._claims()), *_BAD_SIGNATURE)

    async def wrong_issuer(self) -> None:
        await self._refused(
            self._sign(self._TYPE, self._claims(iss="https://another-issuer.example")), "invalid_issuer"
        )

    async def wrong_audience(self) -> None:
        token = self._sign(self._TYPE, self._claims(aud="https://another-receiver.example"))
        await self._refused(token, "invalid_audience")

    async def not_a_set(self) -> None:
        await self._refused("this is no token", "invalid_request")

    async def events_missing(self) -> None:
        await self._refused(self._sign(self._TYPE, self._claims(events=None)), "invalid_request")

    async def wrong_media_type(self) -> None:
        answer = await self._post(self._sign(self._TYPE, self._claims()), media="text/plain")
        if not 400 <= answer.status < 500:
            raise _Failed(f"answered {answer.status}")

    async def error_form(self) -> None:
        if not self._errors:
            raise _Failed("no error was seen")
        for answer in self._errors:
            if answer.status != 400:
                raise _Failed(f"refused by {answer.status}")
            document = _document(answer)
            media = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            if media != "application/json" or not all(isinstance(document.get(k), str) for k in ("err", "description")):
                raise _Failed("an error is no JSON with `err` and `description`")

    async def error_codes(self) -> None:
        if self._wrong_codes:
            raise _Failed(f"says {self._wrong_codes[0]}")

    async def valid_accepted(self) -> None:
        self._valid = self._sign(self._TYPE, self._claims())
        answer = await self._post(self._valid)
        if answer.status != 202 or answer.body:
            said = ": ".join(
                remote_text(text)[:100] for text in map(_document(answer).get, ("err", "description")) if text
            )
            raise _Failed(
                f"answered {answer.status}" + (f": {said}" if said else " with a body" if answer.body else "")
            )

    async def duplicate_accepted(self) -> None:
        answer = await self._post(self._valid)
        if answer.status != 202:
            raise _Failed(f"answered {answer.status}")


def _document(answer: OutboundResponse) -> dict[str, Any]:
    try:
        document = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}
