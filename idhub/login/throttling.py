"""How often a password may be tried: per person, per address, and never so that strangers can lock somebody out.

A try that fails is counted before it is answered, by conditional statements, so that of a hundred parallel guesses no
more than the limit are answered. Whether anything is used up is looked at before the password is, and again before
somebody is let in: whoever signs in costs two looks and no count. Tries are counted in lanes:

- from a browser that this person signed in with before (`device`): its own count, no limit of the address;
- from an address that this person signed in from before (`place`): its own count;
- from anywhere else (`stranger`): one count for the whole world.

So whoever fills the strangers' lane of a director has not touched the director's own. Each lane is a window that
empties steadily, and holds at most 100 failures without a success between them (NIST SP 800-63B-4 section 3.2.2). An
address has a limit of its own, and a tighter one for *different* names, which is what spraying looks like. Spraying
from many addresses shows in the password: in the strangers' lane, one that was tried for many names is refused for a
while, unread; whoever is known in their lane of device or place does not notice. Unknown names are counted exactly as
known ones. Keys are keyed hashes: the table names nobody.

Secrets of clients are counted here too, when they were wrong: a right one costs no write.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final, Literal

from sqlalchemy.orm import Session

from idhub.credentials.operations import Operation, Row, Step, run_in, together
from idhub.db import to_micros
from idhub.keys import Keyring
from idhub.login.addresses import site_of
from idhub.login.counters import (
    ADDRESS,
    CLIENT,
    CLIENTS,
    CONSECUTIVE,
    GIVEN_BACK,
    MOST_FORGOTTEN,
    PERSON,
    PLACES_LOOKED_AT,
    SAME_PASSWORD,
    SPRAY,
    Limit,
    count_at_once,
    counting,
    free_in,
    holding,
    marking,
)

Lane = Literal["device", "place", "stranger"]
PLACE_MEMORY = timedelta(days=30)
"""How long an address stays one that the person signed in from; noted anew once a day."""
_PLACE_NOTED = timedelta(days=1)
_PASSWORD_BUCKET_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try, as throttling sees it.

    Args:
        name: whom it is about: `name_of` a principal, or the keyed hash of a name that is nobody's.
        address: of the client, from `client_address`.
        device_hash: of a remembered device that belongs to this very person; None otherwise.
        password: `password_bucket` of what was typed; None where the name alone is counted.
    """

    name: str
    address: str
    device_hash: str | None = None
    password: str | None = None


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether the try may go on.

    A refused one says which limit, and when one is free again (None: only a success or a new password frees).
    """

    lane: Lane
    limit: Limit | None = None
    retry_after: timedelta | None = None

    @property
    def is_admitted(self) -> bool:
        """Whether the password may be looked at."""
        return self.limit is None


def name_of(principal_id: str, access_epoch: int) -> str:
    """How a person is counted. The epoch goes up with a new password, which so starts from nothing in every lane."""
    return f"{principal_id}:{access_epoch}"


def password_bucket(keyring: Keyring, password: str) -> str:
    """Which of 65,536 buckets a password falls into: enough to see one tried for many names, too little to guess it.

    Sixteen bits of a keyed hash fit one password in 65,536, so that neither the table nor the table together with the
    master key tells what was typed.
    """
    return keyring.blind_index("tried_passwords", password)[:_PASSWORD_BUCKET_DIGITS]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look at the counters of a try has shown.

    Args:
        admission: whether a password may be looked at now, or its person be let in.
        started_at: of each counter and mark that is there, when its window began, in microseconds.
    """

    admission: Admission
    started_at: Mapping[str, int]


def look(session: Session, keyring: Keyring, attempt: Attempt, *, now: datetime) -> Seen:
    """Look whether a try may be made, and count nothing."""
    return run_in(session, _looking(keyring, attempt, now=now))


def _looking(keyring: Keyring, attempt: Attempt, *, now: datetime) -> Operation[Seen]:
    return judge(keyring, attempt, (yield looking(keyring, attempt)), now=now)


