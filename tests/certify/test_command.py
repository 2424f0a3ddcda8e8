"""`idhub certify` from outside: over HTTP, against a sample and against scim2-server, which nobody here wrote."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from idhub.cli.certify import _place_of
from idhub.errors import Invalid
from idhub.signals.certify import SSF_CHECKS
from scim.samples.providers import TOKEN, Sample, serve
from tests.support.processes import free_port, running


def _environment(folder: Path) -> dict[str, str]:
    return {"IDHUB_DATA_DIR": str(folder), "PATH": "/usr/bin:/bin"}


def _idhub(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "idhub.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=_environment(folder),
        cwd=Path(__file__).parents[2],
        timeout=120,
    )


def certify(folder: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    (folder / "token").write_text(TOKEN + "\n")
    done = _idhub(folder, "certify", "scim", *arguments, "--token-file", str(folder / "token"))
    return done.returncode, json.loads(done.stdout) if done.stdout.startswith("{") else {}, done.stdout + done.stderr


@pytest.fixture
def broken_sample() -> Iterator[str]:
    with serve(Sample("deactivate"), 0) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v2"
        server.shutdown()


def test_report_is_readable_and_says_what_a_leave_rests_on(broken_sample: str, tmp_path: Path) -> None:
    status, _, said = certify(tmp_path, broken_sample)
    assert status == 1
    assert "grade C: 1 of" in said
    assert "dialect that fits: generic" in said
    line = next(line for line in said.splitlines() if line.startswith("FAIL"))
    assert "deactivate" in line
    assert "RFC 7643 section 4.1.1" in line
    assert TOKEN not in said
    assert not (tmp_path / "idhub.db").exists(), "grading needs no installation"


def _line(log: Path) -> str:
    """What it says when it has begun; it listens a moment before."""
    deadline = time.monotonic() + 60
    while "FILE holds" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    return next(line for line in log.read_text().splitlines() if line.startswith("try: "))


@pytest.mark.parametrize(
    ("kind", "fault"), [("scim", "deactivate"), ("oidc-logout", "session_ended"), ("ssf", "alg_none")]
)
def test_sample_of_the_command_line_is_caught_as_it_says(kind: str, fault: str, tmp_path: Path) -> None:
    port = free_port()
    arguments = ["certify", "sample", kind, fault, "--port", str(port)]
    log = tmp_path / "sample.log"
    with running([sys.executable, "-m", "idhub.cli", *arguments], port=port, log=log, env=_environment(tmp_path)):
        said = _line(log)
        _, _, command = said.partition("try: idhub ")
        command, _, secret = command.partition("   (FILE holds: ")
        (tmp_path / "secret").write_text(secret.rstrip(")") + "\n")
        done = _idhub(tmp_path, *command.replace("FILE", str(tmp_path / "secret")).split(), "--json")
    broken = [check["check"] for check in json.loads(done.stdout)["checks"] if check["verdict"] == "fail"]
    assert (broken, done.returncode) == ([fault], 1), said + done.stderr


def test_samples_name_their_faults_and_refuse_others(tmp_path: Path) -> None:
    listed = _idhub(tmp_path, "certify", "sample", "ssf", "--faults")
    assert listed.stdout.split() == sorted(check.name for check in SSF_CHECKS)
    refused = _idhub(tmp_path, "certify", "sample", "scim", "nothing")
    assert (refused.returncode, refused.stderr.splitlines()[-1].startswith("error [fault]: ")) == (1, True)


@pytest.mark.parametrize(
    "options", [["scim"], ["oidc-logout", "--client-id", "c", "--sub", "s"], ["ssf", "--audience", "a"]]
)
def test_address_where_nobody_answers_is_no_verdict(options: list[str], tmp_path: Path) -> None:
    kind, *rest = options
    done = _idhub(tmp_path, "certify", kind, f"http://127.0.0.1:{free_port()}/x", *rest)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("error [url]: No connection to 127.0.0.1:")


@pytest.mark.parametrize("alg", ["none", "HS256", ""])
def test_event_tokens_are_signed_in_one_of_two_ways(alg: str, tmp_path: Path) -> None:
    done = _idhub(tmp_path, "certify", "ssf", "http://127.0.0.1:9/x", "--audience", "a", "--alg", alg)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "error [alg]: alg must be ES256 or RS256.")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ([], "person"),
        (["--person", "QY1", "--sub", "s"], "person"),
        (["--person", "QY1", "--sid", "s"], "person"),
        (["--sub", "s", "--alg", "none"], "alg"),
    ],
)
def test_session_is_named_in_one_way(options: list[str], field: str, tmp_path: Path) -> None:
    done = _idhub(tmp_path, "certify", "oidc-logout", "http://127.0.0.1:9/x", "--client-id", "c", *options)
    assert (done.returncode, done.stderr.splitlines()[-1].startswith(f"error [{field}]: ")) == (1, True), done.stderr


def test_scim2_server_comes_out_well(tmp_path: Path) -> None:
    port = free_port()
    command: list[str | Path] = [
        Path(sys.executable).parent / "scim2-server",
        "--port",
        str(port),
        "--bearer-token",
        TOKEN,
    ]
    with running(command, port=port, log=tmp_path / "server.log") as server:
        status, data, said = certify(tmp_path, f"{server.address}/v2", "--json")
    broken = {check["check"]: check["detail"] for check in data["checks"] if check["verdict"] == "fail"}
    assert data["dialect"] == "generic", said
    assert {c["check"] for c in data["checks"] if c["verdict"] == "fail" and c["level"] == "must"} == set(), broken
    assert data["grade"] in {"A", "B"}, broken
    assert status == 0, "nothing that must hold is broken"


@pytest.mark.parametrize("url", ["nonsense", "ftp://x.example/", "https://", "http://127.0.0.1:99999/", "http://[::1"])
def test_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(Invalid) as refused:
        _place_of(url)
    assert (refused.value.field, refused.value.rule) == ("url", "certify.url")


def test_place_of_an_address_is_its_host_and_port() -> None:
    assert [_place_of(url) for url in ("https://a.example/x", "http://127.0.0.1:8182", "https://[::1]:9/")] == [
        "a.example:443",
        "127.0.0.1:8182",
        "[::1]:9",
    ]
