"""What senders do that RFC 7644 does not say, and what becomes of it: one row a quirk.

The rows are what the server was built to take; `tests/api/test_scim_senders.py` has a test of each. A quirk that the
RFC forbids or leaves to the server is taken only where the token's terms say so, and its row names the term.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirk:
    """One habit of one sender.

    Args:
        documented: whether the vendor's own documentation shows it; else it is what integrators report.
        term: the term of a token that it hangs on; None: always taken.
    """

    id: str
    sender: str
    sends: str
    becomes: str
    documented: bool = True
    term: str | None = None


ENTRA: Final = "Microsoft Entra ID"
OKTA: Final = "Okta"
ONELOGIN: Final = "OneLogin"
JUMPCLOUD: Final = "JumpCloud"
FEED: Final = "Workday-style HR feed"
SENDERS: Final = (ENTRA, OKTA, ONELOGIN, JUMPCLOUD, FEED)

QUIRKS: Final = (
    Quirk(id="entra-verbs", sender=ENTRA, sends="`Add`, `Replace`, `Remove`", becomes="verbs in any case"),
    Quirk(id="entra-false", sender=ENTRA, sends='`active` as `"False"`', becomes="false"),
    Quirk(
        id="entra-remove-by-value",
        sender=ENTRA,
        sends="`Remove` of `members` with the members beside the path, `$ref` null",
        becomes="those members leave, nobody else",
    ),
    Quirk(
        id="entra-dotted-keys",
        sender=ENTRA,
        sends='a value without path whose keys are paths: `"name.givenName"`, `"urn:...:User:employeeNumber"`',
        becomes="each is a path of its own",
    ),
    Quirk(
        id="entra-add-selected",
        sender=ENTRA,
        sends='`Add` to `phoneNumbers[type eq "mobile"].value` where there is none',
        becomes="the value is made, of the type that the filter names",
    ),
    Quirk(
        id="entra-replace-selected",
        sender=ENTRA,
        sends="`Replace` of such a value where there is none",
        becomes="400 `noTarget` (section 3.5.2.3); with the term it is made",
        term="replace_makes",
    ),
    Quirk(
        id="entra-primary-text",
        sender=ENTRA,
        sends='`roles[primary eq "True"].value`',
        becomes="the text is read as true",
    ),
    Quirk(
        id="entra-manager",
        sender=ENTRA,
        sends="the manager's id as the value of `urn:...:User:manager`",
        becomes="`manager.value`",
    ),
    Quirk(
        id="entra-group-schema",
        sender=ENTRA,
        sends="a second schema of its own, `meta` and no members in a new group",
        becomes="passed over",
    ),
    Quirk(
        id="entra-member-query",
        sender=ENTRA,
        sends='`id eq "..." and members eq "..."`, asking for `id` alone',
        becomes="whether the person is a member",
    ),
    Quirk(
        id="entra-probe",
        sender=ENTRA,
        sends="a search for a userName that nobody has, to test the connection",
        becomes="200 with an empty list",
    ),
    Quirk(
        id="okta-deactivate",
        sender=OKTA,
        sends='`{"op": "replace", "value": {"active": false}}`',
        becomes="as with the path `active`",
    ),
    Quirk(
        id="okta-put-whole",
        sender=OKTA,
        sends="PUT with `id`, `meta`, `groups` and `password` beside the profile",
        becomes="what a client cannot say is passed over",
    ),
    Quirk(
        id="okta-id-in-patch",
        sender=OKTA,
        sends="a group's own `id` beside its new `displayName`",
        becomes="the id is passed over, another one is refused",
    ),
    Quirk(
        id="okta-members",
        sender=OKTA,
        sends="members that come and go in one PATCH, with their `display`",
        becomes="one change; the names are passed over",
    ),
    Quirk(
        id="okta-list",
        sender=OKTA,
        sends="`startIndex=1&count=100` beside every filter, 0 for a start",
        becomes="the first page",
    ),
    Quirk(
        id="onelogin-mail-without-type",
        sender=ONELOGIN,
        sends="one primary mail without a type",
        becomes="the person's mail",
        documented=False,
    ),
    Quirk(
        id="onelogin-json",
        sender=ONELOGIN,
        sends="`Content-Type: application/json`",
        becomes="read like SCIM's own type",
        documented=False,
    ),
    Quirk(
        id="jumpcloud-put",
        sender=JUMPCLOUD,
        sends="PUT of the whole user for every change, `active` among it",
        becomes="what is left out goes; standing follows `active`",
        documented=False,
    ),
    Quirk(
        id="jumpcloud-group-put",
        sender=JUMPCLOUD,
        sends="PUT of the whole group, with all its members",
        becomes="who is not named leaves",
        documented=False,
    ),
    Quirk(
        id="feed-upsert",
        sender=FEED,
        sends="POST of everybody in every run, people whom it sent before among them",
        becomes="409; with the term, whom this sender knows by `externalId` is replaced",
        term="post_replaces",
    ),
    Quirk(
        id="feed-manager-number",
        sender=FEED,
        sends="the manager's number in the feed, not an id of the server",
        becomes="whom this sender calls so by `externalId`, or who has the number in the person's company",
    ),
    Quirk(
        id="feed-extension",
        sender=FEED,
        sends="attributes of a schema of its own (`HireDate`, `JobCode`)",
        becomes="kept where the schema is registered, else passed over",
    ),
    Quirk(
        id="feed-errors-null",
        sender=FEED,
        sends="`failOnErrors` null in a bulk request",
        becomes="every operation is tried",
    ),
)
