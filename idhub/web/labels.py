"""Words for stored codes: badges, types, operations, events. One place, so that every page says the same."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from idhub.delivery.holds import Hold
from idhub.pages import N_

Translate = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Label:
    """A badge: its kind (ok, warn, bad, info, neutral), its word, its icon where it is not the kind's own."""

    kind: str
    text: str
    icon: str | None = None


UNKNOWN = Label("neutral", N_("Unknown"), "help-circle")

STANDING: Mapping[str, Label] = {
    "staged": Label("info", N_("Staged"), "clock"),
    "active": Label("ok", N_("Active")),
    "suspended": Label("bad", N_("Suspended"), "ban"),
    "left": Label("neutral", N_("Left")),
}
EMPLOYMENT_STATE: Mapping[str, Label] = {
    "staged": Label("info", N_("Not begun"), "clock"),
    "active": Label("ok", N_("Active")),
    "suspended": Label("bad", N_("Suspended"), "ban"),
    "ended": Label("neutral", N_("Ended")),
}
EMPLOYMENT_TYPE: Mapping[str, str] = {
    "regular": N_("Regular"),
    "contractor": N_("Contractor"),
    "intern": N_("Intern"),
    "dispatched": N_("Dispatched"),
}
ACCOUNT_STATE: Mapping[str, Label] = {
    "active": Label("ok", N_("In use")),
    "inactive": Label("neutral", N_("Switched off")),
    "absent": Label("neutral", N_("No account")),
    "unknown": UNKNOWN,
}
SOURCE_STATE: Mapping[str, Label] = {
    "present": Label("ok", N_("Present")),
    "left": Label("neutral", N_("Has left")),
    "unknown": UNKNOWN,
}
CASE_STATE: Mapping[str, Label] = {
    "scheduled": Label("info", N_("Scheduled"), "clock"),
    "running": Label("warn", N_("Open"), "circle-dashed"),
    "complete": Label("ok", N_("Complete")),
    "cancelled": Label("neutral", N_("Cancelled")),
}
DELIVERY_STATE: Mapping[str, Label] = {
    "pending": Label("info", N_("Waiting"), "clock"),
    "leased": Label("info", N_("Being sent"), "send"),
    "done": Label("ok", N_("Done")),
    "review": Label("warn", N_("Waits for a decision"), "help-circle"),
    "dead": Label("bad", N_("Dead letter")),
    "superseded": Label("neutral", N_("Superseded")),
}
DOOR: Mapping[str, str] = {
    "console": N_("Console"),
    "api": "API",
    "scim": "SCIM",
    "cli": N_("Command line"),
    "hr_file": N_("HR file"),
    "schedule": N_("Schedule"),
    "login": N_("Sign-in"),
    "oidc": "OpenID Connect",
    "saml": "SAML",
    "cas": "CAS",
    "wsfed": "WS-Federation",
    "reconcile": N_("Account match"),
    "worker": N_("Worker"),
    "system": N_("System"),
}
SOURCE: Mapping[str, str] = {"hr_file": N_("HR file")}
OPERATION: Mapping[str, str] = {
    "provision": N_("Provision account"),
    "deprovision": N_("Deactivate account"),
    "delete": N_("Delete account"),
    "group": N_("Bring group up to date"),
    "discover": N_("Ask what it can do"),
    "logout": N_("End session"),
}
CHANNEL: Mapping[str, str] = {
    "scim": "SCIM",
    "backchannel_logout": N_("Back-channel logout"),
    "saml_logout": N_("SAML logout"),
    "cas_logout": N_("CAS logout"),
    "none": N_("Not told"),
}
HELD_KIND: Mapping[str, str] = {
    "absent": N_("No longer listed"),
    "left": N_("Left, says the file"),
    "suspended": N_("Suspended, says the file"),
    "put_off": N_("Start put off"),
}
ACTION: Mapping[str, str] = {
    "create_account": N_("Create account"),
    "reactivate_account": N_("Reactivate account"),
    "update_account": N_("Update account"),
    "provision_account": N_("Provision account"),
    "deactivate_account": N_("Deactivate account"),
    "end_sessions": N_("End sessions"),
    "nothing_known": N_("Nothing known to end"),
}
NOTE: Mapping[str, str] = {
    "held": N_("Queue is held up"),
    "failing": N_("Last delivery failed"),
    "not_told": N_("Cannot be told; ends when tokens expire"),
    "never_confirmed": N_("Account never confirmed"),
    "no_account": N_("No account known"),
    "found": N_("Came to light after the leave"),
}
HOLD: Mapping[str, str] = {
    "unauthorized": N_("The application refuses the hub's credential (401). Renew it; deliveries wait in order."),
    "tls": N_("The application's certificate or TLS is not accepted. Deliveries wait in order."),
    "unreachable": N_("The application is not reached or does not answer. Deliveries wait in order."),
    "failing": N_("The application fails again and again. Deliveries wait in order."),
    "rate_limit": N_("The application's limit of requests is used up. Deliveries go on when it allows."),
}
CHANGE_OF_ACCESS: Mapping[str, Label] = {
    "gained": Label("ok", N_("Gained"), "circle-plus"),
    "lost": Label("warn", N_("Lost"), "circle-minus"),
    "kept": Label("neutral", N_("Kept"), "circle-check"),
}
OUTCOME: Mapping[str, Label] = {
    "success": Label("ok", N_("Success")),
    "failure": Label("bad", N_("Refused")),
}
CRITICALITY: Mapping[str, str] = {
    "low": N_("Low"),
    "normal": N_("Normal"),
    "high": N_("High"),
    "critical": N_("Critical"),
}
ATTEMPT: Mapping[str, Label] = {
    "done": Label("ok", N_("Done")),
    "retry": Label("warn", N_("Will be tried again"), "refresh"),
    "review": Label("warn", N_("Waits for a decision"), "help-circle"),
    "dead": Label("bad", N_("Given up")),
}
ENDED: Mapping[str, str] = {
    "sessions": N_("Sessions"),
    "grants": N_("Grants"),
    "entitlements": N_("Entitlements"),
    "tokens": N_("Tokens"),
}
REASON_KIND: Mapping[str, str] = {
    "rule": N_("Rule"),
    "group": N_("Group"),
    "request": N_("Request"),
    "direct": N_("Direct"),
}


def translated(source: Mapping[str, Label], t: Translate) -> dict[str, Label]:
    """The badges of a mapping in the language of a request."""
    return {code: Label(label.kind, t(label.text), label.icon) for code, label in source.items()}


def hold_words(hold: Hold, t: Translate) -> str:
    """Why a queue stands still, with the other side's own words; of a pause, what somebody noted."""
    note = hold.note or ""
    words = HOLD.get(hold.reason)
    if words is None or not note.startswith(words):
        return note
    return f"{t(words)} {note.removeprefix(words).strip()}".strip()
