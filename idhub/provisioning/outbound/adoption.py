"""Which account of an application is a person's: found by rules, never by a name alone, and reviewed where in doubt.

`find_account` is asked before each create. `scan` goes through everything that an application has. What a rule marked
for review finds, what fits several people and, in a scan, what fits nobody goes to the list of reviews; `confirm` and
`reject` decide, and the deliveries that waited for it go on.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Final, assert_never

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from idhub.access.tables import Account
from idhub.changes import SYSTEM, Actor, Event, EventType, record
from idhub.db import Database, bulk_insert, chunked, new_id
from idhub.directory.names import LoginNameKind, may_name, stored_login_name
from idhub.directory.tables import LoginName
from idhub.errors import Conflict, NotFound
from idhub.provisioning.outbound.options import AdoptRule
from idhub.provisioning.outbound.planner import ACTIVE, hold_people, plan_endings, plan_provisions
from idhub.provisioning.outbound.run import LINKED_ELSEWHERE, AwaitsReview, NeedsSomebody, Run, id_of
from idhub.provisioning.outbound.tables import AdoptionReview
from scim.client import ScimClient, emails_of, enterprise
from scim.errors import RemoteNotFound, remote_text
from scim.schemas import Resource, attribute, kept_id

_SIGN_IN_KINDS: Final[tuple[LoginNameKind, ...]] = ("email", "employee_number")
"""What a userName there may be of ours."""
_UNIQUE_THERE: Final[frozenset[AdoptRule]] = frozenset({"external_id", "user_name"})
"""Rules that go by what a service gives to one account only: where it is taken, there can be no second one."""


async def find_account(run: Run, user_name: str) -> Resource | None:
    """The account that is this person's: the linked one, or one that a rule finds; None: there is none.

    Raises:
        AwaitsReview: several fit, or somebody has to look first; what was found is in the list of reviews.
        NeedsSomebody: the one that fits is linked to another person.
        RemoteError: the application did not answer as it should.
    """
    account = run.situation.account
    if account.external_id is not None:
        try:
            return await run.client.get_user(account.external_id)
        except RemoteNotFound:
            run.evidence["linked_account"] = "gone"
    adopt = run.situation.target.options.adopt
    for rule in (*adopt.automatic, *adopt.review):
        users = await _found(run, rule, user_name)
        if not users:
            continue
        is_shared = await run.read(partial(_fits_others, run=run, rule=rule, user_name=user_name))
        if len(users) == 1 and rule in adopt.automatic and not is_shared:
            run.evidence["adopted_by"] = rule
            return users[0]
        # What somebody has said to be another person's is not asked about again.
        free = await run.read(partial(_linked_to_nobody_else, run=run, users=users))
        if free:
            await _put_to_review(run, rule, "ambiguous" if is_shared or len(free) > 1 else "review", free)
            raise AwaitsReview
        if rule in _UNIQUE_THERE:
            raise NeedsSomebody(LINKED_ELSEWHERE)
    return None


async def _found(run: Run, rule: AdoptRule, user_name: str) -> list[Resource]:
    person = run.situation.person
    if person is None:
        return []
    users: list[Resource]
    match rule:
        case "external_id":
            users = await run.client.find_by_external_id(person.principal_id)
        case "user_name":
            users = await run.client.find_by_user_name(user_name)
        case "email":
            users = await run.client.find_by_email(person.email) if person.email else []
        case "employee_number":
            users = await run.client.find_by_employee_number(person.employee_number) if person.employee_number else []
        case _:
            assert_never(rule)
    if not users:
        return []
    ids = [id_of(user) for user in users]
    rejected = await run.read(lambda session: _rejected(session, run.delivery.application_id, ids))
    return [user for user, user_id in zip(users, ids, strict=True) if user_id not in rejected]


def _rejected(session: Session, application_id: str, user_ids: Sequence[str]) -> set[str]:
    return set(
        session.scalars(
            select(AdoptionReview.user_id).where(
                AdoptionReview.application_id == application_id,
                AdoptionReview.user_id.in_(user_ids),
                AdoptionReview.state == "rejected",
            )
        )
    )


def _fits_others(session: Session, *, run: Run, rule: AdoptRule, user_name: str) -> bool:
    """Whether what the rule goes by is another person's too: a shared mailbox, the same number in two companies."""
    person = run.situation.person
    if person is None:
        return False
    match rule:
        case "external_id":
            return False
        case "user_name":
            value, kinds = user_name, _SIGN_IN_KINDS
        case "email":
            value, kinds = person.email or "", ("email",)
        case "employee_number":
            value, kinds = person.employee_number or "", ("employee_number",)
        case _:
            assert_never(rule)
    owners = _owners(session, [stored_login_name("email", value)]) if may_name(value) else {}
    return any(found - {person.principal_id} for kind in kinds for found in owners.get(kind, {}).values())


