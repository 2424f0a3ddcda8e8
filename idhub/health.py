"""Is it alive, is it fit to serve, what is wrong with it: /healthz, /readyz, /metrics, and `idhub doctor`.

Answers name the part that fails, never an address, a user or an error text of a database. What is asked by everybody is
answered from a look at most a second old.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

import orjson
from fastapi import APIRouter
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.responses import Response

from audit.checkpoint import SyslogWitness
from audit.sequencer import lag as sequencer_lag
from audit.tables import audit_events, audit_positions
from idhub.access.tables import Application
from idhub.admission import Admission
from idhub.authority import NEVER, administered_until
from idhub.credentials.tables import AccessToken, RefreshToken, SsoSession
from idhub.delivery import overview
from idhub.delivery.holds import holds
from idhub.delivery.leases import CLOCKS_DIFFER
from idhub.delivery.tables import Delivery
from idhub.directory.organizations import recovery_reason
from idhub.directory.tables import Installation
from idhub.errors import IdhubError
from idhub.interpreter import described
from idhub.keys import PURPOSES
from idhub.lifecycle import reevaluation
from idhub.login.argon2id import Costs, fastest, hash_password
from idhub.login.passwords import HashingPool
from idhub.migrations import Fit, fit
from idhub.provisioning.events.streams import StreamView, list_streams
from idhub.provisioning.outbound import tokens
from idhub.recovery import last_new_witness
from idhub.saml.refresh import warnings as saml_warnings
from idhub.services import Hub, syslog_witness
from idhub.settings import Settings, unknown_variables
from idhub.sqlite_library import may_lose_pages

SEQUENCER_LAG_LIMIT: Final = timedelta(seconds=30)
DELIVERY_LAG_LIMIT: Final = timedelta(seconds=60)
STREAM_LAG_LIMIT: Final = timedelta(hours=1)
ADMINISTRATION_ENDS_SOON: Final = timedelta(days=60)
NEW_WITNESS_IS_NEWS: Final = timedelta(days=7)
LEAST_DISK_BYTES: Final = 16 * 2**20
"""Free space of the data folder below which writes are about to be refused."""
_LOOK_LASTS = timedelta(seconds=1)
_SCHEMAS: Final = {
    Fit.CURRENT: "current",
    Fit.BEHIND: "Run `idhub migrate`.",
    Fit.NEXT: "of the version after this one: start that one in place of this soon",
    Fit.BEYOND: "The database is of a later version than the one after this: start that version.",
}


class Services(Protocol):
    """What the routes work with."""

    @property
    def hub(self) -> Hub:
        """The open installation."""

    @property
    def hashing(self) -> HashingPool:
        """Where passwords wait to be hashed."""

    @property
    def admission(self) -> Admission:
        """How many requests work at once."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One part of the installation, and how it is. `detail` is a sentence for an operator, without secrets."""

    name: str
    is_ok: bool
    detail: str


def readiness(hub: Hub, *, now: datetime) -> list[Finding]:
    """What must hold for requests to be answered: database, no recovery, schema, keys, disk, sequencer, deliveries."""
    try:
        with hub.database.read() as session:
            epoch = session.execute(select(Installation.epoch).where(Installation.id == 1)).scalar()
            sealing = sequencer_lag(session.connection(), now)
            waiting = overview.lag(session, now=now)
            recovery = recovery_reason(session)
        schema = fit(hub.database)
    except SQLAlchemyError:
        return [Finding("database", False, "The database does not answer."), _keys(hub)]
    return [
        Finding("database", epoch is not None, "answers" if epoch is not None else "The installation has no row."),
        Finding(
            "recovery", recovery is None, f"{recovery} See `idhub recover`." if recovery else "not in recovery mode"
        ),
        Finding("migrations", schema.is_usable, _SCHEMAS[schema]),
        _keys(hub),
        _disk(hub),
        Finding(
            "sequencer",
            sealing.oldest <= SEQUENCER_LAG_LIMIT,
            f"{sealing.pending} events wait, the oldest for {sealing.oldest.total_seconds():.1f} s",
        ),
        Finding(
            "deliveries",
            waiting <= DELIVERY_LAG_LIMIT,
            f"the oldest due delivery waits for {waiting.total_seconds():.1f} s for a worker",
        ),
    ]


