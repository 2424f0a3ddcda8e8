"""A small language for attribute values: total, typed, without loops, patterns or anything of Python. Pure.

    concat(family_name, given_name)
    if [employment_type eq "contractor"] then "external" else "internal"
    default(title, "staff")        lower(pinyin(family_name))        list("a", department)

Every expression of this grammar ends, in time bounded by its own length; none fails for a person: a value that is not
there is null, and what is made of null is null. Its kind (text, boolean, integer, list) is known before anybody is
looked at, so that it is checked against the application's schema when configuration is applied.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, NoReturn

from idhub.errors import Invalid
from scim.errors import InvalidFilter
from scim.filters import AttributeSpec, compile_predicate

Kind = Literal["text", "boolean", "integer", "list", "null"]
Facts = Mapping[str, Any]
"""A person's attributes by the names below; None where there is no value."""

MAX_LENGTH: Final = 2_000
MAX_DEPTH: Final = 40
MAX_RESULT: Final = 4_000
"""Characters of a text that comes out of any step; what is longer is cut."""

_TEXT = AttributeSpec()
NAMES: Final[Mapping[str, AttributeSpec]] = {
    "id": AttributeSpec(case_exact=True),
    "display_name": _TEXT,
    "given_name": _TEXT,
    "family_name": _TEXT,
    "email": _TEXT,
    "mobile": _TEXT,
    "locale": _TEXT,
    "employee_number": AttributeSpec(case_exact=True),
    "title": _TEXT,
    "company": _TEXT,
    "company_code": _TEXT,
    "department": _TEXT,
    "department_path": _TEXT,
    "employment_type": _TEXT,
    "manager_account": AttributeSpec(case_exact=True),
    "roles": AttributeSpec(multi_valued=True),
}
"""What an expression, and a condition in it, may name. Of the post: the main employment."""

_KINDS: Final[Mapping[str, Kind]] = {name: "list" if spec.multi_valued else "text" for name, spec in NAMES.items()}
_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\\x00-\x1f]|\\["\\/nt])*"|'(?:[^'\\\x00-\x1f]|\\['\\/nt])*')"""
    r"""|(?P<number>-?[0-9]{1,15}(?![0-9A-Za-z_.]))|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<mark>[(),\[]))"""
)
_ESCAPES: Final = {"n": "\n", "t": "\t"}


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked expression. `names` are the attributes of the person that it looks at."""

    text: str
    kind: Kind
    value: Callable[[Facts], Any]
    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Part:
    kind: Kind
    value: Callable[[Facts], Any]


