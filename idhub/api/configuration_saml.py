"""`saml:` of an application in a configuration file: metadata at hand, metadata at an address, or guided entry."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints

from idhub.access.attributes import DEFAULT_ATTRIBUTES, PersonValue
from idhub.access.partners import logout_services
from idhub.access.service_providers import (
    NAME_ID_FORMATS,
    ProviderFacts,
    SamlWish,
    consumer_columns,
    facts_of,
)
from idhub.access.tables import SamlServiceProvider
from idhub.access.uris import check_web_uri
from idhub.api.configuration_fields import PLAIN, Strict, Text, Uri
from idhub.errors import Invalid
from providers.saml_wire import names
from providers.saml_wire.certificates import Certificate, read_pem
from providers.saml_wire.errors import WireError
from providers.saml_wire.metadata import (
    MAX_ENTITY_ID,
    ConsumerService,
    Endpoint,
    ServiceProviderMetadata,
    read_service_provider,
)
from providers.saml_wire.parsing import MAX_METADATA

BINDINGS: Final = {"redirect": names.REDIRECT, "post": names.POST, "soap": names.SOAP_BINDING}
_CONSUMERS: Final = {"post": names.POST, "artifact": names.ARTIFACT}
BINDING_NAMES: Final = {urn: name for name, urn in BINDINGS.items()}
FORMAT_NAMES: Final = {urn: name for name, urn in NAME_ID_FORMATS.items()}
MAX_PEM: Final = 20_000


class ConsumerBlock(Strict):
    """An entry of `acs_urls` that names its index."""

    url: Uri
    index: Annotated[int, Field(ge=0, le=65_535)]
    default: bool = False
    binding: Literal["post", "artifact"] = "post"


class LogoutBlock(Strict):
    """An entry of `logout`."""

    binding: Literal["redirect", "post", "soap"]
    url: Uri
    response_url: Uri | None = None


class SamlBlock(Strict):
    """`saml:` of an application."""

    metadata_file: Text | None = None
    metadata_url: Uri | None = None
    metadata_certificate_file: Text | None = None
    entity_id: Annotated[str, Field(min_length=1, max_length=MAX_ENTITY_ID), PLAIN] | None = None
    acs_urls: list[Uri | ConsumerBlock] = Field(default_factory=list, max_length=100)
    logout: list[LogoutBlock] = Field(default_factory=list, max_length=3)
    certificates: list[Annotated[str, Field(min_length=1, max_length=MAX_PEM)]] = Field(
        default_factory=list, max_length=10
    )
    encryption_certificates: list[Annotated[str, Field(min_length=1, max_length=MAX_PEM)]] = Field(
        default_factory=list, max_length=10
    )
    name_id_format: Literal["persistent", "transient", "email", "unspecified"] = "persistent"
    attributes: dict[Annotated[str, StringConstraints(min_length=1, max_length=200), PLAIN], PersonValue] | None = None
    sign: Literal["both", "assertion", "response"] = "both"
    response_binding: Literal["post", "artifact"] = "post"
    encrypt_assertion: bool = False
    want_signed_requests: bool | None = None
    idp_initiated: bool = False
    not_entitled: Literal["page", "answer"] = "page"


def saml_wish(block: SamlBlock | None, folder: Path, where: str, *, now: datetime) -> SamlWish | None:
    """The checked wish of a block, with its files read.

    Raises:
        Invalid: two ways at once or none, a file that cannot be used, an address that is none.
    """
    if block is None:
        return None
    ways = [name for name in ("metadata_file", "metadata_url", "acs_urls") if getattr(block, name)]
    if len(ways) != 1:
        raise Invalid(
            f"{where} needs exactly one of metadata_file, metadata_url and acs_urls.", field=where, rule="saml.source"
        )
    if ways != ["acs_urls"] and (block.logout or block.certificates or block.encryption_certificates):
        raise Invalid(
            f"{where}: certificates and logout addresses come from the metadata.", field=where, rule="saml.source"
        )
    if block.encrypt_assertion and block.sign == "response":
        # Whoever opens the assertion must find the signature in it (SAML security considerations).
        raise Invalid(
            f"{where}.sign: an assertion that is encrypted must be signed itself.",
            field=f"{where}.sign",
            rule="saml.sign",
        )
    pinned = pinned_certificate(block.metadata_certificate_file, folder, where, has_metadata=ways != ["acs_urls"])
    signs_requests = False
    facts: ProviderFacts | None
    entity_id = block.entity_id
    if block.metadata_file is not None:
        metadata = _metadata(block, block.metadata_file, folder, where, pinned, now=now)
        facts, entity_id = facts_of(metadata, field=f"{where}.metadata_file"), metadata.entity_id
        signs_requests = metadata.signs_requests
    elif block.metadata_url is not None:
        check_web_uri(block.metadata_url, field=f"{where}.metadata_url")
        facts = None
    else:
        facts = _entered(block, folder, where)
    if entity_id is None:
        raise Invalid(f"{where}.entity_id is missing.", field=f"{where}.entity_id", rule="required")
    wants_signed = signs_requests if block.want_signed_requests is None else block.want_signed_requests
    if facts is not None:
        _check_keys(block, facts, where, wants_signed=wants_signed)
    return SamlWish(
        entity_id=entity_id,
        facts=facts,
        metadata_url=block.metadata_url,
        metadata_certificate=pinned.der if pinned else None,
        name_id_format=NAME_ID_FORMATS[block.name_id_format],
        attributes=dict(DEFAULT_ATTRIBUTES) if block.attributes is None else dict(block.attributes),
        signs_response=block.sign != "assertion",
        signs_assertion=block.sign != "response",
        encrypts_assertion=block.encrypt_assertion,
        wants_signed_requests=wants_signed,
        allows_idp_initiated=block.idp_initiated,
        answers_not_entitled=block.not_entitled == "answer",
        response_binding=block.response_binding,
    )


def called_addresses(wish: SamlWish) -> dict[str, str | None]:
    """Addresses of the block that the hub itself calls."""
    return {"saml.metadata_url": wish.metadata_url, "saml.logout": wish.facts.soap_logout_url if wish.facts else None}


def export_block(row: SamlServiceProvider | None) -> dict[str, Any] | None:
    """The block that would make this row again, certificates in it."""
    if row is None:
        return None
    block: dict[str, Any] = {"entity_id": row.entity_id, "metadata_url": row.metadata_url}
    if row.metadata_url is None:
        block |= {
            "acs_urls": [
                {"url": one["location"], "index": one["index"], "default": one["is_default"], **binding}
                for services, binding in (
                    (row.consumer_services, {}),
                    (row.artifact_consumers or [], {"binding": "artifact"}),
                )
                for one in services
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
            "encryption_certificates": list(row.encryption_certificates),
        }
    block |= {
        "name_id_format": FORMAT_NAMES[row.name_id_format],
        "attributes": dict(row.attributes),
        "sign": "both" if row.signs_response and row.signs_assertion else _one_signature(row),
        "response_binding": row.response_binding or "post",
        "encrypt_assertion": row.encrypts_assertion,
        "want_signed_requests": row.wants_signed_requests,
        "idp_initiated": row.allows_idp_initiated,
        "not_entitled": "answer" if row.answers_not_entitled else "page",
    }
    return {name: value for name, value in block.items() if value not in (None, [])}


def _one_signature(row: SamlServiceProvider) -> str:
    return "assertion" if row.signs_assertion else "response"


def pinned_certificate(name: str | None, folder: Path, where: str, *, has_metadata: bool) -> Certificate | None:
    """The certificate that metadata must be signed with, of the file of that name.

    Raises:
        Invalid: there is no metadata to be signed, or the file cannot be used.
    """
    if name is None:
        return None
    field = f"{where}.metadata_certificate_file"
    if not has_metadata:
        raise Invalid(f"{field} is for metadata, and there is none.", field=field, rule="saml.source")
    return _certificate(read_file(folder, name, field, MAX_PEM).decode("utf-8", "replace"), field)


def _metadata(
    block: SamlBlock, name: str, folder: Path, where: str, pinned: Certificate | None, *, now: datetime
) -> ServiceProviderMetadata:
    field = f"{where}.metadata_file"
    try:
        return read_service_provider(
            read_file(folder, name, field, MAX_METADATA),
            now=now,
            pinned=[pinned.public_key] if pinned else [],
            entity_id=block.entity_id,
        )
    except WireError as error:
        raise Invalid(f"{field}: {error.description}", field=field, rule=error.reason) from error


def _entered(block: SamlBlock, folder: Path, where: str) -> ProviderFacts:
    """What a person entered who has no metadata."""
    services: list[ConsumerService] = []
    for position, entry in enumerate(block.acs_urls):
        one = (
            entry
            if isinstance(entry, ConsumerBlock)
            else ConsumerBlock(url=entry, index=position, default=not position)
        )
        check_web_uri(one.url, field=f"{where}.acs_urls")
        services.append(ConsumerService(one.index, one.url, one.default, _CONSUMERS[one.binding]))
    if len({one.index for one in services}) != len(services):
        raise Invalid(f"{where}.acs_urls has an index twice.", field=f"{where}.acs_urls", rule="saml.index")
    endpoints = [Endpoint(BINDINGS[one.binding], one.url, one.response_url or "") for one in block.logout]
    if len({one.binding for one in endpoints}) != len(endpoints):
        raise Invalid(f"{where}.logout names a binding twice.", field=f"{where}.logout", rule="saml.binding")
    return ProviderFacts(
        consumer_services=consumer_columns(services, names.POST),
        artifact_consumers=consumer_columns(services, names.ARTIFACT),
        logout_services=logout_services(endpoints, field=f"{where}.logout"),
        signing_certificates=[named_certificate(text, folder, f"{where}.certificates") for text in block.certificates],
        encryption_certificates=[
            named_certificate(text, folder, f"{where}.encryption_certificates")
            for text in block.encryption_certificates
        ],
    )


def _check_keys(block: SamlBlock, facts: ProviderFacts, where: str, *, wants_signed: bool) -> None:
    if wants_signed and not facts.signing_certificates:
        raise Invalid(
            f"{where}: signed requests are wanted, and there is no certificate to verify them with.",
            field=f"{where}.want_signed_requests",
            rule="saml.certificate",
        )
    if block.response_binding == "artifact" and not facts.artifact_consumers:
        raise Invalid(
            f"{where}.response_binding: it has no address for artifacts.",
            field=f"{where}.response_binding",
            rule="saml.binding",
        )
    # Whoever fetches what an artifact stands for proves by a signature that it is meant (Bindings 3.6.5).
    is_entered = any(isinstance(one, ConsumerBlock) and one.binding == "artifact" for one in block.acs_urls)
    if (block.response_binding == "artifact" or is_entered) and not facts.signing_certificates:
        raise Invalid(
            f"{where}: artifacts need a certificate: requests for what they stand for are signed.",
            field=f"{where}.certificates",
            rule="saml.certificate",
        )
    if block.encrypt_assertion and not facts.encryption_certificates:
        raise Invalid(
            f"{where}: there is no certificate to encrypt assertions for.",
            field=f"{where}.encrypt_assertion",
            rule="saml.certificate",
        )
    if facts.logout_services and not facts.signing_certificates and block.logout:
        raise Invalid(
            f"{where}.logout needs a certificate: logout messages are signed.",
            field=f"{where}.logout",
            rule="saml.certificate",
        )


def named_certificate(text: str, folder: Path, field: str) -> str:
    """A certificate in place (PEM, or its base64), or the name of a file that holds one."""
    if text.startswith(("-----BEGIN", "MII")):
        return _certificate(text, field).der
    return _certificate(read_file(folder, text, field, MAX_PEM).decode("utf-8", "replace"), field).der


def _certificate(text: str, field: str) -> Certificate:
    try:
        return read_pem(text)
    except WireError as error:
        raise Invalid(f"{field}: {error.description}", field=field, rule=error.reason) from error


def read_file(folder: Path, name: str, field: str, most: int) -> bytes:
    """The content of a file of the configuration's folder, at most `most` bytes of it.

    Raises:
        Invalid: it cannot be read, or is larger.
    """
    try:
        with (folder / name).open("rb") as file:
            content = file.read(most + 1)
    except (OSError, ValueError) as error:
        raise Invalid(f"{field}: {name} cannot be read.", field=field, rule="file.unreadable") from error
    if len(content) > most:
        raise Invalid(f"{field}: {name} is larger than {most} bytes.", field=field, rule="file.size")
    return content
