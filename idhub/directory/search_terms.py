"""Terms by which a person is found: characters, pinyin with all readings of a surname, initials, numbers, mail, mobile.

A query matches the beginning of a term, so an inner part of a name is a term of its own: of 王小明 there are 王小明,
小明 and 明, which together answer one, two or three characters, wherever they stand. Terms have three ranks: `n` what
a person is called or numbered, `i` inner parts of it, `r` digits of the mobile number read backwards.
"""

import os
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

RANKS = "nir"
LONGEST_TERM = 100
"""Characters of a term that are kept; a longer word of a query finds nobody."""
_INNER_PARTS = 12
_SHORTEST_TAIL = 4
_BETWEEN_DIGITS = str.maketrans("", "", " ()-\t")
_HOME_PREFIX = "+86"
_HAN_NAME = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]+")
_JOINTS = str.maketrans(dict.fromkeys("-·'’._", " "))

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


class Searchable(NamedTuple):
    """What a person is found by. `numbers` are the employee numbers of every post."""

    organization_id: str
    """Where the person belongs: `Principal.organization_id`."""
    display_name: str
    given_name: str | None = None
    family_name: str | None = None
    numbers: tuple[str, ...] = ()
    email: str | None = None
    mobile: str | None = None


class _Readings(dict[str, str]):
    """Pinyin by character, each asked for once: pypinyin takes 20 microseconds a name, this less than one."""

    def __missing__(self, char: str) -> str:
        # Imported late: most commands name nobody in Chinese. Its table of phrases, half a second and 40 MB, says
        # nothing about single characters.
        os.environ.setdefault("PYPINYIN_NO_PHRASES", "true")
        from pypinyin import Style, lazy_pinyin

        reading = self[char] = "".join("".join(lazy_pinyin(char, style=Style.NORMAL)).split())
        return reading


_READINGS = _Readings()


def load_readings() -> None:
    """Load the table of readings now: who holds a lock should not wait for it at the first Chinese name."""
    _ = _READINGS["中"]


def folded(text: str) -> str:
    """The one form of what is stored and what is looked up: NFKC, without case."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def terms_of(person: Searchable) -> str:
    """The person's terms as they are stored: blank-separated, a blank at both ends, two blanks between ranks."""
    return terms_from(*person[1:])


def terms_from(
    name: str,
    given_name: str | None,
    family_name: str | None,
    numbers: tuple[str, ...],
    email: str | None,
    mobile: str | None,
) -> str:
    """`terms_of`, for bulk work."""
    if given_name and family_name and name == family_name + given_name and _is_han_name(family_name, given_name):
        # As most names are written. What the surname is found by the whole name begins with.
        pinyin, initials, inners, fronts = _given_terms(given_name)
        terms = [name[:LONGEST_TERM], *fronts]
        for first, initial in _first_readings(family_name):
            spelled = first + pinyin
            if "v" in spelled or len(spelled) > LONGEST_TERM:
                terms += _spelled(spelled)
            else:
                terms.append(spelled)
            terms.append((initial + initials)[:LONGEST_TERM])
    else:
        of_name, inners = _name_terms(name)
        terms = [*of_name]
        for part in (given_name, family_name):
            if part:
                more, parts = _name_terms(part)
                terms += more
                if parts:
                    inners = _without_beginnings(inners + parts)
    for number in numbers:
        terms.append(_key(number))
    if email:
        terms.append(_key(email))
    tail = ""
    if mobile:
        digits = digits_of(_key(mobile))
        terms.append(digits)
        tail = digits[::-1]
    kept = f" {' '.join(_without_beginnings(terms))} "
    # What goes for being found already takes with it whatever it begins with: the others stay in order.
    inner = [term for term in inners if f" {term}" not in kept] if inners else ()
    return f"{kept} {' '.join(inner)}  {tail} "


def ranked_terms(stored: str) -> tuple[list[str], list[str], list[str]]:
    """Stored terms by rank, in the order of `RANKS`."""
    ranks = [rank.split() for rank in stored[1:-1].split("  ")]
    ranks += [[]] * (3 - len(ranks))
    return ranks[0], ranks[1], ranks[2]


def first_match(stored: str, word: str) -> str | None:
    """Rank and term by which a person with these terms is found by `word`; of several the first. None: not at all."""
    # Ranks, and terms within one, stand in order: the first place where a term begins so is the first match.
    inners, tails = stored.find("  "), stored.rfind("  ")
    if inners < 0:
        inners = tails = len(stored)
    found = stored.find(" " + word) if word else -1
    if 0 <= found < tails:
        return ("n" if found < inners else "i") + stored[found + 1 : stored.index(" ", found + 1)]
    tail = tail_of(word)
    if tail and stored.startswith(tail, tails + 2):
        return "r" + stored[tails + 2 :].rstrip()
    return None


