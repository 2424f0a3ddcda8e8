"""The checks: the table of what is asked, and under the same names how."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import quote as url_quote
from urllib.parse import urlencode

import orjson

from scim.certify.kit import MEDIA, PREFIX, Absent, Answer, Failed, Kit, ensure, listed, path_of, total_of
from scim.certify.verdicts import Check
from scim.client import enterprise
from scim.errors import remote_text
from scim.filters import quote
from scim.schemas import ENTERPRISE_USER, ERROR, GROUP, LIST_RESPONSE, USER, attribute, is_active, value_at

_NUMBER: Final = enterprise("employeeNumber")

CHECKS: Final = tuple(
    Check(*row)
    for row in (
        ("anonymous_refused", "RFC 7644 section 2", "refuses whoever has no token", "must"),
        ("service_provider_config", "RFC 7643 section 5", "says what it can do", "should"),
        ("schemas", "RFC 7643 section 7", "lists the schema of users", "should"),
        ("resource_types", "RFC 7643 section 6", "lists its types of resources", "should"),
        ("media_type", "RFC 7644 section 3.1", "answers as application/scim+json", "should"),
        ("create", "RFC 7644 section 3.3", "makes a user and gives it an id", "must"),
        ("create_status", "RFC 7644 section 3.3", "answers 201 to a create", "should", ("create",)),
        ("create_location", "RFC 7644 section 3.3", "says where the new user is", "should", ("create",)),
        ("read", "RFC 7644 section 3.4.1", "gives back the user that is asked for", "must", ("create",)),
        ("password_never", "RFC 7643 section 7", "never gives a password back", "must", ("read",)),
        ("active_boolean", "RFC 7643 section 4.1.1", "says `active` as true or false", "should", ("read",)),
        ("external_id_kept", "RFC 7643 section 3.1", "keeps the externalId it was given", "should", ("read",)),
        ("enterprise_kept", "RFC 7643 section 4.3", "keeps the enterprise extension", "optional", ("read",)),
        ("unicode_kept", "RFC 7643 section 2.3.1", "keeps names in other scripts", "must", ("read",)),
        ("duplicate_refused", "RFC 7644 section 3.3", "refuses a second user of a name", "must", ("create",)),
        ("duplicate_status", "RFC 7644 section 3.3", "with 409", "should", ("duplicate_refused",)),
        ("unknown_404", "RFC 7644 section 3.12", "answers 404 for an id that nobody has", "must"),
        ("error_message", "RFC 7644 section 3.12", "says errors in the form of SCIM", "should"),
        ("filter_user_name", "RFC 7644 section 3.4.2.2", "finds a user by name, no other", "must", ("create",)),
        ("filter_case", "RFC 7643 section 4.1.1", "whatever the case", "should", ("filter_user_name",)),
        ("filter_quotes", "RFC 7644 section 3.4.2.2", "takes quotes in a value", "should", ("filter_user_name",)),
        ("filter_external_id", "RFC 7644 section 3.4.2.2", "and by externalId", "optional", ("external_id_kept",)),
        ("filter_nobody", "RFC 7644 section 3.4.2", "says 200 where nobody matches", "must", ("filter_user_name",)),
        ("filter_invalid", "RFC 7644 section 3.4.2.2", "refuses a filter that is none", "should"),
        ("list_total", "RFC 7644 section 3.4.2", "says how many there are in a list", "must", ("create",)),
        ("list_paging", "RFC 7644 section 3.4.2.4", "gives every user once, page by page", "must", ("list_total",)),
        ("cursor_paging", "RFC 9865 section 2", "reads lists by cursor", "optional", ("list_total",)),
        ("patch", "RFC 7644 section 3.5.2", "changes one attribute by PATCH", "optional", ("read",)),
        ("patch_atomic", "RFC 7644 section 3.5.2", "does all of a PATCH or nothing", "should", ("patch",)),
        ("patch_unknown_user", "RFC 7644 section 3.5.2", "makes nobody by a PATCH", "must", ("patch",)),
        ("put", "RFC 7644 section 3.5.1", "replaces a user by PUT", "should", ("read",)),
        ("update", "RFC 7644 section 3.5", "takes changes in one way or the other", "must", ("read",)),
        ("deactivate", "RFC 7643 section 4.1.1", "switches a user off, and shows it so", "must", ("update",)),
        (
            *("deactivated_listed", "RFC 7643 section 4.1.1", "still lists whom it switched off", "should"),
            ("deactivate", "filter_user_name"),
        ),
        ("reactivate", "RFC 7643 section 4.1.1", "switches a user on again", "should", ("deactivate",)),
        ("etag", "RFC 7644 section 3.14", "refuses a change of another version", "optional", ("read",)),
        ("group", "RFC 7643 section 4.2", "makes a group", "optional", ("create",)),
        ("group_members", "RFC 7644 section 3.5.2.1", "puts a member into a group", "should", ("group",)),
        ("group_member_removed", "RFC 7644 section 3.5.2.2", "takes one member out", "should", ("group_members",)),
        ("delete", "RFC 7644 section 3.6", "removes a user", "should", ("create",)),
        ("deleted_gone", "RFC 7644 section 3.6", "does not show whom it removed", "should", ("delete",)),
    )
)  # fmt: skip
BY_NAME: Final[Mapping[str, Check]] = {check.name: check for check in CHECKS}


async def anonymous_refused(kit: Kit) -> None:
    if kit.token is None:
        raise Absent("no token was given")
    answer = await kit.ask("GET", "/Users?count=1", anonymous=True)
    ensure(answer.status in {401, 403}, f"{kit.says(answer)} to a request without a token")


async def service_provider_config(kit: Kit) -> None:
    answer = await kit.ask("GET", "/ServiceProviderConfig")
    ensure(answer.is_success and isinstance(answer.body, dict), kit.says(answer))
    kit.config = answer.body
    for name in ("patch", "bulk", "filter", "changePassword", "sort", "etag"):
        said = attribute(answer.body, name)
        ensure(
            isinstance(said, dict) and isinstance(attribute(said, "supported"), bool),
            f"does not say `{name}.supported`",
        )


async def schemas(kit: Kit) -> None:
    answer = await kit.ask("GET", "/Schemas")
    ids = {attribute(entry, "id") for entry in listed(answer)}
    ensure(answer.is_success and USER in ids, f"{kit.says(answer)}; {USER} is not among its schemas")


async def resource_types(kit: Kit) -> None:
    answer = await kit.ask("GET", "/ResourceTypes")
    names = {attribute(entry, "name") for entry in listed(answer)}
    ensure(answer.is_success and "User" in names, f"{kit.says(answer)}; User is not among its types")


async def media_type(kit: Kit) -> None:
    ensure(bool(kit.media), "no answer with content was seen")
    wrong = sorted({media for media in kit.media if media != MEDIA})
    ensure(not wrong, f"answers as {', '.join(remote_text(media) or 'nothing' for media in wrong)[:120]}")


async def create(kit: Kit) -> None:
    kit.user = await kit.make("1", password=secrets.token_urlsafe(16))


async def create_status(kit: Kit) -> None:
    answer = await kit.ask("POST", "/Users", json=kit.new_user("status"))
    kit.made(answer, kit.users)
    ensure(answer.status == 201, f"answered {answer.status}")


async def create_location(kit: Kit) -> None:
    answer = await kit.ask("POST", "/Users", json=kit.new_user("location"))
    made = kit.made(answer, kit.users)
    meta = attribute(made, "meta")
    named = answer.headers.get("Location") or (attribute(meta, "location") if isinstance(meta, dict) else None)
    ensure(
        isinstance(named, str) and named.endswith(url_quote(made["id"], safe="")), "names no address of the new user"
    )


async def read(kit: Kit) -> None:
    user = await kit.get(kit.user["id"])
    ensure(attribute(user, "id") == kit.user["id"], "gave another user than the one asked for")
    name = attribute(user, "userName")
    ensure(isinstance(name, str) and name.lower() == kit.new_user("1")["userName"].lower(), "did not keep the userName")


async def password_never(kit: Kit) -> None:
    shown = [kit.user, await kit.get(kit.user["id"])]
    ensure(all(attribute(user, "password") is None for user in shown), "shows the password")


async def active_boolean(kit: Kit) -> None:
    value = attribute(await kit.get(kit.user["id"]), "active")
    ensure(value is True, f"says active as {remote_text(orjson.dumps(value).decode())[:40]}")


async def external_id_kept(kit: Kit) -> None:
    ensure(
        attribute(await kit.get(kit.user["id"]), "externalId") == kit.new_user("1")["externalId"], "does not keep it"
    )


async def enterprise_kept(kit: Kit) -> None:
    if attribute(await kit.get(kit.user["id"]), _NUMBER) != kit.new_user("1")[ENTERPRISE_USER]["employeeNumber"]:
        raise Absent("does not keep the employee number")


async def unicode_kept(kit: Kit) -> None:
    user = await kit.get(kit.user["id"])
    name = attribute(user, "name")
    said = attribute(user, "displayName") or (attribute(name, "formatted") if isinstance(name, dict) else None)
    # Some make it out of the parts of the name, in an order of their own.
    words = sorted(said.split()) if isinstance(said, str) else []
    ensure(words == ["Ünïcode", "测试"], f"says {remote_text(said)[:60]!r}")


async def duplicate_refused(kit: Kit) -> None:
    again = {**kit.new_user("1"), "externalId": f"{PREFIX}{kit.mark}-again"}
    answer = await kit.ask("POST", "/Users", json=again)
    if answer.is_success:
        kit.made(answer, kit.users)
        raise Failed("made a second user of the same userName")


async def duplicate_status(kit: Kit) -> None:
    answer = await kit.ask("POST", "/Users", json={**kit.new_user("1"), "externalId": f"{PREFIX}{kit.mark}-again"})
    ensure(answer.status == 409, kit.says(answer))


async def unknown_404(kit: Kit) -> None:
    answer = await kit.ask("GET", path_of("Users", f"{PREFIX}{kit.mark}-nobody"))
    ensure(answer.status == 404, kit.says(answer))


async def error_message(kit: Kit) -> None:
    ensure(kit.errors, "no error was seen")
    for answer in kit.errors:
        body = answer.body if isinstance(answer.body, dict) else {}
        named = attribute(body, "schemas")
        right = isinstance(named, list) and ERROR in named and str(attribute(body, "status")) == str(answer.status)
        ensure(right, f"an error of {answer.status} has no schema or not its status")


async def filter_user_name(kit: Kit) -> None:
    name = kit.new_user("1")["userName"]
    answer = await kit.find(f"userName eq {quote(name)}")
    ids = [attribute(entry, "id") for entry in listed(answer)]
    ensure(answer.is_success and ids == [kit.user["id"]], f"{kit.says(answer)} with {len(ids)} users")


async def filter_case(kit: Kit) -> None:
    answer = await kit.find(f"userName eq {quote(kit.new_user('1')['userName'].upper())}")
    ensure([attribute(entry, "id") for entry in listed(answer)] == [kit.user["id"]], "does not find it in capitals")


async def filter_quotes(kit: Kit) -> None:
    answer = await kit.find(f"userName eq {quote(chr(34) + PREFIX + chr(92))}")
    ensure(answer.is_success and not listed(answer), kit.says(answer))


async def filter_external_id(kit: Kit) -> None:
    answer = await kit.find(f"externalId eq {quote(kit.new_user('1')['externalId'])}")
    ids = [attribute(entry, "id") for entry in listed(answer)]
    if 400 <= answer.status < 500:
        raise Absent(kit.says(answer))
    ensure(answer.is_success and ids == [kit.user["id"]], f"{kit.says(answer)} with {len(ids)} users")


async def filter_nobody(kit: Kit) -> None:
    answer = await kit.find(f"userName eq {quote(f'{PREFIX}{kit.mark}-nobody')}")
    ensure(answer.status == 200 and total_of(answer) == 0 and not listed(answer), kit.says(answer))


async def filter_invalid(kit: Kit) -> None:
    answer = await kit.find("userName eq")
    ensure(answer.status == 400, kit.says(answer))


async def list_total(kit: Kit) -> None:
    answer = await kit.ask("GET", "/Users?startIndex=1&count=2")
    body = answer.body if isinstance(answer.body, dict) else {}
    named = attribute(body, "schemas")
    ensure(answer.is_success and isinstance(named, list) and LIST_RESPONSE in named, f"{kit.says(answer)}; no list")
    total = total_of(answer)
    ensure(total is not None and total >= len(listed(answer)) > 0, "does not say how many there are")


async def list_paging(kit: Kit) -> None:
    for suffix in ("page-1", "page-2", "page-3"):
        await kit.make(suffix)
    first = await kit.ask("GET", "/Users?startIndex=1&count=2")
    second = await kit.ask("GET", "/Users?startIndex=2&count=2")
    one, two = ([attribute(entry, "id") for entry in listed(answer)] for answer in (first, second))
    ensure(total_of(first) == total_of(second), "says another total on another page")
    ensure(len(one) == 2 and len(two) == 2, f"sends {len(one)} and {len(two)} users where 2 were asked for")
    ensure(one[1] == two[0] and one[0] not in two, "does not begin a page where it was asked to")
    beyond = await kit.ask("GET", f"/Users?startIndex={(total_of(first) or 0) + 1}&count=2")
    ensure(beyond.is_success and not listed(beyond), "sends users from beyond the end of its list")


async def cursor_paging(kit: Kit) -> None:
    offered = attribute(kit.config, "pagination")
    if not isinstance(offered, dict) or attribute(offered, "cursor") is not True:
        raise Absent("does not offer it")
    seen: list[Any] = []
    cursor = ""
    for _ in range(3):
        query = urlencode({"cursor": cursor, "count": 2})
        answer = await kit.ask("GET", f"/Users?{query}")
        ensure(answer.is_success, kit.says(answer))
        seen += [attribute(entry, "id") for entry in listed(answer)]
        following = attribute(answer.body, "nextCursor")
        if not following:
            break
        ensure(isinstance(following, str), "sends a cursor that is no text")
        cursor = following
    ensure(len(seen) > 2 and len(set(seen)) == len(seen), "repeats users, or ends after a page")


CHANGED: Final = ("displayName", "name.familyName")
"""Attributes by which a change is looked for: some services make the one out of the other, and take it from nobody."""


async def patch(kit: Kit) -> None:
    answers: list[Answer] = []
    for path in CHANGED:
        answer = await kit.patch(kit.user["id"], {"op": "replace", "path": path, "value": "Changed"})
        if answer.is_success and value_at(await kit.get(kit.user["id"]), path) == "Changed":
            kit.has_patch, kit.patched = True, path
            return
        answers.append(answer)
    if all(answer.status in {404, 405, 501} for answer in answers):
        raise Absent(kit.says(answers[0]))
    refused = next((answer for answer in answers if not answer.is_success), None)
    raise Failed("accepted it and changed nothing" if refused is None else kit.says(refused))


async def patch_atomic(kit: Kit) -> None:
    answer = await kit.patch(
        kit.user["id"],
        {"op": "replace", "path": kit.patched, "value": "Half"},
        {"op": "replace", "path": "noSuchAttributeAtAll[", "value": "x"},
    )
    said = value_at(await kit.get(kit.user["id"]), kit.patched)
    ensure(not answer.is_success and said == "Changed", f"{kit.says(answer)} and left {remote_text(said)[:40]!r}")


async def patch_unknown_user(kit: Kit) -> None:
    unknown = f"{PREFIX}{kit.mark}-nobody"
    answer = await kit.patch(unknown, {"op": "replace", "path": "active", "value": False})
    ensure(400 <= answer.status < 500, kit.says(answer))


async def put(kit: Kit) -> None:
    whole = {key: held for key, held in (await kit.get(kit.user["id"])).items() if key.lower() != "meta"}
    held = attribute(whole, "name")
    name = {**(held if isinstance(held, dict) else {}), "familyName": "Replaced"}
    body = {**whole, "displayName": "Replaced", "name": name}
    answer = await kit.ask("PUT", path_of("Users", kit.user["id"]), json=body)
    if answer.status in {405, 501}:
        raise Absent(kit.says(answer))
    ensure(answer.is_success, kit.says(answer))
    shown = await kit.get(kit.user["id"])
    ensure(any(value_at(shown, path) == "Replaced" for path in CHANGED), "accepted it and changed nothing")
    kit.has_put = True


async def update(kit: Kit) -> None:
    if not (kit.has_patch or kit.has_put):
        kit.has_patch = await _switches_by_patch(kit)
    ensure(kit.has_patch or kit.has_put, "neither PATCH nor PUT works")


async def _switches_by_patch(kit: Kit) -> bool:
    """Whether `active` can be changed, of which a leave is made, where a person's own attributes cannot."""
    await kit.patch(kit.user["id"], {"op": "replace", "path": "active", "value": False})
    is_off = is_active(await kit.get(kit.user["id"])) is False
    if is_off:
        await kit.patch(kit.user["id"], {"op": "replace", "path": "active", "value": True})
    return is_off


