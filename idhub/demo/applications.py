"""The downstream side of the demo: Office and Wiki (relying parties), and a SCIM service provider nobody here wrote."""

import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2

from idhub.demo.processes import Server, free_port


class Application:
    """A sample relying party in a process of its own, and what it holds, seen with its observer key."""

    def __init__(self, folder: Path, *, slug: str, title: str, title_zh: str) -> None:
        self.slug = slug
        self.title = title
        self.title_zh = title_zh
        self.server = Server(title, free_port(), folder / f"{slug}.log")
        self.address = self.server.address
        self.client_secret = secrets.token_urlsafe(32)
        self.client_secret_file = folder / f"{slug}.secret"
        _write_secret(self.client_secret_file, self.client_secret)
        self._observer_key = secrets.token_urlsafe(32)
        self._http = httpx2.Client(timeout=10, headers={"authorization": f"Bearer {self._observer_key}"})

    def start(self, issuer: str) -> None:
        """Start the application against the hub at `issuer`."""
        self.server.start(
            [
                *(sys.executable, "-m", "idhub.demo.relying_party", "--slug", self.slug, "--issuer", issuer),
                *("--title", self.title, "--title-zh", self.title_zh, "--port", str(self.server.port)),
                *("--client-id", self.slug, "--client-secret-file", self.client_secret_file),
            ],
            env={"RELYING_PARTY_OBSERVER_KEY": self._observer_key},
        )

    def sessions(self) -> list[dict[str, Any]]:
        """Its live local sessions, with the tokens it was given."""
        answer = self._http.get(f"{self.address}/state")
        answer.raise_for_status()
        sessions: list[dict[str, Any]] = answer.json()["sessions"]
        return sessions

    def session_of(self, name: str) -> dict[str, Any] | None:
        """The live session of the person with this display name."""
        return next((found for found in self.sessions() if found["claims"].get("name") == name), None)

    def has_session(self, sub: str) -> bool:
        """Whether a subject has a live session here."""
        return any(found["sub"] == sub for found in self.sessions())

    def close(self) -> None:
        """Stop."""
        self._http.close()
        self.server.stop()


class ScimTarget:
    """`scim2-server` in a process of its own, read directly with the same bearer token."""

    def __init__(self, folder: Path) -> None:
        self.server = Server("scim2-server", free_port(), folder / "scim.log")
        self.base_url = f"{self.server.address}/v2"
        self._token = secrets.token_urlsafe(32)
        self.token_file = folder / "scim.token"
        _write_secret(self.token_file, self._token)
        self._http = httpx2.Client(timeout=30, headers={"authorization": f"Bearer {self._token}"})

    def start(self) -> None:
        """Start the server."""
        program = Path(sys.executable).parent / "scim2-server"
        # In one word: a token may begin with a hyphen.
        self.server.start([program, "--port", str(self.server.port), f"--bearer-token={self._token}"])

    def count(self, scim_filter: str | None = None) -> int:
        """How many users it has, by its own count."""
        return int(self._list(scim_filter, count=1)["totalResults"])

    def by_external_id(self, external_id: str) -> list[dict[str, Any]]:
        """The users with this externalId; a correct hub never makes two."""
        resources: list[dict[str, Any]] = self._list(f'externalId eq "{external_id}"', count=10).get("Resources", [])
        return resources

    def by_user_name(self, user_name: str) -> dict[str, Any] | None:
        """The user with this name, where there is one."""
        resources: list[dict[str, Any]] = self._list(f'userName eq "{user_name}"', count=10).get("Resources", [])
        return resources[0] if resources else None

    def user(self, user_id: str) -> dict[str, Any]:
        """One user, read by id."""
        answer = self._http.get(f"{self.base_url}/Users/{user_id}")
        answer.raise_for_status()
        resource: dict[str, Any] = answer.json()
        return resource

    def _list(self, scim_filter: str | None, *, count: int) -> Mapping[str, Any]:
        query = {"count": str(count)} | ({"filter": scim_filter} if scim_filter else {})
        answer = self._http.get(f"{self.base_url}/Users", params=query)
        answer.raise_for_status()
        document: Mapping[str, Any] = answer.json()
        return document

    def close(self) -> None:
        """Stop, thawed where it was frozen."""
        self._http.close()
        self.server.stop()


def _write_secret(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text + "\n")
