"""Passwords: what may be one, how it is hashed, and how much hashing may wait.

Policy after NIST SP 800-63B-4 section 3.1.1: length decides, any character may be used, nothing is composed, trimmed or
cut, and what attackers try first is refused by name of reason. Hashing is argon2id in threads of its own, as many as
there are cores: what would wait longer than the settings allow is refused at once, and nothing else notices.
"""

import math
import re
import secrets
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from idhub.credentials.tables import Password
from idhub.directory.tables import Employment, Organization, OrganizationClosure, Person
from idhub.errors import Invalid, Unavailable
from idhub.login import argon2id
from idhub.login.hashing import HashingThreads
from idhub.settings import Settings

T = TypeVar("T")

MAX_PASSWORD_BYTES = 1024
"""Longest password taken, in UTF-8; 128 characters of any script fit. Longer ones never reach the hash."""

_COMMON_FILE = Path(__file__).with_name("common_passwords.txt")
_TILE_WORDS = 3000
_MIN_TILE, _MAX_TILE = 4, 24
_FEW_WORDS = 2
_LEET = str.maketrans("0134578@$!", "oieastbasi")
_SEQUENCES = ("0123456789", "abcdefghijklmnopqrstuvwxyz", "qwertyuiop", "asdfghjkl", "zxcvbnm")
_DATE = re.compile(r"(?:19|20)\d{2}(?:(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))?")
_MIN_CONTEXT_LATIN, _MIN_CONTEXT_HAN = 4, 2
# Words of nearly every company's name or address; they stand for none.
_GENERIC_WORDS = frozenset(
    {"group", "company", "limited", "subsidiary", "dealer", "supplier", "holding", "holdings", "international"}
    | {"corporation", "incorporated", "mail", "email", "office", "example", "test", "invalid", "localhost"}
    | {"公司", "集团", "有限公司", "有限", "股份", "总部"}
)


def normalize(password: str) -> str:
    """The form that is hashed and compared: NFC, otherwise exactly what was typed.

    Raises:
        Invalid: rule `password.too_long` or `password.characters`; refused before any hashing.
    """
    try:
        size = len(password.encode())
    except UnicodeEncodeError as error:
        raise Invalid(
            "The password has characters that cannot be stored.", field="password", rule="password.characters"
        ) from error
    if size > MAX_PASSWORD_BYTES:
        raise Invalid("The password is too long.", field="password", rule="password.too_long")
    return unicodedata.normalize("NFC", password)


# ---------------------------------------------------------------- policy


def check_policy(password: str, *, min_length: int, context: Iterable[str] = ()) -> None:
    """Refuse what may not become a password. Never because of which kinds of characters it has or lacks.

    Args:
        password: normalized.
        context: words that stand for this person or company, from `context_words`.

    Raises:
        Invalid: rule `password.too_short`, `password.characters`, `password.common` or `password.context`.
    """
    if len(password) < min_length:
        raise Invalid(
            f"The password needs at least {min_length} characters.", field="new_password", rule="password.too_short"
        )
    if any(unicodedata.category(c) == "Cc" for c in password):
        raise Invalid(
            "The password has control characters, which keyboards cannot type.",
            field="new_password",
            rule="password.characters",
        )
    folded = _fold(password)
    if password.casefold() in _common() or folded in _common() or _is_common(folded):
        raise Invalid(
            "The password is one of those that attackers try first.", field="new_password", rule="password.common"
        )
    spelled = folded.translate(_LEET)
    if any(word in folded or word in spelled for word in context):
        raise Invalid(
            "The password contains the name of the company, your name, number, mail or mobile.",
            field="new_password",
            rule="password.context",
        )


def context_words(session: Session, principal_id: str, *, site_name: str) -> frozenset[str]:
    """Words that must not be in this person's password: names of the company and its parents, own names and numbers."""
    words = {"idhub", site_name}
    person = session.execute(
        select(Person.display_name, Person.given_name, Person.family_name, Person.email, Person.mobile).where(
            Person.id == principal_id
        )
    ).one()
    names = [person.display_name, person.given_name, person.family_name]
    words.update(name for name in names if name)
    if person.given_name and person.family_name:
        words.update({person.given_name + person.family_name, person.family_name + person.given_name})
    if person.email:
        local, _, domain = person.email.partition("@")
        words.update({local, *domain.split(".")})
    if person.mobile:
        words.update({person.mobile, person.mobile[-8:]})
    posts = session.execute(
        select(Employment.employee_number, Employment.organization_id).where(Employment.principal_id == principal_id)
    ).all()
    words.update(post.employee_number for post in posts)
    organizations = session.execute(
        select(Organization.code, Organization.name, Organization.name_en)
        .join(OrganizationClosure, OrganizationClosure.ancestor_id == Organization.id)
        .where(OrganizationClosure.descendant_id.in_({post.organization_id for post in posts}))
    ).all()
    words.update(value for row in organizations for value in row if value)
    return frozenset(_usable_words(words))


