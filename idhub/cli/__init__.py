"""The `idhub` command. Works on the installation itself, beside a running server or without one.

Data goes to stdout, talk to stderr; `--json` on every command that shows something. Exit codes are in
docs/reference/commands.md. Entry point: `main`; the commands are in `console.app`.
"""

import os
import sqlite3
import sys
import traceback
from typing import NoReturn

from idhub.cli.loading import uncollected
from idhub.errors import IdhubError

FAILED = 1
_POOLER = " Behind a pooler, name the server itself in IDHUB_DATABASE_DIRECT_URL."
_LATER = "Run it again when that has ended: an import, a migration, or a backup or shell that keeps a transaction open."


def main() -> None:
    """Run the command line; whatever goes wrong is one sentence on stderr and exit status 1."""
    with uncollected():
        from sqlalchemy.exc import SQLAlchemyError

        from idhub.cli.console import app
        from idhub.db import WRITERS_PATIENCE, is_busy, is_held
    try:
        app()
        sys.stdout.flush()
    except IdhubError as error:
        field = error.field or ""
        sentence = error.description.removeprefix(f"{field}: ") if field else error.description
        # A path through a file is long enough to be read once; the name of a parameter is what programs look for.
        is_named = not field or ("." in field and sentence.startswith(f"{field} "))
        _end(f"error: {sentence}" if is_named else f"error [{field}]: {sentence}", error)
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        _end(f"error: {named}{error.strerror or error}.", error)
    except (SQLAlchemyError, sqlite3.Error) as error:
        cause = getattr(error, "orig", None) or error
        if is_busy(cause):
            waited = f"{WRITERS_PATIENCE.total_seconds():g} s"
            _end(f"error: another process has been writing to the database for more than {waited}. {_LATER}", error)
        if is_held(cause):
            _end(f"error: another process holds what this command would change. {_LATER}", error)
        # What PgBouncer says to options, of which only direct connections have any.
        hint = _POOLER if "unsupported startup parameter" in str(cause) else ""
        _end(f"error: the database cannot be used: {_first_line(cause)}.{hint}", error)
    except Exception as error:  # the command line's translator: nobody is shown a traceback unasked
        _end(
            f"error: {type(error).__name__}: {_first_line(error)}. This is a fault of idhub; say it where you got it.",
            error,
        )


def _end(sentence: str, error: Exception) -> NoReturn:
    print(sentence, file=sys.stderr)
    if os.environ.get("IDHUB_LOG_LEVEL", "").lower() == "debug":
        traceback.print_exception(error)
    sys.exit(FAILED)


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip().rstrip(".")
