"""Sentences made of stored values: who did something, what it was done to."""

from collections.abc import Mapping

from idhub.pages import N_
from idhub.web.labels import Translate
from idhub.web.queries_audit import EventRow

_KINDS: Mapping[str, str] = {
    "system": N_("System"),
    "cli": N_("Command line"),
    "anonymous": N_("Nobody signed in"),
    "client": N_("Application %(id)s"),
    "service": N_("Service %(id)s"),
    "device": N_("Device %(id)s"),
}


def actor_words(event: EventRow, names: Mapping[str, str], t: Translate) -> str:
    """Who did it: the person's name, or what acted."""
    if event.actor_id in names:
        return names[event.actor_id]
    sentence = _KINDS.get(event.actor_kind)
    if sentence is None:
        return event.actor_id
    text = t(sentence)
    return text % {"id": event.actor_id} if "%(" in text else text


def object_words(event: EventRow, names: Mapping[str, str]) -> str:
    """What it was done to: the person, application or case by name, with both where there are both."""
    parts = [names[i] for i in (event.person_id or "", event.application_id or "") if i in names]
    if parts:
        return " → ".join(dict.fromkeys(parts))
    return names.get(event.target_id, event.target_id)
