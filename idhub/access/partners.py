"""What is kept of SAML partners in either role, service providers and identity providers, and who writes it.

Two hands write a row: configuration and, where the metadata has an address, whoever reads it again (`take_metadata`).
What metadata says is checked alike from both.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy.orm import Session

from idhub.access.tables import SamlPartner
from idhub.access.uris import check_web_uri
from providers.saml_wire.metadata import Endpoint

Change = tuple[str, Any, Any]
"""(field, before, after)."""


def logout_services(endpoints: Sequence[Endpoint], *, field: str) -> list[dict[str, str]]:
    """Addresses of logout as they are stored.

    Raises:
        Invalid: one is none that the hub sends anything to.
    """
    for endpoint in endpoints:
        check_web_uri(endpoint.location, field=f"{field}.SingleLogoutService")
        if endpoint.response_location:
            check_web_uri(endpoint.response_location, field=f"{field}.SingleLogoutService")
    return [
        {"binding": one.binding, "location": one.location, "response_location": one.response_location}
        for one in endpoints
    ]


_QUIET: Final = frozenset({"metadata_due_at", "soap_logout_url"})
"""Columns that follow from others: a change of them is no news."""


def assign(row: Any, values: Mapping[str, Any], *, now: datetime) -> list[Change]:
    """Give a registration of SAML these values; returns the changes that are worth telling."""
    changed = {name: value for name, value in values.items() if getattr(row, name) != value}
    # Of registrations that could speak something else the protocol is told; the others are of SAML.
    protocol = values.get("protocol") or getattr(row, "protocol", "saml")
    told: list[Change] = [
        (f"{protocol}.{name}", getattr(row, name), value) for name, value in changed.items() if name not in _QUIET
    ]
    for name, value in changed.items():
        setattr(row, name, value)
    if changed:
        row.changed_at = now
    return told


def due(known: SamlPartner | None, metadata_url: str | None, *, now: datetime) -> dict[str, Any]:
    """When its metadata is read next, if configuration changes that: at once, from an address that is new."""
    if known is None:
        return {"metadata_due_at": None if metadata_url is None else now}
    is_new = not known.is_enabled or known.metadata_url != metadata_url
    return {"metadata_due_at": now} if metadata_url is not None and is_new else {}


def take_metadata(
    session: Session,
    table: type[SamlPartner],
    partner_id: str,
    columns: Mapping[str, Any],
    *,
    now: datetime,
    due_at: datetime,
) -> list[Change]:
    """Store what was read from the metadata's address, and that it was read; returns what changed.

    Locks the partner's row until the caller's transaction ends.

    Args:
        columns: values of the partner's table, checked.
        due_at: when to read it next.
    """
    row: Any = session.get_one(table, partner_id, with_for_update=True, populate_existing=True)
    changes = assign(row, columns, now=now)
    row.metadata_read_at, row.metadata_due_at, row.metadata_error = now, due_at, None
    session.flush()
    return changes
