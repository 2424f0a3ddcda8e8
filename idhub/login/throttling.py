"""How often a password may be tried: per person, per address, and never so that strangers can lock somebody out.

A try is claimed *before* the password is looked at, by one conditional statement, so that a hundred parallel guesses
are no more than the limit; a success gives its claim back. Tries are counted in lanes:

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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, lru_cache
from typing import Literal

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Executable,
    and_,
    bindparam,
    case,
    delete,
    literal,
    or_,
    select,
    type_coerce,
    update,
)
from sqlalchemy.orm import Session

from idhub.credentials.operations import Operation, run_in
from idhub.credentials.statements import add_statements
from idhub.credentials.statements_browser import conflicting, text
from idhub.credentials.tables import Throttle
from idhub.db import Instant, from_micros
from idhub.keys import Keyring

Lane = Literal["device", "place", "stranger"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PLACE_MEMORY = timedelta(days=30)
"""How long an address stays one that the person signed in from."""
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


def claim(session: Session, keyring: Keyring, attempt: Attempt, *, now: datetime) -> Admission:
    """Count one try before it is made, or refuse it. The refusal keeps its writes (style guide 4.5)."""
    return run_in(session, claiming(keyring, attempt, now=now))


def claiming(keyring: Keyring, attempt: Attempt, *, now: datetime) -> Operation[Admission]:
    """See `claim`."""
    keys = _keys_of(keyring, attempt)
    lane: Lane = "device"
    if attempt.device_hash is None:
        known = yield "throttle.place", {"key": keys.place, "since": now - PLACE_MEMORY}
        lane = "place" if known else "stranger"
        if not (yield from _counted(keys.address, ADDRESS, now)):
            return Admission(lane, ADDRESS, (yield from _free_in(keys.address, ADDRESS, now)))
        if (yield from _is_one_too_many(keys.sprayed, keys.spray, SPRAY, now)):
            return Admission(lane, SPRAY, (yield from _free_in(keys.spray, SPRAY, now)))
    # Before the person is charged: a spray must not fill the strangers' lane of everybody that it names.
    if (
        lane == "stranger"
        and keys.password is not None
        and (yield from _is_one_too_many(keys.password_tried, keys.password, SAME_PASSWORD, now))
    ):
        return Admission(lane, SAME_PASSWORD, (yield from _free_in(keys.password, SAME_PASSWORD, now)))
    for limit in (PERSON, CONSECUTIVE):
        key = keys.of_lane(lane, limit)
        if not (yield from _counted(key, limit, now)):
            return Admission(lane, limit, (yield from _free_in(key, limit, now)))
    return Admission(lane)


def _counted(key: str, limit: Limit, now: datetime) -> Operation[bool]:
    """Count one against a limit, in one statement; False, and nothing counted, when it is used up."""
    return bool((yield f"throttle.count.{limit.name}", {"key": key, "now": now}))


def _is_one_too_many(mark: str, key: str, limit: Limit, now: datetime) -> Operation[bool]:
    """Count what `mark` stands for, once in the limit's window; True, and nothing counted: they are too many."""
    marking = {"key": mark, "since": now - (limit.window or timedelta(0)), "now": now}
    if not (yield "throttle.mark", marking) or (yield from _counted(key, limit, now)):
        return False
    yield "throttle.unmark", {"key": mark}
    return True


def succeed(session: Session, keyring: Keyring, attempt: Attempt, *, lane: Lane, now: datetime) -> None:
    """The password was right: forget the person's failures, give back the address's claims, remember the place."""
    run_in(session, succeeding(keyring, attempt, lane=lane, now=now))


def succeeding(keyring: Keyring, attempt: Attempt, *, lane: Lane, now: datetime) -> Operation[None]:
    """See `succeed`."""
    keys = _keys_of(keyring, attempt)
    # A success says who is at the keyboard: failures before it are disregarded, whoever made them (section 3.2.2).
    lanes: tuple[Lane, ...] = ("device", "place", "stranger")
    forgotten = [keys.of_lane(one, limit) for one in lanes for limit in (PERSON, CONSECUTIVE)]
    yield from _give_back(keys, lane, forgotten=forgotten)
    yield "throttle.remember", {"key": keys.place, "now": now}


def _give_back(keys: "_Keys", lane: Lane, *, forgotten: Sequence[str]) -> Operation[None]:
    """Give back what was claimed against the address and the password, in two statements.

    Args:
        forgotten: counters that begin anew.
    """
    given, marks = [], {}
    if lane != "device":
        given.append(keys.address)
        marks[keys.sprayed] = keys.spray
    if lane == "stranger" and keys.password is not None:
        marks[keys.password_tried] = keys.password
    for row in (yield "throttle.forget", _many_keys([*forgotten, *marks], _MOST_FORGOTTEN)):
        # What is no longer marked was given back, or counted in another window.
        if row["key"] in marks:
            given.append(marks[row["key"]])
    if given:
        yield "throttle.give_back", _many_keys(given, _MOST_GIVEN)


