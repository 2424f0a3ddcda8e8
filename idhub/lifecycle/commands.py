"""What console, API and command line ask of lifecycle for one person: authority, guards, then the one door.

Each function runs in the caller's write transaction and raises what it refuses; the refusal's event is written by
whoever catches it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from idhub.authority import NEVER, Action, Subject, authorize, cover, is_last_administrator, leaves_nobody
from idhub.changes import Actor
from idhub.db import new_id
from idhub.directory.kinds import EmploymentState, EmploymentType, PrincipalKind, Standing
from idhub.directory.people import EmploymentView, PersonView, show_person
from idhub.directory.tables import Department, Person, Principal
from idhub.errors import Conflict, Invalid, NotFound
from idhub.kept import Kept
from idhub.lifecycle import intake
from idhub.lifecycle.plan import Plan
from idhub.lifecycle.rules import Places
from idhub.lifecycle.transition import TransitionResult, transition


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who asks, how they are named in the log, and through which door."""

    subject: Subject
    actor: Actor
    door: str
    request_id: str | None = None


def onboard(
    session: Session,
    caller: Caller,
    *,
    person: Mapping[str, str | None],
    organization_id: str,
    employee_number: str,
    employment_type: str,
    starts_on: date,
    now: datetime,
    department_id: str | None = None,
    title: str | None = None,
    manager_id: str | None = None,
    ends_on: date | None = None,
) -> str:
    """Make a person with a first employment. Returns the principal id.

    Raises:
        NotPermitted, Invalid, Conflict: as the rules say; nothing was written.
    """
    authorize(session, caller.subject, Action.PEOPLE_CHANGE, organization_id=organization_id)
    _check_named(session, manager_id=manager_id, department_id=department_id, organization_id=organization_id)
    change = newcomer(
        new_id("per"),
        person=person,
        organization_id=organization_id,
        employee_number=employee_number,
        employment_type=employment_type,
        starts_on=starts_on,
        department_id=department_id,
        title=title,
        manager_id=manager_id,
        ends_on=ends_on,
    )
    _make(session, change, caller, now=now)
    return change.principal_id


def newcomer(
    principal_id: str,
    *,
    person: Mapping[str, str | None],
    organization_id: str,
    employee_number: str,
    employment_type: str,
    starts_on: date,
    department_id: str | None = None,
    title: str | None = None,
    manager_id: str | None = None,
    ends_on: date | None = None,
    source: intake.SourceMark | None = None,
) -> intake.Onboard:
    """The wish for a new person with a first employment; a manager and a department that the caller has looked up.

    Raises:
        Invalid: a value breaks its rule.
    """
    return intake.Onboard(
        principal_id=principal_id,
        person=_person_facts(person),
        employment=_employment_facts(
            organization_id=organization_id,
            employee_number=employee_number,
            employment_type=employment_type,
            starts_on=starts_on,
            department_id=department_id,
            title=title,
            manager_id=manager_id,
            ends_on=ends_on,
        ),
        source=source,
    )


def onboard_all(session: Session, caller: Caller, newcomers: Sequence[intake.Onboard], *, now: datetime) -> None:
    """Make several people at once (`newcomer`).

    Raises:
        NotPermitted, Invalid, Conflict: of one of them; nothing of what was written may stay.
    """
    for organization_id in sorted({each.employment.organization_id for each in newcomers}):
        authorize(session, caller.subject, Action.PEOPLE_CHANGE, organization_id=organization_id)
    transition(session, newcomers, now=now, actor=caller.actor, door=caller.door, request_id=caller.request_id).only()


