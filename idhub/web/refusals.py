"""What a refusal of the domain says on a page, by its stable rule; the domain's own sentence is English only."""

from collections.abc import Mapping

from idhub.errors import IdhubError
from idhub.pages import N_
from idhub.web.labels import Translate

_SENTENCES: Mapping[str, str] = {
    "self": N_("You cannot end your own access here. Ask a colleague."),
    "last_administrator": N_("This is the last administrator. Name another one first."),
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
}


def refusal_words(error: IdhubError, t: Translate) -> str:
    """The refusal in the language of the page."""
    sentence = _SENTENCES.get(error.rule or "")
    return t(sentence) if sentence else error.description
