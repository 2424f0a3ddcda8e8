"""Pages of the reference that are written from the code: settings, commands, the API's endpoints.

`python docs/generate.py` writes them; `--check` only says which are stale. `tests/docs` runs the check.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import typer
from fastapi import FastAPI

from idhub.api.scopes import SCOPES
from idhub.settings import Settings

DOCS = Path(__file__).parent
_NOTE = "<!-- Written by docs/generate.py. Do not edit. -->"
_EXIT_CODES = (
    ("`people import`", "all rows are in", "nothing was done", "some rows were refused", "some leaves are quarantined"),
    ("`reconcile`", "everything was read whole", "nothing was done", "something was not", "the brake holds remedies"),
    ("`findings act`", "on its way", "nothing was done", "", "the brake holds remedies"),
    ("`provisioning watch`", "all is there", "nothing to watch", "some deliveries are dead", ""),
    (
        "`certify`",
        "as written",
        "something a leave rests on does not work, or cannot be tried",
        "usable, with deviations",
        "",
    ),
    ("`receipt verify`, `audit verify`", "valid", "invalid", "unreadable: no such file, or not what it should be", ""),
    ("`audit prune`", "done, or nothing to do", "the export is invalid; nothing went", "it is unreadable", ""),
    ("`doctor`", "nothing is wrong", "something is", "", ""),
    ("every other", "done", "refused", "", ""),
)
_OUTPUT = """
What ends with 1 says why in one sentence on stderr. A mistyped command or option ends with 2 and a usage line. Data go
to stdout, talk to stderr, so that output can be piped; lines are never wrapped. With `IDHUB_LOG_LEVEL=debug` an error
is followed by where it came from.
"""


def settings_page() -> str:
    """docs/reference/settings.md."""
    rows = [
        [
            f"`{name}`",
            f"`{Settings.model_config['env_prefix']}{name.upper()}`",
            _default(field.default),
            _kind(field.annotation),
            field.description or "",
        ]
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(
        [
            "# Settings",
            "",
            _NOTE,
            "",
            "Read once, at start: from the environment, else from `idhub.toml` (which `--config` names, or in the data",
            "folder), else the default. A value that breaks its rule, or an unknown name in the file, is refused by",
            "name. A variable that begins with `IDHUB_` and is no setting changes nothing: every command says so and",
            "names the setting that may have been meant. What Kubernetes and Docker say of services is passed over.",
            "A duration is ISO 8601 (`PT5M`, `P7D`) or `HH:MM:SS`; a number in `idhub.toml` is seconds.",
            "",
            *_table(("`idhub.toml`", "environment", "default", "kind", "what it is"), rows),
            "",
        ]
    )


def commands_page() -> str:
    """docs/reference/commands.md."""
    from idhub.cli.console import app

    parts = ["# Commands", "", _NOTE, "", "`idhub [--config FILE] COMMAND`. It opens the installation that the"]
    parts += [
        "[settings](settings.md) name, beside a running server or without one, and makes it in an empty data folder."
    ]
    parts += ["`PERSON` is an id, an employee number, `company/number`, a mail address or a mobile number."]
    parts += ["", "## Exit status", "", *_table(("command", "0", "1", "2", "3"), _EXIT_CODES), _OUTPUT]
    for name, command in _commands(typer.main.get_command(app), ()):
        parts += _command(name, command)
    return "\n".join(parts)


def api_page() -> str:
    """docs/reference/api-endpoints.md."""
    paths = _openapi()["paths"]
    rows = [
        [f"`{method.upper()} {path}`", (operation.get("description") or "").partition("\n")[0]]
        for path, operations in paths.items()
        for method, operation in operations.items()
    ]
    scopes = [
        [f"`{scope}`", ", ".join(sorted(f"`{action}`" for action in actions))] for scope, actions in SCOPES.items()
    ]
    return "\n".join(
        [
            "# Endpoints of the administration API",
            "",
            _NOTE,
            "",
            "How to call them is in [api.md](api.md). The same as OpenAPI 3.1: `/api/openapi.json` of a running hub.",
            "",
            *_table(("endpoint", "what it does"), rows),
            "",
            "## Scopes",
            "",
            *_table(("scope", "actions it permits"), scopes),
            "",
        ]
    )


PAGES = {
    "reference/settings.md": settings_page,
    "reference/commands.md": commands_page,
    "reference/api-endpoints.md": api_page,
}


def _openapi() -> dict[str, Any]:
    from idhub.api.routes import create_router

    app = FastAPI(title="idhub", version="1")
    app.include_router(create_router(_NoServices()))
    return app.openapi()


class _NoServices:
    """Enough to name the routes; nothing is ever called."""

    def __getattr__(self, name: str) -> Any:
        return None


def _default(value: object) -> str:
    if value is None or value == "":
        return "empty"
    if isinstance(value, timedelta):
        return _duration(value)
    return f"`{value}`"


def _duration(value: timedelta) -> str:
    seconds = int(value.total_seconds())
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _kind(annotation: Any) -> str:
    if annotation is timedelta:
        return "duration"
    names = [part for part in get_args(annotation) if part is not type(None)]
    if names and all(isinstance(part, str) for part in names):
        return ", ".join(f"`{part}`" for part in names)
    known = {str: "text", int: "number", float: "number", bool: "true or false", Path: "path"}
    return known.get(names[0] if names else annotation, "text")


def _commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name in command.list_commands(None):
        inner = command.get_command(None, name)
        if hasattr(inner, "list_commands"):
            yield from _commands(inner, (*path, name))
        else:
            yield (*path, name), inner


def _command(path: Sequence[str], command: Any) -> list[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    usage = " ".join(
        [
            *path,
            *(_bracket(_metavar(p), p.required) for p in arguments),
            *(_bracket(_spelt(p), p.required) for p in options),
        ]
    )
    head = [f"## {' '.join(path)}", "", f"`idhub {usage}`", "", " ".join((command.help or "").split()), ""]
    rows = [[f"`{_metavar(p)}`", _help(p)] for p in arguments] + [[f"`{_spelt(p)}`", _help(p)] for p in options]
    return head + ([*_table(("", ""), rows), ""] if rows else [])


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name).upper()


def _spelt(parameter: Any) -> str:
    names = "/".join([*parameter.opts, *parameter.secondary_opts])
    return names if parameter.is_flag else f"{names} {parameter.name.rstrip('_').upper()}"


def _bracket(text: str, required: bool) -> str:
    return text if required else f"[{text}]"


def _help(parameter: Any) -> str:
    default = parameter.default
    shown = "" if default in (None, False, "") or callable(default) else f" Default: `{default}`."
    return ((parameter.help or "") + shown).strip()


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *escaped)]


def stale(pages: Mapping[str, Any] = PAGES) -> list[str]:
    """Pages that are not what the code says now."""
    return [
        name
        for name, make in pages.items()
        if not (DOCS / name).is_file() or (DOCS / name).read_text("utf-8") != make()
    ]


def main() -> int:
    """Write the pages, or say which are stale."""
    if "--check" in sys.argv[1:]:
        found = stale()
        for name in found:
            print(f"stale: docs/{name}; run `python docs/generate.py`", file=sys.stderr)
        return 1 if found else 0
    for name, make in PAGES.items():
        (DOCS / name).write_text(make(), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