def _owners(session: Session, values: Collection[str]) -> dict[str, dict[str, set[str]]]:
    """Everybody with one of these mails or numbers (stored forms), leavers included: kind -> value -> people."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for part in chunked(sorted(values)):
        names = select(LoginName.kind, LoginName.value, LoginName.principal_id).where(LoginName.value.in_(part))
        for kind, value, principal_id in session.execute(names):
            found[kind][value].add(principal_id)
    return found


def _linked_to_nobody_else(session: Session, *, run: Run, users: Sequence[Resource]) -> list[Resource]:
    linked = select(Account.external_id).where(
        Account.application_id == run.delivery.application_id,
        Account.external_id.in_([id_of(user) for user in users]),
        Account.id != run.delivery.account_id,
    )
    taken = set(session.scalars(linked))
    return [user for user in users if id_of(user) not in taken]


async def _put_to_review(run: Run, rule: AdoptRule, problem: str, users: Sequence[Resource]) -> None:
    now = run.clock.now()
    rows = [
        _review(run.delivery.application_id, user, rule, problem, [run.delivery.principal_id or ""], now=now)
        for user in users
    ]
    await run.write(lambda session: _store(session, rows))


def _review(
    application_id: str,
    user: Mapping[str, Any],
    rule: AdoptRule | None,
    problem: str,
    candidates: Sequence[str],
    *,
    now: datetime,
) -> dict[str, Any]:
    # Words of a stranger: made fit to store and to show.
    user_name, emails = remote_text(attribute(user, "userName")), [remote_text(mail) for mail in emails_of(user)]
    return {
        "id": new_id("rev"),
        "application_id": application_id,
        "user_id": str(attribute(user, "id")),
        "user_name": user_name[:254] or None,
        "email": emails[0][:254] if emails else None,
        "rule": rule,
        "problem": problem,
        "candidates": list(candidates),
        "state": "open",
        "principal_id": None,
        "decided_by": None,
        "decided_at": None,
        "created_at": now,
    }


def _store(session: Session, rows: Sequence[Mapping[str, Any]]) -> int:
    """Add reviews, except of accounts that have one. Returns how many are new.

    None of the accounts may be linked: a confirmation of one does not hold any more, and is asked for anew.
    """
    if not rows:
        return 0
    held: dict[str, AdoptionReview] = {}
    for part in chunked([row["user_id"] for row in rows]):
        found = session.scalars(
            select(AdoptionReview).where(
                AdoptionReview.application_id == rows[0]["application_id"], AdoptionReview.user_id.in_(part)
            )
        )
        held |= {review.user_id: review for review in found}
    for row in rows:
        known = held.get(row["user_id"])
        if known is not None and known.state == "confirmed":
            _ask_anew(known, row["candidates"])
        elif known is not None and known.state == "open":
            known.candidates = sorted({*known.candidates, *row["candidates"]})
            known.problem = "ambiguous" if len(known.candidates) > 1 else row["problem"]
            known.rule = row["rule"] or known.rule
    session.flush()
    new = {row["user_id"]: row for row in rows if row["user_id"] not in held}
    bulk_insert(session, AdoptionReview, list(new.values()))
    return len(new)


def _ask_anew(review: AdoptionReview, candidates: Sequence[str]) -> None:
    review.state, review.candidates = "open", list(candidates)
    review.principal_id = review.decided_by = review.decided_at = None


def open_reviews(session: Session, application_id: str, *, limit: int = 200) -> list[AdoptionReview]:
    """Reviews that wait for somebody, the oldest first."""
    return list(
        session.scalars(
            select(AdoptionReview)
            .where(AdoptionReview.application_id == application_id, AdoptionReview.state == "open")
            .order_by(AdoptionReview.id)
            .limit(limit)
        )
    )


def confirm(
    session: Session, review_id: str, principal_id: str, *, application_id: str, now: datetime, actor: Actor, door: str
) -> None:
    """Decide that the account is this person's: it is linked, and brought up to date; of somebody who may not have it
    any more it ends, and the receipt of their leave follows. Others whose it might have been wait for it no longer.

    Raises:
        NotFound: there is no such review of this application, or no such person with an account there.
        Conflict: it was decided already, or the account or the person is taken.
    """
    review = _open(session, review_id, application_id)
    # The order of locks of every delivery: principals first (design, invariant 2).
    concerned = sorted({principal_id, *review.candidates})
    hold_people(session, concerned)
    account = session.scalars(
        select(Account)
        .where(Account.application_id == application_id, Account.principal_id == principal_id, Account.slot == "main")
        .with_for_update()
    ).one_or_none()
    if account is None:
        raise NotFound("This person has no account in this application.", field="person", rule="account.unknown")
    if account.external_id not in (None, review.user_id):
        raise Conflict("This person is linked to another account there.", field="person", rule="account.linked")
    taken = session.scalar(
        select(Account.id).where(
            Account.application_id == application_id,
            Account.external_id == review.user_id,
            Account.id != account.id,
        )
    )
    if taken is not None:
        raise Conflict("This account is linked to another person.", field="person", rule="account.taken")
    account.external_id, account.changed_at = review.user_id, now
    _decide(review, "confirmed", principal_id, now=now, actor=actor)
    session.flush()
    record(session, [_linked(account.id, principal_id, application_id, review.id, now=now, actor=actor, door=door)])
    _plan_again(session, concerned, application_id, linked=[account.id], now=now)


def reject(session: Session, review_id: str, *, application_id: str, now: datetime, actor: Actor, door: str) -> None:
    """Decide that the account is nobody's that we know: it is left alone, and who waited gets an account of their own.

    Raises:
        NotFound, Conflict: as `confirm`.
    """
    review = _open(session, review_id, application_id)
    candidates = sorted(review.candidates)
    hold_people(session, candidates)
    _decide(review, "rejected", None, now=now, actor=actor)
    session.flush()
    event = Event(
        type=EventType.ADOPTION_REJECTED,
        at=now,
        actor=actor,
        door=door,
        target_kind="application",
        target_id=application_id,
        application_id=application_id,
        details={"review": review.id},
    )
    record(session, [event])
    _plan_again(session, candidates, application_id, now=now)


def _open(session: Session, review_id: str, application_id: str) -> AdoptionReview:
    review = session.scalars(
        select(AdoptionReview)
        .where(AdoptionReview.id == review_id, AdoptionReview.application_id == application_id)
        .with_for_update()
    ).one_or_none()
    if review is None:
        raise NotFound("There is no such account to review.", field="review", rule="review.unknown")
    if review.state != "open":
        raise Conflict("This was decided already.", field="review", rule="review.decided")
    return review


def _decide(review: AdoptionReview, state: str, principal_id: str | None, *, now: datetime, actor: Actor) -> None:
    review.state, review.principal_id = state, principal_id
    review.decided_by, review.decided_at = f"{actor.kind}:{actor.id}"[:60], now


def _linked(
    account_id: str,
    principal_id: str,
    application_id: str,
    review_id: str | None,
    *,
    now: datetime,
    actor: Actor,
    door: str,
) -> Event:
    return Event(
        type=EventType.ACCOUNT_LINKED,
        at=now,
        actor=actor,
        door=door,
        target_kind="account",
        target_id=account_id,
        person_id=principal_id,
        application_id=application_id,
        details={"review": review_id} if review_id else {},
    )


def _plan_again(
    session: Session, principal_ids: Sequence[str], application_id: str, *, linked: Collection[str] = (), now: datetime
) -> None:
    """Provision anew who waited.

    Args:
        linked: accounts that were linked just now: of those whom nobody wishes to live any more, the end is planned.
            What ended the others' access knew nothing of these.
    """
    rows = session.execute(
        select(Account.id, Account.principal_id, Account.desired_state).where(
            Account.application_id == application_id,
            Account.principal_id.in_(list(principal_ids)),
            Account.slot == "main",
        )
    ).all()
    plan_provisions(session, application_id, (row for row in rows if row.desired_state == ACTIVE), now=now)
    over = [row for row in rows if row.desired_state != ACTIVE and row.id in linked]
    if over:
        plan_endings(session, application_id, over, now=now)


@dataclass(slots=True)
class Scanned:
    """What a scan came to."""

    read: int = 0
    known: int = 0
    linked: int = 0
    to_review: int = 0
    unmatched: int = 0


@dataclass(slots=True)
class _People:
    """Whom accounts may belong to, by what rules go by; more than one under a key: ambiguous."""

    by: dict[str, dict[str, set[str]]]
    account: dict[str, str] = field(default_factory=dict)
    """Account row of each of them who waits for an account there."""


async def pages(client: ScimClient) -> AsyncIterator[list[Resource]]:
    """Every page of the application's accounts."""
    start = 1
    while True:
        page = await client.list_page("/Users", start)
        if page.resources:
            yield page.resources
        start += len(page.resources)
        if not page.resources or (page.total is not None and start > page.total):
            return