async def deactivate(kit: Kit) -> None:
    answer = await kit.change(kit.user["id"], "active", False)
    if not answer.is_success:
        # Some want it as a text.
        answer = await kit.change(kit.user["id"], "active", "False")
    ensure(answer.is_success, kit.says(answer))
    shown = await kit.ask("GET", path_of("Users", kit.user["id"]))
    gone = shown.status in {404, 410}
    off = shown.is_success and isinstance(shown.body, dict) and is_active(shown.body) is False
    ensure(gone or off, "accepted it, and the user is still active")


async def deactivated_listed(kit: Kit) -> None:
    answer = await kit.find(f"userName eq {quote(kit.new_user('1')['userName'])}")
    ensure(len(listed(answer)) == 1, "hides whom it switched off: their end cannot be read back from a list")


async def reactivate(kit: Kit) -> None:
    answer = await kit.change(kit.user["id"], "active", True)
    ensure(answer.is_success, kit.says(answer))
    ensure(is_active(await kit.get(kit.user["id"])) is True, "accepted it, and the user is still off")


async def etag(kit: Kit) -> None:
    shown = await kit.ask("GET", path_of("Users", kit.user["id"]))
    if not shown.headers.get("ETag"):
        raise Absent("gives no entity tag")
    body = {key: held for key, held in (shown.body or {}).items() if key.lower() != "meta"}
    stale = {"If-Match": 'W/"idhub-certify-stale"'}
    answer = await kit.ask(
        "PUT", path_of("Users", kit.user["id"]), json={**body, "displayName": "Stale"}, headers=stale
    )
    ensure(answer.status in {412, 405, 501}, f"{kit.says(answer)} to a change of another version")


