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
from typing import Literal

from sqlalchemy import BigInteger, ColumnElement, and_, case, delete, literal, or_, select, type_coerce, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from idhub.credentials.tables import Throttle
from idhub.db import Instant, to_micros
from idhub.keys import Keyring

Lane = Literal["device", "place", "stranger"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PLACE_MEMORY = timedelta(days=30)
"""How long an address stays one that the person signed in from."""
_MAX_FORWARDED = 20
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
    keys = _Keys(keyring, attempt)
    lane = _lane(session, keys, now=now)
    if lane != "device":
        for limit, key in ((ADDRESS, keys.address), (SPRAY, keys.spray)):
            if limit is SPRAY and not _mark(session, keys.sprayed, now=now):
                continue
            if not _count(session, key, limit, now=now):
                if limit is SPRAY:
                    _forget(session, [keys.sprayed])
                return Admission(lane, limit, _free_in(session, key, limit, now=now))
    # Before the person is charged: a spray must not fill the strangers' lane of everybody that it names.
    if lane == "stranger" and keys.password is not None and _is_sprayed(session, keys, keys.password, now=now):
        return Admission(lane, SAME_PASSWORD, _free_in(session, keys.password, SAME_PASSWORD, now=now))
    for limit in (PERSON, CONSECUTIVE):
        key = keys.of_lane(lane, limit)
        if not _count(session, key, limit, now=now):
            return Admission(lane, limit, _free_in(session, key, limit, now=now))
    return Admission(lane)


def succeed(session: Session, keyring: Keyring, attempt: Attempt, *, lane: Lane, now: datetime) -> None:
    """The password was right: forget the person's failures, give back the address's claims, remember the place."""
    keys = _Keys(keyring, attempt)
    release(session, keyring, attempt, lane=lane)
    # A success says who is at the keyboard: failures before it are disregarded, whoever made them (section 3.2.2).
    _forget(
        session,
        [keys.of_lane(one, limit) for one in ("device", "place", "stranger") for limit in (PERSON, CONSECUTIVE)],
    )
    insert = _insert(session).values(key=keys.place, window_started_at=now, failures=0)
    session.execute(insert.on_conflict_do_update(index_elements=[Throttle.key], set_={"window_started_at": now}))


def release(session: Session, keyring: Keyring, attempt: Attempt, *, lane: Lane) -> None:
    """Give a claim back: the try was never made (the hub was too busy), or it succeeded."""
    keys = _Keys(keyring, attempt)
    freed = [keys.of_lane(lane, PERSON), keys.of_lane(lane, CONSECUTIVE)]
    if lane != "device":
        freed.append(keys.address)
        if _unmark(session, keys.sprayed):
            freed.append(keys.spray)
    if lane == "stranger" and keys.password is not None and _unmark(session, keys.password_tried):
        freed.append(keys.password)
    for key in freed:
        session.execute(
            update(Throttle)
            .where(Throttle.key == key, Throttle.failures > 0)
            .values(failures=Throttle.failures - 1)
            .execution_options(synchronize_session=False)
        )


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
    session: Session, keyring: Keyring, client_id: str, address: str, *, is_registered: bool, now: datetime
) -> ClientGuess:
    """Count a wrong secret of a client, over all processes and restarts.

    Names that are nobody's leave no rows beyond the detector's thirty an hour and address: junk fills no table.
    """
    site = _site(address)

    def key(*parts: str) -> str:
        return keyring.blind_index("throttles", "\0".join(parts))

    mark, spray = key("client sprayed", site, client_id), key("clients", site)
    is_spray = _mark(session, mark, now=now) and not _count(session, spray, CLIENTS, now=now)
    if is_spray:
        _forget(session, [mark])
    guessed = key("client", site, client_id)
    if not is_registered or _count(session, guessed, CLIENT, now=now):
        return ClientGuess(None, is_spray)
    return ClientGuess(_free_in(session, guessed, CLIENT, now=now), is_spray)


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

    def of_lane(self, lane: str, limit: Limit) -> str:
        """The counter of one limit in one lane."""
        source = {"device": self._attempt.device_hash or "", "place": self._site, "stranger": ""}[lane]
        return self._key(limit.name, lane, source, self._attempt.name)

    def _key(self, *parts: str) -> str:
        return self._keyring.blind_index("throttles", "\0".join(parts))


