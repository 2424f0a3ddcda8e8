"""Ask every check of one service, and say which dialect fits what was seen."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from scim.certify.checks import BY_NAME, CHANGED, CHECKS, STEPS
from scim.certify.kit import Absent, Failed, Kit
from scim.certify.verdicts import Certificate, Check, Result
from scim.client import HttpPort
from scim.dialects import DIALECTS, GENERIC, Dialect
from scim.errors import RemoteError

_PATIENCE: Final = 3
"""So many questions without an answer, and none with one, are enough."""


async def certify(
    http: HttpPort, base_url: str, token: str | None, *, progress: Callable[[str], None] | None = None
) -> Certificate:
    """Ask every check of a service provider, and remove what was made for it.

    Raises:
        RemoteError: the port does not talk to that address, or nobody answers there.
    """
    kit = Kit(http, base_url.rstrip("/"), token)
    results: dict[str, Result] = {}
    silences = 0
    try:
        for name, step in STEPS.items():
            if progress is not None:
                progress(name)
            try:
                results[name] = await _ask(BY_NAME[name], step, kit, results)
            except RemoteError as error:
                silences += 1
                if not kit.answers and silences == _PATIENCE:
                    # Nobody is there: that is no verdict on anybody.
                    raise
                results[name] = Result(BY_NAME[name], "fail", error.description[:300])
    finally:
        await kit.clean_up()
    dialect, deviations = _dialect(results, kit)
    return Certificate([results[check.name] for check in CHECKS], dialect, deviations)


async def _ask(check: Check, step: Callable[[Kit], Awaitable[None]], kit: Kit, results: Mapping[str, Result]) -> Result:
    missing = [name for name in check.needs if results[name].verdict != "pass"]
    if missing:
        return Result(check, "skipped", f"rests on {missing[0]}")
    try:
        await step(kit)
    except Failed as failed:
        return Result(check, "fail", str(failed)[:300])
    except Absent as absent:
        return Result(check, "absent", str(absent)[:300])
    return Result(check, "pass")


def _dialect(results: Mapping[str, Result], kit: Kit) -> tuple[str | None, list[str]]:
    """The dialect that fits what was seen, and where it does not."""

    def passed(name: str) -> bool:
        return results[name].verdict == "pass"

    if not passed("update"):
        return None, ["neither PATCH nor PUT works"]
    # PATCH of some attributes and not of others is none: several change at once.
    patches = passed("patch") and (kit.patched == CHANGED[0] or not passed("put"))
    # Of some, `active` alone can be changed.
    patches = patches or (kit.has_patch and not passed("patch"))
    seen: dict[str, Any] = {
        "update": "patch" if patches else "put",
        "finds": passed("filter_user_name"),
        "active_form": "boolean" if passed("active_boolean") else "text",
        "finds_external_id": passed("filter_external_id"),
        "has_enterprise_user": passed("enterprise_kept"),
        "id_is_external_id": kit.user["id"] == kit.new_user("1")["externalId"],
    }
    if passed("group_members"):
        seen["remove_members"] = "filter" if passed("group_member_removed") else "values"

    def differing(dialect: Dialect) -> list[str]:
        moot = set() if dialect.finds and not dialect.id_is_external_id else {"finds_external_id"}
        return [name for name, value in seen.items() if name not in moot and getattr(dialect, name) != value]

    best = min(DIALECTS.values(), key=lambda dialect: (len(differing(dialect)), dialect is not GENERIC))
    return best.name, [f"{name}: {seen[name]}" for name in differing(best)]
