"""`idhub certify` from outside: over HTTP, against a sample and against scim2-server, which nobody here wrote."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from idhub.cli.certify import _place_of
from idhub.errors import Invalid
from tests.certify.samples import TOKEN, Sample, serve
from tests.support.processes import free_port, running


def certify(folder: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    (folder / "token").write_text(TOKEN + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "idhub.cli", "certify", "scim", *arguments, "--token-file", str(folder / "token")],
        capture_output=True,
        text=True,
        check=False,
        env={"IDHUB_DATA_DIR": str(folder), "PATH": "/usr/bin:/bin"},
        cwd=Path(__file__).parents[2],
        timeout=120,
    )
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
    assert status in {0, 2}


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
