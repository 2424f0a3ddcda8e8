"""One attempt of a SCIM delivery: its clock, its conversation, what it wrote down, its evidence."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Literal, TypeVar

from sqlalchemy.orm import Session

from idhub.changes import EventType
from idhub.db import Database
from idhub.delivery.channel import Failure, Grade, LeasedDelivery, Outcome
from idhub.delivery.together import Together
from idhub.provisioning.outbound import records
from scim.client import Exchange, ScimClient
from scim.schemas import Resource, attribute, kept_id

T = TypeVar("T")

_MOST_SHOWN = 40
"""Requests of one attempt that its evidence lists, half of them the first ones and half the last."""


LINKED_ELSEWHERE = "The application's account of this name is already linked to another person."


class NeedsSomebody(Exception):
    """Trying again will not help: a person has to decide. The text says what and why."""


class AwaitsReview(NeedsSomebody):
    """Nothing is wrong: an account there may be this person's, and is in the list of reviews. A decision goes on."""

    def __init__(self) -> None:
        super().__init__("An account there may be this person's. Confirm or reject it in the list of reviews.")


class Overtaken(Exception):
    """The person changed while this attempt was being prepared: begin again with what holds now."""


class Clock:
    """The time of one attempt: `now` as the worker gave it, moved on by the event loop's monotonic clock."""

    def __init__(self, now: datetime, *, limit: timedelta) -> None:
        self._start = now
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()

    def now(self) -> datetime:
        """The present instant."""
        return self._start + self._elapsed()

    def time_left(self) -> timedelta:
        """Until the total deadline; zero or less when it has passed."""
        return self._limit - self._elapsed()

    def _elapsed(self) -> timedelta:
        return timedelta(seconds=self._loop.time() - self._began)


class Talk:
    """What the steps of one attempt share. `grade` is what has been proven so far, whatever happens next."""

    def __init__(
        self, database: Database, delivery: LeasedDelivery, target: records.Target, *, client: ScimClient, clock: Clock
    ) -> None:
        self.delivery = delivery
        self.target = target
        self.client = client
        self.clock = clock
        self.grade = Grade.E0
        self.evidence: dict[str, Any] = {}
        self._database = database

    async def read(self, question: Callable[[Session], T]) -> T:
        """Ask the database in a short transaction of its own, off the event loop."""

        def asked() -> T:
            with self._database.read() as session:
                return question(session)

        return await asyncio.to_thread(asked)

    async def write(self, work: Callable[[Session], T]) -> T:
        """Write in a short transaction of its own, off the event loop."""
        return await asyncio.to_thread(self._database.run, work)

    def outcome(
        self,
        kind: Literal["done", "retry", "review", "dead"],
        error: str | None = None,
        *,
        retry_after: timedelta | None = None,
        failure: Failure | None = None,
    ) -> Outcome:
        """Close the attempt, with all that was said in it as evidence."""
        exchanges = self.client.exchanges
        return Outcome(
            kind=kind,
            grade=self.grade,
            evidence={**self.evidence, **_conversation(exchanges)},
            status_code=None if any(map(_may_land_late, exchanges)) or not exchanges else exchanges[-1].status,
            error=error,
            retry_after=retry_after,
            failure=failure,
        )


class Run(Talk):
    """An attempt that is about one account."""

    def __init__(
        self,
        database: Database,
        delivery: LeasedDelivery,
        situation: records.Situation,
        *,
        client: ScimClient,
        clock: Clock,
        looks: Together[records.VersionOf | records.LinkedElsewhere, int],
        notes: Together[records.Note, bool],
    ) -> None:
        super().__init__(database, delivery, situation.target, client=client, clock=clock)
        self.situation = situation
        self._looks = looks
        self._notes = notes

    @property
    def was_on(self) -> bool:
        """Whether the account was, as far as we knew, still to be switched off: then that has an event."""
        return self.situation.account.known_state not in {"inactive", "absent"}

    async def ensure_unchanged(self) -> None:
        """The version gate: nothing is switched on for somebody who changed since the situation was read.

        Raises:
            Overtaken: the principal's version has gone up.
        """
        version = await self._looks.ask(records.VersionOf(self.situation.account.principal_id))
        if version != self.situation.version:
            raise Overtaken

    async def ensure_ours(self, user: Resource) -> None:
        """Refuse to touch a user that is somebody else's, by its externalId or by our own records.

        Raises:
            NeedsSomebody: it is, or it has no id by which that could be told.
        """
        account = self.situation.account
        owner = attribute(user, "externalId")
        if account.principal_id is not None and owner not in (None, "", account.principal_id):
            raise NeedsSomebody(
                "The application's account of this name carries another externalId: it belongs to somebody else. "
                "Rename one of the two, or correct the externalId there."
            )
        user_id = id_of(user)
        if user_id == account.external_id:
            taken = self.situation.is_shared
        else:
            taken = bool(
                await self._looks.ask(records.LinkedElsewhere(self.delivery.application_id, user_id, account.id))
            )
        if taken:
            raise NeedsSomebody(LINKED_ELSEWHERE)

    async def note(self, values: Mapping[str, Any], *, seen_at: datetime, events: Sequence[EventType] = ()) -> None:
        """Write down what was seen of the account, with its events; committed when this returns."""
        await self._notes.ask(records.Note(self.delivery, values, seen_at, events, self.clock.now()))


def id_of(user: Resource) -> str:
    """The application's own id of a user.

    Raises:
        NeedsSomebody: it has none, or one that we cannot keep.
    """
    user_id = kept_id(user)
    if user_id is None:
        raise NeedsSomebody("The application gives this user no id that can be kept.")
    return user_id


def _may_land_late(exchange: Exchange) -> bool:
    """A write that got no answer, or one of a gateway that gave up waiting: a status would say that it is over."""
    return exchange.method != "GET" and exchange.status in {None, HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT}


def _conversation(exchanges: Sequence[Exchange]) -> dict[str, Any]:
    """What was said, as evidence. A service that has to be read from one end to the other is not quoted in full."""
    left_out = len(exchanges) - _MOST_SHOWN
    if left_out <= 0:
        return {"requests": [_shown(exchange) for exchange in exchanges]}
    kept = [*exchanges[: _MOST_SHOWN // 2], *exchanges[-_MOST_SHOWN // 2 :]]
    return {"requests": [_shown(exchange) for exchange in kept], "requests_left_out": left_out}


def _shown(exchange: Exchange) -> dict[str, Any]:
    return {
        "method": exchange.method,
        "path": exchange.path,
        "status": exchange.status,
        "began_at": exchange.began_at.isoformat(),
        "ended_at": exchange.ended_at.isoformat(),
    }
