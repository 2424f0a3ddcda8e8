"""Switching accounts off: graded by what was read back, never by what was answered."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from idhub.access.tables import Account
from idhub.db import Database
from idhub.delivery.channel import Grade
from tests.provisioning.conftest import IMPATIENT, Scene
from tests.provisioning.quirky import Quirks
from tests.provisioning.stand_ins import Behaviour, StandIn


class Leaver:
    """Somebody with a live account who has just left, in an application with another live account."""

    def __init__(self, scene: Scene, service: StandIn, *, name: str = "alice", **target: Any) -> None:
        self.application = scene.application(service, **target)
        self.control_id = scene.alive(service, self.application, f"control-{name}")
        self.person = scene.person(name)
        self.user_id = service.add(f"{name}@corp.example", external_id=self.person)
        self.account = scene.entitle(
            self.person,
            self.application,
            external_id=self.user_id,
            user_name=f"{name}@corp.example",
            known_state="active",
        )
        scene.leave(self.person)


@pytest.fixture
def leaver(scene: Scene, service: StandIn) -> Leaver:
    return Leaver(scene, service)


def test_good_service_is_proven_by_reading_back(scene: Scene, service: StandIn, leaver: Leaver) -> None:
    outcome = scene.send_one(leaver.account, "deprovision")
    assert (outcome.kind, outcome.grade, outcome.error) == ("done", Grade.E2, None)
    assert service.users[leaver.user_id]["active"] is False
    assert outcome.evidence["action"] == "deactivated"
    assert outcome.evidence["read_back"]["state"] == "inactive"
    assert outcome.evidence["read_back"]["counts"] is True
    methods = [one["method"] for one in outcome.evidence["requests"]]
    assert methods.index("PATCH") < len(methods) - 1
    assert methods[-1] == "GET"
    row = scene.account(leaver.account)
    assert (row["known_state"], row["observed_at"] >= scene.clock()) == ("inactive", True)
    assert scene.events(leaver.account) == ["account.deactivated"]
    assert service.users[leaver.control_id]["active"] is True


def test_service_without_patch_is_told_by_put(scene: Scene, service: StandIn) -> None:
    leaver = Leaver(scene, service, dialect="put")
    assert scene.send_one(leaver.account, "deprovision").grade == Grade.E2
    assert service.users[leaver.user_id]["active"] is False
    assert service.users[leaver.user_id]["userName"] == "alice@corp.example"
    assert {one.method for one in service.writes()} == {"PUT"}


def test_evidence_does_not_grow_with_the_list_that_had_to_be_read(scene: Scene) -> None:
    """A service without filters shows one user a page: each is a request, and no receipt has to quote them all."""
    service, application = scene.quirks(Quirks(no_filter=True, page=1), "no-filter")
    person = scene.person()
    account = scene.entitle(person, application)
    created = scene.send_one(account, "provision")
    assert created.kind == "done"
    for number in range(60):
        user_id = f"c{number}"
        service.users[user_id] = {"id": user_id, "userName": f"{user_id}@corp.example", "active": True}
    scene.leave(person)
    before = len(service.seen)
    outcome = scene.send_one(account, "deprovision")
    assert (outcome.kind, outcome.grade) == ("done", Grade.E2), outcome.error
    said, asked = outcome.evidence["requests"], service.seen[before:]
    assert len(asked) > 60
    assert len(said) + outcome.evidence["requests_left_out"] == len(asked)
    assert len(said) == 40
    # The end of it is what proves.
    assert [one["method"] for one in said[-2:]] == ["PATCH", "GET"]
    # A conversation of few requests is there in full.
    assert len(created.evidence["requests"]) == before
    assert "requests_left_out" not in created.evidence


def test_lying_service_never_gets_beyond_accepted(scene: Scene, service: StandIn, leaver: Leaver) -> None:
    service.behaviour = "lying"
    outcome = scene.send_one(leaver.account, "deprovision")
    assert (outcome.kind, outcome.grade) == ("retry", Grade.E1)
    assert outcome.error == "The application accepted the change, but the account is still active."
    assert outcome.evidence["read_back"]["state"] == "active"
    assert outcome.evidence["read_back"]["counts"] is False
    assert scene.account(leaver.account)["known_state"] == "active"
    assert scene.events(leaver.account) == []


def test_failing_service_proves_nothing(scene: Scene, service: StandIn, leaver: Leaver) -> None:
    service.behaviour = "failing"
    outcome = scene.send_one(leaver.account, "deprovision")
    assert (outcome.kind, outcome.grade, outcome.status_code) == ("retry", Grade.E0, 503)
    assert outcome.retry_after == timedelta(seconds=7)
    assert scene.account(leaver.account)["known_state"] == "active"


def test_silent_service_proves_nothing_and_ends_at_the_deadline(scene: Scene, service: StandIn, leaver: Leaver) -> None:
    service.behaviour = "silent"
    began = time.monotonic()
    outcome = scene.send_one(leaver.account, "deprovision", timeout=IMPATIENT)
    assert 0.9 * IMPATIENT.total_seconds() < time.monotonic() - began < IMPATIENT.total_seconds() + 30
    assert (outcome.kind, outcome.grade, outcome.status_code) == ("retry", Grade.E0, None)
    assert outcome.error == "The application did not answer in time."


def test_slow_service_is_proven_within_the_deadline(scene: Scene, service: StandIn, leaver: Leaver) -> None:
    service.behaviour, service.delay = "slow", 0.1
    outcome = scene.send_one(leaver.account, "deprovision")
    assert (outcome.kind, outcome.grade) == ("done", Grade.E2)


def test_too_slow_service_is_accepted_at_most(scene: Scene, service: StandIn, leaver: Leaver) -> None:
    """The deadline is total: it covers look-up, change and read-back together, each of which is quick enough."""
    service.behaviour, service.delay = "slow", IMPATIENT.total_seconds() / 3
    outcome = scene.send_one(leaver.account, "deprovision", timeout=IMPATIENT)
    assert (outcome.kind, outcome.grade <= Grade.E1) == ("retry", True)
    assert "read_back" not in outcome.evidence
    service.behaviour = "good"
    again = scene.send_one(leaver.account, "deprovision", attempt=2)
    assert (again.kind, again.grade) == ("done", Grade.E2)


def test_five_kinds_of_service_at_once_hold_up_nobody(scene: Scene) -> None:
    """One slow, failing, lying or silent application never delays another."""
    kinds: tuple[Behaviour, ...] = ("good", "slow", "failing", "lying", "silent")
    with ExitStack() as stack:
        services = {kind: stack.enter_context(StandIn(delay=0.1)) for kind in kinds}
        leavers = {kind: Leaver(scene, service, name=kind) for kind, service in services.items()}
        for kind, service in services.items():
            service.behaviour = kind
        outcomes = dict(
            zip(
                kinds,
                scene.send(
                    *(scene.delivery(leavers[kind].account, "deprovision") for kind in kinds), timeout=2 * IMPATIENT
                ),
                strict=True,
            )
        )
    assert {kind: (one.kind, one.grade) for kind, one in outcomes.items()} == {
        "good": ("done", Grade.E2),
        "slow": ("done", Grade.E2),
        "failing": ("retry", Grade.E0),
        "lying": ("retry", Grade.E1),
        "silent": ("retry", Grade.E0),
    }
    # The good one was done while the silent one was still being waited for.
    ended = {kind: one.evidence["requests"][-1]["ended_at"] for kind, one in outcomes.items()}
    assert ended["good"] < ended["silent"]


def test_account_that_is_gone_counts_beside_a_control_read(scene: Scene, service: StandIn, leaver: Leaver) -> None:
    del service.users[leaver.user_id]
    outcome = scene.send_one(leaver.account, "deprovision")
    assert (outcome.kind, outcome.grade) == ("done", Grade.E2)
    assert outcome.evidence["read_back"]["state"] == "gone"
    assert outcome.evidence["control_read"]["succeeded"] is True
    assert service.seen[-1].path.endswith(leaver.control_id)
    assert scene.account(leaver.account)["known_state"] == "absent"


def test_not_found_without_a_control_read_proves_nothing(scene: Scene, service: StandIn, leaver: Leaver) -> None:
    """A service that has lost its data, or answers 404 to everything, has nobody; that is no proof of a leave."""
    service.users.clear()
    outcome = scene.send_one(leaver.account, "deprovision")
    assert (outcome.kind, outcome.grade) == ("retry", Grade.E0)
    assert outcome.error == "The account is not found, but no account known to be alive was found beside it."
    assert outcome.evidence["control_read"]["succeeded"] is False
    assert scene.account(leaver.account)["known_state"] == "active"


def test_inactive_control_account_is_no_control(scene: Scene, service: StandIn, leaver: Leaver) -> None:
    del service.users[leaver.user_id]
    service.users[leaver.control_id]["active"] = False
    assert scene.send_one(leaver.account, "deprovision").kind == "retry"


def test_named_control_account_is_preferred(scene: Scene, service: StandIn, database: Database) -> None:
    leaver = Leaver(scene, service, control_user_name="canary")
    service.add("canary")
    del service.users[leaver.user_id], service.users[leaver.control_id]
    outcome = scene.send_one(leaver.account, "deprovision")
    assert (outcome.kind, outcome.grade) == ("done", Grade.E2)
    assert service.seen[-1].filter == 'userName eq "canary"'


def test_read_back_before_the_lane_is_quiet_does_not_count(scene: Scene, service: StandIn, leaver: Leaver) -> None:
    """A stalled write of an earlier attempt may land after this read-back."""
    quiet_after = scene.clock() + timedelta(minutes=5)
    outcome = scene.send_one(leaver.account, "deprovision", quiet_after=quiet_after)
    assert (outcome.kind, outcome.grade) == ("retry", Grade.E1)
    assert outcome.evidence["read_back"]["counts"] is False
    assert outcome.retry_after is not None
    assert timedelta(minutes=4) < outcome.retry_after <= timedelta(minutes=5)
    # The stalled create of the joiner lands; the next attempt sees it and switches it off.
    service.users[leaver.user_id]["active"] = True
    scene.clock.advance(minutes=6)
    again = scene.send_one(leaver.account, "deprovision", quiet_after=quiet_after, attempt=2)
    assert (again.kind, again.grade, again.evidence["action"]) == ("done", Grade.E2, "deactivated")
    assert service.users[leaver.user_id]["active"] is False


def test_gone_before_the_lane_is_quiet_does_not_count(scene: Scene, service: StandIn, leaver: Leaver) -> None:
    del service.users[leaver.user_id]
    quiet_after = scene.clock() + timedelta(minutes=5)
    outcome = scene.send_one(leaver.account, "deprovision", quiet_after=quiet_after)
    assert (outcome.kind, outcome.grade) == ("retry", Grade.E0)


def test_read_back_after_quiet_counts(scene: Scene, service: StandIn, leaver: Leaver) -> None:
    outcome = scene.send_one(leaver.account, "deprovision", quiet_after=scene.clock() - timedelta(seconds=1))
    assert (outcome.kind, outcome.grade) == ("done", Grade.E2)


def test_service_that_does_not_say_is_not_believed(scene: Scene, service: StandIn, leaver: Leaver) -> None:
    service.omits_active = True
    outcome = scene.send_one(leaver.account, "deprovision")
    assert (outcome.kind, outcome.grade) == ("retry", Grade.E1)
    assert outcome.error == "The application does not say whether the account is active."


@pytest.mark.parametrize(("value", "grade"), [("False", Grade.E2), ("no", Grade.E1), (0, Grade.E1)])
def test_forms_of_inactive(scene: Scene, service: StandIn, leaver: Leaver, value: object, grade: Grade) -> None:
    def misspell(method: str, user_id: str) -> None:
        if service.users[leaver.user_id]["active"] is False:
            service.users[leaver.user_id]["active"] = value

    service.before = misspell
    assert scene.send_one(leaver.account, "deprovision").grade == grade


def test_every_account_under_our_external_id_is_switched_off(scene: Scene, service: StandIn, leaver: Leaver) -> None:
    """A duplicate that a late create left behind is a way in as well."""
    twin = service.add("alice2@corp.example", external_id=leaver.person)
    outcome = scene.send_one(leaver.account, "deprovision")
    assert (outcome.grade, outcome.evidence["read_back"]["accounts"]) == (Grade.E2, 2)
    assert service.users[twin]["active"] is False
    assert service.users[leaver.user_id]["active"] is False


def test_account_that_was_never_linked_is_found_by_external_id(
    scene: Scene, service: StandIn, leaver: Leaver, database: Database
) -> None:
    """The joiner's create timed out and the person leaves before the next attempt."""
    with database.transaction() as session:
        session.execute(
            update(Account).where(Account.id == leaver.account).values(external_id=None, known_state="absent")
        )
    outcome = scene.send_one(leaver.account, "deprovision")
    assert (outcome.kind, outcome.grade) == ("done", Grade.E2)
    assert service.users[leaver.user_id]["active"] is False
    assert scene.account(leaver.account)["external_id"] == leaver.user_id
    assert scene.events(leaver.account) == ["account.deactivated"]


