"""Configuration as code: a file that was read (`idhub.api.configuration_file`) is checked, compared, applied.

Everything is checked before anything is written; one transaction makes the whole file so or nothing.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from idhub.access.applications import (
    DEADLINES,
    REQUIRED,
    ApplicationWish,
    Difference,
    OidcWish,
    ScimWish,
    configure,
    service_of,
    set_service,
)
from idhub.access.reconcile_plan import set_plan
from idhub.access.rules import compile_rule
from idhub.access.service_providers import SamlWish
from idhub.access.tables import Application, Criticality
from idhub.access.uris import check_redirect_uri, check_web_uri
from idhub.api import configuration_cas, configuration_saml
from idhub.api.configuration_cas import cas_wish
from idhub.api.configuration_fields import Names, duration
from idhub.api.configuration_file import (
    ApplicationBlock,
    ConfigurationFile,
    OidcBlock,
    read_configuration,
)
from idhub.api.configuration_providers import provider_wish
from idhub.api.configuration_saml import saml_wish
from idhub.api.configuration_scim import follow_target, target_options
from idhub.api.configuration_wsfed import wsfed_wish
from idhub.changes import Actor, Event, EventType, record
from idhub.db import Database, new_id
from idhub.delivery.addresses import OutboundPolicy, OutboundRefused
from idhub.directory.organizations import bump_rules_version, find_organization, root_organization
from idhub.directory.people import find_person
from idhub.errors import Conflict, Invalid, NotFound
from idhub.keys import Keyring
from idhub.lifecycle.intake import RegisterService
from idhub.lifecycle.transition import transition
from idhub.login.providers import ProviderDifference, configure_provider
from idhub.provisioning.inbound.extensions import register

_MIN_SECRET = 32
_SERVICE_LIFETIME = timedelta(days=365)
_SHORTEST_PLAN, _LONGEST_PLAN = timedelta(minutes=10), timedelta(days=90)
_MAX_SECRET = 4_096
_PLAIN_SECRET = re.compile(r"[A-Za-z0-9._~-]+")


@dataclass(frozen=True, slots=True)
class Applied:
    """What an apply came to.

    Args:
        differences: of every application of the file, those without changes included.
        needs_review: entitlements may have changed: everybody must be looked at again.
    """

    differences: Sequence[Difference]
    needs_review: bool
    extensions: Sequence[tuple[str, Any, Any]] = ()
    """(URN, before, after) of each SCIM extension that is new or another."""
    providers: Sequence[ProviderDifference] = ()

    @property
    def changes(self) -> list[dict[str, Any]]:
        """Changed extensions, providers and applications as plain data."""
        return (
            [
                {
                    "provider": one.slug,
                    "new": one.is_new,
                    "changes": [
                        {"field": name, "before": before, "after": after} for name, before, after in one.changes
                    ],
                }
                for one in self.providers
                if one.changes
            ]
            + [
                {
                    "scim_extension": urn,
                    "new": before is None,
                    "changes": [{"field": "attributes", "before": before, "after": after}],
                }
                for urn, before, after in self.extensions
            ]
            + [
                {
                    "application": d.slug,
                    "new": d.is_new,
                    "changes": [{"field": name, "before": before, "after": after} for name, before, after in d.changes],
                }
                for d in self.differences
                if not d.is_empty
            ]
        )


def apply(
    database: Database,
    keyring: Keyring,
    path: Path,
    *,
    clock: Callable[[], datetime],
    actor: Actor,
    door: str,
    outbound_allow: str = "",
    dry_run: bool = False,
) -> Applied:
    """Make the applications and providers of the file what it says. Idempotent. Does not yet look at who is entitled.

    Args:
        outbound_allow: what the SSRF guard lets through beside public addresses (the setting of that name); an address
            that deliveries could never reach is refused here already.

    Raises:
        IdhubError: the file cannot be used, or contradicts what is; nothing was written.
    """
    parsed = read_configuration(path)
    now = clock()
    wishes = {block.slug: _service_providers(block, path.parent, now=now) for block in parsed.applications}
    _check_reachable(parsed, wishes, OutboundPolicy(outbound_allow))
    applied: Applied

    class _DryRun(Exception):
        pass

    try:
        with database.transaction() as session:
            differences = [
                configure(
                    session,
                    _wish(session, block, path.parent, wishes[block.slug], now=now),
                    seal=keyring.seal,
                    now=now,
                )
                for block in parsed.applications
            ]
            extensions = [
                change
                for document in parsed.scim_extensions
                if (change := register(session, document, now=now)) is not None
            ]
            providers = [
                configure_provider(session, provider_wish(session, each, path.parent, now=now), now=now)
                for each in parsed.providers
            ]
            for block, difference in zip(parsed.applications, differences, strict=True):
                if block.scim is not None:
                    follow_target(session, difference, now=now, actor=actor, door=door)
                difference.changes += _plan_reconcile(session, block, difference.application_id)
            renewed = _register_services(session, parsed.applications, differences, now=now, actor=actor, door=door)
            applied = Applied(
                differences,
                any(d.rules_changed or d.scim_added or _touches_access(d) for d in differences),
                extensions,
                providers,
            )
            if dry_run:
                raise _DryRun
            changed = [d for d in differences if not d.is_empty]
            if changed or renewed:
                bump_rules_version(session, reevaluate=applied.needs_review)
                record(session, [_event(d, now=now, actor=actor, door=door) for d in changed])
            others = [one for one in providers if one.changes]
            record(session, [_provider_event(each, now=now, actor=actor, door=door) for each in others])
            record(session, [_extension_event(each, now=now, actor=actor, door=door) for each in extensions])
    except _DryRun:
        pass
    return applied


def _service_providers(block: ApplicationBlock, folder: Path, *, now: datetime) -> list[SamlWish]:
    """Whom assertions are to be made for, by each protocol that makes them."""
    where = f"applications.{block.slug}"
    found = (saml_wish(block.saml, folder, f"{where}.saml", now=now), wsfed_wish(block.wsfed, f"{where}.wsfed"))
    return [wish for wish in found if wish is not None]


def _check_reachable(
    parsed: ConfigurationFile, wishes: Mapping[str, Sequence[SamlWish]], policy: OutboundPolicy
) -> None:
    """Refuse addresses that the hub itself calls and the SSRF guard would not let it."""
    for provider in parsed.providers:
        where = f"providers.{provider.slug}.saml.metadata_url"
        if provider.saml.metadata_url is not None:
            _check_called(provider.saml.metadata_url, where, policy)
    for block in parsed.applications:
        called = {
            "oidc.backchannel_logout_uri": block.oidc.backchannel_logout_uri if block.oidc else None,
            "scim.base_url": block.scim.base_url if block.scim else None,
            "scim.proxy": block.scim.proxy if block.scim else None,
            **{
                name: uri
                for wish in wishes[block.slug]
                for name, uri in configuration_saml.called_addresses(wish).items()
            },
            **configuration_cas.called_addresses(cas_wish(block.cas, f"applications.{block.slug}.cas")),
        }
        for name, uri in called.items():
            if uri is not None:
                _check_called(uri, f"applications.{block.slug}.{name}", policy)


def _check_called(uri: str, where: str, policy: OutboundPolicy) -> None:
    check_web_uri(uri, field=where)
    try:
        policy.check_url(uri)
    except OutboundRefused as error:
        raise Invalid(f"{where}: {error.description}", field=where, rule=error.rule) from error


def _register_services(
    session: Session,
    blocks: Sequence[ApplicationBlock],
    differences: Sequence[Difference],
    *,
    now: datetime,
    actor: Actor,
    door: str,
) -> bool:
    """Give every client that acts for itself its service identity, with the application's owner and an expiry."""
    changes: list[RegisterService] = []
    for block, difference in zip(blocks, differences, strict=True):
        if block.oidc is None or "client_credentials" not in (block.oidc.grant_types or ()):
            continue
        application = session.execute(
            select(Application.organization_id, Application.owner_id).where(Application.id == difference.application_id)
        ).one()
        known = service_of(session, block.oidc.client_id)
        ends_at = _service_end(block.oidc.service_until, known.ends_at if known else None, now=now)
        changes.append(
            RegisterService(
                principal_id=known.id if known else new_id("svc"),
                organization_id=application.organization_id,
                application_id=difference.application_id,
                ends_at=ends_at,
                owner_id=application.owner_id,
            )
        )
        if known is None:
            difference.changes.append(("oidc.service", None, changes[-1].principal_id))
        elif known.ends_at != ends_at:
            difference.changes.append(("oidc.service_until", known.ends_at, ends_at))
    if not changes:
        return False
    result = transition(session, changes, now=now, actor=actor, door=door)
    for change, acting in zip(changes, _acting(blocks), strict=True):
        set_service(session, acting.client_id, change.principal_id)
    return bool(result.changed)


