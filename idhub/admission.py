"""How many requests work at once: past that they wait a moment, then they are told to come back.

A database that answers slowly, or not at all, would otherwise keep every thread, and let everybody wait without end.
What ends an access, and what asks how the hub is, have threads of their own: nobody's requests keep a leave waiting.
Endpoints that machines call at high rate pass none of this; they need no thread. Nor does signing in, but a
thousand people who begin at once would be done one after the other before the event loop looks at anybody else: few
of them are worked on at a time, so that everybody else waits for a few at most. What SCIM senders read has lanes of
few threads (`ReadingLane`): threads that compute take the interpreter from each other, and make all of them slower.
"""

import asyncio
import os
import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, TypeVar

from anyio import CapacityLimiter, to_thread

from idhub.errors import Unavailable
from idhub.logs import ASGIApp, Message, Receive, Scope, Send

T = TypeVar("T")
_Lines = OrderedDict[str, deque[asyncio.Future[bool]]]
RESERVED_ENDING: Final = 2
RESERVED_HEALTH: Final = 2
_PATIENCE: Final = 5.0
_WAITING_PER_SLOT: Final = 16
_SHED_FOR: Final = timedelta(seconds=10)
_BUSY_FOR: Final = timedelta(seconds=1)
_SIGN_INS: Final = 8
_SIGN_INS_ASIDE: Final = 2
_EACH_TURNED_AWAY: Final = 0.005
_WAITING_SIGN_INS: Final = 1_024
_FEWEST_READERS, _MOST_READERS, _SLOW_READERS, _UNVERIFIED_READERS = 2, 4, 2, 1
_LONGEST_WORK: Final = 1.0
"""Seconds of work that may wait before a reading lane refuses more."""
_ALWAYS_WAIT: Final = 8
"""So many may wait at a thread however long they take."""
_MOST_WAIT: Final = 1_024
_SHORT_FIRST: Final = 8
"""So many short readings go before one of the others, which then takes its turn."""
_WEIGHT_OF_LAST: Final = 0.05
_READS: Final = {
    "GET": re.compile(r"/scim/v2/(?!(?:Bulk|Events)(?:/|$)).*"),
    "POST": re.compile(r"/scim/v2/(?:.*/)?\.search/?"),
}
_WITHOUT_BODY: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_READ_AHEAD: Final = 65_536
"""So much of a body is read before anybody asks who sends it: as much as the server has in hand anyway."""
_MOST_DIGITS: Final = 9
_HEALTH = frozenset({"/healthz", "/readyz", "/metrics"})
_ENDINGS: Final = {
    "POST": re.compile(
        r"/api/v1/people/[^/]+/(?:offboarding|suspend)|/hr/offboarding/[^/]+/preview|/hr/people/[^/]+/suspend"
        r"|/account/sessions/end(?:-others)?|/logout|/saml/slo(?:/soap)?"
    ),
    "GET": re.compile(r"/hr/offboarding/[^/]+/preview"),
    "DELETE": re.compile(r"/scim/v2/Users/[^/]+"),
}


class Busy(Unavailable):
    """There is no room; whoever asks may come back."""

    def __init__(self) -> None:
        super().__init__("Too much is being asked for at once; try again.", retry_after=_BUSY_FOR)


class Lane:
    """So many at once; a bounded line behind them. A block under `async with` holds a slot.

    Args:
        longest: of the line.
    """

    def __init__(self, slots: int, longest: int | None = None) -> None:
        self._free = slots
        self._longest = slots * _WAITING_PER_SLOT if longest is None else longest
        self._line: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        """Take a slot.

        Raises:
            Busy: the line is too long, or moves too slowly.
        """
        if not await self.take():
            raise Busy

    async def __aexit__(self, *_: object) -> None:
        """Give it back."""
        self.give()

    def take_now(self) -> bool:
        """A slot, if one is free and nobody waits for it."""
        if self._free > 0 and not self._line:
            self._free -= 1
            return True
        return False

    async def take(self) -> bool:
        """A slot, after a moment in the line at most. False: the line is too long, or moves too slowly."""
        if self.take_now():
            return True
        if len(self._line) >= self._longest:
            return False
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(place)
        try:
            await asyncio.wait((place,), timeout=_PATIENCE)
        except asyncio.CancelledError:
            self._leave(place)
            raise
        if place.done():
            return True
        self._line.remove(place)
        return False

    def _leave(self, place: "asyncio.Future[None]") -> None:
        if place.done():
            self.give()
        else:
            self._line.remove(place)

    def give(self) -> None:
        """Give the slot back: to whoever is first in the line."""
        if self._line:
            self._line.popleft().set_result(None)
        else:
            self._free += 1


