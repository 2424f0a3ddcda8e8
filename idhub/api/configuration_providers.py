"""`providers:` of a configuration file: identity providers, by metadata at hand, at an address, or guided entry."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from idhub.access.partners import logout_services
from idhub.access.uris import check_web_uri
from idhub.api.configuration_fields import PLAIN, Name, Names, Strict, Text, Uri, duration
from idhub.api.configuration_saml import (
    BINDING_NAMES,
    BINDINGS,
    MAX_PEM,
    LogoutBlock,
    named_certificate,
    pinned_certificate,
    read_file,
)
from idhub.directory.organizations import find_organization
from idhub.directory.tables import Organization
from idhub.errors import Conflict, Invalid, NotFound
from idhub.login.providers import LinkRule, ProviderFacts, ProviderWish, facts_of
from idhub.login.tables import IdentityProvider
from providers.saml_wire import names
from providers.saml_wire.errors import WireError
from providers.saml_wire.metadata import MAX_ENTITY_ID, Endpoint, read_identity_provider
from providers.saml_wire.parsing import MAX_METADATA

SLUG: Final = r"^[a-z0-9][a-z0-9-]{0,58}[a-z0-9]$|^[a-z0-9]$"
_LONGEST_AGE: Final = timedelta(days=30)
_DOMAIN: Final = r"^(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9-]{2,63}$"
_FORMATS: Final = {
    "persistent": names.PERSISTENT,
    "email": names.EMAIL,
    "unspecified": names.UNSPECIFIED,
    "transient": names.TRANSIENT,
}
_FORMAT_NAMES: Final = {urn: name for name, urn in _FORMATS.items()}
_Attribute = Annotated[str, Field(min_length=1, max_length=200), PLAIN]


def _is_trimmed(value: str) -> str:
    if value.strip() != value:
        raise ValueError("must have no blanks around it")
    return value


class SignOnBlock(Strict):
    """An entry of `sign_on`."""

    binding: Literal["redirect", "post"]
    url: Uri


class LinkBlock(Strict):
    """An entry of `link`: how somebody is recognised at their first sign-in."""

    match: Literal["employee_number", "email"]
    attribute: _Attribute


class ProviderSamlBlock(Strict):
    """`saml:` of a provider."""

    metadata_file: Text | None = None
    metadata_url: Uri | None = None
    metadata_certificate_file: Text | None = None
    entity_id: Annotated[str, Field(min_length=1, max_length=MAX_ENTITY_ID), PLAIN] | None = None
    sign_on: list[SignOnBlock] = Field(default_factory=list, max_length=2)
    logout: list[LogoutBlock] = Field(default_factory=list, max_length=3)
    certificates: list[Annotated[str, Field(min_length=1, max_length=MAX_PEM)]] = Field(
        default_factory=list, max_length=10
    )
    sign: Literal["any", "assertion", "response", "both"] = "any"
    name_id_format: Literal["persistent", "email", "unspecified", "transient"] | None = None
    subject: _Attribute | None = None
    contexts: list[Annotated[str, Field(min_length=1, max_length=200), PLAIN, AfterValidator(_is_trimmed)]] = Field(
        default_factory=list, max_length=10
    )
    max_age: str | int | None = None
    unsolicited: bool = False


class ProviderBlock(Strict):
    """One identity provider of the file."""

    slug: Annotated[str, Field(pattern=SLUG)]
    name: Names | Name
    organization: Text
    domains: list[Annotated[str, Field(pattern=_DOMAIN, max_length=253)]] = Field(default_factory=list, max_length=50)
    link: list[LinkBlock] = Field(default_factory=list, max_length=5)
    shown: bool = True
    enabled: bool = True
    saml: ProviderSamlBlock


def provider_wish(session: Session, block: ProviderBlock, folder: Path, *, now: datetime) -> ProviderWish:
    """The checked wish of a block, with names resolved and files read.

    Raises:
        Invalid: two ways at once or none, a file that cannot be used, a rule that nothing backs.
        NotFound: there is no such organization.
    """
    where = f"providers.{block.slug}"
    saml = block.saml
    if any(rule.match == "email" for rule in block.link) and not block.domains:
        # An address proves nothing but to whoever gives the addresses of its domain.
        raise Invalid(
            f"{where}.link: a match by email needs domains that the provider is authoritative for.",
            field=f"{where}.link",
            rule="provider.domains",
        )
    repeated = next((one for one in block.domains if block.domains.count(one) > 1), None)
    if repeated is not None:
        raise Invalid(
            f"{where}.domains names {repeated} twice.", field=f"{where}.domains", rule="configuration.repeated"
        )
    facts, entity_id, certificate = _facts(saml, folder, f"{where}.saml", now=now)
    name = block.name if isinstance(block.name, Names) else Names(en=block.name)
    max_age = duration(saml.max_age, f"{where}.saml.max_age")
    if max_age is not None and max_age > _LONGEST_AGE:
        raise Invalid(
            f"{where}.saml.max_age must be 30d at most.", field=f"{where}.saml.max_age", rule="provider.max_age"
        )
    return ProviderWish(
        slug=block.slug,
        name=name.en,
        name_zh=name.zh,
        organization_id=_organization(session, block.organization, f"{where}.organization"),
        entity_id=entity_id,
        facts=facts,
        domains=block.domains,
        rules=[LinkRule(one.match, one.attribute) for one in block.link],
        subject_attribute=saml.subject,
        signature_policy=saml.sign,
        name_id_format=None if saml.name_id_format is None else _FORMATS[saml.name_id_format],
        contexts=saml.contexts,
        max_age=max_age,
        allows_unsolicited=saml.unsolicited,
        is_shown=block.shown,
        is_enabled=block.enabled,
        metadata_url=saml.metadata_url,
        metadata_certificate=certificate,
    )


def _organization(session: Session, text: str, where: str) -> str:
    try:
        return find_organization(session, text)
    except (NotFound, Conflict) as error:
        raise type(error)(error.description, field=where, rule=error.rule) from error


def _facts(
    block: ProviderSamlBlock, folder: Path, where: str, *, now: datetime
) -> tuple[ProviderFacts | None, str, str | None]:
    """What is known of the provider, its entity ID, and the certificate its metadata must be signed with."""
    ways = [name for name in ("metadata_file", "metadata_url", "sign_on") if getattr(block, name)]
    if len(ways) != 1:
        raise Invalid(
            f"{where} needs exactly one of metadata_file, metadata_url and sign_on.", field=where, rule="saml.source"
        )
    if ways != ["sign_on"] and (block.logout or block.certificates):
        raise Invalid(
            f"{where}: certificates and logout addresses come from the metadata.", field=where, rule="saml.source"
        )
    pinned = pinned_certificate(block.metadata_certificate_file, folder, where, has_metadata=ways != ["sign_on"])
    certificate = None if pinned is None else pinned.der
    if block.metadata_file is not None:
        field = f"{where}.metadata_file"
        document = read_file(folder, block.metadata_file, field, MAX_METADATA)
        keys = [pinned.public_key] if pinned else []
        try:
            metadata = read_identity_provider(document, now=now, pinned=keys, entity_id=block.entity_id)
        except WireError as error:
            raise Invalid(f"{field}: {error.description}", field=field, rule=error.reason) from error
        return facts_of(metadata, field=field), metadata.entity_id, certificate
    if block.entity_id is None:
        raise Invalid(f"{where}.entity_id is missing.", field=f"{where}.entity_id", rule="required")
    if block.metadata_url is not None:
        check_web_uri(block.metadata_url, field=f"{where}.metadata_url")
        return None, block.entity_id, certificate
    return _entered(block, folder, where), block.entity_id, None


def _entered(block: ProviderSamlBlock, folder: Path, where: str) -> ProviderFacts:
    """What a person entered who has no metadata."""
    for list_name, entries in (("sign_on", block.sign_on), ("logout", block.logout)):
        bindings = [one.binding for one in entries]
        if len(set(bindings)) != len(bindings):
            raise Invalid(
                f"{where}.{list_name} names a binding twice.", field=f"{where}.{list_name}", rule="saml.binding"
            )
    for one in block.sign_on:
        check_web_uri(one.url, field=f"{where}.sign_on")
    if not block.certificates:
        raise Invalid(
            f"{where}.certificates is missing: nothing that the provider says could be verified.",
            field=f"{where}.certificates",
            rule="saml.certificate",
        )
    endpoints = [Endpoint(BINDINGS[one.binding], one.url, one.response_url or "") for one in block.logout]
    return ProviderFacts(
        sign_on_services=[{"binding": BINDINGS[one.binding], "location": one.url} for one in block.sign_on],
        logout_services=logout_services(endpoints, field=f"{where}.logout"),
        signing_certificates=[named_certificate(one, folder, f"{where}.certificates") for one in block.certificates],
    )


def export_providers(session: Session) -> list[dict[str, Any]]:
    """The blocks that would make the enabled providers again, certificates in them."""
    rows = session.execute(
        select(IdentityProvider, Organization.code)
        .join(Organization, Organization.id == IdentityProvider.organization_id)
        .where(IdentityProvider.is_enabled)
        .order_by(IdentityProvider.slug)
    )
    return [_block(row, code) for row, code in rows]


def _block(row: IdentityProvider, organization: str) -> dict[str, Any]:
    saml: dict[str, Any] = {"entity_id": row.entity_id, "metadata_url": row.metadata_url}
    if row.metadata_url is None:
        saml |= {
            "sign_on": [
                {"binding": BINDING_NAMES[one["binding"]], "url": one["location"]} for one in row.sign_on_services
            ],
            "logout": [
                {
                    "binding": BINDING_NAMES[one["binding"]],
                    "url": one["location"],
                    **({"response_url": one["response_location"]} if one["response_location"] else {}),
                }
                for one in row.logout_services
            ],
            "certificates": list(row.signing_certificates),
        }
    saml |= {
        "sign": row.signature_policy,
        "name_id_format": None if row.name_id_format is None else _FORMAT_NAMES[row.name_id_format],
        "subject": row.subject_attribute,
        "contexts": list(row.contexts),
        "max_age": row.max_age_seconds,
        "unsolicited": row.allows_unsolicited,
    }
    block: dict[str, Any] = {
        "slug": row.slug,
        "name": {"en": row.name, **({"zh": row.name_zh} if row.name_zh else {})},
        "organization": organization,
        "domains": list(row.domains),
        "link": [dict(one) for one in row.rules],
        "shown": row.is_shown,
        "saml": {name: value for name, value in saml.items() if value not in (None, [])},
    }
    return {name: value for name, value in block.items() if value not in (None, [])}
