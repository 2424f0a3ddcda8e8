"""Who calls the API: a token in the Authorization header, and nothing else."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Protocol

from fastapi import Depends, Request
from sqlalchemy import Connection, Select, bindparam, literal, select
from sqlalchemy.orm import Session

from idhub.api.scopes import SCIM_SCOPES, SCOPES, actions_of
from idhub.authority import Action, Subject
from idhub.changes import Actor
from idhub.credentials import opaque
from idhub.credentials.api_tokens import is_usable
from idhub.credentials.tables import ApiToken
from idhub.db import Database
from idhub.directory.tables import Installation
from idhub.errors import IdhubError
from idhub.kept import Planned
from idhub.lifecycle import commands
from idhub.lifecycle.doors import Door
from idhub.login.addresses import client_address, trusted_networks
from idhub.provisioning.inbound.extensions import REGISTERED
from idhub.settings import Settings

SCHEME = "bearer"


_DEAD: Final = "token.dead"


class Unauthenticated(IdhubError):
    """No token, or one that does not work (any more)."""

    @property
    def challenge(self) -> str:
        """`WWW-Authenticate` of the answer (RFC 6750 section 3): whoever sent no token is told of no error of one."""
        return INVALID if self.rule == _DEAD else 'Bearer realm="idhub"'


INVALID: Final = 'Bearer realm="idhub", error="invalid_token"'
"""`WWW-Authenticate` where a token was sent that does not work (any more)."""


class _Services(Protocol):
    @property
    def settings(self) -> Settings: ...

    @property
    def database(self) -> Database: ...

    @property
    def clock(self) -> Callable[[], datetime]: ...


@dataclass(frozen=True, slots=True)
class ApiCaller:
    """The token behind a call."""

    token_id: str
    subject: Subject
    lifecycle: commands.Caller
    name: str = ""
    terms: Mapping[str, Any] | None = None
    """What its row says of it as a SCIM sender; `idhub.provisioning.inbound.terms` reads it."""
    extensions: str = ""
    """Of who comes through the door of SCIM: `idhub.provisioning.inbound.extensions.REGISTERED`."""

    @property
    def writes(self) -> bool:
        """Whether it may change people at all."""
        return self.subject.actions is None or Action.PEOPLE_CHANGE in self.subject.actions


_SCOPES_BEHIND: Mapping[Door, Mapping[str, frozenset[Action]]] = {Door.API: SCOPES, Door.SCIM: SCIM_SCOPES}


def authenticate(
    services: _Services, request: Request, *, door: Door = Door.API, session: Session | None = None
) -> ApiCaller:
    """The caller of a request. Runs before its body is looked at: strangers learn nothing about what a body must be.

    Args:
        door: whose scopes count.
        session: a snapshot to look in that begins with the request; None: one of its own.

    Raises:
        Unauthenticated: no usable token.
    """
    value = _said(request)
    if not value:
        raise Unauthenticated("Send a token: `Authorization: Bearer ...`.", field="authorization", rule="token")
    row = None
    if opaque.looks_valid("api", value):
        with services.database.read() if session is None else nullcontext(session) as snapshot:
            row = _find(snapshot, _BY_VALUE[door], opaque.hash_of(value), now=services.clock())
    if row is None:
        raise Unauthenticated("This token does not work (any more).", field="authorization", rule=_DEAD)
    request_id = getattr(request.state, "request_id", None)
    return _caller(row, door, address=address_of(services, request), request_id=request_id)


def asked_first(request: Request, *, door: Door) -> Callable[[Connection], None] | None:
    """What `authenticate` asks, for a snapshot to begin with (`Database.read(first=)`); None: it asks nothing."""
    value = _said(request)
    return _BY_VALUE[door].first({"which": opaque.hash_of(value)}) if opaque.looks_valid("api", value) else None


def _said(request: Request) -> str:
    """The token that a request says; empty: none."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == SCHEME else ""


def caller_asked_first(token_id: str, *, door: Door) -> Callable[[Connection], None]:
    """The same of `caller_of`."""
    return _BY_ID[door].first({"which": token_id})


def caller_of(
    session: Session, token_id: str, *, door: Door, now: datetime, request_id: str | None = None
) -> ApiCaller | None:
    """The caller behind a token that asked for something which is done later; None when it does not work any more."""
    row = _find(session, _BY_ID[door], token_id, now=now)
    return None if row is None else _caller(row, door, address=None, request_id=request_id)


def _caller(row: Any, door: Door, *, address: str | None, request_id: str | None) -> ApiCaller:
    subject = Subject(
        principal_id=row.principal_id,
        actions=actions_of(row.scopes, known=_SCOPES_BEHIND[door]),
        organization_id=row.organization_id,
    )
    actor = Actor(kind="service", id=row.id, name=row.name, ip=address)
    lifecycle = commands.Caller(subject=subject, actor=actor, door=door, request_id=request_id)
    return ApiCaller(row.id, subject, lifecycle, row.name, row.terms, row.extensions)


def address_of(services: _Services, request: Request) -> str:
    """Where the request came from, as far as trusted proxies tell."""
    peer = request.client.host if request.client else "unknown"
    trusted = trusted_networks(services.settings.trusted_proxies)
    return client_address(peer, request.headers.getlist("x-forwarded-for"), trusted)


async def _caller_of(request: Request) -> ApiCaller:
    caller: ApiCaller = request.state.api_caller
    return caller


Caller = Annotated[ApiCaller, Depends(_caller_of)]
"""Parameter of a route: who calls. The route class of `idhub.api.errors` has authenticated them before."""


# Made once: building a statement costs more than what it asks.
_TOKENS = select(
    ApiToken.id,
    ApiToken.name,
    ApiToken.principal_id,
    ApiToken.scopes,
    ApiToken.organization_id,
    ApiToken.terms,
    ApiToken.enrolment_epoch,
    ApiToken.expires_at,
    ApiToken.revoked_at,
).where(ApiToken.installation_epoch == select(Installation.epoch).scalar_subquery())
_OF_DOOR: Mapping[Door, Select[Any]] = {
    Door.API: _TOKENS.add_columns(literal("").label("extensions")),
    # What every request there needs besides costs no statement of its own.
    Door.SCIM: _TOKENS.add_columns(REGISTERED.label("extensions")),
}
_BY_VALUE = {
    door: Planned(tokens.where(ApiToken.token_hash == bindparam("which"))) for door, tokens in _OF_DOOR.items()
}
_BY_ID = {door: Planned(tokens.where(ApiToken.id == bindparam("which"))) for door, tokens in _OF_DOOR.items()}


def _find(session: Session, tokens: Planned, which: object, *, now: datetime) -> Any:
    """The token's row if it may be used now: not revoked or expired, its epochs equal, its person active."""
    row = next(iter(tokens.all(session, {"which": which})), None)
    return row if row is not None and is_usable(session, row, now=now) else None
