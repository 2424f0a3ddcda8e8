"""Pure decisions: what a change makes of a principal. No database, no clock, no framework.

A principal's standing is never set: it follows from the states and dates of the employments. What a change does is
edit employments and attributes; `settle` then derives standing, window and epochs for `now`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from idhub.directory.kinds import EmploymentState, EmploymentType, Standing
from idhub.errors import Conflict, Invalid, NotFound
from idhub.lifecycle import intake

MAX_EMPLOYMENTS = 50
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Post:
    """An employment, as rules see it."""

    id: str
    organization_id: str
    employee_number: str
    type: EmploymentType
    starts_on: date
    starts_at: datetime
    department_id: str | None = None
    title: str | None = None
    manager_id: str | None = None
    ends_on: date | None = None
    ends_at: datetime | None = None
    state: EmploymentState = EmploymentState.ACTIVE

    @property
    def is_live(self) -> bool:
        """Not ended."""
        return self.state != EmploymentState.ENDED


@dataclass(frozen=True, slots=True)
class State:
    """A principal before or after a change."""

    id: str
    standing: Standing
    access_epoch: int
    enrolment_epoch: int
    starts_at: datetime
    ends_at: datetime | None
    person: Mapping[str, Any]
    posts: tuple[Post, ...]

    def post(self, employment_id: str) -> Post:
        """The employment of that id.

        Raises:
            NotFound: it is not this person's.
        """
        for post in self.posts:
            if post.id == employment_id:
                return post
        raise NotFound("This employment is not this person's.", field="employment", rule="employment.unknown")


# Few zones and few dates make up a company; a bulk of people asks for the same ones again and again.
@lru_cache(maxsize=65_536)
def _midnight(zone: ZoneInfo, day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=zone).astimezone(UTC)


class Places:
    """Time zones of organizations; turns local dates into instants."""

    def __init__(self, zones: Mapping[str, str]) -> None:
        self._zones = {organization_id: ZoneInfo(name) for organization_id, name in zones.items()}

    def zone(self, organization_id: str) -> ZoneInfo:
        """Zone of the organization's place."""
        return self._zones[organization_id]

    def midnight(self, organization_id: str, day: date) -> datetime:
        """The UTC instant at which `day` begins at the organization's place."""
        return _midnight(self._zones[organization_id], day)

    def end_of(self, organization_id: str, last_day: date) -> datetime:
        """The first instant without access after the last working day (design: 00:00 of the next day)."""
        return self.midnight(organization_id, last_day + timedelta(days=1))

    def last_day(self, organization_id: str, ends_at: datetime) -> date:
        """The last day on which there was access, at the organization's place."""
        return (ends_at - _MICROSECOND).astimezone(self._zones[organization_id]).date()


def make_post(
    employment_id: str, facts: intake.EmploymentFacts, places: Places, *, now: datetime | None = None
) -> Post:
    """A new employment from validated facts; with `now` settled at once, which saves bulk work a copy.

    Raises:
        Invalid: it ends before it starts.
    """
    if facts.ends_on is not None and facts.ends_on < facts.starts_on:
        raise Invalid("The end date lies before the start date.", field="end_date", rule="end_before_start")
    # Whether it has begun is for `settle` to say.
    state = EmploymentState.STAGED if facts.state == EmploymentState.ACTIVE else facts.state
    starts_at = places.midnight(facts.organization_id, facts.starts_on)
    ends_at = None if facts.ends_on is None else places.end_of(facts.organization_id, facts.ends_on)
    return Post(
        employment_id,
        facts.organization_id,
        facts.employee_number,
        facts.type,
        facts.starts_on,
        starts_at,
        facts.department_id,
        facts.title,
        facts.manager_id,
        facts.ends_on,
        ends_at,
        state if now is None else _settled(state, starts_at, ends_at, now=now),
    )


def join(principal_id: str, person: Mapping[str, Any], post: Post, *, now: datetime) -> State:
    """Somebody new with a first post, settled for `now`: what `settle` makes of a staged principal with this post."""
    post = _settle_post(post, now=now)
    standing = _STANDING_OF[post.state]
    epoch = 2 if standing == Standing.LEFT else 1
    return State(principal_id, standing, epoch, epoch, post.starts_at, post.ends_at, person, (post,))