def rehire(
    session: Session,
    caller: Caller,
    principal_id: str,
    *,
    organization_id: str,
    employee_number: str,
    employment_type: str,
    starts_on: date,
    now: datetime,
    department_id: str | None = None,
    title: str | None = None,
    manager_id: str | None = None,
    ends_on: date | None = None,
) -> TransitionResult:
    """Give a known person a new employment; of one who has left, the rehire: nothing from before works again.

    Beside a suspension or a scheduled leave a further post keeps hub roles alive, so that the caller must cover them.
    """
    authorize(session, caller.subject, Action.PEOPLE_CHANGE, organization_id=organization_id)
    _in_scope(session, caller, principal_id, Action.PEOPLE_CHANGE)
    cover(session, caller.subject, Action.PEOPLE_CHANGE, principal_id)
    _check_named(session, manager_id=manager_id, department_id=department_id, organization_id=organization_id)
    change = intake.AddEmployment(
        principal_id=principal_id,
        employment=_employment_facts(
            organization_id=organization_id,
            employee_number=employee_number,
            employment_type=employment_type,
            starts_on=starts_on,
            department_id=department_id,
            title=title,
            manager_id=manager_id,
            ends_on=ends_on,
        ),
    )
    return _make(session, change, caller, now=now)


def move(
    session: Session, caller: Caller, principal_id: str, *, employment_id: str, values: Mapping[str, Any], now: datetime
) -> TransitionResult:
    """Change a person's post: company, department, title, manager, type, dates.

    Args:
        values: what changes, by `Post`'s names; a name that is left out stays, None takes a value away.

    Raises:
        NotFound: no such person, manager or department.
        NotPermitted: the caller may not change both companies, or a role over the hub reaches further than theirs.
        Conflict: the end would be the leave of the caller or of the last administrator.
        Invalid: a value is wrong, or somebody would manage themself.
    """
    _in_scope(session, caller, principal_id, Action.PEOPLE_CHANGE)
    person = show_person(session, principal_id)
    post = next((post for post in person.employments if post.id == employment_id), None)
    opens_again = post is not None and post.state == EmploymentState.ENDED and "ends_on" in values
    if values.get("employee_number") is not None or opens_again:
        cover(session, caller.subject, Action.PEOPLE_CHANGE, principal_id)
    if post is not None:
        if (end := _sooner_end(person, post, values.get("ends_on"))) is not None:
            _protect(session, caller, principal_id, now=now, at=end)
        # A further post of somebody of ours may be another company's.
        authorize(session, caller.subject, Action.PEOPLE_CHANGE, organization_id=post.organization_id)
    if values.get("organization_id") is not None:
        authorize(session, caller.subject, Action.PEOPLE_CHANGE, organization_id=values["organization_id"])
    if values.get("manager_id") == principal_id:
        raise Invalid("Nobody manages themself.", field="manager", rule="manager.self")
    if post is not None:
        manager_id = values.get("manager_id")
        _check_named(
            session,
            manager_id=None if manager_id == post.manager_id else manager_id,
            department_id=values.get("department_id"),
            organization_id=values.get("organization_id") or post.organization_id,
        )
    if "title" in values and values["title"] is not None:
        values = {**values, "title": intake.clean_text(values["title"], field_name="title")}
    change = intake.Move(principal_id=principal_id, employment_id=employment_id, values=values)
    return _make(session, change, caller, now=now)


def update_person(
    session: Session, caller: Caller, principal_id: str, *, values: Mapping[str, str | None], now: datetime
) -> TransitionResult:
    """Change attributes of a person; what they sign in with only where the caller covers their hub roles."""
    _in_scope(session, caller, principal_id, Action.PEOPLE_CHANGE)
    cleaned = _clean_person(values)
    if _renames(session, principal_id, cleaned):
        cover(session, caller.subject, Action.PEOPLE_CHANGE, principal_id)
    return _make(session, intake.UpdatePerson(principal_id=principal_id, values=cleaned), caller, now=now)


def suspend(
    session: Session, caller: Caller, principal_id: str, *, now: datetime, reason: str | None = None
) -> TransitionResult:
    """Hold a person's access back; sessions and tokens die at once, factors survive.

    Raises:
        NotFound: no such person.
        NotPermitted: the caller may not change people of that company.
        Conflict: it is the caller, the last administrator, or somebody who has left.
    """
    _in_scope(session, caller, principal_id, Action.PEOPLE_CHANGE)
    _protect(session, caller, principal_id, now=now)
    change = intake.Suspend(principal_id=principal_id, reason=_reason(reason))
    return _make(session, change, caller, now=now)


