"""The registry of doors: every way a wish about a principal can come in.

A door that is not here cannot pass `transition`; one that is here has a row in the every-door test.
"""

from enum import StrEnum


class Door(StrEnum):
    """A way in."""

    CONSOLE = "console"
    """Pages of HR."""
    API = "api"
    """The administration API."""
    SCIM = "scim"
    """The SCIM server: identity providers and HR systems that push people."""
    CLI = "cli"
    """The command line."""
    HR_FILE = "hr_file"
    """An HR file: rows that say so, people it no longer lists, leaves that the brake released."""
    SCHEDULE = "schedule"
    """Dates that have come due, rules that have changed."""
    LOGIN = "login"
    """A person changing their own password: ends credentials, never standing."""


ENDS_EMPLOYMENTS = frozenset(Door) - {Door.LOGIN}
"""Doors through which somebody can leave."""
