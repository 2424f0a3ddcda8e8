"""The one door. Whatever changes a principal's standing, through whichever door the wish came, happens here.

One transaction, set-based: lock, decide (`rules`), write, re-evaluate entitlements, end credentials, plan deliveries
of every registered channel, open cases, record events. The change, its deliveries and its events commit together.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from idhub.access import entitlements
from idhub.access.entitlements import EntitlementChange, Held
from idhub.access.rules import current_rules, wanted_by_rules
from idhub.access.tables import Application
from idhub.changes import Actor, record, record_ready
from idhub.credentials import revoke
from idhub.db import chunked, new_ids
from idhub.delivery import queue
from idhub.delivery.channel import Grade, PlannedDelivery
from idhub.directory.kinds import EmploymentState, Standing
from idhub.directory.organizations import OrganizationView, department_paths, organizations_of
from idhub.directory.tables import Installation
from idhub.errors import Conflict, IdhubError, NotFound, NotPermitted
from idhub.kept import Answer, Kept, ahead, answered
from idhub.lifecycle import cases as case_book
from idhub.lifecycle import intake, owned, records, rules
from idhub.lifecycle.cases import Opening, Scheduled
from idhub.lifecycle.doors import ENDS_EMPLOYMENTS, Door
from idhub.lifecycle.events import Occasion, events_of, service_events
from idhub.lifecycle.joiners import Joiners, ids_of, left_of, states_of, write_joiners
from idhub.lifecycle.ports import ApplicationTerms, Batch, listener_of, planners_of
from idhub.lifecycle.ready import stamp_of
from idhub.lifecycle.records import Written
from idhub.lifecycle.rules import Places, Post, State


@dataclass(slots=True)
class TransitionResult:
    """What a batch came to.

    Args:
        refused: changes that contradicted what is, with the error each; the others were made.
        changed: principals of whom something changed.
        left: principals for whom this was the leave.
        cases: principal -> leaver case (scheduled, running, or the one of an earlier leave).
        deliveries: how many deliveries were planned.
    """

    refused: list[intake.Refused] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    cases: dict[str, str] = field(default_factory=dict)
    deliveries: int = 0

    def only(self) -> None:
        """Raise the error of a batch of one that was refused."""
        if self.refused:
            raise self.refused[0].error


def transition(
    session: Session,
    changes: Sequence[intake.Change],
    *,
    now: datetime,
    actor: Actor,
    door: str,
    request_id: str | None = None,
    joiners: Sequence[Joiners] = (),
) -> TransitionResult:
    """Make a batch of changes; one person is a batch of one.

    Runs in the caller's write transaction and commits nothing. Changes of one principal apply in the order given, after
    everybody among `joiners` has joined; of these one who cannot is the failure of them all.
    `door` is one of `doors.Door`; another raises ValueError.
    A change that contradicts what is lands in `refused` and leaves no trace but its event; the others are made.

    Guarantee: once the caller has committed, no use of a credential of somebody who left here that begins afterwards
    succeeds, and every account they ever had has a delivery in the plan.

    Raises:
        Conflict: a joiner is known already, or was made ready for another moment, door or place.
    """
    came_through = Door(door)
    changes_standing = joiners or not all(isinstance(change, intake.EndCredentials) for change in changes)
    if came_through not in ENDS_EMPLOYMENTS and changes_standing:
        raise NotPermitted("Nobody's standing changes through this door.", rule="door")
    result = TransitionResult()
    with ahead(session):
        _make_all(session, changes, joiners, result, Occasion(now, actor, door, request_id))
    return result


def _make_all(
    session: Session,
    changes: Sequence[intake.Change],
    joiners: Sequence[Joiners],
    result: TransitionResult,
    occasion: Occasion,
) -> None:
    now = occasion.at
    if joiners:
        _join(session, joiners, result, occasion)
    if not changes and joiners:
        return
    known = records.load(
        session,
        (c.principal_id for c in changes if not isinstance(c, intake.Onboard | intake.RegisterService)),
    )
    schedules = case_book.ask_scheduled(session, sorted(known))
    # Read after the locks: who held them may have made the company that somebody is in now.
    organizations = organizations_of(session, _places_of(known.values(), changes))
    places = Places({organization.id: organization.time_zone for organization in organizations.values()})
    scheduled = case_book.scheduled_of(schedules)
    states: dict[str, State] = dict(known)
    marks: list[tuple[str, str | None, intake.SourceMark]] = []
    reasons: dict[str, intake.Change] = {}
    services = owned.register(session, [c for c in changes if isinstance(c, intake.RegisterService)], now=now)
    new_posts = sum(isinstance(change, intake.Onboard | intake.AddEmployment) for change in changes)
    employment_ids = iter(new_ids("emp", new_posts))
    for change in changes:
        if isinstance(change, intake.RegisterService):
            continue
        try:
            state, employment_id = _decide(
                states.get(change.principal_id), change, places, scheduled, employment_ids, now=now
            )
        except IdhubError as error:
            result.refused.append(intake.Refused(change=change, error=error))
            continue
        states[change.principal_id] = state
        if not isinstance(change, intake.Reevaluate | intake.SetSource):
            reasons[change.principal_id] = change
        source = getattr(change, "source", None)
        if source is not None:
            marks.append((change.principal_id, employment_id, source))
    written = [Written(known.get(principal_id), state) for principal_id, state in states.items()]
    with _contradictions(session):
        held = entitlements.ask_held(session, [w.after.id for w in written if w.before is not None])
        records.write(session, written, now=now)
    records.write_sources(session, marks, now=now)
    result.changed += [change.principal_id for change, _ in services]
    record(session, service_events(services, occasion))
    _follow(session, written, reasons, scheduled, held, organizations, result, occasion)


@contextmanager
def _contradictions(session: Session) -> Iterator[None]:
    """What the database refuses, in our words."""
    try:
        yield
        answered(session)
    except IntegrityError as error:
        # A foreign key: PostgreSQL says so by its code, SQLite in words.
        if getattr(error.orig, "sqlstate", None) == "23503" or "FOREIGN KEY" in str(error.orig):
            raise Conflict(
                "A change names a company, department or manager that does not exist.", rule="reference.unknown"
            ) from error
        raise Conflict(
            "Somebody in this company has this employee number already, or this national id is another person's.",
            field="employee_number",
            rule="employee_number.taken",
        ) from error


def _join(session: Session, groups: Sequence[Joiners], result: TransitionResult, occasion: Occasion) -> None:
    """Take in people whose rows were made ahead. What they are entitled to is decided here, by the rules of now."""
    stamp = stamp_of(occasion)
    organizations = organizations_of(session, {place for group in groups for place in group.zones})
    zones = {organization.id: organization.time_zone for organization in organizations.values()}
    if any(group.stamp != stamp or not group.zones.items() <= zones.items() for group in groups):
        raise Conflict("These people were made ready for another moment or place.", rule="joiners.stale")
    with _contradictions(session):
        write_joiners(session, groups)
    record_ready(session, (group.events for group in groups))
    # The lock of `_entitle`: whoever looks at everybody after a change of rules comes before these, or waits for them.
    _INSTALLATION.all(session)
    if not current_rules(session) and listener_of(session) is None:
        # Nobody holds anything yet, no rule gives anything, and nobody is told: nothing follows.
        result.changed += [principal_id for group in groups for principal_id in ids_of(group)]
        result.left = [principal_id for group in groups for principal_id in left_of(group)]
        return
    written = [Written(None, state) for group in groups for state in states_of(group)]
    _follow(session, written, {}, {}, [], organizations, result, occasion, joiners_are_recorded=True)


def _places_of(states: Iterable[State], changes: Sequence[intake.Change]) -> set[str]:
    """Organizations whose local time decides: of posts that are, and of those that are wished."""
    places = {post.organization_id for state in states for post in state.posts}
    for change in changes:
        if isinstance(change, intake.Onboard | intake.AddEmployment):
            places.add(change.employment.organization_id)
        elif isinstance(change, intake.Move) and change.values.get("organization_id") is not None:
            places.add(change.values["organization_id"])
    return places


def _decide(
    state: State | None,
    change: intake.Change,
    places: Places,
    scheduled: Mapping[str, Scheduled],
    employment_ids: Iterator[str],
    *,
    now: datetime,
) -> tuple[State, str | None]:
    """The state after the change, and the employment that a source's record speaks of. New ones take the next id."""
    if isinstance(change, intake.Onboard):
        if state is not None:
            raise Conflict("This person exists already.", field="person", rule="person.exists")
        post = rules.make_post(next(employment_ids), change.employment, places)
        return rules.join(change.principal_id, records.person_values(change.person), post, now=now), post.id
    if state is None:
        raise NotFound("There is no such person.", field="person", rule="person.unknown")
    if isinstance(change, intake.AddEmployment):
        post = rules.make_post(next(employment_ids), change.employment, places)
        grown = rules.add_employment(state, post, now=now)
        number = (post.organization_id, post.employee_number)
        return grown, next(p.id for p in grown.posts if (p.organization_id, p.employee_number) == number)
    case = scheduled.get(change.principal_id)
    if isinstance(change, intake.CancelOffboarding):
        if case is None:
            raise Conflict("No offboarding of this person is scheduled.", field="person", rule="cancel.none")
        change = replace(
            change,
            previous_ends=case_book.previous_ends(case.plan),
            previous_instants=case_book.previous_instants(case.plan),
        )
    after = rules.apply(state, change, places, now=now)
    if isinstance(change, intake.Move) and case is not None and now < case.effective_at:
        # A scheduled leave is taken back by cancelling it, not by a file that does not know of it.
        if "ends_on" in change.values:
            case.note_end(change.employment_id, change.values["ends_on"])
        after = rules.end_by(after, case.effective_at, places, now=now)
    return after, getattr(change, "employment_id", None)


