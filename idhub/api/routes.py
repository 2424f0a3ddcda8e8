"""The administration API, `/api/v1`, composed.

Every call carries a token made by `idhub token create`; cookies are never accepted here. Answers are JSON; an error
names the field and the rule and changes nothing.
"""

from fastapi import APIRouter

from idhub.api import findings, people, provisioning, records, standing
from idhub.api.shared import ApiServices


def create_router(services: ApiServices) -> APIRouter:
    """Routes of `/api/v1`."""
    router = APIRouter()
    for area in (people, standing, records, findings, provisioning):
        router.routes += area.create_router(services).routes
    return router