def match_page(
    database: Database,
    application_id: str,
    users: Sequence[Resource],
    *,
    automatic: Sequence[AdoptRule],
    review: Sequence[AdoptRule],
    now: datetime,
    actor: Actor = SYSTEM,
) -> Scanned:
    """Match one page of an application's accounts to people, link what fits, put the rest to review; one transaction.

    Linked are only people who are to have an account there and have none; whether a mail or a number is theirs alone is
    asked of everybody.
    """

    def matched(session: Session) -> Scanned:
        result = Scanned(read=len(users))
        ids = [user_id for user in users if (user_id := kept_id(user)) is not None]
        linked = set(
            session.scalars(
                select(Account.external_id).where(
                    Account.application_id == application_id, Account.external_id.in_(ids)
                )
            )
        )
        fresh = [user for user in users if kept_id(user) not in {None, *linked}]
        result.known = len(linked)
        # What has no id cannot be asked for again: nobody's account, and nothing to decide about.
        result.unmatched = len(users) - len(ids)
        people = _without_account(session, application_id, fresh)
        rows: list[dict[str, Any]] = []
        links: list[tuple[str, str, str]] = []
        taken: set[str] = set()
        rejected = _rejected(session, application_id, ids)
        for user in fresh:
            user_id = str(attribute(user, "id"))
            if user_id in rejected:
                continue
            rule, found = _people_of(user, people, (*automatic, *review))
            waiting = found - taken
            if rule in automatic and len(found) == 1 and waiting:
                (principal_id,) = waiting
                links.append((people.account[principal_id], principal_id, user_id))
                taken.add(principal_id)
                continue
            problem = "unmatched" if not waiting else ("ambiguous" if len(found) > 1 else "review")
            rows.append(_review(application_id, user, rule, problem, sorted(found) if waiting else [], now=now))
            result.unmatched += not waiting
        result.linked = _link(session, application_id, links, now=now, actor=actor)
        result.to_review = _store(session, rows)
        return result

    return database.run(matched)


