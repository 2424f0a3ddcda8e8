"""What the hub knows of a page of accounts: a handful of queries a page, none a row."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, exists, func, select
from sqlalchemy.orm import Session

from idhub.access.tables import Account, AccountKind
from idhub.db import among, chunked
from idhub.delivery.tables import Delivery
from idhub.directory.kinds import PrincipalKind, Standing
from idhub.directory.names import stored_login_name
from idhub.directory.tables import Employment, LoginName, Organization, Person, Principal
from idhub.lifecycle.tables import SourceRun
from idhub.provisioning.outbound.planner import lane_of
from idhub.provisioning.outbound.records import people_there
from idhub.provisioning.reconcile.judge import (
    Known,
    Match,
    Seen,
    Terms,
    Verdict,
    is_old_news,
    is_service,
    judge_linked,
    judge_unlinked,
    narrowed,
)

_HR = "hr_file"
_BATCH = 1_000
_NAMES = 500


@dataclass(frozen=True, slots=True)
class Register:
    """The register of people: whether somebody who is not in it does not work here."""

    is_complete: bool
    as_of: datetime | None
    """When its source was last read; None: people come in by hand, by API or by SCIM alone."""
    active: int
    left: int


@dataclass(frozen=True, slots=True)
class Judged:
    """One account of a page, judged. `is_linked`: by the hub's own records."""

    seen: Seen
    verdict: Verdict | None
    principal_id: str | None
    is_linked: bool
    is_skipped: bool
    """Nothing is concluded of it in this run."""


def register(session: Session, *, within: Select[str] | None = None) -> Register:
    """The register as it stands. Absence from it counts unless its newest source run was incomplete.

    Args:
        within: ids of the organizations whose people are counted; None: all.
    """
    newest = session.execute(
        select(SourceRun.is_complete, SourceRun.finished_at, SourceRun.started_at)
        .where(SourceRun.provider == _HR)
        .order_by(SourceRun.started_at.desc())
        .limit(1)
    ).first()
    counted = [] if within is None else [Principal.organization_id.in_(within)]
    counts: dict[str, int] = {
        row[0]: row[1]
        for row in session.execute(
            select(Principal.standing, func.count())
            .where(Principal.kind == PrincipalKind.PERSON, *counted)
            .group_by(Principal.standing)
        )
    }
    complete = newest is None or (newest.finished_at is not None and newest.is_complete)
    as_of = None if newest is None else (newest.finished_at or newest.started_at)
    active = counts.get(Standing.ACTIVE, 0) + counts.get(Standing.SUSPENDED, 0)
    return Register(complete, as_of, active, counts.get(Standing.LEFT, 0))


def judge_page(session: Session, page: Sequence[Seen], terms: Terms, *, now: datetime) -> list[Judged]:
    """Judge a page of accounts."""
    known = _known(session, page, terms.application_id)
    open_ = [seen for seen in page if (k := known.get(seen.external_id)) is None or k.principal_id is None]
    matches = _match(session, [seen for seen in open_ if seen.is_alive], terms)
    wanted = {k.principal_id for k in known.values() if k.principal_id}
    wanted |= {match.principal_id for match in matches.values() if match.principal_id}
    people = people_there(session, sorted(wanted), terms.application_id, now=now)
    judged = []
    for seen in page:
        held = known.get(seen.external_id)
        if is_service(seen, held, terms):
            judged.append(Judged(seen, None, None, True, False))
        elif is_old_news(held, seen):
            judged.append(Judged(seen, None, held.principal_id if held else None, True, True))
        elif held is not None and held.principal_id is not None:
            verdict = judge_linked(held, seen, people.get(held.principal_id), terms)
            judged.append(Judged(seen, verdict, held.principal_id, True, False))
        else:
            match = matches.get(seen.external_id, Match("none"))
            verdict = judge_unlinked(held, seen, match, people, terms)
            judged.append(Judged(seen, verdict, match.principal_id, False, False))
    return judged


_KNOWN_COLUMNS = (
    Account.id,
    Account.principal_id,
    Account.kind,
    Account.external_id,
    Account.desired_state,
    Account.known_state,
    Account.observed_at,
)


def _known(session: Session, page: Sequence[Seen], application_id: str) -> dict[str, Known]:
    rows = session.execute(
        select(*_KNOWN_COLUMNS).where(
            Account.application_id == application_id,
            Account.external_id.in_(among(session, [seen.external_id for seen in page])),
        )
    ).all()
    busy = busy_accounts(session, [row.id for row in rows])
    found: dict[str, Known] = {}
    for row in rows:
        # Of two rows that name one user, which happens after a repair by hand, the one with a person counts.
        if row.external_id in found and row.principal_id is None:
            continue
        found[row.external_id] = Known(
            row.id,
            row.principal_id,
            row.kind == AccountKind.SERVICE,
            row.desired_state,
            row.known_state,
            row.observed_at,
            row.id in busy,
        )
    return found


