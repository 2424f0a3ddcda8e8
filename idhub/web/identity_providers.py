"""`/admin/providers`: identity providers of companies, what stops them soon, and how they recognise people."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import APIRouter, Request
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session
from starlette.responses import Response

from idhub.authority import Action, visible_organizations
from idhub.directory.tables import IdentityLink, Organization, Principal
from idhub.errors import NotFound
from idhub.login.providers import NAME_ID
from idhub.login.tables import IdentityProvider
from idhub.pages import N_
from idhub.saml.refresh import warnings_of
from idhub.web.federation import METADATA_PATH, begin_url
from idhub.web.service_provider import partner_state
from idhub.web.services import WebServices
from idhub.web.visit import Visitor, frame_of, page_router, require, visitor_of
from providers.saml_wire import names

_MATCHES: Final = {"employee_number": N_("the employee number"), "email": N_("the mail address")}
_POLICIES: Final = {
    "any": N_("response or assertion"),
    "assertion": N_("assertion"),
    "response": N_("response"),
    "both": N_("response and assertion"),
}
_BINDINGS: Final = {names.REDIRECT: "Redirect", names.POST: "POST"}
_MOST: Final = 200


def create_router(services: WebServices) -> APIRouter:
    """Routes of identity providers."""
    router = page_router(services)
    pages = services.pages

    @router.get("/admin/providers")
    def providers(request: Request) -> Response:
        """List the providers that are switched on."""
        now = services.clock()
        with services.database.read() as session:
            visitor = visitor_of(session, request, services, now=now)
            rows = session.execute(_seen(session, visitor).order_by(IdentityProvider.slug).limit(_MOST)).all()
            linked = _linked(session, [row.id for row, *_ in rows])
        is_english = pages.language(request) == "en"
        listed = [
            {
                "slug": row.slug,
                "name": row.name if is_english else row.name_zh or row.name,
                "entity_id": row.entity_id,
                "company": company,
                "linked": linked.get(row.id, 0),
                "warnings": len(warnings_of(row, now=now)),
            }
            for row, company, _ in rows
        ]
        context = {"frame": frame_of(visitor, request, services), "now": now, "listed": listed}
        return pages.render(request, "identity_providers.html", context, session_id=visitor.session_id)

    @router.get("/admin/providers/{provider}")
    def one_provider(request: Request, provider: str) -> Response:
        """Show one provider."""
        now = services.clock()
        t = pages.translator(request)
        with services.database.read() as session:
            visitor = visitor_of(session, request, services, now=now)
            # PostgreSQL takes no NUL in a text, not even to look for it.
            wanted = _seen(session, visitor).where(
                IdentityProvider.slug == (provider if provider.isprintable() else "")
            )
            found = session.execute(wanted).first()
            if found is None:
                raise NotFound("There is no such identity provider.", rule="provider.unknown")
            row, company, company_en = found
            linked = _linked(session, [row.id]).get(row.id, 0)
        is_english = pages.language(request) == "en"
        context: dict[str, Any] = {
            **partner_state(row, t, now=now),
            "frame": frame_of(visitor, request, services),
            "now": now,
            "name": row.name if is_english else row.name_zh or row.name,
            "company": (company_en or company) if is_english else company,
            "linked": linked,
            "rules": [(t(_MATCHES[match]), attribute) for match, attribute in _rules(row)],
            "subject": row.subject_attribute or "NameID",
            "signed": t(_POLICIES[row.signature_policy]),
            "sign_on": [(_BINDINGS[one["binding"]], one["location"]) for one in row.sign_on_services],
            "begin": services.settings.issuer + begin_url(row.slug, "", ""),
            "ours": services.settings.issuer + METADATA_PATH,
        }
        return pages.render(request, "identity_provider.html", context, session_id=visitor.session_id)

    return router


def _seen(session: Session, visitor: Visitor) -> Select[IdentityProvider, str, str | None]:
    """(provider, company, company in English) of those the visitor may see."""
    require(session, visitor, Action.APPLICATION_READ)
    statement = (
        select(IdentityProvider, Organization.name, Organization.name_en)
        .join(Organization, Organization.id == IdentityProvider.organization_id)
        .where(IdentityProvider.is_enabled)
    )
    within = visible_organizations(session, visitor.subject, Action.APPLICATION_READ)
    return statement if within is None else statement.where(IdentityProvider.organization_id.in_(within))


def _linked(session: Session, provider_ids: Sequence[str]) -> Mapping[str, int]:
    """How many people are linked, in the enrolment they are in now."""
    rows = session.execute(
        select(IdentityLink.provider, func.count())
        .join(Principal, Principal.id == IdentityLink.principal_id)
        .where(IdentityLink.provider.in_(provider_ids), IdentityLink.enrolment_epoch == Principal.enrolment_epoch)
        .group_by(IdentityLink.provider)
    )
    return {row[0]: row[1] for row in rows}


def _rules(row: IdentityProvider) -> list[tuple[str, str]]:
    return [(one["match"], "NameID" if one["attribute"] == NAME_ID else one["attribute"]) for one in row.rules]