def check(hub: Hub, *, now: datetime) -> list[Finding]:
    """Everything that `idhub doctor` shows: readiness, and what needs somebody although requests are answered."""
    found = readiness(hub, now=now)
    if not found[0].is_ok:
        return found
    with hub.database.read() as session:
        held = holds(session)
        dead, reviewing = (
            session.execute(select(func.count()).where(Delivery.state == state)).scalar_one()
            for state in ("dead", "review")
        )
        slugs = _slugs(session)
        partners = saml_warnings(session, now=hub.clock())
    names = ", ".join(f"{slugs.get(hold.application_id, hold.application_id)} ({hold.reason})" for hold in held)
    found.append(Finding("holds", not held, f"Deliveries stand still: {names}." if held else "no queue stands still"))
    found.append(
        Finding("dead letters", dead == 0, f"{dead} deliveries were given up and need somebody." if dead else "none")
    )
    # A decision that somebody has still to take is no fault of the installation's.
    said = f"{reviewing} deliveries wait until somebody says whose an account is. See `idhub provisioning review`."
    found.append(Finding("reviews", True, said if reviewing else "no delivery waits for a decision"))
    with hub.database.read() as session:
        ending = tokens.expiring(session, now=now)
    listed = ", ".join(f"{one.slug} ({one.expires_at.date()})" for one in ending)
    found.append(
        Finding(
            "tokens of applications",
            not ending,
            f"These end soon or have ended: {listed}. See `idhub provisioning token`." if ending else "none ends soon",
        )
    )
    said = " ".join(f"{one}." for one in partners) or "no certificate or metadata of one runs out"
    found.append(Finding("saml partners", not partners, said))
    with hub.database.read() as session:
        late = [_late(each) for each in list_streams(session) if now - (each.oldest_at or now) > STREAM_LAG_LIMIT]
    said = f"These receivers do not take their events: {', '.join(late)}. See `idhub stream list`."
    found.append(Finding("streams", not late, said if late else "receivers take the events that they are told"))
    with hub.database.read() as session:
        found.append(_rules(reevaluation.unevaluated(session)))
    with hub.database.read() as session:
        found.append(_administrators(administered_until(session), now=now))
    unknown = unknown_variables(os.environ)
    found.append(Finding("settings", not unknown, " ".join(unknown) if unknown else "every variable is a setting"))
    found.append(Finding("python", True, described()))
    if hub.database.dialect == "sqlite":
        found.append(_library())
    else:
        with hub.database.read() as session:
            found.append(clocks(session, time.time))
    found.append(_passwords(hub.settings))
    found.append(_witness(hub))
    if (receiver := syslog_witness(hub.settings)) is not None:
        found.append(_syslog(receiver, hub.settings.witness_syslog))
    return found


def _rules(failing: Sequence[reevaluation.Unevaluated]) -> Finding:
    if not failing:
        return Finding("rules", True, "nobody waits to be brought up to the newest")
    named = ", ".join(f"{one.principal_id} ({one.error}, since {one.since:%Y-%m-%d %H:%M} UTC)" for one in failing[:10])
    said = f"{len(failing)} people cannot be brought up to the newest rules and keep what they had: {named}."
    return Finding("rules", False, f"{said} It is tried again; the log says why (rules.failed).")


def _administrators(until: datetime | None, *, now: datetime) -> Finding:
    if until is None:
        # An installation begins so, and the command line can name one at any time.
        return Finding("administrators", True, "nobody is one: see `idhub role assign`")
    if until == NEVER:
        return Finding("administrators", True, "somebody is one without an end")
    said = f"From {until:%Y-%m-%d %H:%M} UTC on nobody is an administrator: name one who stays."
    return Finding("administrators", until > now + ADMINISTRATION_ENDS_SOON, said)


