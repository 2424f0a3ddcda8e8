"""SQLite on a disk that is full, at each write, and while the log is folded back into the file. D08, D10, D40.

A request that cannot be written is answered 503 with Retry-After and leaves nothing behind, events included; the
database opens afterwards, is whole, and work goes on when there is space, without a restart.

Two kinds of "full": a small file system of its own (ENOSPC; needs the right to mount), and a limit to the size of files
that is put on the running processes (EFBIG, which SQLite reports as an I/O error; needs no right).
"""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Literal

import httpx2
import pytest
from sqlalchemy import select

from idhub.directory.tables import Employment
from tests.flows.fault_checks import check
from tests.flows.fault_flows import FLOWS
from tests.flows.fault_scene import CLIENT, CLIENT_SECRET, COMPANY, SIGNER, Prepared, Scene, copied, prepare, sign_in
from tests.support.databases import Databases
from tests.support.nursery import Nursery

PAGE = 4096
STEPS = (*range(12), *range(12, 240, 12))
"""Pages left, one step after the other: each write of a request is the first that finds no room, for some of them."""
SIZE = 48 * 2**20
RESUMES_WITHIN = 10.0
Limit = Callable[[int | None], None]
"""Leave that many bytes to write; None: as many as anybody wants."""


@contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """Another file system at this place."""
    place.mkdir(parents=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "tmpfs", str(place)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no right to mount here: {made.stderr.decode(errors='replace').strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _fill(folder: Path) -> Limit:
    ballast = folder / "ballast"

    def limit(left: int | None) -> None:
        ballast.unlink(missing_ok=True)
        if left is None:
            return
        with ballast.open("wb") as file:
            while True:
                found = os.statvfs(folder)
                try:
                    os.posix_fallocate(
                        file.fileno(), 0, ballast.stat().st_size + found.f_bavail * found.f_frsize - left
                    )
                except OSError:
                    continue  # somebody wrote in between
                return

    return limit


def _cap(scene: Scene) -> Limit:
    def limit(left: int | None) -> None:
        log = scene.folder / "data" / "idhub.db-wal"
        size = (log.stat().st_size if log.exists() else 0) + (left or 0)
        soft = resource.RLIM_INFINITY if left is None else max(size, 1)
        for child in scene.children.values():
            resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))

    return limit


@pytest.fixture(scope="module")
def prepared(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    """The installation that is copied."""
    with Nursery() as nursery:
        yield prepare("sqlite", tmp_path_factory.mktemp("prepared-disk-"), nursery, databases)


def _fold(scene: Scene) -> None:
    """Fold the write-ahead log back into the file and shorten it, so that every write needs new space."""
    with scene.look() as database, database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")


class Clients:
    """Ask once, and write down what was acknowledged."""

    def __init__(self, scene: Scene, access_token: str) -> None:
        self._scene = scene
        self._access_token = access_token
        self._http = httpx2.Client(base_url=f"http://127.0.0.1:{scene.port}", timeout=30)
        self.statuses: Counter[int] = Counter()
        self.onboarded: list[str] = []
        self.refused: list[str] = []
        self._made = 0

    def write(self) -> bool:
        """One change; whether it was acknowledged."""
        self._made += 1
        number = f"QD{self._made:05}"
        today = date.today().isoformat()  # noqa: DTZ011 - the machine's own day will do
        post = {"employee_number": number, "company": COMPANY, "start_date": today, "employment_type": "contractor"}
        headers = {"authorization": f"Bearer {self._scene.prepared.api_token}"}
        body = {"display_name": "林晓", "employment": post}
        acknowledged = self._is_taken(self._http.post("/api/v1/people", json=body, headers=headers))
        (self.onboarded if acknowledged else self.refused).append(number)
        return acknowledged

    def open_a_page(self) -> bool:
        """The beginning of a sign-in: a write through the other speed's door."""
        from tests.flows.fault_clients import authorize_query

        answer = self._http.get("/oauth2/authorize", params=authorize_query())
        return answer.status_code == 303 or self._is_taken(answer)

    def spend(self) -> bool:
        """The token endpoint: a refusal that must be recorded, or 503 when that finds no room."""
        form = {"grant_type": "refresh_token", "refresh_token": "idh_rt_unknown"}
        answer = self._http.post("/oauth2/token", data=form, auth=(CLIENT, CLIENT_SECRET))
        return answer.status_code == 400 or self._is_taken(answer)

    def read(self) -> bool:
        """What writes nothing must work all the time."""
        answer = self._http.post("/oauth2/introspect", data={"token": self._access_token}, auth=(CLIENT, CLIENT_SECRET))
        return bool(answer.status_code == 200 and answer.json()["active"])

    def failing_checks(self) -> list[str]:
        """What /readyz names as unfit; its answer may be a second old."""
        time.sleep(1.1)
        return list(self._http.get("/readyz").json()["failing"])

    def close(self) -> None:
        """Close connections."""
        self._http.close()

    def _is_taken(self, answer: httpx2.Response) -> bool:
        self.statuses[answer.status_code] += 1
        if answer.is_success:
            return True
        assert answer.status_code in {503, 507}, f"{answer.status_code} {answer.text[:300]}\n{self._scene.tail()}"
        assert int(answer.headers["retry-after"]) >= 1
        assert "Traceback" not in answer.text
        return False


def _until(work: Callable[[], bool]) -> float:
    began = time.monotonic()
    while not work():
        assert time.monotonic() - began < RESUMES_WITHIN, "it does not go on"
        time.sleep(0.05)
    return time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["no space", "no growth"])
