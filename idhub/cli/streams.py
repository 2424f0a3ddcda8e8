"""`idhub stream`: receivers of SCIM events."""

from pathlib import Path
from typing import Annotated, Any

import typer

from idhub.access.uris import check_web_uri
from idhub.api.scim_streams import address_of_stream
from idhub.changes import Event, EventType, record
from idhub.cli.console import JsonOption, app, caller, open_here, show, table
from idhub.delivery.addresses import OutboundPolicy
from idhub.directory.organizations import find_organization
from idhub.errors import Invalid
from idhub.provisioning.events.feed import forget_listeners
from idhub.provisioning.events.streams import StreamWish, create_stream, list_streams, remove_stream

_LARGEST_FILE = 10_000

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
        if push is not None:
            check_web_uri(push, field="push")
            OutboundPolicy(hub.settings.outbound_allow).check_url(push)
        now = hub.clock()
        wish = StreamWish(
            token_name=token,
            organization_id=find_organization(session, organization) if organization else None,
            events=event or (),
            push_url=push,
            authorization=authorization,
            audience=audience,
        )
        stream_id = create_stream(session, wish, keyring=hub.keyring, now=now)
        forget_listeners(session)
        details = {"token": token, "organization": wish.organization_id, "push": push, "events": list(wish.events)}
        record(session, [_event(EventType.SCIM_STREAM_CREATED, stream_id, details, now)])
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
            each.last_error or "",
        ]
        for each in streams
    ]
    show(data, as_json=json, lines=table(lines, ["id", "token", "to", "waiting", "heard", "error"]))


@stream.command("remove")
def remove(
    stream_id: Annotated[str, typer.Argument(help="From `idhub stream list`.")], json: JsonOption = False
) -> None:
    """Tell a receiver nothing more; what waits for it is forgotten."""
    with open_here() as hub, hub.database.transaction() as session:
        now = hub.clock()
        name = remove_stream(session, stream_id)
        forget_listeners(session)
        record(session, [_event(EventType.SCIM_STREAM_REMOVED, stream_id, {"token": name}, now)])
    show({"id": stream_id, "removed": True}, as_json=json, lines=[f"{stream_id} ({name}) is removed"])


def _event(kind: EventType, stream_id: str, details: dict[str, Any], now: Any) -> Event:
    return Event(
        type=kind,
        at=now,
        actor=caller().actor,
        door="cli",
        target_kind="scim_stream",
        target_id=stream_id,
        details=details,
    )
