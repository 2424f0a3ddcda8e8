"""Rows of people behind the one door: loaded under lock, written as the rules made them. Set-based, no ORM objects."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any

from sqlalchemy import BindParameter, bindparam, delete, func, select, update
from sqlalchemy.orm import Session

from idhub.db import Instant, chunked, insert_rows, json_text, new_ids, to_micros
from idhub.directory.kinds import EmploymentState, EmploymentType, PrincipalKind, Standing
from idhub.directory.names import LoginNameKind, stored_login_name
from idhub.directory.search_index import index_people, reindex_people
from idhub.directory.search_terms import Searchable
from idhub.directory.tables import Employment, EmploymentPeriod, LoginName, Person, Principal, SourceRecord
from idhub.kept import Kept
from idhub.lifecycle import periods
from idhub.lifecycle.intake import PersonFacts, SourceMark
from idhub.lifecycle.periods import Period
from idhub.lifecycle.rules import Post, State, main_post

PERSON_FIELDS = ("display_name", "given_name", "family_name", "email", "mobile", "locale", "national_id_hash")
PRINCIPAL_COLUMNS = (
    *("id", "kind", "organization_id", "standing", "access_epoch", "enrolment_epoch"),
    *("access_starts_at", "access_ends_at", "version", "created_at", "changed_at"),
)
PERSON_COLUMNS = ("id", *PERSON_FIELDS, "main_employment_id", "search_terms", "attribute_sources", "search_place")
_person_fields = itemgetter(*PERSON_FIELDS)
POST_COLUMNS = (
    *("id", "principal_id", "organization_id", "department_id", "employee_number", "type", "title", "manager_id"),
    *("state", "starts_on", "starts_at", "ends_on", "ends_at", "created_at", "changed_at"),
)
PERIOD_COLUMNS = ("id", "employment_id", "valid_from", "valid_to", "recorded_at", "facts")
SOURCE_COLUMNS = (
    *("provider", "key", "scope", "principal_id", "employment_id", "raw_sealed", "content_hash", "state"),
    *("generation", "seen_at"),
)
LOGIN_NAME_COLUMNS = ("value", "principal_id", "kind")
_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
# Made once: building a statement costs more than what it asks.
_LOCKED = Kept(
    select(
        Principal.id,
        Principal.standing,
        Principal.access_epoch,
        Principal.enrolment_epoch,
        Principal.access_starts_at,
        Principal.access_ends_at,
    )
    .where(Principal.id.in_(_IDS), Principal.kind == PrincipalKind.PERSON)
    .order_by(Principal.id)
    # NO KEY UPDATE on PostgreSQL: excludes whoever mints or plans (FOR SHARE), and lets rows be written that
    # only name the person (a report's manager), which would otherwise deadlock two batches.
    .with_for_update(key_share=True)
)
_PEOPLE = Kept(select(Person.id, *(getattr(Person, name) for name in PERSON_FIELDS)).where(Person.id.in_(_IDS)))
_POSTS = Kept(
    select(
        Employment.principal_id,
        Employment.id,
        Employment.organization_id,
        Employment.employee_number,
        Employment.type,
        Employment.starts_on,
        Employment.starts_at,
        Employment.department_id,
        Employment.title,
        Employment.manager_id,
        Employment.ends_on,
        Employment.ends_at,
        Employment.state,
    )
    .where(Employment.principal_id.in_(_IDS))
    .order_by(Employment.starts_at, Employment.id)
)
_BELIEVED = Kept(
    select(
        EmploymentPeriod.id,
        EmploymentPeriod.employment_id,
        EmploymentPeriod.valid_from,
        EmploymentPeriod.valid_to,
        EmploymentPeriod.facts,
    ).where(EmploymentPeriod.employment_id.in_(_IDS), EmploymentPeriod.superseded_at.is_(None))
)
_DOUBT = Kept(update(EmploymentPeriod).where(EmploymentPeriod.id.in_(_IDS)).values(superseded_at=bindparam("at")))
_UPDATE_PRINCIPAL = Kept(
    update(Principal)
    .where(Principal.id == bindparam("key"))
    .values(
        organization_id=bindparam("organization"),
        standing=bindparam("new_standing"),
        access_epoch=bindparam("access"),
        enrolment_epoch=bindparam("enrolment"),
        epoch_raised_at=func.coalesce(bindparam("raised", type_=Instant), Principal.epoch_raised_at),
        access_starts_at=bindparam("starts"),
        access_ends_at=bindparam("ends"),
        version=Principal.version + 1,
        changed_at=bindparam("at"),
    )
)
_DESCRIBE = Kept(
    update(Person)
    .where(Person.id == bindparam("key"))
    .values({**{name: bindparam(f"new_{name}") for name in PERSON_FIELDS}, "main_employment_id": bindparam("main")})
)
_FIND_ANEW = Kept(
    update(Person)
    .where(Person.id == bindparam("key"))
    .values(search_terms=bindparam("terms"), search_place=bindparam("place"))
)
_POST_FIELDS = (
    "organization_id", "department_id", "employee_number", "type", "title", "manager_id", "state", "starts_on",
    "starts_at", "ends_on", "ends_at",
)  # fmt: skip
_UPDATE_POST = Kept(
    update(Employment)
    .where(Employment.id == bindparam("key"))
    .values({**{name: bindparam(f"new_{name}") for name in _POST_FIELDS}, "changed_at": bindparam("at")})
)


@dataclass(frozen=True, slots=True)
class Written:
    """A principal before and after; `before` is None for a new one."""

    before: State | None
    after: State

    @property
    def attributes_changed(self) -> bool:
        """Whether something that applications are told has changed."""
        if self.before is None:
            return True
        return dict(self.before.person) != dict(self.after.person) or self.before.posts != self.after.posts

    @property
    def has_left(self) -> bool:
        """Whether this transition is the leave."""
        return self.after.standing == Standing.LEFT and (self.before is None or self.before.standing != Standing.LEFT)

    @property
    def begins(self) -> bool:
        """Whether access begins for somebody whom a look at all people (`reevaluation`) passes over."""
        is_outside = self.before is None or self.before.standing == Standing.LEFT
        return is_outside and self.after.standing != Standing.LEFT

    @property
    def exited(self) -> bool:
        """Whether credentials issued so far died."""
        return self.before is not None and self.after.access_epoch != self.before.access_epoch


def load(session: Session, principal_ids: Iterable[str]) -> dict[str, State]:
    """People by id, their principal rows locked until the transaction ends, in one order for all callers."""
    states: dict[str, State] = {}
    for part in chunked(sorted(set(principal_ids))):
        # Asked together; what follows the first sees what its locks were waited for.
        locked, described, placed = (kept.ask(session, ids=part) for kept in (_LOCKED, _PEOPLE, _POSTS))
        principals = locked.rows()
        people = {row.id: {name: getattr(row, name) for name in PERSON_FIELDS} for row in described.rows()}
        posts: dict[str, list[Post]] = {}
        for principal_id, *facts in placed.rows():
            values: list[Any] = list(facts)
            values[3], values[-1] = EmploymentType(values[3]), EmploymentState(values[-1])
            posts.setdefault(principal_id, []).append(Post(*values))
        for row in principals:
            states[row.id] = State(
                id=row.id,
                standing=Standing(row.standing),
                access_epoch=row.access_epoch,
                enrolment_epoch=row.enrolment_epoch,
                starts_at=row.access_starts_at,
                ends_at=row.access_ends_at,
                person=people[row.id],
                posts=tuple(posts.get(row.id, ())),
            )
    return states


def write(session: Session, written: Sequence[Written], *, now: datetime) -> None:
    """Store what changed between `before` and `after` of every principal."""
    new = [w.after for w in written if w.before is None]
    changed = [(w.before, w.after) for w in written if w.before is not None and w.before != w.after]
    _insert_principals(session, new, now=now)
    _update_principals(session, changed, now=now)
    _write_posts(session, written, now=now)
    _write_login_names(session, new, [(b, a) for b, a in changed])


def _insert_principals(session: Session, states: Sequence[State], *, now: datetime) -> None:
    at = to_micros(now)
    insert_rows(session, Principal, PRINCIPAL_COLUMNS, [principal_row(state, at) for state in states])
    indexed = index_people(session, [searchable(state) for state in states])
    insert_rows(
        session,
        Person,
        PERSON_COLUMNS,
        [
            person_row(state.id, state.person, main_post(state.posts).id, *of_one)
            for state, of_one in zip(states, indexed, strict=True)
        ],
    )


def person_values(facts: PersonFacts) -> dict[str, Any]:
    """A new person's attributes (`PERSON_FIELDS`)."""
    return {
        "display_name": facts.display_name,
        "given_name": facts.given_name,
        "family_name": facts.family_name,
        "email": facts.email,
        "mobile": facts.mobile,
        "locale": facts.locale,
        "national_id_hash": facts.national_id_hash,
    }