def reactivate(
    session: Session, caller: Caller, principal_id: str, *, now: datetime, reason: str | None = None
) -> TransitionResult:
    """Undo a suspension; it gives hub roles back, so that the caller must cover them.

    Raises:
        NotFound: no such person.
        NotPermitted: the caller may not change people of that company, or does not cover the person's hub roles.
        Conflict: the person has left; `rehire` brings them back.
    """
    _in_scope(session, caller, principal_id, Action.PEOPLE_CHANGE)
    cover(session, caller.subject, Action.PEOPLE_CHANGE, principal_id)
    change = intake.Reactivate(principal_id=principal_id, reason=_reason(reason))
    return _make(session, change, caller, now=now)


def offboard(
    session: Session,
    caller: Caller,
    principal_id: str,
    *,
    now: datetime,
    at: datetime | None = None,
    is_emergency: bool = False,
    reason: str | None = None,
    confirmed: Plan | None = None,
) -> TransitionResult:
    """End all access of a person, now or at an instant to come. The result names the case.

    Asking again for somebody who has left names the case of that leave and changes nothing.

    Args:
        at: None: now; an instant that is past is now too.
        confirmed: the plan that somebody read and confirmed; the case keeps its fingerprint.

    Raises:
        NotFound: no such person.
        NotPermitted: the caller may not offboard people of that company.
        Conflict: it is the caller, or the last administrator.
        Invalid: an emergency was given a time.
    """
    _in_scope(session, caller, principal_id, Action.PEOPLE_OFFBOARD)
    _protect(session, caller, principal_id, now=now, at=at)
    if is_emergency and at is not None:
        raise Invalid("An emergency leave is now; leave the time out.", field="effective_at", rule="emergency.time")
    change = intake.Offboard(
        principal_id=principal_id,
        at=at,
        is_emergency=is_emergency,
        reason=_reason(reason),
        plan_fingerprint=None if confirmed is None else confirmed.fingerprint,
    )
    return _make(session, change, caller, now=now)


def cancel_offboarding(
    session: Session, caller: Caller, principal_id: str, *, now: datetime, reason: str | None = None
) -> TransitionResult:
    """Take a scheduled offboarding back before its time has come; hub roles live on with it.

    Raises:
        NotFound: no such person.
        NotPermitted: the caller may not offboard people of that company, or does not cover the person's hub roles.
        Conflict: nothing is scheduled, or its time has come.
    """
    _in_scope(session, caller, principal_id, Action.PEOPLE_OFFBOARD)
    cover(session, caller.subject, Action.PEOPLE_OFFBOARD, principal_id)
    change = intake.CancelOffboarding(principal_id=principal_id, reason=_reason(reason))
    return _make(session, change, caller, now=now)


def end_credentials(
    session: Session, caller: Caller, principal_id: str, *, now: datetime, reason: str | None = None
) -> TransitionResult:
    """End everything issued to a person so far: sessions, grants, codes, tokens. They may sign in again at once.

    Raises:
        NotFound: no such person.
        NotPermitted: the caller may not change people of that company.
    """
    _in_scope(session, caller, principal_id, Action.PEOPLE_CHANGE)
    change = intake.EndCredentials(principal_id=principal_id, reason=_reason(reason))
    return _make(session, change, caller, now=now)


def _make(session: Session, change: intake.Change, caller: Caller, *, now: datetime) -> TransitionResult:
    result = transition(session, [change], now=now, actor=caller.actor, door=caller.door, request_id=caller.request_id)
    result.only()
    return result


_PLACE = Kept(
    select(Principal.organization_id).join(Person, Person.id == Principal.id).where(Principal.id == bindparam("person"))
)


def _in_scope(session: Session, caller: Caller, principal_id: str, action: Action) -> None:
    found = _PLACE.scalars(session, person=principal_id)
    if not found:
        raise NotFound("There is no such person.", field="person", rule="person.unknown")
    authorize(session, caller.subject, action, organization_id=found[0])


