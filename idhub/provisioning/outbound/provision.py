"""Make an account what it should be: found or created, linked, brought up to date, switched on."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from idhub.changes import EventType
from idhub.delivery.channel import Grade, Outcome
from idhub.errors import Invalid
from idhub.provisioning.outbound.adoption import find_account
from idhub.provisioning.outbound.mapping import attributes_hash, differences, present
from idhub.provisioning.outbound.run import NeedsSomebody, Run, id_of
from scim.errors import RemoteConflict, remote_text
from scim.schemas import Resource, attribute, is_active

_ANY: Final = "any"


async def provision(run: Run) -> Outcome:
    """Provision the account; of somebody who may not have it any more, see that it is off.

    Raises:
        RemoteError, NeedsSomebody, Overtaken: translated by the channel.
    """
    situation = run.situation
    if not situation.target.is_enabled:
        raise NeedsSomebody("The application is switched off in the hub, so no account is provisioned there.")
    if situation.person is None:
        raise NeedsSomebody("There is no person behind this account.")
    try:
        attributes = situation.target.mapping.attributes(situation.person)
    except Invalid as error:
        raise NeedsSomebody(error.description) from error
    desired = run.client.dialect.supported(attributes)
    user = await find_account(run, desired["userName"])
    if not situation.is_wanted:
        return await _hold_back(run, user)
    if user is not None:
        return await _update(run, user, desired)
    return await _create(run, desired)


async def _hold_back(run: Run, user: Resource | None) -> Outcome:
    """The right went while this delivery waited: nothing is switched on.

    What proves the leave is the deprovision behind this one in the lane; this one must not stand in its way.
    """
    run.evidence["reason"] = "not_entitled_now"
    run.evidence["action"] = "none"
    if user is not None and is_active(user) is not False:
        await run.ensure_ours(user)
        await run.client.set_active(user, False)
        run.evidence["action"] = "deactivated"
        user = await run.client.get_user(id_of(user))
    if user is not None:
        is_off = is_active(user) is False
        await run.note(
            {"external_id": id_of(user), "known_state": "inactive" if is_off else "active", "known_hash": None},
            seen_at=run.clock.now(),
            events=[EventType.ACCOUNT_DEACTIVATED] if is_off and run.was_on else [],
        )
    run.grade = Grade.E1
    return run.outcome("done")


async def _create(run: Run, desired: Mapping[str, Any]) -> Outcome:
    await run.ensure_unchanged()
    try:
        user = await run.client.create_user(present(desired))
    except RemoteConflict as conflict:
        # An attempt before this one may have arrived after our look-up.
        found = await find_account(run, desired["userName"])
        if found is None:
            raise NeedsSomebody(f"The application refuses a new account. {conflict.description}") from conflict
        return await _update(run, found, desired)
    run.grade = Grade.E1
    run.evidence["action"] = "created"
    # An answer about somebody else's account would link that one to two people.
    await run.ensure_ours(user)
    await _note(run, user, desired, EventType.ACCOUNT_PROVISIONED, active=is_active(user) is not False)
    if is_active(user) is False:
        return run.outcome("retry", "The application created the account switched off.")
    return run.outcome("done")


async def _update(run: Run, user: Resource, desired: Mapping[str, Any]) -> Outcome:
    await run.ensure_ours(user)
    mapping, dialect = run.situation.target.mapping, run.client.dialect
    wanted = dialect.changeable(desired)
    changes = differences(wanted, user, kinds=mapping.kinds, one_value_each=dialect.one_value_each)
    account = run.situation.account
    was_inactive = is_active(user) is False or account.known_state == "inactive"
    is_new_link = account.external_id != id_of(user)
    # Also what an earlier attempt changed without hearing the answer is an effect, and has its event.
    is_updated = bool(set(changes) - {"active"}) or account.known_hash not in {None, attributes_hash(wanted)}
    if changes:
        await run.ensure_unchanged()
        await run.client.update_user(user, changes)
    run.grade = Grade.E1
    run.evidence["action"] = "adopted" if is_new_link else ("updated" if changes else "none")
    run.evidence["changed"] = sorted(changes)
    events = [
        event
        for event, happened in (
            (EventType.ACCOUNT_LINKED, is_new_link),
            (EventType.ACCOUNT_REACTIVATED, was_inactive),
            (EventType.ACCOUNT_UPDATED, is_updated),
        )
        if happened
    ]
    await _note(run, user, desired, *events)
    return run.outcome("done")


async def _note(run: Run, user: Resource, desired: Mapping[str, Any], *events: EventType, active: bool = True) -> None:
    await run.note(
        {
            "external_id": id_of(user),
            "user_name": remote_text(attribute(user, "userName"))[:254] or desired["userName"],
            "known_state": "active" if active else "inactive",
            "known_hash": attributes_hash(run.client.dialect.changeable(desired)),
            "known_attributes": present(desired),
            "awaited_manager_id": _awaited_manager(run, desired),
        },
        seen_at=run.clock.now(),
        events=events,
    )


def _awaited_manager(run: Run, desired: Mapping[str, Any]) -> str | None:
    """The manager without whom the account goes for now; None: it has one, or its mapping asks for none."""
    situation = run.situation
    if situation.missing_manager_id is None or situation.person is None:
        return None
    with_one = situation.target.mapping.attributes(replace(situation.person, manager_external_id=_ANY))
    return None if run.client.dialect.supported(with_one) == desired else situation.missing_manager_id
