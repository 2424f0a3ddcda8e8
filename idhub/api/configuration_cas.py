"""`cas:` of an application in a configuration file."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints

from idhub.access.attributes import DEFAULT_ATTRIBUTES, PersonValue
from idhub.access.cas_services import (
    CasWish,
    Match,
    UserValue,
    WishedAddress,
    check_service_address,
)
from idhub.access.tables import CasAddress, CasService
from idhub.access.uris import check_web_uri
from idhub.api.configuration_fields import Strict, Uri
from idhub.errors import Invalid

# They become names of elements in the answer: what XML allows without a namespace, in ASCII.
AttributeName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,99}$")]
_OWN_NAMES: Final = frozenset({"authenticationDate", "isFromNewLogin", "longTermAuthenticationRequestTokenUsed"})
_WHERE_THEY_ARE: Final = "service"


class AddressBlock(Strict):
    """An entry of `services` that says how it is matched."""

    url: Uri
    match: Match = "query"


class CasBlock(Strict):
    """`cas:` of an application."""

    services: Annotated[list[Uri | AddressBlock], Field(min_length=1, max_length=100)]
    user: UserValue
    attributes: dict[AttributeName, PersonValue] | None = None
    logout: Literal["service"] | Uri | None = None


def cas_wish(block: CasBlock | None, where: str) -> CasWish | None:
    """The checked wish of a block.

    Raises:
        Invalid: an address that is none, or stands twice; a name that the protocol keeps for itself.
    """
    if block is None:
        return None
    addresses, seen = [], set()
    for entry in block.services:
        one = entry if isinstance(entry, AddressBlock) else AddressBlock(url=entry)
        place = check_service_address(one.url, one.match, field=f"{where}.services")
        if place in seen:
            raise Invalid(f"{where}.services names {one.url} twice.", field=f"{where}.services", rule="cas.repeated")
        seen.add(place)
        addresses.append(WishedAddress(one.url, one.match))
    for name in block.attributes or ():
        if name in _OWN_NAMES or name.lower().startswith("xml"):
            raise Invalid(
                f"{where}.attributes: {name} is a name that the protocol keeps for itself.",
                field=f"{where}.attributes",
                rule="cas.attribute",
            )
    at_service = block.logout == _WHERE_THEY_ARE
    if block.logout is not None and not at_service:
        check_web_uri(block.logout, field=f"{where}.logout")
    return CasWish(
        addresses=addresses,
        user_value=block.user,
        attributes=dict(DEFAULT_ATTRIBUTES) if block.attributes is None else dict(block.attributes),
        logout="none" if block.logout is None else "service" if at_service else "url",
        logout_url=None if at_service else block.logout,
    )


def called_addresses(wish: CasWish | None) -> dict[str, str | None]:
    """Addresses of the block that the hub itself calls."""
    if wish is None or wish.logout == "none":
        return {}
    if wish.logout == "url":
        return {"cas.logout": wish.logout_url}
    return {f"cas.services[{index}]": one.url for index, one in enumerate(wish.addresses)}


def export_block(row: CasService | None, addresses: Mapping[str, Sequence[CasAddress]]) -> dict[str, Any] | None:
    """The block that would make this row again.

    Args:
        addresses: by service.
    """
    if row is None:
        return None
    logout = {"none": None, "service": _WHERE_THEY_ARE, "url": row.logout_url}[row.logout]
    return {
        "services": [
            one.registered if one.match == "query" else {"url": one.registered, "match": one.match}
            for one in sorted(addresses.get(row.id, ()), key=lambda one: one.registered)
        ],
        "user": row.user_value,
        "attributes": dict(row.attributes),
        **({} if logout is None else {"logout": logout}),
    }
