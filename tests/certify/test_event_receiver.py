"""A receiver of security event tokens that nobody here wrote: graded by the command, told of changes by a stream.

`make receiver-proof` runs these; what `make test` installs has no compiler for it.
"""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from idhub.demo.hub import Hub
from tests.flows.conftest import PEOPLE, write_people
from tests.support.databases import Databases
from tests.support.processes import free_port, running, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PROJECT = Path(__file__).parent / "receiver"
AUDIENCE = "https://receiver.example"
TOKEN = "token-of-the-receiver"
PORT = free_port()
URL = f"http://127.0.0.1:{PORT}/ssf/push"
NOT_ACCEPTED = "invalid_key: The SET is signed with the algorithm ES256, which is not accepted"
CREATED = "urn:ietf:params:scim:event:prov:create:notice"


@pytest.fixture(scope="module")
def program() -> Path:
    """The receiver, built."""
    cargo = shutil.which("cargo")
    assert cargo, "cargo is missing (1.94 or later): no Debian package has it, see rustup.rs"
    subprocess.run([cargo, "build", "--quiet"], cwd=PROJECT, check=True, timeout=600)
    return PROJECT / "target" / "debug" / "receiver"


@pytest.fixture(scope="module")
def hub(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub")
    (folder / "token").write_text(TOKEN + "\n")
    (folder / "header").write_text(f"Bearer {TOKEN}\n")
    write_people(folder / "people.csv")
    with databases.fresh("sqlite", folder, migrated=False) as url:
        hub = Hub(folder, outbound_allow=f"127.0.0.1:{PORT}", settings={"IDHUB_DATABASE_URL": url})
        try:
            hub.start()
            yield hub
        finally:
            hub.close()


@contextmanager
def receiving(program: Path, hub: Hub, log: Path, *algorithm: str) -> Iterator[None]:
    arguments = [str(PORT), hub.address, f"{hub.address}/oauth2/jwks", AUDIENCE, *algorithm]
    with running([program, *arguments], port=PORT, log=log, env={"RECEIVER_TOKEN": TOKEN}):
        yield


@pytest.mark.parametrize(
    ("takes", "signed", "grade", "broken"),
    [
        ("ES256", "ES256", "B", {"wrong_media_type": "answered 202"}),
        # By itself it takes RS256 alone, as the interoperability profile of CAEP has it.
        ("", "RS256", "B", {"wrong_media_type": "answered 202"}),
        (
            *("", "ES256", "C"),
            {"error_codes": "says invalid_key for invalid_audience", "valid_accepted": f"answered 400: {NOT_ACCEPTED}"},
        ),
    ],
    ids=["as-streams-sign", "as-it-takes-by-itself", "not-agreed-on"],
)
def test_certify_says_of_it_what_is_so(
    program: Path, hub: Hub, tmp_path: Path, *, takes: str, signed: str, grade: str, broken: dict[str, str]
) -> None:
    """Each verdict was looked at by hand, in its source as well: it does not look at the media type."""
    with receiving(program, hub, tmp_path / "log", *filter(None, [takes])):
        graded = hub.run(
            *("certify", "ssf", URL, "--audience", AUDIENCE, "--token-file", hub.folder / "token", "--alg", signed),
            "--json",
            expect=(0, 1, 2),
        )
    found = {check["check"]: check["detail"] for check in graded.data["checks"] if check["verdict"] == "fail"}
    assert (graded.data["grade"], found) == (grade, broken)


def test_stream_tells_it_of_changes(program: Path, hub: Hub, tmp_path: Path) -> None:
    """What certify found it to take is what streams send."""
    log = tmp_path / "log"
    with receiving(program, hub, log, "ES256"):
        hub.run("token", "create", "--scope", "scim:read", "--name", "directory")
        hub.run(
            *("stream", "create", "--token", "directory", "--push", URL, "--audience", AUDIENCE),
            *("--authorization-file", hub.folder / "header"),
        )
        hub.run("people", "import", hub.folder / "people.csv")
        wait_until(
            lambda: log.read_text().splitlines().count(CREATED) == len(PEOPLE), seconds=60, what="it hears of everybody"
        )
        wait_until(lambda: _stream(hub)["waiting"] == 0, seconds=60, what="the hub knows that it has heard")
        assert (_stream(hub)["refused"], _stream(hub)["last_error"]) == (0, None)


def _stream(hub: Hub) -> dict[str, Any]:
    (stream,) = hub.run("stream", "list", "--json").data
    return dict(stream)
