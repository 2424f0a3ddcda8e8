"""Terms by which a person is found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idhub.directory.search_terms import name_terms, search_terms


@pytest.mark.parametrize(
    ("name", "found_by"),
    [
        ("王磊", ["王", "磊", "王磊", "wanglei", "wl", "wang", "lei"]),
        ("欧阳娜娜", ["欧阳", "阳娜", "娜娜", "ouyangnana", "oynn"]),
        ("单雄信", ["shanxiongxin", "danxiongxin", "sxx", "dxx"]),
        ("曾国藩", ["zengguofan", "zgf"]),
        ("吕布", ["lvbu", "lübu", "lb"]),
        ("仇英", ["qiuying", "qy"]),
        ("任正", ["renzheng", "rz"]),
        ("Daniel Krüger", ["daniel", "krüger"]),
        ("阿依古丽·买买提", ["阿依", "买买", "ayigulimaimaiti"]),
    ],
)
def test_a_name_is_found_by_characters_pinyin_and_initials(name: str, found_by: list[str]) -> None:
    terms = name_terms(name)
    assert [term for term in found_by if term not in terms] == []


def test_terms_stand_between_blanks_so_that_their_beginning_can_be_matched() -> None:
    text = search_terms("王磊", "Lei Wang", keys=("QY000123", "lei.wang@qiyue.example", None, "138 0013 8000"))
    assert text.startswith(" ")
    assert text.endswith(" ")
    for beginning in (" wangl", " qy0001", " lei.w", " 1380013"):
        assert beginning in text


def test_terms_come_once() -> None:
    terms = search_terms("王王", "王王").split()
    assert len(terms) == len(set(terms))


def test_nothing_is_found_by_nothing() -> None:
    assert search_terms(None, None, keys=(None,)).strip() == ""


@given(st.text(max_size=40))
def test_any_name_has_terms_without_blanks(name: str) -> None:
    assert all(term and not term.isspace() for term in name_terms(name))
    assert search_terms(name).split() == [t for term in name_terms(name) for t in term.split()]
