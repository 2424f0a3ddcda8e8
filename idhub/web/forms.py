"""Forms of which a route names every field: each there, each within its length."""

from collections.abc import Awaitable, Callable, Mapping

from fastapi import APIRouter, Request

from idhub.web.reading import BrokenForm, read_form
from idhub.web.services import WebServices
from idhub.web.visit import page_router

Form = Mapping[str, str]


def form_of(
    *required: str, optional: Mapping[str, int] | None = None, limits: Mapping[str, int] | None = None
) -> Callable[[Request], Awaitable[Form]]:
    """A dependency that reads a form with these fields.

    Args:
        required: fields that must be there; they may be empty, which is for the route to judge.
        optional: further fields, with the longest value in characters; absent ones read as empty.
        limits: longest value in characters of required fields; 512 where none is named.
    """
    longest = {**dict.fromkeys(required, 512), **(limits or {}), **(optional or {})}

    async def read(request: Request) -> Form:
        found: dict[str, str] = {}
        for name, value in (await read_form(request)).items():
            if name not in longest:
                continue
            found[name] = value
            if len(value) > longest[name]:
                raise BrokenForm("form.too_long", name)
        for name in required:
            if name not in found:
                raise BrokenForm("form.missing", name)
        return {**dict.fromkeys(longest, ""), **found}

    return read


def form_router(services: WebServices) -> APIRouter:
    """A router of pages with forms: the strictness of `idhub.web.reading` is every page's."""
    return page_router(services)
