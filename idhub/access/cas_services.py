"""CAS services of applications: what configuration wants of them, and which of them an address belongs to.

CAS has no client_id: whoever asks is known by the address that the ticket goes to (`service`). So the rule by which an
address belongs to an application is what stands between a ticket and a stranger (decision 0025).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, urlsplit

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from idhub.access.attributes import DEFAULT_ATTRIBUTES
from idhub.access.tables import Application, CasAddress, CasService
from idhub.access.uris import check_web_uri
from idhub.db import new_id
from idhub.errors import Conflict, Invalid

Match = Literal["exact", "query", "below"]
"""exact: this address to the letter of its query. query: this path, with any query. below: and any path beneath."""
UserValue = Literal["employee_number", "email", "pairwise"]
Logout = Literal["none", "service", "url"]
# Most particular first: of two that fit, the one that says more decides.
_MATCHES: Final[Sequence[Match]] = ("exact", "query", "below")
_PORTS: Final = {"https": 443, "http": 80}
# What an answer adds. An address that has it already would carry two, and the application might read a stranger's.
_RESERVED: Final = frozenset({"ticket", "samlart", "pgtiou", "pgtid"})
_MAX_PARAMETERS: Final = 200


@dataclass(frozen=True, slots=True)
class Place:
    """An address in one writing, taken apart."""

    origin: str
    path: str
    query: str

    @property
    def url(self) -> str:
        """The whole of it."""
        return f"{self.origin}{self.path}" + (f"?{self.query}" if self.query else "")


@dataclass(frozen=True, slots=True)
class WishedAddress:
    """An address as the configuration wants it; `url` has passed `check_service_address`."""

    url: str
    match: Match = "query"


@dataclass(frozen=True, kw_only=True, slots=True)
class CasWish:
    """What an application wants to be to CAS."""

    addresses: Sequence[WishedAddress]
    user_value: UserValue
    attributes: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULT_ATTRIBUTES))
    logout: Logout = "none"
    logout_url: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownService:
    """A registration that may be used now."""

    id: str
    application_id: str
    user_value: UserValue
    attributes: Mapping[str, str]


Change = tuple[str, Any, Any]
"""(field, before, after)."""


def check_service_address(url: str, match: Match, *, field: str) -> Place:
    """An address that may be registered.

    Raises:
        Invalid: it is none that the hub sends anything to, or does not suit how it is to be matched.
    """
    check_web_uri(url, field=field)
    place = _place(url)
    if match != "exact" and place.query:
        raise Invalid(f"{field}: only an address that is matched exactly has a query.", field=field, rule="cas.query")
    if match == "below" and not place.path.endswith("/"):
        # Else `/app` would hold `/application-of-somebody-else`.
        raise Invalid(f"{field}: what stands for all beneath it must end with /.", field=field, rule="cas.below")
    if _names_a_ticket(place):
        raise Invalid(f"{field} must not name a ticket itself.", field=field, rule="cas.ticket")
    return place


def find_service(session: Session, url: str) -> KnownService | None:
    """The service that the address belongs to; None: nobody's, switched off, or no address that can be trusted."""
    try:
        # `*` is an ordinary character of an address; it is refused in registrations, where it could be meant otherwise.
        check_web_uri(url.replace("*", "%2A"), field="service")
    except Invalid:
        return None
    place = _place(url)
    if _names_a_ticket(place):
        return None
    rows = session.execute(
        select(CasAddress.url, CasAddress.match, CasService)
        .join(CasService, CasService.id == CasAddress.service_id)
        .join(Application, Application.id == CasService.application_id)
        .where(CasAddress.origin == place.origin, CasService.is_enabled, Application.is_enabled)
    ).all()
    fitting = [row for row in rows if _fits(place, row.url, row.match)]
    if not fitting:
        return None
    best: CasService = min(fitting, key=lambda row: (_MATCHES.index(row.match), -len(row.url))).CasService
    return KnownService(
        id=best.id,
        application_id=best.application_id,
        user_value=best.user_value,  # type: ignore[arg-type]  # only `configure_cas_service` writes it
        attributes=best.attributes,
    )


