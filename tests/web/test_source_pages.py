"""`/hr/sources`: what the brake holds, to whom it is shown, and how two people let it go."""

import re
from typing import Any

import orjson
import pytest
from sqlalchemy import select, update
from starlette.testclient import TestClient

from audit.tables import audit_events
from idhub.authority import HubRole, assign_role, remove_role
from idhub.changes import Actor
from idhub.directory.organizations import root_organization
from idhub.directory.tables import Organization, Person, Principal
from idhub.keys import Keyring
from idhub.lifecycle import commands
from idhub.lifecycle.hr_release import approve, carry_out
from idhub.lifecycle.hr_runs import SILENCE
from idhub.lifecycle.tables import HeldChange, SourceRun
from tests.lifecycle.world import CALLER
from tests.web.conftest import _browser
from tests.web.held import LEAVERS, plant
from tests.web.html import rows_of, token_of
from tests.web.sample import SampleHub

ADMIN, HR, AUDITOR, EMPLOYEE = "高远", "沈佳宁", "何慕青", "郑可欣"
PATH = "/hr/sources"


class Sources:
    """The hub after a file that wanted more people gone than is plausible."""

    def __init__(self, hub: SampleHub, keyring: Keyring) -> None:
        self.hub, self.keyring = hub, keyring
        held = plant(hub, keyring, spare=(ADMIN, HR, AUDITOR, EMPLOYEE))
        self.run, self.company, self.posts = held.run, held.company, held.posts

    def look(self, name: str) -> TestClient:
        return _browser(self.hub, name)

    def release(self, name: str, **changed: str) -> Any:
        client = self.look(name)
        page = client.get(PATH)
        fields = {"csrf_token": token_of(page.text), "run": self.run, "company": self.company, **changed}
        return client.post(f"{PATH}/release", data=fields)

    def standings(self) -> set[str]:
        ids = [post.principal_id for post in self.posts]
        with self.hub.database.read() as session:
            return set(session.execute(select(Principal.standing).where(Principal.id.in_(ids))).scalars())

    def states(self) -> set[str]:
        with self.hub.database.read() as session:
            return set(session.execute(select(HeldChange.state).where(HeldChange.run_id == self.run)).scalars())

    def carry_out(self) -> int:
        return carry_out(self.hub.database, self.keyring, now=self.hub.clock())


@pytest.fixture
def sources(hub: SampleHub, keyring: Keyring) -> Sources:
    return Sources(hub, keyring)


def test_two_people_release_what_is_held_and_the_worker_carries_it_out(sources: Sources) -> None:
    page = sources.look(HR).get(PATH).text
    assert f'data-test="held-{sources.company}"' in page
    assert len(rows_of(page)) == LEAVERS + 1
    assert "Two different people must say yes" in page
    assert 'line 7 · <span class="mono">status</span> · the status must be active, left or suspended' in page
    assert sources.release(HR).status_code == 303
    assert "You have said yes; a second person must." in sources.look(HR).get(PATH).text
    same = sources.release(HR)
    assert same.status_code == 409
    assert "A second person must approve this release." in same.text
    assert sources.states() == {"held"}
    assert sources.carry_out() == 0
    assert sources.release(ADMIN).status_code == 404, "an administrator has no right to release leaves"
    assert f'action="{PATH}/release"' not in sources.look(ADMIN).get(PATH).text
    boss = _make_second_hr(sources)
    assert f"{HR} has said yes" in sources.look(boss).get(PATH).text
    assert sources.release(boss).status_code == 303
    assert sources.states() == {"approved"}
    assert sources.standings() == {"active"}
    assert "0 of 3 done" in sources.look(HR).get(PATH).text
    assert sources.carry_out() == LEAVERS
    assert (sources.states(), sources.standings()) == ({"released"}, {"left"})
    assert sources.carry_out() == 0
    after = sources.look(HR).get(PATH).text
    assert "The brake holds nothing back." in after
    assert sources.release(boss).status_code == 404
    with sources.hub.database.read() as session:
        ours = audit_events.c.type == "import.released"
        bodies = session.execute(select(audit_events.c.body).where(ours).order_by(audit_events.c.id)).scalars()
        said = [orjson.loads(body)["details"] for body in bodies]
    assert [(one["state"], one["changes"]) for one in said] == [("waiting", 3), ("approved", 3), ("released", 3)]


def _make_second_hr(sources: Sources, *, organization_id: str | None = None) -> str:
    """An employee becomes HR too, of the whole group where no company is named."""
    with sources.hub.database.transaction() as session:
        person = session.execute(select(Person.id).where(Person.display_name == EMPLOYEE)).scalar_one()
        root = organization_id or root_organization(session)
        now = sources.hub.clock()
        assign_role(session, person, HubRole.HR, organization_id=root, now=now, assigned_by="cli")
    return EMPLOYEE