def test_account_that_somebody_switched_on_again_is_switched_off_with_its_event(
    scene: Scene, service: StandIn, leaver: Leaver, database: Database
) -> None:
    """Known as inactive, found active, and the answer to the change is lost: the next attempt still records it."""
    with database.transaction() as session:
        session.execute(update(Account).where(Account.id == leaver.account).values(known_state="inactive"))

    def lose_the_read_back(method: str, user_id: str) -> None:
        if user_id and service.users[leaver.user_id]["active"] is False:
            service.wait_for_release(IMPATIENT.total_seconds() + 1)

    service.before = lose_the_read_back
    assert scene.send_one(leaver.account, "deprovision", timeout=IMPATIENT).grade == Grade.E1
    assert scene.account(leaver.account)["known_state"] == "active"
    service.before = None
    assert scene.send_one(leaver.account, "deprovision", attempt=2).grade == Grade.E2
    assert scene.events(leaver.account) == ["account.deactivated"]


def test_id_that_the_application_gave_to_somebody_else_is_left_alone(
    scene: Scene, service: StandIn, leaver: Leaver
) -> None:
    service.users[leaver.user_id]["externalId"] = "per_somebody_else"
    outcome = scene.send_one(leaver.account, "deprovision")
    assert (outcome.kind, outcome.grade) == ("dead", Grade.E0)
    assert service.users[leaver.user_id]["active"] is True


