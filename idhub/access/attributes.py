"""What a sign-in protocol tells an application of a person: values of the person under the names it knows."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, Literal

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from idhub.access.tables import Entitlement
from idhub.directory.people import show_person

PersonValue = Literal[
    "employee_number",
    "name",
    "given_name",
    "family_name",
    "email",
    "mobile",
    "company",
    "company_code",
    "department",
    "title",
    "employment_type",
    "roles",
]
"""What an attribute may be taken from."""
DEFAULT_ATTRIBUTES: Final[Mapping[str, PersonValue]] = {
    "email": "email",
    "displayName": "name",
    "givenName": "given_name",
    "surname": "family_name",
    "employeeNumber": "employee_number",
    "company": "company",
    "department": "department",
    "title": "title",
    "roles": "roles",
}


def person_values(
    session: Session, principal_id: str, application_id: str, *, now: datetime
) -> dict[str, Sequence[str]]:
    """Everything of the person that an attribute may be taken from (`PersonValue`)."""
    person = show_person(session, principal_id)
    main = person.main
    single = {
        "name": person.display_name,
        "given_name": person.given_name,
        "family_name": person.family_name,
        "email": person.email,
        "mobile": person.mobile,
        "employee_number": main.employee_number if main else None,
        "company": main.company if main else None,
        "company_code": main.company_code if main else None,
        "department": main.department if main else None,
        "title": main.title if main else None,
        "employment_type": str(main.type) if main else None,
    }
    roles = session.execute(
        select(Entitlement.role)
        .where(
            Entitlement.principal_id == principal_id,
            Entitlement.application_id == application_id,
            Entitlement.superseded_at.is_(None),
            Entitlement.valid_from <= now,
            or_(Entitlement.valid_to.is_(None), Entitlement.valid_to > now),
        )
        .order_by(Entitlement.role)
        .distinct()
    ).scalars()
    return {**{name: [value] for name, value in single.items() if value}, "roles": list(roles)}


def released(wanted: Mapping[str, str], values: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """What the application gets: under its names, in their order, none without a value."""
    return {name: values[source] for name, source in sorted(wanted.items()) if values.get(source)}
