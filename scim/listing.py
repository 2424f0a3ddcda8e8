"""Every user of a service, page by page, with a proof that it was every user.

What is concluded from absence needs that proof, so it is strict: every page answered, every entry has an id of its own,
as many entries as the service says there are, the same number on every page, and nothing moved while it was read. By
index that last thing is shown by an overlap: each page begins with the last entry of the one before, and after the
last page the list is asked once more whether it ends there. A list that cannot show this is *incomplete*: whom it
lists is there, and of nobody else anything is known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, Protocol

from scim.errors import RemoteError, RemoteUnavailable
from scim.schemas import Resource, attribute, kept_id

Paging = Literal["index", "cursor"]

PAGE_SIZE: Final = 200
"""Users asked for at a time; a service may send fewer."""
MAX_USERS: Final = 5_000_000
_MAX_CURSOR: Final = 4_096
_MAX_GAPS: Final = 20
_MOST_EMPTY: Final = 100
_TRIES: Final = 4
_FIRST_WAIT: Final = timedelta(seconds=1)
_LONGEST_WAIT: Final = timedelta(minutes=2)

Sleep = Callable[[float], Awaitable[None]]


class Lister(Protocol):
    """What is used of `scim.client.ScimClient`."""

    async def list_users(self, parameters: Mapping[str, str | int]) -> Resource:
        """One page of /Users."""


@dataclass(frozen=True, slots=True)
class UserPage:
    """Users with an id, and when they were asked for: what they say was so at that moment or later."""

    users: Sequence[Resource]
    asked_at: datetime


@dataclass(frozen=True, slots=True)
class ListingProof:
    """What a listing can prove.

    Args:
        total: how many users the service says it has; None: it never said.
        read: entries with an id that were read, each position once.
        gaps: why the whole is not proven, in words.
    """

    paging: Paging
    total: int | None
    read: int
    pages: int
    gaps: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether somebody who was not listed is not there."""
        return not self.gaps


