"""Both languages are complete, and nothing in the catalogues is left over."""

import re
from pathlib import Path

from babel.messages.catalog import Message

from audit.events import FORMER_TYPES, EventType
from idhub.pages.language import load_catalog
from idhub.web.event_labels import EVENT
from tests.web.messages import marked_messages

LOCALE = Path(__file__).parents[2] / "idhub/web/locale"


def _strings(message: Message) -> list[str]:
    string = message.string
    return [string] if isinstance(string, str) else [str(one) for one in string or ()]


def test_every_event_has_its_word_and_no_word_is_left_over() -> None:
    assert set(EVENT) == {event.value for event in EventType} | set(FORMER_TYPES)


_PLACEHOLDER = re.compile(r"%\((\w+)\)s")


def test_every_marked_sentence_has_its_chinese_one() -> None:
    catalog = load_catalog(LOCALE, "zh-CN")
    missing = []
    for message, places in marked_messages().items():
        translated = catalog.get(message if isinstance(message, str) else message[0])
        if translated is None or not all(_strings(translated)):
            missing.append(f"{places[0]}: {message!r}")

    assert not missing, "\n".join(missing)


def test_no_translation_is_left_over() -> None:
    used = {message if isinstance(message, str) else message[0] for message in marked_messages()}
    ids = {m.id if isinstance(m.id, str) else m.id[0] for m in load_catalog(LOCALE, "zh-CN") if m.id}

    assert ids <= used, sorted(ids - used)


def test_translations_keep_their_placeholders() -> None:
    for message in load_catalog(LOCALE, "zh-CN"):
        if message.id:
            source = message.id if isinstance(message.id, str) else message.id[-1]
            strings = _strings(message)
            for string in strings:
                assert set(_PLACEHOLDER.findall(string)) == set(_PLACEHOLDER.findall(source)), source


def test_chinese_wording_follows_the_rules() -> None:
    """No courtesy words, terms of the glossary only, a blank between Han characters and Latin letters or digits."""
    for message in load_catalog(LOCALE, "zh-CN"):
        strings = _strings(message)
        for string in strings:
            assert not re.search("请注意|成功地|系统提示|您|用户|帐号|账户|权限项|僵尸", string), string
            assert not re.search(r"[一-鿿][A-Za-z0-9%]|[A-Za-z0-9s)][一-鿿]", re.sub(r"\)s", ")s", string)), string