def principal_row(state: State, at: int) -> tuple[Any, ...]:
    """A new person's row among the principals (`PRINCIPAL_COLUMNS`), made at the instant `at` (microseconds)."""
    return (
        state.id,
        "person",
        main_post(state.posts).organization_id,
        state.standing._value_,
        state.access_epoch,
        state.enrolment_epoch,
        to_micros(state.starts_at),
        None if state.ends_at is None else to_micros(state.ends_at),
        1,
        at,
        at,
    )


def person_row(
    principal_id: str, values: Mapping[str, Any], main_employment_id: str, search_terms: str, search_place: int | None
) -> tuple[Any, ...]:
    """A new person's own row (`PERSON_COLUMNS`)."""
    return (principal_id, *_person_fields(values), main_employment_id, search_terms, "{}", search_place)


def _update_principals(session: Session, changed: Sequence[tuple[State, State]], *, now: datetime) -> None:
    if not changed:
        return
    _UPDATE_PRINCIPAL.each(
        session,
        [
            {
                "key": after.id,
                "organization": main_post(after.posts).organization_id,
                "new_standing": after.standing,
                "access": after.access_epoch,
                "enrolment": after.enrolment_epoch,
                "raised": now if after.access_epoch != before.access_epoch else None,
                "starts": after.starts_at,
                "ends": after.ends_at,
                "at": now,
            }
            for before, after in changed
        ],
    )
    described = [after for before, after in changed if _described(before) != _described(after)]
    if described:
        _DESCRIBE.each(
            session,
            [
                {
                    "key": after.id,
                    **{f"new_{name}": after.person.get(name) for name in PERSON_FIELDS},
                    "main": main_post(after.posts).id,
                }
                for after in described
            ],
        )
    found_anew = {after.id: searchable(after) for before, after in changed if searchable(before) != searchable(after)}
    if found_anew:
        _FIND_ANEW.each(
            session,
            [
                {"key": person_id, "terms": indexed.search_terms, "place": indexed.search_place}
                for person_id, indexed in reindex_people(session, found_anew).items()
            ],
        )


