"""All routes of the pages, composed."""

from fastapi import APIRouter

from idhub.web import (
    applications,
    deliveries,
    events,
    findings,
    identity_providers,
    moving,
    offboarding,
    onboarding,
    people,
    person,
    pick,
    portal,
    provisioning,
    receipts,
    service_provider,
    shared,
    sources,
    streams,
    unlinking,
    uploads,
)
from idhub.web.services import WebServices

# `/hr/people/new` is no person's id: onboarding comes before the page of one person.
_AREAS = (
    shared,
    portal,
    people,
    onboarding,
    moving,
    pick,
    person,
    offboarding,
    receipts,
    sources,
    uploads,
    unlinking,
    applications,
    provisioning,
    service_provider,
    identity_providers,
    deliveries,
    streams,
    findings,
    events,
)


def create_router(services: WebServices) -> APIRouter:
    """Every page's routes, for `idhub.app` to include; sign-in and account pages are composed beside them."""
    router = APIRouter(include_in_schema=False)
    for area in _AREAS:
        router.routes += area.create_router(services).routes
    return router
