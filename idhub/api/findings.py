"""Findings of reconciliation: read them, decide about them."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field
from sqlalchemy.orm import Session

from idhub.api.access import ApiCaller, Caller
from idhub.api.errors import create_route_class
from idhub.api.shared import PREFIX, TAGS, ApiServices, Body, Day, permit, visible_application
from idhub.authority import Action, authorize, visible_organizations
from idhub.delivery import queue
from idhub.errors import NotFound
from idhub.provisioning.reconcile import findings, remedy
from idhub.provisioning.reconcile.kinds import Kind, State
from idhub.provisioning.reconcile.tables import Finding

_UNKNOWN = NotFound("There is no such finding.", field="finding", rule="finding.unknown")
_MOST = 200


class DismissBody(Body):
    """Why it is right as it is, and the last day on which it is."""

    reason: Annotated[str, Field(min_length=1, max_length=500)]
    until: Day


class ActBody(Body):
    """What the hub shall do about it."""

    action: Literal["disable", "restore", "link"]


def create_router(services: ApiServices) -> APIRouter:
    """Routes of findings."""
    router = APIRouter(prefix=PREFIX, tags=TAGS, route_class=create_route_class(services))
    database = services.database

    @router.get("/findings")
    def list_findings(
        caller: Caller,
        kind: Kind | None = None,
        state: State | None = None,
        application: Annotated[str | None, Query(pattern=r"^[A-Za-z0-9_-]{1,60}$")] = None,
        after: Annotated[str | None, Query(pattern=r"^[a-z]{3}_[0-9a-z]{1,36}$")] = None,
        limit: Annotated[int, Query(ge=1, le=_MOST)] = 50,
    ) -> Any:
        """What does not agree, in order of discovery; `next` is the `after` of the next page."""
        with database.read() as session:
            authorize(session, caller.subject, Action.FINDING_READ)
            found, following = findings.page(
                session,
                kinds=[kind] if kind else [],
                states=[state] if state else [],
                application_id=visible_application(session, caller, application, Action.FINDING_READ)
                if application
                else None,
                organizations=visible_organizations(session, caller.subject, Action.FINDING_READ),
                after=after,
                limit=limit,
            )
            rows = [findings.as_data(finding) for finding in found]
        return {"findings": rows, "next": following}

    @router.get("/findings/{finding}")
    def read_finding(caller: Caller, finding: str) -> Any:
        """One finding with its evidence."""
        with database.read() as session:
            return findings.as_data(_visible(session, caller, finding, Action.FINDING_READ))

    def decide(caller: ApiCaller, finding: str, work: Callable[[Session, Finding], Any]) -> Any:
        def decided(session: Session) -> Any:
            found = _visible(session, caller, finding, Action.FINDING_DECIDE)
            work(session, found)
            return findings.as_data(found)

        return database.run(decided)

    @router.post("/findings/{finding}/accept")
    def accept_finding(caller: Caller, finding: str) -> Any:
        """Somebody sees to it, outside of the hub."""
        actor, now = caller.lifecycle.actor, services.clock()
        return decide(
            caller,
            finding,
            lambda session, found: findings.accept(session, found, now=now, actor=actor, door="api"),
        )

    @router.post("/findings/{finding}/dismiss")
    def dismiss_finding(caller: Caller, finding: str, body: DismissBody) -> Any:
        """It is right as it is, for a stated reason, until a stated day."""
        actor, now = caller.lifecycle.actor, services.clock()
        return decide(
            caller,
            finding,
            lambda session, found: findings.dismiss(
                session,
                found,
                reason=body.reason,
                until=body.until,
                now=now,
                actor=actor,
                door="api",
            ),
        )

    @router.post("/findings/{finding}/take-back")
    def take_back_decision(caller: Caller, finding: str) -> Any:
        """What was decided does not hold: the finding is open again."""
        actor, now = caller.lifecycle.actor, services.clock()
        return decide(
            caller,
            finding,
            lambda session, found: findings.take_back(session, found, now=now, actor=actor, door="api"),
        )

    @router.post("/findings/{finding}/act")
    def act_on_finding(caller: Caller, finding: str, body: ActBody) -> Any:
        """Let the hub carry out a remedy; beyond the mass-change brake it is held for two people."""
        actor, now = caller.lifecycle.actor, services.clock()
        answer = decide(
            caller,
            finding,
            lambda session, found: remedy.act(session, [found], body.action, now=now, actor=actor, door="api"),
        )
        queue.wake()
        return answer

    return router


def _visible(session: Session, caller: ApiCaller, finding: str, action: Action) -> Finding:
    """The finding, if the token may do `action` to it; one outside its company does not exist for it."""
    authorize(session, caller.subject, action)
    try:
        found = findings.get(session, finding, lock=action != Action.FINDING_READ)
    except NotFound:
        raise _UNKNOWN from None
    permit(session, caller, action, found.organization_id, unknown=_UNKNOWN)
    return found
