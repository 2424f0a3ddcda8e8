"""The version before and this one side by side on one database, each as its processes: nobody is shut out meanwhile.

The older one is what this repository had when its schema was the one before.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest

import idhub
from idhub.demo import signing_in
from idhub.demo.browser import Browser
from idhub.demo.hub import Hub
from idhub.demo.processes import wait_until
from idhub.migrations import HEAD
from tests.flows.conftest import COMPANY, PASSWORD, write_people
from tests.support.databases import DatabaseKind, Databases

_ROOT = Path(idhub.__file__).parent.parent
_REVISIONS = "idhub/migrations/__init__.py"
_KNOWS_ITS_PLACE = "r0032"
"""Code from here on says that it is ready with the schema of the version after it."""


def _git(*arguments: str) -> str:
    program = shutil.which("git")
    if program is None or not (_ROOT / ".git").exists():
        pytest.skip("no repository to take the version before from")
    done = subprocess.run([program, *arguments], cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the repository has no older version: {done.stderr.strip()[:200]}")
    return done.stdout.strip()


def _commit_before() -> str:
    """The newest commit whose schema is an older one."""
    here = f'HEAD = "{HEAD}"'
    if here not in _git("show", f"HEAD:{_REVISIONS}"):
        return "HEAD"
    return _git("log", "-1", "--format=%H", f"-S{here}", "--", _REVISIONS) + "^"


@pytest.fixture(scope="module")
def tree_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of the version before."""
    folder = tmp_path_factory.mktemp("before")
    commit = _git("rev-parse", "--verify", _commit_before())
    _git("worktree", "prune")
    packed = folder / "tree.tar"
    _git("archive", "--format=tar", f"--output={packed}", commit, "idhub", "audit", "providers", "scim")
    shutil.unpack_archive(packed, folder)
    return folder


class _Node:
    """One process of one version, and what somebody does there."""

    def __init__(self, hub: Hub, api: httpx2.Client) -> None:
        self.hub = hub
        self.api = api

    def onboard(self, number: str) -> str:
        """A new person's id."""
        post = {"employee_number": number, "company": COMPANY, "employment_type": "regular"}
        body = {"display_name": "林晓", "employment": {**post, "start_date": datetime.now(UTC).date().isoformat()}}
        answer = self.api.post("/api/v1/people", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def offboard(self, person: str) -> None:
        answer = self.api.post(f"/api/v1/people/{person}/offboarding", json={})
        assert answer.is_success, answer.text

    def standing(self, person: str) -> str:
        answer = self.api.get(f"/api/v1/people/{person}")
        assert answer.status_code == 200, answer.text
        return str(answer.json()["standing"])

    def refuses_wrong_passwords(self, number: str) -> None:
        with Browser() as browser:
            entered = signing_in.sign_in(browser, f"{self.hub.address}/account", number, "wrong " + PASSWORD)
            assert entered.asked_for_password
            assert entered.page.status < 500
            assert not signing_in.is_signed_in_at_hub(browser, self.hub.address)

    def lists(self) -> None:
        for path in ("/api/v1/people", "/scim/v2/Users?count=10", "/api/v1/applications"):
            answer = self.api.get(path)
            assert answer.status_code == 200, (path, answer.text)


def _started(folder: Path, url: str, **more: str) -> Hub:
    settings = {"IDHUB_DATABASE_URL": url, "IDHUB_ARGON2_MEMORY_KIB": "1024", "IDHUB_ARGON2_TIME_COST": "1", **more}
    return Hub(folder, outbound_allow="127.0.0.1:9", settings=settings)


def _start(hub: Hub) -> None:
    """Start `serve`, whatever it says of its readiness."""
    hub.server.start(
        [hub._program, "serve", "--host", "127.0.0.1", "--port", str(hub.server.port)], env=hub._environment
    )
    wait_until(lambda: hub.get("/healthz").is_success, seconds=30, what="the hub answers")


@pytest.fixture(params=["sqlite", "postgresql"])
def nodes(
    request: pytest.FixtureRequest, databases: Databases, tree_before: Path, tmp_path: Path
) -> Iterator[tuple[_Node, _Node]]:
    """`serve` of the version before, with people; then its database is migrated, and `serve` of this one runs too."""
    kind: DatabaseKind = request.param
    write_people(tmp_path / "people.csv")
    path = os.pathsep.join([str(tree_before), os.environ.get("PYTHONPATH", "")])
    with databases.fresh(kind, tmp_path, migrated=False) as url:
        old = _started(tmp_path, url, PYTHONPATH=path)
        new = _started(tmp_path, url, IDHUB_ISSUER=old.address, PYTHONPATH=str(_ROOT))
        try:
            _start(old)
            old.run("people", "import", tmp_path / "people.csv")
            scopes = ("people:read", "people:write", "scim:read", "applications:read")
            given = [part for scope in scopes for part in ("--scope", scope)]
            token = old.run("token", "create", *given).stdout.strip()
            new.run("migrate")
            _start(new)
            headers = {"Authorization": f"Bearer {token}"}
            with (
                httpx2.Client(base_url=old.address, headers=headers, timeout=60) as at_old,
                httpx2.Client(base_url=f"http://127.0.0.1:{new.server.port}", headers=headers, timeout=60) as at_new,
            ):
                yield _Node(old, at_old), _Node(new, at_new)
        finally:
            new.close()
            old.close()


@pytest.mark.slow
def test_the_version_before_goes_on_while_this_one_runs_beside_it(nodes: tuple[_Node, _Node]) -> None:
    old, new = nodes
    assert new.hub.get("/readyz").status_code == 200
    readiness = old.hub.get("/readyz")
    if (
        (Path(old.hub._environment["PYTHONPATH"].split(os.pathsep)[0]) / "idhub/migrations/versions")
        .joinpath(f"{_KNOWS_ITS_PLACE}_schema_before.py")
        .exists()
    ):
        assert readiness.status_code == 200, readiness.text
    with Browser() as browser:
        link = new.hub.run("people", "invite", "QY000110").stdout.strip()
        signing_in.set_first_password(browser, link, PASSWORD)
        assert signing_in.sign_in(browser, f"{old.hub.address}/account", "QY000110", PASSWORD).page.status == 200
        assert signing_in.is_signed_in_at_hub(browser, old.hub.address)
        for node in nodes:
            node.lists()
        old.refuses_wrong_passwords("QY000111")
        made = [node.onboard(f"UP{place:03}") for place, node in enumerate(nodes)]
        # What one wrote, the other reads and ends.
        for person, node, other in zip(made, (new, old), nodes, strict=True):
            assert node.standing(person) == "active"
            node.offboard(person)
            assert other.standing(person) == "left"
        new.hub.run("offboard", "QY000110")
        assert not signing_in.is_signed_in_at_hub(browser, old.hub.address)
    new.hub.run("audit", "verify")