def _acting(blocks: Sequence[ApplicationBlock]) -> list[OidcBlock]:
    return [b.oidc for b in blocks if b.oidc is not None and "client_credentials" in (b.oidc.grant_types or ())]


def _service_end(wanted: date | None, known: datetime | None, *, now: datetime) -> datetime:
    if wanted is not None:
        return datetime.combine(wanted + timedelta(days=1), time(), tzinfo=UTC)
    return known or now + _SERVICE_LIFETIME


def _plan_reconcile(session: Session, block: ApplicationBlock, application_id: str) -> list[tuple[str, Any, Any]]:
    """How the application is compared with what it should hold. Without the block, what was said before stays."""
    where = f"applications.{block.slug}.reconcile"
    if block.reconcile is None:
        return []
    if block.scim is None:
        raise Invalid(f"{where}: only an application with `scim` can be compared.", field=where, rule="reconcile.scim")
    off = str(block.reconcile.every).strip() in {"0", "off"}
    every = timedelta(0) if off else duration(block.reconcile.every, f"{where}.every")
    if every is None or (every and not _SHORTEST_PLAN <= every <= _LONGEST_PLAN):
        raise Invalid(
            f"{where}.every must be between 10m and 90d, or off.", field=f"{where}.every", rule="reconcile.every"
        )
    return set_plan(
        session,
        application_id,
        every=every,
        policy=block.reconcile.policy,
        service_accounts=sorted(set(block.reconcile.service_accounts)),
    )


