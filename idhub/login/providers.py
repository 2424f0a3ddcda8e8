"""Identity providers of companies: what configuration wants of them, what their metadata says, and who is in force.

Configuration writes a row here; what metadata says is taken up by `idhub.access.partners`.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import orjson
from sqlalchemy import Executable, Text, bindparam, or_, select, type_coerce
from sqlalchemy.orm import Session

from idhub.access.partners import Change, assign, due, logout_services
from idhub.access.uris import check_web_uri
from idhub.credentials.operations import Operation
from idhub.credentials.statements import add_statements
from idhub.credentials.store import Store
from idhub.db import Instant, new_id
from idhub.errors import Conflict
from idhub.login.tables import IdentityProvider
from providers.saml import SignaturePolicy, Trusted
from providers.saml_wire import names
from providers.saml_wire.certificates import read_certificate
from providers.saml_wire.metadata import IdentityProviderMetadata

Match = Literal["employee_number", "email"]
NAME_ID: Final = "name_id"
"""Stands for the NameID where a rule names an attribute."""


@dataclass(frozen=True, slots=True)
class LinkRule:
    """How somebody is recognised at their first sign-in.

    Args:
        match: what of the person must be equal, exactly and of one person alone.
        attribute: of the assertion, or `name_id`.
    """

    match: Match
    attribute: str

    def stored(self) -> dict[str, str]:
        """As it stands in the row."""
        return {"match": self.match, "attribute": self.attribute}


@dataclass(frozen=True, kw_only=True, slots=True)
class ProviderFacts:
    """What metadata, or guided entry in its place, says of a provider; every address has passed its rules."""

    sign_on_services: Sequence[Mapping[str, str]] = ()
    logout_services: Sequence[Mapping[str, str]] = ()
    signing_certificates: Sequence[str] = ()
    valid_until: datetime | None = None

    def columns(self) -> dict[str, Any]:
        """As they are stored."""
        return {
            "sign_on_services": [dict(one) for one in self.sign_on_services],
            "logout_services": [dict(one) for one in self.logout_services],
            "signing_certificates": list(self.signing_certificates),
            "metadata_valid_until": self.valid_until,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ProviderWish:
    """The provider that configuration wants.

    Args:
        facts: of metadata at hand; None: they are read from `metadata_url` by the worker.
    """

    slug: str
    name: str
    name_zh: str | None
    organization_id: str
    entity_id: str
    facts: ProviderFacts | None
    domains: Sequence[str] = ()
    rules: Sequence[LinkRule] = ()
    subject_attribute: str | None = None
    signature_policy: SignaturePolicy = "any"
    name_id_format: str | None = None
    contexts: Sequence[str] = ()
    max_age: timedelta | None = None
    allows_unsolicited: bool = False
    is_shown: bool = True
    is_enabled: bool = True
    metadata_url: str | None = None
    metadata_certificate: str | None = None


def facts_of(metadata: IdentityProviderMetadata, *, field: str) -> ProviderFacts:
    """What is kept of metadata that was read.

    Raises:
        Invalid: an address in it is none that a browser is sent to (`javascript:`, plain http, ...).
    """
    for service in metadata.sign_on_services:
        check_web_uri(service.location, field=f"{field}.SingleSignOnService")
    return ProviderFacts(
        sign_on_services=[{"binding": one.binding, "location": one.location} for one in metadata.sign_on_services],
        logout_services=logout_services(metadata.logout_services, field=field),
        signing_certificates=[one.der for one in metadata.signing],
        valid_until=metadata.valid_until,
    )


# ---------------------------------------------------------------- configuration


@dataclass(frozen=True, slots=True)
class ProviderDifference:
    """What making a provider as it is wanted changed."""

    provider_id: str
    slug: str
    is_new: bool
    changes: Sequence[Change]


def configure_provider(session: Session, wish: ProviderWish, *, now: datetime) -> ProviderDifference:
    """Make the provider of this slug what `wish` says.

    Another entity under a known slug is another provider: the one before is switched off, its links stay its own.

    Raises:
        Conflict: the entity ID belongs to a provider of another slug.
    """
    changes: list[Change] = []
    held = session.execute(
        select(IdentityProvider)
        .where(or_(IdentityProvider.slug == wish.slug, IdentityProvider.entity_id == wish.entity_id))
        .with_for_update()
    ).scalars()
    known: IdentityProvider | None = None
    for row in held:
        if row.entity_id == wish.entity_id:
            known = row
        elif row.is_enabled:
            row.is_enabled, row.changed_at = False, now
            changes.append(("saml.entity_id", row.entity_id, wish.entity_id))
    values = _columns(wish)
    if known is None:
        empty = ProviderFacts().columns() if wish.facts is None else {}
        made = IdentityProvider(
            id=new_id("idp"),
            created_at=now,
            changed_at=now,
            **empty,
            **values,
            **due(None, wish.metadata_url, now=now),
        )
        session.add(made)
        session.flush()
        return ProviderDifference(made.id, wish.slug, True, [*changes, ("saml", None, wish.entity_id)])
    if known.slug != wish.slug and known.is_enabled:
        raise Conflict(
            f"The entity ID {wish.entity_id!r} belongs to the provider {known.slug!r}.",
            field="saml.entity_id",
            rule="saml.taken",
        )
    changes += assign(known, values | due(known, wish.metadata_url, now=now), now=now)
    return ProviderDifference(known.id, wish.slug, False, changes)


def _columns(wish: ProviderWish) -> dict[str, Any]:
    return {
        **(wish.facts.columns() if wish.facts is not None else {}),
        "slug": wish.slug,
        "name": wish.name,
        "name_zh": wish.name_zh,
        "organization_id": wish.organization_id,
        "domains": list(wish.domains),
        "rules": [rule.stored() for rule in wish.rules],
        "subject_attribute": wish.subject_attribute,
        "entity_id": wish.entity_id,
        "signature_policy": wish.signature_policy,
        "name_id_format": wish.name_id_format,
        "contexts": list(wish.contexts),
        "max_age_seconds": None if wish.max_age is None else int(wish.max_age.total_seconds()),
        "allows_unsolicited": wish.allows_unsolicited,
        "is_shown": wish.is_shown,
        "metadata_url": wish.metadata_url,
        "metadata_certificate": wish.metadata_certificate,
        "is_enabled": wish.is_enabled,
    }


# ---------------------------------------------------------------- in force


@dataclass(frozen=True, kw_only=True, slots=True)
class Provider:
    """A provider that may be asked and believed now."""

    id: str
    slug: str
    name: str
    name_zh: str | None
    organization_id: str
    domains: frozenset[str]
    rules: tuple[LinkRule, ...]
    subject_attribute: str | None
    trusted: Trusted
    sign_on_services: Mapping[str, str]
    """Address by binding."""
    logout_services: Mapping[str, Mapping[str, str]]
    name_id_format: str | None
    contexts: tuple[str, ...]
    max_age: timedelta | None
    allows_unsolicited: bool

    @property
    def sign_on(self) -> tuple[str, str]:
        """Binding and address of requests: Redirect where there is one, because it needs no form."""
        for binding in (names.REDIRECT, names.POST):
            if binding in self.sign_on_services:
                return binding, self.sign_on_services[binding]
        raise AssertionError("a provider in force can be asked")


def has_providers(session: Session) -> bool:
    """Whether somebody may sign in with an identity provider of their company."""
    return session.execute(select(IdentityProvider.id).where(IdentityProvider.is_enabled).limit(1)).first() is not None


def find_provider(session: Session, *, now: datetime, **which: str) -> Provider | None:
    """The provider of that `slug`, `id` or `entity_id`; None when unknown, switched off, or its metadata not in force.

    The caller has made sure that the value is text that a database can hold.
    """
    wanted = [getattr(IdentityProvider, name) == value for name, value in which.items()]
    row = session.scalars(select(IdentityProvider).where(*wanted, IdentityProvider.is_enabled)).first()
    if row is None or not row.sign_on_services or not row.signing_certificates:
        return None
    if row.metadata_valid_until is not None and row.metadata_valid_until <= now:
        return None
    return Provider(
        id=row.id,
        slug=row.slug,
        name=row.name,
        name_zh=row.name_zh,
        organization_id=row.organization_id,
        domains=frozenset(row.domains),
        rules=tuple(LinkRule(one["match"], one["attribute"]) for one in row.rules),
        subject_attribute=row.subject_attribute,
        trusted=Trusted(
            entity_id=row.entity_id,
            keys=tuple(read_certificate(der).public_key for der in row.signing_certificates),
            policy=row.signature_policy,  # type: ignore[arg-type]  # a closed set, checked on the way in
        ),
        sign_on_services={one["binding"]: one["location"] for one in row.sign_on_services},
        logout_services={one["binding"]: one for one in row.logout_services},
        name_id_format=row.name_id_format,
        contexts=tuple(row.contexts),
        max_age=None if row.max_age_seconds is None else timedelta(seconds=row.max_age_seconds),
        allows_unsolicited=row.allows_unsolicited,
    )


@dataclass(frozen=True, slots=True)
class Choice:
    """A provider as the sign-in page offers it.

    Args:
        is_shown: it has a button; else it is found by its mail domains.
    """

    slug: str
    name: str
    name_zh: str | None
    domains: Sequence[str]
    origin: str
    is_shown: bool


def choosing(*, now: datetime) -> Operation[list[Choice]]:
    """Every provider in force, by name."""
    rows = yield "providers.choices", {"now": now}
    return [_choice(row) for row in rows]


class ChoiceCache:
    """The providers that a sign-in page offers, at most one second old; whoever goes to one has it looked up anew."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: tuple[float, list[Choice]] | None = None

    async def current(self, *, now: datetime) -> list[Choice]:
        """Every provider in force, by name."""
        # Age of a cache, not time that decides anything: the machine's own clock.
        age, kept = time.monotonic(), self._kept
        if kept is None or age - kept[0] > _CACHE_SECONDS:
            kept = self._kept = age, await self._store.read(lambda: choosing(now=now))
        return kept[1]


_CACHE_SECONDS: Final = 1.0


def _choice(row: Mapping[str, Any]) -> Choice:
    services = {one["binding"]: one["location"] for one in orjson.loads(row["sign_on_services"])}
    location = services.get(names.REDIRECT) or services.get(names.POST) or ""
    return Choice(
        row["slug"], row["name"], row["name_zh"], tuple(orjson.loads(row["domains"])), location, bool(row["is_shown"])
    )


def _statements(is_sqlite: bool) -> dict[str, Executable]:
    return {
        "providers.choices": select(
            IdentityProvider.slug,
            IdentityProvider.name,
            IdentityProvider.name_zh,
            IdentityProvider.domains,
            IdentityProvider.sign_on_services,
            IdentityProvider.is_shown,
        )
        .where(
            IdentityProvider.is_enabled,
            type_coerce(IdentityProvider.sign_on_services, Text) != "[]",
            or_(
                IdentityProvider.metadata_valid_until.is_(None),
                IdentityProvider.metadata_valid_until > bindparam("now", type_=Instant, required=True),
            ),
        )
        .order_by(IdentityProvider.name, IdentityProvider.slug),
    }


add_statements(_statements)
