"""One normal form for whoever stores a name and whoever looks it up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idhub.directory.names import LoginNameKind, login_name_candidates, may_name, stored_login_name


@pytest.mark.parametrize(
    ("kind", "stored", "typed"),
    [
        ("employee_number", "QY000123", "qy000123"),
        ("employee_number", "QY000123", " ＱＹ０００１２３ "),
        ("employee_number", "00-12 34", "00-12 34"),
        ("email", "Lei.Wang@Qiyue.example", "lei.wang@qiyue.EXAMPLE"),
        ("mobile", "+86 138-0013 8000", "13800138000"),
        ("mobile", "13800138000", "+86 138 0013 8000"),
        ("mobile", "+49 (30) 123456", "+4930123456"),
    ],
)
def test_what_people_type_is_found_as_it_was_stored(kind: LoginNameKind, stored: str, typed: str) -> None:
    assert stored_login_name(kind, stored) in login_name_candidates(typed)


@given(st.sampled_from(["employee_number", "email"]), st.text(alphabet=st.characters(codec="utf-8")))
def test_storing_is_stable(kind: LoginNameKind, text: str) -> None:
    """What was stored once is stored the same again."""
    once = stored_login_name(kind, text)
    assert stored_login_name(kind, once) == once
    assert once in login_name_candidates(once)


@pytest.mark.parametrize(("text", "may"), [("王磊", True), ("a\0b", False), ("\ud800", False), ("a" * 401, False)])
def test_what_no_database_holds_names_nobody(text: str, may: bool) -> None:
    assert may_name(text) is may