def _touches_access(difference: Difference) -> bool:
    return any(name == "is_enabled" for name, _, _ in difference.changes)


def _event(difference: Difference, *, now: datetime, actor: Actor, door: str) -> Event:
    return Event(
        type=EventType.APPLICATION_CREATED if difference.is_new else EventType.APPLICATION_CHANGED,
        at=now,
        actor=actor,
        door=door,
        target_kind="application",
        target_id=difference.application_id,
        application_id=difference.application_id,
        details={
            "slug": difference.slug,
            "changes": [
                {"field": name, "before": _plain(before), "after": _plain(after)}
                for name, before, after in difference.changes
            ],
        },
    )


def _provider_event(difference: ProviderDifference, *, now: datetime, actor: Actor, door: str) -> Event:
    return Event(
        type=EventType.PROVIDER_CREATED if difference.is_new else EventType.PROVIDER_CHANGED,
        at=now,
        actor=actor,
        door=door,
        target_kind="provider",
        target_id=difference.provider_id,
        details={
            "slug": difference.slug,
            "changes": [
                {"field": name, "before": _plain(before), "after": _plain(after)}
                for name, before, after in difference.changes
            ],
        },
    )


def _extension_event(change: tuple[str, Any, Any], *, now: datetime, actor: Actor, door: str) -> Event:
    urn, before, after = change
    return Event(
        type=EventType.SCIM_EXTENSION_CHANGED,
        at=now,
        actor=actor,
        door=door,
        target_kind="scim_extension",
        target_id=urn,
        details={"before": before, "after": after},
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _wish(
    session: Session, block: ApplicationBlock, folder: Path, service_providers: Sequence[SamlWish], *, now: datetime
) -> ApplicationWish:
    """The checked wish of one block, with names resolved and secrets read.

    Raises:
        IdhubError: a name is unknown, a file is missing, an address or rule cannot be used.
    """
    where = f"applications.{block.slug}"
    for rule in block.entitle:
        try:
            compile_rule(rule.rule)
        except Invalid as error:
            raise Invalid(error.description, field=f"{where}.entitle", rule=error.rule) from error
    criticality = Criticality(block.criticality)
    name = block.name if isinstance(block.name, Names) else Names(en=block.name)
    deadline = duration(block.revocation_deadline, f"{where}.revocation_deadline")
    # Before the home address, which may be made of a redirect URI: the field that is wrong is the one named.
    oidc = _oidc_wish(block.oidc, folder, f"{where}.oidc") if block.oidc else None
    home = block.home_url or _home_of(block)
    return ApplicationWish(
        slug=block.slug,
        name=name.en,
        name_zh=name.zh,
        description=block.description,
        home_url=check_web_uri(home, field=f"{where}.home_url") if home else None,
        organization_id=_found(find_organization, session, block.organization, f"{where}.organization")
        or root_organization(session),
        owner_id=_found(find_person, session, block.owner, f"{where}.owner"),
        criticality=criticality,
        revocation_deadline=deadline or DEADLINES[criticality],
        required_grade=int(block.required_evidence[1]) if block.required_evidence else REQUIRED[criticality],
        is_enabled=block.enabled,
        oidc=oidc,
        scim=_scim_wish(session, block, folder, f"{where}.scim", now=now) if block.scim else None,
        service_providers=service_providers,
        cas=cas_wish(block.cas, f"{where}.cas"),
        rules=[(rule.role, rule.rule) for rule in block.entitle],
    )


def _found(find: Callable[[Session, str], str], session: Session, text: str | None, where: str) -> str | None:
    """What `text` names, refused under the name of the field that it stands in."""
    if text is None:
        return None
    try:
        return find(session, text)
    except (NotFound, Conflict) as error:
        raise type(error)(error.description, field=where, rule=error.rule) from error


def _home_of(block: ApplicationBlock) -> str | None:
    """Where the portal leads when nothing is said: the origin of the first redirect URI."""
    if block.oidc is None or not block.oidc.redirect_uris:
        return None
    first = block.oidc.redirect_uris[0]
    if not first.startswith(("https://", "http://")):
        return None
    return "/".join(first.split("/")[:3]) + "/"


def _oidc_wish(block: OidcBlock, folder: Path, where: str) -> OidcWish:
    secret = _secret(block.client_secret_file, folder, f"{where}.client_secret_file")
    if secret is not None and not _PLAIN_SECRET.fullmatch(secret):
        # RFC 6749 section 2.3.1 wants others encoded, and many clients do not: they would fail at the first sign-in.
        raise Invalid(
            f"{where}.client_secret_file: use letters, digits, - . _ ~ only.",
            field=f"{where}.client_secret_file",
            rule="secret.characters",
        )
    grants: Sequence[str] = ["authorization_code", "refresh_token"] if block.redirect_uris else []
    if block.grant_types is not None:
        grants = block.grant_types
    if block.public == (secret is not None):
        raise Invalid(
            "A client has either `client_secret_file` or `public: true`.", field=where, rule="client.authentication"
        )
    if "client_credentials" in grants and block.public:
        raise Invalid("A public client cannot act for itself.", field=f"{where}.grant_types", rule="client.public")
    if ("authorization_code" in grants or not grants) and not block.redirect_uris:
        raise Invalid("redirect_uris must not be empty.", field=f"{where}.redirect_uris", rule="required")
    lifetime = duration(block.access_token_lifetime, f"{where}.access_token_lifetime")
    for uri in block.redirect_uris:
        check_redirect_uri(uri, field=f"{where}.redirect_uris", is_native=block.native)
    for uri in block.post_logout_redirect_uris:
        check_redirect_uri(uri, field=f"{where}.post_logout_redirect_uris", is_native=block.native)
    if block.backchannel_logout_uri:
        check_web_uri(block.backchannel_logout_uri, field=f"{where}.backchannel_logout_uri")
    return OidcWish(
        client_id=block.client_id,
        secret=secret,
        auth_method="none" if block.public else block.auth_method,
        redirect_uris=block.redirect_uris,
        post_logout_redirect_uris=block.post_logout_redirect_uris,
        grant_types=grants,
        scopes=block.scopes,
        access_token_format=block.access_token,
        access_token_seconds=int(lifetime.total_seconds()) if lifetime else None,
        id_token_alg=block.id_token_alg,
        audience=block.audience,
        rotates_refresh=block.rotate_refresh,
        requires_consent=block.requires_consent,
        is_native=block.native,
        sector=block.sector,
        backchannel_logout_uri=block.backchannel_logout_uri,
    )


def _scim_wish(session: Session, application: ApplicationBlock, folder: Path, where: str, *, now: datetime) -> ScimWish:
    block = application.scim
    assert block is not None  # noqa: S101 - the caller looked
    base_url = check_web_uri(block.base_url, field=f"{where}.base_url").rstrip("/")
    return ScimWish(
        base_url=base_url,
        token=_secret(block.token_file, folder, f"{where}.token_file", least=1),
        user_name_attribute=block.user_name,
        dialect=block.dialect,
        control_user_name=block.control_user_name,
        options=target_options(session, block, application.slug, base_url, where, now=now).document(),
        token_expires_at=(
            datetime.combine(block.token_expires_on, time(), tzinfo=UTC) if block.token_expires_on else None
        ),
    )


def _secret(name: str | None, folder: Path, where: str, *, least: int = _MIN_SECRET) -> str | None:
    """The first line of a secret file, relative to the configuration's folder."""
    if name is None:
        return None
    try:
        with (folder / name).open("rb") as file:
            text = file.read(_MAX_SECRET + 2).decode("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{where}: {name} cannot be read.", field=where, rule="secret.unreadable") from error
    if len(text) < least or "\n" in text or len(text) > _MAX_SECRET:
        raise Invalid(
            f"{where}: {name} must hold one line of at least {least} characters.", field=where, rule="secret.length"
        )
    return text