def settle(state: State, *, now: datetime) -> State:
    """Derive employment states, standing, access window and epochs for `now`.

    `access_epoch` goes up on every exit from active; `enrolment_epoch` when the last live employment ends.
    """
    posts = tuple(_settle_post(post, now=now) for post in state.posts)
    standing = _standing(posts)
    starts_at, ends_at = _window(posts, now=now)
    access_epoch, enrolment_epoch = state.access_epoch, state.enrolment_epoch
    if state.standing == Standing.ACTIVE and standing != Standing.ACTIVE:
        access_epoch += 1
    had_left = state.standing in {Standing.LEFT, Standing.STAGED}
    if standing in {Standing.LEFT, Standing.STAGED} and not had_left:
        enrolment_epoch += 1
        access_epoch = max(access_epoch, state.access_epoch + 1)
    elif standing == Standing.LEFT and state.standing == Standing.STAGED:
        # A starter who never started: invitations already sent must die too.
        enrolment_epoch += 1
        access_epoch += 1
    return replace(
        state,
        posts=posts,
        standing=standing,
        starts_at=starts_at,
        ends_at=ends_at,
        access_epoch=access_epoch,
        enrolment_epoch=enrolment_epoch,
    )


def _settle_post(post: Post, *, now: datetime) -> Post:
    state = _settled(post.state, post.starts_at, post.ends_at, now=now)
    return post if state is post.state else _in_state(post, state)


def _settled(
    state: EmploymentState, starts_at: datetime, ends_at: datetime | None, *, now: datetime
) -> EmploymentState:
    if state == EmploymentState.ENDED:
        return state
    if ends_at is not None and now >= ends_at:
        return EmploymentState.ENDED
    if state == EmploymentState.STAGED and now >= starts_at:
        return EmploymentState.ACTIVE
    # What has begun stays begun: a `now` that was read a little earlier elsewhere is no leave.
    return state


def _in_state(post: Post, state: EmploymentState) -> Post:
    # Spelled out: `dataclasses.replace` costs six times as much, and this is done for everybody who joins.
    return Post(
        post.id, post.organization_id, post.employee_number, post.type, post.starts_on, post.starts_at,
        post.department_id, post.title, post.manager_id, post.ends_on, post.ends_at, state,
    )  # fmt: skip


_STANDING_OF = {
    EmploymentState.ACTIVE: Standing.ACTIVE,
    EmploymentState.SUSPENDED: Standing.SUSPENDED,
    EmploymentState.STAGED: Standing.STAGED,
    EmploymentState.ENDED: Standing.LEFT,
}


def _standing(posts: tuple[Post, ...]) -> Standing:
    states = {post.state for post in posts}
    for state, standing in (
        (EmploymentState.ACTIVE, Standing.ACTIVE),
        (EmploymentState.SUSPENDED, Standing.SUSPENDED),
        (EmploymentState.STAGED, Standing.STAGED),
    ):
        if state in states:
            return standing
    return Standing.LEFT


def _window(posts: tuple[Post, ...], *, now: datetime) -> tuple[datetime, datetime | None]:
    """The stretch without gaps that contains `now`, else the next to come, else the last that was."""
    usable = [p for p in posts if p.state in {EmploymentState.ACTIVE, EmploymentState.STAGED}] or posts
    # Posts that were taken back before they began give nobody a window.
    usable = [p for p in usable if p.ends_at is None or p.starts_at < p.ends_at] or usable
    spans = sorted(((p.starts_at, p.ends_at) for p in usable), key=lambda span: span[0])
    merged: list[tuple[datetime, datetime | None]] = []
    for start, end in spans:
        if merged and (merged[-1][1] is None or start <= merged[-1][1]):
            last = merged[-1][1]
            merged[-1] = (merged[-1][0], None if last is None or end is None else max(last, end))
        else:
            merged.append((start, end))
    for start, end in merged:
        if end is None or now < end:
            return start, end
    return merged[-1]


