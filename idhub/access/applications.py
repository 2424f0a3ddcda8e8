"""Applications and their channels: reading, and writing what configuration says of them.

`configure` makes one application what a document wants it to be and tells the difference; who is entitled after a
change of rules is decided by `lifecycle.reevaluation`, not here.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from idhub.access.cas_services import CasWish, configure_cas_service
from idhub.access.rules import set_rules
from idhub.access.service_providers import SamlWish, configure_service_providers
from idhub.access.tables import Application, Criticality, EntitlementRule, OidcClient, ScimTarget
from idhub.db import new_id
from idhub.directory.names import may_name
from idhub.directory.tables import Principal, SubjectIdentifier
from idhub.errors import Conflict, NotFound

DEADLINES: Mapping[Criticality, timedelta] = {
    Criticality.CRITICAL: timedelta(minutes=15),
    Criticality.HIGH: timedelta(hours=1),
    Criticality.NORMAL: timedelta(hours=4),
    Criticality.LOW: timedelta(hours=24),
}
REQUIRED: Mapping[Criticality, int | None] = {
    Criticality.CRITICAL: None,
    Criticality.HIGH: None,
    Criticality.NORMAL: None,
    Criticality.LOW: 1,
}
"""Evidence that a leave needs; None: the ceiling of each channel."""
Seal = Callable[[str, bytes], bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class OidcWish:
    """The OIDC registration that an application wants."""

    client_id: str
    secret: str | None
    auth_method: str
    redirect_uris: Sequence[str]
    post_logout_redirect_uris: Sequence[str]
    grant_types: Sequence[str]
    scopes: Sequence[str]
    access_token_format: str = "jwt"  # noqa: S105
    access_token_seconds: int | None = None
    id_token_alg: str = "ES256"  # noqa: S105
    audience: str | None = None
    rotates_refresh: bool = True
    requires_consent: bool = False
    is_native: bool = False
    sector: str | None = None
    backchannel_logout_uri: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ScimWish:
    """The SCIM target that an application wants."""

    base_url: str
    token: str | None
    user_name_attribute: str = "email"
    dialect: str = "generic"
    control_user_name: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    token_expires_at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ApplicationWish:
    """One application as configuration wants it; every field has passed its rules."""

    slug: str
    name: str
    name_zh: str | None
    description: str | None
    home_url: str | None
    organization_id: str
    owner_id: str | None
    criticality: Criticality
    revocation_deadline: timedelta
    required_grade: int | None
    is_enabled: bool
    oidc: OidcWish | None
    scim: ScimWish | None
    service_providers: Sequence[SamlWish] = ()
    cas: CasWish | None = None
    rules: Sequence[tuple[str, str]] = ()


@dataclass(slots=True)
class Difference:
    """What `configure` changed: (field, before, after), secrets named but never shown."""

    slug: str
    application_id: str
    is_new: bool = False
    changes: list[tuple[str, Any, Any]] = field(default_factory=list)
    rules_changed: bool = False
    scim_added: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether everything was so already."""
        return not (self.is_new or self.changes or self.rules_changed)


def find_application(session: Session, text: str) -> str:
    """Id of the application of that id or slug.

    Raises:
        NotFound: there is none.
    """
    named = select(Application.id).where((Application.id == text) | (Application.slug == text))
    found = session.execute(named).scalar() if may_name(text) else None
    if found is None:
        raise NotFound(f"There is no application {text!r}.", field="application", rule="application.unknown")
    return found


