"""Counters of tries: what their limits are, and the statements that count.

A counter is a row with a window that empties steadily: each is changed by one conditional statement, which counts
nothing once it is used up. A mark is a row that says that something was counted already. Which of them a try is about
is `idhub.login.throttling`'s, whose steps these are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final

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

from idhub.credentials.operations import HOLD, Operation, Row, Step, add_step_by_step
from idhub.credentials.statements import add_statements
from idhub.credentials.statements_browser import conflicting, text
from idhub.credentials.tables import Throttle
from idhub.db import Instant, from_micros


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

PLACES_LOOKED_AT: Final = tuple(f"key_{place}" for place in range(12))
"""Parameters of `throttle.look`: keys, or nothing."""
GIVEN_BACK: Final = ("key", "spray", "sprayed", "password", "tried")
"""Parameters of `throttle.give_back`: counters, and after each of the latter two the mark that it is given back for."""
MOST_FORGOTTEN: Final = 8
"""Keys of `throttle.forget` at most: two counters in each lane, two marks."""


# ---------------------------------------------------------------- steps


def holding(*keys: str | None) -> Step:
    """Change counters alone: whatever is counted of a try is of its address, its name, its password or its browser."""
    return HOLD, {"keys": sorted(filter(None, keys))}


def _holding_nothing(asked: Mapping[str, Any]) -> Operation[Sequence[Row]]:
    """On SQLite the write transaction is the lock."""
    yield from ()
    return ()


add_step_by_step(HOLD, _holding_nothing)


def counting(key: str, limit: Limit, now: datetime) -> Step:
    """Count one against a limit; no row, and nothing counted, when it is used up."""
    return f"throttle.count.{limit.name}", {"key": key, "now": now}


def marking(key: str, since: datetime, now: datetime) -> Step:
    """Note what is counted once in a window; a row when that is new since then."""
    return "throttle.mark", {"key": key, "since": since, "now": now}


def free_in(key: str, limit: Limit, now: datetime) -> Operation[timedelta | None]:
    """When a used-up limit admits one again."""
    if not limit.interval:
        return None
    started = from_micros((yield "throttle.started", {"key": key})[0]["window_started_at"])
    interval = timedelta(microseconds=limit.interval)
    return interval - max(timedelta(0), now - started) % interval


def count_at_once(session: Session, key: str, limit: Limit, *, now: datetime) -> bool:
    """Count one against a limit that is not one of those above; False, and nothing counted, when it is used up."""
    statement = _count_at_once(limit, session.get_bind().dialect.name == "sqlite")
    return session.execute(statement, {"key": key, "now": now}).first() is not None


@cache
def _count_at_once(limit: Limit, is_sqlite: bool) -> Executable:
    return _count(limit, is_sqlite)


def _claiming_step_by_step(asked: Mapping[str, Any]) -> Operation[Sequence[Row]]:
    """`throttle.claim` where one statement cannot do it all: the same, in the same order."""
    now, found = asked["now"], dict.fromkeys(_CLAIMED, False)

    def counted(key: str, limit: Limit) -> "Operation[bool]":
        found[limit.name] = bool((yield counting(key, limit, now)))
        return found[limit.name]

    def is_one_too_many(mark: str, since: datetime, key: str, limit: Limit) -> "Operation[bool]":
        marked = found[f"{limit.name}_marked"] = bool((yield marking(mark, since, now)))
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


# ---------------------------------------------------------------- statements

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
            Throttle.key.in_([text(name) for name in PLACES_LOOKED_AT])
        ),
        "throttle.place": select(Throttle.key).where(is_key, Throttle.window_started_at > since),
        "throttle.started": select(Throttle.window_started_at).where(is_key),
        # Note that this address tried this name; a row when that is new within the spraying window.
        "throttle.mark": _marked(noted, since),
        "throttle.unmark": delete(Throttle).where(is_key).returning(Throttle.key),
        "throttle.give_back": _give_back(is_sqlite),
        "throttle.forget": delete(Throttle).where(
            Throttle.key.in_([text(f"key_{place}") for place in range(MOST_FORGOTTEN)])
        ),
        "throttle.remember": noted.on_conflict_do_update(
            index_elements=[Throttle.key], set_={"window_started_at": _NOW}
        ),
        **({} if is_sqlite else {"throttle.claim": _claim(), HOLD: _hold()}),
    }


add_statements(_statements)