def test_page_says_what_is_being_read_and_what_ended_before_its_end(sources: Sources) -> None:
    now = sources.hub.clock()
    with sources.hub.database.transaction() as session:
        for run_id, seen_at in (("run_a", now - SILENCE), ("run_b", now)):
            session.add(
                SourceRun(id=run_id, provider="hr_file", started_at=now - SILENCE, seen_at=seen_at, started_by="cli")
            )  # fmt: skip
    said = dict(re.findall(r'<tr data-test="([^"]+)">(.*?)</tr>', sources.look(HR).get(PATH).text))
    assert "ended before its end" in said["run_a"]
    assert "being read" in said["run_b"]
    assert "read whole" in said[sources.run]


@pytest.mark.parametrize(("name", "status"), [(AUDITOR, 404), (EMPLOYEE, 404)])
def test_release_by_somebody_without_the_right_is_refused(sources: Sources, name: str, status: int) -> None:
    client = sources.look(name)
    page = client.get(PATH)
    token = token_of(page.text) if page.status_code == 200 else token_of(client.get("/").text)
    fields = {"csrf_token": token, "run": sources.run, "company": sources.company}
    assert client.post(f"{PATH}/release", data=fields).status_code == status
    assert sources.states() == {"held"}


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"run": "run_unknown"}, 404),
        ({"run": ""}, 404),
        ({"company": "org_unknown"}, 404),
        ({"company": "x" * 600}, 400),
        ({"csrf_token": "forged"}, 403),
    ],
)
def test_release_of_what_is_not_there_changes_nothing(sources: Sources, changed: dict[str, str], status: int) -> None:
    assert sources.release(HR, **changed).status_code == status
    assert sources.states() == {"held"}


def test_first_yes_of_somebody_about_one_company_releases_no_other(sources: Sources) -> None:
    with sources.hub.database.transaction() as session:
        other = session.execute(
            select(Organization.id).where(Organization.id != sources.company, Organization.kind == "company").limit(1)
        ).scalar_one()
        first = session.execute(select(HeldChange.id).order_by(HeldChange.id).limit(1)).scalar_one()
        session.execute(update(HeldChange).where(HeldChange.id == first).values(organization_id=other))
    boss = _make_second_hr(sources)
    assert sources.release(HR).status_code == 303
    assert sources.release(boss, company=other).status_code == 303
    assert sources.states() == {"held"}, "each company has one yes, of different people"
    assert sources.release(boss).status_code == 303
    assert sources.carry_out() == LEAVERS - 1


def test_hr_of_another_company_neither_sees_nor_releases_what_is_held(sources: Sources) -> None:
    with sources.hub.database.read() as session:
        other = session.execute(
            select(Organization.id).where(Organization.id != sources.company, Organization.kind == "company").limit(1)
        ).scalar_one()
    page = sources.look(_make_second_hr(sources, organization_id=other)).get(PATH)
    assert page.status_code == 200
    assert "The brake holds nothing back." in page.text
    assert "Last reads" not in page.text
    assert sources.release(EMPLOYEE).status_code == 404
    assert sources.states() == {"held"}


def test_yes_of_two_people_at_once_counts_each_once(sources: Sources) -> None:
    """Conditional statements decide: whoever comes second approves, nobody twice."""
    one, two = (_person_named(sources, name) for name in (HR, _make_second_hr(sources)))
    now = sources.hub.clock()
    with sources.hub.database.transaction() as session:
        assert approve(session, sources.run, [sources.company], approver=one, now=now).state == "waiting"
    with sources.hub.database.transaction() as session:
        assert approve(session, sources.run, [sources.company], approver=two, now=now).state == "approved"
    assert sources.states() == {"approved"}


def _person_named(sources: Sources, name: str) -> Actor:
    with sources.hub.database.read() as session:
        found = session.execute(select(Person.id).where(Person.display_name == name)).scalar_one()
    return Actor(kind="person", id=found, name=name)


@pytest.mark.parametrize("how", ["left", "suspended", "role"])
def test_a_first_yes_of_somebody_who_may_no_longer_say_it_counts_for_nothing(sources: Sources, how: str) -> None:
    """Two people means two who may: the next one is the first, and a third must follow."""
    first, boss, now = _person_named(sources, HR).id, _make_second_hr(sources), sources.hub.clock()
    assert sources.release(HR).status_code == 303
    with sources.hub.database.transaction() as session:
        if how == "role":
            remove_role(session, first, HubRole.HR, now=now)
        elif how == "left":
            commands.offboard(session, CALLER, first, now=now)
        else:
            commands.suspend(session, CALLER, first, now=now)
    assert sources.release(boss).status_code == 303
    assert sources.states() == {"held"}
    assert sources.carry_out() == 0
    assert "You have said yes; a second person must." in sources.look(boss).get(PATH).text
    with sources.hub.database.transaction() as session:
        admin, root = _person_named(sources, ADMIN).id, root_organization(session)
        assign_role(session, admin, HubRole.HR, organization_id=root, now=now, assigned_by="cli")
    assert sources.release(ADMIN).status_code == 303
    assert sources.states() == {"approved"}
