"""A hub that may die: a prepared installation, copies of it, and what watches them from outside.

Owns: preparing (once for each database), copying (each trial has its own database, folder and downstreams), starting
and reviving its process, and talking to it. Does not own: what is asked of it (`fault_flows`), what must hold
(`fault_checks`).

Every copy answers to the issuer of the prepared hub, on a port of its own: clients take a detour (`Detour`).
"""

from __future__ import annotations

import base64
import copy
import csv
import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import parse_qs, urlsplit

import httpx2
import yaml
from sqlalchemy import func, select, update

from audit.arrivals import count_waiting
from audit.tables import audit_checkpoints, audit_head
from idhub.access.tables import OidcClient, ScimTarget
from idhub.db import Database, create_database
from idhub.delivery.tables import Delivery
from idhub.demo import signing_in
from idhub.demo.browser import Browser
from idhub.lifecycle.tables import ReceiptDue
from idhub.settings import Settings
from providers.hr_file import COLUMNS
from tests.provisioning.stand_ins import StandIn
from tests.support.databases import DatabaseKind, Databases
from tests.support.nursery import Child, Nursery
from tests.support.processes import answers, free_port, wait_until

COMPANY = "总部"
PASSWORD = "a-long-quiet-sentence-9"
CALLBACK = "http://127.0.0.1:9/callback"
CLIENT, CLIENT_SECRET = "office", "s" * 43
OWNER, LEAVER, RETURNER, SIGNER = (f"QY00010{n}" for n in range(4))
_STARTED = (date.today() - timedelta(days=400)).isoformat()  # noqa: DTZ011 - the machine's own day will do
PATIENCE = 90.0
"""Seconds within which everything must have come to rest after a death, on a busy machine."""


class Detour(httpx2.HTTPTransport):
    """Brings requests for the issuer to where this copy of the hub listens; the application's callback is nobody."""

    def __init__(self, issuer_port: int, port: int) -> None:
        super().__init__()
        self._issuer_port, self._port = issuer_port, port

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """See `httpx2.BaseTransport`."""
        if request.url.port == self._issuer_port:
            # Another request, so that whoever follows the answer goes on with the address that the world knows.
            request = httpx2.Request(
                request.method,
                request.url.copy_with(port=self._port),
                headers=request.headers,
                stream=request.stream,
                extensions=request.extensions,
            )
        elif str(request.url).startswith(CALLBACK):
            return httpx2.Response(200)
        return super().handle_request(request)


@dataclass
class LogoutReceiver:
    """A relying party's back-channel logout address: remembers which logout tokens came, and ends sessions once."""

    came: list[tuple[str, str]] = field(default_factory=list)
    """(jti, sid), in order."""
    ended_at: dict[str, float] = field(default_factory=dict)
    _server: ThreadingHTTPServer | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                payload = form["logout_token"][0].split(".")[1]
                claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
                receiver.came.append((claims["jti"], claims["sid"]))
                receiver.ended_at.setdefault(claims["sid"], time.time())
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing on stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()


@dataclass(frozen=True)
class Held:
    """What the person who will leave has in hand."""

    access_token: str
    refresh_token: str


