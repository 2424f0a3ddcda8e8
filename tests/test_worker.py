"""The worker as a whole: its jobs, their isolation, its end; what it purges."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from sqlalchemy import func, insert, select, text

from audit.checkpoint import Ed25519Signer, FileWitness
from audit.sequencer import Sequencer
from audit.tables import audit_checkpoints
from idhub.access.tables import OidcClient
from idhub.changes import COMMAND_LINE, Event, EventType, record
from idhub.credentials.tables import (
    AccessToken,
    AuthorizationCode,
    Grant,
    LoginTransaction,
    RefreshToken,
    SessionParticipant,
    SsoSession,
    Throttle,
)
from idhub.db import Database
from idhub.delivery.channel import Channel, Grade, LeasedDelivery, Outcome
from idhub.delivery.http import OutboundHttp
from idhub.delivery.queue import plan
from idhub.directory.tables import Installation, Principal
from idhub.keys import Keyring
from idhub.services import Hub
from idhub.settings import Settings
from idhub.worker import Worker, purge_expired
from tests.delivery.conftest import hub
from tests.delivery.rows import DONE, delivery, row
from tests.delivery.servers import until
from tests.support.clock import Clock

__all__ = ["hub"]


class CountingChannel:
    """Accepts everything; remembers what was sent."""

    name = "scim"
    ceiling = Grade.E1

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def send(self, delivery: LeasedDelivery, *, now: datetime) -> Outcome:
        self.sent.append(delivery.id)
        await asyncio.sleep(0.01)
        return DONE


@dataclass(frozen=True)
class Opened:
    """An open hub with one channel of the test's own, and a sequencer that may be broken."""

    settings: Settings
    database: Database
    keyring: Keyring
    node: str
    channel: CountingChannel = field(default_factory=CountingChannel)
    is_sealing_broken: bool = False

    def clock(self) -> datetime:
        return datetime.now(UTC)

    def channels(self, _http: OutboundHttp) -> Mapping[str, Channel]:
        return {self.channel.name: self.channel}

    def sequencer(self) -> Sequencer:
        if self.is_sealing_broken:
            raise OSError("the signer is away")
        return Sequencer(
            self.database.engine,
            Ed25519Signer(self.keyring.signing_key("checkpoint").private),
            [FileWitness(self.settings.effective_witness_file)],
            self.node,
            origin="hub.example/audit",
        )


@pytest.fixture
def opened(hub: Database, settings: Settings, keyring: Keyring) -> Opened:
    with hub.transaction() as session:
        session.add(Installation(id=1, epoch=1, created_at=datetime.now(UTC), rules_version=1))
    return Opened(settings, hub, keyring, "node-1")


