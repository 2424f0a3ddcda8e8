"""A limit of requests that somebody set holds over everybody who asks the application, in whatever process."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from idhub.db import Database, create_database
from idhub.provisioning.outbound.budget import BURST, Budgets
from idhub.settings import Settings
from tests.provisioning.conftest import Scene
from tests.provisioning.quirky import Quirks

NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
PATIENT = timedelta(days=1)
SECOND = timedelta(seconds=1)


def turns(
    database: Database, application_id: str, count: int, *, now: datetime = NOW, patience: timedelta = PATIENT
) -> list[timedelta]:
    """So many turns at 60 a minute, asked for at once in an event loop of their own."""

    async def taken() -> list[timedelta]:
        budget = Budgets(database).of(application_id, 60)
        return await asyncio.gather(*(budget.take(now, patience=patience) for _ in range(count)))

    return asyncio.run(taken())


def test_workers_that_ask_at_the_same_moment_share_one_budget(
    scene: Scene, database: Database, settings: Settings
) -> None:
    """Whatever the order in which they come, no turn is given twice and none is lost."""
    application_id = scene.application(base_url="https://app.example/v2")
    workers = [create_database(settings.model_copy(update={"database_url": database.url})) for _ in range(3)]
    try:
        with ThreadPoolExecutor(3) as threads:
            waits = [wait for each in threads.map(lambda one: turns(one, application_id, 20), workers) for wait in each]
    finally:
        for worker in workers:
            worker.dispose()
    assert sorted(waits) == [max(place - BURST + 1, 0) * SECOND for place in range(60)]


def test_a_turn_that_is_too_long_to_wait_for_is_not_taken(scene: Scene, database: Database) -> None:
    application_id = scene.application(base_url="https://app.example/v2")
    assert (
        turns(database, application_id, 15, patience=3 * SECOND)
        == [0 * SECOND] * 10 + [SECOND, *[2 * SECOND]] + [3 * SECOND] * 3
    )
    assert turns(database, application_id, 1, now=NOW + 2 * SECOND) == [SECOND]


def test_after_a_pause_a_few_may_go_at_once_and_no_more(scene: Scene, database: Database) -> None:
    application_id, other = (scene.application(base_url="https://app.example/v2") for _ in range(2))
    turns(database, application_id, 12)
    assert turns(database, application_id, 11, now=NOW + timedelta(hours=1)) == [0 * SECOND] * BURST + [SECOND]
    assert turns(database, other, 1) == [0 * SECOND]


def test_a_clock_that_was_ahead_keeps_nobody_waiting(scene: Scene, database: Database) -> None:
    application_id = scene.application(base_url="https://app.example/v2")
    turns(database, application_id, 12, now=NOW + timedelta(days=1))
    assert turns(database, application_id, 12, patience=3 * SECOND) == [0 * SECOND] * BURST + [SECOND, 2 * SECOND]


def test_two_workers_together_ask_an_application_no_more_than_its_limit(scene: Scene) -> None:
    """Each delivery is sent by a channel of its own, as by a worker of its own."""
    service, application_id = scene.quirks(Quirks(), options={"requests_per_minute": 1})
    accounts = [scene.entitle(scene.person(f"p{number}"), application_id) for number in range(6)]
    outcomes = [
        scene.send(scene.delivery(account, "provision"), timeout=timedelta(seconds=5))[0] for account in accounts
    ]
    refused = [one for one in outcomes if one.kind == "retry"]
    assert refused
    assert {one.failure for one in refused} == {"rate_limit"}
    assert {one.error for one in refused} == {
        "The application's limit of requests is used up; it is asked again when it allows."
    }
    # Half a minute passes before each: a few more than those that may go at once.
    assert len(service.seen) <= BURST + 3
    assert all(one.retry_after is not None and one.retry_after > 5 * SECOND for one in refused)
