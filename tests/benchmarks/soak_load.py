"""The load of a soak run: two hundred clients use every kind of credential while their holders leave.

One event loop on bare sockets. An arena is one holder at a time with one client for each kind of use; when every kind
has worked and something worked a moment ago, access is ended through the API of one process, and in the same moment
one more use of each kind is sent to the others.
"""

import asyncio
import base64
import json
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import insert

from idhub.authority import HubRole, assign_role
from idhub.changes import COMMAND_LINE
from idhub.credentials import opaque
from idhub.credentials.tables import ApiToken
from idhub.db import new_id
from idhub.directory.organizations import root_organization
from idhub.login import invitations
from tests.benchmarks.soak_history import BEFORE_SECONDS, Ending, Use, Verdict
from tests.support.cluster import (
    Cluster,
    Someone,
    authorize,
    hidden_fields,
    introspect,
    redeem,
    refresh,
    session_cookie,
    userinfo,
)
from tests.support.wire import Answer, Cut, Wire, call, form, get

_PATIENCE = 60.0
_SHOWS_NOTHING = frozenset({429, 500, 502, 503, 504})


@dataclass(eq=False)
class Holder:
    """A person with one of everything."""

    index: int
    person: Someone
    session: str
    link: str
    api_token: str
    office: dict[str, Any] = field(default_factory=dict)
    wiki: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)
    """Tokens of a family that is only asked about."""
    code: str = ""
    spare_code: str = ""
    """Never spent before the end."""
    consent: tuple[str, dict[str, str]] = ("", {})
    form_token: str = ""
    sub: str = ""
    worked: set[str] = field(default_factory=set)
    newest: str = ""
    """The kind that worked last."""
    newest_at: float = 0.0
    tried_after: set[str] = field(default_factory=set)
    has_ended: float | None = None
    is_over: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class Kind:
    """One kind of use: the request, whether an answer means that it worked, what is kept of one that did."""

    group: str
    request: Callable[["Load", Holder], bytes]
    works: Callable[[Answer], bool]
    keep: Callable[[Holder, Answer], None] | None = None


def _ok(answer: Answer) -> bool:
    return answer.status == 200


def _active(answer: Answer) -> bool:
    return answer.status == 200 and b'"active":true' in answer.body


def _has_code(answer: Answer) -> bool:
    return answer.status == 303 and "code=" in answer.location


def _keep_wiki(holder: Holder, answer: Answer) -> None:
    holder.wiki = answer.json()


def _keep_office(holder: Holder, answer: Answer) -> None:
    holder.office = answer.json()


def _signed_in(answer: Answer) -> bool:
    return answer.status == 303 and "idhub_session" in answer.cookies()


KINDS: Mapping[str, Kind] = {
    "account page": Kind("sessions", lambda _, h: get("/account/sessions", cookies=session_cookie(h.session)), _ok),
    "portal": Kind("sessions", lambda _, h: get("/", cookies=session_cookie(h.session)), _ok),
    "console": Kind("sessions", lambda _, h: get(f"/hr/people/{h.person.id}", cookies=session_cookie(h.session)), _ok),
    "end other sessions": Kind(
        "sessions",
        lambda _, h: form(
            "/account/sessions/end-others", {"csrf_token": h.form_token}, cookies=session_cookie(h.session)
        ),
        lambda a: a.status == 303 and "ended=" in a.location,
    ),
    "consent page": Kind("sessions", lambda _, h: get(h.consent[0], cookies=h.consent[1]), _ok),
    "sign-on": Kind("sessions", lambda _, h: authorize("office", h.session, prompt="none"), _has_code),
    "password": Kind("sessions", lambda load, h: load.login(h), _signed_in),
    "one-time link": Kind("sessions", lambda _, h: get(f"/login/first?token={h.link}"), _ok),
    "api token": Kind("api tokens", lambda _, h: get("/api/v1/people?size=1", bearer=h.api_token), _ok),
    "code": Kind("opaque tokens", lambda load, h: load.redemption(h), _ok),
    "userinfo, opaque": Kind("opaque tokens", lambda _, h: userinfo(h.wiki["access_token"]), _ok),
    "introspection, opaque": Kind(
        "opaque tokens", lambda load, h: load.question("wiki", h.kept["access_token"]), _active
    ),
    "introspection, refresh": Kind(
        "opaque tokens", lambda load, h: load.question("wiki", h.kept["refresh_token"]), _active
    ),
    "refresh, opaque": Kind("opaque tokens", lambda load, h: load.renewal("wiki", h.wiki), _ok, _keep_wiki),
    "userinfo, JWT": Kind("JWTs", lambda _, h: userinfo(h.office["access_token"]), _ok),
    "introspection, JWT": Kind("JWTs", lambda load, h: load.question("office", h.office["access_token"]), _active),
    "refresh, JWT": Kind("JWTs", lambda load, h: load.renewal("office", h.office), _ok, _keep_office),
}
"""Every kind of credential at every kind of endpoint that takes one."""
OFFICE_KINDS = frozenset({"sign-on", "userinfo, JWT", "introspection, JWT", "refresh, JWT"})
"""What rests on the entitlement to one application."""
GROUPS = {name: kind.group for name, kind in KINDS.items()}


