"""The table of routes of an application, for tests that are generated from it."""

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI

from idhub.oidc.metadata import HOT_PATHS


def methods_of(app: FastAPI) -> dict[str, frozenset[str]]:
    """Methods by path, of everything that the application answers."""
    # What stands before the routing knows its methods itself.
    found: dict[str, frozenset[str]] = dict.fromkeys(HOT_PATHS, frozenset({"GET", "POST"}))
    for route in app.routes:
        # An included router tells its routes with their prefixes.
        contexts: Iterable[Any] = (
            route.effective_route_contexts() if hasattr(route, "effective_route_contexts") else [route]
        )
        for context in contexts:
            # A plain route of Starlette in a router keeps its path to itself.
            one = context if context.path else context.original_route
            methods = frozenset(one.methods or {"GET", "POST"}) - {"HEAD"}
            found[one.path] = found.get(one.path, frozenset()) | methods
    return found
