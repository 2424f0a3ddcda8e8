"""The language of attribute values: what it makes, what it refuses, and that it always ends."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idhub.errors import Invalid
from idhub.provisioning.outbound.expressions import FUNCTIONS, MAX_LENGTH, MAX_RESULT, NAMES, compile_expression

PERSON: dict[str, Any] = {
    "display_name": "欧阳娜娜",
    "given_name": "娜娜",
    "family_name": "欧阳",
    "email": "Nana.Ouyang@corp.example",
    "employee_number": "QY-007",
    "title": None,
    "company_code": "HQ",
    "employment_type": "contractor",
    "department_path": "研发/底盘",
    "roles": ["member", "lead"],
}


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ('"4711"', "text", "4711"),
        (r'"a\"b\\c"', "text", 'a"b\\c'),
        ("'single'", "text", "single"),
        ("42", "integer", 42),
        ("-1", "integer", -1),
        ("true", "boolean", True),
        ("null", "null", None),
        ("display_name", "text", "欧阳娜娜"),
        ("title", "text", None),
        ("roles", "list", ["member", "lead"]),
        ("concat(family_name, given_name)", "text", "欧阳娜娜"),
        ('concat(title, "x")', "text", "x"),
        ("concat(title, mobile)", "text", None),
        ('join(" · ", company_code, title, employee_number)', "text", "HQ · QY-007"),
        ("lower(email)", "text", "nana.ouyang@corp.example"),
        ("upper(title)", "text", None),
        ('trim("  x ")', "text", "x"),
        ('plain("Žluťoučký")', "text", "Zlutoucky"),
        ("pinyin(family_name)", "text", "ouyang"),
        ("pinyin_initials(display_name)", "text", "oynn"),
        ('pinyin("吕布")', "text", "lvbu"),
        ('replace(employee_number, "QY-", "")', "text", "007"),
        ('replace(employee_number, "", "x")', "text", "QY-007"),
        ("substring(employee_number, 4)", "text", "007"),
        ("substring(employee_number, -3, 2)", "text", "00"),
        ("substring(employee_number, 1, 0)", "text", ""),
        ("substring(employee_number, 99)", "text", ""),
        ('before(email, "@")', "text", "Nana.Ouyang"),
        ('after(email, "@")', "text", "corp.example"),
        ('after(email, "#")', "text", None),
        ('default(title, "", "staff")', "text", "staff"),
        ("coalesce(title, display_name)", "text", "欧阳娜娜"),
        ('list("a", title, department_path)', "list", ["a", "研发/底盘"]),
        ('if [employment_type eq "contractor"] then "ext" else "int"', "text", "ext"),
        ('if [title pr] then title else if [roles eq "lead"] then "L" else null', "text", "L"),
        ('if [display_name co "]" or company_code eq "hq"] then 1 else 2', "integer", 1),
        ('lower(concat(pinyin(given_name), ".", pinyin(family_name)))', "text", "nana.ouyang"),
    ],
)
def test_value(text: str, kind: str, value: Any) -> None:
    expression = compile_expression(text)
    assert (expression.kind, expression.value(PERSON)) == (kind, value)


@pytest.mark.parametrize(
    ("text", "rule", "place"),
    [
        ("", "expression.length", ""),
        ("x" * (MAX_LENGTH + 1), "expression.length", ""),
        ("nick_name", "expression.name", "At character 1"),
        ("concat(", "expression.syntax", "At character 8"),
        ("concat(email", "expression.syntax", "At character 13"),
        ("concat(email,)", "expression.syntax", ""),
        ("concat()", "expression.arguments", "takes at least 1"),
        ("lower(email, email)", "expression.arguments", "takes 1 values, not 2"),
        ("substring(email)", "expression.arguments", "takes 2 to 3 values, not 1"),
        ("lower(1)", "expression.type", "value 1 of lower must be text, and is integer"),
        ("substring(email, email)", "expression.type", "value 2 of substring must be integer"),
        ("default(email, 1)", "expression.type", "of one kind"),
        ('if [title eq "x"] then 1 else "y"', "expression.type", "the two sides of `if`"),
        ('if [nick eq "x"] then 1 else 2', "expression.condition", ""),
        ('if [title eq "x" then 1 else 2', "expression.syntax", "not closed"),
        ("if title then 1 else 2", "expression.syntax", "a condition in brackets"),
        ('if [title pr] "a"', "expression.syntax", "`then` is expected"),
        ("exec(email)", "expression.name", "there is no function 'exec'"),
        ("email.__class__", "expression.syntax", ""),
        ("email email", "expression.syntax", "nothing more is expected"),
        ("lower(" * 60 + "email" + ")" * 60, "expression.syntax", "deeper than"),
        ('"' + "a", "expression.syntax", ""),
        ("1.5", "expression.syntax", ""),
    ],
)
def test_refused(text: str, rule: str, place: str) -> None:
    with pytest.raises(Invalid) as refused:
        compile_expression(text)
    assert refused.value.rule == rule
    assert place in refused.value.description


_TERMS = st.recursive(
    st.sampled_from([name for name in NAMES if name != "roles"] + ['"x"', '"张"', "null"]),
    lambda inner: st.one_of(
        st.builds(lambda a: f"lower({a})", inner),
        st.builds(lambda a, b: f"concat({a}, {b})", inner, inner),
        st.builds(lambda a, b, c: f"replace({a}, {b}, {c})", inner, inner, inner),
        st.builds(lambda a: f"substring({a}, 2, 3)", inner),
        st.builds(lambda a, b: f'if [title pr and email co "."] then {a} else {b}', inner, inner),
        st.builds(lambda a: f"pinyin({a})", inner),
    ),
    max_leaves=12,
)


@given(text=_TERMS, person=st.fixed_dictionaries({name: st.none() | st.text(max_size=20) for name in NAMES}))
def test_every_expression_has_a_bounded_value_for_every_person(text: str, person: dict[str, Any]) -> None:
    if len(text) > MAX_LENGTH:
        return
    value = compile_expression(text).value({**person, "roles": []})
    assert value is None or (isinstance(value, str) and len(value) <= MAX_RESULT)


def test_what_would_grow_without_end_is_cut() -> None:
    nested = '"xxxxxxxxxx"'
    for _ in range(9):
        nested = f'replace({nested}, "x", "xxxxxxxxxx")'
    began = time.process_time()
    value = compile_expression(nested).value(PERSON)
    assert len(value) <= MAX_RESULT
    assert time.process_time() - began < 1


def test_functions_are_those_that_the_documentation_lists() -> None:
    assert set(FUNCTIONS) == {
        "concat", "join", "lower", "upper", "trim", "plain", "pinyin", "pinyin_initials", "replace", "substring",
        "before", "after", "default", "coalesce", "list",
    }  # fmt: skip
