"""The `idhub` command. Works on the installation itself, beside a running server or without one.

Data goes to stdout, talk to stderr; `--json` on every command that shows something. Exit codes are in
docs/reference/commands.md. Entry point: `main`; the commands are in `console.app`.
"""

import os
import sys
import traceback

from idhub.cli.loading import uncollected
from idhub.errors import IdhubError

FAILED = 1


def main() -> None:
    """Run the command line; whatever goes wrong is one sentence on stderr and exit status 1."""
    with uncollected():
        from sqlalchemy.exc import SQLAlchemyError

        from idhub.cli.console import app
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
    except SQLAlchemyError as error:
        _end(f"error: the database cannot be used: {_first_line(getattr(error, 'orig', None) or error)}.", error)
    except Exception as error:  # the command line's translator: nobody is shown a traceback unasked
        _end(
            f"error: {type(error).__name__}: {_first_line(error)}. This is a fault of idhub; say it where you got it.",
            error,
        )


def _end(sentence: str, error: Exception) -> None:
    print(sentence, file=sys.stderr)
    if os.environ.get("IDHUB_LOG_LEVEL", "").lower() == "debug":
        traceback.print_exception(error)
    sys.exit(FAILED)


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip().rstrip(".")
