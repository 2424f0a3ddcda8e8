"""The verifier finds every kind of tampering and says where, in exports and in live tables."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import insert, select, text

from audit.checker import VerifyResult
from audit.checkpoint import Checkpoint, Ed25519Signer, VerifyingKey, sign_checkpoint
from audit.errors import AuditError, InvalidNote
from audit.live import verify_database
from audit.merkle import Frontier, leaf_hash
from audit.tables import audit_checkpoints, audit_events, audit_head, event_place
from audit.verify import Unreadable, describe, main, read_keys, verify_export
from tests.audit.support import AT_PLACE, NOW, ORIGIN, Trail, event, written

Lines = list[bytes]
SIZE = 700


@pytest.fixture
def export(sqlite_trail: Trail) -> Path:
    """700 events, with checkpoints at 300, 512 and 700."""
    for count in (300, 212, 188):
        sqlite_trail.fill(count)
    return sqlite_trail.export()


def lines_of(path: Path) -> Lines:
    return path.read_bytes().splitlines(keepends=True)


def at(lines: Lines, position: int) -> int:
    start = b'{"position":%d,' % position
    return next(number for number, line in enumerate(lines) if line.startswith(start))


def verified(trail: Trail, path: Path, lines: Lines | None = None, *, witness: bool = False) -> VerifyResult:
    if lines is not None:
        path.write_bytes(b"".join(lines))
    return verify_export(path, keys=trail.keys, witness=trail.witness if witness else None)


def renumbered(lines: Lines) -> Lines:
    """What a careful forger does: positions, tiles, header and end line are made to fit again; signatures cannot be."""
    made: Lines = []
    leaves: list[bytes] = []
    position = 0
    for line in lines:
        if line.startswith(b'{"position":'):
            body = line[line.index(b'"body":') + 7 : -2]
            made.append(b'{"position":%d,"body":%b}\n' % (position, body))
            leaves.append(leaf_hash(body))
            position += 1
            if position % 256 == 0:
                made.append(tile_line(position // 256 - 1, leaves))
                leaves = []
        elif not line.startswith((b'{"tile"', b'{"end"')):
            made.append(line)
    if leaves:
        made.append(tile_line(position // 256, leaves))
    header = json.loads(made[0])
    return [written({**header, "size": position}), *made[1:], b'{"end":{"size":%d}}\n' % position]


def tile_line(number: int, leaves: list[bytes]) -> bytes:
    return b'{"tile":%d,"hashes":"%b"}\n' % (number, b"".join(leaves).hex().encode())


def test_an_honest_export_is_valid(sqlite_trail: Trail, export: Path) -> None:
    result = verified(sqlite_trail, export, witness=True)
    assert result.findings == []
    assert (result.events, result.size, result.checkpoints, result.unproven) == (SIZE, SIZE, 3, 0)
    assert (result.origin, result.witnessed_size, result.exit_code) == (ORIGIN, SIZE, 0)


def test_exports_of_both_databases_are_valid(trail: Trail) -> None:
    trail.append(event(1, personal={"name": "张三"}, details={"q": 'a"\\\n\u2028é'}))
    trail.fill(260)
    result = verify_export(trail.export(reveal=True), keys=trail.keys, witness=trail.witness)
    assert result.findings == []
    assert (result.events, result.revealed) == (261, 1)


def edit(lines: Lines) -> None:
    lines[at(lines, 300)] = lines[at(lines, 300)].replace(b"svc_hr", b"svc_hx")


def delete(lines: Lines) -> None:
    del lines[at(lines, 300)]


def swap_bodies(lines: Lines) -> None:
    one, other = at(lines, 300), at(lines, 303)
    bodies = [lines[number].split(b'"body":', 1)[1] for number in (one, other)]
    lines[one] = b'{"position":300,"body":' + bodies[1]
    lines[other] = b'{"position":303,"body":' + bodies[0]


def swap_lines(lines: Lines) -> None:
    one = at(lines, 300)
    lines[one], lines[one + 1] = lines[one + 1], lines[one]


def repeat(lines: Lines) -> None:
    lines.insert(at(lines, 300), lines[at(lines, 299)])


def cut_end(lines: Lines) -> None:
    del lines[at(lines, 650) :]


def cut_within_a_line(lines: Lines) -> None:
    del lines[at(lines, 650) + 1 :]
    lines[-1] = lines[-1][:40]


def garble(lines: Lines) -> None:
    lines[at(lines, 300)] = b"\xff\xfe not json\n"


def rewrite_without_changing_the_meaning(lines: Lines) -> None:
    lines[at(lines, 300)] = lines[at(lines, 300)].replace(b'"body":', b'"body": ')


def change_a_tile(lines: Lines) -> None:
    number = next(number for number, line in enumerate(lines) if line.startswith(b'{"tile":1'))
    value = json.loads(lines[number])
    hashes = bytearray(bytes.fromhex(value["hashes"]))
    hashes[44 * 32] ^= 1
    lines[number] = tile_line(1, [bytes(hashes)])


@pytest.mark.parametrize(
    ("tamper", "kind", "position"),
    [
        (edit, "edited", 300),
        (delete, "missing", 300),
        (swap_bodies, "swapped", 300),
        (swap_lines, "missing", 300),
        (repeat, "inserted", 299),
        (cut_end, "truncated", 650),
        (cut_within_a_line, "truncated", 650),
        (garble, "edited", 300),
        (rewrite_without_changing_the_meaning, "edited", 300),
        (change_a_tile, "edited", 300),
    ],
)
def test_tampering_is_found_and_located(
    sqlite_trail: Trail, export: Path, tamper: Callable[[Lines], None], kind: str, position: int
) -> None:
    """D35, D36: edited, deleted, swapped, inserted, truncated."""
    lines = lines_of(export)
    tamper(lines)
    result = verified(sqlite_trail, export, lines)
    assert not result.is_valid
    assert result.exit_code == 1
    assert result.first_bad == position
    assert kind in {one.kind for one in result.findings if one.position == position}


def renumber_after_delete(lines: Lines) -> Lines:
    delete(lines)
    return renumbered(lines)


def renumber_after_insert(lines: Lines) -> Lines:
    repeat(lines)
    return renumbered(lines)


def renumber_after_edit(lines: Lines) -> Lines:
    edit(lines)
    return renumbered(lines)


def renumber_after_swap(lines: Lines) -> Lines:
    swap_lines(lines)
    return renumbered(lines)


@pytest.mark.parametrize(
    "forge", [renumber_after_delete, renumber_after_insert, renumber_after_edit, renumber_after_swap]
)
def test_a_forger_who_makes_everything_fit_fails_at_the_signature(
    sqlite_trail: Trail, export: Path, forge: Callable[[Lines], Lines]
) -> None:
    result = verified(sqlite_trail, export, forge(lines_of(export)))
    assert not result.is_valid
    # Between the checkpoints of 300 and 512, or at the one that no longer stands after as many events as it covers.
    assert result.first_bad is not None
    assert 299 <= result.first_bad < 512


def test_deleting_and_moving_up_is_located_by_the_tile(sqlite_trail: Trail, export: Path) -> None:
    """Numbers are made to fit, tiles are left: the very event is named."""
    lines = [line for line in lines_of(export) if not line.startswith(b'{"checkpoint"')]
    tiles = {line.split(b",")[0]: line for line in lines if line.startswith(b'{"tile"')}
    delete(lines)
    forged = [tiles.get(line.split(b",")[0], line) for line in renumbered(lines)]
    result = verified(sqlite_trail, export, forged)
    assert ("missing", 300) in {(one.kind, one.position) for one in result.findings}


def test_a_shortened_export_is_found_by_the_witness_alone(sqlite_trail: Trail, export: Path) -> None:
    lines = lines_of(export)
    checkpoints = [number for number, line in enumerate(lines) if line.startswith(b'{"checkpoint"')]
    short = renumbered(lines[: checkpoints[1] + 1])
    assert verified(sqlite_trail, export, short).is_valid
    result = verified(sqlite_trail, export, short, witness=True)
    assert [(one.kind, one.position) for one in result.findings] == [("truncated", 512)]


def test_a_witness_that_has_gone_on_is_not_taken_for_truncation(sqlite_trail: Trail, export: Path) -> None:
    """The export is whole as of its signed time; what came later is counted, and is not in it."""
    sqlite_trail.fill(30)
    result = verified(sqlite_trail, export, witness=True)
    assert (result.findings, result.size, result.witnessed_size, result.beyond) == ([], SIZE, SIZE + 30, 30)
    assert "note: events 700 to 729 came after this export and are not in it" in describe(result)
    assert f"whole: the hub signed that it exported these 700 events at {result.made_at}" in describe(result)


def without_statement(lines: Lines) -> Lines:
    return [line for line in lines if not line.startswith(b'{"statement"')]


def with_foreign_statement(lines: Lines) -> Lines:
    signer = Ed25519Signer(Ed25519PrivateKey.generate())
    note = sign_checkpoint(Checkpoint(ORIGIN, 512, bytes(32), NOW, "export"), signer)
    return [*without_statement(lines)[:-1], written({"statement": note}), lines[-1]]


def with_a_checkpoint_as_statement(lines: Lines) -> Lines:
    last = max(number for number, line in enumerate(lines) if line.startswith(b'{"checkpoint"'))
    statement = lines[last].replace(b'{"checkpoint"', b'{"statement"')
    return [*without_statement(lines)[:-1], statement, lines[-1]]


def with_its_own_statement(lines: Lines) -> Lines:
    return lines


@pytest.mark.parametrize(
    "forge", [without_statement, with_foreign_statement, with_a_checkpoint_as_statement, with_its_own_statement]
)
def test_an_export_that_was_cut_short_has_no_statement_to_show(
    sqlite_trail: Trail, export: Path, forge: Callable[[Lines], Lines]
) -> None:
    lines = lines_of(export)
    statement = next(line for line in lines if line.startswith(b'{"statement"'))
    checkpoints = [number for number, line in enumerate(lines) if line.startswith(b'{"checkpoint"')]
    short = renumbered([*lines[: checkpoints[1] + 1], statement])
    result = verified(sqlite_trail, export, forge(short), witness=True)
    assert ("truncated", 512) in {(one.kind, one.position) for one in result.findings}
    assert result.beyond == 0


def test_an_old_export_is_told_by_its_time(sqlite_trail: Trail, export: Path) -> None:
    made = sqlite_trail.now
    assert verify_export(export, keys=sqlite_trail.keys, made_after=made).is_valid
    later = verify_export(export, keys=sqlite_trail.keys, made_after=made + timedelta(seconds=1))
    assert [one.kind for one in later.findings] == ["stale"]
    export.write_bytes(b"".join(without_statement(lines_of(export))))
    unsigned = verify_export(export, keys=sqlite_trail.keys, made_after=made)
    assert [one.kind for one in unsigned.findings] == ["stale"]


def test_events_after_the_last_checkpoint_are_no_proof(sqlite_trail: Trail, export: Path) -> None:
    lines = lines_of(export)
    forged = lines[at(lines, 699)].replace(b'"position":699', b'"position":700')
    lines.insert(at(lines, 699) + 1, forged)
    result = verified(sqlite_trail, export, renumbered(lines))
    assert result.first_bad in (699, 700)


def test_an_export_without_checkpoints_proves_nothing(sqlite_trail: Trail, export: Path) -> None:
    lines = [line for line in lines_of(export) if not line.startswith(b'{"checkpoint"')]
    assert {one.kind for one in verified(sqlite_trail, export, lines).findings} == {"unproven"}


def test_a_checkpoint_signed_by_somebody_else_is_refused(sqlite_trail: Trail, export: Path) -> None:
    """A whole forged log with its own key: keys come from outside only."""
    signer = Ed25519Signer(Ed25519PrivateKey.generate())
    lines = [line for line in lines_of(export) if not line.startswith(b'{"checkpoint"')]
    edit(lines)
    forged = renumbered(lines)
    frontier = Frontier()
    for line in forged:
        if line.startswith(b'{"position":'):
            frontier.extend([leaf_hash(line[line.index(b'"body":') + 7 : -2])])
    note = sign_checkpoint(Checkpoint(ORIGIN, SIZE, frontier.root(), NOW), signer)
    forged.insert(-1, written({"checkpoint": note}))
    forged[0] = json.dumps({**json.loads(forged[0]), "keys": [signer.public_key.hex()]}).encode() + b"\n"
    result = verified(sqlite_trail, export, forged)
    assert "signature" in {one.kind for one in result.findings}


def test_a_checkpoint_of_another_log_is_refused(sqlite_trail: Trail, export: Path) -> None:
    lines = lines_of(export)
    place = max(number for number, line in enumerate(lines) if line.startswith(b'{"checkpoint"'))
    root = bytes.fromhex(verified(sqlite_trail, export).root or "")
    note = sign_checkpoint(Checkpoint("other.example/audit", SIZE, root, NOW), sqlite_trail.signer)
    lines[place] = written({"checkpoint": note})
    assert "origin" in {one.kind for one in verified(sqlite_trail, export, lines).findings}
    sqlite_trail.export()
    wanted = verify_export(export, keys=sqlite_trail.keys, origin="other.example/audit")
    assert [one.kind for one in wanted.findings] == ["origin"]


def test_a_fork_that_the_operator_signed_is_found_by_the_witness(sqlite_trail: Trail, export: Path) -> None:
    """Whoever holds the key can sign another history, but not take back what the witness has."""
    lines = [line for line in lines_of(export) if not line.startswith((b'{"checkpoint"', b'{"statement"'))]
    edit(lines)
    forged = renumbered(lines)
    frontier = Frontier()
    for line in forged:
        if line.startswith(b'{"position":'):
            frontier.extend([leaf_hash(line[line.index(b'"body":') + 7 : -2])])
    note = sign_checkpoint(Checkpoint(ORIGIN, SIZE, frontier.root(), NOW), sqlite_trail.signer)
    forged.insert(-1, written({"checkpoint": note}))
    assert verified(sqlite_trail, export, forged).is_valid
    result = verified(sqlite_trail, export, forged, witness=True)
    assert [(one.kind, one.position, one.until) for one in result.findings] == [("root", 300, 512)]


def test_a_witness_with_a_foreign_note_is_unreadable(sqlite_trail: Trail, export: Path) -> None:
    signer = Ed25519Signer(Ed25519PrivateKey.generate())
    sqlite_trail.witness.publish(sign_checkpoint(Checkpoint(ORIGIN, 1, bytes(32), NOW), signer))
    with pytest.raises(InvalidNote, match="no known key"):
        verified(sqlite_trail, export, witness=True)


def test_revealed_values_must_be_the_ones_committed_to(sqlite_trail: Trail) -> None:
    sqlite_trail.append(event(1, personal={"name": "张三"}))
    sqlite_trail.fill(3)
    path = sqlite_trail.export(reveal=True)
    lines = lines_of(path)
    number = next(number for number, line in enumerate(lines) if line.startswith(b'{"personal"'))
    for change in ({"name": ["李四", "00" * 16]}, {"title": ["x", "00" * 16]}, {"name": "x"}):
        lines[number] = written({"personal": {"position": 0, "values": change}})
        result = verified(sqlite_trail, path, lines)
        assert [(one.kind, one.position) for one in result.findings] == [("commitment", 0)]


def test_a_name_that_stands_twice_is_not_valid(sqlite_trail: Trail) -> None:
    """RFC 8259 section 4: one reader takes the first, another the last, and only one of the two was checked."""
    sqlite_trail.append(event(1, personal={"name": "张三"}))
    sqlite_trail.fill(3)
    path = sqlite_trail.export(reveal=True)
    lines = lines_of(path)
    assert verified(sqlite_trail, path, lines).is_valid
    forged = [
        (b'{"personal"', b'"values":{', b'"values":{"name":["\xe6\x9d\x8e\xe5\x9b\x9b","00"],'),
        (b'{"personal"', b'"values":', b'"values":{"name":["\xe6\x9d\x8e\xe5\x9b\x9b","00"]},"values":'),
        (b'{"tile"', b'"hashes":', b'"hashes":"00","hashes":'),
        (b'{"checkpoint"', b'"checkpoint":', b'"checkpoint":"forged","checkpoint":'),
        (b'{"end"', b'"size":', b'"size":99,"size":'),
        (b'{"format"', b'"size":', b'"size":99,"size":'),
    ]
    for start, honest, twice in forged:
        number = next(number for number, line in enumerate(lines) if line.startswith(start))
        changed = [*lines]
        changed[number] = lines[number].replace(honest, twice, 1)
        assert changed != lines
        try:
            assert not verified(sqlite_trail, path, changed).is_valid, (start, twice)
        except Unreadable:
            assert start == b'{"format"'


@pytest.mark.parametrize(
    "content", [b"", b"{}\n", b"[1]\n", b"not json\n", b'{"format":"idhub-audit-export","version":2}\n', b"\x00" * 99]
)
def test_what_is_no_export_is_unreadable(sqlite_trail: Trail, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(Unreadable):
        verified(sqlite_trail, path)


@pytest.mark.parametrize(
    "line",
    [b"null\n", b"{}\n", b'{"tile":0}\n', b'{"tile":-1,"hashes":"00"}\n', b'{"tile":"x","hashes":"00"}\n',
     b'{"checkpoint":7}\n', b'{"checkpoint":"a\\n\\nb"}\n', b'{"personal":3}\n', b'{"personal":{"values":{"a":1}}}\n',
     b'{"end":null}\n', b'{"position":true,"body":{}}\n', b'{"position":1e3,"body":{}}\n', b"[" * 9_000 + b"\n",
     b'{"tile":99,"withheld":true,"hashes":"00"}\n'],
)  # fmt: skip
def test_a_hostile_line_is_a_finding_never_a_crash(sqlite_trail: Trail, export: Path, line: bytes) -> None:
    lines = lines_of(export)
    lines.insert(at(lines, 300), line)
    assert not verified(sqlite_trail, export, lines).is_valid


@pytest.mark.parametrize(
    ("end", "beside"),
    [(b',"type":"audit.pruned"}', b""), (b"}", b'{"personal":{"position":300,"values":{}}}\n')],
    ids=["a decision", "an event with personal values"],
)
def test_an_event_of_nothing_but_brackets_is_a_finding_never_a_crash(
    sqlite_trail: Trail, export: Path, end: bytes, beside: bytes
) -> None:
    lines = lines_of(export)
    lines[at(lines, 300)] = b'{"position":300,"body":' + b"[" * 200_000 + end + b"}\n" + beside
    assert not verified(sqlite_trail, export, lines).is_valid


def test_a_tile_of_no_events_is_a_finding(sqlite_trail: Trail, export: Path) -> None:
    lines = lines_of(export)
    lines.insert(at(lines, 0), tile_line(0, []))
    assert verified(sqlite_trail, export, lines).findings[0].text == "a tile cannot be read"


def jwks_of(trail: Trail, path: Path) -> Path:
    import base64

    x = base64.urlsafe_b64encode(trail.signer.public_key).decode().rstrip("=")
    other = {"kty": "EC", "crv": "P-256", "kid": "receipt-1", "x": "AA", "y": "AA"}
    path.write_text(json.dumps({"keys": [other, {"kty": "OKP", "crv": "Ed25519", "kid": "checkpoint-1", "x": x}]}))
    return path


def test_the_command_stands_alone(sqlite_trail: Trail, export: Path, tmp_path: Path) -> None:
    """It runs in a Python that has neither SQLAlchemy nor orjson; exit status 0, 1, 2."""
    keys = jwks_of(sqlite_trail, tmp_path / "keys.json")
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    for name in ("sqlalchemy", "orjson", "joserfc", "jwt", "psycopg"):
        (hidden / f"{name}.py").write_text("raise ImportError('not here')")
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "audit.verify", str(export), "--keys", str(keys)]
    command += ["--witness", str(tmp_path / "witness.jsonl"), "--origin", ORIGIN]

    def run() -> subprocess.CompletedProcess[str]:
        environment = {"PYTHONPATH": f"{hidden}:{root}"}
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    good = run()
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.startswith("valid: 700 events, 3 checkpoints of hub.example/audit")
    lines = lines_of(export)
    edit(lines)
    export.write_bytes(b"".join(lines))
    bad = run()
    assert bad.returncode == 1
    assert bad.stdout.startswith("INVALID at 300 (edited): event 300 is not the one that was sequenced there")
    export.write_text("nonsense")
    assert run().returncode == 2


def test_unreadable_keys_and_witnesses_end_with_2(
    sqlite_trail: Trail, export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = jwks_of(sqlite_trail, tmp_path / "keys.json")
    (tmp_path / "none.json").write_text('{"keys":[]}')
    (tmp_path / "bad.json").write_text('{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA"}]}')
    assert main([str(export), "--keys", str(tmp_path / "absent.json")]) == 2
    assert main([str(export), "--keys", str(tmp_path / "none.json")]) == 2
    assert main([str(export), "--keys", str(tmp_path / "bad.json")]) == 2
    assert main([str(tmp_path / "absent"), "--keys", str(keys)]) == 2
    assert main([str(export), "--keys", str(keys), "--witness", str(tmp_path / "absent")]) == 2
    assert capsys.readouterr().out == ""
    assert main([str(export), "--keys", str(keys), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["valid"] is True


def test_keys_for_something_else_do_not_sign_checkpoints(sqlite_trail: Trail, tmp_path: Path) -> None:
    path = jwks_of(sqlite_trail, tmp_path / "keys.json")
    value = json.loads(path.read_text())
    value["keys"][1]["idhub_purpose"] = "receipt"
    path.write_text(json.dumps(value))
    with pytest.raises(Unreadable, match="holds no Ed25519 key"):
        read_keys(path)


# Live tables


def forge(trail: Trail, statement: str, **values: object) -> None:
    with trail.without_guards() as connection:
        connection.execute(text(statement), values)


def live(trail: Trail) -> VerifyResult:
    with trail.engine.connect() as connection:
        return verify_database(connection, trail.keys, trail.witness)


def test_live_tables_verify_and_the_unproven_tail_is_counted(trail: Trail) -> None:
    trail.fill(300)
    trail.append(event(1), event(2))
    result = live(trail)
    assert result.findings == []
    assert (result.events, result.unproven, result.size) == (300, 2, 300)


@pytest.mark.parametrize("column", ["body", "leaf_hash"])
def test_a_column_whose_type_was_changed_is_a_finding_with_its_place(sqlite_trail: Trail, column: str) -> None:
    """SQLite stores any type anywhere: `||` makes text of bytes."""
    sqlite_trail.fill(300)
    forge(sqlite_trail, f"UPDATE audit_events SET {column} = {column} || 'x' WHERE {AT_PLACE.format('= 270')}")
    result = live(sqlite_trail)
    assert (result.is_valid, result.first_bad) == (False, 270)
    assert {finding.kind for finding in result.findings} >= {"edited"}


def test_an_empty_trail_is_valid(trail: Trail) -> None:
    assert live(trail).findings == []


@pytest.mark.parametrize(
    ("statement", "kind", "position"),
    [
        ("UPDATE audit_events SET body = :forged WHERE " + AT_PLACE.format("= 270"), "edited", 270),
        ("UPDATE audit_events SET body = :forged, leaf_hash = :leaf WHERE " + AT_PLACE.format("= 270"), "edited", 270),
        ("UPDATE audit_events SET actor_id = 'per_scapegoat' WHERE " + AT_PLACE.format("= 270"), "edited", 270),
        ("UPDATE audit_events SET at = at + 1 WHERE " + AT_PLACE.format("= 3"), "edited", 3),
        ("DELETE FROM audit_events WHERE " + AT_PLACE.format("= 270"), "missing", 270),
        ("DELETE FROM audit_events WHERE " + AT_PLACE.format("< 256"), "missing", 0),
        ("DELETE FROM audit_events WHERE " + AT_PLACE.format(">= 290"), "missing", 290),
        ("DELETE FROM audit_events", "missing", 0),
        ("UPDATE audit_events SET position = 9 WHERE " + AT_PLACE.format("= 270"), "edited", 270),
        ("UPDATE audit_events SET id = -5 WHERE " + AT_PLACE.format("= 270"), "missing", 270),
        ("DELETE FROM audit_positions WHERE position = 270", "missing", 270),
        ("DELETE FROM audit_positions WHERE position < 256", "missing", 0),
        ("DELETE FROM audit_positions WHERE position >= 290", "truncated", 290),
        ("DELETE FROM audit_positions", "truncated", 0),
        ("UPDATE audit_positions SET event_row = -5 WHERE position = 270", "missing", 270),
        ("UPDATE audit_positions SET position = 300 WHERE position = 270", "missing", 270),
        ("UPDATE audit_positions SET position = -1 WHERE position = 270", "missing", 270),
        ("INSERT INTO audit_positions (position, event_row) VALUES (300, -5)", "missing", 300),
        ("DELETE FROM audit_tiles", "missing", 0),
        ("UPDATE audit_head SET size = 200", "inserted", 200),
        ("DELETE FROM audit_checkpoints", "truncated", None),
        ("UPDATE audit_checkpoints SET note = 'x'", "signature", 299),
    ],
)
def test_tampering_with_tables_is_found_and_located(
    trail: Trail, statement: str, kind: str, position: int | None
) -> None:
    trail.fill(300)
    with trail.engine.connect() as connection:
        body = bytes(connection.scalars(select(audit_events.c.body).where(event_place == 270)).one())
    forged = body.replace(b"svc_hr", b"svc_hx") if kind == "edited" else b""
    wanted = {"forged": forged, "leaf": hashlib.sha256(b"\x00" + forged).digest()}
    forge(trail, statement, **{name: value for name, value in wanted.items() if f":{name}" in statement})
    result = live(trail)
    if statement == "DELETE FROM audit_checkpoints":
        # Nothing is signed any more, and all is counted as unproven; the witness still vouches for it.
        assert (result.unproven, result.checkpoints, result.witnessed_size) == (300, 0, 300)
        return
    assert not result.is_valid
    assert kind in {one.kind for one in result.findings}
    assert result.first_bad == position


def test_swapped_rows_are_found_in_the_tables(trail: Trail) -> None:
    trail.fill(300)
    forge(trail, "UPDATE audit_positions SET position = 9999 WHERE position = 10")
    forge(trail, "UPDATE audit_positions SET position = 10 WHERE position = 20")
    forge(trail, "UPDATE audit_positions SET position = 20 WHERE position = 9999")
    assert ("swapped", 10) in {(one.kind, one.position) for one in live(trail).findings}


def test_a_rewritten_history_with_a_new_key_is_found(trail: Trail) -> None:
    trail.fill(20)
    private = Ed25519PrivateKey.generate()
    with trail.engine.connect() as connection:
        head = connection.execute(select(audit_head)).one()
    note = sign_checkpoint(Checkpoint(ORIGIN, 20, bytes(head.root), NOW), Ed25519Signer(private))
    with trail.without_guards() as connection:
        connection.execute(audit_checkpoints.delete())
        connection.execute(insert(audit_checkpoints), [{"size": 20, "root": head.root, "signed_at": 1, "note": note}])
    assert "signature" in {one.kind for one in live(trail).findings}
    assert VerifyingKey("x", private.public_key().public_bytes_raw(), private.public_key()) not in trail.keys


def test_a_log_with_a_hole_is_not_exported(trail: Trail) -> None:
    trail.fill(10)
    forge(trail, "DELETE FROM audit_events WHERE " + AT_PLACE.format("= 5"))
    with pytest.raises(AuditError, match="hole at 5"):
        trail.export()


def test_nothing_is_exported_before_the_first_checkpoint(trail: Trail) -> None:
    trail.append(event(1))
    with pytest.raises(AuditError, match="no checkpoint yet"):
        trail.export()


def test_what_is_not_proven_yet_is_not_exported(trail: Trail) -> None:
    trail.fill(10)
    trail.append(event(1))
    trail.sequencer.run_once(trail.now)
    result = verify_export(trail.export(), keys=trail.keys)
    assert (result.is_valid, result.events) == (True, 10)
