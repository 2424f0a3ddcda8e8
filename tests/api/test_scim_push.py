"""Tokens of SCIM events reach receivers over HTTP (RFC 8935): signed, in order, again after a failure, no further."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import jwt
import pytest
from aiohttp import web
from sqlalchemy import update

from idhub.api.scim import PREFIX
from idhub.api.scim_push import has_events, push_events
from idhub.credentials.tables import ApiToken
from idhub.delivery.http import OutboundHttp
from idhub.lifecycle import intake
from idhub.lifecycle.ports import use_follower
from idhub.provisioning.events.feed import Feed
from idhub.provisioning.events.streams import StreamView, list_streams
from idhub.provisioning.events.tables import EventStream
from idhub.services import Hub
from idhub.settings import Settings
from idhub.worker import Worker
from tests.api.test_scim import BASE, Scim
from tests.api.test_scim_events import EVENT, Receiver
from tests.api.world import Api
from tests.delivery.servers import serving, until

Answer = Callable[[int], web.Response]
HEADER = "Bearer receivers-own"


class Pushed(Receiver):
    """A stream that is sent, and what its receiver was sent."""

    def __init__(self, scim: Scim, **wish: Any) -> None:
        super().__init__(scim, push_url="https://receiver.example/events", authorization=HEADER, **wish)
        self.requests: list[web.Request] = []
        self.tokens: list[str] = []
        self.answer: Answer = lambda _number: web.Response(status=202)

    async def handle(self, request: web.Request) -> web.Response:
        """The receiver."""
        self.requests.append(request)
        self.tokens.append(await request.text())
        return self.answer(len(self.tokens))

    def send(self, *, rounds: int = 1) -> int:
        """Let the worker's job run, with the receiver there; returns how many tokens were taken."""

        async def run() -> int:
            async with serving(self.handle) as port:
                hub = self.hub(port)
                async with OutboundHttp(hub.settings) as http:
                    return await _pushed(hub, http, rounds)

        return asyncio.run(run())

    def hub(self, port: int) -> Hub:
        """What the worker works with, when the receiver is at this port."""
        url = f"http://127.0.0.1:{port}/events"
        with self.world.database.transaction() as session:
            session.execute(update(EventStream).where(EventStream.id == self.id).values(push_url=url))
        settings = Settings(issuer=BASE.removesuffix(PREFIX), outbound_allow=f"127.0.0.1:{port}")
        return Hub(settings, self.world.database, self.world.keyring, self.world.clock, "node-worker")

    def received(self) -> list[dict[str, Any]]:
        """Claims of everything that was sent, each verified."""
        return [self.verified(_jti(token), token) for token in self.tokens]

    def view(self) -> StreamView:
        """How the stream fares."""
        with self.world.database.read() as session:
            return next(each for each in list_streams(session) if each.id == self.id)


def _jti(token: str) -> str:
    return str(jwt.decode(token, options={"verify_signature": False})["jti"])


async def _pushed(hub: Hub, http: OutboundHttp, rounds: int = 1) -> int:
    loop = asyncio.get_running_loop()

    def run(work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, loop).result()

    taken = 0
    for _ in range(rounds):
        taken += await asyncio.to_thread(push_events, hub, http, run, seconds=5.0)
    return taken


@pytest.fixture
def scim(api: Api) -> Scim:
    """A sender limited to HQ, of a hub that tells of changes."""
    use_follower(api.world.database, Feed)
    return Scim(api, "scim:read", organization_id=api.world.hq, name="directory")


@pytest.fixture
def receiver(scim: Scim) -> Pushed:
    """Its stream."""
    return Pushed(scim)