def configure(session: Session, wish: ApplicationWish, *, seal: Seal, now: datetime) -> Difference:
    """Make one application what `wish` says. Idempotent; returns the difference.

    Raises:
        Conflict: the client_id belongs to another application, or is the identifier of somebody.
        Invalid: a rule cannot be used.
    """
    application = session.execute(
        # NO KEY UPDATE: entitlements and deliveries that name the application are written meanwhile.
        select(Application).where(Application.slug == wish.slug).with_for_update(key_share=True)
    ).scalar_one_or_none()
    difference = Difference(wish.slug, application.id if application else new_id("app"))
    values: dict[str, Any] = {
        "name": wish.name,
        "name_zh": wish.name_zh,
        "description": wish.description,
        "home_url": wish.home_url,
        "organization_id": wish.organization_id,
        "owner_id": wish.owner_id,
        "criticality": wish.criticality,
        "revocation_deadline_seconds": int(wish.revocation_deadline.total_seconds()),
        "required_grade": wish.required_grade,
        "is_enabled": wish.is_enabled,
    }
    if application is None:
        difference.is_new = True
        session.add(Application(id=difference.application_id, slug=wish.slug, created_at=now, changed_at=now, **values))
        session.flush()
    else:
        _assign(application, values, "", difference, now=now)
    _configure_oidc(session, wish.oidc, difference, now=now)
    _configure_scim(session, wish.scim, difference, seal=seal, now=now)
    difference.changes += configure_service_providers(
        session, difference.application_id, wish.service_providers, now=now
    )
    difference.changes += configure_cas_service(session, difference.application_id, wish.cas, now=now)
    before = current_rule_texts(session, difference.application_id)
    if set_rules(session, difference.application_id, wish.rules, now=now):
        difference.rules_changed = True
        difference.changes.append(("entitle", before, sorted(wish.rules)))
    session.flush()
    session.expunge_all()
    return difference


def current_rule_texts(session: Session, application_id: str) -> list[tuple[str, str]]:
    """(role, rule) pairs that hold now."""
    rows = session.execute(
        select(EntitlementRule.role, EntitlementRule.rule).where(
            EntitlementRule.application_id == application_id,
            EntitlementRule.superseded_at.is_(None),
            EntitlementRule.valid_to.is_(None),
        )
    )
    return sorted((row.role, row.rule) for row in rows)


def _assign(
    row: Any, values: Mapping[str, Any], prefix: str, difference: Difference, *, now: datetime, hidden: str = ""
) -> None:
    changed = {name: value for name, value in values.items() if getattr(row, name) != value}
    for name, value in changed.items():
        before = getattr(row, name)
        shown = ("(secret)", "(new secret)") if name == hidden else (before, value)
        difference.changes.append((f"{prefix}{name}", *shown))
        setattr(row, name, value)
    if changed:
        row.changed_at = now


def _configure_oidc(session: Session, wish: OidcWish | None, difference: Difference, *, now: datetime) -> None:
    held = (
        session.execute(
            select(OidcClient).where(OidcClient.application_id == difference.application_id).with_for_update()
        )
        .scalars()
        .all()
    )
    wanted_id = wish.client_id if wish else None
    for client in held:
        if client.client_id != wanted_id and client.is_enabled:
            # Tokens and history name it: a client that is not wanted any more is disabled, never deleted.
            client.is_enabled, client.changed_at = False, now
            difference.changes.append(("oidc.client_id", client.client_id, wanted_id))
    if wish is None:
        return
    values: dict[str, Any] = {
        "auth_method": wish.auth_method,
        "secret_hash": hashlib.sha256(wish.secret.encode()).hexdigest() if wish.secret else None,
        "redirect_uris": list(wish.redirect_uris),
        "post_logout_redirect_uris": list(wish.post_logout_redirect_uris),
        "grant_types": list(wish.grant_types),
        "scopes": list(wish.scopes),
        "access_token_format": wish.access_token_format,
        "access_token_seconds": wish.access_token_seconds,
        "id_token_alg": wish.id_token_alg,
        "audience": wish.audience,
        "rotates_refresh": wish.rotates_refresh,
        "requires_consent": wish.requires_consent,
        "is_native": wish.is_native,
        "sector": wish.sector,
        "backchannel_logout_uri": wish.backchannel_logout_uri,
        "is_enabled": True,
    }
    known = next((client for client in held if client.client_id == wish.client_id), None)
    if known is not None:
        _assign(known, values, "oidc.", difference, now=now, hidden="secret_hash")
        return
    if session.execute(select(OidcClient.client_id).where(OidcClient.client_id == wish.client_id)).first():
        raise Conflict(
            f"The client_id {wish.client_id!r} belongs to another application.", field="client_id", rule="client.taken"
        )
    if _names_a_principal(session, wish.client_id):
        raise Conflict(
            f"The client_id {wish.client_id!r} is the identifier of somebody; choose another.",
            field="client_id",
            rule="client.subject",
        )
    session.add(
        OidcClient(
            client_id=wish.client_id,
            application_id=difference.application_id,
            backchannel_logout_session_required=True,
            created_at=now,
            changed_at=now,
            **values,
        )
    )
    difference.changes.append(("oidc", None, wish.client_id))


