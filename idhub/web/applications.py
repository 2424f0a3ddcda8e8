"""`/admin/apps`: applications, how they are connected, and how well they can be told."""

from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Request
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.responses import Response

from idhub.access.tables import CasAddress, CasService, EntitlementRule, OidcClient, SamlServiceProvider, ScimTarget
from idhub.authority import Action
from idhub.delivery.queue import holds
from idhub.errors import NotFound
from idhub.pages import N_
from idhub.web import labels, queries_access
from idhub.web.drawing import exposure_length, exposure_tone, mark_of
from idhub.web.labels import Label, Translate, translated
from idhub.web.listing import View
from idhub.web.queries_access import ApplicationRow, Health
from idhub.web.services import WebServices
from idhub.web.visit import frame_of, page_router, require, visitor_of

_EMPTY = Health()


def create_router(services: WebServices) -> APIRouter:
    """Routes of the applications list and of one application."""
    router = page_router(services)
    pages = services.pages

    @router.get("/admin/apps")
    def applications(request: Request) -> Response:
        """List applications: who owns them, how many people, whether they can be told now."""
        now = services.clock()
        t = pages.translator(request)
        view = View(queries_access.APPLICATIONS, request.query_params, t)
        with services.database.read() as session:
            visitor = visitor_of(session, request, services, now=now)
            require(session, visitor, Action.APPLICATION_READ)
            statement = queries_access.applications_statement(view, session, visitor.subject)
            page = queries_access.list_applications(view, session, statement)
            ids = [row.id for row in page.rows]
            health = queries_access.health(session, ids, now=now)
            people = queries_access.people_counts(session, ids)
            held = {hold.application_id: hold for hold in holds(session, ids)}
        english = pages.language(request) == "en"
        names = {row.id: row.name if english else row.name_zh or row.name for row in page.rows}
        protocols = [("oidc", "OIDC"), ("saml", "SAML"), ("wsfed", "WS-Fed"), ("cas", "CAS"), ("scim", "SCIM")]
        states = [("ok", t(N_("Working"))), ("trouble", t(N_("Dead letters"))), ("disabled", t(N_("Switched off")))]
        chips = [(view.value("q"), view.href(q=None))] if view.value("q") else []
        for name, options in (("protocol", protocols), ("state", states)):
            if value := view.value(name):
                chips.append((dict(options)[value], view.href(**{name: None})))
        context = {
            "frame": frame_of(visitor, request, services),
            "now": now,
            "view": view,
            "page": page,
            "names": names,
            "marks": {row.id: mark_of(names[row.id], row.slug) for row in page.rows},
            "health": health,
            "no_health": _EMPTY,
            "people": people,
            "states": states,
            "protocols": protocols,
            "protocol_names": dict(protocols),
            "chips": chips,
            "status": {row.id: _status(row, health.get(row.id, _EMPTY), row.id in held, t) for row in page.rows},
            "deadline": {row.id: _bar(row.deadline_seconds) for row in page.rows},
            "untold": [names[row.id] for row in page.rows if row.id in held],
            "slow": sum(row.deadline_seconds > 1800 for row in page.rows),
            "dead": sum(h.dead for h in health.values()),
            "not_automatic": sum(not row.has_scim for row in page.rows),
        }
        return pages.render(request, "applications.html", context, session_id=visitor.session_id)

    @router.get("/admin/apps/{slug}")
    def application(request: Request, slug: str) -> Response:
        """Show one application: connections, rules, deliveries."""
        now = services.clock()
        t = pages.translator(request)
        view = View(queries_access.APPLICATIONS, type(request.query_params)(), t)
        with services.database.read() as session:
            visitor = visitor_of(session, request, services, now=now)
            require(session, visitor, Action.APPLICATION_READ)
            statement = queries_access.applications_statement(view, session, visitor.subject)
            row = queries_access.one_application(session, statement, slug)
            if row is None:
                raise NotFound("There is no such application.", rule="application.unknown")
            connections = _connections(session, row.id)
            health = queries_access.health(session, [row.id], now=now).get(row.id, _EMPTY)
            people = queries_access.people_counts(session, [row.id]).get(row.id, 0)
            held = holds(session, [row.id])
            recent = queries_access.recent_deliveries(session, visitor.subject, row.id)
        english = pages.language(request) == "en"
        name = row.name if english else row.name_zh or row.name
        context = {
            "frame": frame_of(visitor, request, services),
            "now": now,
            "row": row,
            "name": name,
            "mark": mark_of(name, row.slug),
            "health": health,
            "people": people,
            "held": [(hold, labels.hold_words(hold, t)) for hold in held],
            "recent": recent,
            "status": _status(row, health, bool(held), t),
            "deadline": _bar(row.deadline_seconds),
            "criticality": t(labels.CRITICALITY.get(row.criticality, row.criticality)),
            "delivery_states": translated(labels.DELIVERY_STATE, t),
            "operations": {code: t(words) for code, words in labels.OPERATION.items()},
            **connections,
        }
        return pages.render(request, "application.html", context, session_id=visitor.session_id)

    return router


