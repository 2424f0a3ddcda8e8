"""Receipts, applications, deliveries."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from idhub.access.tables import Application
from idhub.api.access import ApiCaller, Caller
from idhub.api.errors import create_route_class
from idhub.api.shared import PREFIX, TAGS, ApiServices, permit
from idhub.api.views import case_view
from idhub.authority import Action, authorize, visible_organizations
from idhub.delivery import queue
from idhub.delivery.tables import Delivery
from idhub.errors import NotFound
from idhub.lifecycle.receipts import ReceiptView, current, export, find_case


def create_router(services: ApiServices) -> APIRouter:
    """Routes of records."""
    router = APIRouter(prefix=PREFIX, tags=TAGS, route_class=create_route_class(services))
    database = services.database

    @router.get("/receipts/{case}")
    def read_receipt(caller: Caller, case: str) -> Any:
        """A receipt as it stands, by number, case id or person id."""
        with database.read() as session:
            return case_view(_receipt(session, caller, case, now=services.clock()))

    @router.get("/receipts/{case}/export")
    def export_receipt(caller: Caller, case: str) -> Response:
        """The newest signed version: the file that anybody can verify."""
        with database.read() as session:
            view = _receipt(session, caller, case, now=services.clock())
            content = export(view)
        headers = {"Content-Disposition": f'attachment; filename="{view.number}.json"', "Cache-Control": "no-store"}
        return Response(content, media_type="application/json", headers=headers)

    @router.get("/applications")
    def list_applications(caller: Caller) -> Any:
        """Applications in the token's scope."""
        with database.read() as session:
            authorize(session, caller.subject, Action.APPLICATION_READ)
            scope = visible_organizations(session, caller.subject, Action.APPLICATION_READ)
            statement = select(
                Application.id,
                Application.slug,
                Application.name,
                Application.name_zh,
                Application.criticality,
                Application.revocation_deadline_seconds,
                Application.is_enabled,
            ).order_by(Application.slug)
            if scope is not None:
                statement = statement.where(Application.organization_id.in_(scope))
            return {"applications": [dict(row._mapping) for row in session.execute(statement)]}

    @router.post("/deliveries/{delivery}/retry")
    def retry_delivery(caller: Caller, delivery: str) -> Any:
        """Put a dead delivery back into its queue."""
        unknown = NotFound("There is no such delivery.", field="delivery", rule="delivery.unknown")
        with database.transaction() as session:
            authorize(session, caller.subject, Action.DELIVERY_RETRY)
            organization_id = session.execute(
                select(Application.organization_id)
                .join(Delivery, Delivery.application_id == Application.id)
                .where(Delivery.id == delivery)
            ).scalar()
            if organization_id is None:
                raise unknown
            permit(session, caller, Action.DELIVERY_RETRY, organization_id, unknown=unknown)
            queue.send_again(session, delivery, now=services.clock(), actor=caller.lifecycle.actor, door="api")
        queue.wake()
        return JSONResponse({"requeued": delivery}, status_code=202)

    return router


def _receipt(session: Session, caller: ApiCaller, case: str, *, now: datetime) -> ReceiptView:
    """The receipt, if the token may read it."""
    authorize(session, caller.subject, Action.RECEIPT_READ)
    unknown = NotFound(f"There is no receipt {case!r}.", field="receipt", rule="receipt.unknown")
    try:
        view = current(session, find_case(session, case), now=now)
    except NotFound:
        raise unknown from None
    permit(session, caller, Action.RECEIPT_READ, view.organization_id, unknown=unknown)
    return view
