"""What a refusal of the domain says on a page, by its stable rule; the domain's own sentence is English only."""

from collections.abc import Mapping

from idhub.errors import IdhubError
from idhub.pages import N_
from idhub.web.labels import Translate

_SENTENCES: Mapping[str, str] = {
    "self": N_("You cannot end your own access here. Ask a colleague."),
    "nobody_administers": N_("By this end a day comes on which nobody is an administrator. Name one who stays first."),
    "last_administrator": N_("This is the last administrator. Name another one first."),
    "authority.beyond": N_(
        "This person holds a role over the hub that reaches further than yours. Somebody whose role covers it must do "
        "this."
    ),
    "emergency.time": N_("An emergency leave is now. Leave the time out."),
    "required": N_("This must not be empty."),
    "too_long": N_("This is too long."),
    "control_character": N_("This contains characters that do not belong here."),
    "suspend.left": N_("Somebody who has left cannot be suspended."),
    "reactivate.left": N_("Somebody who has left is rehired, not reactivated."),
    "cancel.none": N_("No leave of this person is scheduled."),
    "cancel.left": N_("The person has left already; rehire them instead."),
    "delivery.overtaken": N_("A later delivery to the same account has overtaken this one."),
    "delivery.not_dead": N_("Only dead letters are sent again; this one is not dead any more."),
    "end_before_start": N_("The end lies before the start."),
    "end.past": N_("The last day has passed. To end access now, use the offboarding preview."),
    "date.form": N_("The date could not be read. Write it like 2026-11-30."),
    "date.range": N_("The year must lie between 1900 and 2199."),
    "email_form": N_("Write one address, such as name@company.example."),
    "mobile_form": N_("Write digits only, with an optional leading +."),
    "number_form": N_("An employee number has no blanks and no slashes."),
    "employment_type": N_("Choose one of the listed types."),
    "employee_number.taken": N_("Somebody in this company has this number already."),
    "employment.live_already": N_("The person has this employment already."),
    "employment.count": N_("The person has too many employments."),
    "organization.unknown": N_("There is no such company, or you may not employ people there."),
    "empty_path_part": N_("A part of the department path is empty."),
    "too_deep": N_("The department path has too many levels."),
    "finding.decided": N_("This finding has been decided already."),
    "finding.undecided": N_("Nothing was decided about this finding."),
    "finding.under_way": N_("Its remedy is on its way; that cannot be taken back."),
    "reconcile.nothing": N_("No application that is switched on is connected by SCIM: there is nothing to compare."),
    "reconcile.under_way": N_("All of them are being compared or wait for it already; nothing more was asked for."),
    "finding.reason": N_("Say why, in at most 500 characters."),
    "finding.until": N_("Name the last day of the exception, within the next year."),
    "finding.action": N_("This cannot be done about this finding (any more)."),
    "finding.changed": N_("This has changed since it was found; the next comparison says how."),
    "finding.account": N_("The account of this finding is not known any more."),
    "finding.linked": N_("The person has another account in this application."),
    "release.same_person": N_("A second person must approve this release."),
    "release.own_row": N_("A change of your own is held here: two other people must approve this release."),
    "release.newer_run": N_("A newer file is being read: wait for it, it may say otherwise."),
    "stream.paused": N_("This receiver is paused already."),
    "stream.told": N_("This receiver is not paused."),
    "authorization": N_("The header is one line of plain characters, and needs an address to send to."),
    "audience": N_("The audience is one line of plain characters."),
    "manager.self": N_("Nobody manages themself."),
    "manager.unknown": N_("Nobody is named so, or they have left. Write the employee number."),
}


def refusal_words(error: IdhubError, t: Translate) -> str:
    """The refusal in the language of the page."""
    sentence = _SENTENCES.get(error.rule or "")
    return t(sentence) if sentence else error.description
