"""An export and a proof have one form: whatever is called valid holds nothing that was not checked.

Every byte is changed, every line doubled, cut short and given more names: what no check looked at would stand in a
file that `audit verify` calls valid, for whoever reads it next.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from audit.checker import VerifyResult
from audit.verify import ProofResult, Unreadable, verify_export, verify_proof
from tests.audit.support import ORIGIN, Trail, event, written
from tests.audit.test_proof import proof_of

FORGED = {"position": 0, "body": {"type": "person.offboarded", "person_id": "per_2"}}


@pytest.fixture
def export(sqlite_trail: Trail) -> bytes:
    sqlite_trail.append(event(1, personal={"name": "张三"}))
    sqlite_trail.fill(3)
    return sqlite_trail.export(reveal=True).read_bytes()


@pytest.fixture
def proof(sqlite_trail: Trail) -> bytes:
    (event_id,) = sqlite_trail.append(event(1, personal={"name": "张三"}))
    sqlite_trail.fill(4)
    return proof_of(sqlite_trail, event_id, reveal=True)


def believed(trail: Trail, verify: Callable[..., VerifyResult | ProofResult], content: bytes) -> bool:
    path = Path(trail.folder / "forged.jsonl")
    path.write_bytes(content)
    try:
        return verify(path, keys=trail.keys, origin=ORIGIN).is_valid
    except Unreadable:
        return False


@pytest.mark.parametrize("mask", [0x01, 0x20], ids=["another character", "another case"])
def test_no_byte_of_an_export_can_be_another(sqlite_trail: Trail, export: bytes, mask: int) -> None:
    assert believed(sqlite_trail, verify_export, export)
    for place in range(len(export)):
        forged = export[:place] + bytes([export[place] ^ mask]) + export[place + 1 :]
        assert not believed(sqlite_trail, verify_export, forged), export[max(0, place - 30) : place + 10]


@pytest.mark.parametrize("mask", [0x01, 0x20], ids=["another character", "another case"])
def test_no_byte_of_a_proof_can_be_another(sqlite_trail: Trail, proof: bytes, mask: int) -> None:
    assert believed(sqlite_trail, verify_proof, proof)
    for place in range(len(proof)):
        forged = proof[:place] + bytes([proof[place] ^ mask]) + proof[place + 1 :]
        assert not believed(sqlite_trail, verify_proof, forged), proof[max(0, place - 30) : place + 10]


def test_what_was_cut_short_anywhere_is_not_believed(sqlite_trail: Trail, export: bytes) -> None:
    assert [end for end in range(len(export)) if believed(sqlite_trail, verify_export, export[:end])] == []


def test_a_proof_that_was_cut_short_anywhere_is_not_believed(sqlite_trail: Trail, proof: bytes) -> None:
    assert [end for end in range(len(proof)) if believed(sqlite_trail, verify_proof, proof[:end])] == []


@pytest.mark.parametrize("kind", ["export", "proof"])
def test_no_line_stands_twice(sqlite_trail: Trail, kind: str, request: pytest.FixtureRequest) -> None:
    verify = verify_export if kind == "export" else verify_proof
    content: bytes = request.getfixturevalue(kind)
    lines = content.splitlines(keepends=True)
    for line in [*lines, b"\n", b" \n"]:
        for place in range(len(lines) + 1):
            forged = b"".join([*lines[:place], line, *lines[place:]])
            assert not believed(sqlite_trail, verify, forged), (place, line)


@pytest.mark.parametrize("kind", ["export", "proof"])
@pytest.mark.parametrize("where", ["first", "last"])
def test_no_line_says_more_than_was_checked(
    sqlite_trail: Trail, kind: str, where: str, request: pytest.FixtureRequest
) -> None:
    """A tile, a checkpoint or an end that is an event besides was valid: who looks for `body` read the forged one."""
    verify = verify_export if kind == "export" else verify_proof
    content: bytes = request.getfixturevalue(kind)
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines):
        value = json.loads(line)
        more = {**value, **FORGED} if where == "last" else {**FORGED, **value}
        forged = [written(more)]
        inner = next(iter(value.values()))
        if isinstance(inner, dict):
            name = next(iter(value))
            more = {name: {**inner, "x": 1}} if where == "last" else {name: {"x": 1, **inner}}
            forged.append(written(more))
        for one in set(forged) - {line}:
            changed = b"".join([*lines[:number], one, *lines[number + 1 :]])
            assert not believed(sqlite_trail, verify, changed), one


@pytest.mark.parametrize("rest", [b"x", b"\n" * 2_000_000 + b'{"position":0,"body":{}}\n', b"\x00", b'{"end":{}}\n'])
def test_nothing_stands_behind_the_end(sqlite_trail: Trail, export: bytes, proof: bytes, rest: bytes) -> None:
    """Of a proof its first megabyte was read, and blank lines passed over: anything could stand behind them."""
    assert not believed(sqlite_trail, verify_export, export + rest)
    assert not believed(sqlite_trail, verify_proof, proof + rest)


def test_an_older_checkpoint_again_is_not_the_last_one(sqlite_trail: Trail) -> None:
    """The verdict named it as what the log was in the end."""
    sqlite_trail.fill(3)
    sqlite_trail.fill(2)
    lines = sqlite_trail.export().read_bytes().splitlines(keepends=True)
    older = next(line for line in lines if line.startswith(b'{"checkpoint"') and b"\\n3\\n" in line)
    last = max(number for number, line in enumerate(lines) if line.startswith(b'{"checkpoint"'))
    assert believed(sqlite_trail, verify_export, b"".join(lines))
    assert not believed(sqlite_trail, verify_export, b"".join([*lines[: last + 1], older, *lines[last + 1 :]]))