class UserListing:
    """Reads all users once, in pages: `while (page := await listing.next_page()) is not None`.

    Keeps one page. Whether an id came twice is for its reader to know, who keeps them: `proof(distinct=...)`.

    Args:
        paging: by cursor (RFC 9865) where the service offers it, else by index (RFC 7644 section 3.4.2.4).
        sleep: how to wait before a page is asked for again.
    """

    def __init__(
        self,
        client: Lister,
        *,
        now: Callable[[], datetime],
        paging: Paging = "index",
        count: int = PAGE_SIZE,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._client, self._now, self._sleep = client, now, sleep
        self._paging, self._count = paging, count
        self._gaps: list[str] = []
        self._total: int | None = None
        self._read = self._pages = 0
        self._last_id: str | None = None
        self._cursor = ""
        self._seen_cursors: set[int] = set()
        self._empty_pages = 0
        self._is_over = False
        self._is_closed = False

    @property
    def total(self) -> int | None:
        """How many users there are, as the service said."""
        return self._total

    @property
    def read(self) -> int:
        """How many were read so far."""
        return self._read

    def proof(self, *, distinct: int) -> ListingProof:
        """The proof over what was read; `distinct` is how many different ids were among it."""
        gaps = list(self._gaps)
        if not self._is_over and not gaps:
            gaps.append("The list was not read to its end.")
        if distinct != self._read:
            gaps.append(f"Of {self._read} users only {distinct} have an id of their own.")
        if self._total is not None and self._total != self._read and not gaps:
            gaps.append(f"The application speaks of {self._total} users and listed {self._read}.")
        if self._total is None and not gaps:
            gaps.append("The application does not say how many users it has.")
        return ListingProof(self._paging, self._total, self._read, self._pages, tuple(gaps[:_MAX_GAPS]))

    async def next_page(self) -> UserPage | None:
        """The next users; None after the last, or when nothing more can be read."""
        if self._is_over or self._is_closed:
            return None
        asked_at = self._now()
        answer = await self._ask()
        if answer is None:
            return None
        self._pages += 1
        entries = self._entries(answer)
        if entries is None:
            return None
        if self._paging == "cursor":
            if self._follow_cursor(answer, entries) and self._total is None:
                await self._ask_total()
        else:
            entries = self._without_overlap(answer, entries)
            if entries is None:
                return None
        users = self._with_ids(entries)
        self._read += len(entries)
        if users:
            self._last_id = users[-1]["id"]
        if self._read > MAX_USERS:
            self._stop(f"The application lists more than {MAX_USERS} users.")
        return UserPage(users, asked_at)

    # ---- one answer

    async def _ask_total(self) -> None:
        """How many there are, of a service that counts only where it is asked by index (RFC 9865 section 2)."""
        try:
            answer = await self._client.list_users({"startIndex": 1, "count": 1})
        except RemoteError as error:
            self._gap(f"The application does not say how many users it has: {error.description}")
            return
        total = attribute(answer, "totalResults")
        if isinstance(total, int) and not isinstance(total, bool) and total >= 0:
            self._total = total

    async def _ask(self) -> Resource | None:
        parameters: dict[str, str | int] = {"count": self._count}
        if self._paging == "cursor":
            # RFC 9865 section 2: an empty cursor asks for the first page.
            parameters["cursor"] = self._cursor
        else:
            parameters["startIndex"] = max(self._read, 1)
        for attempt in range(1, _TRIES + 1):
            try:
                return await self._client.list_users(parameters)
            except RemoteUnavailable as error:
                if attempt == _TRIES:
                    self._stop(f"Page {self._pages + 1}: {error.description}")
                    return None
                wait = min(max(error.retry_after or timedelta(0), _FIRST_WAIT * 2 ** (attempt - 1)), _LONGEST_WAIT)
                await self._sleep(wait.total_seconds())
            except RemoteError as error:
                self._stop(f"Page {self._pages + 1}: {error.description}")
                return None
        return None

    def _entries(self, answer: Resource) -> list[Any] | None:
        entries = attribute(answer, "Resources")
        total = attribute(answer, "totalResults")
        if entries is None:
            # RFC 7644 section 3.4.2: REQUIRED if totalResults is non-zero.
            entries = []
        if not isinstance(entries, list):
            self._stop(f"Page {self._pages}: the answer is no list.")
            return None
        if isinstance(total, int) and not isinstance(total, bool) and total >= 0:
            if self._total is not None and total != self._total:
                self._stop(f"Page {self._pages}: there were {self._total} users, now there are {total}.")
                return None
            self._total = total
        elif self._paging == "index":
            # RFC 7644 section 3.4.2: totalResults is REQUIRED.
            self._stop(f"Page {self._pages}: the answer does not say how many users there are.")
            return None
        if len(entries) > max(self._count, PAGE_SIZE) * 10:
            self._stop(f"Page {self._pages}: {len(entries)} users were sent where {self._count} were asked for.")
            return None
        return entries

    def _follow_cursor(self, answer: Resource, entries: Sequence[Any]) -> bool:
        """Take the next cursor; whether there is none, which ends the list."""
        cursor = attribute(answer, "nextCursor")
        if cursor in (None, ""):
            self._is_over = True
            return True
        if not isinstance(cursor, str) or len(cursor) > _MAX_CURSOR:
            self._stop(f"Page {self._pages}: the cursor cannot be used.")
            return False
        mark = hash(cursor)
        # Pages may be empty, but not without end.
        self._empty_pages = 0 if entries else self._empty_pages + 1
        if mark in self._seen_cursors or self._empty_pages > _MOST_EMPTY:
            self._stop(f"Page {self._pages}: the cursor leads in a circle.")
            return False
        self._seen_cursors.add(mark)
        self._cursor = cursor
        return False

    def _without_overlap(self, answer: Resource, entries: list[Any]) -> list[Any] | None:
        """The entries that are new; the first repeats the last one read, or something moved meanwhile."""
        start = attribute(answer, "startIndex")
        if isinstance(start, int) and not isinstance(start, bool) and start != max(self._read, 1):
            self._stop(f"Page {self._pages}: the application answered from another place than it was asked for.")
            return None
        if self._read:
            if not entries:
                self._stop(f"Page {self._pages}: the list ended after {self._read} of {self._total} users.")
                return None
            if not isinstance(entries[0], dict) or attribute(entries[0], "id") != self._last_id:
                self._stop(f"Page {self._pages}: the list changed its order while it was read.")
                return None
            entries = entries[1:]
        if not entries:
            # Nobody beyond the last one: the list ends here, or it goes on where it cannot be reached.
            self._is_over = True
            if self._total != self._read:
                self._stop(f"Page {self._pages}: the list ended after {self._read} of {self._total} users.")
        return entries

    def _with_ids(self, entries: Sequence[Any]) -> list[Resource]:
        users = []
        for entry in entries:
            user_id = kept_id(entry)
            if user_id is not None:
                entry["id"] = user_id
                users.append(entry)
            else:
                self._gap(f"Page {self._pages}: an entry has no id that can be kept.")
        if entries and not users:
            self._stop(f"Page {self._pages}: no entry has an id.")
        return users

    def _gap(self, words: str) -> None:
        if len(self._gaps) < _MAX_GAPS and words not in self._gaps:
            self._gaps.append(words)

    def _stop(self, words: str) -> None:
        self._gap(words)
        self._is_closed = True


async def paging_of(client: Any) -> Paging:
    """How the service's lists are read: by cursor where its configuration offers that (RFC 9865 section 4)."""
    try:
        configuration = await client.service_provider_config()
    except RemoteError:
        # Optional for us: services without it have lists all the same.
        return "index"
    offered = attribute(configuration, "pagination")
    return "cursor" if isinstance(offered, dict) and attribute(offered, "cursor") is True else "index"