def _place(url: str) -> Place:
    """Of an address that `check_web_uri` let through: no credentials, fragment, dot segments or odd hosts are left."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    return Place(f"{parts.scheme}://{shown}:{parts.port or _PORTS[parts.scheme]}", parts.path or "/", parts.query)


def _fits(place: Place, registered: str, match: Match) -> bool:
    if match == "exact":
        return place.url == registered
    path = urlsplit(registered).path
    if match == "query":
        return place.path == path
    # An encoded % is a second encoding, which some servers undo: %252e%252e would lead out again.
    return place.path.startswith(path) and "%25" not in place.path


def _names_a_ticket(place: Place) -> bool:
    try:
        pairs = parse_qsl(place.query, keep_blank_values=True, max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        return True
    return any(name.lower() in _RESERVED for name, _ in pairs)


def configure_cas_service(
    session: Session, application_id: str, wish: CasWish | None, *, now: datetime
) -> list[Change]:
    """Make the application's CAS service what `wish` says; returns (field, before, after).

    One that is not wanted any more is switched off, never deleted: history names it. Its addresses are free again.

    Raises:
        Conflict: an address belongs to another application.
    """
    row = session.execute(
        select(CasService).where(CasService.application_id == application_id).with_for_update()
    ).scalar_one_or_none()
    if wish is None:
        if row is None or not row.is_enabled:
            return []
        row.is_enabled, row.changed_at = False, now
        session.execute(delete(CasAddress).where(CasAddress.service_id == row.id))
        return [("cas", row.id, None)]
    values: dict[str, Any] = {
        "user_value": wish.user_value,
        "attributes": dict(wish.attributes),
        "logout": wish.logout,
        "logout_url": wish.logout_url,
        "is_enabled": True,
    }
    changes: list[Change] = []
    if row is None:
        row = CasService(id=new_id("cas"), application_id=application_id, created_at=now, changed_at=now, **values)
        session.add(row)
        session.flush()
        changes.append(("cas", None, [one.url for one in wish.addresses]))
    else:
        changed = {name: value for name, value in values.items() if getattr(row, name) != value}
        changes += [(f"cas.{name}", getattr(row, name), value) for name, value in changed.items()]
        for name, value in changed.items():
            setattr(row, name, value)
        if changed:
            row.changed_at = now
    changes += _set_addresses(session, row, wish.addresses, is_new=bool(changes and changes[0][0] == "cas"), now=now)
    session.flush()
    return changes


def _set_addresses(
    session: Session, row: CasService, wished: Sequence[WishedAddress], *, is_new: bool, now: datetime
) -> list[Change]:
    wanted = {_place(one.url): one for one in wished}
    urls = [place.url for place in wanted]
    taken = session.execute(
        select(CasAddress.registered).where(CasAddress.url.in_(urls), CasAddress.service_id != row.id).limit(1)
    ).scalar()
    if taken is not None:
        raise Conflict(f"The address {taken!r} belongs to another application.", field="cas.services", rule="cas.taken")
    held = session.execute(select(CasAddress).where(CasAddress.service_id == row.id)).scalars().all()
    before = sorted((one.registered, one.match) for one in held)
    after = sorted((one.url, one.match) for one in wished)
    if before == after:
        return []
    session.execute(delete(CasAddress).where(CasAddress.service_id == row.id))
    session.expire_all()
    session.add_all(
        CasAddress(url=place.url, origin=place.origin, service_id=row.id, match=one.match, registered=one.url)
        for place, one in wanted.items()
    )
    row.changed_at = now
    return [] if is_new else [("cas.services", [list(one) for one in before], [list(one) for one in after])]
