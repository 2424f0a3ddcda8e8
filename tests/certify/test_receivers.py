"""Relying parties and event receivers: each broken one is caught by the check named after it, and by no other."""

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from idhub.delivery.http import OutboundHttp
from idhub.keys import Keyring
from idhub.settings import Settings
from idhub.signals.certify import LOGOUT_CHECKS, SSF_CHECKS, Session, broken, certify_logout, certify_ssf
from idhub.signals.samples import AUDIENCE, CLIENT_ID, COOKIE, TOKEN, Receiver, serve
from scim.certify import Result
from tests.support.clock import Clock

ISSUER = "https://hub.example"
sqlite_only = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
LOGOUT = [check.name for check in LOGOUT_CHECKS]
SSF = [check.name for check in SSF_CHECKS]


def receivers(keyring: Keyring, clock: Clock, names: list[str]) -> dict[str, Receiver]:
    jwks = keyring.jwks("event")
    return {name or "good": Receiver(jwks, ISSUER, clock, name) for name in ["", *names]}


@contextmanager
def serving(receivers: Mapping[str, Receiver]) -> Iterator[str]:
    with serve(receivers, 0) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def graded(
    settings: Settings, address: str, work: Callable[[OutboundHttp], Coroutine[Any, Any, list[Result]]]
) -> list[Result]:
    async def run() -> list[Result]:
        async with OutboundHttp(settings.model_copy(update={"outbound_allow": urlsplit(address).netloc})) as http:
            return await work(http)

    return asyncio.run(run())


@sqlite_only
def test_relying_parties(settings: Settings, keyring: Keyring, clock: Clock) -> None:
    with serving(receivers(keyring, clock, LOGOUT)) as address:
        for name in ["good", *LOGOUT]:
            session = Session(client_id=CLIENT_ID, sub="s1", probe=(f"{address}/{name}/page", COOKIE))
            uri = f"{address}/{name}/logout"
            results = graded(
                settings,
                address,
                lambda http, uri=uri, session=session: certify_logout(  # type: ignore[misc]  # bound in the loop
                    http, uri, session, keyring=keyring, issuer=ISSUER, alg="ES256", now=clock()
                ),
            )
            found = {one.check.name for one in broken(results)}
            assert found == (set() if name == "good" else {name}), (name, [r for r in results if r.verdict == "fail"])


@sqlite_only
def test_relying_party_without_a_page_to_look_at_is_said_to_be_unseen(
    settings: Settings, keyring: Keyring, clock: Clock
) -> None:
    with serving(receivers(keyring, clock, [])) as address:
        results = graded(
            settings,
            address,
            lambda http: certify_logout(
                http,
                f"{address}/good/logout",
                Session(client_id=CLIENT_ID, sub="s1"),
                keyring=keyring,
                issuer=ISSUER,
                alg="RS256",
                now=clock(),
            ),
        )
    absent = {one.check.name for one in results if one.verdict == "absent"}
    assert absent == {"session_survives", "session_ended"}
    assert broken(results) == []


@sqlite_only
def test_receivers_of_events(settings: Settings, keyring: Keyring, clock: Clock) -> None:
    with serving(receivers(keyring, clock, SSF)) as address:
        for name in ["good", *SSF]:
            results = graded(
                settings,
                address,
                lambda http, name=name: certify_ssf(  # type: ignore[misc]  # bound in the loop
                    http,
                    f"{address}/{name}/events",
                    AUDIENCE,
                    token=TOKEN,
                    keyring=keyring,
                    issuer=ISSUER,
                    now=clock(),
                ),
            )
            found = {one.check.name for one in broken(results)}
            assert found == (set() if name == "good" else {name}), (name, [r for r in results if r.verdict == "fail"])


@sqlite_only
@pytest.mark.parametrize(
    ("error", "named"),
    [
        (lambda code: ("application/json", {"err": code, "description": "no"}), {"error_codes"}),
        (lambda code: ("application/problem+json", {"title": "Bad", "status": 400}), {"error_form"}),
    ],
    ids=["one-code", "problem-details"],
)
def test_receiver_that_refuses_in_words_of_its_own_refuses(
    settings: Settings, keyring: Keyring, clock: Clock, error: Any, named: set[str]
) -> None:
    """As receivers that others wrote do: what counts for a leave is that nothing wrong is taken."""

    class Own(Receiver):
        def _error(self, code: str) -> tuple[int, dict[str, str], bytes]:
            media, document = error("invalid_request")
            return 400, {"Content-Type": media}, json.dumps(document).encode()

    with serving({"own": Own(keyring.jwks("event"), ISSUER, clock)}) as address:
        results = graded(
            settings,
            address,
            lambda http: certify_ssf(
                http, f"{address}/own/events", AUDIENCE, token=TOKEN, keyring=keyring, issuer=ISSUER, now=clock()
            ),
        )
    assert {(one.check.name, one.check.level) for one in broken(results)} == {(name, "should") for name in named}


def test_checks_name_their_sections() -> None:
    assert all("section" in check.section for check in (*LOGOUT_CHECKS, *SSF_CHECKS))
