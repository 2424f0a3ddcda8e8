"""Lists: what the query string says, cleaned; keyset pages; links that keep the rest of the view.

The URL is the view (brief, principle 4). A parameter that cannot be used is dropped with a notice, never a dead page.
"""

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeAlias, TypeVar
from urllib.parse import urlencode

from markupsafe import Markup
from sqlalchemy import ColumnElement, Select, and_, or_
from starlette.datastructures import QueryParams

from idhub.db import Instant, from_micros, to_micros

Row = TypeVar("Row")
Statement: TypeAlias = Select[*tuple[Any, ...]]
"""A SELECT whose columns the type checker need not know."""

SIZES = (25, 50, 100)
DEFAULT_SIZE = 50
MAX_TEXT = 100
_MAX_CURSOR = 600
_KEEP_OUT = ("after", "before")


@dataclass(frozen=True, slots=True)
class Spec:
    """What a list understands.

    Args:
        path: of the list.
        sorts: field names that it can be sorted by; the first is the default. A leading `-` sorts downwards.
        choices: filters with a closed set of values.
        texts: filters with free text, beside `q`.
        extra: parameters that are kept in links and read by the page itself.
        ranks: a search that asks for no order gives the best matches first.
    """

    path: str
    sorts: Sequence[str]
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    texts: Sequence[str] = ()
    extra: Sequence[str] = ()
    ranks: bool = False