def _described(state: State) -> tuple[Any, ...]:
    """What the person's own row says."""
    return dict(state.person), main_post(state.posts).id


def searchable(state: State) -> Searchable:
    """What the person is found by."""
    person = state.person
    return Searchable(
        main_post(state.posts).organization_id,
        person["display_name"],
        person["given_name"],
        person["family_name"],
        tuple([post.employee_number for post in state.posts]),
        person["email"],
        person["mobile"],
    )


def _insert_posts(session: Session, new: Sequence[tuple[str, Post]], *, now: datetime) -> None:
    at = to_micros(now)
    insert_rows(session, Employment, POST_COLUMNS, [post_row(principal_id, post, at) for principal_id, post in new])


def post_row(principal_id: str, post: Post, at: int) -> tuple[Any, ...]:
    """A new post's row (`POST_COLUMNS`)."""
    return (
        post.id,
        principal_id,
        post.organization_id,
        post.department_id,
        post.employee_number,
        post.type._value_,
        post.title,
        post.manager_id,
        post.state._value_,
        post.starts_on.isoformat(),
        to_micros(post.starts_at),
        None if post.ends_on is None else post.ends_on.isoformat(),
        None if post.ends_at is None else to_micros(post.ends_at),
        at,
        at,
    )


def period_row(key: str, employment_id: str, period: Period, at: int) -> tuple[Any, ...]:
    """A period's row (`PERIOD_COLUMNS`)."""
    return (key, employment_id, *period_span(period, at), json_text(period.facts))


def period_span(period: Period, at: int) -> tuple[int, int | None, int]:
    """From when to when, and since when known: what stands in a period's row before its facts."""
    return to_micros(period.valid_from), None if period.valid_to is None else to_micros(period.valid_to), at


def source_row(principal_id: str, employment_id: str | None, mark: SourceMark, at: int) -> tuple[Any, ...]:
    """The row of what a provider said (`SOURCE_COLUMNS`)."""
    return (
        mark.provider,
        mark.key,
        mark.scope,
        principal_id,
        employment_id,
        mark.raw_sealed,
        mark.content_hash,
        mark.state,
        mark.generation,
        at,
    )


def _write_posts(session: Session, written: Sequence[Written], *, now: datetime) -> None:
    new: list[tuple[str, Post]] = []
    changed: list[tuple[str, Post, Post]] = []
    for w in written:
        known = {post.id: post for post in w.before.posts} if w.before else {}
        for post in w.after.posts:
            if post.id not in known:
                new.append((w.after.id, post))
            elif known[post.id] != post:
                changed.append((w.after.id, known[post.id], post))
    _insert_posts(session, new, now=now)
    if changed:
        _UPDATE_POST.each(
            session,
            [
                {"key": post.id, "at": now, **{f"new_{name}": getattr(post, name) for name in _POST_FIELDS}}
                for _, _, post in changed
            ],
        )
    _write_periods(session, [post for _, post in new], [(b, a) for _, b, a in changed], now=now)