def test_changes_are_sent_signed_and_once(receiver: Pushed) -> None:
    """RFC 8935 sections 2.1 and 2.2."""
    world = receiver.world
    person = world.hire()
    world.hire("Elsewhere", organization_id=world.berlin)
    world.change(intake.Offboard(principal_id=person, reason="x"))
    taken = receiver.send()
    again = receiver.send()

    (created, left) = receiver.received()
    assert (taken, again) == (2, 0)
    assert list(created["events"]) == [f"{EVENT}prov:create:notice", f"{EVENT}prov:activate"]
    assert list(left["events"]) == [f"{EVENT}prov:patch:notice", f"{EVENT}prov:deactivate"]
    request = receiver.requests[0]
    assert (request.method, request.content_type) == ("POST", "application/secevent+jwt")
    assert (request.headers["authorization"], request.headers["accept"]) == (HEADER, "application/json")
    view = receiver.view()
    assert (view.waiting, view.failures, view.last_error) == (0, 0, None) and view.heard_at == world.clock()


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_what_is_not_taken_is_sent_again_the_same(receiver: Pushed, status: int) -> None:
    world = receiver.world
    person = world.hire()
    world.change(intake.Suspend(principal_id=person, reason="x"))
    receiver.answer = lambda _number: web.Response(status=status)
    receiver.send()
    failed = receiver.view()
    at_once = receiver.send()
    world.at(world.clock() + timedelta(minutes=20))
    receiver.answer = lambda _number: web.Response(status=202)
    receiver.send()

    first, second, third = receiver.tokens
    assert (failed.failures, failed.waiting) == (1, 4) and str(status) in (failed.last_error or "")
    assert at_once == 0, "it waits a while"
    assert receiver.verified(_jti(first), first) == receiver.verified(_jti(second), second)
    assert _jti(third) != _jti(first)
    assert (receiver.view().failures, receiver.view().waiting) == (0, 0)


def test_pause_grows_and_what_the_receiver_asks_is_waited(receiver: Pushed) -> None:
    world = receiver.world
    world.hire()
    receiver.answer = lambda _number: web.Response(status=503, headers={"Retry-After": "600"})
    receiver.send()
    wrong = has_events(world.database, now=world.clock() - timedelta(days=1))
    world.at(world.clock() + timedelta(seconds=599))
    early = has_events(world.database, now=world.clock())
    world.at(world.clock() + timedelta(seconds=200))

    assert (early, has_events(world.database, now=world.clock())) == (False, True)
    assert wrong, "what a clock that was wrong put off is not waited for"


def test_token_that_cannot_be_read_there_holds_up_no_other(receiver: Pushed) -> None:
    """RFC 8935 section 2.4: `invalid_request` says that the token itself is at fault."""
    world = receiver.world
    for _ in range(3):
        world.hire()
    receiver.answer = lambda number: (
        web.json_response({"err": "invalid_request", "description": "x"}, status=400)
        if number == 1
        else web.Response(status=202)
    )
    receiver.send(rounds=2)

    assert (receiver.view().refused, receiver.view().waiting, len(receiver.tokens)) == (1, 0, 3)


@pytest.mark.parametrize("code", ["invalid_key", "invalid_issuer", "invalid_audience", "authentication_failed", None])
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_receiver_that_does_not_know_the_hub_loses_nothing(receiver: Pushed, code: str | None) -> None:
    receiver.world.hire()
    receiver.answer = lambda _number: web.json_response({"err": code} if code else [], status=400)
    receiver.send()

    assert (receiver.view().refused, receiver.view().failures, receiver.view().waiting) == (0, 1, 2)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_answer_that_is_strange_is_a_failure_and_no_more(receiver: Pushed) -> None:
    receiver.world.hire()
    for body in (b"\xff", b"{", b'{"err": 5}', b"x" * 100_000, b'{"err": "\x00\xe2\x80\xae"}'):
        receiver.answer = lambda _number, body=body: web.Response(status=400, body=body)  # type: ignore[misc]
        receiver.send()
        receiver.world.at(receiver.world.clock() + timedelta(minutes=20))

    assert (receiver.view().failures, receiver.view().waiting) == (5, 2)
    assert (receiver.view().last_error or "").isprintable()


@pytest.mark.parametrize(
    ("status", "kind", "body"),
    [
        (200, "text/html", b"<!doctype html><title>Sign in</title>"),
        (200, "text/plain", b" \r\n<html>"),
        (202, "application/json", b'{"err": "authentication_failed"}'),
        (200, "application/json", b'{"err": "invalid_key", "description": "x"}'),
    ],
)
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_success_with_a_page_or_an_error_is_no_taking(receiver: Pushed, status: int, kind: str, body: bytes) -> None:
    """A sign-in page, or a site that answers every address with itself: events went there and were forgotten."""
    receiver.world.hire()
    receiver.answer = lambda _number: web.Response(status=status, body=body, content_type=kind)
    receiver.send()

    assert (receiver.view().failures, receiver.view().waiting, receiver.view().refused) == (1, 2, 0)


