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

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, lru_cache
from typing import Any, Final, Literal

from sqlalchemy import (
    ARRAY,
    CTE,
    BigInteger,
    BindParameter,
    ColumnElement,
    Executable,
    FromClause,
    Integer,
    Text,
    and_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    func,
    literal,
    not_,
    or_,
    select,
    type_coerce,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import Insert as PostgresInsert
from sqlalchemy.dialects.sqlite import Insert as SqliteInsert
from sqlalchemy.orm import Session

from idhub.credentials.operations import HOLD, Operation, Row, Step, add_step_by_step, run_in, together
from idhub.credentials.statements import add_statements
from idhub.credentials.statements_browser import conflicting, text
from idhub.credentials.tables import Throttle
from idhub.db import Instant, from_micros, to_micros
from idhub.keys import Keyring

Lane = Literal["device", "place", "stranger"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PLACE_MEMORY = timedelta(days=30)
"""How long an address stays one that the person signed in from; noted anew once a day."""
_PLACE_NOTED = timedelta(days=1)
_MAX_FORWARDED = 20
_MAX_REMEMBERED = 100
_IPV6_SITE = 64


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `count` within `window`; one becomes free each `window / count`. No window: only a success frees."""

    name: str
    count: int
    window: timedelta | None

    @property
    def interval(self) -> int:
        """Microseconds after which one failure is forgotten."""
        return 0 if self.window is None else self.window // timedelta(microseconds=1) // self.count


PERSON = Limit("person", 10, timedelta(minutes=15))
CONSECUTIVE = Limit("consecutive", 100, None)
ADDRESS = Limit("address", 100, timedelta(minutes=15))
SPRAY = Limit("spray", 30, timedelta(hours=1))
SAME_PASSWORD = Limit("same_password", 20, timedelta(hours=1))
"""Different names for which strangers try one password, from wherever."""
CLIENT = Limit("client", 20, timedelta(minutes=1))
"""Wrong secrets for one client from one address."""
CLIENTS = Limit("clients", 30, timedelta(hours=1))
"""Different clients whose secrets one address gets wrong; more is spraying, which is reported."""
_LIMITS = (PERSON, CONSECUTIVE, ADDRESS, SPRAY, SAME_PASSWORD, CLIENT, CLIENTS)
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
    asked: dict[str, str | None] = dict.fromkeys(_PLACES_LOOKED_AT)
    asked.update(zip(_PLACES_LOOKED_AT, keys.all, strict=False))
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
_PLACES_LOOKED_AT: Final = tuple(f"key_{place}" for place in range(12))


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
    _, claimed = yield together(_holding(keys.address, keys.of_anybody, keys.password), ("throttle.claim", asked))
    found = claimed[0]
    lane: Lane = "place" if found["known"] else "stranger"
    if not found["address"]:
        return Admission(lane, ADDRESS, (yield from _free_in(keys.address, ADDRESS, now)))
    for mark, key, limit in ((keys.sprayed, keys.spray, SPRAY), (keys.password_tried, keys.password, SAME_PASSWORD)):
        if found[f"{limit.name}_marked"] and not found[limit.name]:
            yield "throttle.unmark", {"key": mark}
            return Admission(lane, limit, (yield from _free_in(key or "", limit, now)))
    for limit in (PERSON, CONSECUTIVE):
        if not found[limit.name]:
            return Admission(lane, limit, (yield from _free_in(keys.of_lane(lane, limit), limit, now)))
    return Admission(lane)


def _claiming_step_by_step(asked: Mapping[str, Any]) -> Operation[Sequence[Row]]:
    """`throttle.claim` where one statement cannot do it all: the same, in the same order."""
    now, found = asked["now"], dict.fromkeys(_CLAIMED, False)

    def counted(key: str, limit: Limit) -> "Operation[bool]":
        found[limit.name] = bool((yield _counting(key, limit, now)))
        return found[limit.name]

    def is_one_too_many(mark: str, since: datetime, key: str, limit: Limit) -> "Operation[bool]":
        marked = found[f"{limit.name}_marked"] = bool((yield _marking(mark, since, now)))
        return marked and not (yield from counted(key, limit))

    found["known"] = bool((yield "throttle.place", {"key": asked["place"], "since": asked["known_since"]}))
    if not (yield from counted(asked["address"], ADDRESS)):
        return [found]
    if (yield from is_one_too_many(asked["sprayed"], asked["spray_since"], asked["spray"], SPRAY)):
        return [found]
    # Before the person is charged: a spray must not fill the strangers' lane of everybody that it names.
    if asked["tried"] is not None and not found["known"]:
        password = asked["tried"], asked["tried_since"], asked["password"]
        if (yield from is_one_too_many(*password, SAME_PASSWORD)):
            return [found]
    lane = "place" if found["known"] else "stranger"
    if (yield from counted(asked[f"person_{lane}"], PERSON)):
        yield from counted(asked[f"consecutive_{lane}"], CONSECUTIVE)
    return [found]


_CLAIMED: Final = (
    "address", "known", "spray_marked", "spray", "same_password_marked", "same_password", "person", "consecutive",
)  # fmt: skip
"""What `throttle.claim` says: whether the place is known; of each limit, whether one was counted; of those that count
different names, whether this one is new."""
add_step_by_step("throttle.claim", _claiming_step_by_step)


def _charging(keys: "_Keys", lane: Lane, now: datetime) -> Operation[Admission]:
    """Count one against the person's own limits."""
    person, in_a_row = keys.of_lane(lane, PERSON), keys.of_lane(lane, CONSECUTIVE)
    _, is_free, is_free_in_a_row = yield together(
        _holding(in_a_row), _counting(person, PERSON, now), _counting(in_a_row, CONSECUTIVE, now)
    )
    if is_free:
        return Admission(lane) if is_free_in_a_row else Admission(lane, CONSECUTIVE)
    if is_free_in_a_row:
        yield "throttle.give_back", {**dict.fromkeys(_GIVEN_BACK), "key": in_a_row}
    return Admission(lane, PERSON, (yield from _free_in(person, PERSON, now)))


def _holding(*keys: str | None) -> Step:
    """Change counters alone: whatever is counted of a try is of its address, its name, its password or its browser."""
    return HOLD, {"keys": sorted(filter(None, keys))}


def _holding_nothing(asked: Mapping[str, Any]) -> Operation[Sequence[Row]]:
    """On SQLite the write transaction is the lock."""
    yield from ()
    return ()


add_step_by_step(HOLD, _holding_nothing)


def _counting(key: str, limit: Limit, now: datetime) -> Step:
    """Count one against a limit; no row, and nothing counted, when it is used up."""
    return f"throttle.count.{limit.name}", {"key": key, "now": now}


def _marking(key: str, since: datetime, now: datetime) -> Step:
    """Note what is counted once in a window; a row when that is new since then."""
    return "throttle.mark", {"key": key, "since": since, "now": now}


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
    yield _holding(keys.of_anybody, of_device, sprayed and keys.address, tried and keys.password)
    if sprayed is not None or tried is not None:
        spray, password = sprayed and keys.spray, tried and keys.password
        yield "throttle.give_back", dict(zip(_GIVEN_BACK, (None, spray, sprayed, password, tried), strict=True))
    forgotten = [key for key in (*keys.own, sprayed, tried) if key in there]
    if forgotten:
        places = dict.fromkeys(f"key_{place}" for place in range(_MOST_FORGOTTEN))
        yield "throttle.forget", {**places, **{f"key_{place}": key for place, key in enumerate(forgotten)}}
    if there.get(keys.place, 0) <= to_micros(now - _PLACE_NOTED):
        yield "throttle.remember", {"key": keys.place, "now": now}


_GIVEN_BACK: Final = ("key", "spray", "sprayed", "password", "tried")
_MOST_FORGOTTEN: Final = 8
"""Two counters in each lane, two marks."""


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
    site = _site(address)

    def key(*parts: str) -> str:
        return keyring.blind_index("throttles", "\0".join(parts))

    mark, many = key("client sprayed", site, client_id), key("clients", site)
    is_spray = bool((yield _marking(mark, now - (CLIENTS.window or timedelta(0)), now)))
    if is_spray and (yield _counting(many, CLIENTS, now)):
        is_spray = False
    if is_spray:
        yield "throttle.unmark", {"key": mark}
    if secret_hash is None:
        return ClientGuess(None, is_spray)
    guessed = key("client", site, client_id, secret_hash)
    if (yield _counting(guessed, CLIENT, now)):
        return ClientGuess(None, is_spray)
    return ClientGuess((yield from _free_in(guessed, CLIENT, now)), is_spray)


def claim_call(session: Session, keyring: Keyring, token_id: str, *, a_minute: int, now: datetime) -> timedelta | None:
    """Count one call of a token, over all processes. Returns how long it must wait when it has made too many."""
    limit = Limit("calls", a_minute, timedelta(minutes=1))
    key = keyring.blind_index("throttles", f"calls\0{token_id}")
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    if session.execute(_count_calls(limit, is_sqlite), {"key": key, "now": now}).first() is not None:
        return None
    return run_in(session, _free_in(key, limit, now))


def _free_in(key: str, limit: Limit, now: datetime) -> Operation[timedelta | None]:
    """When a used-up limit admits one again."""
    if not limit.interval:
        return None
    started = from_micros((yield "throttle.started", {"key": key})[0]["window_started_at"])
    interval = timedelta(microseconds=limit.interval)
    return interval - max(timedelta(0), now - started) % interval


# ---------------------------------------------------------------- counters


class _Keys:
    """Keyed hashes of what is counted."""

    def __init__(self, keyring: Keyring, attempt: Attempt) -> None:
        self._keyring = keyring
        self._attempt = attempt
        site = _site(attempt.address)
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


def _site(address: str) -> str:
    """What counts as one place: an IPv4 address, or an IPv6 /64, which one household has to itself."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, _IPV6_SITE), strict=False))
    return str(parsed)


_NOW: Final = bindparam("now", type_=Instant, required=True)
_COLUMNS: Final = ("key", "window_started_at", "failures")


def _count(limit: Limit, is_sqlite: bool) -> Executable:
    """Count one against a limit, in one statement; no row, and nothing counted, when it is used up."""
    statement = conflicting(Throttle, is_sqlite).values(key=text("key"), window_started_at=_NOW, failures=1)
    return _counted(statement, limit).returning(Throttle.failures)


def _counted(statement: SqliteInsert | PostgresInsert, limit: Limit) -> SqliteInsert | PostgresInsert:
    started = type_coerce(Throttle.window_started_at, BigInteger)
    leaked: ColumnElement[int] = literal(0, BigInteger)
    if limit.interval:
        instant = type_coerce(_NOW, BigInteger)
        # How many failures the window has forgotten since it was last written.
        leaked = case((started >= instant, 0), else_=(instant - started) // literal(limit.interval, BigInteger))
    is_empty = leaked >= Throttle.failures
    moved = type_coerce(started + leaked * literal(limit.interval, BigInteger), Instant())
    return statement.on_conflict_do_update(
        index_elements=[Throttle.key],
        set_={
            "failures": case((is_empty, 1), else_=Throttle.failures - leaked + 1),
            "window_started_at": case((is_empty, _NOW), else_=moved),
        },
        where=or_(is_empty, Throttle.failures - leaked < limit.count),
    )


def _marked(statement: SqliteInsert | PostgresInsert, since: ColumnElement[Any]) -> Any:
    return statement.on_conflict_do_update(
        index_elements=[Throttle.key], set_={"window_started_at": _NOW}, where=Throttle.window_started_at <= since
    ).returning(Throttle.key)


def _claim() -> Executable:
    """All limits of a stranger's try in one statement, each only where those before it were not used up.

    Its parts see the same moment, and each of them writes rows of its own.
    """

    def since(name: str) -> BindParameter[Any]:
        return bindparam(name, type_=Instant, required=True)

    def put(key: ColumnElement[str], failures: int, conditions: Sequence[ColumnElement[bool]]) -> PostgresInsert:
        row = select(key, _NOW, literal(failures, Integer)).where(*conditions)
        return postgresql.insert(Throttle).from_select(list(_COLUMNS), row)

    def counting(name: str, key: ColumnElement[str], limit: Limit, *conditions: ColumnElement[bool]) -> CTE:
        counted: CTE = _counted(put(key, 1, conditions), limit).returning(Throttle.key).cte(name)
        return counted

    def marking(name: str, key: ColumnElement[str], when: str, *conditions: ColumnElement[bool]) -> CTE:
        marked: CTE = _marked(put(key, 0, conditions), since(when)).cte(name)
        return marked

    def is_in(part: CTE) -> ColumnElement[bool]:
        return exists(select(part.c.key))

    known = (
        select(Throttle.key)
        .where(Throttle.key == text("place"), Throttle.window_started_at > since("known_since"))
        .cte("known_place")
    )
    address = counting("counted_address", text("address"), ADDRESS)
    sprayed = marking("marked_spray", text("sprayed"), "spray_since", is_in(address))
    spray = counting("counted_spray", text("spray"), SPRAY, is_in(sprayed))
    # What is not new is not counted again.
    goes_on: list[ColumnElement[bool]] = [is_in(address), or_(not_(is_in(sprayed)), is_in(spray))]
    is_stranger = not_(is_in(known))
    tried = marking("marked_password", text("tried"), "tried_since", *goes_on, is_stranger, text("tried").is_not(None))
    same = counting("counted_password", text("password"), SAME_PASSWORD, is_in(tried))

    def of_lane(limit: Limit) -> ColumnElement[str]:
        return case((is_in(known), text(f"{limit.name}_place")), else_=text(f"{limit.name}_stranger"))

    goes_on.append(or_(not_(is_in(tried)), is_in(same)))
    person = counting("counted_person", of_lane(PERSON), PERSON, *goes_on)
    consecutive = counting("counted_consecutive", of_lane(CONSECUTIVE), CONSECUTIVE, is_in(person))
    # The address first: groups of tries hold its counters in one order, by which none waits for another in a circle.
    parts = (address, known, sprayed, spray, tried, same, person, consecutive)
    return select(*(is_in(part).label(name) for name, part in zip(_CLAIMED, parts, strict=True)))


@cache
def _count_calls(limit: Limit, is_sqlite: bool) -> Executable:
    return _count(limit, is_sqlite)


def _hold() -> Executable:
    """Locks of the transaction, in the order of the keys: there may be no row yet that could be locked."""
    key = func.unnest(cast(bindparam("keys", required=True), ARRAY(Text))).column_valued("held")
    taken = func.pg_advisory_xact_lock(func.hashtextextended(key, 0))
    return select(cast(taken, Text).label("taken"))


def _give_back(is_sqlite: bool) -> Executable:
    """Count one less, of the names that were marked only where the mark is still there: once for each mark."""
    # On SQLite nobody else writes before it is forgotten. Elsewhere, of two at once, one takes the mark away.
    marks: FromClause = Throttle.__table__.alias()
    if not is_sqlite:
        marks = delete(Throttle).where(Throttle.key.in_([text("sprayed"), text("tried")])).returning(Throttle.key).cte()
    counted = [text(name) for name in ("key", "spray", "password")]

    def is_marked(name: str) -> ColumnElement[bool]:
        return exists(select(marks.c.key).where(marks.c.key == text(name)))

    return (
        update(Throttle)
        .where(
            Throttle.key.in_(counted),
            Throttle.failures > 0,
            or_(
                Throttle.key == text("key"),
                and_(Throttle.key == text("spray"), is_marked("sprayed")),
                and_(Throttle.key == text("password"), is_marked("tried")),
            ),
        )
        .values(failures=Throttle.failures - 1)
    )


def _statements(is_sqlite: bool) -> dict[str, Executable]:
    since = bindparam("since", type_=Instant, required=True)
    is_key = Throttle.key == text("key")
    noted = conflicting(Throttle, is_sqlite).values(key=text("key"), window_started_at=_NOW, failures=0)
    return {
        **{f"throttle.count.{limit.name}": _count(limit, is_sqlite) for limit in _LIMITS},
        "throttle.look": select(Throttle.key, Throttle.window_started_at, Throttle.failures).where(
            Throttle.key.in_([text(name) for name in _PLACES_LOOKED_AT])
        ),
        "throttle.place": select(Throttle.key).where(is_key, Throttle.window_started_at > since),
        "throttle.started": select(Throttle.window_started_at).where(is_key),
        # Note that this address tried this name; a row when that is new within the spraying window.
        "throttle.mark": _marked(noted, since),
        "throttle.unmark": delete(Throttle).where(is_key).returning(Throttle.key),
        "throttle.give_back": _give_back(is_sqlite),
        "throttle.forget": delete(Throttle).where(
            Throttle.key.in_([text(f"key_{place}") for place in range(_MOST_FORGOTTEN)])
        ),
        "throttle.remember": noted.on_conflict_do_update(
            index_elements=[Throttle.key], set_={"window_started_at": _NOW}
        ),
        **({} if is_sqlite else {"throttle.claim": _claim(), HOLD: _hold()}),
    }


add_statements(_statements)


# ---------------------------------------------------------------- whose address


@cache
def trusted_networks(setting: str) -> tuple[Network, ...]:
    """The networks of `settings.trusted_proxies`.

    Raises:
        ValueError: an entry is no network; the hub must not start with a policy that it cannot read.
    """
    return tuple(ipaddress.ip_network(part.strip(), strict=False) for part in setting.split(",") if part.strip())


def client_address(peer: str, forwarded_for: Iterable[str], trusted: Sequence[Network]) -> str:
    """The address that limits and logs go by.

    X-Forwarded-For is read from its end, and only as far as the one who wrote an entry is a trusted proxy. What cannot
    be read counts for the proxy that sent it: garbage never escapes a limit.
    """
    lines = tuple(forwarded_for)
    if len(peer) + sum(map(len, lines)) <= _MAX_REMEMBERED:
        return _remembered(peer, lines, tuple(trusted))
    return _resolved(peer, lines, trusted)


def _resolved(peer: str, forwarded_for: Sequence[str], trusted: Sequence[Network]) -> str:
    address = _parse(peer)
    if address is None:
        return peer[:45]
    entries = [part for line in forwarded_for for part in line.split(",")][-_MAX_FORWARDED:]
    while entries and any(address in network for network in trusted):
        claimed = _parse(entries.pop())
        if claimed is None:
            break
        address = claimed
    return str(address)


_remembered = lru_cache(maxsize=2_048)(_resolved)
"""The same few proxies and places ask again and again; short texts only, so that nobody fills the memory."""


def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(text.strip())
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address):
        return parsed.ipv4_mapped or ipaddress.IPv6Address(int(parsed))
    return parsed
