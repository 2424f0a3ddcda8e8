"""Whatever goes wrong on the way, and in whatever order: everybody ends up as they should, once, and nobody stays on.

A service of this process fails as hypothesis says: nothing arrives, no answer comes back, a write lands two requests
later, 429, 500, 401. People are hired, changed, disabled and hired again meanwhile. When the faults end, the desired
state holds: one account for each person, and every leaver's is off.
"""

import os
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from idhub.access.tables import Account, Entitlement
from idhub.db import new_id
from idhub.delivery.channel import Grade, Outcome
from idhub.directory.tables import Person, Principal
from tests.provisioning.conftest import Scene
from tests.provisioning.quirky import Quirks, Quirky, QuirkyHttp

FAULTS = st.lists(st.sampled_from(["dropped", "lost", "late", 429, 500, 503, None, None]), max_size=30)
STEPS = st.lists(st.sampled_from(["hire", "change", "leave", "tick"]), min_size=1, max_size=8)


class World:
    """One person after the other in one service, sent to as the queue would: in order, until it is done."""

    def __init__(self, scene: Scene, quirks: Quirks, dialect: str) -> None:
        self.scene = scene
        self.service, self.application = scene.quirks(quirks, dialect)
        self.control = scene.alive_in(self.service, self.application)
        # Of nobody else: a mailbox that two people have decides nothing.
        name = f"p{new_id('p')[-10:]}"
        self.mail = f"{name}@corp.example"
        self.person = scene.person(name)
        self.account: str | None = None
        self.wanted = False
        self.version = 0

    def step(self, what: str) -> None:
        if what == "hire" and not self.wanted:
            self.wanted = True
            if self.account is None:
                self.account = self.scene.entitle(self.person, self.application)
            else:
                self._hire_again()
        elif what == "change":
            self.version += 1
            self._person(display_name=f"爱丽丝{self.version}")
        elif what == "leave" and self.wanted:
            self.wanted = False
            self.scene.leave(self.person)
        self.deliver(tries=1)

    def deliver(self, *, tries: int) -> Outcome | None:
        """Send what holds now, as often as `tries`; the queue waits between until late writes can be ruled out."""
        outcome = None
        for number in range(1, tries + 1):
            if self.account is None:
                return None
            operation: Any = "provision" if self.wanted else "deprovision"
            quiet = self.scene.clock() + timedelta(seconds=5)
            outcome = self.scene.send_one(self.account, operation, attempt=number, quiet_after=quiet)
            if outcome.kind == "done" and outcome.grade >= (Grade.E1 if self.wanted else Grade.E2):
                return outcome
        return outcome

    def _person(self, **values: Any) -> None:
        with self.scene.database.transaction() as session:
            session.execute(update(Person).where(Person.id == self.person).values(**values))
            session.execute(update(Principal).where(Principal.id == self.person).values(version=Principal.version + 1))

    def _hire_again(self) -> None:
        with self.scene.database.transaction() as session:
            session.execute(
                update(Principal)
                .where(Principal.id == self.person)
                .values(standing="active", access_ends_at=None, version=Principal.version + 1)
            )
            session.execute(
                update(Entitlement).where(Entitlement.principal_id == self.person).values(superseded_at=None)
            )
            session.execute(update(Account).where(Account.id == self.account).values(desired_state="active"))


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("dialect", "quirks"),
    [
        ("generic", Quirks()),
        ("put", Quirks(no_patch=True)),
        ("no-external-id", Quirks(no_external_id=True)),
        ("github-organization", Quirks(gone_when_off=True, no_groups=True)),
    ],
    ids=["patch", "put", "no-external-id", "gone-when-off"],
)
@given(faults=FAULTS, steps=STEPS)
@settings(
    max_examples=300 if os.environ.get("SOAK") else 5,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_faults_end_in_the_desired_state_without_a_duplicate_or_a_lost_disable(
    scene: Scene, dialect: str, quirks: Quirks, faults: list[int | str | None], steps: list[str]
) -> None:
    world = World(scene, quirks, dialect)
    told = iter(faults)
    world.service.fault = lambda method, path: next(told, None) if method != "GET" or path else None
    for step in steps:
        world.step(step)
    world.service.fault = lambda method, path: None
    world.service.finish()
    outcome = world.deliver(tries=4)
    if world.account is None:
        return
    assert outcome is not None
    assert outcome.kind == "done", outcome.error
    mine = [user for user in world.service.users.values() if user["userName"] == world.mail]
    assert len(mine) <= 1
    if world.wanted:
        assert [user["active"] for user in mine] == [True]
        assert mine[0]["displayName"] == (f"爱丽丝{world.version}" if world.version else "爱丽丝")
    else:
        assert outcome.grade == Grade.E2
        assert all(user["active"] is False for user in mine)
    assert world.service.users[world.control]["active"] is True


def test_the_way_out_is_the_targets_own(scene: Scene) -> None:
    service = Quirky()
    scene.quirky = service
    application = scene.application(
        base_url="https://quirky.example/scim/v2",
        token=service.token,
        options={"proxy": "https://proxy.example:3128", "egress_address": "192.0.2.7"},
    )
    http = QuirkyHttp(service)
    account = scene.entitle(scene.person(), application)
    (outcome,) = scene.send_within(http, scene.delivery(account, "provision"), timeout=timedelta(seconds=5))
    assert outcome.kind == "done"
    assert http.ways == {("https://proxy.example:3128", "192.0.2.7")}