@lru_cache(maxsize=4_096)
def compile_expression(text: str) -> Expression:
    """Read and check an expression.

    Raises:
        Invalid: it is none; the sentence names the place and what is wrong there. Rule `expression.syntax`,
            `expression.name`, `expression.arguments` or `expression.type`.
    """
    if not text.strip() or len(text) > MAX_LENGTH:
        raise Invalid(f"An expression has 1 to {MAX_LENGTH} characters.", rule="expression.length")
    reader = _Reader(text)
    part = reader.expression(0)
    if reader.rest():
        reader.refuse("nothing more is expected here")
    return Expression(text, part.kind, part.value, frozenset(reader.names))


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self.names: set[str] = set()

    def rest(self) -> str:
        return self._text[self._at :].strip()

    def refuse(self, problem: str, *, rule: str = "expression.syntax", at: int | None = None) -> NoReturn:
        place = (self._at if at is None else at) + 1
        raise Invalid(f"At character {place}: {problem}.", rule=rule)

    def expression(self, depth: int) -> _Part:
        if depth > MAX_DEPTH:
            self.refuse(f"it nests deeper than {MAX_DEPTH}")
        began = self._at
        kind, word = self._next()
        if kind == "text":
            text = _unescaped(word)
            return _Part("text", lambda _: text)
        if kind == "number":
            number = int(word)
            return _Part("integer", lambda _: number)
        if kind != "name":
            self.refuse("a value, an attribute or a function is expected", at=began)
        if word == "if":
            return self._choice(depth)
        if word in _WORDS:
            constant = _WORDS[word]
            return _Part("null" if constant is None else "boolean", lambda _: constant)
        if self.rest().startswith("("):
            return self._call(word, began, depth)
        if word not in NAMES:
            known = ", ".join(NAMES)
            self.refuse(f"{word!r} is no attribute of a person ({known})", rule="expression.name", at=began)
        self.names.add(word)
        return _Part(_KINDS[word], lambda facts: facts.get(word) or None)

    def _choice(self, depth: int) -> _Part:
        began = self._at
        condition = self._condition()
        self._expect("then")
        yes = self.expression(depth + 1)
        self._expect("else")
        no = self.expression(depth + 1)
        kind = self._common([yes, no], began, "the two sides of `if`")
        return _Part(kind, lambda facts: yes.value(facts) if condition(facts) else no.value(facts))

    def _condition(self) -> Callable[[Facts], bool]:
        began = self._at
        if self._next()[1] != "[":
            self.refuse("a condition in brackets is expected behind `if`", at=began)
        text = self._up_to_bracket(began)
        try:
            matches = compile_predicate(text, attributes=NAMES)
        except InvalidFilter as error:
            self.refuse(
                f"the condition cannot be used ({error.description.rstrip('.')})",
                rule="expression.condition",
                at=began,
            )
        return matches

    def _up_to_bracket(self, began: int) -> str:
        """The condition's text: brackets may nest, and stand in texts."""
        start, depth, is_text, at = self._at, 1, False, self._at
        while at < len(self._text):
            character = self._text[at]
            if is_text and character == "\\":
                at += 1
            elif character == '"':
                is_text = not is_text
            elif not is_text and character in "[]":
                depth += 1 if character == "[" else -1
                if not depth:
                    self._at = at + 1
                    return self._text[start:at]
            at += 1
        self.refuse("the bracket of the condition is not closed", at=began)

    def _call(self, name: str, began: int, depth: int) -> _Part:
        function = _FUNCTIONS.get(name)
        if function is None:
            known = ", ".join(_FUNCTIONS)
            self.refuse(f"there is no function {name!r} ({known})", rule="expression.name", at=began)
        self._next()
        parts: list[_Part] = []
        if self.rest().startswith(")"):
            self._next()
        else:
            while True:
                parts.append(self.expression(depth + 1))
                place = self._at
                mark = self._next()[1]
                if mark == ")":
                    break
                if mark != ",":
                    self.refuse("a comma or a closing parenthesis is expected", at=place)
        return self._made(name, function, parts, began)

    def _made(self, name: str, function: "_Function", parts: Sequence[_Part], began: int) -> _Part:
        least, most = len(function.takes), None if function.repeats else len(function.takes) + len(function.may_take)
        if len(parts) < least or (most is not None and len(parts) > most):
            wanted = f"at least {least}" if most is None else (f"{least}" if least == most else f"{least} to {most}")
            self.refuse(f"{name} takes {wanted} values, not {len(parts)}", rule="expression.arguments", at=began)
        kinds: Sequence[Kind | None] = [*function.takes, *function.may_take]
        for index, part in enumerate(parts):
            wanted_kind = kinds[index] if index < len(kinds) else kinds[-1]
            if wanted_kind is not None and part.kind not in {wanted_kind, "null"}:
                self.refuse(
                    f"value {index + 1} of {name} must be {wanted_kind}, and is {part.kind}",
                    rule="expression.type",
                    at=began,
                )
        kind = function.gives or self._common(parts, began, f"the values of {name}")
        values, make = tuple(part.value for part in parts), function.make
        return _Part(kind, lambda facts: _bounded(make([value(facts) for value in values])))

    def _common(self, parts: Sequence[_Part], began: int, what: str) -> Kind:
        kinds = {part.kind for part in parts} - {"null"}
        if len(kinds) > 1:
            self.refuse(
                f"{what} must be of one kind, not {' and '.join(sorted(kinds))}", rule="expression.type", at=began
            )
        return kinds.pop() if kinds else "null"

    def _expect(self, word: str) -> None:
        began = self._at
        if self._next() != ("name", word):
            self.refuse(f"`{word}` is expected", at=began)

    def _next(self) -> tuple[str, str]:
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            self.refuse(
                "the expression ends too early" if not self.rest() else f"{self.rest()[:1]!r} cannot stand here"
            )
        self._at = match.end()
        kind = match.lastgroup or ""
        return kind, match[kind]


