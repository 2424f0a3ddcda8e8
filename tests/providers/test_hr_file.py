"""Encodings, structure and the proof of completeness of CSV files (security catalogue X04, D33)."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from providers.hr_file import REQUIRED_COLUMNS, HrFile, HrFileLimits, HrFileRefused
from providers.hr_file.text import CsvTable
from tests.providers.hr_samples import faults, header_line, read, row, write_csv


def line(number: str, **changes: str) -> str:
    values = row(employee_number=number, **changes)
    return ",".join(values[column] for column in REQUIRED_COLUMNS)


def refusal(path: Path, limits: HrFileLimits | None = None) -> HrFileRefused:
    with pytest.raises(HrFileRefused) as caught:
        HrFile(path, limits=limits or HrFileLimits())
    return caught.value


@pytest.mark.parametrize(
    ("encoding", "found"), [("utf-8", "utf-8"), ("utf-8-sig", "utf-8-sig"), ("gb18030", "gb18030")]
)
def test_encoding_is_found_and_text_is_the_same(tmp_path: Path, encoding: str, found: str) -> None:
    path = write_csv(
        tmp_path / "hr.csv", [row(name="欧阳娜娜"), row(employee_number="2", name="𠮷")], encoding=encoding
    )
    accepted, refused, file = read(path)
    assert file.encoding == found
    assert [each.name for each in accepted] == ["欧阳娜娜", "𠮷"]
    assert refused == []
    assert file.completeness().is_complete


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(header_line().encode() + line("1").encode("big5", "replace") + b"\xff\n", id="neither"),
        pytest.param(codecs.BOM_UTF8 + header_line().encode() + line("1").encode("gb18030"), id="bom-then-gb18030"),
        pytest.param(header_line().encode("utf-16"), id="utf-16"),
        pytest.param(
            header_line().encode()
            + "\n".join(line(str(number)) for number in range(9)).encode()
            + line("x", name="王").encode("gb18030"),
            id="utf-8-then-gb18030",
        ),
        pytest.param(
            header_line().encode() + (line("1", title="工程师" * 20) + "\n王").encode()[:-1], id="cut-character"
        ),
    ],
)
def test_undecodable_file_is_refused_whole(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "hr.csv"
    path.write_bytes(content)
    assert refusal(path).code == "encoding"


def test_utf16_without_bom_is_refused_by_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "hr.csv"
    path.write_bytes(header_line().encode("utf-16-le"))
    assert refusal(path).code == "missing_columns"


def test_missing_columns_are_named(tmp_path: Path) -> None:
    columns = [column for column in REQUIRED_COLUMNS if column not in {"status", "mobile"}]
    error = refusal(write_csv(tmp_path / "hr.csv", [row()], columns=columns))
    assert (error.code, error.description) == ("missing_columns", "missing columns: mobile, status")


def test_header_aliases_are_not_guessed(tmp_path: Path) -> None:
    columns = ["Employee_Number", *REQUIRED_COLUMNS[1:]]
    error = refusal(write_csv(tmp_path / "hr.csv", [], columns=columns))
    assert error.description == "missing columns: employee_number"


def test_other_separator_is_refused_with_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "hr.csv"
    path.write_text(header_line().replace(",", ";"), encoding="utf-8")
    assert refusal(path).description.endswith("(the columns must be separated by commas)")


def test_column_named_twice_is_refused(tmp_path: Path) -> None:
    error = refusal(write_csv(tmp_path / "hr.csv", [], columns=[*REQUIRED_COLUMNS, "email"]))
    assert (error.code, error.description) == ("repeated_column", "columns named twice: email")


def test_unknown_columns_are_reported_and_their_values_ignored(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "hr.csv", [row(salary="=1")], columns=[*REQUIRED_COLUMNS, "salary", "e-mail\x1b"])
    accepted, refused, file = read(path)
    assert file.unknown_columns == ("salary", "e-mail\\u001b")
    assert (len(accepted), refused) == (1, [])


@pytest.mark.parametrize("content", [b"", b"\n", codecs.BOM_UTF8, b",,,\n"])
def test_file_without_header_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "hr.csv"
    path.write_bytes(content)
    assert refusal(path).code == "empty"


def test_empty_file_with_header_is_complete(tmp_path: Path) -> None:
    accepted, refused, file = read(write_csv(tmp_path / "hr.csv", []))
    assert (accepted, refused, file.completeness().is_complete) == ([], [], True)


def test_mixed_line_endings_and_blank_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "hr.csv"
    text = header_line() + line("1") + "\r\n" + line("2") + "\n\n" + line("3") + "\r" + "," * 13 + "\n" + line("4")
    path.write_bytes(text.encode())
    accepted, refused, file = read(path)
    assert [each.employee_number for each in accepted] == ["1", "2", "3", "4"]
    assert refused == []
    assert file.completeness().is_complete


def test_ragged_rows_are_refused_and_break_the_proof(tmp_path: Path) -> None:
    path = tmp_path / "hr.csv"
    path.write_text(header_line() + line("1") + ",extra\n" + "2,王\n" + line("3") + "\n", encoding="utf-8")
    accepted, refused, file = read(path)
    assert [each.employee_number for each in accepted] == ["3"]
    assert faults(refused) == [(2, "", "column_count"), (3, "", "column_count")]
    assert not file.completeness().is_complete


def test_row_of_a_million_columns_is_refused_alone(tmp_path: Path) -> None:
    path = tmp_path / "hr.csv"
    path.write_text(header_line() + line("1") + "," * 1_000_000 + "\n" + line("2") + "\n", encoding="utf-8")
    accepted, refused, _ = read(path)
    assert [each.employee_number for each in accepted] == ["2"]
    assert faults(refused) == [(2, "", "column_count")]


def test_header_of_a_million_columns_is_refused_whole(tmp_path: Path) -> None:
    path = tmp_path / "hr.csv"
    path.write_text(header_line().strip() + ",x" * 500_000 + "\n" + line("1") + "\n", encoding="utf-8")
    assert refusal(path).code == "too_many_columns"


def test_line_without_end_is_refused_whole(tmp_path: Path) -> None:
    path = tmp_path / "hr.csv"
    path.write_bytes(header_line().encode() + b"1," * 2_000_000)
    assert refusal(path).code == "line_too_long"


def test_too_many_rows_are_refused_whole(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "hr.csv", [row(employee_number=str(number)) for number in range(20)])
    assert refusal(path, HrFileLimits(max_rows=19)).code == "too_many_rows"
    HrFile(path, limits=HrFileLimits(max_rows=20)).close()


def test_too_large_file_is_refused_whole(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "hr.csv", [row()])
    assert refusal(path, HrFileLimits(max_bytes=100)).code == "too_large"


def test_oversized_value_is_refused_alone(tmp_path: Path) -> None:
    path = tmp_path / "hr.csv"
    path.write_text(header_line() + line("1", title="x" * 200_000) + "\n" + line("2") + "\n", encoding="utf-8")
    accepted, refused, file = read(path)
    assert [each.employee_number for each in accepted] == ["2"]
    assert faults(refused) == [(2, "", "malformed_csv")]
    assert not file.completeness().is_complete


def test_d33_half_written_quote_at_the_end_is_refused_and_breaks_the_proof(tmp_path: Path) -> None:
    path = tmp_path / "hr.csv"
    path.write_text(header_line() + line("1") + '\n2,"王', encoding="utf-8")
    accepted, refused, file = read(path)
    assert [each.employee_number for each in accepted] == ["1"]
    assert faults(refused) == [(3, "", "unterminated_quote")]
    assert not file.completeness().is_complete


@pytest.mark.parametrize("cut", [1, 2, 3, 8, 20, 60])
def test_d33_file_cut_in_its_last_row_breaks_the_proof(tmp_path: Path, cut: int) -> None:
    """Only a cut exactly after the last value is invisible; the mass-change brake is for that one."""
    path = tmp_path / "hr.csv"
    path.write_text((header_line() + line("1") + "\n" + line("2"))[:-cut], encoding="utf-8")
    accepted, refused, file = read(path)
    assert [each.employee_number for each in accepted] == ["1"]
    assert len(refused) == 1
    assert not file.completeness().is_complete


def test_quote_that_runs_away_stops_the_reading_and_says_where(tmp_path: Path) -> None:
    path = tmp_path / "hr.csv"
    rows = "\n".join(line(str(number)) for number in range(3, 200))
    path.write_text(header_line() + line("1") + '\n2,"' + rows + "\n", encoding="utf-8")
    accepted, refused, file = read(path)
    assert [each.employee_number for each in accepted] == ["1"]
    assert faults(refused) == [(3, "", "unterminated_quote")]
    gaps = file.completeness().gaps
    assert gaps[0] == "line 3: a quoted value is not closed; the rest of the file was not read"


def test_value_over_several_lines_may_hide_rows_and_breaks_the_proof(tmp_path: Path) -> None:
    path = tmp_path / "hr.csv"
    path.write_text(header_line() + line("1", title='"a\n9,b"') + "\n" + line("2") + "\n", encoding="utf-8")
    accepted, refused, file = read(path)
    assert [each.employee_number for each in accepted] == ["2"]
    assert faults(refused) == [(2, "title", "control_character")]
    assert not file.completeness().is_complete


def test_row_that_could_be_anybody_makes_its_company_uncertain(tmp_path: Path) -> None:
    rows = [row(employee_number="1"), row(employee_number="", company="柏林"), row(employee_number="1")]
    _, _, file = read(write_csv(tmp_path / "hr.csv", rows))
    proof = file.completeness()
    assert proof.is_complete
    assert [proof.proves_absence_in(company) for company in ("总部", "柏林", "上海")] == [False, False, True]


def test_row_of_no_company_breaks_the_whole_proof(tmp_path: Path) -> None:
    _, _, file = read(write_csv(tmp_path / "hr.csv", [row(company="")]))
    assert file.completeness().gaps == ("line 2: the row could not be told to any company",)


def test_no_proof_before_the_end(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "hr.csv", [row(employee_number="1"), row(employee_number="2")])
    with HrFile(path) as file:
        next(file.records())
        assert file.completeness().gaps == ("the file was not read to its end",)


def test_file_changed_while_read_breaks_the_proof(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "hr.csv", [row()])
    with HrFile(path) as file:
        records = file.records()
        next(records)
        with path.open("a") as stream:
            stream.write("\n")
        assert list(records) == []
    assert "the file was changed while it was read" in file.completeness().gaps


def test_company_key_tells_names_and_codes_to_one_company(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "hr.csv", [row(company="总部"), row(company="HQ")])
    with HrFile(path, company_key=lambda _company: "org_1") as file:
        first, second = file.records()
    assert first.company == "总部"
    assert faults([second]) == [(3, "employee_number", "repeated_employee_number")]  # type: ignore[list-item]


def test_digest_is_the_sha256_of_the_bytes(tmp_path: Path) -> None:
    import hashlib

    path = write_csv(tmp_path / "hr.csv", [row()])
    with HrFile(path) as file:
        assert file.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "hr.xlsx", [row()])
    with HrFile(path) as file:
        assert isinstance(file._table, CsvTable)
