"""`/admin/apps/{slug}/saml`, `/wsfed`: whom assertions are made for, its certificates, what a person's would say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from fastapi import APIRouter, Request
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.responses import Response

from idhub.access.attributes import person_values
from idhub.access.service_providers import NAME_ID_FORMATS, Spoken
from idhub.access.tables import SamlServiceProvider
from idhub.authority import Action, visible_organizations
from idhub.credentials.naming import is_somebody_elses
from idhub.credentials.predicate import entitled
from idhub.directory.people import find_person, show_person
from idhub.errors import Conflict, Invalid, NotFound
from idhub.login.tables import IdentityProvider
from idhub.pages import N_
from idhub.saml.refresh import CERTIFICATE_WARNING, METADATA_WARNING, certificates_of, was_never_read
from idhub.web.drawing import mark_of
from idhub.web.labels import Translate
from idhub.web.person import record_visit
from idhub.web.provisioning import application_of, looking
from idhub.web.refusals import refusal_words
from idhub.web.services import WebServices
from idhub.web.visit import Visitor, frame_of, page_router, require, visitor_of
from providers.saml_wire import names
from providers.saml_wire.certificates import read_certificate

_USES: Final = {"signing": N_("Signs its messages"), "encryption": N_("Assertions are encrypted for it")}
_NAMED: Final = {
    names.PERSISTENT: N_("a name of their own in this application, for life"),
    names.TRANSIENT: N_("another name in every session"),
    names.EMAIL: N_("the mail address"),
    names.UNSPECIFIED: N_("the employee number"),
}
_VALUE_OF: Final = {names.EMAIL: "email", names.UNSPECIFIED: "employee_number"}
_BINDINGS: Final = {
    names.REDIRECT: "Redirect",
    names.POST: "POST",
    names.SOAP_BINDING: "SOAP",
    names.WSFED: "wsignoutcleanup1.0",
}
_PROTOCOLS: Final[Mapping[Spoken, str]] = {"saml": "SAML", "wsfed": "WS-Federation"}
_FORMATS: Final = {urn: name for name, urn in NAME_ID_FORMATS.items()}


@dataclass(frozen=True, slots=True)
class CertificateLine:
    """A certificate of the service provider.

    Args:
        state: "ok", "ending" or "over".
    """

    use: str
    subject: str
    fingerprint: str
    expires_at: datetime
    state: str


@dataclass(frozen=True, slots=True)
class Preview:
    """What an assertion would say of a person.

    Args:
        name_id: None: it is made when it is first needed, or the person has no value for it.
        is_nameless: the person cannot be named as the application wants: nobody signs in so.
        lines: (name in the assertion, where it is taken from, values); no values: it is left out.
    """

    name: str
    is_entitled: bool
    name_id: str | None
    is_nameless: bool
    lines: Sequence[tuple[str, str, Sequence[str]]]


def certificate_lines(row: SamlServiceProvider | IdentityProvider, *, now: datetime) -> list[CertificateLine]:
    """Every certificate, the one that runs out first at the top."""
    found = []
    for use, der in certificates_of(row):
        read = read_certificate(der)
        left = read.expires_at - now
        state = "over" if read.expires_at <= now else "ending" if left < CERTIFICATE_WARNING else "ok"
        found.append(CertificateLine(use, read.subject, read.fingerprint, read.expires_at, state))
    return sorted(found, key=lambda one: (one.expires_at, one.use))


def partner_state(
    row: SamlServiceProvider | IdentityProvider, translate: Translate, *, now: datetime
) -> dict[str, Any]:
    """What `partner_warnings.html` and `partner_certificates.html` show."""
    valid_until = row.metadata_valid_until
    return {
        "provider": row,
        "certificates": certificate_lines(row, now=now),
        "uses": {code: translate(words) for code, words in _USES.items()},
        "is_unread": was_never_read(row),
        "is_over": valid_until is not None and valid_until <= now,
        "is_ending": valid_until is not None and valid_until - now < METADATA_WARNING,
    }


def create_router(services: WebServices) -> APIRouter:
    """Routes of an application's service provider."""
    router = page_router(services)
    pages = services.pages

    @router.get("/admin/apps/{slug}/saml")
    def service_provider(request: Request, slug: str, person: str = "") -> Response:
        """Show it; with `person`, what an assertion would say of them."""
        return shown(request, slug, person, "saml")

    @router.get("/admin/apps/{slug}/wsfed")
    def relying_party(request: Request, slug: str, person: str = "") -> Response:
        """Show it; with `person`, what an assertion would say of them."""
        return shown(request, slug, person, "wsfed")

    def shown(request: Request, slug: str, person: str, protocol: Spoken) -> Response:
        now = services.clock()
        errors: dict[str, str] = {}
        t = pages.translator(request)
        with looking(services.database, at_somebody=bool(person)) as session:
            visitor = visitor_of(session, request, services, now=now)
            row, _ = application_of(session, visitor, slug)
            provider = session.scalars(
                select(SamlServiceProvider).where(
                    SamlServiceProvider.application_id == row.id,
                    SamlServiceProvider.protocol == protocol,
                    SamlServiceProvider.is_enabled,
                )
            ).first()
            if provider is None:
                raise Conflict(f"This application speaks no {_PROTOCOLS[protocol]}.", rule=f"{protocol}.none")
            seen = None
            if person:
                try:
                    seen = _preview(session, visitor, request, provider, person, now)
                except (Conflict, Invalid, NotFound) as error:
                    errors["person"] = refusal_words(error, t)
            context: dict[str, Any] = {
                **partner_state(provider, t, now=now),
                "protocol": _PROTOCOLS[protocol],
                "lifetime": timedelta(seconds=provider.assertion_seconds or 0),
                "consumers": [
                    (binding, one["location"])
                    for binding, services in (
                        ("POST", provider.consumer_services),
                        ("Artifact", provider.artifact_consumers or ()),
                    )
                    for one in services
                ],
                "name_id_format": _FORMATS.get(provider.name_id_format, provider.name_id_format),
                "named": t(_NAMED.get(provider.name_id_format, provider.name_id_format)),
                "logouts": [(_BINDINGS[one["binding"]], one["location"]) for one in provider.logout_services],
            }
        name = row.name if pages.language(request) == "en" else row.name_zh or row.name
        context |= {
            "frame": frame_of(visitor, request, services),
            "now": now,
            "row": row,
            "name": name,
            "mark": mark_of(name, row.slug),
            "typed": person,
            "seen": seen,
            "errors": errors,
        }
        return pages.render(request, "service_provider.html", context, session_id=visitor.session_id)

    return router


def _preview(
    session: Session, visitor: Visitor, request: Request, provider: SamlServiceProvider, text: str, now: datetime
) -> Preview:
    require(session, visitor, Action.PEOPLE_READ)
    within = visible_organizations(session, visitor.subject, Action.PEOPLE_READ)
    person = show_person(session, find_person(session, text, within=within))
    values = person_values(session, person.id, provider.application_id, now=now)
    holds = entitled(now, principal_id=person.id, application_id=provider.application_id)
    taken_from = _VALUE_OF.get(provider.name_id_format)
    name_id = next(iter(values.get(taken_from, ())), None) if taken_from else None
    record_visit(session, visitor, person, request, "person.preview", now)
    return Preview(
        name=person.display_name,
        is_entitled=bool(session.execute(select(holds)).scalar()),
        name_id=name_id,
        is_nameless=taken_from is not None
        and (
            name_id is None
            or is_somebody_elses(
                session, taken_from, name_id, principal_id=person.id, application_id=provider.application_id, now=now
            )
        ),
        lines=[(name, source, values.get(source, ())) for name, source in sorted(provider.attributes.items())],
    )