def _without_account(session: Session, application_id: str, users: Sequence[Resource]) -> _People:
    """Whom the accounts of a page may belong to, and which of them wait there for an account."""
    external = {owner for user in users for owner in _keys(user, "external_id")}
    owners = _owners(session, {key for user in users for rule in ("user_name", "email", "employee_number")
                               for key in _keys(user, rule)})  # fmt: skip
    mails, numbers = owners["email"], owners["employee_number"]
    people = _People(
        {
            "external_id": {one: {one} for one in external},
            "email": mails,
            "employee_number": numbers,
            "user_name": {
                value: set().union(*(owners[kind].get(value, ()) for kind in _SIGN_IN_KINDS))
                for value in {*mails, *numbers}
            },
        }
    )
    candidates = external.union(*mails.values(), *numbers.values())
    for part in chunked(sorted(candidates)):
        waiting = select(Account.principal_id, Account.id).where(
            Account.principal_id.in_(part),
            Account.application_id == application_id,
            Account.slot == "main",
            Account.desired_state == "active",
            Account.external_id.is_(None),
        )
        people.account |= {str(row[0]): row[1] for row in session.execute(waiting)}
    return people


def _keys(user: Resource, rule: AdoptRule) -> list[str]:
    """What a rule looks an account's person up by, in the form in which it is stored."""
    held: list[object]
    match rule:
        case "external_id":
            held = [attribute(user, "externalId")]
        case "user_name":
            held = [attribute(user, "userName")]
        case "email":
            held = [*emails_of(user)]
        case "employee_number":
            held = [attribute(user, enterprise("employeeNumber"))]
        case _:
            assert_never(rule)
    named = [value for value in held if isinstance(value, str) and value and may_name(value)]
    return named if rule == "external_id" else [stored_login_name("email", value) for value in named]


def _people_of(user: Resource, people: _People, rules: Sequence[AdoptRule]) -> tuple[AdoptRule | None, set[str]]:
    """The first rule that finds somebody who waits for an account, and everybody whom it finds."""
    owner = attribute(user, "externalId")
    for rule in rules:
        found = {one for key in _keys(user, rule) for one in people.by[rule].get(key, ())}
        if found & people.account.keys():
            # It carries the externalId of somebody else: whatever the rest says, nothing is taken over.
            return (rule, found) if owner in (None, "") or owner in found else (None, set())
    return None, set()


def _link(
    session: Session, application_id: str, links: Sequence[tuple[str, str, str]], *, now: datetime, actor: Actor
) -> int:
    if not links:
        return 0
    people = sorted({principal_id for _, principal_id, _ in links})
    hold_people(session, people)
    linked: list[str] = []
    events = []
    for account_id, principal_id, user_id in links:
        changed = session.execute(
            update(Account)
            .where(Account.id == account_id, Account.external_id.is_(None))
            .values(external_id=user_id, changed_at=now)
            .returning(Account.id)
        ).first()
        if changed is not None:
            linked.append(account_id)
            events.append(_linked(account_id, principal_id, application_id, None, now=now, actor=actor, door="cli"))
    record(session, events)
    _plan_again(session, people, application_id, linked=linked, now=now)
    return len(events)
