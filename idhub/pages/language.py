"""Which language a page speaks, and its catalogue.

English is the source: message ids are the English sentences. `locale/zh_CN/*.po` are read at start and merged, so that
each area of pages keeps its own file; a test proves that every marked sentence has its Chinese one.
"""

from functools import cache
from gettext import GNUTranslations
from io import BytesIO
from pathlib import Path
from typing import Literal, get_args

from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

Language = Literal["zh-CN", "en"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
DEFAULT_LANGUAGE: Language = "zh-CN"
_FOLDERS: dict[Language, str] = {"zh-CN": "zh_CN", "en": "en"}
_MAX_ACCEPT_LANGUAGE = 400


def N_(message: str) -> str:  # noqa: N802 - gettext's customary name for "marked, translated later"
    """Mark a sentence for the catalogue where it is written; it is translated where it is shown."""
    return message


def negotiate_language(cookie: str | None, accept_language: str | None) -> Language:
    """The language to answer in: the person's own choice, else the best of Accept-Language, else Chinese.

    RFC 9110 section 12.5.4: the highest quality wins, the earlier of two equal ones.
    """
    for language in LANGUAGES:
        if cookie == language:
            return language
    best: tuple[float, Language] | None = None
    for part in (accept_language or "")[:_MAX_ACCEPT_LANGUAGE].split(","):
        tag, _, parameter = part.partition(";")
        quality = _quality(parameter)
        primary = tag.strip().lower().split("-")[0]
        offered: Language | None = "zh-CN" if primary == "zh" else "en" if primary == "en" else None
        if offered is not None and quality > 0 and (best is None or quality > best[0]):
            best = (quality, offered)
    return best[1] if best else DEFAULT_LANGUAGE


def _quality(parameter: str) -> float:
    name, _, value = parameter.strip().partition("=")
    if name.strip().lower() != "q":
        return 1.0
    try:
        quality = float(value)
    except ValueError:
        return 0.0
    return quality if 0.0 <= quality <= 1.0 else 0.0


def load_catalog(folder: Path, language: Language) -> Catalog:
    """Every `.po` file of a language, merged into one catalogue. A missing folder is an empty catalogue."""
    merged = Catalog(locale=_FOLDERS[language])
    for path in sorted((folder / _FOLDERS[language]).glob("*.po")):
        with path.open("rb") as file:
            for message in read_po(file, locale=_FOLDERS[language], abort_invalid=True):
                if message.id:
                    merged[message.id] = message
    return merged


@cache
def load_translations(folder: Path, language: Language) -> GNUTranslations:
    """The translations of a language, ready for gettext; read once a process. English falls back to the sentences."""
    compiled = BytesIO()
    write_mo(compiled, load_catalog(folder, language))
    compiled.seek(0)
    return GNUTranslations(compiled)
