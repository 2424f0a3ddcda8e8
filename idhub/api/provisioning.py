"""Accounts in applications: preview of one person, accounts to review, runs, dead letters."""

from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from idhub.api.access import Caller
from idhub.api.errors import create_route_class
from idhub.api.shared import PREFIX, TAGS, ApiServices, Body, Text, find_visible, visible_application
from idhub.authority import Action, authorize
from idhub.delivery import queue
from idhub.errors import Invalid
from idhub.provisioning.outbound import adoption, sync
from idhub.provisioning.outbound.preview import preview


class ReviewBody(Body):
    """A decision about an account that was found."""

    decision: Literal["confirm", "reject"]
    person: Text | None = None


class SyncBody(Body):
    """A step of a run over all accounts."""

    step: Literal["start", "pause", "resume", "cancel"]


def create_router(services: ApiServices) -> APIRouter:
    """Routes of provisioning."""
    router = APIRouter(prefix=PREFIX, tags=TAGS, route_class=create_route_class(services))
    database = services.database

    @router.get("/applications/{application}/preview/{person}")
    def preview_person(caller: Caller, application: str, person: str) -> Any:
        """What would be sent for a person, and what the application was last known to have."""
        with database.read() as session:
            # Both scopes are asked for before anything is looked up.
            authorize(session, caller.subject, Action.PEOPLE_READ)
            application_id = visible_application(session, caller, application, Action.APPLICATION_READ)
            principal_id = find_visible(session, caller, person, Action.PEOPLE_READ)
            seen = preview(session, application_id, principal_id, now=services.clock())
            return {
                "person": seen.principal_id,
                "entitled": seen.is_wanted,
                "account": seen.account_state,
                "resource": seen.resource,
                "missing": seen.missing,
                "changes": [
                    {"attribute": line.path, "value": line.value, "known": line.known}
                    for line in seen.lines
                    if line.is_changed
                ],
            }

    @router.get("/applications/{application}/reviews")
    def list_reviews(caller: Caller, application: str) -> Any:
        """Accounts found there that wait for a decision, the oldest 200."""
        with database.read() as session:
            application_id = visible_application(session, caller, application, Action.APPLICATION_READ)
            return {
                "reviews": [
                    {
                        "id": one.id,
                        "user_id": one.user_id,
                        "user_name": one.user_name,
                        "email": one.email,
                        "rule": one.rule,
                        "problem": one.problem,
                        "candidates": one.candidates,
                    }
                    for one in adoption.open_reviews(session, application_id)
                ]
            }

    @router.post("/applications/{application}/reviews/{review}")
    def decide(caller: Caller, application: str, review: str, body: ReviewBody) -> Any:
        """Link a found account to a person, or leave it alone."""
        with database.transaction() as session:
            application_id = visible_application(session, caller, application, Action.APPLICATION_CHANGE)
            who: dict[str, Any] = {"now": services.clock(), "actor": caller.lifecycle.actor, "door": "api"}
            if body.decision == "confirm":
                if body.person is None:
                    raise Invalid("Say whose account it is.", field="person", rule="required")
                principal_id = find_visible(session, caller, body.person, Action.PEOPLE_READ)
                adoption.confirm(session, review, principal_id, application_id=application_id, **who)
            else:
                adoption.reject(session, review, application_id=application_id, **who)
        queue.wake()
        return {"review": review, "decision": body.decision}

    @router.post("/applications/{application}/sync")
    def synchronise(caller: Caller, application: str, body: SyncBody) -> Any:
        """Begin, pause, resume or cancel a run over all accounts."""
        with database.transaction() as session:
            application_id = visible_application(session, caller, application, Action.APPLICATION_CHANGE)
            who: dict[str, Any] = {"now": services.clock(), "actor": caller.lifecycle.actor, "door": "api"}
            if body.step == "start":
                sync.start(session, application_id, **who)
            else:
                sync.take_step(session, application_id, body.step, **who)
            progress = sync.progress(session, application_id)
        return {"state": progress.state, "total": progress.total, "done": progress.done, "waiting": progress.waiting}

    @router.post("/applications/{application}/retry")
    def retry_all(caller: Caller, application: str) -> Any:
        """Put all dead deliveries of an application back into its queue, at most 1,000 a call, and try what is held."""
        with database.transaction() as session:
            application_id = visible_application(session, caller, application, Action.DELIVERY_RETRY)
            revived, left = queue.send_dead_again(
                session, application_id, now=services.clock(), actor=caller.lifecycle.actor, door="api"
            )
        queue.wake()
        return JSONResponse({"requeued": revived, "overtaken": left}, status_code=202)

    return router