async def group(kit: Kit) -> None:
    body = {"schemas": [GROUP], "displayName": f"{PREFIX}{kit.mark}"}
    answer = await kit.ask("POST", "/Groups", json=body)
    if answer.status in {404, 405, 501}:
        raise Absent(kit.says(answer))
    kit.made(answer, kit.groups)


async def _members(kit: Kit) -> set[Any]:
    answer = await kit.ask("GET", path_of("Groups", kit.groups[0]))
    members = attribute(answer.body, "members") if isinstance(answer.body, dict) else None
    return {attribute(member, "value") for member in members or () if isinstance(member, dict)}


async def group_members(kit: Kit) -> None:
    for user_id in kit.users[:2]:
        add = {"op": "add", "path": "members", "value": [{"value": user_id}]}
        answer = await kit.patch(kit.groups[0], add, kind="Groups")
        ensure(answer.is_success, kit.says(answer))
    ensure(await _members(kit) == set(kit.users[:2]), "accepted two members and shows others")


async def group_member_removed(kit: Kit) -> None:
    remove = {"op": "remove", "path": f"members[value eq {quote(kit.users[0])}]"}
    answer = await kit.patch(kit.groups[0], remove, kind="Groups")
    ensure(answer.is_success, kit.says(answer))
    ensure(await _members(kit) == set(kit.users[1:2]), "took out another than the one named")