class ReadingLane:
    """Few threads for what is read much, and a line of each who asks: lines are served in turn, so that who asks for
    a thousand things keeps nobody waiting who asks for one. Where no more may wait, the last of the longest line goes.

    What reads one thing goes before what reads many, which takes it several times as long: so many times, then one of
    the others.
    """

    def __init__(self, threads: int, *, timer: Callable[[], float] = time.monotonic) -> None:
        self.threads = self._free = threads
        self._timer = timer
        self._limiter: CapacityLimiter | None = None
        self._short: _Lines = OrderedDict()
        self._others: _Lines = OrderedDict()
        self._went_first = 0
        """Short ones that went before others who waited."""
        self._waiting = 0
        self._seconds = 0.0
        """What one piece of work takes, of late."""

    async def run(self, who: str, work: Callable[[], T], *, is_short: bool = False) -> T:
        """Have a thread do some work, when it is the turn of whoever asks.

        Args:
            is_short: it reads one thing.

        Raises:
            Busy: what waits is more than about a second of work, or nothing of it is done for a while.
        """
        await self._take(who, self._short if is_short else self._others)
        if self._limiter is None:
            self._limiter = CapacityLimiter(self.threads)
        began = self._timer()
        try:
            return await to_thread.run_sync(work, limiter=self._limiter)
        finally:
            self._seconds += (self._timer() - began - self._seconds) * _WEIGHT_OF_LAST
            self._give()

    async def _take(self, who: str, lines: _Lines) -> None:
        if self._free > 0 and not self._waiting:
            self._free -= 1
            return
        if self._is_full() and not self._has_made_room(who):
            raise Busy
        place: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        lines.setdefault(who, deque()).append(place)
        self._waiting += 1
        try:
            await asyncio.wait((place,), timeout=_PATIENCE)
        except asyncio.CancelledError:
            if not place.done():
                self._leave(lines, who, place)
            elif place.result():
                self._give()
            raise
        if not place.done():
            self._leave(lines, who, place)
            raise Busy
        if not place.result():
            raise Busy

    def _is_full(self) -> bool:
        seconds = self._waiting * self._seconds / self.threads
        few = self._waiting < _ALWAYS_WAIT * self.threads
        return self._waiting >= _MOST_WAIT or (seconds > _LONGEST_WORK and not few)

    def _has_made_room(self, who: str) -> bool:
        """Whether the last of the longest line has gone for somebody in whose line fewer wait."""
        longest = max((*self._others, *self._short), key=self._length)
        if self._length(longest) <= self._length(who) + 1:
            return False
        lines = self._others if longest in self._others else self._short
        place = lines[longest][-1]
        self._leave(lines, longest, place)
        place.set_result(False)
        return True

    def _length(self, who: str) -> int:
        return len(self._others.get(who, ())) + len(self._short.get(who, ()))

    def _leave(self, lines: _Lines, who: str, place: "asyncio.Future[bool]") -> None:
        line = lines[who]
        line.remove(place)
        self._waiting -= 1
        if not line:
            del lines[who]

    def _give(self) -> None:
        if not self._waiting:
            self._free += 1
            return
        lines = self._next()
        who, line = next(iter(lines.items()))
        place = line.popleft()
        self._waiting -= 1
        if line:
            lines.move_to_end(who)
        else:
            del lines[who]
        place.set_result(True)

    def _next(self) -> _Lines:
        """Whose turn it is: of short ones, or of the others."""
        if self._short and self._others and self._went_first < _SHORT_FIRST:
            self._went_first += 1
            return self._short
        self._went_first = 0
        return self._others or self._short


