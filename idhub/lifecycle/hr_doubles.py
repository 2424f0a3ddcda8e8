"""One human whom an HR file lists under another number than before.

A spreadsheet drops leading zeros, a system puts a prefix before each number, an intern becomes an employee: by their
number they are new, and the company would have them twice. Both would go by one mail and one mobile, so that neither
signs in any more, and applications would be told of everybody a second time. Nobody is merged on a name and a mailbox:
the row is refused, and the number that is known stays until somebody says what is meant.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from sqlalchemy import select
from sqlalchemy.orm import Session

from idhub.db import among, chunked
from idhub.directory.kinds import EmploymentState
from idhub.directory.names import stored_login_name
from idhub.directory.tables import Employment, LoginName, Person
from providers.hr_file import HrRow


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row about a number that its company never had; `human` is its keyed national id."""

    row: HrRow
    organization_id: str
    human: str | None


def find(session: Session, candidates: Sequence[Candidate]) -> dict[int, str]:
    """Live posts, by the line of the candidate, of the same company, name, and mail or mobile.

    A post that is over before the row's begins is another stretch of one life, and two national ids are two humans.
    """
    by_value: dict[str, list[Candidate]] = {}
    for one in candidates:
        for value in _names_of(one.row):
            by_value.setdefault(value, []).append(one)
    found: dict[int, str] = {}
    for part in chunked(sorted(by_value), 1_000):
        rows = session.execute(
            select(
                LoginName.value,
                Employment.id,
                Employment.organization_id,
                Employment.ends_on,
                Person.display_name,
                Person.national_id_hash,
            )
            .join(Person, Person.id == LoginName.principal_id)
            .join(Employment, Employment.principal_id == Person.id)
            .where(LoginName.value.in_(among(session, part)), Employment.state != EmploymentState.ENDED)
        )
        for value, employment_id, organization_id, ends_on, display_name, known in rows:
            for one in by_value[value]:
                is_same = (organization_id, display_name) == (one.organization_id, one.row.name)
                is_another = one.human is not None and known is not None
                if is_same and not is_another and (ends_on is None or ends_on >= one.row.start_on):
                    found[one.row.line] = employment_id
    return found


def ends_before(ending: Mapping[str, date | None], employment_id: str, row: HrRow) -> bool:
    """Whether the file itself says that the post is over when the row's begins; `ending` has last days, None: now."""
    if employment_id not in ending:
        return False
    last_day = ending[employment_id]
    return last_day is None or last_day < row.start_on


def _names_of(row: HrRow) -> Iterable[str]:
    if row.email:
        yield stored_login_name("email", row.email)
    if row.mobile:
        yield stored_login_name("mobile", row.mobile)