def test_namesake_of_somebody_else_is_not_switched_off(
    scene: Scene, service: StandIn, leaver: Leaver, database: Database
) -> None:
    service.users[leaver.user_id]["externalId"] = "AD-4711"
    with database.transaction() as session:
        session.execute(update(Account).where(Account.id == leaver.account).values(external_id=None))
    outcome = scene.send_one(leaver.account, "deprovision")
    assert outcome.kind == "dead"
    assert service.writes() == []


def test_refused_credential_keeps_the_leave_pending(scene: Scene, service: StandIn, leaver: Leaver) -> None:
    """D17: shown as pending, never as done, never given up."""
    good, service.token = service.token, "renewed"
    outcome = scene.send_one(leaver.account, "deprovision")
    assert (outcome.kind, outcome.grade, outcome.status_code) == ("retry", Grade.E0, 401)
    assert good not in json.dumps(outcome.evidence) + str(outcome.error)
    service.token = good
    assert scene.send_one(leaver.account, "deprovision", attempt=2).kind == "done"


def test_service_that_stops_answering_after_the_change_is_accepted_only(
    scene: Scene, service: StandIn, leaver: Leaver
) -> None:
    def fall_silent(method: str, user_id: str) -> None:
        if service.users[leaver.user_id]["active"] is False:
            service.behaviour = "silent"
            service.wait_for_release()

    service.before = fall_silent
    outcome = scene.send_one(leaver.account, "deprovision", timeout=IMPATIENT)
    assert (outcome.kind, outcome.grade) == ("retry", Grade.E1)
    assert scene.events(leaver.account) == []
    service.behaviour, service.before = "good", None
    again = scene.send_one(leaver.account, "deprovision", attempt=2)
    assert (again.kind, again.grade, again.evidence["action"]) == ("done", Grade.E2, "none")
    # I3: the change of the first attempt has its event, once it is seen.
    assert scene.events(leaver.account) == ["account.deactivated"]


