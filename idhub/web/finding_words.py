"""What findings say on pages: classes, proposals, bases, and one cell per source."""

from collections.abc import Mapping
from dataclasses import dataclass

from idhub.pages import N_, Formatter
from idhub.web.labels import Label, Translate
from idhub.web.queries_findings import FindingRow

KIND: Mapping[str, Label] = {
    "ghost": Label("bad", N_("Ghost account"), "help-circle"),
    "left_alive": Label("bad", N_("Left here, alive there"), "user-minus"),
    "ghost_paid": Label("bad", N_("Paid though left"), "receipt"),
    "duplicate_person": Label("info", N_("Duplicate person"), "users"),
    "reenabled": Label("bad", N_("Re-enabled by hand"), "arrow-back-up"),
    "unentitled": Label("warn", N_("Not entitled"), "ban"),
    "duplicate": Label("warn", N_("Further account"), "copy"),
    "orphan": Label("warn", N_("Not linked"), "link"),
    "missing": Label("warn", N_("Missing"), "circle-dashed"),
    "disabled_there": Label("warn", N_("Switched off there"), "circle-minus"),
    "drift": Label("info", N_("Attributes drifted"), "git-compare"),
    "question": Label("neutral", N_("Undecided"), "help-circle"),
}
STATE: Mapping[str, Label] = {
    "open": Label("warn", N_("Open"), "circle-dashed"),
    "reopened": Label("warn", N_("Reopened"), "refresh"),
    "accepted": Label("info", N_("Being seen to"), "clock"),
    "dismissed": Label("neutral", N_("Exception"), "hand-stop"),
    "done": Label("ok", N_("Done")),
}
PROPOSAL: Mapping[str, str] = {
    "disable": N_("Switch the account off"),
    "restore": N_("Bring the account back to what it should be"),
    "link": N_("Link the account to its person"),
    "ask": N_("Ask the owner of the application"),
    "stop_pay": N_("Tell payroll to stop paying"),
    "merge": N_("Look at both records and merge them in HR"),
}
ACTION: Mapping[str, str] = {
    "disable": N_("Switch account off"),
    "restore": N_("Restore account"),
    "link": N_("Link account"),
}
BASIS: Mapping[str, str] = {
    "link": N_("exact · known link"),
    "external_id": N_("exact · external id"),
    "employee_number": N_("exact · employee number"),
    "mail": N_("exact · mail of record"),
    "national_id": N_("exact · national id hash"),
    "several": N_("several people match"),
    "name_and_phone": N_("same name and telephone"),
    "none": N_("nobody matches"),
}
WHY: Mapping[str, str] = {
    "several_people": N_("Strong keys of this account name several people."),
    "register_incomplete": N_("The register of people was not read whole: nobody is nobody yet."),
    "number_unknown": N_("The company does not know this number; the person works under another."),
    "nobody": N_("Neither number nor national id is anybody's."),
    "name_and_phone": N_("Two people share name and telephone. Alike is not the same."),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """What one source says: an icon, words, and whether it contradicts the others."""

    icon: str
    text: str
    contradicts: bool = False


NOTHING = Cell("", "—")
_LEFT_KINDS = frozenset({"left_alive", "reenabled", "ghost_paid"})


def cells_of(row: FindingRow, accounts: int, t: Translate, fmt: Formatter) -> dict[str, Cell]:
    """One cell for each source; what contradicts is marked, what agrees is grey."""
    return {
        "hr": _hr(row, t, fmt),
        "directory": _directory(row, t),
        "account": _account(row, accounts, t),
        "payroll": _payroll(row, t),
    }


def _hr(row: FindingRow, t: Translate, fmt: Formatter) -> Cell:
    if row.kind == "duplicate_person":
        number = len(row.evidence.get("people", ())) or 2
        return Cell("alert-triangle", t(N_("%(n)s records")) % {"n": number}, True)
    if row.person is None:
        return Cell("circle-minus", t(N_("nobody known")))
    if row.post_state == "ended" or row.standing == "left":
        day = fmt.day(row.ends_on) if row.ends_on else ""
        return Cell("circle-minus", t(N_("left %(day)s")) % {"day": day} if day else t(N_("left")))
    return Cell("circle-check", t(N_("employed")))


def _directory(row: FindingRow, t: Translate) -> Cell:
    if row.standing is None:
        return Cell("circle-minus", t(N_("nobody known")))
    if row.standing == "active":
        return Cell("circle-check", t(N_("active")))
    return Cell("circle-minus", t(N_("closed")))


def _account(row: FindingRow, accounts: int, t: Translate) -> Cell:
    if row.source != "scim":
        if not accounts:
            return Cell("circle-minus", t(N_("none")))
        words = t(N_("%(n)s in use")) % {"n": accounts}
        return Cell("alert-triangle", words, True) if row.kind in _LEFT_KINDS else Cell("circle-check", words)
    if row.kind == "missing":
        return Cell("alert-triangle", t(N_("not there")), True)
    if row.kind == "disabled_there":
        return Cell("alert-triangle", t(N_("switched off")), True)
    if row.kind == "question":
        return Cell("help-circle", t(N_("undecided")), True)
    if row.kind == "drift":
        number = len(row.evidence.get("differences", ()))
        words = t(N_("One difference")) if number == 1 else t(N_("%(n)s differences")) % {"n": number}
        return Cell("alert-triangle", words, True)
    return Cell("alert-triangle", t(N_("in use")), True)


def _payroll(row: FindingRow, t: Translate) -> Cell:
    said = row.evidence.get("payroll")
    if not said:
        return NOTHING
    period = said.get("period") or ""
    words = t(N_("paid %(month)s")) % {"month": period} if period else t(N_("paid"))
    return Cell("alert-triangle", words, row.kind == "ghost_paid")
