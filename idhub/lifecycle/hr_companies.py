"""Companies and departments that an HR file names: found by name or code, made where unknown, listed."""

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from hashlib import blake2b
from typing import NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import select
from sqlalchemy.orm import Session

from idhub.changes import Actor, Event, EventType, record
from idhub.db import chunked, new_id
from idhub.directory.kinds import OrganizationKind
from idhub.directory.organizations import (
    OrganizationView,
    all_organizations,
    create_organization,
    ensure_departments,
    known_departments,
)
from idhub.directory.tables import Department
from providers.hr_file import HrRow

_MAX_CODE = 60
_MAX_CACHED = 50_000
Mark = tuple[frozenset[str], int, int]
"""What was made so far: keys of companies, how many were created, and how many departments."""


class Foreseen(NamedTuple):
    """Where people made ready belong: ids that companies and departments have, or will be made under."""

    companies: dict[str, str]
    """By key."""
    departments: dict[tuple[str, str], str]
    """By (organization id, path with /)."""
    zones: dict[str, str]
    """Time zones by organization id."""


class Companies:
    """What the column `company` means. Keys are stable while a file is read: an id, or the text of an unknown name."""

    def __init__(self, session: Session) -> None:
        self._by_text: dict[str, str] = {}
        self._views: dict[str, OrganizationView] = {}
        self._texts: dict[str, str] = {}
        self._departments: dict[tuple[str, tuple[str, ...]], str] = {}
        self._foreseen: dict[str, str] = {}
        self._foreseen_departments: dict[tuple[str, str], str] = {}
        self._came_true: dict[tuple[str, str], str] = {}
        self.created: list[str] = []
        self.created_departments = 0
        known = all_organizations(session)
        self._root = next(view for view in known.values() if view.parent_id is None)
        for view in known.values():
            self._views[view.id] = view
            self._by_text.update(dict.fromkeys(_texts_of(view), view.id))

    def refresh(self, session: Session) -> None:
        """See companies that somebody else has made since; keys already given out stay what they were."""
        made = {text: view for view in all_organizations(session).values() for text in _texts_of(view)}
        for key in self._texts:
            if key in made:
                self._views[key] = made[key]

    def key(self, text: str) -> str:
        """The key of the company that `text` names; remembers how an unknown one was written."""
        folded = text.casefold()
        found = self._by_text.get(folded)
        if found is not None:
            return found
        self._by_text[folded] = folded
        self._texts[folded] = text
        return folded

    def is_unknown(self, key: str) -> bool:
        """Whether the company behind a key was unknown when it was first named."""
        return key in self._texts

    def text_of(self, key: str) -> str:
        """How the unknown company behind a key was written."""
        return self._texts[key]

    def learn(self, texts: Mapping[str, str]) -> None:
        """Take over the keys of unknown companies that another reader of the same file met."""
        for key, text in texts.items():
            self._by_text.setdefault(key, key)
            self._texts.setdefault(key, text)

    def source_key(self, row: HrRow) -> str:
        """Key of the row's source record."""
        return f"{self.code_of(row.company_key)}/{row.employee_number}"

    def name_of(self, key: str) -> str:
        """How people call the company behind a key."""
        view = self._views.get(key)
        return self._texts[key] if view is None else view.name

    def id_of(self, key: str) -> str | None:
        """The organization behind a key, None while it is not made."""
        view = self._views.get(key)
        return None if view is None else view.id

    def code_of(self, key: str) -> str:
        """Code of the organization behind a key; of one not yet made, the code that it will have."""
        view = self._views.get(key)
        return _code_of(self._texts[key]) if view is None else view.code

    def foresee(self, session: Session, places: Iterable[tuple[str, tuple[str, ...]]]) -> Foreseen:
        """Ids of the places (company key, department path), looked up or given out, for rows that are made ahead.

        Whoever writes is told of them (`expect`) and makes what is missing under these ids.
        """
        asked = dict.fromkeys(places)
        companies: dict[str, str] = {}
        for key in dict.fromkeys(key for key, _ in asked):
            if self.id_of(key) is None:
                self._views[key] = self._subsidiary(key, new_id("org"))
            companies[key] = self._views[key].id
        wanted = {(companies[key], "/".join(path)) for key, path in asked}
        missing = wanted - self._foreseen_departments.keys()
        if missing:
            if len(self._foreseen_departments) > _MAX_CACHED:
                self._foreseen_departments.clear()
                missing = wanted
            every = {
                (organization_id, "/".join(parts[:depth]))
                for organization_id, parts in ((organization_id, path.split("/")) for organization_id, path in missing)
                for depth in range(1, len(parts) + 1)
            } - self._foreseen_departments.keys()
            self._foreseen_departments |= known_departments(session, every)
            for pair in sorted(every - self._foreseen_departments.keys()):
                self._foreseen_departments[pair] = new_id("dep")
        zones = {self._views[key].id: self._views[key].time_zone for key in companies}
        # With everything above them: all are made under the ids given here.
        above: set[tuple[str, str]] = set()
        for organization_id, path in wanted:
            while path := path.rpartition("/")[0]:
                above.add((organization_id, path))
        return Foreseen(companies, {pair: self._foreseen_departments[pair] for pair in wanted | above}, zones)

    def expect(self, foreseen: Foreseen) -> None:
        """Make what does not exist under these ids, when it is asked for."""
        self._foreseen |= foreseen.companies
        self._foreseen_departments |= foreseen.departments

    def came_true(self, session: Session, foreseen: Foreseen, *, now: datetime, actor: Actor, door: str) -> bool:
        """Make the places that are missing. Returns whether all have the ids that were foreseen."""
        self.ensure(session, foreseen.companies, now=now, actor=actor, door=door)
        if any(self.id_of(key) != organization_id for key, organization_id in foreseen.companies.items()):
            return False
        if foreseen.departments.items() <= self._came_true.items():
            return True
        asked = {
            (organization_id, tuple(path.split("/"))): made
            for (organization_id, path), made in foreseen.departments.items()
        }
        if self.departments(session, asked, now=now, actor=actor, door=door) != asked:
            return False
        self._came_true |= foreseen.departments
        return True

    def _subsidiary(self, key: str, organization_id: str) -> OrganizationView:
        code = _code_of(self._texts[key])
        return OrganizationView(
            organization_id,
            self._root.id,
            OrganizationKind.SUBSIDIARY,
            code,
            self._texts[key],
            None,
            self._root.time_zone,
            (code, *self._root.ancestors),
        )

    def today(self, key: str, *, now: datetime) -> date:
        """The date at the company's place."""
        view = self._views.get(key, self._root)
        return now.astimezone(ZoneInfo(view.time_zone)).date()

    def ensure(self, session: Session, keys: Iterable[str], *, now: datetime, actor: Actor, door: str) -> None:
        """Make the companies that do not exist, as subsidiaries of the root in its time zone, with their events."""
        for key in dict.fromkeys(keys):
            if key in self._views:
                continue
            text, code = self._texts[key], _code_of(self._texts[key])
            organization_id = create_organization(
                session,
                code=code,
                name=text,
                kind=OrganizationKind.SUBSIDIARY,
                parent_id=self._root.id,
                time_zone=self._root.time_zone,
                now=now,
                organization_id=self._foreseen.get(key),
            )
            # The key stays what rows already read were told apart by; only its view is new.
            self._views[key] = self._subsidiary(key, organization_id)
            self.created.append(text)
            record(
                session,
                [
                    Event(
                        type=EventType.ORGANIZATION_CREATED,
                        at=now,
                        actor=actor,
                        door=door,
                        target_kind="organization",
                        target_id=organization_id,
                        organization_id=organization_id,
                        details={"code": code, "name": text, "parent": self._root.id},
                    )
                ],
            )

    def mark(self) -> Mark:
        """What is made so far; `rewind` goes back to it when the transaction is rolled back."""
        return frozenset(self._views), len(self.created), self.created_departments

    def rewind(self, mark: Mark) -> None:
        """Forget what was made in a transaction that did not commit."""
        views, companies, departments = mark
        if (len(self._views), len(self.created), self.created_departments) == (len(views), companies, departments):
            return
        self._views = {key: view for key, view in self._views.items() if key in views}
        del self.created[companies:]
        self.created_departments = departments
        self._departments.clear()
        self._came_true.clear()

    def departments(
        self, session: Session, wanted: Iterable[tuple[str, tuple[str, ...]]], *, now: datetime, actor: Actor, door: str
    ) -> dict[tuple[str, tuple[str, ...]], str]:
        """Ids of departments by (organization id, path), made where missing, with their events."""
        asked = set(wanted)
        missing = asked - self._departments.keys()
        if missing:
            if len(self._departments) > _MAX_CACHED:
                self._departments.clear()
                self._came_true.clear()
                missing = asked
            named = [(organization_id, "/".join(path)) for organization_id, path in missing]
            found, made = ensure_departments(session, named, now=now, ids=self._foreseen_departments)
            for organization_id, path in missing:
                self._departments[(organization_id, path)] = found[(organization_id, "/".join(path))]
            self.created_departments += len(made)
            record(
                session,
                [
                    Event(
                        type=EventType.DEPARTMENT_CREATED,
                        at=now,
                        actor=actor,
                        door=door,
                        target_kind="organization",
                        target_id=organization_id,
                        organization_id=organization_id,
                        details={"path": path},
                    )
                    for organization_id, path in made
                ],
            )
        return {pair: self._departments[pair] for pair in asked}

    def known_departments(self, session: Session, rows: Iterable[HrRow]) -> dict[tuple[str, tuple[str, ...]], str]:
        """Ids of the departments that rows name and that exist; for dry runs, which make none."""
        wanted: dict[str, dict[str, tuple[str, ...]]] = {}
        for row in rows:
            if (organization_id := self.id_of(row.company_key)) is not None:
                wanted.setdefault(organization_id, {})["/".join(row.department)] = row.department
        found: dict[tuple[str, tuple[str, ...]], str] = {}
        for organization_id, paths in wanted.items():
            for part in chunked(list(paths), 1_000):
                known = session.execute(
                    select(Department.path, Department.id).where(
                        Department.organization_id == organization_id, Department.path.in_(part)
                    )
                )
                found.update({(organization_id, paths[path]): department_id for path, department_id in known})
        return found


def _texts_of(view: OrganizationView) -> list[str]:
    """What may name an organization, folded; its code comes last and wins."""
    return [text.casefold() for text in (view.name_en, view.name, view.code) if text]


def _code_of(text: str) -> str:
    """A code for a company that came without one: the text itself where it is short and plain, else a short hash."""
    if text.isascii() and len(text) <= _MAX_CODE and "/" not in text and " " not in text:
        return text
    return "C" + blake2b(text.encode(), digest_size=5).hexdigest().upper()
