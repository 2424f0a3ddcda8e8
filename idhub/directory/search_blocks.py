"""The index of people by its blocks: which of them may hold lines that begin alike, and which of their lines do.

The lines of a shelf stand in blocks, in one order. `blocks_statement` finds the blocks of some `Part`s on all shelves,
from a place on and in either direction; `lines_within` takes out of a block what is wanted. What the lines say, and of
whom, is for `search`.
"""

from bisect import bisect_left
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Integer,
    Text,
    any_,
    bindparam,
    case,
    cast,
    func,
    lateral,
    literal_column,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.orm import aliased

from idhub.directory.tables import SearchBlock, SearchShelf
from idhub.kept import Planned

_AFTER_ALL = "\U0010ffff"
# Shelves count from 0.
_BEFORE_SHELVES, _AFTER_SHELVES = -1, 2**62

Blocks: TypeAlias = list[tuple[int, str]]
"""Shelves and bodies."""


class Place(NamedTuple):
    """A place in the order of hits: line of a shelf."""

    shelf_id: int
    line: str


class Part(NamedTuple):
    """Lines that begin alike, on all shelves or beyond a place."""

    beginning: str
    beside: Place | None

    def bounds(self, shelf_id: int, *, backwards: bool) -> tuple[str, str]:
        """Between which texts the lines of a shelf are wanted: from the first to below the second."""
        low, high = self.beginning, self.beginning + _AFTER_ALL
        if self.beside is None or self.beside.shelf_id != shelf_id:
            return low, high
        return _beyond(self.beside.line, low, high, backwards)

    def beyond(self, shelf_id: int, lines: Sequence[str], *, backwards: bool) -> "Part":
        """What remains beyond a block of a shelf, given its lines; it may have none after people have gone."""
        if lines:
            return self._replace(beside=Place(shelf_id, lines[-1]))
        if self.beside is not None and self.beside.shelf_id == shelf_id:
            return self
        return self._replace(beside=Place(shelf_id, self.beginning + _AFTER_ALL if backwards else self.beginning))

    def asked(self, *, backwards: bool) -> dict[str, Any]:
        """The values of `blocks_statement`."""
        edge = self.beside.shelf_id if self.beside else _AFTER_SHELVES if backwards else _BEFORE_SHELVES
        low, high = self.bounds(edge, backwards=backwards)
        return {
            "low": self.beginning,
            "high": self.beginning + _AFTER_ALL,
            "inside": f"\n{self.beginning}",
            "edge": edge,
            "near": high if backwards else low,
        }


@cache
def blocks_statement(parts: int, *, is_sqlite: bool, backwards: bool, is_listed: bool) -> Planned:
    """Blocks that may hold lines of some parts (`Part.asked`): number of the part, shelf and body.

    Of each shelf found by one walk down the tree, and of no further shelf than is needed. A part is left out when one
    before it has all the blocks that are asked for: reading goes on there.
    """
    most = bindparam("most", type_=Integer)
    found: list[Any] = []
    for number in range(parts):
        blocks = _blocks_of_part(number, is_sqlite, backwards, is_listed)
        for before in found:
            blocks = blocks.where(select(func.count()).select_from(before).scalar_subquery() < most)
        found.append(blocks.cte(f"blocks{number}"))
    return Planned(union_all(*(select(one) for one in found)) if parts > 1 else select(found[0]))


def _blocks_of_part(number: int, is_sqlite: bool, backwards: bool, is_listed: bool) -> Any:
    inner = aliased(SearchBlock)
    beginning, end, near, inside = (
        bindparam(f"{name}{number}", type_=Text) for name in ("low", "high", "near", "inside")
    )
    edge, most = bindparam(f"edge{number}", type_=BigInteger), bindparam("most", type_=Integer)
    bound = case((SearchShelf.id == edge, near), else_=end if backwards else beginning)
    low, high = (beginning, bound) if backwards else (bound, end)
    block_before = (
        select(func.max(inner.first))
        .where(inner.shelf_id == SearchShelf.id, inner.first <= low)
        .correlate(SearchShelf)
        .scalar_subquery()
    )
    # A shelf nearly always has a block before: most of them say nothing of it, and need not be sent.
    # Where the first line has gone since, the next may be one of those.
    is_inside = (func.instr if is_sqlite else func.strpos)(SearchBlock.body, inside) > 0
    is_at_top = func.substr(SearchBlock.body, 1, func.length(beginning)) == beginning
    wanted = (
        or_(SearchBlock.first >= low, is_inside, is_at_top),
        SearchBlock.shelf_id == SearchShelf.id,
        SearchBlock.first >= func.coalesce(block_before, low),
        SearchBlock.first < high,
    )
    first: Any = SearchBlock.first
    statement: Any
    if is_sqlite:
        statement = select(literal_column(str(number)).label("part"), SearchShelf.id, SearchBlock.body)
        statement = statement.join(SearchBlock, true()).where(*wanted)
    else:
        # PostgreSQL would read every block of every shelf to sort them.
        part = lateral(
            select(SearchBlock.first, SearchBlock.body)
            .where(*wanted)
            .order_by(first.desc() if backwards else first)
            .limit(most)
            .correlate(SearchShelf)
        )
        first = part.c.first
        statement = select(literal_column(str(number)).label("part"), SearchShelf.id, part.c.body).join(part, true())
    if is_listed:
        statement = statement.where(is_one_of(SearchShelf.id, "shelves", is_sqlite))
    if backwards:
        return statement.where(SearchShelf.id <= edge).order_by(SearchShelf.id.desc(), first.desc()).limit(most)
    return statement.where(SearchShelf.id >= edge).order_by(SearchShelf.id, first).limit(most)


def lines_within(body: str, low: str, high: str, *, backwards: bool) -> list[str]:
    """Lines of a block from `low` to below `high`, in the direction of reading."""
    lines = body.split("\n")
    lines = lines[bisect_left(lines, low) : bisect_left(lines, high)]
    if backwards:
        lines.reverse()
    return lines


def _beyond(line: str, low: str, high: str, backwards: bool) -> tuple[str, str]:
    """What remains between `low` and `high` beyond a line, in the direction of reading."""
    # No character of a line is as low as this one (NUL would be, but PostgreSQL takes none).
    return (low, line) if backwards else (line + "\x01", high)


def is_one_of(column: Any, name: str, is_sqlite: bool) -> ColumnElement[bool]:
    """Whether a number is one of those that are bound as one value (`_Search._numbers`)."""
    value = bindparam(name, type_=Text)
    if is_sqlite:
        each = func.json_each(value).table_valued("value")
        return column.in_(select(each.c.value))  # type: ignore[no-any-return]
    return column == any_(cast(value, ARRAY(BigInteger)))  # type: ignore[no-any-return]
