"""Tells the story on a terminal: a step, one line of explanation, what was seen to hold, and how long it took."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.rule import Rule
from rich.table import Table

_WIDTH_WITHOUT_TERMINAL = 120


class StoryFailed(Exception):
    """A step did not hold; the text says what was seen instead."""


class Narrator:
    """Prints the story. Every `check` that holds is a line; the first that does not ends the story."""

    def __init__(self, *, steps: int) -> None:
        self._console = Console(highlight=False)
        if not self._console.is_terminal:
            # A pipe has no width; Rich would wrap at 80 columns.
            self._console = Console(highlight=False, width=_WIDTH_WITHOUT_TERMINAL)
        self._steps = steps
        self._step = 0
        self._started = time.monotonic()
        self.held = 0

    def step(self, chinese: str, english: str, explanation: str) -> None:
        """Begin a step."""
        self._step += 1
        self._console.print()
        self._console.print(f"[bold cyan]{self._step}/{self._steps}[/] [bold]{chinese} · {english}[/]", soft_wrap=True)
        self._console.print(f"    [dim]{escape(explanation)}[/]", soft_wrap=True)

    def fact(self, text: str) -> None:
        """Say something that was seen."""
        self._console.print(f"    {escape(text)}", soft_wrap=True)

    def check(self, claim: str, holds: object, *, seen: object = None) -> None:
        """Say that `claim` holds.

        Raises:
            StoryFailed: it does not; quotes what was `seen`.
        """
        if not holds:
            self._console.print(f"    [bold red]✗[/] {escape(claim)}", soft_wrap=True)
            raise StoryFailed(f"{claim}\n    seen instead: {seen}" if seen is not None else claim)
        self.held += 1
        self._console.print(f"    [green]✓[/] {escape(claim)}", soft_wrap=True)

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """Show that something is under way."""
        if self._console.is_terminal:
            with self._console.status(f"    {escape(what)} …"):
                yield
        else:
            self.fact(f"… {what}")
            yield

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a small table."""
        table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="dim")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*[escape(cell) for cell in row])
        self._console.print()
        self._console.print(table)
        self._console.print()

    def close(self, text: str, *, good: bool) -> None:
        """The last line of the story."""
        seconds = time.monotonic() - self._started
        self._console.print()
        self._console.print(Rule(style="green" if good else "red"))
        self._console.print(
            f"[bold {'green' if good else 'red'}]{escape(text)}[/]  [dim]{seconds:.0f} s[/]", soft_wrap=True
        )