def words_of(text: str) -> list[str]:
    """The words of a query, six at most; what looks like a telephone number is one word."""
    text = folded(text)
    digits = digits_of(text)
    if digits.isdecimal() and any(c.isspace() or c in "()+-" for c in text.strip()):
        return [digits]
    return list(dict.fromkeys(text.split()))[:6]


def tail_of(word: str) -> str:
    """The word as the end of a mobile number is looked up; empty when it cannot be one."""
    return word[::-1] if len(word) >= _SHORTEST_TAIL and word.isascii() and word.isdigit() else ""


def digits_of(text: str) -> str:
    """A telephone number without what is put between digits, and without the home prefix."""
    plain = text.removeprefix(_HOME_PREFIX)
    # As most are written.
    return plain if plain.isdigit() else text.translate(_BETWEEN_DIGITS).removeprefix(_HOME_PREFIX)


def _is_han(char: str) -> bool:
    return "\u4e00" <= char <= "\u9fff" or "\u3400" <= char <= "\u4dbf"


def _key(text: str) -> str:
    folding = text.lower() if text.isascii() else folded(text)
    return "".join(folding.split())[:LONGEST_TERM]


# Given and family names repeat; so do the names of a million Chinese, less often.
@lru_cache(maxsize=65_536)
def _name_terms(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Terms of one name: of the first rank, and inner parts (`_without_beginnings`)."""
    name = folded(name)
    fronts: list[str] = []
    inners: list[str] = []
    words: Iterable[str] = name.split()
    if not name.isascii():
        han = "".join([c for c in name if _is_han(c)])
        if han:
            fronts, ends = _han_terms(han)
            if len(han) == len(name):
                return tuple(fronts), ends
            inners += ends
        words = [word for word in words if not all(map(_is_han, word))]
    for word in words:
        fronts.append(word[:LONGEST_TERM])
        if not word.isascii():
            plain = "".join(c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c))
            fronts.append(plain[:LONGEST_TERM])
        if not word.isalpha():
            inners += [part[:LONGEST_TERM] for part in word.translate(_JOINTS).split()[1 : _INNER_PARTS + 1]]
    return tuple(fronts), _without_beginnings(inners)


def _is_han_name(family_name: str, given_name: str) -> bool:
    """Whether a name is in Chinese characters alone, which folding leaves as they are, behind a surname of one."""
    return len(family_name) == 1 and _is_han(family_name) and _HAN_NAME.fullmatch(given_name) is not None


@lru_cache(maxsize=65_536)
def _given_terms(given_name: str) -> tuple[str, str, tuple[str, ...], tuple[str, ...]]:
    """What a given name in Chinese characters adds behind any surname (`_rest_terms`), and its own terms."""
    return *_rest_terms(given_name), _name_terms(given_name)[0]


def _han_terms(han: str) -> tuple[list[str], tuple[str, ...]]:
    """Terms of a name in Chinese characters: of the first rank, and inner parts."""
    pinyin, initials, ends = _rest_terms(han[1:])
    fronts = [han[:LONGEST_TERM]]
    for first, initial in _first_readings(han[0]):
        fronts += _spelled(first + pinyin)
        fronts.append((initial + initials)[:LONGEST_TERM])
    return fronts, ends


@lru_cache(maxsize=4_096)
def _first_readings(char: str) -> tuple[tuple[str, str], ...]:
    """How a name may begin that begins with this character: syllable and initial."""
    reading = _READINGS[char]
    return tuple((one, one[:1]) for one in dict.fromkeys((reading, _SURNAMES.get(char, reading))))


@lru_cache(maxsize=65_536)
def _rest_terms(han: str) -> tuple[str, str, tuple[str, ...]]:
    """Of what follows the first character: its pinyin, its initials, and every end of it (`_without_beginnings`)."""
    syllables = [_READINGS[c] for c in han]
    inners: list[str] = []
    for start in range(min(len(han), _INNER_PARTS)):
        inners.append(han[start : start + LONGEST_TERM])
        inners += _spelled("".join(syllables[start:]))
    return "".join(syllables), "".join([s[:1] for s in syllables]), _without_beginnings(inners)


def _spelled(pinyin: str) -> list[str]:
    """A pinyin term, and how else it is typed: lü as well as lv."""
    term = pinyin[:LONGEST_TERM]
    return [term, term.replace("lv", "lü").replace("nv", "nü")] if "lv" in term or "nv" in term else [term]


def _without_beginnings(terms: Iterable[str]) -> tuple[str, ...]:
    """Sorted, without terms with which another one begins: whatever finds them finds the other."""
    ordered = sorted(terms)
    # Whatever stands between a text and one that begins with it begins with it too: neighbours tell.
    kept = [term for term, following in pairwise(ordered) if not following.startswith(term)]
    return (*kept, *filter(None, ordered[-1:]))