class Admission:
    """The lanes of one process.

    Args:
        slots: requests that work at once, beside those that end an access or ask for health: one thread each.
    """

    def __init__(self, slots: int, *, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._others, self._endings, self._health = Lane(slots), Lane(RESERVED_ENDING), Lane(RESERVED_HEALTH)
        self.sign_ins = Lane(_SIGN_INS, _WAITING_SIGN_INS)
        """What is done on the event loop for people who are not signed in yet, in pieces of about a millisecond."""
        self.sign_ins_aside = Lane(_SIGN_INS_ASIDE, _WAITING_SIGN_INS)
        """What is done for them in threads: the interpreter runs one at a time, and the event loop waits for each."""
        self._turned_away = Lane(1, _WAITING_SIGN_INS)
        self.reading = ReadingLane(max(_FEWEST_READERS, min(_MOST_READERS, os.cpu_count() or 1)))
        """What an index finds for SCIM senders, at once."""
        self.reading_long = ReadingLane(_SLOW_READERS)
        """What takes them longer: nobody waits for it who is done at once."""
        self.reading_unverified = ReadingLane(_UNVERIFIED_READERS)
        """Whoever says a token that nobody has seen to work: who has one waits for no invented ones."""
        self.threads = slots + RESERVED_ENDING + RESERVED_HEALTH
        self.refused = 0
        """Requests that were told to come back, since the start."""
        self._refused_at: datetime | None = None

    @property
    def is_shedding(self) -> bool:
        """Whether somebody was told to come back within the last ten seconds."""
        return self._refused_at is not None and timedelta(0) <= self._clock() - self._refused_at < _SHED_FOR

    async def turn_away(self) -> None:
        """Wait one's turn before one is told to come back.

        Whoever hears it at once asks again at once: a hundred such browsers would keep a core busy with refusals, and
        leave nothing for the passwords of those who are in.
        """
        if await self._turned_away.take():
            try:
                await asyncio.sleep(_EACH_TURNED_AWAY)
            finally:
                self._turned_away.give()

    async def enter(self, method: str, path: str) -> Callable[[], None] | None:
        """Wait for a slot; what gives it back, or None: come back later."""
        reads = _READS.get(method)
        if reads is not None and reads.fullmatch(path):
            # They have lanes of their own, where it is known what is asked for.
            return _give_nothing
        if path in _HEALTH:
            lane = self._health
        elif not self._others.take_now():
            pattern = _ENDINGS.get(method)
            lane = self._endings if pattern is not None and pattern.fullmatch(path) else self._others
        else:
            return self._others.give
        if await lane.take():
            return lane.give
        self.count_refused()
        return None

    def count_refused(self) -> None:
        """Somebody is told to come back."""
        self.refused += 1
        self._refused_at = self._clock()


def _give_nothing() -> None:
    return


class Admitted:
    """ASGI middleware: lets a request in when there is room, and answers with `refuse` when there is none.

    A slot is held by who works: from when the request is there until the answer begins. Whoever sends slowly, or breaks
    off, holds none meanwhile, and what is streamed afterwards needs no thread.
    """

    def __init__(self, app: ASGIApp, *, admission: Admission, refuse: ASGIApp) -> None:
        self._app = app
        self._admission = admission
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        ahead = await _read_ahead(receive) if _is_read_ahead(scope) else None
        if ahead is not None and ahead["type"] != "http.request":
            return
        place = _Slot(self._admission, scope["method"], scope["path"])
        if not await place.take():
            await self._refuse(scope, receive, send)
            return

        async def receiving() -> Message:
            nonlocal ahead
            if ahead is not None:
                message, ahead = ahead, None
                return message
            return await place.given_up_for(receive)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                place.give()
            await send(message)

        try:
            await self._app(scope, receiving, sending)
        finally:
            place.give()


class _Slot:
    """A request's slot."""

    def __init__(self, admission: Admission, method: str, path: str) -> None:
        self._admission = admission
        self._asked = method, path
        self._give_back: Callable[[], None] | None = None

    async def take(self) -> bool:
        """Wait for one; whether there was room."""
        self._give_back = await self._admission.enter(*self._asked)
        return self._give_back is not None

    def give(self) -> None:
        """Give it back, if it is held."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()

    async def given_up_for(self, receive: Receive) -> Message:
        """The next message of a client, for which nobody holds a slot.

        Raises:
            Busy: there is no room any more.
        """
        if self._give_back is None:
            return await receive()
        self.give()
        message = await receive()
        if not await self.take():
            raise Busy
        return message


def _is_read_ahead(scope: Scope) -> bool:
    """Whether there is a body to wait for. One that says that it is large may be refused by that alone."""
    if scope["method"] in _WITHOUT_BODY:
        return False
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    return length.isdigit() and len(length) <= _MOST_DIGITS and int(length) <= _READ_AHEAD


async def _read_ahead(receive: Receive) -> Message:
    """The body, or of a large one its beginning; what tells that the client is gone, if it went before."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return message
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > _READ_AHEAD or not message.get("more_body", False):
            return {**message, "body": b"".join(parts)}