def _bar(seconds: int) -> tuple[float, str, timedelta]:
    window = timedelta(seconds=seconds)
    return exposure_length(window), exposure_tone(window), window


def _status(row: ApplicationRow, health: Health, is_held: bool, t: Translate) -> Label:
    """The worst thing that is true of the application."""
    if not row.is_enabled:
        return Label("neutral", t(N_("Switched off")))
    if is_held:
        return Label("bad", t(N_("Queue held")), "hand-stop")
    if health.dead:
        return Label("bad", t(N_("Dead letters")))
    if health.reviewing:
        return translated(labels.DELIVERY_STATE, t)["review"]
    if health.retrying:
        return Label("warn", t(N_("Trying again")), "refresh")
    if not row.is_told:
        return Label("neutral", t(N_("Not told")), "info-circle")
    return Label("ok", t(N_("Working")))


def _connections(session: Session, application_id: str) -> dict[str, Any]:
    """Clients, service provider, SCIM target and current rules, without any secret."""
    clients = session.execute(
        select(
            OidcClient.client_id, OidcClient.auth_method, OidcClient.redirect_uris, OidcClient.grant_types,
            OidcClient.backchannel_logout_uri, OidcClient.access_token_format, OidcClient.is_enabled,
        )
        .where(OidcClient.application_id == application_id)
        .order_by(OidcClient.client_id)
        .limit(50)
    ).all()  # fmt: skip
    target = session.execute(
        select(ScimTarget.base_url, ScimTarget.user_name_attribute, ScimTarget.dialect, ScimTarget.changed_at).where(
            ScimTarget.application_id == application_id
        )
    ).first()
    rules = session.execute(
        select(EntitlementRule.id, EntitlementRule.role, EntitlementRule.rule, EntitlementRule.recorded_at)
        .where(
            EntitlementRule.application_id == application_id,
            EntitlementRule.superseded_at.is_(None),
            EntitlementRule.valid_to.is_(None),
        )
        .order_by(EntitlementRule.role, EntitlementRule.id)
        .limit(100)
    ).all()
    providers = session.execute(
        select(
            SamlServiceProvider.protocol,
            SamlServiceProvider.entity_id,
            SamlServiceProvider.soap_logout_url,
        )
        .where(SamlServiceProvider.application_id == application_id, SamlServiceProvider.is_enabled)
        .order_by(SamlServiceProvider.protocol)
    ).all()
    cas = session.execute(
        select(CasService.id, (CasService.logout != "none").label("is_told")).where(
            CasService.application_id == application_id, CasService.is_enabled
        )
    ).all()
    addresses = session.execute(
        select(CasAddress.registered)
        .where(CasAddress.service_id.in_([one.id for one in cas]))
        .order_by(CasAddress.registered)
        .limit(20)
    ).scalars()
    shown = list(addresses)
    return {
        "clients": clients,
        "target": target,
        "rules": rules,
        "providers": providers,
        "cas_services": [{"is_told": one.is_told, "addresses": shown} for one in cas],
    }
