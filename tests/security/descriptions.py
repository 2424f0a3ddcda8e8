"""OpenAPI documents for the parts of the hub that publish none: the OAuth endpoints and the pages. For fuzzing only.

Made from the route table and the table of bad-input cases, so that a new route or parameter is fuzzed as it is added.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from tests.flows.test_bad_input import CASES
from tests.security.hall import Hall
from tests.support.routes import methods_of

_FORM = "application/x-www-form-urlencoded"
_STREAMS = frozenset({"/hr/receipts/{number}/events"})
"""Answers that do not end by themselves; tests/web/test_offboarding_pages.py has them."""


def _document(paths: Mapping[str, Any]) -> dict[str, Any]:
    return {"openapi": "3.1.0", "info": {"title": "for tests", "version": "1"}, "paths": dict(paths)}


def _values(known: Iterable[str]) -> dict[str, Any]:
    """Values that mean something, or any text."""
    listed = sorted(set(known))
    free: dict[str, Any] = {"type": "string", "maxLength": 60}
    return {"anyOf": [{"type": "string", "enum": listed}, free]} if listed else free


def _operation(path: str, method: str, names: Iterable[str], known: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    properties = {name: _values(known.get(name, ())) for name in names}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _values([*known.get(name, ()), value])}
        for name, value in (CASES[path].values or {}).items()
    ]
    operation: dict[str, Any] = {"responses": {"default": {"description": "any"}}}
    if method == "GET":
        parameters += [{"name": name, "in": "query", "schema": schema} for name, schema in properties.items()]
    else:
        schema = {"type": "object", "properties": properties, "required": list(properties)[:3]}
        operation["requestBody"] = {"required": True, "content": {_FORM: {"schema": schema}}}
    return {**operation, "parameters": parameters}


def oauth(hall: Hall, known: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """The endpoints under /oauth2 and /.well-known."""
    return _described(hall, ("/oauth2/", "/.well-known/"), known)


def pages(hall: Hall, known: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """Every page and every form."""
    return _described(hall, ("/",), known, without=("/oauth2/", "/.well-known/", "/api/", "/scim/", "/static/"))


def _described(
    hall: Hall, prefixes: tuple[str, ...], known: Mapping[str, Iterable[str]], without: tuple[str, ...] = ()
) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for path, methods in sorted(methods_of(hall.app).items()):
        if not path.startswith(prefixes) or (without and path.startswith(without)) or path in _STREAMS:
            continue
        paths[path] = {
            method.lower(): _operation(path, method, CASES[path].parameters, known) for method in sorted(methods)
        }
    return _document(paths)
