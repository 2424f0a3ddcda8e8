"""Shapes of the API's answers."""

from typing import Any

from idhub.directory.people import EmploymentView, PersonView
from idhub.lifecycle.receipt_document import ReceiptRow
from idhub.lifecycle.receipts import ReceiptView


def person_summary(person: PersonView) -> dict[str, Any]:
    """A person in a list."""
    return {
        "id": person.id,
        "display_name": person.display_name,
        "employee_number": person.employee_number,
        "standing": person.standing,
        "company": person.main.company if person.main else None,
        "department": person.main.department if person.main else None,
    }


def person_view(person: PersonView) -> dict[str, Any]:
    """A person with employments."""
    return {
        **person_summary(person),
        "given_name": person.given_name,
        "family_name": person.family_name,
        "email": person.email,
        "mobile": person.mobile,
        "locale": person.locale,
        "access_starts_at": person.access_starts_at.isoformat(),
        "access_ends_at": person.access_ends_at.isoformat() if person.access_ends_at else None,
        "employments": [_employment(e) for e in person.employments],
        "version": person.version,
    }


def _employment(employment: EmploymentView) -> dict[str, Any]:
    return {
        "id": employment.id,
        "company": employment.company,
        "company_code": employment.company_code,
        "department": employment.department,
        "employee_number": employment.employee_number,
        "type": employment.type,
        "title": employment.title,
        "manager_id": employment.manager_id,
        "state": employment.state,
        "start_date": employment.starts_on.isoformat(),
        "end_date": employment.ends_on.isoformat() if employment.ends_on else None,
    }


def case_view(view: ReceiptView) -> dict[str, Any]:
    """A receipt as it stands."""
    return {
        "case": view.case_id,
        "number": view.number,
        "person": view.person_id,
        "state": view.state,
        "complete": view.is_complete,
        "version": view.version,
        "effective_at": view.effective_at.isoformat(),
        "local_done_at": view.local_done_at.isoformat() if view.local_done_at else None,
        "completed_at": view.completed_at.isoformat() if view.completed_at else None,
        "rows": [_row(row) for row in view.rows],
    }


def _row(row: ReceiptRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in ReceiptRow.__slots__}
