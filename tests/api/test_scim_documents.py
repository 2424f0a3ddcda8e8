"""Documents that are kept ready-made: whatever changed people, by whichever door, lists show what is so now."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import delete, func, select, update

from idhub.changes import COMMAND_LINE
from idhub.directory import groups as group_book
from idhub.directory.tables import Department, Organization
from idhub.lifecycle.hr_import import import_file
from idhub.provisioning.inbound import documents
from idhub.provisioning.inbound.store import KINDS
from idhub.provisioning.inbound.tables import ScimDocument, ScimExtension
from idhub.provisioning.inbound.terms import Terms, check_terms
from scim.schemas import ENTERPRISE_USER, GROUP, USER
from tests.api.shared_hub import shared_hub
from tests.api.test_scim import Scim
from tests.api.test_scim_extensions import URN, _contoso
from tests.api.world import Api
from tests.providers.hr_samples import row, write_csv
from tests.support.databases import DatabaseKind, Databases
from tests.support.plans import statements_of

_MAILS = ("one@corp.example", "two@corp.example", "änne@corp.example", None)


@pytest.fixture(params=["sqlite", "postgresql"])
def api(request: pytest.FixtureRequest, databases: Databases, tmp_path: Path) -> Iterator[Api]:
    kind: DatabaseKind = request.param
    with shared_hub(databases, kind, tmp_path) as hub:
        yield hub


def walked(scim: Scim, *, count: int = 7, **query: str) -> list[Any]:
    """Everybody, in pages."""
    found: list[Any] = []
    cursor: str | None = ""
    while cursor is not None:
        page = scim.ok("GET", "/Users", params={"cursor": cursor, "count": str(count), **query})
        found += page["Resources"]
        cursor = page.get("nextCursor")
    return found


def anew(scim: Scim, listed: list[Any]) -> list[Any]:
    """The same people as a list shows them that is sorted by what no index has: no document is asked for."""
    page = scim.ok("GET", "/Users", params={"sortBy": "userName", "count": "500"})
    found = {each["id"]: each for each in page["Resources"]}
    return [found[each["id"]] for each in listed]


def kept(api: Api) -> int:
    with api.world.database.read() as session:
        return session.execute(select(func.count()).select_from(ScimDocument)).scalar_one()


def test_second_walk_asks_for_nothing_but_documents(api: Api) -> None:
    """And not one is made again, whatever letters a mail has."""
    scim = Scim(api)
    for number in range(9):
        api.world.hire(f"Ada {number}", organization_id=api.world.hq, employee_number=f"D{number}")
    post = {"company": "HQ", "employee_number": "D10", "start_date": "2026-01-01"}
    person = {"display_name": "Änne", "email": "ÄnneStraße@corp.example", "employment": post}
    assert api.call("POST", "/people", token=api.token(), json=person).status_code == 201
    first = walked(scim)
    before = kept(api)
    with statements_of(api.world.database.engine) as sent:
        second = walked(scim)
        index = scim.ok("GET", "/Users", params={"count": "50"})["Resources"]

    assert first == second == index == anew(scim, first)
    assert before == kept(api) == len(first) >= 9
    assert not [statement for statement in sent if "employments" in statement]


@pytest.mark.parametrize("api", ["sqlite"], indirect=True)
def test_writer_that_holds_the_database_is_not_waited_for(api: Api) -> None:
    """What cannot be kept now is made again; the list is the same. PostgreSQL's writers do not wait for each other."""
    scim = Scim(api)
    api.world.hire("Ada", organization_id=api.world.hq, employee_number="D1")
    with api.world.database.transaction():
        listed = walked(scim)
    empty = kept(api)

    assert (empty, walked(scim)) == (0, listed)
    assert kept(api) == len(listed)