def _site(address: str) -> str:
    """What counts as one place: an IPv4 address, or an IPv6 /64, which one household has to itself."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, _IPV6_SITE), strict=False))
    return str(parsed)


def _lane(session: Session, keys: _Keys, *, now: datetime) -> Lane:
    if keys._attempt.device_hash is not None:
        return "device"
    known = session.execute(
        select(Throttle.key).where(Throttle.key == keys.place, Throttle.window_started_at > now - PLACE_MEMORY)
    ).first()
    return "stranger" if known is None else "place"


def _insert(session: Session) -> "postgresql.Insert | sqlite.Insert":
    dialect = session.get_bind().dialect.name
    return postgresql.insert(Throttle) if dialect == "postgresql" else sqlite.insert(Throttle)


def _leaked(limit: Limit, now: datetime) -> ColumnElement[int]:
    """How many failures the window has forgotten since it was last written."""
    if not limit.interval:
        return literal(0, BigInteger)
    started = type_coerce(Throttle.window_started_at, BigInteger)
    instant = literal(to_micros(now), BigInteger)
    return case((started >= instant, 0), else_=(instant - started) // literal(limit.interval, BigInteger))


def _count(session: Session, key: str, limit: Limit, *, now: datetime) -> bool:
    """Count one against a limit, in one statement; False, and nothing counted, when it is used up."""
    leaked, started = _leaked(limit, now), type_coerce(Throttle.window_started_at, BigInteger)
    is_empty = leaked >= Throttle.failures
    moved = type_coerce(started + leaked * literal(limit.interval, BigInteger), Instant())
    statement = (
        _insert(session)
        .values(key=key, window_started_at=now, failures=1)
        .on_conflict_do_update(
            index_elements=[Throttle.key],
            set_={
                "failures": case((is_empty, 1), else_=Throttle.failures - leaked + 1),
                "window_started_at": case((is_empty, literal(now, Instant())), else_=moved),
            },
            where=or_(is_empty, Throttle.failures - leaked < limit.count),
        )
        .returning(Throttle.failures)
    )
    return session.execute(statement).first() is not None


def _free_in(session: Session, key: str, limit: Limit, *, now: datetime) -> timedelta | None:
    """When a used-up limit admits one again."""
    if not limit.interval:
        return None
    started = session.execute(select(Throttle.window_started_at).where(Throttle.key == key)).scalar_one()
    interval = timedelta(microseconds=limit.interval)
    return interval - max(timedelta(0), now - started) % interval


def _is_sprayed(session: Session, keys: _Keys, password_key: str, *, now: datetime) -> bool:
    """Count this name among those that the password was tried for; True, and nothing counted: they are too many."""
    if not _mark(session, keys.password_tried, now=now) or _count(session, password_key, SAME_PASSWORD, now=now):
        return False
    _forget(session, [keys.password_tried])
    return True


def _mark(session: Session, key: str, *, now: datetime) -> bool:
    """Note that this address tried this name; True when it is new within the spraying window."""
    window = SPRAY.window or timedelta(0)
    statement = _insert(session).values(key=key, window_started_at=now, failures=0)
    statement = statement.on_conflict_do_update(
        index_elements=[Throttle.key],
        set_={"window_started_at": now},
        where=Throttle.window_started_at <= now - window,
    )
    return session.execute(statement.returning(Throttle.key)).first() is not None


def _unmark(session: Session, key: str) -> bool:
    """Take a mark back; whether there was one."""
    return session.execute(delete(Throttle).where(Throttle.key == key).returning(Throttle.key)).first() is not None


def _forget(session: Session, keys: Sequence[str]) -> None:
    session.execute(delete(Throttle).where(Throttle.key.in_(keys)).execution_options(synchronize_session=False))


# ---------------------------------------------------------------- whose address


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


def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(text.strip())
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address):
        return parsed.ipv4_mapped or ipaddress.IPv6Address(int(parsed))
    return parsed
