"""`idhub recover`: see what a restored backup has lost, and leave recovery mode."""

from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from idhub import recovery
from idhub.cli.audit import sequence_at_once
from idhub.cli.console import JsonOption, app, caller, open_here, plain, say, show
from idhub.errors import Conflict, Invalid
from idhub.lost_time import Preview


@app.command()
def recover(
    export: Annotated[Path | None, typer.Option("--from", help="Export of the log from after the backup.")] = None,
    plan: Annotated[str | None, typer.Option(help="Fingerprint of the preview; do what it shows.")] = None,
    keys: Annotated[
        Path | None, typer.Option(help="Keys that the hub published before (JWK set), for a checkpoint key made since.")
    ] = None,
    enter: Annotated[str | None, typer.Option(help="Enter recovery mode by hand; say why.")] = None,
    json: JsonOption = False,
) -> None:
    """Recovery mode after a restored backup: without `--plan`, show what would be done; with it, do that and leave."""
    with open_here() as hub:
        now, log = hub.clock(), hub.log
        if enter is not None:
            is_new = recovery.enter(hub.database, enter, now=now)
            say("recovery mode; nothing issued before works" if is_new else "the hub was in recovery mode already")
        seen = recovery.preview(log, export, now=now, keys=_key_set(keys) if keys is not None else None)
        if plan is None:
            show({**plain(seen), "plan": seen.fingerprint, "done": False}, as_json=json, lines=_lines(seen))
            return
        if plan != seen.fingerprint:
            raise Conflict(
                f"This is not the plan that was shown: it is {seen.fingerprint} now. Look at it again.",
                field="plan",
                rule="recovery.plan",
            )
        changed = recovery.leave(log, caller(), seen, now=now)
    # Opened again: keys may have been revoked.
    with open_here() as hub:
        sequence_at_once(hub)
    data = {**plain(seen), "plan": seen.fingerprint, "done": True, "people_changed": changed}
    show(data, as_json=json, lines=[f"recovered: {changed} people changed; take in the newest HR file now"])


def _key_set(file: Path) -> dict[str, Any]:
    try:
        found = orjson.loads(file.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise Invalid(f"{file} cannot be read: {error}", field="keys", rule="recovery.keys") from error
    if not isinstance(found, dict) or any(not isinstance(found.get(name, []), list) for name in ("keys", "revoked")):
        raise Invalid(f"{file} is not a JWK set.", field="keys", rule="recovery.keys")
    return found


def _lines(seen: Preview) -> list[str]:
    witnessed = "unknown" if seen.witnessed_size is None else str(seen.witnessed_size)
    lost = (
        "" if seen.witnessed_size is None else f", {max(0, seen.witnessed_size - seen.known_through)} of them unknown"
    )
    lines = [
        f"recovery mode: {seen.reason}",
        f"events: {seen.size} here, {witnessed} witnessed, {seen.known_through} known{lost}",
        f"would leave: {len(seen.leave)}  {' '.join(seen.leave[:20])}".rstrip(),
        f"would leave and come back: {len(seen.returned)}  {' '.join(seen.returned[:20])}".rstrip(),
        f"would be suspended: {len(seen.suspend)}  {' '.join(seen.suspend[:20])}".rstrip(),
        f"would leave later: {', '.join(f'{person} {at}' for person, at in seen.scheduled[:20]) or 'nobody'}",
        f"posts that would end or be held: {len(seen.posts)}",
        f"would lose a role: {', '.join(f'{person} {role}' for person, role in seen.roles) or 'nobody'}",
    ]
    if seen.links:
        lines.append(f"would lose a link: {', '.join(f'{person} {provider}' for person, provider in seen.links[:20])}")
    if seen.keys:
        lines.append(f"keys that would be revoked: {', '.join(seen.keys)}")
    if seen.passwords:
        lines.append(
            f"whose password is the old one again: {len(seen.passwords)}  {' '.join(seen.passwords[:20])}; "
            "make them a new link (idhub people invite)"
        )
    if seen.configuration:
        lines.append(
            f"whose configuration is the old one again: {', '.join(seen.configuration[:20])}; secrets that were "
            "replaced work, what was switched off is on: idhub apply what holds now"
        )
    if seen.absent:
        lines.append(f"not in this database (hired after the backup): {len(seen.absent)}")
    if seen.not_replayed:
        counted = ", ".join(f"{count} {kind}" for kind, count in seen.not_replayed.items())
        lines.append(f"not made again: {counted}")
    return [
        *lines,
        "nothing has been written; to do this:",
        f"idhub recover --plan {seen.fingerprint} [--from EXPORT] [--keys JWKS]",
    ]
