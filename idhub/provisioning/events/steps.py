"""What people do with streams, from a command or a page: each step leaves its event, and is felt at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from idhub.access.uris import check_web_uri
from idhub.changes import Actor, Event, EventType, record
from idhub.delivery.addresses import OutboundPolicy
from idhub.keys import Keyring
from idhub.provisioning.events import streams
from idhub.provisioning.events.feed import forget_listeners
from idhub.provisioning.events.streams import StreamWish


@dataclass(frozen=True, slots=True, kw_only=True)
class By:
    """Who takes the step, and when."""

    actor: Actor
    door: str
    now: datetime


def create(session: Session, wish: StreamWish, *, keyring: Keyring, policy: OutboundPolicy, by: By) -> str:
    """Name a receiver; it hears of what happens from about a second later on. Returns the stream's id.

    Raises:
        NotFound: there is no such SCIM token.
        Invalid: an address that may not be called, an event that there is not, a header or audience that cannot be one.
    """
    if wish.push_url is not None:
        check_web_uri(wish.push_url, field="push")
        policy.check_url(wish.push_url)
    stream_id = streams.create_stream(session, wish, keyring=keyring, now=by.now)
    details = {
        "token": wish.token_name,
        "organization": wish.organization_id,
        "push": wish.push_url,
        "events": list(wish.events),
        "full": wish.is_full,
    }
    _leave(session, EventType.SCIM_STREAM_CREATED, stream_id, details, by)
    return stream_id


def pause(session: Session, stream_id: str, *, by: By) -> str:
    """See `streams.pause_stream`."""
    name = streams.pause_stream(session, stream_id, now=by.now)
    _leave(session, EventType.SCIM_STREAM_PAUSED, stream_id, {"token": name}, by)
    return name


def resume(session: Session, stream_id: str, *, by: By) -> str:
    """See `streams.resume_stream`."""
    name = streams.resume_stream(session, stream_id, now=by.now)
    _leave(session, EventType.SCIM_STREAM_RESUMED, stream_id, {"token": name}, by)
    return name


def remove(session: Session, stream_id: str, *, by: By) -> str:
    """See `streams.remove_stream`."""
    name = streams.remove_stream(session, stream_id)
    _leave(session, EventType.SCIM_STREAM_REMOVED, stream_id, {"token": name}, by)
    return name


def _leave(session: Session, kind: EventType, stream_id: str, details: Mapping[str, Any], by: By) -> None:
    forget_listeners(session)
    event = Event(
        type=kind,
        at=by.now,
        actor=by.actor,
        door=by.door,
        target_kind="scim_stream",
        target_id=stream_id,
        details=dict(details),
    )
    record(session, [event])