def _names_a_principal(session: Session, client_id: str) -> bool:
    """Whether tokens say this text of a person or a service already: as a client it would be taken for them."""
    # RFC 9700 section 4.15. The other way round it cannot come to be: both are drawn at random.
    subject = select(SubjectIdentifier.principal_id).where(SubjectIdentifier.sub == client_id)
    principal = select(Principal.id).where(Principal.id == client_id)
    return session.execute(subject.union_all(principal).limit(1)).first() is not None


def _configure_scim(
    session: Session, wish: ScimWish | None, difference: Difference, *, seal: Seal, now: datetime
) -> None:
    target = session.execute(
        select(ScimTarget).where(ScimTarget.application_id == difference.application_id).with_for_update()
    ).scalar_one_or_none()
    if wish is None:
        if target is not None:
            raise Conflict(
                "A SCIM target that has accounts cannot simply be left out; disable the application instead.",
                field="scim",
                rule="scim.removed",
            )
        return
    values = {
        "base_url": wish.base_url,
        "user_name_attribute": wish.user_name_attribute,
        "dialect": wish.dialect,
        "control_user_name": wish.control_user_name,
        "token_expires_at": wish.token_expires_at,
    }
    context = scim_token_context(difference.application_id)
    if target is None:
        sealed = seal(context, wish.token.encode()) if wish.token else None
        session.add(
            ScimTarget(
                application_id=difference.application_id,
                token_sealed=sealed,
                token_hash=_token_hash(wish.token),
                changed_at=now,
                options=dict(wish.options) or None,
                **values,
            )
        )
        difference.changes.append(("scim", None, wish.base_url))
        difference.changes += [(f"scim.{name}", None, value) for name, value in sorted(wish.options.items())]
        difference.scim_added = True
        return
    _assign(target, values, "scim.", difference, now=now)
    before, after = target.options or {}, dict(wish.options)
    if before != after:
        names = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
        difference.changes += [(f"scim.{name}", before.get(name), after.get(name)) for name in names]
        target.options, target.changed_at = after or None, now
    if target.token_hash != _token_hash(wish.token):
        target.token_sealed = seal(context, wish.token.encode()) if wish.token else None
        target.token_hash, target.changed_at = _token_hash(wish.token), now
        difference.changes.append(("scim.token", "(secret)", "(new secret)"))


def scim_token_context(application_id: str) -> str:
    """Name under which a target's bearer token is sealed."""
    return f"scim_targets:{application_id}:token"


def _token_hash(token: str | None) -> str | None:
    return hashlib.sha256(token.encode()).hexdigest() if token else None


@dataclass(frozen=True, slots=True)
class Service:
    """The service identity that a client acts as."""

    id: str
    ends_at: datetime | None


def service_of(session: Session, client_id: str) -> Service | None:
    """The client's service identity, if it has one."""
    row = session.execute(
        select(Principal.id, Principal.access_ends_at)
        .join(OidcClient, OidcClient.service_principal_id == Principal.id)
        .where(OidcClient.client_id == client_id)
    ).one_or_none()
    return None if row is None else Service(row.id, row.access_ends_at)


def set_service(session: Session, client_id: str, principal_id: str) -> None:
    """Let the client act as this service identity."""
    session.execute(
        update(OidcClient)
        .where(OidcClient.client_id == client_id)
        .values(service_principal_id=principal_id)
        .execution_options(synchronize_session=False)
    )
