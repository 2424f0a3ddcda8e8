"""Names by which applications know people, where the name is not ours alone to give: they must mean one person."""

from datetime import datetime
from typing import Final

from sqlalchemy import Exists, exists, select
from sqlalchemy.orm import Session, aliased

from idhub.credentials.predicate import entitled
from idhub.directory.names import stored_login_name
from idhub.directory.tables import Employment, LoginName, Person

_SHARED: Final = frozenset({"employee_number", "email"})


def is_somebody_elses(
    session: Session, kind: str, value: str, *, principal_id: str, application_id: str, now: datetime
) -> bool:
    """Whether another person who may enter the application goes by the same value of this kind.

    Numbers are unique within a company alone, and a mail address stands where each company's own people write it: the
    application would take one person for the other. Many take `QY1` and `qy1` for one name.
    """
    if kind not in _SHARED:
        return False
    other = aliased(Person)
    held: Exists
    if kind == "employee_number":
        # As they are written: an index finds them.
        spelt = sorted({value, value.lower(), value.upper()})
        held = exists().where(Employment.employee_number.in_(spelt), Employment.id == other.main_employment_id)
    else:
        held = exists().where(LoginName.value == stored_login_name("email", value), LoginName.principal_id == other.id)
    held = held.where(other.id != principal_id, entitled(now, principal_id=other.id, application_id=application_id))
    return bool(session.execute(select(held)).scalar())
