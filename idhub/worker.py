"""The worker: delivers, applies due dates, signs receipts, seals the audit log, purges.

Runs in a thread and event loop of its own: `idhub serve` embeds it, and `idhub worker` runs it alone. Any number of
processes may: deliveries are shared by leases, and what one process must do at a time is guarded by lease rows. Where
requests are answered in the same process, what would be felt by them is left to another (`Reliever`).
"""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar

import structlog
import uvloop

from audit.arrivals import is_waiting
from audit.errors import AuditError
from audit.sequencer import Sequencer
from idhub.api.scim_jobs import has_jobs, purge_jobs, work_jobs
from idhub.api.scim_push import has_events, push_events
from idhub.credentials.purge import purge_expired
from idhub.delivery.http import OutboundHttp
from idhub.delivery.leases import HeldLease, hold, release
from idhub.delivery.loop import DeliveryLoop
from idhub.delivery.receipt_box import has_due
from idhub.delivery.wake import Waker, wake
from idhub.directory import search_index
from idhub.directory.organizations import recovery_reason
from idhub.errors import Unavailable
from idhub.lifecycle import hr_release, hr_uploads, reevaluation
from idhub.lifecycle.due import apply_due
from idhub.lifecycle.receipts import sign_due
from idhub.provisioning.events.waiting import purge_events
from idhub.provisioning.outbound import upkeep
from idhub.provisioning.reconcile.schedule import reconcile_due
from idhub.saml.refresh import refresh_due
from idhub.services import Hub
from idhub.turns import bulk_work
from providers.saml_wire.parsing import MAX_METADATA

T = TypeVar("T")
_SEAL = "seal"
_SEAL_EVERY = 0.5
_CHECKPOINT_EVERY = 1.0
_SIGN_EVERY = 0.1
_SIGN_IDLE = 1.0
_SIGN_PATIENCE = timedelta(seconds=2)
_DUE_EVERY = 1.0
_PURGE_EVERY = 60.0
_TEND_EVERY = 5.0
_REFRESH_EVERY = 5.0
_RECONCILE_EVERY = 30.0
_SCIM_EVERY = 0.5
# Well within the lease: what another process took over meanwhile is not done twice, but would be tried.
_SCIM_SECONDS = 5.0
_UPKEEP_EVERY = 2.0
_RELIEF_EVERY = 0.5
_IMPORT_EVERY = 1.0
_LONGEST_BACK_OFF = 30.0
_SINGLETON_LEASE = timedelta(seconds=15)
_THREADS = 7
# Beyond the deadline of an attempt: recording it, and what the other jobs have in hand.
_GRACE_SECONDS = 5.0

_log = structlog.get_logger("idhub.worker")

LONGEST_TRANSACTION = timedelta(minutes=5)
"""What holds the log back for longer is ended: on PostgreSQL nothing gets its place while an older writer goes on."""


class Reliever(Protocol):
    """Another process that does the bulk of the work while there is much of it: `idhub.relief`."""

    @property
    def is_at_work(self) -> bool:
        """Whether it does. Then this worker takes nothing of it."""

    def note(self, *, people: int = 0, deliveries: int = 0) -> None:
        """Hear what was done here, or is about to be; much of it calls the process."""

    def leaves(self, deliveries: int) -> bool:
        """Whether this worker is to send so many that somebody waits for while the other process is at work."""

    def look(self) -> None:
        """Take the work back from a process that ended; asked twice a second."""

    def close(self) -> None:
        """End it."""


class Importer(Protocol):
    """A process that takes HR files in which came by a page: `idhub.hr_process`."""

    @property
    def is_wanted(self) -> bool:
        """Whether there is anything to do or to look after."""

    def look(self) -> None:
        """Begin it, or see how it does; asked each second."""

    def close(self) -> None:
        """End it."""


@dataclass(frozen=True, slots=True)
class _Job:
    """Something done again and again.

    Args:
        singleton: one process does it at a time, under a lease of this name.
        is_bulk: left to the reliever while it is at work.
        is_wanted: asked before the lease is; None: always.
        idle: seconds between two looks, in the end, while `run` says False (it found nothing) and nobody wakes it.
    """

    name: str
    every: float
    run: Callable[[], object]
    singleton: bool = False
    is_bulk: bool = False
    is_wanted: Callable[[], bool] | None = None
    idle: float | None = None