@dataclass
class Prepared:
    """The installation that every trial begins with: people, one application, a signed-in person, one who has left."""

    kind: DatabaseKind
    folder: Path
    database: str
    """Name of the PostgreSQL database, a template from now on; empty on SQLite."""
    issuer_port: int
    nursery: Nursery
    databases: Databases
    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Accounts at the SCIM service."""
    api_token: str = ""
    held: Held | None = None

    def environment(self, folder: Path, url: str, ports: Sequence[int]) -> dict[str, str]:
        """Settings of a hub: the real ones, but for shorter waits and cheap hashing."""
        return {
            "IDHUB_ISSUER": f"http://127.0.0.1:{self.issuer_port}",
            "IDHUB_DATA_DIR": str(folder / "data"),
            "IDHUB_DATABASE_URL": url,
            "IDHUB_DATABASE_POOL_SIZE": "6",
            "IDHUB_OUTBOUND_ALLOW": ",".join(f"127.0.0.1:{port}" for port in ports),
            "IDHUB_ARGON2_MEMORY_KIB": "1024",
            "IDHUB_ARGON2_TIME_COST": "1",
            "IDHUB_HASH_WORKERS": "1",
            "IDHUB_DELIVERY_TIMEOUT": "PT3S",
            "IDHUB_DELIVERY_LEASE": "PT4S",
            "IDHUB_CODE_LIFETIME": "PT10M",
            "IDHUB_LOG_LEVEL": "warning",
        }


Role = Literal["serve", "worker", "command"]
"""The processes of a hub: `idhub serve --no-worker`, `idhub worker`, and a command that works beside them."""


@dataclass
class Scene:
    """One copy: its processes, its downstreams, its clients.

    `faults` go to the first process of each role that they name.
    """

    prepared: Prepared
    folder: Path
    url: str
    scim: StandIn
    receiver: LogoutReceiver
    faults: Mapping[Role, Mapping[str, Any]] = field(default_factory=dict)
    more_settings: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    children: dict[Role, Child] = field(default_factory=dict)
    deaths: int = 0
    recovery_seconds: float = 0.0
    """From the death until everything was at rest again."""
    unknown: int = 0
    """Requests whose outcome the client never learnt."""
    refused: int = 0
    """Requests that were answered 503."""
    acknowledged: str = ""
    """An access token that a client has been given."""
    began_at: float = field(default_factory=time.time)
    _died_at: float = 0.0

    @property
    def environment(self) -> dict[str, str]:
        """The settings of its processes."""
        ports = [self.scim.port, self.receiver.port]
        return {**self.prepared.environment(self.folder, self.url, ports), **self.more_settings}

    # ---- processes

    def start(self, role: Role) -> None:
        """Start `serve` or `worker`; the first of its role gets the faults."""
        arguments = ["serve", "--no-worker", "--port", str(self.port)] if role == "serve" else ["worker"]
        faults = None if self.deaths else self.faults.get(role)
        log = self.folder / f"{role}.log"
        self.children[role] = self.prepared.nursery.start(arguments, env=self.environment, log=log, faults=faults)
        if role == "serve":
            # It may die while it starts, where a trial wants that.
            wait_until(
                lambda: answers(self.port) or self.status(role) is not None, seconds=PATIENCE, what="the hub answers"
            )

    def arm(self) -> None:
        """From now on fault points count."""
        (self.folder / "armed").touch()

    def status(self, role: Role) -> int | None:
        """How the process of a role ended; None while it runs."""
        return self.prepared.nursery.status(self.children[role])

    def revive(self) -> None:
        """Start again, without faults, what was to die and has died."""
        for role in tuple(self.children):
            while (status := self.status(role)) is not None:
                self._note_death(role, status)
                self.start(role)

    def _note_death(self, role: Role, status: int) -> None:
        expected = status == -signal.SIGKILL and "kill" in self.faults.get(role, ()) and not self.deaths
        assert expected, f"{role} ended with {status} after {self.deaths} deaths:\n{self.tail()}"
        self.deaths += 1
        self._died_at = time.monotonic()

    def stop(self, role: Role) -> None:
        """End a process politely; one that was told to die may do so only now, and is followed by another."""
        status = self.prepared.nursery.stop(self.children[role])
        if status == -signal.SIGKILL:
            self._note_death(role, status)
            self.start(role)
            self.settle()
            status = self.prepared.nursery.stop(self.children[role])
        assert status in {0, -signal.SIGTERM}, f"{role} ended with {status}:\n{self.tail()}"
        del self.children[role]

    def run(self, *arguments: str | Path, seconds: float = PATIENCE) -> int:
        """Run a command to its end, again if it was killed; its exit status."""
        status = self._run(arguments, None if self.deaths else self.faults.get("command"), seconds)
        if status == -signal.SIGKILL:
            self._note_death("command", status)
            status = self._run(arguments, None, seconds)
        return status

    def _run(self, arguments: Sequence[str | Path], faults: Mapping[str, Any] | None, seconds: float) -> int:
        self.out.unlink(missing_ok=True)
        log = self.folder / "command.log"
        child = self.prepared.nursery.start(arguments, env=self.environment, log=log, out=self.out, faults=faults)
        status = self.prepared.nursery.wait(child, seconds=seconds)
        assert status is not None, f"{arguments} does not end:\n{self.tail()}"
        return status

    @property
    def out(self) -> Path:
        """What the last command printed."""
        return self.folder / "printed"

    def tail(self) -> str:
        """The end of what was said."""
        return "\n".join(path.read_text(errors="replace")[-4000:] for path in sorted(self.folder.glob("*.log")))

    # ---- clients

    def browser(self) -> Browser:
        """A person's browser."""
        return Browser(transport=Detour(self.prepared.issuer_port, self.port))

    def issuer(self, path: str) -> str:
        """An address of the hub, as the world knows it."""
        return f"http://127.0.0.1:{self.prepared.issuer_port}{path}"

    def ask(
        self, method: str, path: str, *, also: Sequence[int] = (), patience: float = PATIENCE, **more: Any
    ) -> httpx2.Response:
        """Ask until there is an answer: a broken connection is followed by the same request, 503 after Retry-After.

        Args:
            also: statuses beyond 2xx that are an answer.
        """
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            self.revive()
            try:
                with httpx2.Client(timeout=30) as client:
                    answer = client.request(method, f"http://127.0.0.1:{self.port}{path}", **more)
            except httpx2.TransportError:
                self.unknown += 1
                time.sleep(0.02)
                continue
            if answer.status_code == 503:
                assert int(answer.headers["retry-after"]) >= 1, "503 says when to come back"
                self.refused += 1
                time.sleep(0.2)
                continue
            assert answer.is_success or answer.status_code in also, f"{answer.status_code} {answer.text}\n{self.tail()}"
            return answer
        raise AssertionError(f"no answer within {patience:g} s from {method} {path}:\n{self.tail()}")

    def api(self, method: str, path: str, **more: Any) -> httpx2.Response:
        """Ask the administration API."""
        headers = {"authorization": f"Bearer {self.prepared.api_token}"}
        return self.ask(method, f"/api/v1{path}", headers=headers, **more)

    def token(self, **form: str) -> httpx2.Response:
        """Ask the token endpoint as the application; `invalid_grant` is an answer."""
        answer = self.ask("POST", "/oauth2/token", data=form, auth=(CLIENT, CLIENT_SECRET), also=(400,))
        assert answer.is_success or answer.json()["error"] == "invalid_grant", answer.text
        return answer

    def is_active(self, token: str) -> bool:
        """Whether introspection calls a token active."""
        answer = self.ask("POST", "/oauth2/introspect", data={"token": token}, auth=(CLIENT, CLIENT_SECRET))
        return bool(answer.json()["active"])

    # ---- the database, from outside

    @contextmanager
    def look(self) -> Iterator[Database]:
        """Open its database beside it."""
        database = create_database(Settings(data_dir=self.folder / "data", database_url=self.url))
        try:
            yield database
        finally:
            database.dispose()

    def settle(self, is_done: Callable[[], bool] = lambda: True) -> float:
        """Wait until nothing is left to do: deliveries, receipts, the log. Revives the hub. Returns the seconds."""
        began = time.monotonic()
        with self.look() as database:
            while not (self._is_at_rest(database) and is_done()):
                self.revive()
                assert time.monotonic() - began < PATIENCE, f"not at rest: {self.unrest(database)}\n{self.tail()}"
                time.sleep(0.1)
        if self._died_at and not self.recovery_seconds:
            self.recovery_seconds = time.monotonic() - self._died_at
        return time.monotonic() - began

    @staticmethod
    def _is_at_rest(database: Database) -> bool:
        return not any(Scene.unrest(database).values())

    @staticmethod
    def unrest(database: Database) -> dict[str, int]:
        """What still waits."""
        with database.read() as session:
            size = session.execute(select(audit_head.c.size)).scalar() or 0
            signed = session.execute(select(func.max(audit_checkpoints.c.size))).scalar() or 0
            waiting = select(func.count()).select_from(Delivery).where(Delivery.state.in_(("pending", "leased")))
            return {
                "deliveries": session.execute(waiting).scalar_one(),
                "receipts": session.execute(select(func.count()).select_from(ReceiptDue)).scalar_one(),
                "events": count_waiting(session.connection())[0],
                "unsigned": size - signed,
            }


