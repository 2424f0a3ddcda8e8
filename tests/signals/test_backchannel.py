"""Back-channel logout against relying parties that answer, refuse and hang: OIDC Back-Channel Logout 1.0; O19."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from aiohttp import web
from sqlalchemy import insert, update

from idhub.access.tables import OidcClient
from idhub.db import Database
from idhub.delivery.channel import Grade, LeasedDelivery, Outcome, PlannedDelivery
from idhub.delivery.http import OutboundHttp
from idhub.delivery.loop import DeliveryLoop
from idhub.delivery.queue import plan
from idhub.keys import Keyring
from idhub.settings import Settings
from idhub.signals.backchannel import BackchannelLogoutChannel
from tests.delivery.conftest import add_applications
from tests.delivery.rows import row
from tests.delivery.servers import serving, until
from tests.support.clock import Clock


def channel_of(
    database: Database, settings: Settings, keyring: Keyring, http: OutboundHttp
) -> BackchannelLogoutChannel:
    return BackchannelLogoutChannel(database, keyring, http, issuer=settings.issuer, timeout=settings.delivery_timeout)


def add_client(
    database: Database,
    clock: Clock,
    client_id: str,
    uri: str | None,
    *,
    application_id: str = "app_a",
    alg: str = "ES256",
) -> None:
    with database.transaction() as session:
        session.execute(
            insert(OidcClient).values(
                client_id=client_id,
                application_id=application_id,
                auth_method="client_secret_basic",
                redirect_uris=[],
                post_logout_redirect_uris=[],
                grant_types=["authorization_code"],
                scopes=["openid"],
                access_token_format="jwt",
                id_token_alg=alg,
                backchannel_logout_uri=uri,
                created_at=clock(),
                changed_at=clock(),
            )
        )


def leased(client_id: str = "rp", **payload: Any) -> LeasedDelivery:
    return LeasedDelivery(
        id="dlv_1",
        application_id="app_a",
        channel="backchannel_logout",
        lane="participant:1",
        operation="logout",
        payload={"client_id": client_id, "sub": "s-1", "sid": "sid-1", "residual_until": None, **payload},
        attempt=1,
        principal_id="per_1",
        account_id=None,
        participant_id="par_1",
        case_id=None,
        required_grade=Grade.E1,
        deadline_at=None,
        quiet_after=None,
    )


def send(
    hub: Database,
    settings: Settings,
    keyring: Keyring,
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    delivery: LeasedDelivery,
    *,
    now: datetime,
    path: str = "/logout",
) -> Outcome:
    async def run() -> Outcome:
        async with serving(handler) as port:
            allowed = settings.model_copy(update={"outbound_allow": f"127.0.0.1:{port}"})
            with hub.transaction() as session:
                session.execute(update(OidcClient).values(backchannel_logout_uri=f"http://127.0.0.1:{port}{path}"))
            async with OutboundHttp(allowed) as http:
                return await channel_of(hub, allowed, keyring, http).send(delivery, now=now)

    return asyncio.run(run())


@pytest.mark.parametrize("alg", ["ES256", "RS256"])
def test_the_logout_token_is_what_the_specification_asks(
    hub: Database, settings: Settings, keyring: Keyring, clock: Clock, alg: str
) -> None:
    """Section 2.4; RFC 8725 section 3.11: its type keeps it apart from every other token."""
    add_client(hub, clock, "rp", None, alg=alg)
    seen: dict[str, Any] = {}

    async def handler(request: web.Request) -> web.Response:
        seen.update(kind=request.content_type, form=dict(await request.post()), method=request.method)
        return web.Response()

    outcome = send(hub, settings, keyring, handler, leased(), now=clock())

    assert (seen["method"], seen["kind"], list(seen["form"])) == (
        "POST",
        "application/x-www-form-urlencoded",
        ["logout_token"],
    )
    token = seen["form"]["logout_token"]
    header = jwt.get_unverified_header(token)
    assert (header["typ"], header["alg"]) == ("logout+jwt", alg)
    public = next(jwk for jwk in keyring.jwks("event")["keys"] if jwk["kid"] == header["kid"])
    claims = jwt.decode(
        token,
        jwt.PyJWK(public).key,
        algorithms=[alg],
        audience="rp",
        options={"verify_exp": False, "verify_iat": False},
    )
    issued_at = int(clock().timestamp())
    assert claims == {
        "iss": settings.issuer,
        "aud": "rp",
        "iat": issued_at,
        "exp": issued_at + 120,
        "jti": "dlv_1",
        "sub": "s-1",
        "sid": "sid-1",
        "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
    }
    assert (outcome.kind, outcome.grade, outcome.status_code) == ("done", Grade.E1, 200)
    assert outcome.evidence["status"] == 200
    assert token not in str(outcome)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, "done"),
        (204, "done"),
        (201, "retry"),
        (302, "retry"),
        (400, "retry"),
        (401, "retry"),
        (500, "retry"),
        (503, "retry"),
    ],
)
def test_only_200_and_204_count_as_accepted(
    hub: Database, settings: Settings, keyring: Keyring, clock: Clock, status: int, kind: str
) -> None:
    add_client(hub, clock, "rp", None)

    async def handler(_request: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": "/elsewhere", "Retry-After": "7"})

    outcome = send(hub, settings, keyring, handler, leased(), now=clock())

    assert (outcome.kind, outcome.status_code) == (kind, status)
    assert outcome.grade == (Grade.E1 if kind == "done" else Grade.E0)
    if kind == "retry":
        assert outcome.error == f"The relying party answered {status}."
        assert outcome.retry_after == timedelta(seconds=7)


def test_the_evidence_states_how_long_tokens_go_on(
    hub: Database, settings: Settings, keyring: Keyring, clock: Clock
) -> None:
    add_client(hub, clock, "rp", None)

    async def handler(_request: web.Request) -> web.Response:
        return web.Response()

    until = (clock() + timedelta(seconds=90, milliseconds=1)).isoformat()
    outcome = send(hub, settings, keyring, handler, leased(residual_until=until), now=clock())
    assert (outcome.evidence["residual_until"], outcome.evidence["residual_seconds"]) == (until, 91)

    clock.advance(minutes=5)
    outcome = send(hub, settings, keyring, handler, leased(residual_until=until), now=clock())
    assert outcome.evidence["residual_seconds"] == 0


def test_an_address_that_is_gone_or_refused_needs_somebody(
    hub: Database, settings: Settings, keyring: Keyring, clock: Clock
) -> None:
    add_client(hub, clock, "rp", None)
    add_client(hub, clock, "inside", "http://10.0.0.1/logout")

    async def run(client_id: str) -> Outcome:
        async with OutboundHttp(settings) as http:
            channel = channel_of(hub, settings, keyring, http)
            return await channel.send(leased(client_id), now=clock())

    gone = asyncio.run(run("rp"))
    unknown = asyncio.run(run("nobody"))
    refused = asyncio.run(run("inside"))

    assert {gone.kind, unknown.kind, refused.kind} == {"dead"}
    assert gone.error == "The client has no back-channel logout address any more."
    assert refused.error == "Plain http to 10.0.0.1:80 is refused; use https."


def test_one_that_fails_and_one_that_hangs_delay_nobody(
    hub: Database, settings: Settings, keyring: Keyring, clock: Clock
) -> None:
    """O19: the others are told within five seconds; the two are tried again, and visible."""
    names = [f"app_{i}" for i in range(12)]
    add_applications(hub, names, clock)
    told: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        if request.path == "/app_0":
            return web.Response(status=500)
        if request.path == "/app_1":
            await asyncio.sleep(3600)
        told.append(request.path[1:])
        return web.Response()

    def planned(name: str) -> PlannedDelivery:
        return PlannedDelivery(
            application_id=name,
            channel="backchannel_logout",
            lane=f"participant:{name}",
            operation="logout",
            payload={"client_id": name, "sub": "s", "sid": name, "residual_until": None},
        )

    def put(port: int) -> dict[str, str]:
        for name in names:
            add_client(hub, clock, name, f"http://127.0.0.1:{port}/{name}", application_id=name)
        with hub.transaction() as session:
            ids = plan(session, [planned(name) for name in names], now=datetime.now(UTC))
        return dict(zip(names, ids, strict=True))

    async def run() -> dict[str, str]:
        async with serving(handler) as port:
            allowed = settings.model_copy(
                update={"outbound_allow": f"127.0.0.1:{port}", "delivery_timeout": timedelta(seconds=2)}
            )
            async with OutboundHttp(allowed) as http:
                channel = channel_of(hub, allowed, keyring, http)
                stop = asyncio.Event()
                loop = DeliveryLoop(hub, allowed, {channel.name: channel}, clock=lambda: datetime.now(UTC), worker="w1")
                working = asyncio.create_task(loop.run(stop))
                ids = await asyncio.to_thread(put, port)
                await until(lambda: len(told) == 10, seconds=5)
                assert sorted(told) == sorted(names[2:])
                await until(lambda: row(hub, ids["app_1"]).last_error is not None, seconds=8)
                stop.set()
                await working
                return ids

    ids = asyncio.run(run())

    assert all(row(hub, ids[name]).state == "done" for name in names[2:])
    failing, hanging = row(hub, ids["app_0"]), row(hub, ids["app_1"])
    assert (failing.state, failing.last_status, failing.last_error) == (
        "pending",
        500,
        "The relying party answered 500.",
    )
    assert (hanging.state, hanging.grade) == ("pending", 0)
    assert hanging.last_error