class Worker:
    """All background work of one process.

    Args:
        hub: the open installation.
        http: the guarded client; the worker uses it from its own event loop.
        reliever: who takes the bulk of the work over, where requests are answered in this process. It is closed with
            the worker.
        importer: who takes in HR files that came by a page; None: this worker leaves them to others. It is closed with
            the worker.
        due_for: deliveries that have not been due for so long are left to the process that was asked for them.
    """

    def __init__(
        self,
        hub: Hub,
        http: OutboundHttp,
        *,
        reliever: Reliever | None = None,
        importer: Importer | None = None,
        due_for: timedelta = timedelta(0),
    ) -> None:
        self._due_for = due_for
        self._hub = hub
        self._http = http
        self._reliever = reliever
        self._importer = importer
        self._worked_at = time.monotonic()
        self._at_work = 0
        """Jobs of the bulk that are running."""
        self._counting = threading.Lock()
        self._sequencer: Sequencer | None = None
        self._log_size: int | None = None
        self._checkpointed_at = float("-inf")
        self._leases: dict[str, HeldLease] = {}
        self._threads = ThreadPoolExecutor(_THREADS, "worker")
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()

    @property
    def is_running(self) -> bool:
        """Whether the thread lives."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def idle_seconds(self) -> float:
        """How long there has been nothing to do: nothing to send, nobody due, no receipt to sign."""
        return 0.0 if self._at_work else time.monotonic() - self._worked_at

    async def start(self) -> None:
        """Begin to work; returns when the loop runs."""
        # Daemon: a process that must end does not wait for it; what was leased is found by the next worker.
        self._thread = threading.Thread(target=self._main, name="worker", daemon=True)
        self._thread.start()
        await asyncio.to_thread(self._ready.wait)

    async def stop(self) -> None:
        """Take nothing new, finish what is in hand within a bound, give the leases back."""
        if self._loop is not None and self._stop is not None and self.is_running:
            # The loop may have ended by itself meanwhile.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread is not None:
            bound = self._hub.settings.delivery_timeout.total_seconds() + 2 * _GRACE_SECONDS
            await asyncio.to_thread(self._thread.join, bound)
            if self._thread.is_alive():
                _log.warning("worker.stop_timed_out")

    def _main(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._run())
        except Exception:
            _log.exception("worker.failed")
        finally:
            self._ready.set()
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        deliveries = DeliveryLoop(
            self._hub.database,
            self._hub.settings,
            self._hub.channels(self._http),
            clock=self._hub.clock,
            worker=self._hub.node,
            goes_on=self._goes_on_delivering,
            takes_asked=lambda deliveries: self._reliever is None or self._reliever.leaves(deliveries),
            due_for=self._due_for,
        )
        stop = self._stop
        tasks = [asyncio.create_task(self._repeat(job, stop)) for job in self._jobs()]
        self._ready.set()
        _log.info("worker.started", node=self._hub.node)
        try:
            await deliveries.run(stop)
            wake("receipts")
            await asyncio.wait(tasks, timeout=_GRACE_SECONDS)
            if self._reliever is not None:
                await self._in_thread(self._reliever.close)
            if self._importer is not None:
                await self._in_thread(self._importer.close)
            await self._in_thread(self._last_words)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._http.close()
        _log.info("worker.stopped", node=self._hub.node)

    def _jobs(self) -> list[_Job]:
        relief = [] if self._reliever is None else [_Job("relief", _RELIEF_EVERY, self._reliever.look)]
        importer = self._importer
        imports = [] if importer is None else [
            _Job("hr files", _IMPORT_EVERY, self._import, singleton=True, is_wanted=lambda: importer.is_wanted)
        ]  # fmt: skip
        return [
            *relief,
            *imports,
            _Job(_SEAL, _SEAL_EVERY, self._seal, is_bulk=True),
            _Job("receipts", _SIGN_EVERY, self._sign_receipts, is_bulk=True, idle=_SIGN_IDLE),
            _Job("schedule", _DUE_EVERY, self._apply_due, singleton=True, is_bulk=True),
            _Job("releases", _DUE_EVERY, self._release, singleton=True, is_bulk=True, is_wanted=self._has_releases),
            _Job("rules", _DUE_EVERY, self._follow_rules, singleton=True, is_bulk=True, is_wanted=self._has_rules),
            _Job("purge", _PURGE_EVERY, self._purge, singleton=True),
            _Job("reconcile", _RECONCILE_EVERY, self._reconcile, is_bulk=True),
            _Job("scim", _SCIM_EVERY, self._work_scim, singleton=True, is_bulk=True, is_wanted=self._has_scim),
            _Job("scim events", _SCIM_EVERY, self._push_events, singleton=True, is_wanted=self._has_events),
            _Job("provisioning", _UPKEEP_EVERY, self._tend_targets, singleton=True),
            _Job("retention", _PURGE_EVERY, self._tend_slowly, singleton=True),
            _Job("saml metadata", _REFRESH_EVERY, self._refresh_metadata, singleton=True),
            _Job("search", _TEND_EVERY, lambda: search_index.tend(self._hub.database), singleton=True),
        ]

    async def _repeat(self, job: _Job, stop: asyncio.Event) -> None:
        wait = job.every
        waker = None if job.idle is None else Waker("receipts")
        while not stop.is_set():
            try:
                found = await self._in_thread(lambda: self._do(job))
                wait = job.every if job.idle is None or found is not False else min(2 * wait, job.idle)
            except Exception:
                # A job that fails is tried again, ever less often; the others go on.
                _log.exception("worker.job_failed", job=job.name)
                wait = min(max(wait, job.every) * 2, max(_LONGEST_BACK_OFF, job.every))
            if waker is not None:
                if await waker.wait(wait):
                    wait = job.every
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await stop.wait()

    def _do(self, job: _Job) -> object:
        if job.is_bulk and self._reliever is not None and self._reliever.is_at_work:
            self._hand_over(job)
            return False
        if job.is_wanted is not None and not job.is_wanted():
            return False
        if job.singleton and not self._hold(job):
            return None
        with self._counted(job):
            return job.run()

    @contextmanager
    def _counted(self, job: _Job) -> Iterator[None]:
        with self._counting:
            self._at_work += job.is_bulk
        try:
            yield
        finally:
            with self._counting:
                self._at_work -= job.is_bulk

    async def _in_thread(self, work: Callable[[], object]) -> object:
        def worked() -> object:
            with bulk_work():
                return work()

        return await asyncio.get_running_loop().run_in_executor(self._threads, worked)

    def _hold(self, job: _Job) -> bool:
        # Outlives the pause between two runs, so that the work stays with one process while that one lives.
        lifetime = max(_SINGLETON_LEASE, timedelta(seconds=2.5 * job.every))
        held = hold(self._hub.database, job.name, self._hub.node, now=self._hub.clock(), lifetime=lifetime)
        if held is None:
            self._leases.pop(job.name, None)
            return False
        self._leases[job.name] = held
        return True

    def _hand_over(self, job: _Job) -> None:
        """Let the other process have at once what this one held."""
        lease = self._leases.pop(job.name, None)
        if lease is not None:
            release(self._hub.database, lease, now=self._hub.clock())
        if job.name == _SEAL and self._sequencer is not None:
            self._sequencer.resign()
            self._sequencer = None

    def _goes_on(self, people: int) -> bool:
        """Hear of so many people that a long job has done, or finds due; whether this process is to go on with it."""
        self._worked_at = time.monotonic()
        if self._reliever is None:
            return True
        self._reliever.note(people=people)
        return not self._reliever.is_at_work

    def _goes_on_delivering(self, deliveries: int) -> bool:
        """Hear how many deliveries were taken; whether this process is to take more."""
        if deliveries:
            self._worked_at = time.monotonic()
        if self._reliever is None:
            return True
        self._reliever.note(deliveries=deliveries)
        return not self._reliever.is_at_work

    def _seal(self) -> None:
        """Give new events their place in the log; sign a checkpoint at least each second while there are any."""
        now = self._hub.clock()
        is_late = time.monotonic() - self._checkpointed_at >= _CHECKPOINT_EVERY
        with self._hub.database.read() as session:
            if recovery_reason(session) is not None:
                return
            # An idle hub takes no write lock twice a second.
            if not is_late and not is_waiting(session.connection()):
                return
        if is_late:
            self._checkpointed_at = time.monotonic()
        self._run_sequencer(now, checkpoint=False)

    def _is_recovering(self) -> bool:
        """Nothing is sealed while it is open from where the log goes on: that would be a fork."""
        with self._hub.database.read() as session:
            return recovery_reason(session) is not None

    def _run_sequencer(self, now: datetime, *, checkpoint: bool) -> None:
        if self._sequencer is None:
            self._sequencer = self._hub.sequencer()
        result = self._sequencer.run_once(now, checkpoint=checkpoint)
        self._log_size = result.size
        if result.mismatched:
            _log.error("audit.events_changed", event_ids=list(result.mismatched[:20]), count=len(result.mismatched))
        if result.lag.oldest > LONGEST_TRANSACTION:
            ended = self._hub.database.end_long_writers(LONGEST_TRANSACTION)
            if ended:
                _log.warning("worker.long_transactions_ended", count=ended)
        for witness, error in result.unreached:
            _log.warning("audit.witness_unreached", witness=witness, error=error)

    def _sign_receipts(self) -> bool:
        """Sign what is due; False: nothing was."""
        with self._hub.database.read() as session:
            # What a restored backup knows of a leave is old: a later version may be out already.
            if not has_due(session) or recovery_reason(session) is not None:
                return False
        hub = self._hub
        sign_due(
            hub.database,
            hub.keyring,
            issuer=hub.settings.issuer,
            now=hub.clock(),
            log_size=self._log_size,
            patience=_SIGN_PATIENCE,
            goes_on=self._goes_on,
        )
        return True

    def _apply_due(self) -> None:
        if self._is_recovering():
            # Nobody gets in meanwhile, and a contract's end may have been moved in the time that is lost.
            return
        changed = apply_due(self._hub.database, now=self._hub.clock(), goes_on=self._goes_on)
        if changed:
            _log.info("worker.due_applied", people=changed)

    def _has_releases(self) -> bool:
        return hr_release.has_work(self._hub.database, now=self._hub.clock())

    def _release(self) -> None:
        if self._is_recovering():
            return
        released = hr_release.carry_out(
            self._hub.database, self._hub.keyring, now=self._hub.clock(), goes_on=self._goes_on
        )
        if released:
            _log.info("worker.held_changes_released", changes=released)

    def _has_rules(self) -> bool:
        return reevaluation.has_work(self._hub.database, now=self._hub.clock())

    def _follow_rules(self) -> None:
        """Bring entitlements up to the newest rules: minutes of a large group, for which nobody who leaves waits."""
        if not self._is_recovering():
            reevaluation.reevaluate_pending(self._hub.database, clock=self._hub.clock, goes_on=self._goes_on)

    def _reconcile(self) -> None:
        """Compare the application that has waited longest, if one is due: each has a lease of its own."""
        if self._is_recovering():
            return
        hub = self._hub
        report = reconcile_due(hub.database, hub.keyring, self._http, clock=hub.clock)
        if report is not None:
            _log.info(
                "worker.reconciled",
                application=report.application,
                complete=report.is_complete,
                read=report.read,
                found=report.found,
            )

    def _has_scim(self) -> bool:
        return has_jobs(self._hub.database)

    def _work_scim(self) -> None:
        if not self._is_recovering():
            work_jobs(self._hub, seconds=_SCIM_SECONDS)

    def _has_events(self) -> bool:
        return has_events(self._hub.database, now=self._hub.clock())

    def _push_events(self) -> None:
        if not self._is_recovering():
            push_events(self._hub, self._http, self._run_on_loop, seconds=_SCIM_SECONDS)

    def _run_on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something that uses the guarded client on the worker's own loop; for a job in a thread."""
        assert self._loop is not None  # noqa: S101 - jobs run while the loop does
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _tend_targets(self) -> None:
        if not self._is_recovering():
            upkeep.tend(self._hub.database, now=self._hub.clock())

    def _tend_slowly(self) -> None:
        if not self._is_recovering():
            upkeep.tend_slowly(self._hub.database, now=self._hub.clock())

    def _purge(self) -> None:
        purge_jobs(self._hub.database, now=self._hub.clock())
        hr_uploads.purge(self._hub.database, now=self._hub.clock())
        lost = purge_events(self._hub.database, now=self._hub.clock())
        if lost:
            _log.warning("worker.scim_events_lost", count=lost)
        removed = purge_expired(self._hub.database, now=self._hub.clock())
        if removed:
            _log.info("worker.purged", **removed)

    def _import(self) -> None:
        if self._importer is not None and not self._is_recovering():
            self._importer.look()

    def _refresh_metadata(self) -> None:
        refresh_due(self._hub.database, self._fetch, now=self._hub.clock())

    def _fetch(self, url: str) -> bytes:
        """Read an address through the guarded client; for a job in a thread."""
        timeout = self._hub.settings.delivery_timeout
        answer = self._run_on_loop(self._http.request("GET", url, timeout=timeout, max_bytes=MAX_METADATA))
        if not answer.is_success:
            raise Unavailable(f"The address answered {answer.status}.")
        return answer.body

    def _last_words(self) -> None:
        """Seal what the last deliveries recorded, and let the next process take over at once."""
        now = self._hub.clock()
        try:
            if not self._is_recovering():
                self._run_sequencer(now, checkpoint=True)
                if self._sequencer is not None:
                    self._sequencer.resign()
        except AuditError:
            _log.exception("worker.job_failed", job="seal")
        for lease in self._leases.values():
            release(self._hub.database, lease, now=now)
