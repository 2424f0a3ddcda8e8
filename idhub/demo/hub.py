"""The hub as the demo meets it: a server process, the `idhub` command beside it, and its published endpoints."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from idhub.demo.narrator import StoryFailed
from idhub.demo.processes import Server, free_port, wait_until

_COMMAND_TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class CommandResult:
    """What a command printed and how it ended."""

    command: str
    status: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def data(self) -> Any:
        """The JSON that `--json` printed.

        Raises:
            StoryFailed: it is none.
        """
        try:
            return json.loads(self.stdout)
        except json.JSONDecodeError as error:
            raise StoryFailed(f"{self.command} printed no JSON:\n{self.stdout}\n{self.stderr}") from error


class Hub:
    """One installation in a folder of its own; on the embedded default, unless `settings` (IDHUB_*) say otherwise."""

    def __init__(self, folder: Path, *, outbound_allow: str, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.server = Server("the hub", free_port(), folder / "hub.log")
        self.address = self.server.address
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("IDHUB_")},
            "IDHUB_ISSUER": self.address,
            "IDHUB_DATA_DIR": str(folder / "data"),
            "IDHUB_OUTBOUND_ALLOW": outbound_allow,
            **(settings or {}),
        }
        self._program = Path(sys.executable).parent / "idhub"
        self._http = httpx2.Client(timeout=30)

    def start(self) -> None:
        """Start `idhub serve` on an empty folder and wait until it is ready."""
        self.server.start(
            [self._program, "serve", "--host", "127.0.0.1", "--port", str(self.server.port)], env=self._environment
        )
        wait_until(self._is_ready, seconds=30, what="the hub is ready")

    def _is_ready(self) -> bool:
        return self._http.get(f"{self.address}/readyz").status_code == httpx2.codes.OK

    def run(self, *arguments: str | Path, expect: tuple[int, ...] = (0,), alone: bool = False) -> CommandResult:
        """Run an `idhub` command beside the server.

        Args:
            expect: exit statuses that are right here.
            alone: without the hub's settings: the command must not need them.

        Raises:
            StoryFailed: it ended otherwise; quotes what it said.
        """
        environment = self._environment
        if alone:
            environment = {name: value for name, value in environment.items() if not name.startswith("IDHUB_")}
        command = [str(self._program), *[str(argument) for argument in arguments]]
        start = time.monotonic()
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment,
            stdin=subprocess.DEVNULL,
            timeout=_COMMAND_TIMEOUT_SECONDS,
            check=False,
        )
        shown = "idhub " + " ".join(command[1:])
        if done.returncode not in expect:
            raise StoryFailed(f"{shown}: exit status {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        return CommandResult(shown, done.returncode, done.stdout, done.stderr, time.monotonic() - start)

    def get(self, path: str) -> httpx2.Response:
        """GET a path of the hub, as nobody."""
        return self._http.get(f"{self.address}{path}")

    def discovery(self) -> Mapping[str, Any]:
        """The OpenID provider's metadata."""
        document: Mapping[str, Any] = self.get("/.well-known/openid-configuration").json()
        return document

    def close(self) -> None:
        """Stop the server."""
        self._http.close()
        self.server.stop()


class Client:
    """Speaks to the hub's machine endpoints with an application's own credentials."""

    def __init__(self, metadata: Mapping[str, Any], client_id: str, client_secret: str) -> None:
        self._metadata = metadata
        self._http = httpx2.Client(timeout=30, auth=(client_id, client_secret))
        self._bare = httpx2.Client(timeout=30)

    def refresh(self, refresh_token: str) -> httpx2.Response:
        """Use a refresh token."""
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        return self._http.post(self._metadata["token_endpoint"], data=form)

    def is_active(self, token: str) -> bool:
        """Whether introspection calls a token active (RFC 7662)."""
        answer = self._http.post(self._metadata["introspection_endpoint"], data={"token": token})
        answer.raise_for_status()
        return bool(answer.json()["active"])

    def userinfo(self, access_token: str) -> httpx2.Response:
        """Ask userinfo with an access token."""
        headers = {"authorization": f"Bearer {access_token}"}
        return self._bare.get(self._metadata["userinfo_endpoint"], headers=headers)

    def close(self) -> None:
        """Close connections."""
        self._http.close()
        self._bare.close()