async def delete(kit: Kit) -> None:
    doomed = await kit.make("doomed")
    answer = await kit.ask("DELETE", path_of("Users", doomed["id"]))
    if answer.status in {405, 501}:
        raise Absent(kit.says(answer))
    ensure(answer.is_success, kit.says(answer))


async def deleted_gone(kit: Kit) -> None:
    answer = await kit.ask("GET", path_of("Users", kit.users[-1]))
    ensure(not answer.is_success, "still shows it: a soft delete")


STEPS: Final[Mapping[str, Callable[[Kit], Awaitable[None]]]] = {
    step.__name__: step
    for step in (
        anonymous_refused, service_provider_config, schemas, resource_types, create, create_status, create_location,
        read, password_never, active_boolean, external_id_kept, enterprise_kept, unicode_kept, duplicate_refused,
        duplicate_status, unknown_404, filter_user_name, filter_case, filter_quotes, filter_external_id, filter_nobody,
        filter_invalid, list_total, list_paging, cursor_paging, patch, patch_atomic, patch_unknown_user, put, update,
        deactivate, deactivated_listed, reactivate, etag, group, group_members, group_member_removed, delete,
        deleted_gone, error_message, media_type,
    )
}  # fmt: skip
"""In the order in which they are asked; the last two look back at everything that was answered."""