def run(opened: list[Opened], story: Callable[[list[Worker]], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with OutboundHttp(opened[0].settings) as http:
            workers = [Worker(cast(Hub, one), http) for one in opened]
            for worker in workers:
                await worker.start()
            try:
                return await story(workers)
            finally:
                for worker in workers:
                    await worker.stop()
                assert not any(worker.is_running for worker in workers)

    return asyncio.run(main())


def put_now(database: Database, count: int = 1) -> list[str]:
    with database.transaction() as session:
        return plan(session, [delivery(f"lane_{time.monotonic_ns()}_{i}") for i in range(count)], now=datetime.now(UTC))


def checkpoints(database: Database) -> int:
    with database.read() as session:
        return session.execute(select(func.count()).select_from(audit_checkpoints)).scalar_one()


def unsealed(database: Database) -> int:
    with database.read() as session:
        found: int = session.execute(text("SELECT count(*) FROM audit_events WHERE position IS NULL")).scalar_one()
        return found


def test_a_worker_delivers_and_seals_what_it_recorded(opened: Opened) -> None:
    async def story(_workers: list[Worker]) -> str:
        (planned,) = await asyncio.to_thread(put_now, opened.database)
        await until(lambda: row(opened.database, planned).state == "done", seconds=20)
        await until(lambda: checkpoints(opened.database) > 0, seconds=20)
        return planned

    planned = run([opened], story)

    assert opened.channel.sent == [planned]
    assert unsealed(opened.database) == 0, "the last events are sealed before it ends"
    assert opened.settings.effective_witness_file.is_file()


def test_two_workers_send_everything_once(opened: Opened) -> None:
    """O12."""
    other = Opened(opened.settings, opened.database, opened.keyring, "node-2", opened.channel)

    async def story(_workers: list[Worker]) -> list[str]:
        planned: list[str] = []
        for _ in range(4):
            planned += await asyncio.to_thread(put_now, opened.database, 25)
        await until(lambda: len(opened.channel.sent) >= 100, seconds=40)
        await asyncio.sleep(0.5)
        return planned

    planned = run([opened, other], story)

    assert sorted(opened.channel.sent) == sorted(planned)
    with opened.database.read() as session:
        workers = session.execute(text("SELECT count(*) FROM delivery_attempts")).scalar()
    assert workers == 100


def test_a_job_that_fails_stops_no_other(opened: Opened) -> None:
    broken = Opened(opened.settings, opened.database, opened.keyring, "n", is_sealing_broken=True)

    async def story(_workers: list[Worker]) -> None:
        (planned,) = await asyncio.to_thread(put_now, opened.database)
        await until(lambda: row(opened.database, planned).state == "done", seconds=20)

    run([broken], story)


def test_a_stopped_worker_gives_its_leases_back(opened: Opened) -> None:
    def holders() -> dict[str, datetime]:
        with opened.database.read() as session:
            from idhub.delivery.tables import Lease

            return {r[0]: r[1] for r in session.execute(select(Lease.name, Lease.until))}

    async def story(_workers: list[Worker]) -> None:
        await until(lambda: {"schedule", "purge"} <= holders().keys(), seconds=20)
        assert all(end > datetime.now(UTC) for end in holders().values())

    run([opened], story)

    assert all(end <= datetime.now(UTC) for end in holders().values())


def test_an_idle_worker_writes_nothing(opened: Opened) -> None:
    def state() -> Any:
        with opened.database.read() as session:
            return [
                session.execute(text(f"SELECT count(*) FROM {name}")).scalar()
                for name in ("audit_events", "audit_checkpoints", "deliveries", "delivery_attempts")
            ]

    async def story(_workers: list[Worker]) -> None:
        await asyncio.sleep(1.5)
        before = state()
        await asyncio.sleep(1.5)
        assert state() == before

    run([opened], story)


def seed_credentials(database: Database, clock: Clock) -> None:
    """A session, grant, participant and one of each token, all expiring now, and as many that live."""
    with database.transaction() as session:
        session.execute(
            insert(Principal).values(
                id="per_1",
                kind="person",
                organization_id="org_1",
                standing="active",
                access_epoch=1,
                enrolment_epoch=1,
                access_starts_at=clock(),
                created_at=clock(),
                changed_at=clock(),
            )
        )
        session.execute(
            insert(OidcClient).values(
                client_id="rp",
                application_id="app_a",
                auth_method="none",
                redirect_uris=[],
                post_logout_redirect_uris=[],
                grant_types=[],
                scopes=[],
                access_token_format="jwt",
                id_token_alg="ES256",
                created_at=clock(),
                changed_at=clock(),
            )
        )
        epochs = {"access_epoch": 1, "enrolment_epoch": 1, "installation_epoch": 1}
        for name, ends_at in (("old", clock()), ("live", clock() + timedelta(days=400))):
            person = {"principal_id": "per_1"}
            client = {"client_id": "rp", "application_id": "app_a"}
            session.add(
                SsoSession(
                    id=f"ses_{name}",
                    token_hash=name,
                    authenticated_at=clock(),
                    amr=[],
                    created_at=clock(),
                    last_seen_at=clock(),
                    idle_expires_at=ends_at,
                    expires_at=ends_at,
                    **person,
                    **epochs,
                )
            )
            session.flush()
            session.add(
                SessionParticipant(
                    id=f"par_{name}",
                    session_id=f"ses_{name}",
                    sid=name,
                    sub="s",
                    joined_at=clock(),
                    last_used_at=clock(),
                    **person,
                    **client,
                )
            )
            session.add(
                Grant(
                    id=f"grt_{name}",
                    session_id=f"ses_{name}",
                    scope="openid",
                    created_at=clock(),
                    **person,
                    **client,
                    **epochs,
                )
            )
            session.flush()
            token = {"grant_id": f"grt_{name}", "client_id": "rp"}
            session.execute(
                insert(AuthorizationCode).values(
                    code_hash=name, redirect_uri="x", code_challenge="x", expires_at=ends_at, **token
                )
            )
            issued = {"scope": "openid", "issued_at": clock(), "expires_at": ends_at, **token}
            session.execute(insert(AccessToken).values(token_hash=name, audience="rp", **issued))
            session.execute(
                insert(RefreshToken).values(token_hash=name, family_id=name, idle_expires_at=ends_at, **issued)
            )
            session.execute(
                insert(LoginTransaction).values(
                    id_hash=name, browser_hash="b", protocol="none", request={}, created_at=clock(), expires_at=ends_at
                )
            )
            session.execute(insert(Throttle).values(key=name, window_started_at=ends_at, failures=1))


def left(database: Database) -> dict[str, list[str]]:
    tables = (SsoSession, SessionParticipant, Grant, AuthorizationCode, AccessToken, RefreshToken, LoginTransaction)
    with database.read() as session:
        return {
            table.__tablename__: sorted(
                str(value) for value in session.execute(select(next(iter(table.__table__.primary_key)))).scalars()
            )
            for table in (*tables, Throttle)
        }


def test_only_what_is_long_dead_is_purged(hub: Database, clock: Clock) -> None:
    seed_credentials(hub, clock)
    clock.advance(hours=23)
    assert purge_expired(hub, now=clock()) == {}, "a late replay must still be recognised"

    clock.advance(hours=2)
    removed = purge_expired(hub, now=clock())
    assert removed == {
        "authorization_codes": 1,
        "access_tokens": 1,
        "refresh_tokens": 1,
        "login_transactions": 1,
        "throttles": 1,
    }
    assert left(hub)["sessions"] == ["ses_live", "ses_old"]

    clock.advance(days=90)
    assert purge_expired(hub, now=clock()) == {"grants": 1, "session_participants": 1, "sessions": 1}
    assert {
        name: [one.removeprefix("ses_").removeprefix("par_").removeprefix("grt_") for one in ids]
        for name, ids in left(hub).items()
    } == {name: ["live"] for name in left(hub)}
    assert purge_expired(hub, now=clock()) == {}


def test_purging_is_bounded_and_goes_on_next_time(hub: Database, clock: Clock) -> None:
    rows = [
        {
            "id_hash": f"t{i}",
            "browser_hash": "b",
            "protocol": "none",
            "request": {},
            "created_at": clock(),
            "expires_at": clock(),
        }
        for i in range(1203)
    ]
    with hub.transaction() as session:
        session.execute(insert(LoginTransaction), rows)
    clock.advance(days=2)

    assert purge_expired(hub, now=clock()) == {"login_transactions": 1203}


def test_events_are_sealed_within_moments(opened: Opened) -> None:
    event = Event(
        type=EventType.LOGIN_SUCCEEDED,
        at=datetime.now(UTC),
        actor=COMMAND_LINE,
        door="login",
        target_kind="person",
        target_id="per_1",
    )

    def write() -> None:
        with opened.database.transaction() as session:
            record(session, [event])

    async def story(_workers: list[Worker]) -> float:
        await asyncio.sleep(0.5)
        await asyncio.to_thread(write)
        return await until(lambda: unsealed(opened.database) == 0, seconds=20)

    print(f"\nsealed after {run([opened], story):.2f} s")
