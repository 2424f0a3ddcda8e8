"""How services differ from RFC 7644, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What one kind of service needs told differently.

    Args:
        update: by PATCH (RFC 7644 section 3.5.2), or by PUT of the whole resource with our changes laid over.
        active_form: `active` as a JSON boolean, or as the texts "True" and "False".
        finds_external_id: whether a filter may name externalId; without it, accounts are found by userName alone.
        has_enterprise_user: whether the enterprise extension is understood.
    """

    name: str
    update: Literal["patch", "put"] = "patch"
    active_form: Literal["boolean", "text"] = "boolean"
    finds_external_id: bool = True
    has_enterprise_user: bool = True

    def active_value(self, active: bool) -> bool | str:
        """`active` as this service wants it."""
        return str(active) if self.active_form == "text" else active

    def supported(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """The attributes that this service knows."""
        return {
            path: value for path, value in attributes.items() if self.has_enterprise_user or not path.startswith("urn:")
        }


GENERIC: Final = Dialect(name="generic")
"""RFC 7643 and 7644 as written."""

PUT_ONLY: Final = Dialect(name="put", update="put")
"""As written, without PATCH, which RFC 7644 section 3.5.2 leaves optional."""

DIALECTS: Final[Mapping[str, Dialect]] = {dialect.name: dialect for dialect in (GENERIC, PUT_ONLY)}


def adapted(changes: Mapping[str, Any], dialect: Dialect) -> dict[str, Any]:
    """Attributes as this service takes them."""
    result = dialect.supported(changes)
    if isinstance(result.get("active"), bool):
        result["active"] = dialect.active_value(result["active"])
    return result