def test_document_of_other_rules_holds_no_more(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    scim = Scim(api)
    person = api.world.hire("Ada", organization_id=api.world.hq, employee_number="D1")
    walked(scim)
    with api.world.database.transaction() as session:
        session.execute(
            update(ScimDocument)
            .where(ScimDocument.principal_id == person)
            .values(body=f'{{"schemas":[],"title":"old","id":"{person}","meta":{{}}}}'.encode())
        )
    stale = [each for each in walked(scim) if each["id"] == person]
    monkeypatch.setattr(documents, "RULES", documents.RULES + 1)

    assert stale[0]["title"] == "old"
    assert walked(scim) == anew(scim, walked(scim))


@pytest.mark.parametrize("title", ["", "\x01\x02\x14", ',"id":"', '","displayName":"', '{"schemas":["', "\\", '"'])
def test_document_is_kept_short_and_shown_as_it_was(title: str) -> None:
    """Whatever somebody is called: no text of theirs is taken for a part of the form."""
    form = documents.form_of("https://id.example/scim/v2")
    # Beyond stand what parts rows and fields of a list that comes in one piece (`idhub.db.bulk`).
    assert all(character < b"\x1e" for character, _ in form.words)
    person = {"schemas": [USER, ENTERPRISE_USER], "userName": title, "active": True, "title": title, "id": "per_1"}
    made = orjson.dumps({**person, "meta": {"resourceType": "User", "created": title}})

    short = form.short(made)

    assert (len(short) < len(made) - 100, form.full(short)) == (True, made)
    assert form.full(b"\x1e".join([short, short])) == b"\x1e".join([made, made])
    assert (documents.id_of(made), orjson.loads(documents.without_id(made))) == (
        "per_1",
        {name: value for name, value in person.items() if name != "id"},
    )


def test_documents_of_another_address_hold_no_more() -> None:
    """The address is part of the form: what is kept short by one is no document of another."""
    one, other = (documents.form_of(f"https://{name}.example/scim/v2") for name in ("one", "other"))

    assert one.rules != other.rules


@pytest.mark.parametrize("seed", [1])
def test_lists_show_what_is_so_now_whatever_changed_it(api: Api, tmp_path: Path, seed: int) -> None:
    """Random changes by every door; after each, lists of several senders equal what is made anew.

    Who walks first keeps what the others are shown.
    """
    chance = random.Random(seed)
    changes = _Changes(api, tmp_path, chance)
    terms = check_terms(Terms(readable=frozenset({"userName", "groups", "name"})), KINDS).as_json()
    senders = [
        changes.sender,
        changes.other,
        Scim(api, "scim:read", organization_id=api.world.hq),
        Scim(api, "scim:read", organization_id=api.world.berlin, name="narrow", terms=terms),
    ]
    for _ in range(4):
        changes.hire()
    acts = changes.acts()
    # Each at least once, in an order of its own.
    for act in chance.sample(acts, len(acts)) + chance.choices(acts, k=8):
        act()
        ids: dict[int, set[str]] = {}
        for place in chance.sample(range(len(senders)), len(senders)):
            listed = walked(senders[place], count=100)
            assert listed == anew(senders[place], listed), act
            ids[place] = {each["id"] for each in listed}
        filtered = walked(changes.sender, filter='userName sw "o" or title pr or displayName sw "A"', count=100)
        assert filtered == anew(changes.sender, filtered), act
        assert ids[0] == ids[1] >= ids[2] | ids[3], act
    listed = walked(senders[-1])
    with api.world.database.transaction() as session:
        session.execute(delete(ScimDocument))
    assert listed == walked(senders[-1])


class _Changes:
    """What may happen to people, by the door it comes through."""

    def __init__(self, api: Api, folder: Path, chance: random.Random) -> None:
        self.api, self._folder, self._chance = api, folder, chance
        self.sender, self.other = Scim(api, name="first"), Scim(api, name="second")
        self._admin = api.token()
        self._number = 0

    def acts(self) -> list[Callable[[], None]]:
        return [
            self.hire, self.say, self.replace, self.call_names, self.delete, self.edit, self.move, self.suspend,
            self.offboard, self.read_file, self.join, self.rename_group, self.rename_company, self.rename_department,
            self.extend, self.share_mail,
        ]  # fmt: skip

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _someone(self) -> Any:
        return self._chance.choice(walked(self.sender, count=100))

    def hire(self) -> None:
        number = self._next()
        person = {"display_name": f"Ada {number}", "family_name": "Ng", "email": self._chance.choice(_MAILS)}
        company = self._chance.choice(["HQ", "BER"])
        post = {"company": company, "employee_number": f"R{number}", "start_date": "2026-01-01", "department": "研发"}
        self._api("POST", "/people", {**person, "employment": post})

    def say(self) -> None:
        values = {URN: {"JobCode": "J1"}, "nickName": "x", "phoneNumbers": [{"value": "1", "type": "fax"}]}
        number = self._next()
        post = {"organization": "HQ", "employeeNumber": f"S{number}"}
        self.sender.user(f"on{number}@corp.example", title="t", enterprise=post, **values)

    def replace(self) -> None:
        user = self._someone()
        body = {"schemas": [USER], "userName": user["userName"], "title": f"t{self._next()}", "active": True}
        self._chance.choice([self.sender, self.other]).call("PUT", f"/Users/{user['id']}", body)

    def call_names(self) -> None:
        value = {"externalId": f"e{self._next()}", "nickName": self._chance.choice(["a", "b"])}
        self.other.call(
            "PATCH",
            f"/Users/{self._someone()['id']}",
            {"schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"],
             "Operations": [{"op": "add", "value": value}]},
        )  # fmt: skip

    def delete(self) -> None:
        self.other.call("DELETE", f"/Users/{self._someone()['id']}")

    def edit(self) -> None:
        values = {"given_name": f"G{self._next()}", "email": self._chance.choice(_MAILS)}
        self._api("PATCH", f"/people/{self._someone()['id']}", values)

    def move(self) -> None:
        values = {"title": f"T{self._next()}", "company": self._chance.choice(["HQ", "BER"])}
        self._api("POST", f"/people/{self._someone()['id']}/move", values)

    def suspend(self) -> None:
        self._api("POST", f"/people/{self._someone()['id']}/suspend", {"reason": "leave"})

    def offboard(self) -> None:
        self._api("POST", f"/people/{self._someone()['id']}/offboarding", {"reason": "left"})

    def read_file(self) -> None:
        number = self._next()
        rows = [
            row(employee_number=f"F{self._chance.randrange(3)}", company="HQ", name=f"File {number}", title=f"{number}")
        ]
        world = self.api.world
        import_file(
            world.database, write_csv(self._folder / f"hr{number}.csv", rows), keyring=world.keyring, snapshot=False,
            dry_run=False, now=world.clock(), actor=COMMAND_LINE,
        )  # fmt: skip

    def join(self) -> None:
        world, now = self.api.world, self.api.world.clock()
        with world.database.transaction() as session:
            group = group_book.create_group(session, f"G{self._next()}", organization_id=world.hq, now=now)
            group_book.change_members(session, group, join=[self._someone()["id"]], leave=[], now=now)

    def rename_group(self) -> None:
        body = {"schemas": [GROUP], "displayName": f"N{self._next()}", "members": [{"value": self._someone()["id"]}]}
        made = self.sender.ok("POST", "/Groups", body)
        walked(self.sender)
        self.sender.ok("PUT", f"/Groups/{made['id']}", {**body, "displayName": f"N{self._next()}"})

    def rename_company(self) -> None:
        self._write(update(Organization).where(Organization.id == self.api.world.hq).values(name=f"C{self._next()}"))

    def rename_department(self) -> None:
        self._write(update(Department).values(path=Department.path + "x"))

    def extend(self) -> None:
        described = _contoso()
        with self.api.world.database.transaction() as session:
            session.execute(delete(ScimExtension))
            session.add(ScimExtension(schema=URN, body=described, changed_at=self.api.world.clock()))

    def share_mail(self) -> None:
        """Somebody comes, and goes, who has a mail that was one person's alone."""
        number = self._next()
        mails = self._chance.choice([(f"share{number}",) * 2, (f"Straße{number}", f"STRASSE{number}")])
        listed: list[Any] = []
        for mail, number in ((f"{each}@corp.example", self._next()) for each in mails):
            post = {"company": "HQ", "employee_number": f"M{number}", "start_date": "2026-01-01"}
            self._api("POST", "/people", {"display_name": f"Mo {number}", "email": mail, "employment": post})
            listed = walked(self.sender)
            assert listed == anew(self.sender, listed)
        self._api("PATCH", f"/people/{listed[-1]['id']}", {"email": None})

    def _write(self, statement: Any) -> None:
        with self.api.world.database.transaction() as session:
            session.execute(statement.execution_options(synchronize_session=False))

    def _api(self, method: str, path: str, body: Any) -> None:
        answer = self.api.call(method, path, token=self._admin, json=body)
        assert answer.status_code < 500, answer.text


