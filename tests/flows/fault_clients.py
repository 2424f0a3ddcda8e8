"""Clients that ask a hub the same kinds of things again and again while something happens to it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2
from sqlalchemy import select

from idhub.directory.tables import Employment
from tests.flows.fault_scene import CALLBACK, CLIENT, CLIENT_SECRET, COMPANY, SIGNER, Scene, challenge


@dataclass
class Client:
    """Asks the same kind of thing again and again, and writes down what came of it."""

    name: str
    ask: Callable[[httpx2.Client, int], httpx2.Response]
    scene: Scene
    stop: threading.Event
    first: int = 0
    """Numbers begin behind it: who onboards beside others has numbers of their own."""
    acknowledged: list[int] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    succeeded_at: list[float] = field(default_factory=list)
    slowest: float = 0.0

    def run(self) -> None:
        """Until told to stop."""
        number = self.first
        while not self.stop.is_set():
            number += 1
            began = time.monotonic()
            try:
                with httpx2.Client(base_url=f"http://127.0.0.1:{self.scene.port}", timeout=30) as http:
                    answer = self.ask(http, number)
            except httpx2.TransportError as error:
                self.wrong.append(f"{type(error).__name__}: {error}")
                continue
            self.slowest = max(self.slowest, time.monotonic() - began)
            self._note(answer, number)
            time.sleep(0.02)

    def _note(self, answer: httpx2.Response, number: int) -> None:
        self.statuses[answer.status_code] += 1
        if answer.is_success:
            self.acknowledged.append(number)
            self.succeeded_at.append(time.monotonic())
        elif answer.status_code == 503 and int(answer.headers.get("retry-after", "0")) >= 1:
            self.unknown.append(number)
            time.sleep(0.1)
        else:
            self.wrong.append(f"{answer.status_code} {answer.text[:300]}")
        if "Traceback" in answer.text:
            self.wrong.append("a traceback")


def clients_of(scene: Scene, stop: threading.Event, access_token: str, *, first: int = 0) -> list[Client]:
    """One of each kind."""
    api = {"authorization": f"Bearer {scene.prepared.api_token}"}
    today = date.today().isoformat()  # noqa: DTZ011 - the machine's own day will do

    def onboard(http: httpx2.Client, number: int) -> httpx2.Response:
        post: dict[str, Any] = {"employee_number": f"QP{number:05}", "company": COMPANY, "start_date": today}
        body = {"display_name": "林晓", "employment": {**post, "employment_type": "contractor"}}
        return http.post("/api/v1/people", json=body, headers=api)

    def introspect(http: httpx2.Client, _number: int) -> httpx2.Response:
        return http.post("/oauth2/introspect", data={"token": access_token}, auth=(CLIENT, CLIENT_SECRET))

    def userinfo(http: httpx2.Client, _number: int) -> httpx2.Response:
        return http.get("/oauth2/userinfo", headers={"authorization": f"Bearer {access_token}"})

    def page(http: httpx2.Client, _number: int) -> httpx2.Response:
        answer = http.get("/oauth2/authorize", params=authorize_query())
        return httpx2.Response(200) if answer.status_code in {302, 303} else answer

    def read(http: httpx2.Client, _number: int) -> httpx2.Response:
        return http.get(f"/api/v1/people/{SIGNER}", headers=api)

    kinds = {"onboard": onboard, "introspect": introspect, "userinfo": userinfo, "authorize": page, "read": read}
    return [Client(name, ask, scene, stop, first) for name, ask in kinds.items()]


def authorize_query() -> dict[str, str]:
    """What an application sends a browser to the authorization endpoint with."""
    query = f"response_type=code&client_id={CLIENT}&redirect_uri={CALLBACK}&scope=openid&state=s"
    return dict(parse_qsl(urlsplit(f"?{query}").query)) | {
        "code_challenge": challenge(),
        "code_challenge_method": "S256",
    }


@contextmanager
def asking(scene: Scene, access_token: str, *, first: int = 0) -> Iterator[list[Client]]:
    """The clients, each in a thread of its own until the block ends."""
    stop = threading.Event()
    clients = clients_of(scene, stop, access_token, first=first)
    threads = [threading.Thread(target=client.run, daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    try:
        yield clients
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "a request hangs"


def wait_for_all(clients: list[Client], *, since: float, seconds: float) -> dict[str, float]:
    """Wait until each has had an answer after `since`; after how many seconds it came."""
    for client in clients:
        while not any(at > since for at in client.succeeded_at[-1:]):
            assert time.monotonic() < since + seconds, f"{client.name}: {client.wrong}\n{client.scene.tail()}"
            time.sleep(0.02)
    return {client.name: client.succeeded_at[-1] - since for client in clients}


def lost_people(clients: list[Client]) -> tuple[list[int], int]:
    """Of those who were onboarded: who was acknowledged and is not there; how many are there of those unknown."""
    (onboarded,) = [client for client in clients if client.name == "onboard"]
    with onboarded.scene.look() as database, database.read() as session:
        present = set(session.execute(select(Employment.employee_number)).scalars())
    lost = [number for number in onboarded.acknowledged if f"QP{number:05}" not in present]
    return lost, sum(f"QP{number:05}" in present for number in onboarded.unknown)