def _write_periods(
    session: Session, new: Sequence[Post], changed: Sequence[tuple[Post, Post]], *, now: datetime
) -> None:
    """Both time axes: what is believed no longer is closed and kept, what is believed from now on is added."""
    rows = [(post.id, period) for post in new for period in periods.after_change((), post, now=now)]
    relevant = {after.id: after for before, after in changed if periods.differs(before, after)}
    doubted: list[str] = []
    for part in chunked(sorted(relevant)):
        believed: dict[str, dict[str, Period]] = {}
        for row in _BELIEVED.all(session, ids=part):
            believed.setdefault(row.employment_id, {})[row.id] = Period(row.valid_from, row.valid_to, row.facts)
        for employment_id in part:
            held = believed.get(employment_id, {})
            wanted = periods.after_change(list(held.values()), relevant[employment_id], now=now)
            doubted += [key for key, period in held.items() if period not in wanted]
            rows += [(employment_id, p) for p in wanted if p not in held.values()]
    for part in chunked(doubted):
        _DOUBT.run(session, ids=part, at=now)
    at = to_micros(now)
    keys = new_ids("prd", len(rows))
    insert_rows(
        session,
        EmploymentPeriod,
        PERIOD_COLUMNS,
        [period_row(key, employment_id, p, at) for key, (employment_id, p) in zip(keys, rows, strict=True)],
    )


def login_names_of(numbers: Iterable[str], email: str | None, mobile: str | None) -> dict[str, LoginNameKind]:
    """What a person may type to name themself, in its stored form, and its kind."""
    names: dict[str, LoginNameKind] = {}
    for number in numbers:
        names[stored_login_name("employee_number", number)] = "employee_number"
    if email:
        names.setdefault(stored_login_name("email", email), "email")
    if mobile:
        names.setdefault(stored_login_name("mobile", mobile), "mobile")
    return names


def login_name_rows(
    principal_id: str, numbers: Iterable[str], email: str | None, mobile: str | None
) -> list[tuple[str, str, str]]:
    """A new person's rows among the login names (`LOGIN_NAME_COLUMNS`)."""
    return [(value, principal_id, kind) for value, kind in login_names_of(numbers, email, mobile).items()]


def _login_names(state: State) -> dict[str, LoginNameKind]:
    numbers = (post.employee_number for post in state.posts)
    return login_names_of(numbers, state.person.get("email"), state.person.get("mobile"))


def _write_login_names(session: Session, new: Sequence[State], changed: Sequence[tuple[State, State]]) -> None:
    gone: list[tuple[str, str]] = []
    rows: list[tuple[str, str, str]] = []
    for state in new:
        rows += [(value, state.id, kind) for value, kind in _login_names(state).items()]
    for before, after in changed:
        old, current = _login_names(before), _login_names(after)
        gone += [(after.id, value) for value in old if value not in current]
        rows += [(value, after.id, kind) for value, kind in current.items() if value not in old]
    for principal_id, value in gone:
        session.execute(delete(LoginName).where(LoginName.principal_id == principal_id, LoginName.value == value))
    insert_rows(session, LoginName, LOGIN_NAME_COLUMNS, rows)


def write_sources(session: Session, marks: Sequence[tuple[str, str | None, SourceMark]], *, now: datetime) -> None:
    """Store what providers said: (principal id, employment id, mark), the last word of each key."""
    at = to_micros(now)
    rows = {
        (mark.provider, mark.key): source_row(principal_id, employment_id, mark, at)
        for principal_id, employment_id, mark in marks
    }
    said_before: list[tuple[Any, ...]] = []
    for provider in {provider for provider, _ in rows}:
        for part in chunked([key for of, key in rows if of == provider], 1_000):
            found = session.execute(
                select(SourceRecord.key).where(SourceRecord.provider == provider, SourceRecord.key.in_(part))
            )
            said_before += [rows.pop((provider, key)) for key in found.scalars()]
    insert_rows(session, SourceRecord, SOURCE_COLUMNS, list(rows.values()))
    if said_before:
        mark = "?" if session.get_bind().dialect.name == "sqlite" else "%s"
        values = ", ".join(f"{name} = {mark}" for name in SOURCE_COLUMNS[2:])
        session.connection().exec_driver_sql(
            f"UPDATE source_records SET {values} WHERE provider = {mark} AND key = {mark}",  # noqa: S608 - constants
            [(*row[2:], *row[:2]) for row in said_before],
        )
