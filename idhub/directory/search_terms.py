"""Terms by which a person is found: characters, bigrams, pinyin with all readings of a surname, initials, numbers."""

import itertools
from functools import lru_cache

# Readings of surnames that the general table gets wrong, beside the general ones (both are indexed).
_SURNAMES = {
    "单": "shan",
    "曾": "zeng",
    "吕": "lv",
    "仇": "qiu",
    "解": "xie",
    "任": "ren",
    "查": "zha",
    "区": "ou",
    "盖": "ge",
    "尉": "yu",
    "乐": "yue",
    "朴": "piao",
    "翟": "zhai",
    "缪": "miao",
    "覃": "qin",
    "召": "shao",
    "冼": "xian",
    "纪": "ji",
    "华": "hua",
    "宁": "ning",
}


def _is_han(char: str) -> bool:
    return "\u4e00" <= char <= "\u9fff" or "\u3400" <= char <= "\u4dbf"


@lru_cache(maxsize=65_536)
def _char_pinyin(char: str) -> str:
    # Imported late: its phrase table costs half a second, and most commands name nobody in Chinese.
    from pypinyin import Style, lazy_pinyin

    return "".join(lazy_pinyin(char, style=Style.NORMAL))


@lru_cache(maxsize=65_536)
def name_terms(name: str) -> tuple[str, ...]:
    """Terms of one name: lower-case words; for Han names each character, bigrams, pinyin and initials."""
    terms: dict[str, None] = {}
    for word in name.lower().split():
        terms[word] = None
    han = [c for c in name if _is_han(c)]
    if han:
        whole = "".join(han)
        terms[whole] = None
        for char in han:
            terms[char] = None
        for first, second in itertools.pairwise(han):
            terms[first + second] = None
        syllables = [_char_pinyin(c) for c in han]
        readings = [syllables]
        surname = _SURNAMES.get(han[0])
        if surname and surname != syllables[0]:
            readings.append([surname, *syllables[1:]])
        for reading in readings:
            terms["".join(reading).replace("lv", "lü")] = None
            terms["".join(reading)] = None
            terms["".join(s[:1] for s in reading)] = None
            for syllable in reading:
                terms[syllable] = None
    return tuple(terms)


def search_terms(*names: str | None, keys: tuple[str | None, ...] = ()) -> str:
    """The blank-separated terms of a person, with a blank at both ends so that a term can be matched by its start."""
    terms: dict[str, None] = {}
    for name in names:
        if name:
            for term in name_terms(name):
                terms[term] = None
    for key in keys:
        if key:
            terms[key.lower().replace(" ", "")] = None
    return " " + " ".join(terms) + " "