class View:
    """The query string of a list, as far as it can be used."""

    def __init__(self, spec: Spec, params: QueryParams, translate: Callable[[str], str]) -> None:
        self.spec = spec
        self.notices: list[str] = []
        self._values: dict[str, str] = {}
        dropped: list[str] = []
        for name in ("q", *spec.texts, *spec.extra):
            value = "".join(c for c in params.get(name, "") if c.isprintable()).strip()
            if len(value) > MAX_TEXT:
                # Cut, it would ask for something else.
                dropped.append(name)
            elif value:
                self._values[name] = value
        for name, allowed in spec.choices.items():
            value = params.get(name, "")
            if value and value in allowed:
                self._values[name] = value
            elif value:
                dropped.append(name)
        self.sort, self.descending = self._sort(params.get("sort", ""), dropped)
        self.size = self._size(params.get("size", ""), dropped)
        self.after = self._cursor(params.get("after", ""), "after", dropped)
        self.before = None if self.after else self._cursor(params.get("before", ""), "before", dropped)
        if dropped:
            sentence = translate("Part of the address could not be used and was left out: %(names)s.")
            self.notices.append(sentence % {"names": ", ".join(dropped)})

    def _sort(self, text: str, dropped: list[str]) -> tuple[str, bool]:
        default = self.spec.sorts[0]
        if text:
            if text.removeprefix("-") in {s.removeprefix("-") for s in self.spec.sorts}:
                self._values["sort"] = text
                return text.removeprefix("-"), text.startswith("-")
            dropped.append("sort")
        return default.removeprefix("-"), default.startswith("-")

    def _size(self, text: str, dropped: list[str]) -> int:
        if not text:
            return DEFAULT_SIZE
        if text in {str(size) for size in SIZES}:
            self._values["size"] = text
            return int(text)
        dropped.append("size")
        return DEFAULT_SIZE

    @staticmethod
    def _cursor(text: str, name: str, dropped: list[str]) -> "Cursor | None":
        if not text:
            return None
        cursor = Cursor.read(text)
        if cursor is None:
            dropped.append(name)
        return cursor

    # ---- what templates ask

    def value(self, name: str) -> str:
        """A filter's value, empty when it is not set."""
        return self._values.get(name, "")

    @property
    def is_filtered(self) -> bool:
        """Whether anything narrows the list."""
        return any(self._values.get(name) for name in ("q", *self.spec.texts, *self.spec.choices))

    def href(self, **changes: str | None) -> str:
        """This view with some parameters changed (None removes) and without a position in the list."""
        values = {**self._values, **{name: value or "" for name, value in changes.items()}}
        query = urlencode({name: value for name, value in values.items() if value})
        return self.spec.path + (f"?{query}" if query else "")

    def page_href(self, *, after: str | None = None, before: str | None = None) -> str:
        """The next or previous page of this view."""
        return self.href(after=after, before=before)

    def sort_state(self, name: str) -> str | None:
        """`aria-sort` of a column."""
        if name != self.sort or self._is_ranked:
            return None
        return "descending" if self.descending else "ascending"

    def sort_href(self, name: str) -> str:
        """This view sorted by a column; pressed again, the other way round."""
        is_upwards = self.sort_state(name) == "ascending"
        return self.href(sort=f"-{name}" if is_upwards else name)

    @property
    def _is_ranked(self) -> bool:
        return self.spec.ranks and "q" in self._values and "sort" not in self._values

    @property
    def cleared_href(self) -> str:
        """This list without filters."""
        return self.href(**dict.fromkeys(("q", *self.spec.texts, *self.spec.choices)))

    def hidden(self, *, except_: Sequence[str] = ()) -> Markup:
        """Hidden fields that keep the rest of the view in a GET form."""
        return Markup("").join(
            Markup('<input type="hidden" name="{}" value="{}">').format(name, value)
            for name, value in self._values.items()
            if name not in except_ and name not in _KEEP_OUT
        )


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a sorted list: the sort value and the id of the row beside it. Opaque outside."""

    value: str | int
    id: str

    def write(self) -> str:
        """As a parameter."""
        return base64.urlsafe_b64encode(json.dumps([self.value, self.id]).encode()).decode().rstrip("=")

    @classmethod
    def read(cls, text: str) -> "Cursor | None":
        """From a parameter; None for anything that we did not write."""
        if len(text) > _MAX_CURSOR or not text.isascii():
            return None
        try:
            parsed = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        except (ValueError, binascii.Error):
            return None
        match parsed:
            case [str() | int() as value, str() as row_id] if (
                not isinstance(value, bool) and abs(value if isinstance(value, int) else 0) < 2**62
            ):
                return cls(value, row_id)
        return None


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """One page of a list, with the cursors of its neighbours."""

    rows: Sequence[Row]
    next: str | None = None
    previous: str | None = None


def page_of(
    view: View,
    fetch: Callable[[Statement], Sequence[Row]],
    statement: Statement,
    *,
    by: ColumnElement[Any],
    id_: Any,
    key: Callable[[Row], tuple[Any, str]],
) -> Page[Row]:
    """One keyset page of `statement`: one query, whatever the list's length.

    Args:
        by: what is sorted by; never null (coalesce it).
        id_: column of the row's id; breaks ties.
        key: sort value and id of a row, as `by` and `id_` give them.
    """
    cursor = view.after or view.before
    backwards = view.before is not None
    downwards = view.descending != backwards
    if cursor is not None:
        value: Any = cursor.value
        if _is_instant(by):
            value = from_micros(value) if isinstance(value, int) else None
        elif isinstance(value, int):
            value = None
        if value is None:
            cursor, backwards, downwards = None, False, view.descending
        else:
            beyond = and_(by == value, id_ < cursor.id if downwards else id_ > cursor.id)
            statement = statement.where(or_(by < value if downwards else by > value, beyond))
    order = (by.desc(), id_.desc()) if downwards else (by.asc(), id_.asc())
    rows = list(fetch(statement.order_by(*order).limit(view.size + 1)))
    has_more = len(rows) > view.size
    rows = rows[: view.size]
    if backwards:
        rows.reverse()
    if not rows:
        return Page(rows)
    has_next, has_previous = (True, has_more) if backwards else (has_more, cursor is not None)
    return Page(
        rows,
        next=_cursor_of(key(rows[-1])) if has_next else None,
        previous=_cursor_of(key(rows[0])) if has_previous else None,
    )


def _is_instant(column: ColumnElement[Any]) -> bool:
    return isinstance(column.type, Instant)


def _cursor_of(key: tuple[Any, str]) -> str:
    value, row_id = key
    return Cursor(to_micros(value) if isinstance(value, datetime) else value, row_id).write()


def values(row: Any) -> list[Any]:
    """The values of a result row, for a frozen dataclass with the columns' order."""
    return list(row)