def _follow(
    session: Session,
    written: Sequence[Written],
    reasons: Mapping[str, intake.Change],
    scheduled: Mapping[str, Scheduled],
    held_before: Iterable[Answer],
    organizations: Mapping[str, OrganizationView],
    result: TransitionResult,
    occasion: Occasion,
    *,
    joiners_are_recorded: bool = False,
) -> None:
    """Everything that follows from standing and attributes, in the same transaction."""
    now, actor = occasion.at, occasion.actor
    terms = _Terms(session)
    held = entitlements.held_of(held_before)
    entitled = _entitle(session, written, held, organizations, now=now)
    access = _access(written, held, entitled)
    leavers = [w.after.id for w in written if w.has_left]
    exited = [w.after.id for w in written if w.exited]
    ended = revoke.end_credentials(session, exited, reason=_end_reason(reasons, occasion.door), now=now)
    revoke.end_enrolments(session, leavers, now=now)
    lost = [pair for pair in access.lost if pair[0] not in set(exited)]
    told = revoke.end_application_access(session, lost, reason="entitlement_withdrawn", now=now) if lost else []
    orphans = owned.ask(session, leavers)
    cases, opening = _open_cases(session, written, reasons, scheduled, result, now=now, actor=actor)
    terms.expect({h.application_id for key in leavers for h in held.get(key, ())})
    batch = Batch(
        gained=access.gained,
        lost=[pair for pair in access.lost if pair[0] not in set(leavers)],
        changed=access.changed,
        reviewed=access.reviewed,
        leavers=leavers,
        cases=cases,
        participants=[*ended.participants, *told],
        terms=terms,
    )
    planners = planners_of(session)
    planned: list[PlannedDelivery] = [row for planner in planners for row in planner.plan(session, batch, now=now)]
    handed = owned.hand_over(session, orphans, _managers(written), now=now)
    ids = queue.plan(session, planned, now=now)
    result.deliveries = len(ids)
    if (follower := listener_of(session)) is not None:
        follower.follow(session, written, now=now)
    if cases:
        counts = {
            principal_id: {
                "sessions": ended.sessions.get(principal_id, 0),
                "grants": ended.grants.get(principal_id, 0),
                "entitlements": len(held.get(principal_id, ())),
            }
            for principal_id in cases
        }
        case_book.start_cases(session, cases, opening, counts, now=now, actor=actor.id)
        case_book.freeze_rows(
            session,
            cases,
            deliveries=list(zip(ids, planned, strict=True)),
            untold=[p for p in ended.participants if p.logout_uri is None],
            entitled={pid: {h.application_id for h in held.get(pid, ())} for pid in cases},
            ceilings={planner.channel: planner.ceiling for planner in planners},
            terms=terms,
            now=now,
        )
        case_book.touch(session, sorted(cases.values()), now=now)
    result.left = leavers
    result.changed += [w.after.id for w in written if w.before != w.after]
    record(
        session,
        events_of(
            written,
            reasons,
            entitled,
            handed,
            result.refused,
            cases=result.cases,
            occasion=occasion,
            joiners_are_recorded=joiners_are_recorded,
        ),
    )


