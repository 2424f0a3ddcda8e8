"""What is wrong with an HR file, in words: of the whole file, and of a row by line, column and rule."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from idhub.pages import N_
from idhub.web.labels import Translate
from providers.hr_file import Rule
from providers.hr_file.rows import MESSAGES

_ENDED: Mapping[str, str] = {
    "cancelled": N_("You gave this file up. Nothing of it went in, and it is not kept."),
    "expired": N_("Nobody confirmed this file in time. Nothing of it went in, and it is not kept."),
    "failed": N_("This file could not be read to its end, five times. Call an administrator: it may be damaged."),
}
_RULES: Mapping[str, str] = {
    "hr_file.replayed": N_("This file was imported before, and a newer one since; importing it again would undo that."),
    "hr_file.beyond": N_("The file names a company that you are not responsible for. Leave its rows out."),
    "upload.not_permitted": N_("You may not bring HR files in any more."),
    "upload.restored": N_("The hub went back to a backup meanwhile. Bring the file in again."),
    "upload.damaged": N_("The file that is kept is not the one that came. Bring it in again."),
}


class ProblemLine(NamedTuple):
    """One fault of one row."""

    line: int
    column: str
    words: str
    rule: str


def ended_words(state: str, outcome: Mapping[str, Any], language: str, t: Translate) -> str:
    """Why nothing of a file went in, or not all of it; empty while it may."""
    rule = outcome.get("rule", "")
    if rule in _RULES:
        return t(_RULES[rule])
    if state == "refused":
        words = str(outcome.get("en", rule))
        return str(outcome.get("zh", words)) if language == "zh-CN" else f"{words[:1].upper()}{words[1:]}"
    return t(_ENDED[state]) if state in _ENDED else ""


def kept_lines(problems: Sequence[Mapping[str, Any]], language: str) -> list[ProblemLine]:
    """Faults of rows, in the language of the page."""
    return [_line(one["line"], one["field"], one["rule"], language) for one in problems]


def _line(line: int, column: str, rule: str, language: str) -> ProblemLine:
    known = MESSAGES.get(Rule(rule)) if rule in Rule._value2member_map_ else None
    return ProblemLine(line, column, known[language == "zh-CN"] if known else rule, rule)