class Load:
    """Plays against one cluster. `run` returns when everybody's access has been ended."""

    def __init__(
        self, cluster: Cluster, *, clients: int, pause: float = 0.0, say: Callable[[str], None] = lambda _: None
    ) -> None:
        """Take what it works with.

        Args:
            clients: how many at once; rounded to whole arenas.
            pause: seconds between an answer and the next use of the same client; 0: as fast as the hub answers.
        """
        self.cluster = cluster
        self.uses: list[Use] = []
        self.leaves: list[Ending] = []
        self.withdrawals: list[Ending] = []
        self.logouts: dict[str, dict[str, float]] = {}
        """sub -> application -> when its logout token came."""
        self.subs: dict[int, str] = {}
        self.arenas = max(1, round(clients / len(KINDS)))
        self._pause = pause
        self._say = say
        self._login_form: tuple[dict[str, str], dict[str, str]] = ({}, {})
        self._was_told = asyncio.Event()

    @property
    def clients(self) -> int:
        """How many clients are at work at once."""
        return self.arenas * len(KINDS)

    def run(self, *, leaves: int, withdrawals: int) -> None:
        """Furnish holders, then let them work, and leave or lose an application."""
        holders = self._furnish(leaves + withdrawals)
        asyncio.run(self._run(iter(holders), leaves))

    # ------------------------------------------------------------------ requests with something of the load's own

    def question(self, slug: str, token: str) -> bytes:
        """Introspection."""
        return introspect(slug, self.cluster.applications[slug], token)

    def renewal(self, slug: str, tokens: Mapping[str, str]) -> bytes:
        """Refresh."""
        return refresh(slug, self.cluster.applications[slug], tokens["refresh_token"])

    def redemption(self, holder: Holder) -> bytes:
        """Of the holder's newest code; once access has ended, of the one that was spared."""
        code = holder.code if holder.has_ended is None else holder.spare_code
        return redeem("wiki", self.cluster.applications["wiki"], code)

    def login(self, holder: Holder) -> bytes:
        """The sign-in form, each person from an address of their own."""
        fields, cookies = self._login_form
        address = f"10.{holder.index >> 16 & 255}.{holder.index >> 8 & 255}.{holder.index & 255}"
        filled = {**fields, "username": holder.person.number, "password": holder.person.password}
        return form("/login", filled, cookies=cookies, forwarded_for=address)

    # ------------------------------------------------------------------ before

    def _furnish(self, wanted: int) -> list[Holder]:
        cluster, hub = self.cluster, self.cluster.hub
        people = cluster.employees(wanted)
        sessions = cluster.sign_in(people)
        now, holders = hub.clock(), []
        with hub.database.transaction() as session:
            root = root_organization(session)
            for index, (person, token) in enumerate(zip(people, sessions, strict=True)):
                link = invitations.invite(
                    session, person.id, now=now, settings=hub.settings, actor=COMMAND_LINE, purpose="reset_password"
                )
                assign_role(session, person.id, HubRole.HR, organization_id=root, now=now, assigned_by="test")
                api_token = opaque.make("api")
                session.execute(
                    insert(ApiToken).values(
                        id=new_id("tok"), token_hash=opaque.hash_of(api_token), name="own", principal_id=person.id,
                        enrolment_epoch=1, installation_epoch=1, scopes=["people:read"], created_at=now,
                        is_local=False,
                    )
                )  # fmt: skip
                holders.append(Holder(index, person, token, link, api_token))
        return holders

    async def _run(self, holders: Iterator[Holder], leaves: int) -> None:
        ports = self.cluster.ports
        server = await asyncio.start_server(self._take_logout, "127.0.0.1", self.cluster.logout_port)
        opening = await Wire(ports[0]).connect()
        page = await opening.send(get("/login"))
        self._login_form = hidden_fields(page.text), page.cookies()
        opening.close()
        try:
            await asyncio.gather(*(self._arena(number, holders, leaves) for number in range(self.arenas)))
            await self._await_logouts()
        finally:
            server.close()
            await server.wait_closed()

    async def _arena(self, number: int, holders: Iterator[Holder], leaves: int) -> None:
        ports = self.cluster.ports
        # A client stays with a process; its probes go to the next one.
        clients = {kind: Wire(ports[(number + at) % len(ports)]) for at, kind in enumerate(KINDS)}
        probes = {kind: Wire(ports[(number + at + 1) % len(ports)]) for at, kind in enumerate(KINDS)}
        control = Wire(ports[number % len(ports)])
        for wire in (*clients.values(), *probes.values(), control):
            await wire.connect()
        try:
            for holder in holders:
                await self._obtain(holder, control)
                await self._play(holder, clients, probes, control, is_leave=holder.index < leaves)
        finally:
            for wire in (*clients.values(), *probes.values(), control):
                wire.close()

    async def _obtain(self, holder: Holder, wire: Wire) -> None:
        """Everything that the holder will use, from the hub itself."""
        for slug, name in (("office", "office"), ("wiki", "wiki"), ("wiki", "kept")):
            opened = await wire.send(authorize(slug, holder.session))
            assert _has_code(opened), f"{opened.status} {opened.location} {opened.text[:300]}"
            code = opened.query["code"]
            answer = await wire.send(redeem(slug, self.cluster.applications[slug], code))
            setattr(holder, name, answer.json())
        holder.sub = _payload(holder.office["id_token"])["sub"]
        self.subs[holder.index] = holder.sub
        holder.code = holder.spare_code = (await wire.send(authorize("wiki", holder.session))).query["code"]
        begun = await wire.send(authorize("desk", holder.session))
        holder.consent = begun.location, {**session_cookie(holder.session), **begun.cookies()}
        page = await wire.send(get("/account/sessions", cookies=session_cookie(holder.session)))
        holder.form_token = hidden_fields(page.text)["csrf_token"]

    # ------------------------------------------------------------------ the race

    async def _play(
        self, holder: Holder, clients: Mapping[str, Wire], probes: Mapping[str, Wire], control: Wire, *, is_leave: bool
    ) -> None:
        kinds = frozenset(KINDS) if is_leave else OFFICE_KINDS
        work = [asyncio.create_task(self._hammer(holder, kind, wire)) for kind, wire in clients.items()]
        checks: list[Coroutine[Any, Any, None]] = []
        try:
            await self._until(holder, lambda: holder.worked >= set(KINDS), "every kind works")
            # Another success first, of what will end: the last one is a moment ago and not one that we waited beside.
            holder.changed.clear()
            await self._until(holder, lambda: _has_just_worked(holder, kinds), "one more works", at_least_one=True)
            path, body = ("offboarding", {}) if is_leave else ("move", {"employment_type": "contractor"})
            request = call("POST", f"/api/v1/people/{holder.person.id}/{path}", body, bearer=self.cluster.api_token)
            asked = time.monotonic()
            answer = await control.send(request)
            answered = holder.has_ended = time.monotonic()
            # One more of each kind, written at once: whatever this loop is kept from, they begin in time.
            begun = [(kind, probes[kind], self._begin(holder, kind, probes[kind])) for kind in sorted(kinds)]
            checks = [self._end(holder, kind, wire, began) for kind, wire, began in begun]
            assert answer.status == 200, f"{answer.status} {answer.text}"
            ending = Ending(holder.index, self.cluster.ports.index(control.port), asked, answered, kinds)
            (self.leaves if is_leave else self.withdrawals).append(ending)
            await asyncio.gather(*checks)
            checks.clear()
            await self._until(holder, lambda: holder.tried_after >= kinds, "every kind was tried again")
        finally:
            holder.is_over = True
            await asyncio.gather(*work, *checks)
        done = len(self.leaves) + len(self.withdrawals)
        if done % 50 == 0:
            self._say(f"{done} ended, {len(self.uses)} uses")

    async def _until(
        self, holder: Holder, condition: Callable[[], bool], what: str, *, at_least_one: bool = False
    ) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                while at_least_one or not condition():
                    at_least_one = False
                    await holder.changed.wait()
                    holder.changed.clear()
        except TimeoutError as error:
            missing = sorted(set(KINDS) - (holder.worked if holder.has_ended is None else holder.tried_after))
            raise AssertionError(f"not within {_PATIENCE:g} s: {what}; missing {missing}") from error

    async def _hammer(self, holder: Holder, kind: str, wire: Wire) -> None:
        while not holder.is_over:
            if kind == "code" and holder.has_ended is None:
                await self._next_code(holder, wire)
            await self._use(holder, kind, wire)
            if self._pause and not holder.is_over:
                await asyncio.sleep(self._pause)

    async def _next_code(self, holder: Holder, wire: Wire) -> None:
        answer = await wire.send(authorize("wiki", holder.session, prompt="none"))
        if _has_code(answer):
            holder.code = answer.query["code"]

    async def _use(self, holder: Holder, kind: str, wire: Wire) -> None:
        await self._end(holder, kind, wire, self._begin(holder, kind, wire))

    def _begin(self, holder: Holder, kind: str, wire: Wire) -> float:
        request = KINDS[kind].request(self, holder)
        began = time.monotonic()
        wire.write(request)
        return began

    async def _end(self, holder: Holder, name: str, wire: Wire, began: float) -> None:
        kind = KINDS[name]
        verdict: Verdict = "unknown"
        answer: Answer | None = None
        try:
            answer = await wire.answer()
        except Cut:
            await wire.connect()
        ended = time.monotonic()
        if answer is not None and answer.status not in _SHOWS_NOTHING:
            verdict = "ok" if kind.works(answer) else "refused"
        self.uses.append(Use(holder.index, name, self.cluster.ports.index(wire.port), began, ended, verdict))
        if verdict == "ok":
            holder.worked.add(name)
            holder.newest, holder.newest_at = name, ended
            if kind.keep is not None and answer is not None:
                kind.keep(holder, answer)
            holder.changed.set()
        if holder.has_ended is not None and began >= holder.has_ended:
            holder.tried_after.add(name)
            holder.changed.set()

    # ------------------------------------------------------------------ applications that are told

    async def _take_logout(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A handler that is cancelled when the run is over would be reported as a failure.
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length")
                )
                body = await reader.readexactly(length)
                came = time.monotonic()
                slug = head.split(b" ", 2)[1].strip(b"/").decode()
                sub = _payload(body.decode().partition("logout_token=")[2])["sub"]
                self.logouts.setdefault(sub, {}).setdefault(slug, came)
                self._was_told.set()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
        writer.close()

    def told(self) -> tuple[list[float], list[int]]:
        """Seconds from asking until each application was told, for each leave; and leavers of whom one was not."""
        waits, missing = [], []
        for leave in self.leaves:
            came = self.logouts.get(self.subs[leave.holder], {})
            if not {"office", "wiki"} <= set(came):
                missing.append(leave.holder)
            waits += [instant - leave.asked for instant in came.values()]
        return waits, missing

    async def _await_logouts(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while self.told()[1] and time.monotonic() < deadline:
            self._was_told.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._was_told.wait()


def _has_just_worked(holder: Holder, kinds: frozenset[str]) -> bool:
    """Whether something that will end worked a moment ago; where this loop was kept from looking, another must."""
    return holder.newest in kinds and time.monotonic() - holder.newest_at < BEFORE_SECONDS / 2


def _payload(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found
