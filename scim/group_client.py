"""Groups of a service (RFC 7643 section 4.2), changed in parts that it takes, on the client of `scim.client`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from scim.client import ScimClient, resource_path, with_text_id
from scim.errors import RemoteNotFound, RemoteUnavailable
from scim.filters import quote
from scim.schemas import GROUP, Resource, attribute, can_be_kept, with_changes


class GroupClient:
    """What is asked of /Groups. Members are named by the service's own ids of users."""

    def __init__(self, client: ScimClient) -> None:
        self._client = client

    async def find(self, name: str) -> list[Resource]:
        """Groups of this displayName, compared exactly; to be asked before every create."""
        if self._client.dialect.finds:
            found = await self._client.search("/Groups", f"displayName eq {quote(name)}")
        else:
            found = await self._client.every("/Groups")
        return [group for group in found if attribute(group, "displayName") == name]

    async def get(self, group_id: str) -> Resource:
        """The group as the service shows it.

        Raises:
            RemoteNotFound: there is none.
        """
        group = with_text_id(await self._client.resource("GET", resource_path("/Groups", group_id)))
        if attribute(group, "id") != group_id:
            raise RemoteUnavailable("The application answered with another group than the one asked for.")
        return group

    async def create(self, name: str, *, external_id: str | None) -> Resource:
        """Make an empty group; returns it as the service sent it, with its id.

        Args:
            external_id: our id of it; not sent to a service whose groups have none.

        Raises:
            RemoteUnavailable: the answer is another group.
        """
        body: dict[str, Any] = {"schemas": [GROUP], "displayName": name}
        if external_id is not None and self._client.dialect.has_external_id:
            body["externalId"] = external_id
        group = with_text_id(await self._client.resource("POST", "/Groups", json=body))
        if attribute(group, "displayName") not in (None, name):
            raise RemoteUnavailable("The application answered with another group than the one made.")
        return group

    async def rename(self, group_id: str, name: str) -> None:
        """Give it another displayName."""
        if self._client.dialect.groups == "put":
            current = await self.get(group_id)
            await self._put(group_id, with_changes(current, {"displayName": name}), of=current)
            return
        path = resource_path("/Groups", group_id)
        await self._client.patch(path, [{"op": "replace", "path": "displayName", "value": name}])

    async def change_members(self, group_id: str, *, add: Sequence[str], remove: Sequence[str]) -> None:
        """Add and remove members with one request; `parts` cuts what is too much for one."""
        if self._client.dialect.groups == "put":
            await self._replace(group_id, add=add, remove=remove)
            return
        operations: list[dict[str, Any]] = []
        if remove and self._client.dialect.remove_members == "values":
            operations.append({"op": "remove", "path": "members", "value": self._members(remove)})
        elif remove:
            operations += [{"op": "remove", "path": f"members[value eq {quote(one)}]"} for one in remove]
        if add:
            operations.append({"op": "add", "path": "members", "value": self._members(add)})
        await self._client.patch(resource_path("/Groups", group_id), operations)

    def _members(self, user_ids: Iterable[str]) -> list[dict[str, str]] | dict[str, list[dict[str, str]]]:
        members = _members(user_ids)
        return {"members": members} if self._client.dialect.wraps_members else members

    async def delete(self, group_id: str) -> None:
        """Delete it; one that is not there any more is deleted."""
        try:
            await self._client.send("DELETE", resource_path("/Groups", group_id))
        except RemoteNotFound:
            return

    def parts(self, add: Iterable[str], remove: Iterable[str]) -> Iterator[tuple[list[str], list[str]]]:
        """What to add and to remove, cut into requests that the service takes; removing goes first."""
        if self._client.dialect.groups == "put":
            # The whole group goes with each request: more than one would only repeat it.
            added, removed = list(add), list(remove)
            if added or removed:
                yield added, removed
            return
        most = self._client.dialect.members_at_once
        changes = [(False, one) for one in remove] + [(True, one) for one in add]
        for start in range(0, len(changes), most):
            part = changes[start : start + most]
            yield [one for is_new, one in part if is_new], [one for is_new, one in part if not is_new]

    async def _replace(self, group_id: str, *, add: Sequence[str], remove: Sequence[str]) -> None:
        current = await self.get(group_id)
        gone = set(remove)
        held = members_of(current)
        kept = [one for one in held if one not in gone] + [one for one in add if one not in held]
        await self._put(group_id, with_changes(current, {"members": _members(kept)}), of=current)

    async def _put(self, group_id: str, group: Mapping[str, Any], *, of: Mapping[str, Any]) -> None:
        path = resource_path("/Groups", group_id)
        await self._client.send("PUT", path, json=dict(group), headers=self._client.match(of))


def members_of(group: Mapping[str, Any]) -> list[str]:
    """Ids of the members that a group shows, in its order."""
    held = attribute(group, "members")
    entries = [one for one in held if isinstance(one, Mapping)] if isinstance(held, list) else []
    values = [attribute(one, "value") for one in entries]
    texts = [str(value) if type(value) is int else value for value in values]
    return [text for text in texts if can_be_kept(text)]


def _members(user_ids: Iterable[str]) -> list[dict[str, str]]:
    return [{"value": user_id} for user_id in user_ids]