def test_a_full_disk_is_said_and_survived(
    prepared: Prepared, tmp_path: Path, kind: Literal["no space", "no growth"], figure: Callable[[str], None]
) -> None:
    with full_disk(kind, tmp_path / "disk"), copied(prepared, tmp_path / "disk" / "hub") as scene:
        scene.start("serve")
        limit = _fill(tmp_path / "disk") if kind == "no space" else _cap(scene)
        tokens = sign_in(scene, SIGNER)
        clients = Clients(scene, tokens["access_token"])
        doors = (clients.write, clients.open_a_page, clients.spend)
        resumed: list[float] = []
        failed_at: list[int] = []
        for step in STEPS:
            _fold(scene)
            limit(step * PAGE)
            results = [door() for door in doors]
            assert clients.read(), "reading goes on"
            limit(None)
            resumed.append(_until(lambda: all(door() for door in doors)))
            if all(results):
                break
            failed_at.append(step)
        assert failed_at, "nothing was refused: the disk was not full"
        assert failed_at[-1] < STEPS[-1], "the whole request fits in the end"

        # With the worker, which writes all the time: seals, leases, deliveries.
        scene.start("worker")
        scene.settle()
        _fold(scene)
        limit(0)
        for _ in range(20):
            clients.write()
            time.sleep(0.05)
        if kind == "no space":
            assert clients.failing_checks() == ["disk"], "monitoring is told why"
        limit(None)
        resumed.append(_until(clients.write))

        # The log is long, and folding it back finds no room.
        for _ in range(30):
            clients.write()
        limit(0)
        try:
            _fold(scene)
        except Exception as error:
            assert "full" in str(error) or "I/O" in str(error) or "locked" in str(error), error
        clients.write()
        limit(None)
        resumed.append(_until(clients.write))

        offboarding = next(flow for flow in FLOWS if flow.name == "offboarding")
        offboarding.act(scene)
        scene.settle()
        offboarding.check(scene)
        scene.settle()
        for role in tuple(scene.children):
            scene.stop(role)
        clients.close()
        check(scene)  # integrity_check, the log, every effect with its event
        with scene.look() as database, database.read() as session:
            present = set(session.execute(select(Employment.employee_number)).scalars())
        assert set(clients.onboarded) <= present, "an acknowledged change is lost"
        assert not present & set(clients.refused), "a refused change was made"
    figure(
        f"SQLite, {kind}: refused with up to {failed_at[-1]} pages left ({len(failed_at)} steps);"
        f" {clients.statuses[503]} answers of 503; work went on {max(resumed):.2f} s after there was space,"
        f" at most; {len(clients.onboarded)} changes acknowledged, 0 lost"
    )


@contextmanager
def full_disk(kind: str, place: Path) -> Iterator[None]:
    """A disk of its own, where it is the disk that is full."""
    if kind != "no space":
        yield
        return
    with small_disk(place):
        yield
