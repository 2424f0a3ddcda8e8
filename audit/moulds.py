"""Events that are alike but for a few texts: encoded once, and cast as often as there are texts.

Bulk work records thousands of events of one shape. What the canonical bytes of one look like follows from those of
another, as long as the texts that differ need no escape: a mould is the bytes of an example, cut where its texts stand.
What does not fit (`audit.events.encoded` would clean it) is made the usual way, so that there is one canonical form.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import chain
from operator import itemgetter
from typing import Any, Final, TypeAlias

from audit.errors import InvalidEvent
from audit.events import IDENTIFIER_LIMIT, TEXT_LIMIT, Event, encoded, identifier, new_event_ids, to_micros
from audit.merkle import LEAF_PREFIX
from audit.personal import PersonalBatch, Sealer, is_indexed
from audit.trail import Packed, row_of

# Drawn anew in every process: nobody can have written one into an event.
_MARK: Final = os.urandom(8).hex()
_STAND_IN: Final = re.compile(f"<{_MARK}[0-9]+>")


def stand_in(number: int) -> str:
    """What an example has in place of the text of this number."""
    return f"<{_MARK}{number}>"


class Mould:
    """What events that differ in `count` texts have in common.

    Args:
        example: one of them, with `stand_in` for every text that differs and any values for its personal fields. It
            names a person, and its personal values are not searched for (`audit.personal.is_indexed`).
        count: how many texts differ.
    """

    def __init__(self, example: Event, count: int) -> None:
        if example.person_id is None or is_indexed(example):
            raise InvalidEvent("only changes of people are cast")
        self._example = example
        self._fields = tuple(example.personal)
        self._micros = to_micros(example.at)
        # Behind the texts stand the event's id and the commitments.
        self._event_id, *commitments = [stand_in(count + number) for number in range(1 + len(self._fields))]
        places: dict[object, int] = {stand_in(number): number for number in range(count + 1 + len(self._fields))}
        committed = dict(zip(self._fields, commitments, strict=True))
        event, body = encoded(example, event_id=self._event_id, commitments=committed, micros=self._micros)
        text = body.decode()
        if set(_STAND_IN.findall(text)) != places.keys():
            raise InvalidEvent("an example shows every text that differs")
        # What stands between the texts, with room for these: joining takes half of what filling a format does.
        pieces = _STAND_IN.split(text)
        self._form = [piece for each in pieces for piece in (each, "")][:-1]
        self._texts = itemgetter(*[places[found] for found in _STAND_IN.findall(text)])
        row = row_of(event, self._event_id, self._micros, b"body", b"leaf")
        behind = len(places)
        known: dict[object, int] = {b"body": behind, b"leaf": behind + 1, **places}
        self._constants = tuple(value for value in row if value not in known)
        constants = iter(range(behind + 2, behind + 2 + len(self._constants)))
        self._row = itemgetter(*[known[value] if value in known else next(constants) for value in row])
        self._person = places[example.person_id]

    def cast(
        self,
        texts: tuple[str, ...],
        personal: Mapping[str, str],
        event_id: str,
        batch: PersonalBatch,
        *,
        are_fit: bool = False,
    ) -> tuple[Any, ...]:
        """Return the row of an event with these texts; its personal values go into `batch`.

        Args:
            are_fit: the texts are known to fit (`fits`).
        """
        person = texts[self._person]
        commitments = batch.seal(personal, event_id, person if are_fit else identifier(person))
        if tuple(commitments) == self._fields and (are_fit or self.fits(texts)):
            values = (*texts, event_id, *commitments.values())
            form = self._form.copy()
            form[1::2] = self._texts(values)
            text = "".join(form)
            if len(text) <= TEXT_LIMIT:
                body = text.encode()
                row: tuple[Any, ...] = self._row((*values, body, sha256(LEAF_PREFIX + body).digest(), *self._constants))
                return row
        event = self._event(texts, personal)
        event, body = encoded(event, event_id=event_id, commitments=commitments, micros=self._micros)
        return row_of(event, event_id, self._micros, body, sha256(LEAF_PREFIX + body).digest())

    @staticmethod
    def fits(texts: tuple[str, ...]) -> bool:
        """Tell whether texts surely stand in canonical bytes as they are: no escape, no cleaning, none too long."""
        every = "".join(texts)
        if not every.isascii() or not every.isprintable() or '"' in every or "\\" in every:
            return False
        # Where all together are no longer than one may be, none of them needs a look.
        return len(every) <= IDENTIFIER_LIMIT or max(map(len, texts)) <= IDENTIFIER_LIMIT

    def _event(self, texts: Sequence[str], personal: Mapping[str, str]) -> Event:
        """The event as it would have been recorded by itself."""
        names = {stand_in(number): text for number, text in enumerate(texts)}
        return Event._make(_filled(value, names) for value in self._example)._replace(personal=personal)


Cast: TypeAlias = tuple[Mould, tuple[str, ...], Mapping[str, str]]
"""An event to be: its mould, its texts in the order of their numbers, and its personal values."""


def _filled(value: Any, names: Mapping[str, str]) -> Any:
    """A value with the texts in place of those that stand for them."""
    if type(value) is str:
        return _STAND_IN.sub(lambda found: names[found.group()], value)
    if isinstance(value, Mapping):
        return {key: _filled(one, names) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, names) for one in value]
    return value


def cast_packed(casts: Iterable[Cast], *, sealer: Sealer) -> Packed:
    """Return the rows of events, as `audit.trail.event_rows` does, one behind the other.

    Raises:
        InvalidEvent: an event has no canonical form; nothing of the batch is returned.
    """
    listed = list(casts)
    batch = PersonalBatch(sealer)
    # Looked at together first: hardly any has a text that does not fit.
    are_fit = bool(listed) and Mould.fits(tuple(chain.from_iterable(texts for _, texts, _ in listed)))
    events: list[Any] = []
    for (mould, texts, personal), event_id in zip(listed, new_event_ids(len(listed)), strict=True):
        events += mould.cast(texts, personal, event_id, batch, are_fit=are_fit)
    return Packed(events, list(chain.from_iterable(batch.sealed_keys())), list(chain.from_iterable(batch.values)))