_MOST_FORGOTTEN = 8
"""Two counters in each lane, two marks."""
_MOST_GIVEN = 3
"""The address, the address's spraying, the password."""


def _many_keys(keys: Sequence[str], most: int) -> dict[str, str]:
    """Parameters of a statement about so many keys; the last one stands for those that are not there."""
    padded = [*keys, *[keys[-1]] * (most - len(keys))]
    return {f"key_{place}": key for place, key in enumerate(padded)}


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

    is_spray = yield from _is_one_too_many(key("client sprayed", site, client_id), key("clients", site), CLIENTS, now)
    if secret_hash is None:
        return ClientGuess(None, is_spray)
    guessed = key("client", site, client_id, secret_hash)
    if (yield from _counted(guessed, CLIENT, now)):
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


def purge(session: Session, *, now: datetime, keep: timedelta = timedelta(days=90)) -> int:
    """Delete counters that nothing has touched for `keep`; returns how many. Full ones stay four times as long."""
    done = session.execute(
        delete(Throttle)
        .where(
            or_(
                and_(Throttle.window_started_at < now - keep, Throttle.failures < CONSECUTIVE.count),
                Throttle.window_started_at < now - 4 * keep,
            )
        )
        .returning(Throttle.key)
    ).all()
    return len(done)


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

    def of_lane(self, lane: str, limit: Limit) -> str:
        """The counter of one limit in one lane."""
        if (known := self._of_lane.get((lane, limit.name))) is not None:
            return known
        source = {"device": self._attempt.device_hash or "", "place": self._site, "stranger": ""}[lane]
        made = self._of_lane[lane, limit.name] = self._key(limit.name, lane, source, self._attempt.name)
        return made

    def _key(self, *parts: str) -> str:
        return self._keyring.blind_index("throttles", "\0".join(parts))


_keys_of = lru_cache(maxsize=1_024)(_Keys)
"""What claims a try gives it back a moment later."""


def _site(address: str) -> str:
    """What counts as one place: an IPv4 address, or an IPv6 /64, which one household has to itself."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, _IPV6_SITE), strict=False))
    return str(parsed)


def _count(limit: Limit, is_sqlite: bool) -> Executable:
    """Count one against a limit, in one statement; no row, and nothing counted, when it is used up."""
    now, started = bindparam("now", type_=Instant, required=True), type_coerce(Throttle.window_started_at, BigInteger)
    leaked: ColumnElement[int] = literal(0, BigInteger)
    if limit.interval:
        instant = type_coerce(now, BigInteger)
        # How many failures the window has forgotten since it was last written.
        leaked = case((started >= instant, 0), else_=(instant - started) // literal(limit.interval, BigInteger))
    is_empty = leaked >= Throttle.failures
    moved = type_coerce(started + leaked * literal(limit.interval, BigInteger), Instant())
    return (
        conflicting(Throttle, is_sqlite)
        .values(key=text("key"), window_started_at=now, failures=1)
        .on_conflict_do_update(
            index_elements=[Throttle.key],
            set_={
                "failures": case((is_empty, 1), else_=Throttle.failures - leaked + 1),
                "window_started_at": case((is_empty, now), else_=moved),
            },
            where=or_(is_empty, Throttle.failures - leaked < limit.count),
        )
        .returning(Throttle.failures)
    )


@cache
def _count_calls(limit: Limit, is_sqlite: bool) -> Executable:
    return _count(limit, is_sqlite)


def _one_of(most: int) -> ColumnElement[bool]:
    return or_(*(Throttle.key == text(f"key_{place}") for place in range(most)))


def _statements(is_sqlite: bool) -> dict[str, Executable]:
    now, since = (bindparam(name, type_=Instant, required=True) for name in ("now", "since"))
    is_key = Throttle.key == text("key")
    noted = conflicting(Throttle, is_sqlite).values(key=text("key"), window_started_at=now, failures=0)
    return {
        **{f"throttle.count.{limit.name}": _count(limit, is_sqlite) for limit in _LIMITS},
        "throttle.place": select(Throttle.key).where(is_key, Throttle.window_started_at > since),
        "throttle.started": select(Throttle.window_started_at).where(is_key),
        # Note that this address tried this name; a row when that is new within the spraying window.
        "throttle.mark": noted.on_conflict_do_update(
            index_elements=[Throttle.key], set_={"window_started_at": now}, where=Throttle.window_started_at <= since
        ).returning(Throttle.key),
        "throttle.unmark": delete(Throttle).where(is_key).returning(Throttle.key),
        "throttle.give_back": update(Throttle)
        .where(_one_of(_MOST_GIVEN), Throttle.failures > 0)
        .values(failures=Throttle.failures - 1),
        "throttle.forget": delete(Throttle).where(_one_of(_MOST_FORGOTTEN)).returning(Throttle.key),
        "throttle.remember": noted.on_conflict_do_update(
            index_elements=[Throttle.key], set_={"window_started_at": now}
        ),
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