def busy_accounts(session: Session, account_ids: Sequence[str]) -> set[str]:
    """Those of the accounts towards which something is under way."""
    lanes = {lane_of(account_id): account_id for account_id in account_ids}
    if not lanes:
        return set()
    rows = session.execute(
        select(Delivery.lane).where(
            Delivery.lane.in_(among(session, list(lanes))),
            # `lower` keeps SQLite from walking everything that waits instead of these few lanes.
            func.lower(Delivery.state).in_(("pending", "leased")),
        )
    )
    return {lanes[row[0]] for row in rows}


def _match(session: Session, page: Sequence[Seen], terms: Terms) -> dict[str, Match]:
    """Who is behind accounts without a link: externalId, employee number, mail of record."""
    if not page:
        return {}
    references = _people_by_id(session, {seen.external_ref for seen in page if seen.external_ref})
    by_number = terms.mapping.user_name_attribute == "employee_number"
    numbers_of = {
        seen.external_id: {n for n in (seen.employee_number, seen.user_name if by_number else None) if n}
        for seen in page
    }
    numbers = _posts_by_number(session, {n for each in numbers_of.values() for n in each})
    mails = _people_by_mail(session, {mail for seen in page for mail in seen.mails})
    found = {}
    for seen in page:
        posts = [post for number in numbers_of[seen.external_id] for post in numbers.get(number, ())]
        named = [post for post in posts if seen.organization and seen.organization.casefold() in post[1]]
        found[seen.external_id] = narrowed(
            [
                ("external_id", references & {seen.external_ref or ""}),
                ("employee_number", frozenset(post[0] for post in named or posts)),
                ("mail", frozenset(person for mail in seen.mails for person in mails.get(mail, ()))),
            ]
        )
    return found


def _people_by_id(session: Session, ids: set[str]) -> frozenset[str]:
    if not ids:
        return frozenset()
    return frozenset(session.execute(select(Person.id).where(Person.id.in_(among(session, sorted(ids))))).scalars())


def _posts_by_number(session: Session, numbers: set[str]) -> dict[str, list[tuple[str, set[str]]]]:
    """Employee number to (person, what their company is called): a number is unique in its company only."""
    found: dict[str, list[tuple[str, set[str]]]] = {}
    if not numbers:
        return found
    rows = session.execute(
        select(
            Employment.employee_number,
            Employment.principal_id,
            Organization.name,
            Organization.name_en,
            Organization.code,
        )
        .join(Organization, Organization.id == Employment.organization_id)
        .where(Employment.employee_number.in_(among(session, sorted(numbers))))
    )
    for number, person, *names in rows:
        found.setdefault(number, []).append((person, {name.casefold() for name in names if name}))
    return found


def _people_by_mail(session: Session, mails: set[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    if not mails:
        return found
    rows = session.execute(
        select(LoginName.value, LoginName.principal_id).where(
            LoginName.value.in_(among(session, sorted(mails))), LoginName.kind == "email"
        )
    )
    for value, person in rows:
        found.setdefault(value, []).append(person)
    return found


def likeness(session: Session, names: Sequence[str], phones: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
    """How many people who work here have these names, and these telephone numbers: a question, never an answer."""
    by_name: dict[str, int] = {}
    works_here = exists().where(Principal.id == Person.id, Principal.standing != Standing.LEFT)
    for part in chunked(sorted(set(names)), _NAMES):
        rows = session.execute(
            select(Person.display_name, func.count())
            .where(Person.display_name.in_(among(session, part)), works_here)
            .group_by(Person.display_name)
        )
        by_name.update({row[0]: row[1] for row in rows})
    by_phone: dict[str, int] = {}
    for part in chunked(sorted({stored_login_name("mobile", phone) for phone in phones}), _BATCH):
        rows = session.execute(
            select(LoginName.value, func.count())
            .where(LoginName.value.in_(among(session, part)), LoginName.kind == "mobile")
            .group_by(LoginName.value)
        )
        by_phone.update({row[0]: row[1] for row in rows})
    return by_name, by_phone


def should_be_there(session: Session, application_id: str, *, after: str, limit: int = _BATCH) -> Sequence[Any]:
    """Accounts that were alive when last seen and should be, in order of their ids."""
    return session.execute(
        select(Account.id, Account.external_id, Account.principal_id, Account.user_name, Account.observed_at)
        .where(
            Account.application_id == application_id,
            Account.id > after,
            Account.external_id.is_not(None),
            Account.desired_state == "active",
            Account.known_state == "active",
            Account.kind == AccountKind.LINKED,
        )
        .order_by(Account.id)
        .limit(limit)
    ).all()


def phone_key(phone: str | None) -> str:
    """The form in which telephone numbers are compared."""
    return stored_login_name("mobile", phone) if phone else ""
