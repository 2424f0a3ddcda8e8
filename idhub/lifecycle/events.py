"""Audit events of a transition: derived from what was before and after, never from what was wished."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import date, datetime
from typing import Any, NamedTuple

from idhub.access.entitlements import EntitlementChange
from idhub.changes import Actor, Event, EventType
from idhub.directory.kinds import Standing
from idhub.errors import IdhubError
from idhub.lifecycle import intake
from idhub.lifecycle.records import Written
from idhub.lifecycle.rules import Post, State, main_post

PERSONAL = ("display_name", "given_name", "family_name", "email", "mobile")


class Occasion(NamedTuple):
    """What all events of one transition share: when, by whom, through which door, in which request."""

    at: datetime
    actor: Actor
    door: str
    request_id: str | None


def events_of(
    written: Sequence[Written],
    reasons: Mapping[str, intake.Change],
    entitled: Iterable[EntitlementChange],
    handed: Iterable[tuple[str, str, str | None]],
    refusals: Iterable[intake.Refused],
    *,
    cases: Mapping[str, str],
    occasion: Occasion,
    joiners_are_recorded: bool = False,
) -> list[Event]:
    """Everything that a transition did, and every refusal, as events.

    Args:
        cases: the case of each principal who has one.
        joiners_are_recorded: events of new people were made ahead (`ready`).
    """
    common = occasion._asdict()
    events: list[Event] = []
    for w in written:
        if w.before != w.after:
            if w.before is None:
                if not joiners_are_recorded:
                    events.append(onboarded(w.after, common))
                continue
            events += _person_events(w, w.before, reasons.get(w.after.id), cases.get(w.after.id), common)
    organization_of = {w.after.id: main_post(w.after.posts).organization_id for w in written}
    for change in entitled:
        kind = EventType.ENTITLEMENT_ENTITLED if change.is_entitled else EventType.ENTITLEMENT_WITHDRAWN
        events.append(
            Event(
                type=kind,
                target_kind="application",
                target_id=change.application_id,
                application_id=change.application_id,
                person_id=change.principal_id,
                organization_id=organization_of.get(change.principal_id),
                case_id=cases.get(change.principal_id),
                details={"role": change.role, "reason": change.reason_kind, "reference": change.reason_ref},
                **common,
            )
        )
    for owned_id, leaver, new_owner in handed:
        events.append(
            Event(
                type=EventType.PRINCIPAL_HANDED_OVER,
                target_kind="principal",
                target_id=owned_id,
                person_id=leaver,
                details={"new_owner": new_owner},
                **common,
            )
        )
    for refused in refusals:
        error = refused.error
        events.append(
            Event(
                type=EventType.CHANGE_REFUSED,
                target_kind="person",
                target_id=refused.change.principal_id,
                person_id=refused.change.principal_id if refused.change.principal_id.startswith("per_") else None,
                outcome="failure",
                reason=error.rule if isinstance(error, IdhubError) else None,
                details={"change": type(refused.change).__name__},
                **common,
            )
        )
    return events


def service_events(services: Iterable[tuple[intake.RegisterService, bool]], occasion: Occasion) -> list[Event]:
    """An event for each service identity that was registered (True) or changed (False), as `owned.register` says."""
    return [
        Event(
            type=EventType.SERVICE_REGISTERED if is_new else EventType.SERVICE_CHANGED,
            target_kind="principal",
            target_id=change.principal_id,
            organization_id=change.organization_id,
            application_id=change.application_id,
            details={"owner": change.owner_id, "ends_at": change.ends_at.isoformat()},
            **occasion._asdict(),
        )
        for change, is_new in services
    ]


def onboarded(after: State, common: Mapping[str, Any]) -> Event:
    """Somebody new."""
    main = main_post(after.posts)
    employments = [post_details(post) for post in after.posts]
    place, number, starts_at = main.organization_id, main.employee_number, after.starts_at.isoformat()
    return joined(after.id, place, number, after.standing._value_, starts_at, employments, after.person, common)


def joined(
    principal_id: str,
    organization_id: str,
    number: str,
    standing: str,
    starts_at: str,
    employments: list[dict[str, Any]],
    person: Mapping[str, Any],
    common: Mapping[str, Any],
) -> Event:
    """`onboarded`, from what is known of many at once: `employments` are `post_details`, dates in ISO form."""
    return Event(
        type=EventType.PERSON_ONBOARDED,
        target_kind="person",
        target_id=principal_id,
        person_id=principal_id,
        organization_id=organization_id,
        details={"standing": standing, "starts_at": starts_at, "employments": employments, "number": number},
        personal={name: str(value) for name in PERSONAL if (value := person.get(name))},
        **common,
    )


def _person_events(
    w: Written, before: State, reason: intake.Change | None, case_id: str | None, common: Mapping[str, Any]
) -> list[Event]:
    after = w.after
    main = main_post(after.posts)
    scope: dict[str, Any] = {
        "target_kind": "person",
        "target_id": after.id,
        "person_id": after.id,
        "organization_id": main.organization_id,
        **common,
    }
    why = getattr(reason, "reason", None)
    note = {"reason_given": why} if why else {}
    events: list[Event] = []
    if before.standing != after.standing:
        details = {
            "before": before.standing,
            "after": after.standing,
            "access_epoch": after.access_epoch,
            "enrolment_epoch": after.enrolment_epoch,
            **note,
        }
        events.append(
            Event(type=_standing_event(before.standing, after.standing), details=details, case_id=case_id, **scope)
        )
    elif isinstance(reason, intake.Offboard):
        ends = None if after.ends_at is None else after.ends_at.isoformat()
        events.append(
            Event(
                type=EventType.PERSON_OFFBOARDING_SCHEDULED,
                details={"effective_at": ends, **note},
                case_id=case_id,
                **scope,
            )
        )
    elif isinstance(reason, intake.CancelOffboarding):
        events.append(Event(type=EventType.PERSON_OFFBOARDING_CANCELLED, details=note, **scope))
    elif isinstance(reason, intake.EndCredentials):
        events.append(
            Event(type=EventType.CREDENTIALS_ENDED, details={"access_epoch": after.access_epoch, **note}, **scope)
        )
    changed = sorted(name for name in after.person if after.person[name] != before.person.get(name))
    if changed:
        personal = {
            name: str(after.person[name]) for name in changed if name in PERSONAL and after.person[name] is not None
        }
        events.append(Event(type=EventType.PERSON_UPDATED, details={"fields": changed}, personal=personal, **scope))
    return events + _post_events(w, scope)


def _standing_event(before: Standing, after: Standing) -> EventType:
    if after == Standing.LEFT:
        return EventType.PERSON_OFFBOARDED
    if after == Standing.SUSPENDED:
        return EventType.PERSON_SUSPENDED
    if before == Standing.LEFT:
        return EventType.PERSON_REHIRED
    if before == Standing.SUSPENDED:
        return EventType.PERSON_REACTIVATED
    return EventType.PERSON_STARTED if after == Standing.ACTIVE else EventType.PERSON_MOVED


def _post_events(w: Written, scope: Mapping[str, Any]) -> list[Event]:
    known = {post.id: post for post in w.before.posts} if w.before else {}
    events: list[Event] = []
    for post in w.after.posts:
        old = known.get(post.id)
        if old == post:
            continue
        if old is None:
            kind, details = EventType.EMPLOYMENT_STARTED, post_details(post)
        elif old.is_live and not post.is_live:
            kind, details = EventType.EMPLOYMENT_ENDED, {"employment": post.id, "ends_at": _plain(post.ends_at)}
        else:
            kind, details = EventType.EMPLOYMENT_CHANGED, {"employment": post.id, "changes": _differences(old, post)}
        events.append(Event(type=kind, details=details, **{**scope, "organization_id": post.organization_id}))
    return events


def post_details(post: Post) -> dict[str, Any]:
    """What an event says of a new post."""
    return {
        "employment": post.id,
        "organization": post.organization_id,
        "department": post.department_id,
        "number": post.employee_number,
        "type": post.type._value_,
        "state": post.state._value_,
        "starts_on": post.starts_on.isoformat(),
        "ends_on": _plain(post.ends_on),
    }


def _differences(old: Post, new: Post) -> dict[str, list[Any]]:
    return {
        f.name: [_plain(getattr(old, f.name)), _plain(getattr(new, f.name))]
        for f in fields(Post)
        if getattr(old, f.name) != getattr(new, f.name)
    }


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date | datetime) else value