def apply(state: State, change: intake.Change, places: Places, *, now: datetime) -> State:
    """What the change makes of the principal, settled for `now`.

    What has come due by `now` comes first, whether a worker has looked or not: a leave whose time has come is a leave,
    and a change after it brings nothing from before back.

    Raises:
        IdhubError: the change contradicts what is; nothing follows from it.
    """
    state = settle(state, now=now)
    match change:
        case intake.AddEmployment():
            raise TypeError("an employment needs an id: use `add_employment`")
        case intake.UpdatePerson():
            edited = replace(state, person={**state.person, **change.values})
        case intake.Move():
            edited = _edit_post(state, change.employment_id, lambda post: _move(post, change.values, places))
        case intake.EndEmployment():
            edited = _edit_post(state, change.employment_id, lambda post: _end(post, change, places, now=now))
        case intake.Suspend():
            edited = _hold(state, change.employment_id)
        case intake.Reactivate():
            edited = _release(state, change.employment_id)
        case intake.Offboard():
            edited = _offboard(state, change, places, now=now)
        case intake.CancelOffboarding():
            edited = _cancel(state, change, places)
        case intake.EndCredentials():
            edited = replace(state, access_epoch=state.access_epoch + 1)
        case _:
            edited = state
    return settle(edited, now=now)


def add_employment(state: State, post: Post, *, now: datetime) -> State:
    """The principal with a further employment; of one who has left, the rehire.

    A number that was theirs in the same company, on a post that has ended, opens that post again.

    Raises:
        Conflict: too many employments, or the same number in the same company is already theirs and live.
    """
    state = settle(state, now=now)
    same = next(
        (
            p
            for p in state.posts
            if (p.organization_id, p.employee_number) == (post.organization_id, post.employee_number)
        ),
        None,
    )
    if same is not None and same.is_live:
        raise Conflict(
            "This person has this employment already.", field="employee_number", rule="employment.live_already"
        )
    if same is not None:
        posts = tuple(replace(post, id=same.id) if p.id == same.id else p for p in state.posts)
    elif len(state.posts) >= MAX_EMPLOYMENTS:
        raise Conflict("This person has too many employments.", field="employment", rule="employment.count")
    else:
        posts = (*state.posts, post)
    return settle(replace(state, posts=posts), now=now)


def _edit_post(state: State, employment_id: str, edit: Any) -> State:
    state.post(employment_id)
    return replace(state, posts=tuple(edit(post) if post.id == employment_id else post for post in state.posts))


_MOVABLE = frozenset(
    {"organization_id", "department_id", "employee_number", "title", "manager_id", "type", "starts_on", "ends_on"}
)
_NEVER_EMPTY = ("organization_id", "employee_number", "type", "starts_on")


def _move(post: Post, values: Mapping[str, Any], places: Places) -> Post:
    unknown = set(values) - _MOVABLE
    if unknown:
        raise Invalid(f"{sorted(unknown)[0]} cannot be moved.", field=sorted(unknown)[0], rule="move.field")
    for name in _NEVER_EMPTY:
        if name in values and values[name] is None:
            raise Invalid(f"{name} must not be empty.", field=name, rule="required")
    moved = replace(post, **values)
    if moved.ends_on is not None and moved.ends_on < moved.starts_on:
        raise Invalid("The end date lies before the start date.", field="end_date", rule="end_before_start")
    starts_at = places.midnight(moved.organization_id, moved.starts_on)
    is_corrected = "ends_on" in values and (moved.ends_on != post.ends_on or post.ends_at is None)
    ends_at = post.ends_at
    # An instant that an offboarding named stays, and one that is over. A new date is derived anew, or the midnight of
    # another place while it is still to come.
    is_elsewhere = post.is_live and moved.organization_id != post.organization_id
    if is_corrected or (is_elsewhere and _ends_at_midnight(post, places)):
        ends_at = None if moved.ends_on is None else places.end_of(moved.organization_id, moved.ends_on)
    state = moved.state
    if state == EmploymentState.ENDED and is_corrected:
        # A corrected end date brings the post back; standing is derived again.
        state = EmploymentState.STAGED
    elif state == EmploymentState.ACTIVE and starts_at != post.starts_at:
        state = EmploymentState.STAGED
    return replace(moved, starts_at=starts_at, ends_at=ends_at, state=state)