def test_company_limited_walk_is_of_its_people_alone(api: Api) -> None:
    """Company by company out of an index, and in one order."""
    expected = []
    for number in range(12):
        company = api.world.hq if number % 3 else api.world.berlin
        person = api.world.hire(f"Ada {number}", organization_id=company, employee_number=f"W{number}")
        expected += [person] if company == api.world.berlin else []
    narrow = Scim(api, "scim:read", organization_id=api.world.berlin)
    wide = Scim(api, "scim:read")
    below = Scim(api, "scim:read", organization_id=_root(api))

    assert [each["id"] for each in walked(narrow)] == sorted(expected)
    assert [each["id"] for each in walked(below)] == [each["id"] for each in walked(wide)]
    assert all(each[ENTERPRISE_USER]["organization"] for each in walked(narrow))


def test_list_by_index_is_of_whom_a_walk_meets(api: Api) -> None:
    """In each of its pages, as many as it says; before anybody was deleted, after, and once more who has come back."""
    scim = Scim(api)
    for number in range(4):
        api.world.hire(f"Ada {number}", organization_id=api.world.hq, employee_number=f"I{number}")
    said = {"title": "t", "enterprise": {"organization": "HQ", "employeeNumber": "I9"}}
    made = scim.user("index@corp.example", **said)
    states = [by_index(scim)]
    assert scim.call("DELETE", f"/Users/{made['id']}").status_code == 204
    states.append(by_index(scim))
    assert scim.user("index@corp.example", **said)["id"] == made["id"]
    states.append(by_index(scim))

    for listed, totals, met in states:
        assert listed == met
        assert totals == {len(met)}
    assert [made["id"] in listed for listed, _, _ in states] == [True, False, True]


def by_index(scim: Scim) -> tuple[list[str], set[int], list[str]]:
    """Whom lists by index show, in pages of two, and how many they say there are; whom a walk meets."""
    listed: list[str] = []
    totals: set[int] = set()
    while not totals or len(listed) < min(totals):
        page = scim.ok("GET", "/Users", params={"startIndex": str(len(listed) + 1), "count": "2"})
        listed += [each["id"] for each in page["Resources"]]
        totals.add(page["totalResults"])
    beyond = scim.ok("GET", "/Users", params={"startIndex": str(len(listed) + 9), "count": "2"})
    totals.add(beyond["totalResults"])
    return listed, totals, [each["id"] for each in walked(scim)]


def _root(api: Api) -> str:
    with api.world.database.read() as session:
        return session.execute(select(Organization.id).where(Organization.parent_id.is_(None))).scalar_one()