def looking(keyring: Keyring, attempt: Attempt) -> Step:
    """What the database is asked of a try; `judge` says what follows."""
    keys = _keys_of(keyring, attempt)
    asked: dict[str, str | None] = dict.fromkeys(PLACES_LOOKED_AT)
    asked.update(zip(PLACES_LOOKED_AT, keys.all, strict=False))
    return "throttle.look", asked


def judge(keyring: Keyring, attempt: Attempt, rows: Sequence[Row], *, now: datetime) -> Seen:
    """Whether a try is admitted by what the database says: exactly when `claiming` would count it."""
    keys, instant = _keys_of(keyring, attempt), to_micros(now)
    found = {row["key"]: (row["window_started_at"], row["failures"]) for row in rows}

    def is_since(key: str | None, memory: timedelta | None) -> bool:
        return key in found and found[key][0] > instant - (memory or timedelta(0)) // _MICROSECOND

    def refused(lane: Lane, key: str | None, limit: Limit) -> Admission | None:
        if key not in found:
            return None
        started, failures = found[key]
        passed = max(0, instant - started)
        left = failures - (passed // limit.interval if limit.interval else 0)
        if left < limit.count:
            return None
        interval = timedelta(microseconds=limit.interval)
        return Admission(lane, limit, interval - timedelta(microseconds=passed) % interval if limit.interval else None)

    def admission() -> Admission:
        if attempt.device_hash is not None:
            lane: Lane = "device"
        else:
            lane = "place" if is_since(keys.place, PLACE_MEMORY) else "stranger"
            if (over := refused(lane, keys.address, ADDRESS)) is not None:
                return over
            # Whose name is not new for the address, or for the password, is not counted again.
            if not is_since(keys.sprayed, SPRAY.window) and (over := refused(lane, keys.spray, SPRAY)) is not None:
                return over
            is_guarded = lane == "stranger" and not is_since(keys.password_tried, SAME_PASSWORD.window)
            if is_guarded and (over := refused(lane, keys.password, SAME_PASSWORD)) is not None:
                return over
        for limit in (PERSON, CONSECUTIVE):
            if (over := refused(lane, keys.of_lane(lane, limit), limit)) is not None:
                return over
        return Admission(lane)

    return Seen(admission() if found else _NOTHING_COUNTED[attempt.device_hash is not None], _starts(found))


def _starts(found: Mapping[str, tuple[int, int]]) -> Mapping[str, int]:
    return {key: started for key, (started, _) in found.items()}


_LANES: Final[tuple[Lane, ...]] = ("device", "place", "stranger")
_MICROSECOND: Final = timedelta(microseconds=1)
_NOTHING_COUNTED: Final = (Admission("stranger"), Admission("device"))


def claim(session: Session, keyring: Keyring, attempt: Attempt, *, now: datetime) -> Admission:
    """Count one try, or refuse it. The refusal keeps its writes."""
    return run_in(session, claiming(keyring, attempt, now=now))


def claiming(keyring: Keyring, attempt: Attempt, *, now: datetime) -> Operation[Admission]:
    """See `claim`."""
    keys = _keys_of(keyring, attempt)
    if attempt.device_hash is not None:
        return (yield from _charging(keys, "device", now))
    asked = {
        "now": now,
        "known_since": now - PLACE_MEMORY,
        "spray_since": now - (SPRAY.window or timedelta(0)),
        "tried_since": now - (SAME_PASSWORD.window or timedelta(0)),
        **keys.of_strangers(),
    }
    _, claimed = yield together(holding(keys.address, keys.of_anybody, keys.password), ("throttle.claim", asked))
    found = claimed[0]
    lane: Lane = "place" if found["known"] else "stranger"
    if not found["address"]:
        return Admission(lane, ADDRESS, (yield from free_in(keys.address, ADDRESS, now)))
    for mark, key, limit in ((keys.sprayed, keys.spray, SPRAY), (keys.password_tried, keys.password, SAME_PASSWORD)):
        if found[f"{limit.name}_marked"] and not found[limit.name]:
            yield "throttle.unmark", {"key": mark}
            return Admission(lane, limit, (yield from free_in(key or "", limit, now)))
    for limit in (PERSON, CONSECUTIVE):
        if not found[limit.name]:
            return Admission(lane, limit, (yield from free_in(keys.of_lane(lane, limit), limit, now)))
    return Admission(lane)


def _charging(keys: "_Keys", lane: Lane, now: datetime) -> Operation[Admission]:
    """Count one against the person's own limits."""
    person, in_a_row = keys.of_lane(lane, PERSON), keys.of_lane(lane, CONSECUTIVE)
    _, is_free, is_free_in_a_row = yield together(
        holding(in_a_row), counting(person, PERSON, now), counting(in_a_row, CONSECUTIVE, now)
    )
    if is_free:
        return Admission(lane) if is_free_in_a_row else Admission(lane, CONSECUTIVE)
    if is_free_in_a_row:
        yield "throttle.give_back", {**dict.fromkeys(GIVEN_BACK), "key": in_a_row}
    return Admission(lane, PERSON, (yield from free_in(person, PERSON, now)))


def succeed(session: Session, keyring: Keyring, attempt: Attempt, seen: Seen, *, now: datetime) -> None:
    """The password was right: disregard what failed before, and remember the place."""
    run_in(session, succeeding(keyring, attempt, seen, now=now))


def succeeding(keyring: Keyring, attempt: Attempt, seen: Seen, *, now: datetime) -> Operation[None]:
    """See `succeed`. Writes what is to be changed and nothing else: mostly nothing is.

    Args:
        seen: in the same transaction.
    """
    keys, there = _keys_of(keyring, attempt), seen.started_at
    lane = seen.admission.lane
    # A success says who is at the keyboard: failures before it are disregarded, whoever made them (section 3.2.2).
    sprayed = keys.sprayed if lane != "device" and keys.sprayed in there else None
    tried = keys.password_tried if lane == "stranger" and keys.password_tried in there else None
    of_device = keys.of_lane("device", CONSECUTIVE) if lane == "device" else None
    yield holding(keys.of_anybody, of_device, sprayed and keys.address, tried and keys.password)
    if sprayed is not None or tried is not None:
        spray, password = sprayed and keys.spray, tried and keys.password
        yield "throttle.give_back", dict(zip(GIVEN_BACK, (None, spray, sprayed, password, tried), strict=True))
    forgotten = [key for key in (*keys.own, sprayed, tried) if key in there]
    if forgotten:
        places = dict.fromkeys(f"key_{place}" for place in range(MOST_FORGOTTEN))
        yield "throttle.forget", {**places, **{f"key_{place}": key for place, key in enumerate(forgotten)}}
    if there.get(keys.place, 0) <= to_micros(now - _PLACE_NOTED):
        yield "throttle.remember", {"key": keys.place, "now": now}


@dataclass(frozen=True, slots=True)
class ClientGuess:
    """What became of a wrong client secret.

    Args:
        retry_after: when this client may try again from this address; None: at once.
        is_spray: this address gets the secrets of ever more clients wrong.
    """

    retry_after: timedelta | None
    is_spray: bool


def claim_client(
    session: Session, keyring: Keyring, client_id: str, address: str, *, secret_hash: str | None, now: datetime
) -> ClientGuess:
    """Count a wrong secret of a client, over all processes and restarts.

    Counted per secret: what was guessed at an earlier one says nothing of the present one.

    Names that are nobody's leave no rows beyond the detector's thirty an hour and address: junk fills no table.

    Args:
        secret_hash: hash of the secret that was guessed at; None: nobody has that name.
    """
    return run_in(session, _claiming_client(keyring, client_id, address, secret_hash=secret_hash, now=now))


def _claiming_client(
    keyring: Keyring, client_id: str, address: str, *, secret_hash: str | None, now: datetime
) -> Operation[ClientGuess]:
    site = site_of(address)

    def key(*parts: str) -> str:
        return keyring.blind_index("throttles", "\0".join(parts))

    mark, many = key("client sprayed", site, client_id), key("clients", site)
    is_spray = bool((yield marking(mark, now - (CLIENTS.window or timedelta(0)), now)))
    if is_spray and (yield counting(many, CLIENTS, now)):
        is_spray = False
    if is_spray:
        yield "throttle.unmark", {"key": mark}
    if secret_hash is None:
        return ClientGuess(None, is_spray)
    guessed = key("client", site, client_id, secret_hash)
    if (yield counting(guessed, CLIENT, now)):
        return ClientGuess(None, is_spray)
    return ClientGuess((yield from free_in(guessed, CLIENT, now)), is_spray)


def claim_call(session: Session, keyring: Keyring, token_id: str, *, a_minute: int, now: datetime) -> timedelta | None:
    """Count one call of a token, over all processes. Returns how long it must wait when it has made too many."""
    limit = Limit("calls", a_minute, timedelta(minutes=1))
    key = keyring.blind_index("throttles", f"calls\0{token_id}")
    if count_at_once(session, key, limit, now=now):
        return None
    return run_in(session, free_in(key, limit, now))


# ---------------------------------------------------------------- keys


class _Keys:
    """Keyed hashes of what is counted."""

    def __init__(self, keyring: Keyring, attempt: Attempt) -> None:
        self._keyring = keyring
        self._attempt = attempt
        site = site_of(attempt.address)
        self.address = self._key("address", site)
        self.spray = self._key("spray", site)
        self.sprayed = self._key("sprayed", site, attempt.name)
        self.place = self._key("known place", site, attempt.name)
        self.password = None if attempt.password is None else self._key("same password", attempt.password)
        self.password_tried = self._key("password tried", attempt.password or "", attempt.name)
        self._site = site
        self._of_lane: dict[tuple[str, str], str] = {}
        lanes: Sequence[Lane] = _LANES if attempt.device_hash is not None else _LANES[1:]
        self.own: Final = [self.of_lane(lane, limit) for lane in lanes for limit in (PERSON, CONSECUTIVE)]
        """Counters of the person, in every lane that this try can know of."""
        of_address: Sequence[str | None] = (self.address, self.spray, self.sprayed)
        of_password = (self.password, self.password_tried) if self.password is not None else ()
        self.all: Final = [*self.own, self.place, *(of_address if attempt.device_hash is None else ()), *of_password]
        """Everything that decides of this try."""

    @property
    def of_anybody(self) -> str:
        """A key that is the name's alone, from wherever it is tried."""
        return self.of_lane("stranger", CONSECUTIVE)

    def of_lane(self, lane: str, limit: Limit) -> str:
        """The counter of one limit in one lane."""
        if (known := self._of_lane.get((lane, limit.name))) is not None:
            return known
        source = {"device": self._attempt.device_hash or "", "place": self._site, "stranger": ""}[lane]
        made = self._of_lane[lane, limit.name] = self._key(limit.name, lane, source, self._attempt.name)
        return made

    def of_strangers(self) -> dict[str, str | None]:
        """Everything that may be counted of a try from a browser that is not known."""
        return {
            "place": self.place,
            "address": self.address,
            "sprayed": self.sprayed,
            "spray": self.spray,
            "tried": None if self.password is None else self.password_tried,
            "password": self.password,
            **{
                f"{limit.name}_{lane}": self.of_lane(lane, limit)
                for limit in (PERSON, CONSECUTIVE)
                for lane in ("place", "stranger")
            },
        }

    def _key(self, *parts: str) -> str:
        return self._keyring.blind_index("throttles", "\0".join(parts))


_keys_of = lru_cache(maxsize=1_024)(_Keys)
"""Whoever tries is looked for twice within a moment."""