def _usable_words(words: Iterable[str]) -> Iterable[str]:
    for word in words:
        for part in {word, *re.split(r"[\s\-_./,&()（）]+", word)}:
            folded = _fold(part)
            shortest = _MIN_CONTEXT_LATIN if folded.isascii() else _MIN_CONTEXT_HAN
            if len(folded) >= shortest and folded not in _GENERIC_WORDS:
                yield folded


def _fold(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum() or c in "@$!")


@cache
def _common() -> frozenset[str]:
    return frozenset(_COMMON_FILE.read_text(encoding="utf-8").split("\n")) - {""}


@cache
def _tiles() -> frozenset[str]:
    head = _COMMON_FILE.read_text(encoding="utf-8").split("\n")[:_TILE_WORDS]
    return frozenset(word for word in head if len(word) >= _MIN_TILE)


def _is_common(folded: str) -> bool:
    """Whether it is nothing but one or two of the commonest words, however spelled, repeated, numbered or dated.

    Finds the cheapest way to lay the whole text with common words, keyboard and alphabet sequences (one each, the same
    again is free) and dates (free). Three different words are a passphrase and pass.
    """
    if len(set(folded)) <= 1:
        return True
    spelled, size, is_number = folded.translate(_LEET), len(folded), folded.isdecimal()
    costs: list[dict[str, int]] = [{"": 0}] + [{} for _ in range(size)]
    for start in range(size):
        if not costs[start]:
            continue
        for end in range(start + 1, min(size, start + _MAX_TILE) + 1):
            tile = _tile(folded[start:end], spelled[start:end])
            # Digits are free beside words, but a long number of its own is as good as it is long.
            if tile is None or (is_number and end - start < _MIN_TILE):
                continue
            for last, cost in costs[start].items():
                key = last if tile == "" else tile
                total = cost + (0 if tile in {"", last} else 1)
                if total <= _FEW_WORDS and total < costs[end].get(key, size):
                    costs[end][key] = total
    return bool(costs[size])


def _tile(plain: str, spelled: str) -> str | None:
    """What a stretch counts as: "" is free, a word costs one, None cannot be laid."""
    if plain in {"!", "@", "$"} or (len(plain) <= 3 and plain.isdecimal()) or _DATE.fullmatch(plain):
        return ""
    if len(plain) < _MIN_TILE:
        return None
    if plain in _tiles() or plain in _common():
        return plain
    if spelled in _tiles():
        return spelled
    if any(plain in s or plain in s[::-1] for s in _SEQUENCES) or (plain.isdecimal() and len(set(plain)) == 1):
        return plain
    return None


