"""Talking to a target outside of the queue, for a person who waits: discovery, trying a token, looking for accounts.

Nothing here changes an account; each function opens its own connections and short transactions.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

from idhub.changes import Actor
from idhub.db import Database
from idhub.delivery.http import OutboundHttp
from idhub.errors import Conflict, NotFound, Unavailable
from idhub.keys import Keyring
from idhub.provisioning.outbound import adoption, discovering, records
from idhub.provisioning.outbound.channel import ScimChannel
from idhub.provisioning.outbound.tokens import next_token_context
from idhub.settings import Settings
from scim.client import ScimClient
from scim.discovery import Discovery
from scim.errors import RemoteError

T = TypeVar("T")
_PATIENCE = timedelta(seconds=30)
_LONG_PATIENCE = timedelta(hours=6)


class _Watch:
    """Time for somebody who waits at a terminal or a page."""

    def __init__(self, clock: Callable[[], datetime], limit: timedelta) -> None:
        self._clock = clock
        self._until = clock() + limit

    def now(self) -> datetime:
        return self._clock()

    def time_left(self) -> timedelta:
        return min(self._until - self._clock(), _PATIENCE)


class Direct:
    """What the commands ask targets."""

    def __init__(self, database: Database, keyring: Keyring, settings: Settings, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._keyring = keyring
        self._settings = settings
        self._clock = clock

    def discover(self, application_id: str) -> Discovery:
        """Ask the target what it can do, and keep it.

        Raises:
            NotFound: the application has no SCIM target.
            Unavailable: it did not answer as it should.
        """
        target = self._target(application_id)

        async def asked(client: ScimClient) -> Discovery:
            return await client.discover()

        found = self._talk(application_id, target, asked)
        self._database.run(
            lambda session: discovering.keep(session, application_id, target.base_url, found, now=self._clock())
        )
        return found

    def try_token(self, application_id: str, *, next_one: bool) -> None:
        """Ask for a page of users with the present token, or with the one that is to take over.

        Raises:
            Conflict: there is no such token.
            Unavailable: the application does not accept it, or did not answer.
        """
        target = self._target(application_id)
        context = None
        if next_one:
            sealed = self._database_next_token(application_id)
            if sealed is None:
                raise Conflict("There is no new token to try.", field="token", rule="token.none_staged")
            target, context = replace(target, token_sealed=sealed), next_token_context(application_id)

        async def asked(client: ScimClient) -> None:
            await client.list_page("/Users", 1, count=1)

        self._talk(application_id, target, asked, token_context=context)

    def adopt(self, application_id: str, *, actor: Actor, progress: Callable[[int], None]) -> adoption.Scanned:
        """Go through everything that the application has: link what the rules fit, put the rest to review.

        Raises:
            NotFound, Unavailable: as `discover`; pages that were read before are kept.
        """
        target = self._target(application_id)
        total = adoption.Scanned()

        async def scanned(client: ScimClient) -> adoption.Scanned:
            async for users in adoption.pages(client):
                one = await asyncio.to_thread(
                    adoption.match_page,
                    self._database,
                    application_id,
                    users,
                    automatic=target.options.adopt.automatic,
                    review=target.options.adopt.review,
                    now=self._clock(),
                    actor=actor,
                )
                total.read += one.read
                total.known += one.known
                total.linked += one.linked
                total.to_review += one.to_review
                total.unmatched += one.unmatched
                progress(total.read)
            return total

        return self._talk(application_id, target, scanned, limit=_LONG_PATIENCE)

    def _target(self, application_id: str) -> records.Target:
        with self._database.read() as session:
            target = records.targets(session, [application_id]).get(application_id)
        if target is None:
            raise NotFound("This application has no SCIM target.", field="application", rule="scim.none")
        return target

    def _database_next_token(self, application_id: str) -> bytes | None:
        with self._database.read() as session:
            return records.next_token(session, application_id)

    def _talk(
        self,
        application_id: str,
        target: records.Target,
        work: Callable[[ScimClient], Awaitable[T]],
        *,
        limit: timedelta = _PATIENCE,
        token_context: str | None = None,
    ) -> T:
        async def talked() -> T:
            async with OutboundHttp(self._settings) as http:
                channel = ScimChannel(self._database, self._keyring, http, timeout=limit)
                watch = _Watch(self._clock, limit)
                client = channel.client(application_id, target, watch, trace="command", token_context=token_context)
                return await work(client)

        try:
            return asyncio.run(talked())
        except RemoteError as error:
            raise Unavailable(error.description) from error
