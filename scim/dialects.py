"""How services differ from RFC 7644, as data: one row for each kind of service, as its maker documents it.

A row says what is to be done differently, never who is right. `generic` believes what a service publishes of itself
(`scim.discovery`); the other rows are believed before that, since services publish more than they do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, Literal

from scim.discovery import Capabilities
from scim.schemas import ENTERPRISE_USER, value_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What one kind of service needs told differently.

    Args:
        title: whose it is, for people.
        trusts_discovery: whether what the service publishes of itself overrides this row.
        update: by PATCH (RFC 7644 section 3.5.2), or by PUT of the whole resource with our changes laid over.
        op_form: `op` as RFC 7644 spells it, or with a capital, as services modelled on one sender's first version want.
        names_paths: whether operations of a PATCH name their attribute as the path; or all go as one value without.
        alone: attributes that must be the only operation of a PATCH.
        active_form: `active` as a JSON boolean, or as the texts "True" and "False".
        finds: whether filters work at all; without them an account is found by reading the list to its end.
        finds_external_id: whether a filter may name externalId; without it, accounts are found by userName alone.
        finds_email: the path by which a filter names a mail address; None: it cannot.
        finds_employee_number: whether a filter may name the enterprise extension's employeeNumber.
        empty_search: what an answer without results looks like: an empty list, or 404.
        has_external_id: whether externalId is kept at all.
        id_is_external_id: the service's id is the externalId of the create, and externalId itself is never shown.
        has_enterprise_user: whether the enterprise extension is understood.
        left_out: attributes that are not to be sent, by SCIM path.
        only_created: attributes that a create sets and that nothing changes afterwards; no update names them.
        required: attributes that a new account must have a value of.
        one_value_each: multi-valued attributes take a single value; it is ours.
        lower_user_name: userName is kept in lower case.
        deactivate: by `active: false`; or by DELETE, where there is no such thing.
        gone_when_off: an account that was switched off is answered with 404 from then on.
        deletes: what DELETE does: removes the account; only switches it off; or is refused.
        says_412: that a resource was changed since it was read (RFC 7644 section 3.14); or any refusal, for good.
        groups: how members are changed: by PATCH, by PUT of the whole group, or not at all.
        members_at_once: most members added or removed with one request.
        remove_members: members to be removed as a list of values; or each by a filter in the path.
        wraps_members: whether the list of members stands in an object, under its name once more.
        renames_groups: whether a group's displayName may change.
        shows_members: whether a group that is read shows its members.
        page_size: most resources of one page of a list.
        sorts: whether a list may be asked for in the order of ids.
        if_match: whether a PUT names the version that it was made from (RFC 7644 section 3.14).
        media_type: what bodies are called.
    """

    name: str
    title: str = ""
    trusts_discovery: bool = False
    update: Literal["patch", "put"] = "patch"
    op_form: Literal["lower", "capital"] = "lower"
    names_paths: bool = True
    alone: frozenset[str] = frozenset()
    active_form: Literal["boolean", "text"] = "boolean"
    finds: bool = True
    finds_external_id: bool = True
    finds_email: str | None = None
    finds_employee_number: bool = False
    empty_search: Literal["list", "not_found"] = "list"
    has_external_id: bool = True
    id_is_external_id: bool = False
    has_enterprise_user: bool = True
    left_out: frozenset[str] = frozenset()
    only_created: frozenset[str] = frozenset()
    required: tuple[str, ...] = ()
    one_value_each: bool = False
    lower_user_name: bool = False
    deactivate: Literal["active_false", "delete"] = "active_false"
    gone_when_off: bool = False
    deletes: Literal["removes", "deactivates", "refused"] = "removes"
    says_412: Literal["changed", "refused"] = "changed"
    groups: Literal["patch", "put", "none"] = "patch"
    members_at_once: int = 500
    remove_members: Literal["values", "filter"] = "filter"
    wraps_members: bool = False
    renames_groups: bool = True
    shows_members: bool = True
    page_size: int = 100
    sorts: bool = False
    if_match: bool = False
    media_type: str = "application/scim+json"

    def active_value(self, active: bool) -> bool | str:
        """`active` as this service wants it."""
        return str(active) if self.active_form == "text" else active

    def supported(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """The attributes that this service knows, as it keeps them."""
        known: dict[str, Any] = {}
        for path, value in attributes.items():
            if path in self.left_out or (path == "externalId" and not self.has_external_id):
                continue
            if path.lower().startswith(_ENTERPRISE) and not self.has_enterprise_user:
                continue
            known[path] = value.lower() if path == "userName" and self.lower_user_name and value else value
        return known

    def changeable(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Of what is supported, the attributes that an account which is there already can be given."""
        return {path: value for path, value in attributes.items() if path.partition(".")[0] not in self.only_created}

    def missing(self, attributes: Mapping[str, Any]) -> list[str]:
        """Required attributes that have no value here."""
        return [path for path in self.required if value_at(attributes, path) in (None, "", [], {})]

    def learned(self, capabilities: Capabilities | None) -> Dialect:
        """This row with what the service published of itself, where that is believed."""
        return self if capabilities is None else _learned(self, capabilities)


@lru_cache(maxsize=1_024)
def _learned(row: Dialect, capabilities: Capabilities) -> Dialect:
    told: dict[str, Any] = {}
    if capabilities.max_results is not None:
        told["page_size"] = max(1, min(row.page_size, capabilities.max_results))
    if not row.trusts_discovery:
        return replace(row, **told) if told else row
    if capabilities.patch is False:
        told |= {"update": "put", "groups": "put"}
    if capabilities.filter is False:
        told["finds"] = False
    if capabilities.has_enterprise_user is False:
        told["has_enterprise_user"] = False
    if capabilities.has_groups is False:
        told["groups"] = "none"
    told |= {"sorts": capabilities.sort is True, "if_match": capabilities.etag is True}
    return replace(row, **told)


_ENTERPRISE: Final = ENTERPRISE_USER.lower()


GENERIC: Final = Dialect(
    name="generic",
    title="RFC 7643 and 7644 as written",
    trusts_discovery=True,
    finds_email="emails.value",
    finds_employee_number=True,
)
PUT_ONLY: Final = Dialect(
    name="put",
    title="As written, without PATCH, which RFC 7644 section 3.5.2 leaves optional",
    update="put",
    groups="put",
    finds_email="emails.value",
    finds_employee_number=True,
)
NO_FILTER: Final = Dialect(
    name="no-filter", title="As written, without filters: accounts are found by reading the list", finds=False
)
NO_EXTERNAL_ID: Final = Dialect(
    name="no-external-id",
    title="As written, without externalId, which RFC 7643 section 3.1 leaves optional",
    has_external_id=False,
    finds_email="emails.value",
)
TEXT_BOOLEANS: Final = Dialect(
    name="text-booleans", title="Booleans as texts, operations with a capital", active_form="text", op_form="capital"
)

_GITHUB_LEFT_OUT: Final = frozenset({"title", "phoneNumbers"})

DIALECTS: Final[Mapping[str, Dialect]] = {
    dialect.name: dialect
    for dialect in (
        GENERIC,
        PUT_ONLY,
        NO_FILTER,
        NO_EXTERNAL_ID,
        TEXT_BOOLEANS,
        # Enterprise Managed Users: `active: false` suspends and can be undone, DELETE can not.
        Dialect(
            name="github-enterprise",
            title="GitHub Enterprise (managed users, Enterprise Server)",
            has_enterprise_user=False,
            left_out=_GITHUB_LEFT_OUT,
            required=("userName", "externalId", "displayName", "emails"),
            members_at_once=1_000,
        ),
        # An organization without managed users: an account is an invitation, and switching it off removes it. Paths
        # with filters are not understood there, and no path is documented whose value is a boolean.
        Dialect(
            name="github-organization",
            title="GitHub organization",
            names_paths=False,
            has_enterprise_user=False,
            left_out=_GITHUB_LEFT_OUT,
            required=("userName", "name.givenName", "name.familyName", "emails"),
            gone_when_off=True,
            groups="none",
        ),
        # `active: false` takes the member out of a group, or blocks the user of an instance. A person's own name and
        # mail are theirs to change: PATCH takes `active` and the id alone.
        Dialect(
            name="gitlab",
            title="GitLab (group or instance)",
            has_enterprise_user=False,
            left_out=frozenset({"title", "phoneNumbers", "displayName"}),
            required=("userName", "externalId", "emails", "name.formatted"),
            id_is_external_id=True,
            only_created=frozenset({"userName", "name", "emails"}),
            says_412="refused",
            groups="none",
        ),
        # DELETE only deactivates there; user names are kept in lower case.
        Dialect(
            name="slack",
            title="Slack",
            finds_email="email",
            required=("userName", "emails"),
            lower_user_name=True,
            deletes="deactivates",
            members_at_once=5_000,
        ),
        # Only `eq`, joined by `and`; one value of each multi-valued attribute; at most 100 membership changes at once.
        Dialect(
            name="aws-identity-center",
            title="AWS IAM Identity Center",
            required=("userName", "name.givenName", "name.familyName", "displayName"),
            alone=frozenset({"active", "userName"}),
            one_value_each=True,
            members_at_once=100,
            remove_members="values",
            shows_members=False,
            page_size=50,
        ),
        # DELETE unlinks and deactivates; the name of a group cannot change.
        Dialect(
            name="atlassian",
            title="Atlassian (Jira, Confluence)",
            required=("userName", "emails"),
            deletes="deactivates",
            renames_groups=False,
            members_at_once=100,
        ),
        # Users are never deleted; each needs a profile, sent as its one entitlement. userName has the form of a mail.
        # Groups are there already, and get their members as `"value": {"members": [...]}`.
        Dialect(
            name="salesforce",
            title="Salesforce",
            required=("userName", "emails", "name.familyName", "entitlements"),
            deletes="refused",
            finds_email="emails.value",
            remove_members="values",
            wraps_members=True,
        ),
        # Publishes that it has no filters; PATCH knows few attributes, PUT all; members are removed by a list.
        Dialect(
            name="django-scim2",
            title="Applications built with django-scim2",
            update="put",
            finds=False,
            has_enterprise_user=False,
            left_out=frozenset({"displayName", "title", "phoneNumbers"}),
            remove_members="values",
            renames_groups=False,
            page_size=50,
        ),
        # Ordinary, with short pages.
        Dialect(
            name="aliyun-cloudsso",
            title="Alibaba Cloud CloudSSO (云SSO)",
            has_enterprise_user=False,
            required=("userName",),
            page_size=100,
        ),
        # `resources` is spelled small; a list of members given to PUT replaces all of them.
        Dialect(
            name="ctyun-sso",
            title="China Telecom Cloud SSO (天翼云 云SSO)",
            has_enterprise_user=False,
            required=("userName", "name.formatted", "emails"),
            page_size=100,
        ),
    )
}


def adapted(changes: Mapping[str, Any], dialect: Dialect) -> dict[str, Any]:
    """Attributes as this service takes them."""
    result = dialect.supported(changes)
    if isinstance(result.get("active"), bool):
        result["active"] = dialect.active_value(result["active"])
    return result