_WORDS: Final[Mapping[str, bool | None]] = {"true": True, "false": False, "null": None}


def _unescaped(token: str) -> str:
    return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), token[1:-1])


def _bounded(value: Any) -> Any:
    return value[:MAX_RESULT] if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class _Function:
    """`takes`: kinds of the values it needs, None for any; `repeats`: the last may stand any number of times."""

    make: Callable[[Sequence[Any]], Any]
    takes: Sequence[Kind | None]
    gives: Kind | None
    may_take: Sequence[Kind | None] = ()
    repeats: bool = False


def _of_text(change: Callable[[str], str]) -> _Function:
    return _Function(lambda v: None if v[0] is None else change(v[0]), ("text",), "text")


def _concat(values: Sequence[Any]) -> str | None:
    present = [value for value in values if value is not None]
    return "".join(present) if present else None


def _join(values: Sequence[Any]) -> str | None:
    present = [value for value in values[1:] if value]
    return str(values[0] or "").join(present) if present else None


def _replaced(values: Sequence[Any]) -> str | None:
    text: str | None = values[0]
    old, new = values[1:]
    if text is None or not old:
        return text
    # A short text and a long replacement would make a very long one: only as much is replaced as fits.
    return text.replace(old, new or "", max(1, MAX_RESULT // max(1, len(new or ""))))


def _substring(values: Sequence[Any]) -> str | None:
    text, start = values[0], values[1]
    if text is None or start is None:
        return None
    first = max(0, start - 1) if start > 0 else max(0, len(text) + start)
    length = values[2] if len(values) > 2 else None
    return str(text[first:] if length is None else text[first : first + max(0, length)])


def _before(values: Sequence[Any]) -> str | None:
    return None if values[0] is None else (values[0].partition(values[1])[0] if values[1] else values[0])


def _after(values: Sequence[Any]) -> str | None:
    text: str | None = values[0]
    if text is None or not values[1]:
        return text
    _, mark, rest = text.partition(values[1])
    return rest if mark else None


def _default(values: Sequence[Any]) -> Any:
    return next((value for value in values if value not in (None, "", [])), None)


def _list(values: Sequence[Any]) -> list[str] | None:
    return [value for value in values if value] or None


def _plain(text: str) -> str:
    """Without marks over letters, for names that go into addresses: é is e, ü is u."""
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(c for c in decomposed if not unicodedata.combining(c))


@lru_cache(maxsize=65_536)
def _pinyin(text: str) -> str:
    from pypinyin import Style, lazy_pinyin

    return "".join(lazy_pinyin(text, style=Style.NORMAL)).replace("ü", "v")


@lru_cache(maxsize=65_536)
def _initials(text: str) -> str:
    from pypinyin import Style, lazy_pinyin

    return "".join(part[:1] for part in lazy_pinyin(text, style=Style.NORMAL))


_FUNCTIONS: Final[Mapping[str, _Function]] = {
    "concat": _Function(_concat, ("text",), "text", repeats=True),
    "join": _Function(_join, ("text", "text"), "text", repeats=True),
    "lower": _of_text(str.lower),
    "upper": _of_text(str.upper),
    "trim": _of_text(str.strip),
    "plain": _of_text(_plain),
    "pinyin": _of_text(_pinyin),
    "pinyin_initials": _of_text(_initials),
    "replace": _Function(_replaced, ("text", "text", "text"), "text"),
    "substring": _Function(_substring, ("text", "integer"), "text", may_take=("integer",)),
    "before": _Function(_before, ("text", "text"), "text"),
    "after": _Function(_after, ("text", "text"), "text"),
    "default": _Function(_default, (None,), None, repeats=True),
    "coalesce": _Function(_default, (None,), None, repeats=True),
    "list": _Function(_list, ("text",), "list", repeats=True),
}
FUNCTIONS: Final = tuple(_FUNCTIONS)