# ---- preparing and copying


def write_people(path: Path, people: Mapping[str, Mapping[str, str]]) -> None:
    """An HR file."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        for number, values in people.items():
            row = {
                "employee_number": number,
                "name": f"林晓{number[-3:]}",
                "email": f"{number.lower()}@qiyue.example",
                "company": COMPANY,
                "department": "信息技术部/平台",
                "employment_type": "regular",
                "start_date": _STARTED,
                "status": "active",
            }
            writer.writerow({**row, **values})


def _application(scim_port: int, receiver_port: int) -> dict[str, object]:
    return {
        "slug": "office",
        "name": {"en": "Office", "zh": "办公"},
        "owner": OWNER,
        "oidc": {
            "client_id": CLIENT,
            "client_secret_file": "office.secret",
            "auth_method": "client_secret_basic",
            "redirect_uris": [CALLBACK],
            "backchannel_logout_uri": f"http://127.0.0.1:{receiver_port}/logout",
        },
        "scim": {"base_url": f"http://127.0.0.1:{scim_port}/scim/v2", "token_file": "scim.token"},
        "entitle": [{"role": "member", "rule": 'employments.type ne "contractor"'}],
    }


def prepare(kind: DatabaseKind, folder: Path, nursery: Nursery, databases: Databases) -> Prepared:
    """Make the installation, with the real commands and the real pages."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"faults_{folder.name}".lower().replace("-", "_") if kind == "postgresql" else ""
    url = databases.server.create(name) if kind == "postgresql" else f"sqlite:///{folder / 'data' / 'idhub.db'}"
    prepared = Prepared(kind, folder, name, free_port(), nursery, databases)
    with StandIn() as scim, LogoutReceiver() as receiver:
        scene = Scene(prepared, folder, url, scim, receiver)
        (folder / "office.secret").write_text(CLIENT_SECRET + "\n")
        (folder / "scim.token").write_text(scim.token + "\n")
        document = {"applications": [_application(scim.port, receiver.port)]}
        (folder / "apps.yaml").write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
        write_people(folder / "people.csv", {number: {} for number in (OWNER, LEAVER, RETURNER, SIGNER)})
        scene.start("serve")
        scene.start("worker")
        for command in (("people", "import", folder / "people.csv"), ("apply", folder / "apps.yaml")):
            assert scene.run(*command) == 0, scene.tail()
        assert scene.run("token", "create", "--scope", "people:write") == 0, scene.tail()
        prepared.api_token = scene.out.read_text().strip()
        for number in (LEAVER, SIGNER):
            assert scene.run("people", "invite", number) == 0, scene.tail()
            with scene.browser() as browser:
                signing_in.set_first_password(browser, scene.out.read_text().strip(), PASSWORD)
        tokens = sign_in(scene, LEAVER)
        prepared.held = Held(tokens["access_token"], tokens["refresh_token"])
        scene.api("POST", f"/people/{RETURNER}/offboarding", json={})
        scene.settle()
        scene.stop("serve")
        scene.stop("worker")
        prepared.users = copy.deepcopy(scim.users)
    return prepared