def clocks(session: Session, ours: Callable[[], float]) -> Finding:
    """Whether this machine's clock and the database's agree: each process decides by its own when access ends.

    Args:
        ours: seconds since 1970 by this machine's clock.
    """
    began = ours()
    theirs = float(session.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
    # The answer was made between the two looks: what lies between them is no difference.
    apart = max(began - theirs, theirs - ours(), 0.0)
    if apart <= CLOCKS_DIFFER.total_seconds():
        return Finding("clock", True, "agrees with the database's")
    return Finding("clock", False, f"This machine's clock and the database's are {apart:.0f} s apart. Set them (NTP).")


def _passwords(settings: Settings) -> Finding:
    costs, library = Costs(settings.argon2_memory_kib, settings.argon2_time_cost), fastest()
    began = time.thread_time()
    hash_password("what a hash costs here", costs)
    spent = time.thread_time() - began
    return Finding("passwords", True, f"a hash takes {spent * 1000:.0f} ms of a core, by {library}")


def _library() -> Finding:
    # No fault of the installation's: most have no other library to take, and the answer may be to keep a backup.
    said = f"SQLite {sqlite3.sqlite_version}"
    if may_lose_pages(sqlite3.sqlite_version_info):
        said += ", which may in rare moments lose committed pages (wal-reset): take 3.51.3 or later where you can"
    return Finding("sqlite", True, said)


def _late(stream: StreamView) -> str:
    error = f", {stream.last_error.rstrip('.')}" if stream.last_error else ""
    return f"{stream.token_name} ({stream.waiting} wait{error})"


def _load(admission: Admission) -> Finding:
    if admission.is_shedding:
        return Finding("load", False, "Requests are told to come back: more is asked for than is answered.")
    return Finding("load", True, "every request is answered")


def _keys(hub: Hub) -> Finding:
    try:
        for purpose, algorithms in PURPOSES.items():
            for alg in algorithms:
                hub.keyring.signing_key(purpose, alg)
        hub.keyring.sign_jws("checkpoint", "idhub-self-test", b"")
    except IdhubError as error:
        return Finding("keys", False, error.description)
    return Finding("keys", True, "every purpose has its key")


def _free_bytes(hub: Hub) -> int | None:
    """Free space of the data folder, 0 where it takes no writes; None: it cannot be looked at."""
    try:
        found = os.statvfs(hub.settings.data_dir)
    except OSError:
        return None
    return 0 if found.f_flag & os.ST_RDONLY else found.f_bavail * found.f_frsize


def _disk(hub: Hub) -> Finding:
    free = _free_bytes(hub)
    if free is None:
        return Finding("disk", False, "The data folder cannot be looked at.")
    if free == 0:
        return Finding("disk", False, "The data folder is full, or on a file system that takes no writes.")
    if free < LEAST_DISK_BYTES:
        return Finding("disk", False, f"The data folder has {free / 2**20:.1f} MiB left: make room.")
    return Finding("disk", True, f"the data folder has {free / 2**30:.1f} GiB left")


def _witness(hub: Hub) -> Finding:
    path = hub.settings.effective_witness_file
    try:
        with path.open("rb"), hub.database.read() as session:
            begun = last_new_witness(session)
            if begun is None:
                return Finding("witness", True, "readable")
            at, size = begun
            said = f"begun anew on {at:%Y-%m-%d} behind {size} events, when it was missing"
            # Whoever lost it should hear of it; whoever has heard need not for ever.
            is_old = hub.clock() - at > NEW_WITNESS_IS_NEWS
            return Finding("witness", is_old, f"Readable, and {said}: nothing before is compared.")
    except OSError:
        return Finding("witness", False, f"The witness file {path.name} cannot be read; no checkpoint was witnessed.")


def _syslog(receiver: SyslogWitness, address: str) -> Finding:
    try:
        receiver.probe()
    except OSError as error:
        said = f"{address} cannot be reached ({error.strerror or error}); checkpoints are not witnessed there."
        return Finding("syslog witness", False, said)
    is_silent = address.startswith("udp://")
    return Finding("syslog witness", True, "UDP tells nobody what arrives; compare" if is_silent else "can be reached")


def _slugs(session: Session) -> dict[str, str]:
    return {row[0]: row[1] for row in session.execute(select(Application.id, Application.slug))}


class _Collector:
    """Reads the database when Prometheus asks."""

    def __init__(self, services: Services) -> None:
        self._hub = services.hub
        self._hashing = services.hashing
        self._admission = services.admission
        self._events: dict[tuple[str, str], int] = {}
        self._seen_through: int | None = None

    def collect(self) -> Iterable[Metric]:
        """Every metric, as of now."""
        now = self._hub.clock()
        up = GaugeMetricFamily("idhub_database_up", "1 when the database answers.")
        hashing = _gauge("idhub_hashing_queue_depth", "Passwords being hashed or waiting for it.", self._hashing.depth)
        refused = CounterMetricFamily(
            "idhub_requests_shed", "Requests that were told to come back later.", value=self._admission.refused
        )
        full = CounterMetricFamily(
            "idhub_passwords_shed", "Passwords that were not looked at, for want of room.", value=self._hashing.refused
        )
        try:
            with self._hub.database.read() as session:
                found = [*self._deliveries(session, now), *self._credentials(session, now), self._audit(session)]
                sealing = sequencer_lag(session.connection(), now)
        except SQLAlchemyError:
            up.add_metric([], 0)
            return [up, hashing, refused, full]
        up.add_metric([], 1)
        gauges = (
            ("idhub_disk_free_bytes", "Free space of the data folder.", _free_bytes(self._hub) or 0),
            ("idhub_sequencer_pending_events", "Audit events without a place in the log.", sealing.pending),
            ("idhub_sequencer_lag_seconds", "Age of the oldest of them.", sealing.oldest.total_seconds()),
        )
        return [up, hashing, refused, full, *found, *(_gauge(*one) for one in gauges)]

    def _deliveries(self, session: Session, now: datetime) -> Iterable[Metric]:
        slugs = _slugs(session)
        by_state = GaugeMetricFamily(
            "idhub_deliveries", "Deliveries that are unfinished, in review or dead.", labels=["application", "state"]
        )
        oldest = GaugeMetricFamily(
            "idhub_delivery_oldest_seconds", "Age of the oldest unfinished delivery.", labels=["application"]
        )
        for queue in overview.queues(session):
            slug = slugs.get(queue.application_id, queue.application_id)
            counts = {
                "pending": queue.waiting,
                "leased": queue.in_flight,
                "review": queue.reviewing,
                "dead": queue.dead,
            }
            for state, count in counts.items():
                by_state.add_metric([slug, state], count)
            if queue.oldest_waiting is not None:
                oldest.add_metric([slug], max(0.0, (now - queue.oldest_waiting).total_seconds()))
        held = GaugeMetricFamily(
            "idhub_delivery_held", "1 while a queue stands still.", labels=["application", "reason"]
        )
        for hold in holds(session):
            held.add_metric([slugs.get(hold.application_id, hold.application_id), hold.reason], 1)
        ends = GaugeMetricFamily(
            "idhub_application_token_seconds",
            "Until the token of an application ends, where soon.",
            labels=["application"],
        )
        for one in tokens.expiring(session, now=now):
            ends.add_metric([one.slug], (one.expires_at - now).total_seconds())
        waiting = overview.lag(session, now=now)
        late = _gauge(
            "idhub_delivery_lag_seconds", "Wait of the oldest due delivery for a worker.", waiting.total_seconds()
        )
        return by_state, oldest, held, late, ends

    def _credentials(self, session: Session, now: datetime) -> Iterable[Metric]:
        family = GaugeMetricFamily("idhub_credentials_alive", "Credentials that have not expired.", labels=["kind"])
        counts: Sequence[tuple[str, Any]] = (
            ("session", select(func.count()).where(SsoSession.expires_at > now, SsoSession.ended_at.is_(None))),
            ("access_token", select(func.count()).where(AccessToken.expires_at > now)),
            (
                "refresh_token",
                select(func.count()).where(
                    RefreshToken.expires_at > now, RefreshToken.spent_at.is_(None), RefreshToken.revoked_at.is_(None)
                ),
            ),
        )
        for kind, statement in counts:
            family.add_metric([kind], session.execute(statement).scalar_one())
        return [family]

    def _audit(self, session: Session) -> Metric:
        """Events since this process first looked, from the sequenced log: nothing counts twice, nothing is missed."""
        place = audit_positions.c.position
        head = session.execute(select(func.max(place))).scalar()
        if self._seen_through is None:
            self._seen_through = -1 if head is None else head
        if head is not None and head > self._seen_through:
            rows = session.execute(
                select(audit_events.c.type, audit_events.c.outcome, func.count())
                .join(audit_positions, audit_positions.c.event_row == audit_events.c.id)
                .where(place > self._seen_through, place <= head)
                .group_by(audit_events.c.type, audit_events.c.outcome)
            )
            for event_type, outcome, count in rows:
                key = (event_type, outcome)
                self._events[key] = self._events.get(key, 0) + count
            self._seen_through = head
        family = CounterMetricFamily(
            "idhub_events", "Audit events by type: logins, tokens, changes.", labels=["type", "outcome"]
        )
        for (event_type, outcome), total in sorted(self._events.items()):
            family.add_metric([event_type, outcome], total)
        return family


def _gauge(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(name, words, value=value)


class _Look:
    """One answer for everybody who asks within a second: anonymous questions do not become load."""

    def __init__(self, clock: Callable[[], datetime], look: Callable[[], tuple[int, bytes]]) -> None:
        self._clock = clock
        self._look = look
        self._lock = threading.Lock()
        self._taken_at: datetime | None = None
        self._answer = (503, b"")

    def __call__(self) -> tuple[int, bytes]:
        with self._lock:
            now = self._clock()
            if self._taken_at is None or not timedelta(0) <= now - self._taken_at < _LOOK_LASTS:
                self._answer = self._look()
                self._taken_at = now
            return self._answer


def create_router(services: Services) -> APIRouter:
    """Routes /healthz, /readyz and /metrics."""
    hub = services.hub
    router = APIRouter(include_in_schema=False)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(services))

    def look_ready() -> tuple[int, bytes]:
        found = [*readiness(hub, now=hub.clock()), _load(services.admission)]
        failing = [one.name for one in found if not one.is_ok]
        body = {
            "status": "failing" if failing else "ready",
            "failing": failing,
            "checks": {one.name: {"ok": one.is_ok, "detail": one.detail} for one in found},
        }
        return 503 if failing else 200, orjson.dumps(body)

    ready = _Look(hub.clock, look_ready)
    metrics = _Look(hub.clock, lambda: (200, generate_latest(registry)))

    @router.get("/healthz")
    def healthz() -> Response:
        """The process answers."""
        return Response(b'{"status":"alive"}', media_type="application/json", headers=_NOT_STORED)

    @router.get("/readyz")
    def readyz() -> Response:
        """Fit to serve; 503 names the part that is not."""
        status, body = ready()
        return Response(body, status, media_type="application/json", headers=_NOT_STORED)

    @router.get("/metrics")
    def show_metrics() -> Response:
        """Metrics in Prometheus' text form."""
        status, body = metrics()
        return Response(body, status, media_type=CONTENT_TYPE_LATEST, headers=_NOT_STORED)

    return router


_NOT_STORED: Final = {"Cache-Control": "no-store"}
