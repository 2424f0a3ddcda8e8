"""The SCIM channel: brings an account to what it should be, and proves a leave by reading it back.

Level-triggered: a delivery says which account to look at, not what to send; what is sent follows from the database at
that moment. It looks an account up before each create, and therefore after each time-out, so that a repeated attempt
adopts what an earlier one left behind. It takes over no account that is somebody else's.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from idhub.access.applications import scim_token_context
from idhub.db import Database
from idhub.delivery.channel import LeasedDelivery, Outcome
from idhub.delivery.http import OutboundError, OutboundRefused, OutboundResponse, OutboundTimeout
from idhub.delivery.together import Together
from idhub.errors import Unavailable
from idhub.keys import Keyring
from idhub.provisioning import records
from idhub.provisioning.deprovision import deprovision
from idhub.provisioning.planner import CEILING, CHANNEL
from idhub.provisioning.provision import provision
from idhub.provisioning.run import Clock, NeedsSomebody, Overtaken, Run
from scim.client import ScimClient
from scim.dialects import DIALECTS
from scim.errors import RemoteError, RemoteNotFound, RemoteRefused, RemoteUnauthorized, RemoteUnavailable

_SHARE_FOR_REQUESTS: Final = 0.95
# A set of notes commits within 50 ms, so that nobody else waits longer for a SQLite database.
_MOST_TOGETHER: Final = 100


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
    ) -> OutboundResponse:
        """Send one request and read the whole answer."""


class ScimChannel:
    """The `delivery.channel.Channel` of SCIM. Holds no state between deliveries: one slow service holds up no other.

    Args:
        timeout: total deadline of one attempt, after which the worker drops it; shorter than the lease. The requests
            together get a little less, so that what was achieved by then is still reported.
    """

    name: Final = CHANNEL
    ceiling: Final = CEILING

    def __init__(self, database: Database, keyring: Keyring, http: Http, *, timeout: timedelta) -> None:
        self._database = database
        self._keyring = keyring
        self._http = ScimHttp(http)
        self._time_for_requests = timeout * _SHARE_FOR_REQUESTS
        self._situations = Together(self._read_situations, most=_MOST_TOGETHER)
        self._notes = Together(self._write_notes, most=_MOST_TOGETHER)

    async def send(self, delivery: LeasedDelivery, *, now: datetime) -> Outcome:
        """See `Channel.send`. Operations: provision, deprovision."""
        clock = Clock(now, limit=self._time_for_requests)
        situation = await self._situations.ask((delivery, now))
        if situation is None:
            return Outcome(
                kind="dead", error="The application has no SCIM service any more, or the account is unknown."
            )
        try:
            client = self._client(delivery, situation.target, clock)
        except (Unavailable, RemoteRefused) as error:
            return Outcome(kind="dead", error=error.description)
        run = Run(self._database, delivery, situation, client=client, clock=clock, notes=self._notes)
        try:
            return await self._dispatch(run)
        except NeedsSomebody as error:
            return run.outcome("dead", str(error))
        except Overtaken:
            return run.outcome("retry", "The person changed while this was being prepared.", retry_after=timedelta(0))
        except RemoteError as error:
            return _failed(run, error)

    async def _dispatch(self, run: Run) -> Outcome:
        match run.delivery.operation:
            case "provision":
                return await provision(run)
            case "deprovision":
                return await deprovision(run)
            case unknown:
                raise NeedsSomebody(f"SCIM has no operation {unknown!r}.")

    def _read_situations(self, asked: Sequence[tuple[LeasedDelivery, datetime]]) -> list[records.Situation | None]:
        with self._database.read() as session:
            # Whoever asked last: what began meanwhile counts for all.
            now = max(when for _, when in asked)
            return records.situations(session, [delivery for delivery, _ in asked], now=now)

    def _write_notes(self, notes: Sequence[records.Note]) -> list[bool]:
        # A leave waits for the disk; what a provision saw can be seen again after a loss of power.
        durable = any(note.delivery.operation == "deprovision" for note in notes)
        return self._database.run(lambda session: records.note_accounts(session, notes), durable=durable)

    def _client(self, delivery: LeasedDelivery, target: records.Target, clock: Clock) -> ScimClient:
        dialect = DIALECTS.get(target.dialect)
        if dialect is None:
            raise RemoteRefused(f"The SCIM dialect {target.dialect!r} is unknown.")
        token = None
        if target.token_sealed is not None:
            token = self._keyring.open(scim_token_context(delivery.application_id), target.token_sealed).decode()
        return ScimClient(
            self._http,
            target.base_url,
            token,
            time_left=clock.time_left,
            now=clock.now,
            dialect=dialect,
            trace=delivery.id,
        )


def _failed(run: Run, error: RemoteError) -> Outcome:
    """What a failure means for the delivery: waiting helps against an outage, and a credential can be renewed."""
    retry_after = error.retry_after if isinstance(error, RemoteUnavailable) else None
    waits = isinstance(error, RemoteUnavailable | RemoteUnauthorized | RemoteNotFound)
    return run.outcome("retry" if waits else "dead", error.description, retry_after=retry_after)


class ScimHttp:
    """`scim.client.HttpPort` on the hub's guarded HTTP client."""

    def __init__(self, http: Http) -> None:
        self._http = http

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
            return await self._http.request(method, url, headers=headers, json=json, timeout=timeout)
        except OutboundTimeout as error:
            raise RemoteUnavailable("The application did not answer in time.", may_have_arrived=True) from error
        except OutboundRefused as error:
            raise RemoteRefused(error.description) from error
        except OutboundError as error:
            raise RemoteUnavailable(error.description, may_have_arrived=True) from error
