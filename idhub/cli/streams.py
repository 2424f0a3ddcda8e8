"""`idhub stream`: receivers of SCIM events."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from idhub.api.scim_streams import address_of_stream
from idhub.cli.console import JsonOption, app, caller, open_here, show, table
from idhub.delivery.addresses import OutboundPolicy
from idhub.directory.organizations import find_organization
from idhub.errors import Invalid
from idhub.provisioning.events import steps
from idhub.provisioning.events.steps import By
from idhub.provisioning.events.streams import StreamWish, list_streams

_LARGEST_FILE = 10_000
_StreamId = Annotated[str, typer.Argument(help="From `idhub stream list`.")]

stream = typer.Typer(help="Receivers of SCIM events.", no_args_is_help=True)
app.add_typer(stream, name="stream")


@stream.command("create")
def create(
    token: Annotated[str, typer.Option(help="Name of the SCIM token: the receiver hears of whom it may see.")],
    organization: Annotated[str | None, typer.Option(help="The company that the token is limited to.")] = None,
    push: Annotated[str | None, typer.Option(help="Where tokens are sent; without it the receiver polls.")] = None,
    authorization_file: Annotated[
        Path | None, typer.Option(help="File with the Authorization header to send along: `Bearer ...`.")
    ] = None,
    event: Annotated[
        list[str] | None, typer.Option(help="URI of an event; say it again for more; without any, all.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Tell values as well, of attributes that the token may read.")
    ] = False,
    audience: Annotated[str | None, typer.Option(help="aud of the tokens; by default the stream's address.")] = None,
    json: JsonOption = False,
) -> None:
    """Tell a receiver of changes of people and groups, from now on."""
    authorization = None
    if authorization_file is not None:
        if authorization_file.stat().st_size > _LARGEST_FILE:
            raise Invalid("The file is too large for a header.", field="authorization_file", rule="authorization")
        authorization = authorization_file.read_text(encoding="utf-8").strip()
    with open_here() as hub, hub.database.transaction() as session:
        wish = StreamWish(
            token_name=token,
            organization_id=find_organization(session, organization) if organization else None,
            events=event or (),
            is_full=full,
            push_url=push,
            authorization=authorization,
            audience=audience,
        )
        policy = OutboundPolicy(hub.settings.outbound_allow)
        stream_id = steps.create(session, wish, keyring=hub.keyring, policy=policy, by=_by(hub.clock()))
        address = address_of_stream(hub, stream_id)
    data = {"id": stream_id, "address": address, "method": "push" if push else "poll"}
    show(data, as_json=json, lines=[f"{stream_id} {address}"])


@stream.command("list")
def list_all(json: JsonOption = False) -> None:
    """Show who is told, what waits, and what went wrong last."""
    with open_here() as hub, hub.database.read() as session:
        streams = list_streams(session)
        data = [each._asdict() | {"address": address_of_stream(hub, each.id)} for each in streams]
    lines = [
        [
            each.id,
            each.token_name,
            each.push_url or "polls",
            str(each.waiting),
            each.heard_at.isoformat(timespec="seconds") if each.heard_at else "never",
            "paused" if each.paused_at else each.last_error or "",
        ]
        for each in streams
    ]
    show(data, as_json=json, lines=table(lines, ["id", "token", "to", "waiting", "heard", "error"]))


@stream.command("pause")
def pause(stream_id: _StreamId, json: JsonOption = False) -> None:
    """Tell a receiver nothing for a while; what happens meanwhile waits, a week at most."""
    _step(steps.pause, stream_id, "paused", as_json=json)


@stream.command("resume")
def resume(stream_id: _StreamId, json: JsonOption = False) -> None:
    """Go on with a receiver that was paused, or try one at once that waits after an error."""
    _step(steps.resume, stream_id, "resumed", as_json=json)


@stream.command("remove")
def remove(stream_id: _StreamId, json: JsonOption = False) -> None:
    """Tell a receiver nothing more; what waits for it is forgotten."""
    _step(steps.remove, stream_id, "removed", as_json=json)


def _step(take: Callable[..., str], stream_id: str, done: str, *, as_json: bool) -> None:
    with open_here() as hub, hub.database.transaction() as session:
        name = take(session, stream_id, by=_by(hub.clock()))
    show({"id": stream_id, done: True}, as_json=as_json, lines=[f"{stream_id} ({name}) is {done}"])


def _by(now: datetime) -> By:
    return By(actor=caller().actor, door="cli", now=now)
