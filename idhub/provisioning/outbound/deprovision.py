"""Switch an account off, and prove it.

What counts (design section 7): accepted is E1. E2 needs a read-back that says inactive, or that says gone beside a
control read of a live account in the same run; either begun only after every earlier attempt of the lane is over, for a
stalled write may land late. A service that answers 200 and shows the account active has proven nothing beyond E1.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from idhub.changes import EventType
from idhub.delivery.channel import Grade, Outcome
from idhub.errors import Invalid
from idhub.provisioning.outbound import records
from idhub.provisioning.outbound.run import NeedsSomebody, Run, id_of
from scim.errors import RemoteNotFound, RemoteRefused
from scim.schemas import Resource, is_active

State = Literal["inactive", "gone", "active", "unknown"]


@dataclass(frozen=True, slots=True)
class Seen:
    """What one read-back said."""

    state: State
    began_at: datetime


async def deprovision(run: Run) -> Outcome:
    """Switch off every account of this principal in the application, and read each back.

    Raises:
        RemoteError, NeedsSomebody: translated by the channel; `run.grade` keeps what was proven before.
    """
    looked_up_at = run.clock.now()
    users, stranger = await _accounts(run)
    switched_off = {user_id for user_id, user in users.items() if is_active(user) is not False}
    await _switch_off(run, switched_off, users, seen_at=looked_up_at)
    seen = {user_id: await _read_back(run, user_id) for user_id in users}
    missed = {user_id for user_id, each in seen.items() if each.state == "active"} - switched_off
    if missed:
        # A search may be behind: what it showed as off is on.
        await _switch_off(run, missed, users, seen_at=seen[min(missed)].began_at)
        seen |= {user_id: await _read_back(run, user_id) for user_id in sorted(missed)}
        switched_off |= missed
    run.evidence.setdefault("action", "none" if users else "nothing_found")
    # The look-up that found nobody is the read-back.
    every = list(seen.values()) or [Seen("gone", looked_up_at)]
    was_on = run.was_on or bool(switched_off)
    outcome = await _judge(run, every, list(users.values()), looked_up_at=looked_up_at, was_on=was_on)
    if stranger is not None and outcome.kind == "done":
        run.grade = Grade.E1
        raise stranger
    return outcome


async def _switch_off(run: Run, user_ids: Set[str], users: Mapping[str, Resource], *, seen_at: datetime) -> None:
    if not user_ids:
        return
    if not run.was_on:
        # Somebody or a late create switched it on: written down first, so that switching it off has its event.
        await run.note(_known(run, "active", list(users.values())), seen_at=seen_at)
    for user_id in sorted(user_ids):
        await run.client.set_active(users[user_id], False)
    # Each write was accepted; nothing is known yet of what it did.
    run.grade = Grade.E1
    run.evidence["action"] = "deactivated"


@dataclass(slots=True)
class _Found:
    """Accounts by their ids there, and what a search had against being believed."""

    users: dict[str, Resource]
    refusal: RemoteRefused | None = None
    stranger: NeedsSomebody | None = None


async def _accounts(run: Run) -> tuple[dict[str, Resource], NeedsSomebody | None]:
    """The linked account, and whatever else the application keeps under this principal's externalId or userName.

    What a search shows that is linked to somebody else is left alone: theirs, switched off, would prove nothing. It
    keeps nobody's own account on, and comes back beside them.
    """
    account = run.situation.account
    found = await _found(run)
    users = found.users
    if account.external_id is not None:
        # The search has mostly shown it already: one request less.
        linked = users.get(account.external_id)
        try:
            linked = linked or await run.client.get_user(account.external_id)
        except RemoteNotFound:
            run.evidence["linked_account"] = "gone"
        else:
            await run.ensure_ours(linked)
            users[id_of(linked)] = linked
    if users:
        return users, found.stranger
    if found.refusal is not None:
        raise found.refusal
    user_name = _user_name(run)
    if account.principal_id is None or user_name is None:
        return {}, found.stranger
    for user in await run.client.find_by_user_name(user_name):
        await run.ensure_ours(user)
        users[id_of(user)] = user
    return users, found.stranger


async def _found(run: Run) -> _Found:
    account, found = run.situation.account, _Found({})
    if account.principal_id is None:
        return found
    try:
        users = await run.client.find_by_external_id(account.principal_id)
    except RemoteRefused as error:
        # The service cannot search; the account we know of must be switched off all the same.
        run.evidence["look_up"] = error.description
        return _Found({}, refusal=error)
    for user in users:
        try:
            if id_of(user) != account.external_id:
                await run.ensure_ours(user)
            found.users[id_of(user)] = user
        except NeedsSomebody as error:
            found.stranger = error
    return found


def _user_name(run: Run) -> str | None:
    situation = run.situation
    if situation.account.user_name is not None or situation.person is None:
        return situation.account.user_name
    try:
        return str(situation.target.mapping.attributes(situation.person)["userName"])
    except Invalid:
        return None


async def _read_back(run: Run, user_id: str) -> Seen:
    began_at = run.clock.now()
    try:
        user = await run.client.get_user(user_id)
    except RemoteNotFound:
        return Seen("gone", began_at)
    active = is_active(user)
    return Seen("unknown" if active is None else ("active" if active else "inactive"), began_at)


async def _judge(run: Run, seen: list[Seen], users: list[Resource], *, looked_up_at: datetime, was_on: bool) -> Outcome:
    worst = max(seen, key=lambda each: _RANK[each.state])
    began_at = min(each.began_at for each in seen)
    quiet_after = run.delivery.quiet_after
    read_back = {"state": worst.state, "began_at": began_at.isoformat(), "accounts": len(users), "counts": False}
    run.evidence["read_back"] = read_back
    if any(each.state == "gone" for each in seen) and not await _control_read(run):
        return run.outcome("retry", "The account is not found, but no account known to be alive was found beside it.")
    known_state = {"gone": "absent"}.get(worst.state, worst.state)
    events = (EventType.ACCOUNT_DEACTIVATED,) if was_on and known_state in {"absent", "inactive"} else ()
    await run.note(_known(run, known_state, users), seen_at=began_at, events=events)
    if worst.state == "active":
        return run.outcome("retry", "The application accepted the change, but the account is still active.")
    if worst.state == "unknown":
        return run.outcome("retry", "The application does not say whether the account is active.")
    # The look-up counts, not the last read: what lands between the two is another account, which nobody read.
    if quiet_after is not None and looked_up_at < quiet_after:
        read_back["quiet_after"] = quiet_after.isoformat()
        return run.outcome(
            "retry",
            "An earlier attempt may still arrive; the account is read again once that is ruled out.",
            retry_after=quiet_after - run.clock.now(),
        )
    read_back["counts"] = True
    run.grade = Grade.E2
    return run.outcome("done")


_RANK = {"gone": 0, "inactive": 1, "unknown": 2, "active": 3}


def _known(run: Run, known_state: str, users: list[Resource]) -> dict[str, Any]:
    values: dict[str, Any] = {"known_state": known_state, "known_hash": None, "known_attributes": None}
    if run.situation.account.external_id is None and len(users) == 1:
        values["external_id"] = id_of(users[0])
    return values


async def _control_read(run: Run) -> bool:
    """Whether an account known to be alive is found alive now: the same question can be answered with yes."""
    began_at = run.clock.now()
    users = [*await _named_control(run)]
    for external_id in () if users else await run.read(lambda session: records.controls(session, run.delivery)):
        try:
            users.append(await run.client.get_user(external_id))
        except RemoteNotFound:
            continue
        if is_active(users[-1]):
            break
    succeeded = any(is_active(user) for user in users)
    run.evidence["control_read"] = {"succeeded": succeeded, "began_at": began_at.isoformat()}
    return succeeded


async def _named_control(run: Run) -> list[Resource]:
    name = run.situation.target.control_user_name
    return await run.client.find_by_user_name(name) if name is not None else []