# ---------------------------------------------------------------- hashing


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether a password matched, and the hash to store instead when the stored one has outdated costs."""

    matches: bool
    replacement: str | None = None


class HashingPool:
    """Hashes and verifies passwords in a few threads, with a bounded queue. One a process; safe for threads.

    A caller on an event loop awaits `asyncio.wrap_future(...)`; one in a thread calls `.result()`. Either way the
    caller holds no transaction meanwhile. Whoever would have to undo something if there were no room takes a place
    first.
    """

    def __init__(self, settings: Settings) -> None:
        self._costs = argon2id.Costs(settings.argon2_memory_kib, settings.argon2_time_cost)
        self._threads = settings.hashing_threads
        self._queue_seconds = settings.hash_queue_seconds
        self._hashing = HashingThreads(self._threads)
        self._lock = threading.Lock()
        self._outstanding = 0
        self.refused = 0
        """Callers for whom there was no place, since the start."""
        started = time.perf_counter()
        # What unknown people are compared with, so that they cost the same work as known ones.
        self._dummy = self._hash(secrets.token_urlsafe(24))
        self._cost = time.perf_counter() - started

    @property
    def depth(self) -> int:
        """How many places are taken, in this process: passwords that are being hashed, wait for it, or soon will."""
        return self._outstanding

    def enter(self) -> "Place":
        """Take a place in the queue, before anything else is done for whoever needs it.

        Raises:
            Unavailable: more work is queued than the settings allow.
        """
        with self._lock:
            waiting = max(0, self._outstanding + 1 - self._threads) * self._cost / self._threads
            if waiting > self._queue_seconds:
                self.refused += 1
                raise Unavailable(
                    "Too many people are signing in at this moment.",
                    retry_after=timedelta(seconds=math.ceil(max(1.0, waiting))),
                )
            self._outstanding += 1
        return Place(self)

    def hash(self, password: str) -> "Future[str]":
        """`Place.hash`, in a place of its own.

        Raises:
            Unavailable: more work is queued than the settings allow.
        """
        place = self.enter()
        return place.left_after(place.hash(password))

    def verify(self, password: str, stored: str | None) -> "Future[Verification]":
        """`Place.verify`, in a place of its own.

        Raises:
            Unavailable: more work is queued than the settings allow.
        """
        place = self.enter()
        return place.left_after(place.verify(password, stored))

    def _hash(self, password: str) -> str:
        return argon2id.hash_password(password, self._costs)

    def _compare(self, password: str, stored: str) -> Verification:
        known = argon2id.read(stored)
        if known is not None:
            matches = known.matches(password)
            is_outdated = known.costs != self._costs or len(known.digest) != argon2id.DIGEST_BYTES
        elif stored.startswith("$argon2"):
            matches, is_outdated = argon2id.matches_other(password, stored), True
        else:
            self._compare(password, self._dummy)
            return Verification(matches=False)
        return Verification(matches, self._hash(password) if matches and is_outdated else None)

    def close(self) -> None:
        """Let queued work end and stop the threads."""
        self._hashing.close()

    def _submit(self, work: Callable[[], T]) -> "Future[T]":
        return self._hashing.submit(lambda: self._timed(work))

    def _timed(self, work: Callable[[], T]) -> T:
        started = time.perf_counter()
        try:
            return work()
        finally:
            # An average that follows the machine; one slow moment does not close the door.
            self._cost += (time.perf_counter() - started - self._cost) / 8

    def _leave(self) -> None:
        with self._lock:
            self._outstanding -= 1


class Place:
    """A place in the queue of a `HashingPool`, for one person's passwords, until it is left."""

    def __init__(self, pool: HashingPool) -> None:
        self._pool = pool
        self._is_left = False

    def hash(self, password: str) -> "Future[str]":
        """Hash a normalized password."""
        return self._pool._submit(lambda: self._pool._hash(password))

    def verify(self, password: str, stored: str | None) -> "Future[Verification]":
        """Compare a normalized password with a stored hash.

        None (nobody, no password) costs the same work and never matches.
        """
        return self._pool._submit(lambda: self._pool._compare(password, stored or ""))

    def left_after(self, work: "Future[T]") -> "Future[T]":
        """Leave when the work is done."""
        work.add_done_callback(lambda _: self.leave())
        return work

    def leave(self) -> None:
        """Make room; leaving twice is leaving once."""
        if not self._is_left:
            self._is_left = True
            self._pool._leave()

    def __enter__(self) -> "Place":
        """Nothing: the place is taken already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave."""
        self.leave()


# ---------------------------------------------------------------- storing


@dataclass(frozen=True, slots=True)
class StoredPassword:
    """A stored hash and the enrolment epoch it was set in."""

    hash: str
    enrolment_epoch: int
    set_at: datetime


def read_password(session: Session, principal_id: str) -> StoredPassword | None:
    """The stored hash of a person, whether or not its enrolment epoch is still theirs."""
    row = session.execute(
        select(Password.hash, Password.enrolment_epoch, Password.set_at).where(Password.principal_id == principal_id)
    ).one_or_none()
    return None if row is None else StoredPassword(row.hash, row.enrolment_epoch, row.set_at)


def store_password(
    session: Session, principal_id: str, password_hash: str, *, enrolment_epoch: int, now: datetime
) -> None:
    """Set a person's password hash.

    In the caller's transaction, which has locked the principal and read the epoch under that lock.
    """
    values = {"hash": password_hash, "enrolment_epoch": enrolment_epoch, "set_at": now}
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(Password).values(principal_id=principal_id, **values)
    session.execute(statement.on_conflict_do_update(index_elements=[Password.principal_id], set_=values))
