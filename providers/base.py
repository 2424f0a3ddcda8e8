"""What every upstream source has in common: its records, its proof of completeness and its errors."""

from __future__ import annotations

from dataclasses import dataclass


class ProviderError(Exception):
    """A source could not be read or spoken to.

    `description` is safe to show to whoever asked; `cause` is for logs only.
    """

    def __init__(self, description: str, *, cause: str | None = None) -> None:
        super().__init__(description)
        self.description = description
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Completeness:
    """What a source can prove about the records it delivered: absence is not departure without it.

    `gaps` say why the whole is not proven; `uncertain_scopes` are the scopes (for an HR file: companies, by their key)
    in which some record could not be told whose it was, so that nobody of that scope may be called absent.
    """

    records: int
    digest: str
    gaps: tuple[str, ...] = ()
    uncertain_scopes: frozenset[str] = frozenset()

    @property
    def is_complete(self) -> bool:
        """Whether every record of the source was read to its end without an error."""
        return not self.gaps

    def proves_absence_in(self, scope: str) -> bool:
        """Whether somebody of `scope` whom the source did not list is truly absent from it."""
        return self.is_complete and scope not in self.uncertain_scopes
