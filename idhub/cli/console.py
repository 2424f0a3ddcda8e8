"""What all commands share: the open hub, output, times."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer.main
from sqlalchemy.orm import Session
from typer.core import TyperGroup

from idhub.authority import LOCAL
from idhub.changes import COMMAND_LINE
from idhub.cli.loading import MODULE_OF, load_commands
from idhub.logs import configure_logging
from idhub.services import Hub, open_hub
from idhub.settings import Settings, load_settings, unknown_variables

if TYPE_CHECKING:
    from idhub.lifecycle.commands import Caller


class _LazyCommands(TyperGroup):
    """The commands of `app`, each imported when it is looked up."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of the help; the help itself imports everything."""
        return list(MODULE_OF)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, or None; an unknown name imports all, for the suggestion of a near one."""
        if cmd_name not in self.commands:
            load_commands(*(name for name in (cmd_name,) if name in MODULE_OF))
            self.commands = typer.main.get_group(app).commands
        return self.commands.get(cmd_name)


app = typer.Typer(
    name="idhub",
    cls=_LazyCommands,
    help="Identity hub: one employee directory, sign-in, provisioning, and offboarding that is proven.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print data as JSON.")]
_chosen: dict[str, Path | None] = {"config": None}


@app.callback()
def _options(
    config: Annotated[
        Path | None, typer.Option(help="Configuration file; default: idhub.toml in the data folder.")
    ] = None,
) -> None:
    _chosen["config"] = config


def settings(**overrides: Any) -> Settings:
    """Settings of this call. Says which variables that look like settings are none: they change nothing."""
    for sentence in unknown_variables(os.environ):
        say(f"warning: {sentence}")
    return load_settings(_chosen["config"], **overrides)


@contextmanager
def open_here() -> Iterator[Hub]:
    """The installation that the settings name, open."""
    chosen = settings()
    # Logs go to stderr: what a command prints is data.
    configure_logging(chosen)
    hub = open_hub(chosen)
    try:
        yield hub
    finally:
        hub.close()


def caller() -> "Caller":
    """The command line as actor: whoever runs it owns the data folder already."""
    from idhub.lifecycle.commands import Caller

    user = os.environ.get("SUDO_USER") or os.environ.get("USER") or ""
    actor = COMMAND_LINE if not user else type(COMMAND_LINE)(kind="cli", id="cli", name=user[:60])
    return Caller(subject=LOCAL, actor=actor, door="cli")


class _DryRun(Exception):
    """Rolls the transaction of a dry run back."""


def write(hub: Hub, act: Callable[[Session, datetime], Any], *, dry_run: bool = False) -> Any:
    """Run `act` in one transaction; of a dry run, roll it back."""
    if not dry_run:
        return hub.database.run(lambda session: act(session, hub.clock()))
    result: Any = None
    with suppress(_DryRun), hub.database.transaction() as session:
        result = act(session, hub.clock())
        raise _DryRun
    return result


def say(text: str) -> None:
    """Talk: one line to stderr."""
    print(text, file=sys.stderr)


def show(data: Any, *, as_json: bool, lines: Sequence[str] = ()) -> None:
    """Data: JSON, or the given lines, to stdout."""
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS) + b"\n")
        sys.stdout.buffer.flush()
        return
    for line in lines:
        print(line)


def table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> list[str]:
    """Rows as aligned lines; wide characters count twice."""
    widths = [max(_width(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return [
        "  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]


def _width(text: str) -> int:
    return sum(2 if "\u1100" <= c <= "\uffef" else 1 for c in text)


def plain(value: Any) -> Any:
    """A value as JSON can hold it: dataclasses by their fields, times in ISO 8601."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, date | datetime):
        return value.isoformat()
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if hasattr(value, "total_seconds"):
        return value.total_seconds()
    return value
