"""One connection of the store to PostgreSQL: its prepared statements, each for one asker, or for many in one exchange.

An exchange costs more than what the database does in it, so that many who ask the same at the same moment ask
together. A query is put around the asked values as they are given (`unnest ... CROSS JOIN LATERAL`); what changes rows
runs once for each, in order, sent together. Either way everybody gets what they would have got alone.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from audit.trail import INSERT_COLUMNS, TableName, insert_statement
from idhub.credentials.operations import Row
from idhub.credentials.statements import Statement

SERVER_SETTINGS: Final = {
    "timezone": "UTC",
    "application_name": "idhub-store",
    "lock_timeout": "5000",
    "idle_in_transaction_session_timeout": "30000",
    # Every statement here looks rows up by keys. It is planned once and for that, however small the tables were then.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
ASKER: Final = "asker_"
"""The column beside those that were asked for, in rows that many asked for together: whose row it is."""
_MARK: Final = re.compile(r"\$(\d+)")
_VALUES: Final = re.compile(r" VALUES \((.*)\)\s*", re.DOTALL)


class Pinned:
    """One connection with its prepared statements."""

    def __init__(self, connection: Any, statements: Mapping[str, Statement]) -> None:
        self.connection = connection
        self._statements = statements
        self._prepared: dict[str, Any] = {}
        self.is_begun = False
        """A transaction is open in which nothing was asked yet."""

    async def begin(self) -> None:
        """Begin a transaction, unless the one before left one open."""
        if not self.is_begun:
            await self.connection.execute("BEGIN")
        self.is_begun = False

    async def commit(self, *, goes_on: bool) -> None:
        """Commit; `goes_on`: another transaction follows at once, which so is spared the exchange to begin it."""
        await self.connection.execute("COMMIT AND CHAIN" if goes_on else "COMMIT")
        self.is_begun = goes_on

    async def fetch(self, name: str, parameters: Mapping[str, Any]) -> Sequence[Row]:
        """The rows of one statement."""
        statement = self._statements[name]
        prepared = self._prepared.get(name) or await self._prepare(name, statement.sql)
        rows: Sequence[Row] = await prepared.fetch(*statement.bind(parameters))
        return rows

    async def fetch_each(self, name: str, askers: Sequence[Mapping[str, Any]]) -> Sequence[Sequence[Row]]:
        """What `fetch` would return to each in turn, in one exchange. Rows may have `ASKER` beside their columns."""
        if len(askers) == 1:
            return [await self.fetch(name, askers[0])]
        statement = self._statements[name]
        bound = [statement.bind(parameters) for parameters in askers]
        found: list[list[Row]] = [[] for _ in askers]
        if statement.sql.startswith("SELECT"):
            prepared = self._prepared.get(f"each:{name}") or await self._prepare_query(name, statement)
            rows = await prepared.fetch(*_columns(statement, bound))
            for row in rows:
                found[row[ASKER] - 1].append(row)
            return found
        # Everybody in one order: two groups then wait for each other's rows in turn, not in a circle.
        order = sorted(range(len(askers)), key=lambda place: str(bound[place]))
        if " RETURNING " not in statement.sql:
            prepared = self._prepared.get(name) or await self._prepare(name, statement.sql)
            await prepared.executemany([bound[place] for place in order])
            return found
        prepared = self._prepared.get(f"each:{name}") or await self._prepare_change(name, statement)
        for row in await prepared.fetchmany([[*bound[place], place] for place in order]):
            found[row[ASKER]].append(row)
        return found

    async def change_all(
        self,
        rows: Mapping[str, Sequence[Sequence[Any]]],
        events: Sequence[tuple[TableName, Sequence[Sequence[Any]]]] = (),
    ) -> None:
        """Run INSERTs and UPDATEs that return nothing, each for its rows of bound values, in one exchange for all.

        Args:
            rows: by the name of their statement.
            events: by the table of the audit log.
        """
        given = dict(sorted({**rows, **{f"audit:{table}": values for table, values in events}}.items()))
        if not given:
            return
        label = "rows:" + ",".join(given)
        prepared = self._prepared.get(label) or await self._prepare_changes(label, list(given))
        await prepared.fetch(*(list(column) for values in given.values() for column in zip(*values, strict=True)))

    # ------------------------------------------------------------------ statements for many

    async def _prepare(self, name: str, sql: str) -> Any:
        prepared = self._prepared[name] = await self.connection.prepare(sql)
        return prepared

    async def _types(self, name: str, sql: str) -> list[str]:
        prepared = self._prepared.get(name) or await self._prepare(name, sql)
        return [one.name for one in prepared.get_parameters()]

    async def _prepare_query(self, name: str, statement: Statement) -> Any:
        types = await self._types(name, statement.sql)
        given = [place for place, _ in statement.places]
        fixed = [place for place in range(len(types)) if place not in given]
        marks = {place: f"given_.c{place}" for place in given}
        marks |= {place: f"${number}" for number, place in enumerate(fixed, start=len(given) + 1)}
        inner = _MARK.sub(lambda found: marks[int(found[1]) - 1], statement.sql)
        return await self._prepare(
            f"each:{name}",
            f"SELECT given_.n AS {ASKER}, found_.* FROM {_unnest(given, types, ' WITH ORDINALITY', ', n')} "  # noqa: S608 - statements of ours only
            f"CROSS JOIN LATERAL ({inner}) AS found_",
        )

    async def _prepare_change(self, name: str, statement: Statement) -> Any:
        number = len(statement.template) + 1
        return await self._prepare(f"each:{name}", f"{statement.sql}, ${number}::INTEGER AS {ASKER}")

    async def _prepare_changes(self, label: str, names: Sequence[str]) -> Any:
        parts: list[str] = []
        taken = 0
        for name in names:
            table = name.removeprefix("audit:")
            sql = self._statements[name].sql if table == name else insert_statement(_table(table), "numeric_dollar")
            types = await self._types(name, sql)
            parts.append(_for_rows(sql, types, first=taken + 1))
            taken += len(types)
        # All see the same moment, and foreign keys are looked at when all are done.
        asides = ", ".join(f"part_{number} AS ({part})" for number, part in enumerate(parts[:-1]))
        return await self._prepare(label, (f"WITH {asides} " if asides else "") + parts[-1])


def _table(name: str) -> TableName:
    for known in INSERT_COLUMNS:
        if known == name:
            return known
    raise ValueError(f"{name} is no table of the audit log")


def _for_rows(sql: str, types: Sequence[str], *, first: int) -> str:
    """A change by one row of values as one by many, from parallel arrays whose parameters begin with `first`."""
    if sql.startswith("UPDATE "):
        taken = _MARK.sub(lambda found: f"given_.c{int(found[1]) - 1}", sql)
        change, _, condition = taken.partition(" WHERE ")
        return f"{change} FROM {_unnest(range(len(types)), types, first=first)} WHERE {condition}"
    values = _VALUES.search(sql)
    if values is None:
        raise ValueError(f"no row of values is inserted by {sql}")
    taken = _MARK.sub(lambda found: f"given_.c{int(found[1]) - 1}", values[1])
    rows = f" SELECT {taken} FROM {_unnest(range(len(types)), types, first=first)} "  # noqa: S608 - statements of ours only
    return sql[: values.start()] + rows + sql[values.end() :]


def _unnest(
    places: Sequence[int], types: Sequence[str], ordinality: str = "", more: str = "", *, first: int = 1
) -> str:
    """Parallel arrays as rows: one parameter for each place, in order."""
    arrays = ", ".join(f"${number}::{types[place]}[]" for number, place in enumerate(places, start=first))
    names = ", ".join(f"c{place}" for place in places)
    return f"unnest({arrays}){ordinality} AS given_ ({names}{more})"


def _columns(statement: Statement, bound: Sequence[Sequence[Any]]) -> list[Any]:
    given = [place for place, _ in statement.places]
    arrays: list[Any] = [[values[place] for values in bound] for place in given]
    return arrays + [value for place, value in enumerate(statement.template) if place not in given]
