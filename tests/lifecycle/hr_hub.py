"""A hub that HR files are taken in by, for their tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from audit.tables import audit_events
from idhub.authority import HubRole, assign_role
from idhub.changes import Actor, use_sealer
from idhub.db import Database
from idhub.directory.organizations import install, root_organization
from idhub.directory.people import find_person, show_person
from idhub.directory.tables import Employment, Organization, Person
from idhub.keys import Keyring
from idhub.lifecycle.hr_import import ImportReport, import_file
from idhub.lifecycle.hr_release import Release, approve_release
from idhub.lifecycle.transition import transition
from tests.providers.hr_samples import row, write_csv
from tests.support.clock import Clock

HR = Actor(kind="person", id="per_hr", name="HR")


class Hub:
    """A hub with nothing in it but its root, and files to take in."""

    def __init__(self, database: Database, keyring: Keyring, clock: Clock, folder: Path) -> None:
        self.database, self.keyring, self.clock, self._folder = database, keyring, clock, folder
        self._files = 0
        use_sealer(database, keyring)
        with database.transaction() as session:
            install(session, time_zone="Asia/Shanghai", now=clock())

    def write(self, *rows: Mapping[str, str]) -> Path:
        self._files += 1
        return write_csv(self._folder / f"hr{self._files}.csv", rows)

    def take(self, path: Path, **options: Any) -> ImportReport:
        wanted: dict[str, Any] = {"snapshot": True, "dry_run": False, "now": self.clock(), "actor": HR} | options
        return import_file(self.database, path, keyring=self.keyring, **wanted)

    def read(self, *rows: Mapping[str, str], **options: Any) -> ImportReport:
        return self.take(self.write(*rows), **options)

    def release(self, run_id: str, approver: Actor) -> Release:
        return approve_release(self.database, run_id, keyring=self.keyring, approver=approver, now=self.clock())

    def approver(self, number: str, company: str = "总部") -> Actor:
        """That person, who may release what is held anywhere from here on."""
        found = self.person(number, company)
        with self.database.transaction() as session:
            root = root_organization(session)
            assign_role(
                session, found.id, HubRole.HR, organization_id=root, now=self.clock(), assigned_by="cli"
            )  # fmt: skip
        return Actor(kind="person", id=found.id, name=found.display_name)

    def standing(self, number: str, company: str = "总部") -> str:
        with self.database.read() as session:
            return show_person(session, find_person(session, f"{company}/{number}")).standing

    def person(self, number: str, company: str = "总部") -> Any:
        with self.database.read() as session:
            return show_person(session, find_person(session, f"{company}/{number}"))

    def manager(self, number: str, company: str = "总部") -> str | None:
        with self.database.read() as session:
            manager = session.execute(
                select(Person.display_name)
                .join(Employment, Employment.manager_id == Person.id)
                .join(Organization, Organization.id == Employment.organization_id)
                .where(Employment.employee_number == number, Organization.name == company)
            )
            return manager.scalar_one_or_none()

    def count(self, table: type) -> int:
        with self.database.read() as session:
            return session.execute(select(func.count()).select_from(table)).scalar_one()

    def door(self, change: Callable[[str, str], Any], number: str) -> None:
        """Make a change through another door."""
        person = self.person(number)
        with self.database.transaction() as session:
            wish = change(person.id, person.employments[0].id)
            transition(session, [wish], now=self.clock(), actor=HR, door="console").only()

    def events(self, kind: str) -> int:
        with self.database.read() as session:
            query = select(func.count()).select_from(audit_events).where(audit_events.c.type == kind)
            return session.execute(query).scalar_one()


def person(number: str, **changes: str) -> dict[str, str]:
    return row(
        **{
            "employee_number": number,
            "name": f"员工{number}",
            "email": f"p{number}@qiyue.example",
            "mobile": "",
            "manager_employee_number": "",
        }
        | changes
    )


def people(count: int, **changes: str) -> list[dict[str, str]]:
    return [person(f"{number:05}", **changes) for number in range(1, count + 1)]


def problems(report: ImportReport) -> list[tuple[int, str, str]]:
    return [(problem.line, problem.field, problem.rule.value) for problem in report.problems]
