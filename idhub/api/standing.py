"""Lifecycle of a person: move, suspend, reactivate, offboard; and their links to companies' own sign-ins."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Field
from sqlalchemy.orm import Session

from idhub.api.access import ApiCaller, Caller
from idhub.api.errors import create_route_class
from idhub.api.people import company_of, department_of, manager_of
from idhub.api.shared import PREFIX, TAGS, ApiServices, Body, Day, Instant, Reason, Text, outcome, visible
from idhub.api.views import person_view
from idhub.authority import Action, cover
from idhub.directory.kinds import EmploymentType
from idhub.directory.people import show_person
from idhub.errors import Invalid, NotFound
from idhub.lifecycle import commands
from idhub.lifecycle.plan import preview
from idhub.login.links import HeldLink, find_link, links_of, unlink


class ReasonBody(Body):
    """Why; kept in the audit log."""

    reason: Reason | None = None


class OffboardBody(ReasonBody):
    """When, and whether it is an emergency; without a time: now."""

    effective_at: Instant | None = None
    emergency: bool = False


class MoveBody(Body):
    """New values of a post; those left out stay. `employment`: which; default: the main one."""

    employment: Annotated[str, Field(max_length=40)] | None = None
    company: Text | None = None
    department: Annotated[str, Field(max_length=1_000)] | None = None
    title: Annotated[str, Field(max_length=200)] | None = None
    manager: Text | None = None
    employment_type: Literal["regular", "contractor", "intern", "dispatched"] | None = None
    end_date: Day | None = None


def create_router(services: ApiServices) -> APIRouter:  # noqa: C901 - one route after the other
    """Routes of standing."""
    router = APIRouter(prefix=PREFIX, tags=TAGS, route_class=create_route_class(services))
    database = services.database

    @router.post("/people/{person}/suspend")
    def suspend_person(caller: Caller, person: str, body: ReasonBody) -> Any:
        """Hold access back: sessions and tokens die at once."""

        def work(session: Session) -> Any:
            found = visible(session, caller, person, Action.PEOPLE_CHANGE)
            return outcome(
                commands.suspend(session, caller.lifecycle, found.id, now=services.clock(), reason=body.reason)
            )

        return database.run(work)

    @router.post("/people/{person}/reactivate")
    def reactivate_person(caller: Caller, person: str, body: ReasonBody) -> Any:
        """Undo a suspension."""

        def work(session: Session) -> Any:
            found = visible(session, caller, person, Action.PEOPLE_CHANGE)
            return outcome(
                commands.reactivate(session, caller.lifecycle, found.id, now=services.clock(), reason=body.reason)
            )

        return database.run(work)

    @router.get("/people/{person}/offboarding")
    def preview_offboarding(
        caller: Caller, person: str, effective_at: Annotated[Instant | None, Query()] = None
    ) -> Any:
        """What a leave would do. Writes nothing."""
        with database.read() as session:
            found = visible(session, caller, person, Action.PEOPLE_OFFBOARD)
            plan = preview(session, found.id, effective_at=effective_at, now=services.clock())
        return {
            "person": found.id,
            "effective_at": plan.effective_at.isoformat(),
            "as_of": plan.as_of.isoformat(),
            "fingerprint": plan.fingerprint,
            "ends_at_once": {
                "sessions": plan.sessions,
                "grants": plan.grants,
                "refresh_tokens": plan.refresh_tokens,
            },
            "rows": [
                {
                    "application": row.application,
                    "channel": row.channel,
                    "action": row.action,
                    "account": row.account,
                    "exposure_seconds": None if row.exposure is None else int(row.exposure.total_seconds()),
                    "ceiling": int(row.ceiling),
                    "required_grade": int(row.required),
                    "notes": list(row.notes),
                }
                for row in plan.rows
            ],
        }

    @router.post("/people/{person}/offboarding")
    def offboard_person(caller: Caller, person: str, body: OffboardBody) -> Any:
        """End all access, now or at a time. When this answers, nothing of theirs works here any more."""

        def work(session: Session) -> Any:
            found = visible(session, caller, person, Action.PEOPLE_OFFBOARD)
            result = commands.offboard(
                session,
                caller.lifecycle,
                found.id,
                now=services.clock(),
                at=body.effective_at,
                is_emergency=body.emergency,
                reason=body.reason,
            )
            return outcome(result)

        return database.run(work)

    @router.delete("/people/{person}/offboarding")
    def cancel_offboarding(caller: Caller, person: str) -> Any:
        """Take a scheduled offboarding back before its time."""

        def work(session: Session) -> Any:
            found = visible(session, caller, person, Action.PEOPLE_OFFBOARD)
            return outcome(commands.cancel_offboarding(session, caller.lifecycle, found.id, now=services.clock()))

        return database.run(work)

    @router.get("/people/{person}/links")
    def list_links(caller: Caller, person: str) -> Any:
        """The person's links to accounts at their companies' own sign-ins, oldest first."""
        with database.read() as session:
            found = visible(session, caller, person, Action.PEOPLE_READ)
            return {"person": found.id, "links": [_link_view(link) for link in links_of(session, found.id)]}

    @router.delete("/people/{person}/links/{provider}")
    def remove_link(caller: Caller, person: str, provider: Annotated[str, Path(max_length=40)]) -> Any:
        """Take a link away, named by the provider's id. The sessions that rest on it end at once."""

        def work(session: Session) -> Any:
            found = visible(session, caller, person, Action.PEOPLE_INVITE)
            cover(session, caller.subject, Action.PEOPLE_INVITE, found.id)
            link = find_link(session, found.id, provider)
            unlink(
                session, link.id, link.slug, found.id, actor=caller.lifecycle.actor, door=caller.lifecycle.door,
                request_id=caller.lifecycle.request_id, now=services.clock(),
            )  # fmt: skip
            return {"person": found.id, "removed": _link_view(link)}

        return database.run(work)

    @router.post("/people/{person}/move")
    def move_person(caller: Caller, person: str, body: MoveBody) -> Any:
        """Change a post."""

        def work(session: Session) -> Any:
            now = services.clock()
            found = visible(session, caller, person, Action.PEOPLE_CHANGE)
            employment_id = body.employment or found.main_employment_id
            post = next((e for e in found.employments if e.id == employment_id), None)
            if post is None:
                raise NotFound("This person has no such employment.", field="employment", rule="employment.unknown")
            values = _move_values(session, caller, body, post.organization_id, now=now)
            result = commands.move(session, caller.lifecycle, found.id, employment_id=post.id, values=values, now=now)
            return {**outcome(result), "person": person_view(show_person(session, found.id))}

        return database.run(work)

    return router


def _link_view(link: HeldLink) -> dict[str, Any]:
    return {
        "provider": link.id,
        "slug": link.slug,
        "name": link.name,
        "is_enabled": link.is_enabled,
        "linked_at": link.linked_at.isoformat(),
    }


def _move_values(
    session: Session, caller: ApiCaller, body: MoveBody, organization_id: str, *, now: datetime
) -> dict[str, Any]:
    given = body.model_fields_set
    values: dict[str, Any] = {}
    if "company" in given and body.company:
        organization_id = company_of(session, caller, body.company)
        values |= {"organization_id": organization_id, "department_id": None}
    if "department" in given:
        values["department_id"] = department_of(session, organization_id, body.department, now=now)
    if "title" in given:
        values["title"] = body.title
    if "manager" in given:
        values["manager_id"] = manager_of(session, caller, body.manager)
    if "employment_type" in given and body.employment_type:
        values["type"] = EmploymentType(body.employment_type)
    if "end_date" in given:
        values["ends_on"] = body.end_date
    if not values:
        raise Invalid("Say what changes.", field="body", rule="required")
    return values