VERIFIER = "v" * 43


def authorize_url(scene: Scene) -> str:
    """Where an application sends a browser for a code."""
    query = {
        "response_type": "code",
        "client_id": CLIENT,
        "redirect_uri": CALLBACK,
        "scope": "openid profile offline_access",
        "state": "state-of-the-application",
        "code_challenge": challenge(),
        "code_challenge_method": "S256",
    }
    return str(httpx2.URL(scene.issuer("/oauth2/authorize"), params=query))


def challenge() -> str:
    """The S256 challenge of `VERIFIER`, RFC 7636 section 4.2."""
    import hashlib

    return base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()


def get_code(scene: Scene, browser: Browser, number: str) -> str:
    """Through the pages to a code; begins again wherever the hub dies in between."""
    deadline = time.monotonic() + PATIENCE
    while True:
        scene.revive()
        try:
            page = signing_in.sign_in(browser, authorize_url(scene), number, PASSWORD).page
        except httpx2.TransportError:
            scene.unknown += 1
            time.sleep(0.02)
            continue
        code = parse_qs(urlsplit(page.url).query).get("code")
        if page.url.startswith(CALLBACK) and code:
            return code[0]
        assert page.status in {200, 503} and time.monotonic() < deadline, f"{page.url} {page.status} {page.text[:300]}"
        if page.status == 503:
            scene.refused += 1
        time.sleep(0.2)


def sign_in(scene: Scene, number: str, *, enters_again: bool = False) -> dict[str, Any]:
    """Sign in to the application: its tokens.

    Args:
        enters_again: come once more afterwards, with the session that there is then.
    """
    with scene.browser() as browser:
        while True:
            before = scene.unknown
            answer = scene.token(
                grant_type="authorization_code",
                code=get_code(scene, browser, number),
                redirect_uri=CALLBACK,
                code_verifier=VERIFIER,
            )
            if answer.is_success:
                tokens: dict[str, Any] = answer.json()
                if enters_again:
                    get_code(scene, browser, number)
                return tokens
            assert scene.unknown > before, "a code is refused only to one who may have spent it already"


@contextmanager
def copied(
    prepared: Prepared,
    folder: Path,
    *,
    faults: Mapping[Role, Mapping[str, Any]] | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Scene]:
    """A copy of the prepared installation; gone when the block ends, with its process."""
    folder.mkdir(parents=True)
    name = ""
    shutil.copytree(prepared.folder / "data", folder / "data")
    if prepared.kind == "postgresql":
        name = f"{prepared.database}_{folder.name}".lower().replace("-", "_")
        url = prepared.databases.server.create(name, template=prepared.database)
    else:
        url = f"sqlite:///{folder / 'data' / 'idhub.db'}"
    try:
        with StandIn(users=copy.deepcopy(prepared.users)) as scim, LogoutReceiver() as receiver:
            scene = Scene(prepared, folder, url, scim, receiver, faults or {}, settings or {})
            with scene.look() as database, database.transaction() as session:
                session.execute(update(ScimTarget).values(base_url=scim.base_url))
                logout = f"http://127.0.0.1:{receiver.port}/logout"
                session.execute(update(OidcClient).values(backchannel_logout_uri=logout))
            try:
                yield scene
            finally:
                for child in scene.children.values():
                    prepared.nursery.signal(child, signal.SIGKILL)
                    prepared.nursery.wait(child, seconds=10)
    finally:
        if name:
            prepared.databases.server.drop(name)
        shutil.rmtree(folder, ignore_errors=True)
