"""Several people made at once, as a first load sends them: the same rules as for one, asked of all together.

Only those are made so who are surely new and touch nobody else, in the directory or among themselves. Whoever may be
somebody who left, has a name that another has, or is managed by somebody of the same load, is told apart
(`NotTogether`) and made alone: there is one place where such questions are decided, `Users.create`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from idhub.db import chunked, new_ids
from idhub.directory.kinds import EmploymentType
from idhub.directory.names import login_name_candidates, stored_login_name
from idhub.directory.organizations import organizations_of
from idhub.directory.tables import Employment, LoginName
from idhub.errors import IdhubError
from idhub.lifecycle import commands, intake
from idhub.provisioning.events.feed import feed_of
from idhub.provisioning.inbound.kept import Kept, changed_names, unplaced
from idhub.provisioning.inbound.person_resource import Said, read_said, user_name_key
from idhub.provisioning.inbound.sender import LONGEST_EXTERNAL_ID, ExternalIds, Sender
from idhub.provisioning.inbound.tables import ScimUser
from idhub.provisioning.inbound.words import Words, number_from
from scim.bulk import NotTogether
from scim.errors import RequestError
from scim.events import Happening, Kind
from scim.schemas import Resource


@dataclass(frozen=True, slots=True, kw_only=True)
class _Newcomer:
    """One of them, with what the directory will know them by."""

    said: Said
    organization_id: str
    number: str
    key: str
    names: frozenset[str]
    """Forms of `userName`, mail and mobile: nobody else may be known so."""


class Joining:
    """Makes people of one sender, in one transaction."""

    def __init__(
        self, session: Session, sender: Sender, words: Words, kept: Kept, external: ExternalIds, *, now: datetime
    ) -> None:
        self._session, self._sender, self._now = session, sender, now
        self._words, self._kept, self._external = words, kept, external

    def join(self, resources: Sequence[Resource]) -> list[str]:
        """Make them all; returns their ids, in order.

        Raises:
            NotTogether: some must be made alone; nothing of what was written may stay.
        """
        said = _each(resources, lambda resource: read_said({"active": True, **resource}))
        newcomers = _each(said, self._newcomer)
        alone = self._known(newcomers) | _related(newcomers)
        if alone:
            raise NotTogether(alone)
        managers = [self._words.manager(each.organization_id, each.said, None) for each in newcomers]
        views = organizations_of(self._session, {each.organization_id for each in newcomers})
        extras: list[Resource] = []
        for each, manager_id in zip(newcomers, managers, strict=True):
            view = views[each.organization_id]
            extras.append(unplaced(each.said, companies=(view.name, view.code), manager_id=manager_id))
        refused = self._kept.taken(list(zip(said, extras, strict=True)))
        if refused:
            raise NotTogether(refused)
        ids = iter(new_ids("per", len(newcomers)))
        pairs = list(zip(newcomers, managers, strict=True))
        changes = _each(pairs, lambda pair: self._change(next(ids), *pair))
        commands.onboard_all(self._session, self._sender.caller, changes, now=self._now)
        made = [change.principal_id for change in changes]
        self._kept.keep_new(list(zip(made, said, extras, strict=True)))
        self._tell(made, newcomers, extras)
        return made

    def _tell(self, made: Sequence[str], newcomers: Sequence[_Newcomer], extras: Sequence[Resource]) -> None:
        """Tell whoever listens what is kept beside the directory; that they are new, the one door has told."""
        feed = feed_of(self._session)
        if feed is not None:
            named = {i: changed_names({}, each) for i, each in zip(made, extras, strict=True)}
            told = {i: [Happening(kind=Kind.PATCHED, attributes=names)] for i, names in named.items() if names}
            places = {i: each.organization_id for i, each in zip(made, newcomers, strict=True)}
            feed.tell(self._session, "User", told, organizations=places, now=self._now)

    def _newcomer(self, said: Said) -> _Newcomer:
        if not said.active or len(said.external_id or "") > LONGEST_EXTERNAL_ID:
            raise NotTogether
        organization_id = self._words.company(said)
        names = {*login_name_candidates(said.user_name)}
        if said.person["email"]:
            names.update(login_name_candidates(said.person["email"]))
        if said.person["mobile"]:
            names.add(stored_login_name("mobile", said.person["mobile"]))
        return _Newcomer(
            said=said,
            organization_id=organization_id,
            number=intake.clean_employee_number(said.employee_number or number_from(said.user_name)),
            key=user_name_key(said.user_name),
            names=frozenset(names),
        )

    def _known(self, newcomers: Sequence[_Newcomer]) -> set[int]:
        """Places of those whom somebody in the directory may be, or have a name of."""
        numbers = self._found(
            select(Employment.organization_id, Employment.employee_number),
            Employment.employee_number,
            {each.number for each in newcomers},
        )
        keys = self._found(select(ScimUser.user_name_key), ScimUser.user_name_key, {each.key for each in newcomers})
        names = self._found(
            select(LoginName.value), LoginName.value, {name for each in newcomers for name in each.names}
        )
        taken = {row[0] for row in names}
        called = self._external.taken({each.said.external_id for each in newcomers if each.said.external_id})
        return {
            place
            for place, each in enumerate(newcomers)
            if (each.organization_id, each.number) in numbers
            or (each.key,) in keys
            or not taken.isdisjoint(each.names)
            or each.said.external_id in called
        }

    def _found(self, statement: Any, column: Any, values: Iterable[str]) -> set[tuple[str, ...]]:
        found: set[tuple[str, ...]] = set()
        for part in chunked(sorted(values)):
            found.update(tuple(row) for row in self._session.connection().execute(statement.where(column.in_(part))))
        return found

    def _change(self, principal_id: str, newcomer: _Newcomer, manager_id: str | None) -> intake.Onboard:
        said = newcomer.said
        return commands.newcomer(
            principal_id,
            person=said.person,
            organization_id=newcomer.organization_id,
            employee_number=newcomer.number,
            employment_type=said.employment_type or EmploymentType.REGULAR,
            starts_on=self._words.today(newcomer.organization_id),
            department_id=self._words.department(newcomer.organization_id, said),
            title=said.title,
            manager_id=manager_id,
            source=self._kept.source_mark(principal_id, newcomer.organization_id, said),
        )


def _each(items: Sequence[Any], make: Callable[[Any], Any]) -> list[Any]:
    """What is made of each.

    Raises:
        NotTogether: of some it cannot be made; alone they will hear why.
    """
    made, alone = [], set()
    for place, item in enumerate(items):
        try:
            made.append(make(item))
        except (IdhubError, RequestError, NotTogether):
            alone.add(place)
    if alone:
        raise NotTogether(alone)
    return made


def _related(newcomers: Sequence[_Newcomer]) -> set[int]:
    """Places of those who share a name with one before them, or whose manager may be among them."""
    related: set[int] = set()
    seen: set[tuple[str, ...]] = set()
    called = {each.said.external_id for each in newcomers} | {each.number for each in newcomers}
    for place, each in enumerate(newcomers):
        own: set[tuple[str, ...]] = {("number", each.organization_id, each.number), ("key", each.key)}
        own |= {("name", name) for name in each.names}
        if each.said.external_id is not None:
            own.add(("external", each.said.external_id))
        if not own.isdisjoint(seen) or (each.said.manager is not None and each.said.manager in called):
            related.add(place)
        seen |= own
    return related
