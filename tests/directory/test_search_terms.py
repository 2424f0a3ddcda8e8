"""Terms by which a person is found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idhub.directory.search_terms import LONGEST_TERM, Searchable, first_match, ranked_terms, terms_of, words_of

WANG = Searchable(
    "org_1", "王小明", "Xiaoming", "Wang", ("QY000123",), "Xiaoming.Wang@qiyue.example", "+86 138 0013 8000"
)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("王磊", ["王", "磊", "王磊", "wanglei", "wl", "wang", "lei"]),
        ("王小明", ["王", "小", "明", "王小", "小明", "王小明", "wangxiaoming", "xiaoming", "ming", "wxm"]),
        ("欧阳娜娜", ["欧阳", "阳娜", "娜娜", "ouyangnana", "oynn"]),
        ("单雄信", ["shanxiongxin", "danxiongxin", "sxx", "dxx"]),
        ("曾国藩", ["zengguofan", "zgf"]),
        ("吕布", ["lvbu", "lübu", "lb"]),
        ("仇英", ["qiuying", "qy"]),
        ("任正", ["renzheng", "rz"]),
        ("Daniel Krüger", ["daniel", "dan", "krüger", "kruger", "krü"]),
        ("Jean-Pierre O'Neill", ["jean-pierre", "pierre", "o'neill", "neill"]),
        ("阿依古丽·买买提", ["阿依", "买买", "ayigulimaimaiti"]),
        ("Ｗａｎｇ Lei", ["wang"]),
        ("陈 Chen Wei", ["陈", "chen", "wei"]),
    ],
)
def test_a_name_is_found_by_characters_pinyin_and_initials(name: str, words: list[str]) -> None:
    stored = terms_of(Searchable("org_1", name))
    assert [word for word in words if first_match(stored, word) is None] == []


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("qy0001", "nqy000123"),
        ("xiaoming.w", "nxiaoming.wang@qiyue.example"),
        ("1380013", "n13800138000"),
        ("8000", "r00083100831"),
        ("000", None),
        ("wang", "nwangxiaoming"),
        ("小明", "i小明"),
        ("xm", None),
        ("明小", None),
        ("", None),
    ],
)
def test_the_first_match_says_by_which_term_somebody_is_found(word: str, found: str | None) -> None:
    assert first_match(terms_of(WANG), word) == found


def test_stored_terms_come_apart_again_by_rank() -> None:
    fronts, inners, tails = ranked_terms(terms_of(WANG))
    assert "王小明" in fronts
    assert inners == ["ming", "小明", "明"]
    assert tails == ["00083100831"]


def test_a_version_before_finds_stored_terms_between_blanks() -> None:
    """Version N-1 looks for `% word%`."""
    assert all(f" {word}" in terms_of(WANG) for word in ("王小", "小明", "wangx", "qy0001", "1380013"))


def test_nothing_is_found_by_nothing() -> None:
    assert ranked_terms(terms_of(Searchable("org_1", ""))) == ([], [], [])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  Wang  Xiaoming ", ["wang", "xiaoming"]),
        ("王 王", ["王"]),
        ("+86 138 0013 8000", ["13800138000"]),
        ("138-0013-8000", ["13800138000"]),
        ("１３８", ["138"]),
        ("a b c d e f g h", ["a", "b", "c", "d", "e", "f"]),
        ("%", ["%"]),
        ("   ", []),
    ],
)
def test_a_query_is_cut_into_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@given(st.text(max_size=60), st.text(max_size=20), st.text(max_size=20))
def test_any_name_has_terms_without_blanks_that_come_apart_as_they_were(name: str, number: str, mobile: str) -> None:
    stored = terms_of(Searchable("org_1", name, numbers=(number,), mobile=mobile))
    ranks = ranked_terms(stored)
    assert " " + "  ".join(" ".join(terms) for terms in ranks) + " " == stored
    assert all(0 < len(term) <= LONGEST_TERM for terms in ranks for term in terms)
    assert not any(c in stored for c in "\t\n\r\x0b\x1f\u2028")


@given(st.text(alphabet="王李小明雯 aäßnlüv-'·", min_size=1, max_size=20), st.data())
def test_a_name_is_found_by_the_beginning_of_each_of_its_words(name: str, data: st.DataObject) -> None:
    words = words_of(name)
    if not words:
        return
    stored = terms_of(Searchable("org_1", name))
    word = data.draw(st.sampled_from(words))
    beginning = word[: data.draw(st.integers(1, len(word)))]
    han = [c for c in name if "\u4e00" <= c <= "\u9fff"]
    if not any(c in beginning for c in han):
        assert first_match(stored, beginning) is not None


@given(
    st.lists(st.text(alphabet="ab1", min_size=1, max_size=4), max_size=4), st.text(alphabet="1", max_size=6), st.data()
)
def test_the_first_match_is_the_least_in_the_order_of_ranks(names: list[str], digits: str, data: st.DataObject) -> None:
    stored = terms_of(Searchable("org_1", "-".join(names), numbers=tuple(names[:1]), mobile=digits))
    word = data.draw(st.text(alphabet="ab1", min_size=1, max_size=5))
    fronts, inners, tails = ranked_terms(stored)
    matches = ["n" + t for t in fronts if t.startswith(word)] or ["i" + t for t in inners if t.startswith(word)]
    if not matches and len(word) > 3 and word.isdigit():
        matches = ["r" + t for t in tails if t.startswith(word[::-1])]
    assert first_match(stored, word) == (min(matches) if matches else None)
