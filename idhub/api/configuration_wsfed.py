"""`wsfed:` of an application in a configuration file: a relying party of WS-Federation."""

from datetime import timedelta
from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints

from idhub.access.attributes import PersonValue
from idhub.access.service_providers import DEFAULT_CLAIMS, NAME_ID_FORMATS, ProviderFacts, SamlWish
from idhub.access.tables import SamlServiceProvider
from idhub.access.uris import check_web_uri
from idhub.api.configuration_fields import PLAIN, Strict, Uri, duration
from idhub.api.configuration_saml import FORMAT_NAMES
from idhub.errors import Invalid
from providers.saml_wire import names
from providers.saml_wire.metadata import MAX_ENTITY_ID

_VERSIONS: Final[dict[str, Literal["2.0", "1.1"]]] = {"saml2.0": "2.0", "saml1.1": "1.1"}
_SHORTEST, _LONGEST = timedelta(minutes=5), timedelta(hours=12)


class WsfedBlock(Strict):
    """`wsfed:` of an application."""

    realm: Annotated[str, Field(min_length=1, max_length=MAX_ENTITY_ID), PLAIN]
    reply_urls: list[Uri] = Field(min_length=1, max_length=100)
    cleanup_url: Uri | None = None
    token: Literal["saml2.0", "saml1.1"] = "saml2.0"  # noqa: S105 - a form, no secret
    token_lifetime: str | int | None = None
    name_id_format: Literal["persistent", "transient", "email", "unspecified"] = "persistent"
    attributes: dict[Annotated[str, StringConstraints(min_length=1, max_length=200), PLAIN], PersonValue] | None = None


def wsfed_wish(block: WsfedBlock | None, where: str) -> SamlWish | None:
    """The checked wish of a block.

    Raises:
        Invalid: an address that is none, a claim type that SAML 1.1 cannot carry, a token that lives too long.
    """
    if block is None:
        return None
    for url in block.reply_urls:
        check_web_uri(url, field=f"{where}.reply_urls")
    if len(set(block.reply_urls)) < len(block.reply_urls):
        raise Invalid(f"{where}.reply_urls names an address twice.", field=f"{where}.reply_urls", rule="wsfed.twice")
    if block.cleanup_url is not None:
        check_web_uri(block.cleanup_url, field=f"{where}.cleanup_url")
    attributes = dict(DEFAULT_CLAIMS) if block.attributes is None else dict(block.attributes)
    if block.token == "saml1.1":  # noqa: S105 - a form, no secret
        for name in attributes:
            namespace, _, local = name.rpartition("/")
            if not namespace or not local:
                raise Invalid(
                    f"{where}.attributes: {name!r} must be a claim type with a slash in it, as SAML 1.1 writes it.",
                    field=f"{where}.attributes",
                    rule="wsfed.claim",
                )
    lifetime = duration(block.token_lifetime, f"{where}.token_lifetime")
    if lifetime is not None and not _SHORTEST <= lifetime <= _LONGEST:
        raise Invalid(
            f"{where}.token_lifetime must lie between 5m and 12h.",
            field=f"{where}.token_lifetime",
            rule="wsfed.lifetime",
        )
    address = block.cleanup_url
    cleanup = [{"binding": names.WSFED, "location": address, "response_location": ""}] if address else []
    return SamlWish(
        protocol="wsfed",
        entity_id=block.realm,
        facts=ProviderFacts(
            consumer_services=[
                {"index": position, "location": url, "is_default": not position}
                for position, url in enumerate(block.reply_urls)
            ],
            logout_services=cleanup,
        ),
        name_id_format=NAME_ID_FORMATS[block.name_id_format],
        attributes=attributes,
        signs_response=False,
        assertion_version=_VERSIONS[block.token],
        assertion_seconds=int(lifetime.total_seconds()) if lifetime is not None else None,
    )


def export_block(row: SamlServiceProvider | None) -> dict[str, Any] | None:
    """The block that would make this row again."""
    if row is None:
        return None
    block: dict[str, Any] = {
        "realm": row.entity_id,
        "reply_urls": [one["location"] for one in row.consumer_services],
        "cleanup_url": next((one["location"] for one in row.logout_services), None),
        "token": f"saml{row.assertion_version}",
        "token_lifetime": row.assertion_seconds,
        "name_id_format": FORMAT_NAMES[row.name_id_format],
        "attributes": dict(row.attributes),
    }
    return {name: value for name, value in block.items() if value is not None}