def test_stopped_service_is_tried_again(scene: Scene, leaver: Leaver, stopped_port: int) -> None:
    account = scene.entitle(
        scene.person("bob"),
        scene.application(base_url=f"http://127.0.0.1:{stopped_port}/v2"),
        external_id="u1",
    )
    outcome = scene.send_one(account, "deprovision")
    assert (outcome.kind, outcome.grade, outcome.status_code) == ("retry", Grade.E0, None)


@pytest.fixture
def stopped_port() -> Iterator[int]:
    with StandIn() as gone:
        port = gone.port
    yield port


def test_linked_account_takes_three_requests(scene: Scene, service: StandIn, leaver: Leaver) -> None:
    """Search, change, read back: what the search shows is not read again before the change."""
    assert scene.send_one(leaver.account, "deprovision").grade == Grade.E2
    assert [(one.method, one.filter is not None) for one in service.seen] == [
        ("GET", True),
        ("PATCH", False),
        ("GET", False),
    ]


def test_search_that_is_behind_hides_no_live_account(scene: Scene, service: StandIn, leaver: Leaver) -> None:
    """The search still shows the account as it was, off; read by its id it is on: it is switched off all the same."""
    service.users[leaver.user_id]["active"] = False

    def catch_up(method: str, user_id: str) -> None:
        if method == "GET" and user_id:
            service.before = None
            service.users[leaver.user_id]["active"] = True

    service.before = catch_up
    outcome = scene.send_one(leaver.account, "deprovision")
    assert (outcome.kind, outcome.grade, outcome.evidence["action"]) == ("done", Grade.E2, "deactivated")
    assert service.users[leaver.user_id]["active"] is False


def test_many_leave_at_once_each_with_its_own_record(scene: Scene, service: StandIn) -> None:
    """What attempts need of the database is asked together; nobody gets anybody else's answer."""
    leavers = [Leaver(scene, service, name=f"person-{n}") for n in range(5)]
    outcomes = scene.send(*(scene.delivery(one.account, "deprovision") for one in leavers))
    assert [outcome.grade for outcome in outcomes] == [Grade.E2] * 5
    for one in leavers:
        assert scene.account(one.account)["known_state"] == "inactive"
        assert scene.events(one.account) == ["account.deactivated"]
        assert service.users[one.user_id]["active"] is False