@pytest.mark.parametrize(("status", "body"), [(202, b""), (200, b""), (204, b""), (200, b"{}"), (200, b"ok")])
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_success_that_says_nothing_else_is_a_taking(receiver: Pushed, status: int, body: bytes) -> None:
    receiver.world.hire()
    receiver.answer = lambda _number: web.Response(status=status, body=body)
    receiver.send()

    assert (receiver.view().failures, receiver.view().waiting) == (0, 0)


def test_events_of_one_resource_are_sent_one_after_the_other(receiver: Pushed) -> None:
    """Others are sent meanwhile; of one, a later one never passes an earlier one."""
    world = receiver.world
    people = [world.hire() for _ in range(5)]
    for person in people:
        world.change(intake.Suspend(principal_id=person, reason="x"))
        world.change(intake.Reactivate(principal_id=person))
    receiver.send()

    of_person = {person: [c for c in receiver.received() if c["sub_id"]["id"] == person] for person in people}
    for told in of_person.values():
        ends = [sorted(uri.rpartition(":")[2] for uri in claims["events"]) for claims in told]
        assert ends == [["activate", "notice"], ["deactivate", "notice"], ["activate", "notice"]]


def test_failure_stops_what_comes_after_of_the_same_person(receiver: Pushed) -> None:
    world = receiver.world
    person = world.hire()
    world.change(intake.Suspend(principal_id=person, reason="x"))
    receiver.answer = lambda _number: web.Response(status=500)
    receiver.send()

    assert len(receiver.tokens) == 1


def test_nothing_is_sent_while_no_token_of_the_stream_works(receiver: Pushed) -> None:
    world = receiver.world
    world.hire()
    with world.database.transaction() as session:
        session.execute(update(ApiToken).values(revoked_at=world.clock()))
    receiver.send()
    silent, view = list(receiver.tokens), receiver.view()
    Scim(receiver.scim.api, "scim:read", organization_id=world.hq, name="directory")
    world.at(world.clock() + timedelta(minutes=20))
    receiver.send()

    assert (silent, view.failures, view.waiting) == ([], 1, 2)
    assert "token" in (view.last_error or "")
    assert len(receiver.tokens) == 1


@pytest.mark.parametrize(
    "url",
    [
        "https://10.0.0.1/e",
        "https://169.254.169.254/latest",
        "http://127.0.0.1:9/e",
        "https://[::1]/e",
        "ftp://x.example",
    ],
)
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_nothing_is_sent_where_the_hub_does_not_connect(receiver: Pushed, url: str) -> None:
    world = receiver.world
    world.hire()
    with world.database.transaction() as session:
        session.execute(update(EventStream).values(push_url=url))
    settings = Settings(issuer=BASE.removesuffix(PREFIX))
    hub = Hub(settings, world.database, world.keyring, world.clock, "node-worker")

    async def run() -> int:
        async with OutboundHttp(settings) as http:
            return await _pushed(hub, http)

    assert asyncio.run(run()) == 0
    assert (receiver.view().failures, receiver.view().waiting) == (1, 2)


def test_slow_or_broken_receiver_holds_up_no_other(scim: Scim) -> None:
    broken = Pushed(scim)
    other = Pushed(Scim(scim.api, "scim:read", name="other"))
    broken.answer = lambda _number: web.Response(status=500)
    world = scim.api.world
    world.hire()

    async def run() -> int:
        async with serving(broken.handle) as first, serving(other.handle) as second:
            broken.hub(first)
            hub = other.hub(second)
            allowed = hub.settings.model_copy(update={"outbound_allow": f"127.0.0.1:{first},127.0.0.1:{second}"})
            async with OutboundHttp(allowed) as http:
                return await _pushed(hub, http)

    assert asyncio.run(run()) == 1
    assert (len(broken.tokens), len(other.tokens)) == (1, 1)


def test_worker_sends_what_happens(receiver: Pushed) -> None:
    """End to end: a change, the worker of a process, the receiver."""

    async def run() -> None:
        async with serving(receiver.handle) as port:
            hub = receiver.hub(port)
            worker = Worker(hub, OutboundHttp(hub.settings))
            await worker.start()
            try:
                await asyncio.to_thread(receiver.world.hire)
                await until(lambda: bool(receiver.tokens), seconds=15)
            finally:
                await worker.stop()

    asyncio.run(run())
    assert receiver.received()