def _protect(session: Session, caller: Caller, principal_id: str, *, now: datetime, at: datetime | None = None) -> None:
    """Nobody ends their own access by mistake, and the last administrator stays reachable (console and API).

    An end to come leaves somebody who stays, or no fewer days with an administrator than before. One that is now is
    never held up while there is anybody else.
    """
    if caller.subject.is_local:
        return
    if caller.subject.principal_id == principal_id:
        raise Conflict("You cannot end your own access here; ask a colleague.", field="person", rule="self")
    if is_last_administrator(session, principal_id):
        raise Conflict("This is the last administrator; name another first.", field="person", rule="last_administrator")
    if at is not None and at > now and leaves_nobody(session, principal_id, at):
        raise Conflict(
            "By this end a day comes on which nobody is an administrator; name one who stays first.",
            field="person",
            rule="nobody_administers",
        )


def _sooner_end(person: PersonView, post: EmploymentView, ends_on: date | None) -> datetime | None:
    """When the person ends by this end of a post, if that is sooner than it was: a leave by another name."""
    if ends_on is None:
        return None
    others = [p.ends_at or NEVER for p in person.employments if p.id != post.id and p.state != EmploymentState.ENDED]
    end = Places({post.organization_id: post.time_zone}).end_of(post.organization_id, ends_on)
    after, before = max([end, *others]), max([post.ends_at or NEVER, *others])
    return after if after < before else None


def _renames(session: Session, principal_id: str, values: Mapping[str, str | None]) -> bool:
    """Whether a mail address or mobile number, which people sign in with, becomes another."""
    if not {"email", "mobile"} & values.keys():
        return False
    known = session.execute(select(Person.email, Person.mobile).where(Person.id == principal_id)).one()
    return any(values.get(name, now) != now for name, now in known._mapping.items())


def _check_named(session: Session, *, manager_id: str | None, department_id: str | None, organization_id: str) -> None:
    """Refuse a manager who is not here, and a department that the company does not have."""
    if manager_id is not None:
        standing = session.execute(
            select(Principal.standing).where(Principal.id == manager_id, Principal.kind == PrincipalKind.PERSON)
        ).scalar()
        if standing is None:
            raise NotFound("There is no such manager.", field="manager", rule="manager.unknown")
        if standing == Standing.LEFT:
            raise Conflict("This manager has left; name somebody who is here.", field="manager", rule="manager.left")
    if department_id is not None:
        known = session.execute(
            select(Department.id).where(Department.id == department_id, Department.organization_id == organization_id)
        ).first()
        if known is None:
            raise NotFound("This company has no such department.", field="department", rule="department.unknown")


def _reason(reason: str | None) -> str | None:
    return intake.clean_text(reason, field_name="reason", limit=500) if reason else None


def _clean_person(values: Mapping[str, str | None]) -> dict[str, str | None]:
    cleaned: dict[str, str | None] = {}
    for name, value in values.items():
        if name == "email":
            cleaned[name] = intake.clean_email(value)
        elif name == "mobile":
            cleaned[name] = intake.clean_mobile(value)
        elif name in {"display_name", "given_name", "family_name", "locale"}:
            cleaned[name] = intake.clean_text(value or "", field_name=name, required=name == "display_name")
        else:
            raise Invalid(f"{name} is not an attribute of a person.", field=name, rule="attribute.unknown")
    return cleaned


def _person_facts(values: Mapping[str, str | None]) -> intake.PersonFacts:
    cleaned = _clean_person(values)
    display_name = cleaned.pop("display_name", None)
    if display_name is None:
        raise Invalid("display_name must not be empty.", field="display_name", rule="required")
    return intake.PersonFacts(display_name=display_name, **cleaned)


def _employment_facts(
    *,
    organization_id: str,
    employee_number: str,
    employment_type: str,
    starts_on: date,
    department_id: str | None,
    title: str | None,
    manager_id: str | None,
    ends_on: date | None,
) -> intake.EmploymentFacts:
    try:
        kind = EmploymentType(employment_type)
    except ValueError as error:
        names = ", ".join(EmploymentType)
        raise Invalid(
            f"employment_type must be one of {names}.", field="employment_type", rule="employment_type"
        ) from error
    return intake.EmploymentFacts(
        organization_id=organization_id,
        employee_number=intake.clean_employee_number(employee_number),
        type=kind,
        starts_on=starts_on,
        department_id=department_id,
        title=intake.clean_text(title, field_name="title") if title else None,
        manager_id=manager_id,
        ends_on=ends_on,
    )
