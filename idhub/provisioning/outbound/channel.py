"""The SCIM channel: brings an account to what it should be, and proves a leave by reading it back.

Level-triggered: a delivery says which account to look at, not what to send; what is sent follows from the database at
that moment. It looks an account up before each create, and therefore after each time-out, so that a repeated attempt
adopts what an earlier one left behind. It takes over no account that is somebody else's.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Final, Protocol

from idhub.access.applications import scim_token_context
from idhub.db import Database
from idhub.delivery.channel import Failure, LeasedDelivery, Outcome
from idhub.delivery.http import OutboundError, OutboundRefused, OutboundResponse, OutboundTimeout, OutboundUntrusted
from idhub.delivery.together import Together
from idhub.errors import Unavailable
from idhub.keys import Keyring
from idhub.provisioning.outbound import records
from idhub.provisioning.outbound.budget import Budgets
from idhub.provisioning.outbound.deletion import delete_account
from idhub.provisioning.outbound.deprovision import deprovision
from idhub.provisioning.outbound.discovering import discover
from idhub.provisioning.outbound.groups import push_group
from idhub.provisioning.outbound.options import TargetOptions
from idhub.provisioning.outbound.planner import CEILING, CHANNEL
from idhub.provisioning.outbound.provision import provision
from idhub.provisioning.outbound.run import AwaitsReview, Clock, NeedsSomebody, Overtaken, Run, Talk
from scim.client import ScimClient
from scim.dialects import DIALECTS
from scim.errors import RemoteError, RemoteNotFound, RemoteRefused, RemoteUnauthorized, RemoteUnavailable
from scim.pace import Pace

_SHARE_FOR_REQUESTS: Final = 0.95
# Reads keep nobody waiting: what one round leased is read at once, and goes out at once.
_MOST_READ: Final = 320
# A set of notes commits within 50 ms, so that nobody else waits longer for a SQLite database.
_MOST_NOTED: Final = 100
_LARGEST_ANSWER: Final = 1_000_000


class Http(Protocol):
    """What is used of `idhub.delivery.http.OutboundHttp`."""

    async def request(
        self,
        method: Any,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        timeout: timedelta,  # noqa: ASYNC109 - the total deadline, part of every outbound call
        max_bytes: int,
        proxy: str | None = None,
        egress_address: str | None = None,
    ) -> OutboundResponse:
        """Send one request and read the whole answer."""


class ClockLike(Protocol):
    """What a client asks of a clock."""

    def now(self) -> datetime:
        """The present instant."""

    def time_left(self) -> timedelta:
        """How long the talk may still take."""


class ScimChannel:
    """The `delivery.channel.Channel` of SCIM. Between deliveries it keeps only how fast each service may be asked.

    Args:
        timeout: total deadline of one attempt, after which the worker drops it; shorter than the lease. The requests
            together get a little less, so that what was achieved by then is still reported.
    """

    name: Final = CHANNEL
    ceiling: Final = CEILING

    def __init__(self, database: Database, keyring: Keyring, http: Http, *, timeout: timedelta) -> None:
        self._database = database
        self._keyring = keyring
        self._http = http
        self._budgets = Budgets(database)
        self._paces: dict[str, tuple[int | None, Pace]] = {}
        self._time_for_requests = timeout * _SHARE_FOR_REQUESTS
        self._situations = Together(self._read_situations, most=_MOST_READ)
        self._looks = Together(self._look, most=_MOST_READ)
        self._notes = Together(self._write_notes, most=_MOST_NOTED)

    async def send(self, delivery: LeasedDelivery, *, now: datetime) -> Outcome:
        """See `Channel.send`. Operations: provision, deprovision, delete (an account), group, discover (the target)."""
        clock = Clock(now, limit=self._time_for_requests)
        if delivery.operation in _OF_TARGET:
            return await self._send_to_target(delivery, clock)
        situation = await self._situations.ask((delivery, now))
        if situation is None:
            return Outcome(
                kind="dead", error="The application has no SCIM service any more, or the account is unknown."
            )
        try:
            client = self.client(delivery.application_id, situation.target, clock, trace=delivery.id)
        except (Unavailable, RemoteRefused) as error:
            return Outcome(kind="dead", error=error.description)
        run = Run(self._database, delivery, situation, client=client, clock=clock, looks=self._looks, notes=self._notes)
        return await _translated(run, self._dispatch(run))

    async def _send_to_target(self, delivery: LeasedDelivery, clock: Clock) -> Outcome:
        target = (await asyncio.to_thread(self._read_target, delivery.application_id)).get(delivery.application_id)
        if target is None or not target.is_enabled:
            return Outcome(kind="dead", error="The application has no SCIM service any more, or is switched off.")
        try:
            client = self.client(delivery.application_id, target, clock, trace=delivery.id)
        except (Unavailable, RemoteRefused) as error:
            return Outcome(kind="dead", error=error.description)
        talk = Talk(self._database, delivery, target, client=client, clock=clock)
        return await _translated(talk, _OF_TARGET[delivery.operation](talk))

    def _read_target(self, application_id: str) -> dict[str, records.Target]:
        with self._database.read() as session:
            return records.targets(session, [application_id])

    async def _dispatch(self, run: Run) -> Outcome:
        match run.delivery.operation:
            case "provision":
                return await provision(run)
            case "deprovision":
                return await deprovision(run)
            case "delete":
                return await delete_account(run)
            case unknown:
                raise NeedsSomebody(f"SCIM has no operation {unknown!r}.")

    def _read_situations(self, asked: Sequence[tuple[LeasedDelivery, datetime]]) -> list[records.Situation | None]:
        with self._database.read() as session:
            # Whoever asked last: what began meanwhile counts for all.
            now = max(when for _, when in asked)
            return records.situations(session, [delivery for delivery, _ in asked], now=now)

    def _look(self, asked: Sequence[records.VersionOf | records.LinkedElsewhere]) -> list[int]:
        with self._database.read() as session:
            return records.look(session, asked)

    def _write_notes(self, notes: Sequence[records.Note]) -> list[bool]:
        # A leave waits for the disk; what a provision saw can be seen again after a loss of power.
        durable = any(note.delivery.operation == "deprovision" for note in notes)
        return self._database.run(lambda session: records.note_accounts(session, notes), durable=durable)

    def client(
        self,
        application_id: str,
        target: records.Target,
        clock: ClockLike,
        *,
        trace: str,
        token_context: str | None = None,
    ) -> ScimClient:
        """A client that speaks to the target as its dialect, and what it said of itself, want it.

        Args:
            token_context: what the token is sealed under, where it is not the present one.

        Raises:
            RemoteRefused: the dialect is unknown, or the token cannot be sent.
            Unavailable: the token cannot be opened.
        """
        dialect = DIALECTS.get(target.dialect)
        if dialect is None:
            raise RemoteRefused(f"The SCIM dialect {target.dialect!r} is unknown.")
        token = None
        if target.token_sealed is not None:
            token = self._keyring.open(
                token_context or scim_token_context(application_id), target.token_sealed
            ).decode()
        return ScimClient(
            ScimHttp(self._http, proxy=target.options.proxy, egress_address=target.options.egress_address),
            target.base_url,
            token,
            time_left=clock.time_left,
            now=clock.now,
            dialect=dialect.learned(target.capabilities),
            trace=trace,
            pace=self._pace_of(application_id, target),
        )

    def _pace_of(self, application_id: str, target: records.Target) -> Pace:
        per_minute, pace = self._paces.get(application_id, (None, None))
        if pace is None or per_minute != target.options.requests_per_minute:
            pace = pace_of(self._budgets, application_id, target.options)
            self._paces[application_id] = (target.options.requests_per_minute, pace)
        return pace


_OF_TARGET: Final[Mapping[str, Callable[[Talk], Coroutine[Any, Any, Outcome]]]] = {
    "group": push_group,
    "discover": discover,
}


async def _translated(talk: Talk, work: Coroutine[Any, Any, Outcome]) -> Outcome:
    """What came of an attempt, whatever stopped it."""
    try:
        return await work
    except AwaitsReview as error:
        return talk.outcome("review", str(error))
    except NeedsSomebody as error:
        return talk.outcome("dead", str(error))
    except Overtaken:
        return talk.outcome("retry", "The person changed while this was being prepared.", retry_after=timedelta(0))
    except RemoteError as error:
        return _failed(talk, error)


def _failed(talk: Talk, error: RemoteError) -> Outcome:
    """What a failure means for the delivery: waiting helps against an outage, and a credential can be renewed."""
    if isinstance(error, RemoteUnavailable):
        return talk.outcome("retry", error.description, retry_after=error.retry_after, failure=error.how)
    waits = isinstance(error, RemoteUnauthorized | RemoteNotFound)
    failure: Failure | None = "unauthorized" if error.status_code == HTTPStatus.UNAUTHORIZED else None
    return talk.outcome("retry" if waits else "dead", error.description, failure=failure)


def pace_of(budgets: Budgets, application_id: str, options: TargetOptions) -> Pace:
    """How fast a target may be asked: as it says itself, and within the limit that somebody set."""
    limit = options.requests_per_minute
    return Pace(None if limit is None else budgets.of(application_id, limit))


class ScimHttp:
    """`scim.client.HttpPort` on the hub's guarded HTTP client.

    Args:
        max_bytes: most that the body of an answer may measure: of one resource by default.
    """

    def __init__(
        self,
        http: Http,
        *,
        max_bytes: int = _LARGEST_ANSWER,
        proxy: str | None = None,
        egress_address: str | None = None,
    ) -> None:
        self._http = http
        self._max_bytes = max_bytes
        self._proxy = proxy
        self._egress_address = egress_address

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        json: Any,
        timeout: timedelta,  # noqa: ASYNC109 - the port's total deadline
    ) -> OutboundResponse:
        """See `scim.client.HttpPort.request`."""
        try:
            return await self._http.request(
                method,
                url,
                headers=headers,
                json=json,
                timeout=timeout,
                max_bytes=self._max_bytes,
                proxy=self._proxy,
                egress_address=self._egress_address,
            )
        except OutboundTimeout as error:
            raise RemoteUnavailable(
                "The application did not answer in time.", may_have_arrived=True, how="unreachable"
            ) from error
        except OutboundRefused as error:
            raise RemoteRefused(error.description) from error
        except OutboundUntrusted as error:
            raise RemoteUnavailable(error.description, how="tls") from error
        except OutboundError as error:
            raise RemoteUnavailable(error.description, may_have_arrived=True, how="unreachable") from error
