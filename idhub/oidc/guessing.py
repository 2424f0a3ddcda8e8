"""How often wrong client secrets are looked at. A right one costs nothing: no read, no write.

Per client and address twenty a minute, counted in the database, so over all processes and restarts. A process also
counts by itself, before it waits for anything: guesses that arrive in one instant get no more than that in each
process. What the database refused is remembered until its time has come, so that nobody makes it work for nothing.

Counted is what was guessed at one secret: a client that was disabled or removed and comes back, or gets a new secret,
begins with a clean count. Otherwise whoever brings an application back would see it refused for another minute.

Whoever gets the secrets of many clients wrong is reported, not locked out: many clients may share one address, and
secrets are too long to be found by trying.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import anyio.to_thread
import structlog
from sqlalchemy.exc import OperationalError

from idhub.db import Database
from idhub.errors import Unavailable
from idhub.keys import Keyring
from idhub.login.counters import CLIENT
from idhub.login.throttling import ClientGuess, claim_client
from idhub.oidc.errors import OAuthError

_KEYS: Final = 20_000
_Guessed = tuple[str, str, str | None]
"""Client, address, and the hash of the secret that is guessed at; None: nobody can be recognised by that name."""
_LOG = structlog.get_logger(__name__)


class GuessLimit:
    """The limit of one process; all processes share its counters in the database."""

    def __init__(self, database: Database, keyring: Keyring, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._failures: OrderedDict[_Guessed, tuple[float, int]] = OrderedDict()
        self._closed: OrderedDict[_Guessed, float] = OrderedDict()

    def check(self, client_id: str, address: str, secret_hash: str | None) -> None:
        """Refuse while there were too many failures. Before the secret is looked at: a further guess learns nothing.

        Raises:
            OAuthError: slow_down, with the seconds to wait.
        """
        # The machine's own clock: how long a process remembers decides nothing that is stored.
        key, now = (client_id, address, secret_hash), time.monotonic()
        since, failures = self._failures.get(key, (0.0, 0))
        left = self._closed.get(key, 0.0) - now
        if failures >= CLIENT.count:
            left = max(left, since + _seconds(CLIENT.window) - now)
        if left > 0:
            raise _slow_down(left)

    async def failed(self, client_id: str, address: str, secret_hash: str | None) -> bool:
        """Count a failure; whether its address gets ever more clients wrong.

        Raises:
            OAuthError: slow_down: it was one too many, here or in another process.
        """
        key, now = (client_id, address, secret_hash), time.monotonic()
        since, failures = self._failures.pop(key, (now, 0))
        if now - since > _seconds(CLIENT.window):
            since, failures = now, 0
        self._failures[key] = since, failures + 1
        _trim(self._failures)
        guess = await anyio.to_thread.run_sync(self._claim, client_id, address, secret_hash)
        if guess.retry_after is not None:
            seconds = _seconds(guess.retry_after)
            self._closed[key] = now + seconds
            _trim(self._closed)
            raise _slow_down(seconds)
        return guess.is_spray

    def _claim(self, client_id: str, address: str, secret_hash: str | None) -> ClientGuess:
        try:
            with self._database.transaction(durable=False) as session:
                return claim_client(
                    session, self._keyring, client_id, address, secret_hash=secret_hash, now=self._clock()
                )
        except (OperationalError, Unavailable) as error:
            # The refusal stands all the same; this process goes on counting by itself.
            _LOG.warning("oidc.guess_not_counted", exc_info=error)
            return ClientGuess(None, is_spray=False)


def _seconds(span: timedelta | None) -> float:
    return 0.0 if span is None else span.total_seconds()


def _trim(kept: "OrderedDict[_Guessed, tuple[float, int]] | OrderedDict[_Guessed, float]") -> None:
    while len(kept) > _KEYS:
        kept.popitem(last=False)


def _slow_down(seconds: float) -> OAuthError:
    return OAuthError(
        "slow_down",
        "Client authentication failed too often. Wait and try again.",
        reason="client.throttled",
        retry_after=max(1, int(seconds) + 1),
    )