def _ends_at_midnight(post: Post, places: Places) -> bool:
    return post.ends_on is not None and post.ends_at == places.end_of(post.organization_id, post.ends_on)


def _end(post: Post, change: intake.EndEmployment, places: Places, *, now: datetime) -> Post:
    if not post.is_live:
        return post
    if change.at is not None:
        ends_at = change.at
    elif change.last_day is not None:
        ends_at = places.end_of(post.organization_id, change.last_day)
    else:
        ends_at = now
    return _ending(post, ends_at, places)


def _ending(post: Post, ends_at: datetime, places: Places) -> Post:
    """An end never lies after one that is already known: a leave can be brought forward, not put off by leaving."""
    if post.ends_at is not None and post.ends_at <= ends_at:
        return post
    last_day = max(places.last_day(post.organization_id, ends_at), post.starts_on)
    return replace(post, ends_at=ends_at, ends_on=last_day)


def _hold(state: State, employment_id: str | None) -> State:
    if state.standing == Standing.LEFT:
        raise Conflict("Somebody who has left cannot be suspended.", field="person", rule="suspend.left")
    if employment_id is not None:
        return _edit_post(state, employment_id, _hold_post)
    return replace(state, posts=tuple(_hold_post(post) for post in state.posts))


def _hold_post(post: Post) -> Post:
    return replace(post, state=EmploymentState.SUSPENDED) if post.is_live else post


def _release(state: State, employment_id: str | None) -> State:
    if state.standing == Standing.LEFT:
        raise Conflict("Somebody who has left is rehired, not reactivated.", field="person", rule="reactivate.left")
    if employment_id is not None:
        return _edit_post(state, employment_id, _release_post)
    return replace(state, posts=tuple(_release_post(post) for post in state.posts))


def _release_post(post: Post) -> Post:
    return replace(post, state=EmploymentState.STAGED) if post.state == EmploymentState.SUSPENDED else post


def _offboard(state: State, change: intake.Offboard, places: Places, *, now: datetime) -> State:
    if state.standing == Standing.LEFT:
        return state
    ends_at = change.at if change.at is not None and change.at > now else now
    if change.is_emergency:
        ends_at = now
    return replace(state, posts=tuple(_ending(p, ends_at, places) if p.is_live else p for p in state.posts))


def end_by(state: State, ends_at: datetime, places: Places, *, now: datetime) -> State:
    """The state with every live post over by `ends_at`: what was scheduled is taken back, never merely overwritten."""
    posts = tuple(_ending(post, ends_at, places) if post.is_live else post for post in state.posts)
    return settle(replace(state, posts=posts), now=now)


def _cancel(state: State, change: intake.CancelOffboarding, places: Places) -> State:
    if state.standing == Standing.LEFT:
        raise Conflict("The person has left already; rehire them instead.", field="person", rule="cancel.left")
    return replace(state, posts=tuple(_ending_as_before(post, change, places) for post in state.posts))


def _ending_as_before(post: Post, change: intake.CancelOffboarding, places: Places) -> Post:
    if not post.is_live or post.id not in change.previous_ends:
        return post
    last_day = change.previous_ends[post.id]
    derived = None if last_day is None else places.end_of(post.organization_id, last_day)
    return replace(post, ends_on=last_day, ends_at=change.previous_instants.get(post.id, derived))


def main_post(posts: tuple[Post, ...]) -> Post:
    """The main employment: live before ended, active before held, the oldest start first."""
    if len(posts) == 1:
        return posts[0]
    return min(posts, key=lambda p: (_MAIN_FIRST[p.state], p.starts_at, p.id))


_MAIN_FIRST = {
    EmploymentState.ACTIVE: 0,
    EmploymentState.SUSPENDED: 1,
    EmploymentState.STAGED: 2,
    EmploymentState.ENDED: 3,
}
