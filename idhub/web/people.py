"""`/hr/people`: everyone the visitor may see."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from idhub.authority import Action, may
from idhub.pages import N_, Formatter
from idhub.web import labels, queries_people
from idhub.web.labels import Label, Translate, translated
from idhub.web.listing import View
from idhub.web.services import WebServices
from idhub.web.visit import frame_of, page_router, require, visitor_of

_SOON = timedelta(days=30)
_RECEIPT_NUMBER = re.compile(r"R-\d{4}-\d{2}-\d{1,9}")
_JUMPS = (("per_", "/hr/people/"), ("dlv_", "/admin/deliveries/"))
_LEAVES = N_("Leaves %(day)s")
_LEAVING = N_("Leave running since %(day)s")
_EMERGENCY = N_("Emergency leave %(day)s")
_ENDS = N_("Ends %(day)s")
_TOO_MANY_TO_SORT = N_("Too many people match to sort them: the best hits come first. Search for more to sort.")


def create_router(services: WebServices) -> APIRouter:
    """The route of the people list."""
    router = page_router(services)
    pages = services.pages

    @router.get("/hr/people")
    def people(request: Request) -> Response:
        """List people: search, filters, keyset pages."""
        now = services.clock()
        t = pages.translator(request)
        view = View(queries_people.PEOPLE, request.query_params, t)
        with services.database.read(keeps_plans=bool(view.value("q"))) as session:
            visitor = visitor_of(session, request, services, now=now)
            require(session, visitor, Action.PEOPLE_READ)
            if jump := jump_target(view.value("q")):
                return RedirectResponse(jump, status_code=303)
            listing = queries_people.list_people(view, session, visitor.subject)
            page = listing.page
            ids = [row.id for row in page.rows]
            counts = queries_people.account_counts(session, ids)
            leaves = queries_people.open_leaves(session, ids)
            companies = queries_people.visible_companies(session, visitor.subject)
            can_onboard = may(session, visitor.subject, Action.PEOPLE_CHANGE)
        if not listing.is_sorted:
            view.notices.append(t(_TOO_MANY_TO_SORT))
        formatter = pages.formatter(request)
        english = pages.language(request) == "en"
        company_names = [(code, (en or name) if english else name) for code, name, en in companies]
        states = [(code, t(label.text)) for code, label in labels.STANDING.items()]
        types = [(code, t(name)) for code, name in labels.EMPLOYMENT_TYPE.items()]
        context = {
            "frame": frame_of(visitor, request, services),
            "now": now,
            "view": view,
            "page": page,
            "counts": counts,
            "can_onboard": can_onboard,
            "companies": company_names,
            "types": types,
            "states": states,
            "type_names": dict(types),
            "standings": translated(labels.STANDING, t),
            "attention": _attention(page.rows, leaves, formatter, now, t),
            "chips": _chips(view, {"org": company_names, "type": types, "state": states}),
            "found": _found(listing.found, formatter, request, services),
        }
        return pages.render(request, "people.html", context, session_id=visitor.session_id)

    return router


def jump_target(text: str) -> str | None:
    """Where an identifier leads: search fields take any id from a log."""
    word = text.strip()
    if _RECEIPT_NUMBER.fullmatch(word.upper()):
        return f"/hr/receipts/{word.upper()}"
    for prefix, path in _JUMPS:
        if word.startswith(prefix) and re.fullmatch(r"[a-z]+_[0-9a-z]{26}", word):
            return path + word
    return None


def _found(
    found: queries_people.Found | None, formatter: Formatter, request: Request, services: WebServices
) -> str | None:
    if found is None:
        return None
    sentence = N_("%(number)s match") if found.is_all else N_("more than %(number)s match")
    return services.pages.gettext(request, sentence, number=formatter.number(found.number))


def _chips(view: View, names: Mapping[str, Sequence[tuple[str, str]]]) -> list[tuple[str, str]]:
    chips = [(view.value("q"), view.href(q=None))] if view.value("q") else []
    for name, options in names.items():
        if value := view.value(name):
            chips.append((dict(options).get(value, value), view.href(**{name: None})))
    return chips


def _attention(
    rows: Sequence[queries_people.PersonRow],
    leaves: Mapping[str, queries_people.OpenCase],
    formatter: Formatter,
    now: datetime,
    t: Translate,
) -> dict[str, Label]:
    found: dict[str, Label] = {}
    today = formatter.local(now).date()
    for row in rows:
        case = leaves.get(row.id)
        if case is not None:
            sentence, kind = (_LEAVES, "warn") if case.state == "scheduled" else (_LEAVING, "bad")
            if case.is_emergency:
                sentence, kind = _EMERGENCY, "bad"
            icon = "clock" if case.state == "scheduled" else "alert-triangle"
            found[row.id] = Label(kind, t(sentence) % {"day": formatter.day(case.effective_at)}, icon)
        elif row.ends_on is not None and today <= row.ends_on <= today + _SOON and row.standing != "left":
            found[row.id] = Label("warn", t(_ENDS) % {"day": formatter.day(row.ends_on)}, "clock")
    return found