# Held by whoever looks at everybody after a change of rules.
_INSTALLATION = Kept(select(Installation.id).with_for_update(read=True))
_DEMANDS = Kept(select(Application.id, Application.revocation_deadline_seconds, Application.required_grade))
_DEMANDS_OF = Kept(
    select(Application.id, Application.revocation_deadline_seconds, Application.required_grade).where(
        Application.id.in_(bindparam("ids", expanding=True))
    )
)


class _Terms(Mapping[str, ApplicationTerms]):
    """What applications demand of a leave.

    Those that are expected are read by their names. At the first question about another all are, once: most
    transitions ask nothing.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._expected: list[Answer] = []
        self._made: dict[str, ApplicationTerms] = {}
        self._knows_all = False

    def expect(self, application_ids: Iterable[str]) -> None:
        """Say which applications will be asked about."""
        self._expected += [_DEMANDS_OF.ask(self._session, ids=part) for part in chunked(sorted(application_ids))]

    def __getitem__(self, application_id: str) -> ApplicationTerms:
        while application_id not in self._made and self._expected:
            self._take(self._expected.pop())
        if application_id not in self._made:
            self._read_all()
        return self._made[application_id]

    def __iter__(self) -> Iterator[str]:
        self._read_all()
        return iter(self._made)

    def __len__(self) -> int:
        self._read_all()
        return len(self._made)

    def _read_all(self) -> None:
        if not self._knows_all:
            self._take(_DEMANDS.ask(self._session))
            self._knows_all = True

    def _take(self, answer: Answer) -> None:
        for key, seconds, grade in answer.rows():
            demanded = None if grade is None else Grade(grade)
            self._made[key] = ApplicationTerms(key, timedelta(seconds=seconds), demanded)


def _entitle(
    session: Session,
    written: Sequence[Written],
    held: Mapping[str, Sequence[Held]],
    organizations: Mapping[str, OrganizationView],
    *,
    now: datetime,
) -> list[EntitlementChange]:
    """Entitlements follow rules and standing: the active have what rules want, the suspended keep, others lose."""
    active = [w.after for w in written if w.after.standing == Standing.ACTIVE]
    if any(w.begins for w in written):
        # Whoever looks at everybody after a change of rules does not see these yet: the change waits for us, or we
        # for it.
        _INSTALLATION.all(session)
    birthright = current_rules(session) if active else []
    paths = (
        department_paths(session, (p.department_id for s in active for p in s.posts if p.department_id and p.is_live))
        if birthright
        else {}
    )
    gone: list[Held] = []
    begun: list[tuple[str, tuple[str, str], str, str]] = []
    for w in written:
        state = w.after
        if state.standing == Standing.SUSPENDED or not (birthright or state.id in held):
            continue
        wanted = (
            wanted_by_rules(birthright, person_document(state, organizations, paths))
            if state.standing == Standing.ACTIVE and birthright
            else {}
        )
        leave, enter = entitlements.difference(
            held.get(state.id, ()), wanted, keeps_direct=state.standing == Standing.ACTIVE
        )
        gone += leave
        begun += [(state.id, key, "rule", rule_id) for key, rule_id in enter]
    entitlements.withdraw(session, gone, now=now)
    entitlements.entitle(session, begun, now=now)
    return [
        *(
            EntitlementChange(h.principal_id, h.application_id, h.role, False, h.reason_kind, h.reason_ref)
            for h in gone
        ),
        *(EntitlementChange(pid, key[0], key[1], True, kind, ref) for pid, key, kind, ref in begun),
    ]


def person_document(
    state: State, organizations: Mapping[str, OrganizationView], paths: Mapping[str, str]
) -> dict[str, Any]:
    """The person as rules see them: posts that are active now; one still to begin or suspended entitles to nothing."""
    return {
        "id": state.id,
        "displayName": state.person["display_name"],
        "email": state.person.get("email"),
        "locale": state.person.get("locale"),
        "employments": [
            _post_document(p, organizations[p.organization_id], paths)
            for p in state.posts
            if p.state == EmploymentState.ACTIVE
        ],
    }


def _post_document(post: Post, organization: OrganizationView, paths: Mapping[str, str]) -> dict[str, Any]:
    path = paths.get(post.department_id or "")
    return {
        "company": organization.name,
        "companyCode": organization.code,
        "companyKind": organization.kind,
        "within": list(organization.ancestors),
        "department": path.rpartition("/")[2] if path else None,
        "departmentPath": path,
        "title": post.title,
        "type": post.type,
        "employeeNumber": post.employee_number,
        "startDate": post.starts_on,
        "endDate": post.ends_on,
    }


@dataclass(frozen=True, slots=True)
class _Access:
    gained: list[tuple[str, str]]
    lost: list[tuple[str, str]]
    changed: list[tuple[str, str]]
    reviewed: list[tuple[str, str]]


def _access(
    written: Sequence[Written], held: Mapping[str, Sequence[Held]], changes: Iterable[EntitlementChange]
) -> _Access:
    """(principal, application) pairs that began, ended, or go on with other attributes."""
    access = _Access([], [], [], [])
    begun: dict[str, set[str]] = {}
    gone: dict[str, set[tuple[str, str]]] = {}
    for change in changes:
        if change.is_entitled:
            begun.setdefault(change.principal_id, set()).add(change.application_id)
        else:
            gone.setdefault(change.principal_id, set()).add((change.application_id, change.role))
    for w in written:
        principal_id = w.after.id
        if principal_id not in held and principal_id not in begun:
            continue
        had = {(h.application_id, h.role) for h in held.get(principal_id, ())}
        keeps = {application_id for application_id, _ in had - gone.get(principal_id, set())}
        now_has = keeps | begun.get(principal_id, set())
        before = {a for a, _ in had} if w.before and w.before.standing == Standing.ACTIVE else set()
        after = now_has if w.after.standing == Standing.ACTIVE else set()
        access.gained.extend((principal_id, a) for a in sorted(after - before))
        access.lost.extend((principal_id, a) for a in sorted(before - after))
        # Another role in the same application changes what the account there is to be.
        moved = begun.get(principal_id, set()) | {application_id for application_id, _ in gone.get(principal_id, ())}
        for application_id in sorted(after & before):
            is_changed = w.attributes_changed or application_id in moved
            (access.changed if is_changed else access.reviewed).append((principal_id, application_id))
    return access


def _managers(written: Sequence[Written]) -> dict[str, str | None]:
    return {w.after.id: rules.main_post(w.after.posts).manager_id for w in written if w.has_left}


def _end_reason(reasons: Mapping[str, intake.Change], door: str) -> str:
    kinds = {type(reason).__name__ for reason in reasons.values()}
    return kinds.pop().lower() if len(kinds) == 1 else door


def _open_cases(
    session: Session,
    written: Sequence[Written],
    reasons: Mapping[str, intake.Change],
    scheduled: Mapping[str, Scheduled],
    result: TransitionResult,
    *,
    now: datetime,
    actor: Actor,
) -> tuple[dict[str, str], Opening]:
    """Cases that run now, by principal, and those of them that are new; schedules, moves and cancels those whose time
    has not come.
    """
    running: dict[str, str] = {}
    due: list[case_book.NewCase] = []
    later: list[case_book.NewCase] = []
    for w in written:
        principal_id, reason = w.after.id, reasons.get(w.after.id)
        if w.before is None and not isinstance(reason, intake.Offboard | intake.CancelOffboarding):
            continue
        known = scheduled.get(principal_id)
        wish = reason if isinstance(reason, intake.Offboard) else None
        if w.has_left and w.before is not None:
            effective_at = min(now, w.after.ends_at or now)
            if known is not None:
                running[principal_id] = known.id
                case_book.take_over(session, known.id, effective_at=effective_at, wish=wish)
            else:
                due.append(_new_case(w, wish, effective_at=effective_at))
        elif isinstance(reason, intake.CancelOffboarding) and known is not None:
            case_book.cancel(session, known.id, now=now)
        elif wish is not None and w.after.standing != Standing.LEFT:
            effective_at = max((p.ends_at for p in w.after.posts if p.is_live and p.ends_at), default=now)
            if known is not None:
                known.note_further(case_book.plan_of((w.before or w.after).posts, None))
                case_book.amend(session, known)
                case_book.take_over(session, known.id, effective_at=effective_at, wish=wish)
                result.cases[principal_id] = known.id
            else:
                later.append(_new_case(w, wish, effective_at=effective_at))
        elif wish is not None:
            earlier = case_book.latest_case(session, principal_id)
            if earlier is not None:
                result.cases[principal_id] = earlier
        elif known is not None and known.effective_at <= now:
            # Its time has come and nobody left: a post that was added later goes on.
            case_book.cancel(session, known.id, now=now)
        elif known is not None and known.is_amended:
            case_book.amend(session, known)
    opening = case_book.begin_cases(session, due, now=now)
    running |= opening.ids
    result.cases |= running
    scheduling = case_book.begin_cases(session, later, now=now)
    case_book.open_cases(session, scheduling, state=case_book.SCHEDULED, now=now, actor=actor.id)
    result.cases |= scheduling.ids
    return running, opening


def _new_case(w: Written, wish: intake.Offboard | None, *, effective_at: datetime) -> case_book.NewCase:
    before = w.before or w.after
    return case_book.NewCase(
        principal_id=w.after.id,
        organization_id=rules.main_post(before.posts).organization_id,
        effective_at=effective_at,
        is_emergency=bool(wish and wish.is_emergency),
        reason=wish.reason if wish else None,
        plan=case_book.plan_of(before.posts, wish.plan_fingerprint if wish else None),
    )
