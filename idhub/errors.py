"""Errors of the domain. None names an HTTP status; translators in the protocols do.

IdhubError
+-- NotFound        the thing does not exist, or the actor may not know that it does
+-- Conflict        the wish contradicts what is
+-- NotPermitted    the actor may not
+-- Invalid         the input breaks a rule; names the field
+-- Unavailable     cannot be done now; says when to try again
"""

from datetime import timedelta


class IdhubError(Exception):
    """What went wrong, in words that are safe for whoever asked.

    Args:
        description: one sentence: what happened and what to do; never a secret, never a stack trace.
        field: name of the input that broke the rule, where there is one.
        rule: stable machine-readable name of the rule that was broken, for audit and tests.
    """

    def __init__(self, description: str, *, field: str | None = None, rule: str | None = None) -> None:
        super().__init__(description)
        self.description = description
        self.field = field
        self.rule = rule


class NotFound(IdhubError):
    """The thing does not exist, or the actor may not know that it does."""


class Conflict(IdhubError):
    """The wish contradicts what is."""


class NotPermitted(IdhubError):
    """The actor may not do this."""


class Invalid(IdhubError):
    """The input breaks a rule; `field` and `rule` name which."""


class Unavailable(IdhubError):
    """It cannot be done now.

    Args:
        retry_after: how long to wait before trying again.
    """

    def __init__(self, description: str, *, retry_after: timedelta = timedelta(seconds=1)) -> None:
        super().__init__(description)
        self.retry_after = retry_after
