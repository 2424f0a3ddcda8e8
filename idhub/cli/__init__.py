"""The `idhub` command. Works on the installation itself, beside a running server or without one.

Data goes to stdout, talk to stderr; `--json` on every command that shows something. Exit codes are in
docs/reference/commands.md. Entry point: `main`.
"""

import sys

from idhub.cli import audit, configure, lifecycle, people, receipts, serve
from idhub.cli.console import app, say
from idhub.errors import IdhubError

__all__ = ["app", "main"]

COMMANDS = (serve, configure, people, lifecycle, receipts, audit)
"""Modules whose import registers their commands on `app`."""


def main() -> None:
    """Run the command line; a domain error is one sentence on stderr and exit status 1."""
    try:
        app()
    except IdhubError as error:
        where = f" [{error.field}]" if error.field else ""
        say(f"error{where}: {error.description}")
        sys.exit(1)
