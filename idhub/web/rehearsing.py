"""What a rehearsed change looks like on a page: the rows of its effects, its numbers, what is recorded."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fastapi import Request

from idhub.directory.kinds import Standing
from idhub.lifecycle.rehearsal import Effect, Rehearsal
from idhub.pages import N_
from idhub.web import labels
from idhub.web.drawing import mark_of
from idhub.web.labels import Label, Translate, translated
from idhub.web.post_form import Post, formatter_at
from idhub.web.services import WebServices

_NO_DELIVERY = {
    "gained": N_("Opens at sign-in; no account is made"),
    "lost": N_("Closed at sign-in; no account is known"),
    "kept": N_("Stays as it is"),
}
_HELD = N_("Queue is held up")
_MOVES = {
    "company": N_("Company"),
    "department": N_("Department"),
    "title": N_("Title"),
    "manager": N_("Manager"),
    "type": N_("Employment type"),
    "ends_on": N_("Last day"),
}


@dataclass(frozen=True, slots=True)
class EffectLine:
    """One application with what its row shows."""

    effect: Effect
    name: str
    mark: tuple[str, int]
    change: Label
    actions: Sequence[tuple[str, str, str | None]]
    """(what happens, through which channel, account there)"""
    sentence: str
    """Where nothing is delivered: what that means."""
    note: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """One line of what is recorded; `before` is None where nothing was or nothing changes."""

    label: str
    after: str
    before: str | None = None
    is_new: bool = False


def preview_context(
    rehearsal: Rehearsal, post: Post, services: WebServices, request: Request, t: Translate, *, now: datetime
) -> dict[str, Any]:
    """What `preview.html` shows of a rehearsal."""
    english = services.pages.language(request) == "en"
    place = formatter_at(services, request, post.company.time_zone)
    after = rehearsal.after
    changes = translated(labels.CHANGE_OF_ACCESS, t)
    return {
        "rehearsal": rehearsal,
        "place": place,
        "standing": translated(labels.STANDING, t)[after.standing],
        "is_later": after.standing == Standing.STAGED and rehearsal.takes_effect_at > now,
        "lines": [_line(effect, english, changes, t) for effect in rehearsal.effects],
    }


def _line(effect: Effect, english: bool, changes: dict[str, Label], t: Translate) -> EffectLine:
    name = effect.application_name if english else effect.application_name_zh or effect.application_name
    return EffectLine(
        effect=effect,
        name=name,
        mark=mark_of(name, effect.application),
        change=changes[effect.change],
        actions=[
            (t(labels.ACTION.get(a.action, a.action)), t(labels.CHANNEL.get(a.channel, a.channel)), a.account)
            for a in effect.actions
        ],
        sentence="" if effect.actions else t(_NO_DELIVERY[effect.change]),
        note=t(_HELD) if effect.is_held else "",
    )


def recorded_post(post: Post, services: WebServices, request: Request, t: Translate) -> list[Recorded]:
    """A new post, line by line."""
    english = services.pages.language(request) == "en"
    place = formatter_at(services, request, post.company.time_zone)
    lines = [
        Recorded(t(N_("Company")), post.company.shown(english)),
        Recorded(t(N_("Employee number")), post.employee_number),
        Recorded(t(N_("Employment type")), t(labels.EMPLOYMENT_TYPE[post.type])),
        Recorded(t(N_("Department")), _path(post.department), is_new=post.is_new_department),
        Recorded(t(N_("Title")), post.title or "—"),
        Recorded(t(N_("Manager")), post.manager.display_name if post.manager else "—"),
        Recorded(t(N_("First day")), place.day(post.starts_on)),
        Recorded(t(N_("Last day")), place.day(post.ends_on) if post.ends_on else t(N_("no end known"))),
    ]
    return [line for line in lines if line.after != "—"]


def recorded_move(
    before: dict[str, Any], post: Post, changed: set[str], services: WebServices, request: Request, t: Translate
) -> list[Recorded]:
    """What a move changes, line by line.

    Args:
        before: shown values of the employment as it is, by the names of `changed`.
    """
    english = services.pages.language(request) == "en"
    place = formatter_at(services, request, post.company.time_zone)
    after: dict[str, str] = {
        "company": post.company.shown(english),
        "department": _path(post.department),
        "title": post.title or "—",
        "manager": post.manager.display_name if post.manager else "—",
        "type": t(labels.EMPLOYMENT_TYPE[post.type]),
        "ends_on": place.day(post.ends_on) if post.ends_on else t(N_("no end known")),
    }
    return [
        Recorded(t(label), after[name], before[name], is_new=name == "department" and post.is_new_department)
        for name, label in _MOVES.items()
        if name in changed
    ]


def _path(department: str | None) -> str:
    return " / ".join(department.split("/")) if department else "—"
