"""Applications and providers as a configuration file: what `idhub apply` would take, without secrets."""

from typing import Any

import yaml
from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from idhub.access.applications import current_rule_texts
from idhub.access.tables import (
    Application,
    CasAddress,
    CasService,
    OidcClient,
    ReconcilePlan,
    SamlServiceProvider,
    ScimTarget,
)
from idhub.api import configuration_cas, configuration_saml, configuration_wsfed
from idhub.api.configuration_providers import export_providers
from idhub.directory.tables import Employment, Organization, Person
from idhub.provisioning.inbound.extensions import registered
from idhub.provisioning.outbound.options import TargetOptions
from scim.extensions import describe


def export_configuration(session: Session) -> str:
    """YAML of every application. Secret files are named after the application, not written."""
    clients = {c.application_id: c for c in session.execute(select(OidcClient).where(OidcClient.is_enabled)).scalars()}
    providers = select(SamlServiceProvider).where(SamlServiceProvider.is_enabled)
    service_providers = {(p.application_id, p.protocol): p for p in session.execute(providers).scalars()}
    cas_services = {
        c.application_id: c for c in session.execute(select(CasService).where(CasService.is_enabled)).scalars()
    }
    cas_addresses: dict[str, list[CasAddress]] = {}
    for address in session.execute(select(CasAddress)).scalars():
        cas_addresses.setdefault(address.service_id, []).append(address)
    targets = {t.application_id: t for t in session.execute(select(ScimTarget)).scalars()}
    plans = {p.application_id: p for p in session.execute(select(ReconcilePlan)).scalars()}
    company = aliased(Organization)
    rows = session.execute(
        select(Application, Organization.code, company.code.label("company"), Employment.employee_number)
        .join(Organization, Organization.id == Application.organization_id)
        .outerjoin(Person, Person.id == Application.owner_id)
        .outerjoin(Employment, Employment.id == Person.main_employment_id)
        .outerjoin(company, company.id == Employment.organization_id)
        .order_by(Application.slug)
    ).all()
    blocks = []
    for row in rows:
        application: Application = row.Application
        block: dict[str, Any] = {
            "slug": application.slug,
            "name": {"en": application.name, **({"zh": application.name_zh} if application.name_zh else {})},
            "description": application.description,
            "home_url": application.home_url,
            "organization": row.code,
            "owner": f"{row.company}/{row.employee_number}" if row.employee_number else None,
            "criticality": str(application.criticality),
            "revocation_deadline": application.revocation_deadline_seconds,
            "required_evidence": None if application.required_grade is None else f"E{application.required_grade}",
            "enabled": application.is_enabled,
            "oidc": _oidc(clients.get(application.id), application.slug),
            "scim": _scim(targets.get(application.id), application.slug),
            "reconcile": _reconcile(plans.get(application.id)),
            "saml": configuration_saml.export_block(service_providers.get((application.id, "saml"))),
            "wsfed": configuration_wsfed.export_block(service_providers.get((application.id, "wsfed"))),
            "cas": configuration_cas.export_block(cas_services.get(application.id), cas_addresses),
            "entitle": [{"role": role, "rule": rule} for role, rule in current_rule_texts(session, application.id)],
        }
        blocks.append({name: value for name, value in block.items() if value not in (None, [])})
    extensions = [describe(schema) for schema in registered(session)]
    upstream = export_providers(session)
    document: str = yaml.safe_dump(
        {
            "applications": blocks,
            **({"providers": upstream} if upstream else {}),
            **({"scim_extensions": extensions} if extensions else {}),
        },
        allow_unicode=True,
        sort_keys=False,
    )
    return document


def _oidc(client: OidcClient | None, slug: str) -> dict[str, Any] | None:
    if client is None:
        return None
    block: dict[str, Any] = {
        "client_id": client.client_id,
        "client_secret_file": None if client.auth_method == "none" else f"{slug}.secret",
        "public": True if client.auth_method == "none" else None,
        "auth_method": None if client.auth_method == "none" else client.auth_method,
        "redirect_uris": client.redirect_uris,
        "post_logout_redirect_uris": client.post_logout_redirect_uris,
        "backchannel_logout_uri": client.backchannel_logout_uri,
        "scopes": client.scopes,
        "grant_types": client.grant_types,
        "access_token": client.access_token_format,
        "access_token_lifetime": client.access_token_seconds,
        "id_token_alg": client.id_token_alg,
        "audience": client.audience,
        "rotate_refresh": client.rotates_refresh,
        "requires_consent": client.requires_consent,
        "native": client.is_native,
        "sector": client.sector,
    }
    # An empty list of scopes or grants is a choice, not an absence.
    return {name: value for name, value in block.items() if value is not None}


def _scim(target: ScimTarget | None, slug: str) -> dict[str, Any] | None:
    if target is None:
        return None
    block = {
        "base_url": target.base_url,
        "token_file": f"{slug}-scim.token" if target.token_sealed else None,
        "user_name": target.user_name_attribute,
        "dialect": target.dialect,
        "control_user_name": target.control_user_name,
        "token_expires_on": target.token_expires_at.date() if target.token_expires_at else None,
        **TargetOptions.of_document(target.options).document(),
    }
    return {name: value for name, value in block.items() if value is not None}


def _reconcile(plan: ReconcilePlan | None) -> dict[str, Any] | None:
    if plan is None:
        return None
    return {
        "every": plan.every_seconds or "off",
        "policy": plan.policy,
        "service_accounts": plan.service_accounts,
    }
