"""What `make bench` measures: idhub on each database, and its peers. Each a process pinned to one core."""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode

import uvloop

from tests.benchmarks import hub
from tests.benchmarks.load import Browser, Run
from tests.support.postgres import postgres_server
from tests.support.processes import Server, free_port

ROOT = Path(__file__).resolve().parents[2]
PEERS = Path(__file__).parent / "peers"
_FIRST = "oidc-provider"
_SQLITE = "WAL, synchronous=NORMAL for tokens and sessions (FULL for revocation)"
_POSTGRES = "fsync on, synchronous_commit on"


_DURABLE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "autovacuum": "on"}


def core_of_subjects() -> int:
    """The core that is measured."""
    return min(_cores())


def core_of_load() -> int:
    """The core of the generator; the same one on a machine that has no other."""
    return max(_cores())


_AT_START = sorted(os.sched_getaffinity(0))


def _cores() -> Sequence[int]:
    return _AT_START


def basic(client_id: str) -> str:
    """The Authorization header of a client."""
    return "Basic " + base64.b64encode(f"{client_id}:{hub.SECRET}".encode()).decode()


class Subject(Protocol):
    """Somebody who is measured."""

    name: str
    is_hub: bool
    is_first: bool
    peer: str
    database: str
    durability: str
    port: int

    def has(self, kind: str) -> bool:
        """Whether there is such a plan."""
        ...

    def plan(self, kind: str) -> dict[str, Any]:
        """What the generator does; the subject is awake."""
        ...

    def awake(self) -> Any:
        """A block in which the process runs; before and after it stands still."""
        ...


class _Process:
    """A pinned process that stands still unless it is measured."""

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.port = free_port()
        self.server = Server(name, self.port, log)

    def start(self, command: "Sequence[str | Path]", env: Mapping[str, str]) -> None:
        self.server.start(["taskset", "-c", str(core_of_subjects()), *command], env=env, seconds=60)

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Run until the block ends."""
        self.server.thaw()
        try:
            yield
        finally:
            self.server.freeze()


class Hub(_Process):
    """idhub: `idhub serve`, worker included, as it is installed; access log to a file."""

    is_hub, is_first, peer = True, False, ""

    def __init__(self, folder: Path, database: str, url: str, names: hub.Names, *, is_cheap: bool) -> None:
        super().__init__(f"idhub {database}{' cheap' if is_cheap else ''}", folder / f"serve-{is_cheap}.log")
        self.database = database
        self.durability = _SQLITE if database == "sqlite" else _POSTGRES
        self._names = names
        self._is_cheap = is_cheap
        # As behind a proxy on the same machine; the generator says where each browser is.
        env = {
            "IDHUB_TRUSTED_PROXIES": "127.0.0.0/8",
            "IDHUB_DATA_DIR": str(folder),
            "IDHUB_DATABASE_URL": url,
            "IDHUB_ISSUER": self.server.address,
        }
        command: list[str | Path] = [sys.executable, "-m", "tests.benchmarks.hub", str(self.port)]
        if not is_cheap:
            command = [Path(sys.executable).parent / "idhub", "serve", "--port", str(self.port)]
        self.start(command, env)
        self._tokens: dict[str, Any] = {}

    def has(self, kind: str) -> bool:
        """Hashes that cost nothing are another process's."""
        return (kind in {"cheap", "renew"}) is self._is_cheap

    def plan(self, kind: str) -> dict[str, Any]:
        """See `Subject.plan`."""
        if kind in {"opaque", "es256", "rs256"}:
            return _token_plan("/oauth2/token", kind)
        if kind == "introspection":
            return _introspection_plan("/oauth2/introspect", basic("opaque"), self._service_token())
        if kind == "userinfo":
            return _userinfo_plan("/oauth2/userinfo", self._person_token())
        if kind == "discovery":
            return _read_plan("/.well-known/openid-configuration", '"issuer"')
        if kind == "jwks":
            return _read_plan("/oauth2/jwks", '"keys"')
        return self._flow(kind)

    def _flow(self, kind: str) -> dict[str, Any]:
        return {
            "kind": "renew" if kind == "renew" else "sign_in",
            "authorize": "/oauth2/authorize", "token": "/oauth2/token", "client_id": "web",
            "authorization": basic("web"), "redirect_uri": hub.CALLBACK, "scope": "openid profile email",
            "usernames": self._names.real if kind == "real" else self._names.cheap, "password": hub.PASSWORD,
            "own_passwords": True, "own_addresses": True, "stride": 16,
        }  # fmt: skip

    def _service_token(self) -> str:
        fields = {"grant_type": "client_credentials"}
        return str(_ask(self.port, "/oauth2/token", fields, basic("opaque"))["access_token"])

    def _person_token(self) -> str:
        return _sign_in(self.port, self._flow("real"))


class OidcProvider(_Process):
    """npm oidc-provider: in memory, commits nothing."""

    is_hub, is_first, peer, database, durability = False, True, _FIRST, "memory", "none"

    def __init__(self, folder: Path, *, argon2_hash: str = "") -> None:
        super().__init__(_FIRST + (" argon2" if argon2_hash else ""), folder / f"node{len(argon2_hash)}.log")
        self._has_argon2 = bool(argon2_hash)
        services = [
            {"client_id": one, "client_secret": hub.SECRET, "grant_types": ["client_credentials"],
             "redirect_uris": [], "response_types": [], "scope": "jobs:run"}
            for one in ("opaque", "es256", "rs256")
        ]  # fmt: skip
        web = {
            "client_id": "web", "client_secret": hub.SECRET, "grant_types": ["authorization_code"],
            "redirect_uris": [hub.CALLBACK], "response_types": ["code"], "scope": "openid profile email",
            "id_token_signed_response_alg": "ES256",
        }  # fmt: skip
        env = {"PORT": str(self.port), "PASSWORD": hub.PASSWORD, "ARGON2": argon2_hash, "NODE_ENV": "production",
               "CLIENTS": json.dumps([*services, web])}  # fmt: skip
        self.start(["node", PEERS / "oidc_provider.mjs"], env)

    def has(self, kind: str) -> bool:
        """argon2id is another process's."""
        return (kind == "real") is self._has_argon2

    def plan(self, kind: str) -> dict[str, Any]:
        """See `Subject.plan`."""
        if kind in {"opaque", "es256", "rs256"}:
            return _token_plan("/token", kind)
        if kind == "introspection":
            token = _ask(self.port, "/token", {"grant_type": "client_credentials"}, basic("opaque"))["access_token"]
            return _introspection_plan("/token/introspection", basic("opaque"), token)
        if kind == "userinfo":
            return _userinfo_plan("/me", _sign_in(self.port, self._flow("cheap")))
        if kind == "discovery":
            return _read_plan("/.well-known/openid-configuration", '"issuer"')
        if kind == "jwks":
            return _read_plan("/jwks", '"keys"')
        return self._flow(kind)

    @staticmethod
    def _flow(kind: str) -> dict[str, Any]:
        return {
            "kind": "renew" if kind == "renew" else "sign_in",
            "authorize": "/auth", "token": "/token", "client_id": "web", "authorization": basic("web"),
            "redirect_uri": hub.CALLBACK, "scope": "openid profile email",
            "usernames": [f"QC{number:06d}" for number in range(hub.PEOPLE)], "password": hub.PASSWORD, "stride": 16,
        }  # fmt: skip


class DjangoOAuthToolkit(_Process):
    """django-oauth-toolkit on SQLite under gunicorn."""

    is_hub, is_first, peer = False, False, "django-oauth-toolkit"
    database, durability = "sqlite", "WAL, synchronous=NORMAL"

    def __init__(self, folder: Path, environment: Path) -> None:
        super().__init__(self.peer, folder / "django.log")
        data = folder / "django"
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(parents=True)
        env = {"FOLDER": str(data), "SECRET": hub.SECRET, "PASSWORD": hub.PASSWORD, "PYTHONPATH": str(PEERS)}
        python = environment / "bin" / "python"
        subprocess.run(
            [python, PEERS / "django_oauth.py", "prepare"], env={**os.environ, **env}, check=True, capture_output=True
        )
        options = ["--workers", "1", "--worker-class", "gthread", "--threads", "4", "--keep-alive", "60",
                   "--worker-connections", "200", "--no-control-socket"]  # fmt: skip
        command: list[str | Path] = [environment / "bin" / "gunicorn", "--bind", f"127.0.0.1:{self.port}", *options]
        self.start([*command, "django_oauth:application"], env)

    def has(self, kind: str) -> bool:
        """What it offers without further programming."""
        return kind in {"opaque", "introspection", "userinfo", "discovery", "jwks"}

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Always: gunicorn's worker is a process of its own, and idle when nobody asks."""
        yield

    def plan(self, kind: str) -> dict[str, Any]:
        """See `Subject.plan`."""
        if kind == "opaque":
            return {**_token_plan("/o/token/", kind), "body": "grant_type=client_credentials&scope=jobs:run"}
        if kind == "introspection":
            return _introspection_plan("/o/introspect/", "Bearer peer-introspection-token", "peer-person-token")
        if kind == "userinfo":
            return _userinfo_plan("/o/userinfo/", "peer-person-token")
        if kind == "discovery":
            return _read_plan("/o/.well-known/openid-configuration", '"issuer"')
        return _read_plan("/o/.well-known/jwks.json", '"keys"')


def _token_plan(path: str, client_id: str) -> dict[str, Any]:
    return {
        "kind": "fixed", "method": "POST", "path": path, "body": "grant_type=client_credentials",
        "headers": [["authorization", basic(client_id)]], "marker": '"access_token"',
    }  # fmt: skip


def _introspection_plan(path: str, authorization: str, token: str) -> dict[str, Any]:
    return {
        "kind": "fixed", "method": "POST", "path": path, "body": urlencode({"token": token}),
        "headers": [["authorization", authorization]], "marker": ":true" if "/o/" not in path else ": true",
    }  # fmt: skip


def _userinfo_plan(path: str, token: str) -> dict[str, Any]:
    return {"kind": "fixed", "path": path, "headers": [["authorization", f"Bearer {token}"]], "marker": '"sub"'}


def _read_plan(path: str, marker: str) -> dict[str, Any]:
    return {"kind": "fixed", "path": path, "marker": marker}


def _ask(port: int, path: str, fields: Mapping[str, str], authorization: str) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data=urlencode(fields).encode(), headers={"Authorization": authorization}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        body: dict[str, Any] = json.loads(answer.read())
        return body


def _sign_in(port: int, plan: Mapping[str, Any]) -> str:
    async def walk() -> dict[str, Any]:
        run = Run(port)
        return await Browser(run, await run.connect(), dict(plan), plan["usernames"][-1]).sign_in()

    token: str = uvloop.run(walk())["access_token"]
    return token


def _environment(folder: Path, say: Callable[[str], None]) -> Path:
    """The virtual environment of django-oauth-toolkit, made when it is missing or names other versions."""
    environment, wanted = folder / "peers-venv", (PEERS / "requirements.txt").read_text()
    marker = environment / ".installed"
    if not marker.exists() or marker.read_text() != wanted:
        say("installing django-oauth-toolkit into build/bench/peers-venv ...")
        shutil.rmtree(environment, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
        # As .ci/environment does: Debian's interpreter may have pip where this environment has none.
        having = next(one for one in (sys.executable, "python3.11", "python3") if _has_pip(one))
        pip: list[str | Path] = [having, "-m", "pip", "--python", environment / "bin" / "python", "--no-input"]
        command = [*pip, "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
        subprocess.run([*command, "-r", PEERS / "requirements.txt"], check=True)
        marker.write_text(wanted)
    return environment


def _has_pip(python: str) -> bool:
    try:
        return subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _argon2_hash() -> str:
    from idhub.login.passwords import HashingPool
    from idhub.settings import Settings

    pool = HashingPool(Settings())
    try:
        return pool.hash(hub.PASSWORD).result()
    finally:
        pool.close()


def _settle(port: int) -> None:
    """Until the hub says that it is ready."""
    deadline = time.monotonic() + 30
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).close()
        except (urllib.error.URLError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


@contextmanager
def subjects(folder: Path, kinds: set[str], say: Callable[[str], None]) -> Iterator[list[Subject]]:
    """Everybody who is needed for these kinds of plan, started, standing still."""
    shutil.rmtree(folder / "data", ignore_errors=True)
    data = folder / "data"
    with ExitStack() as stack:
        made: list[Any] = []

        def add(one: Any) -> None:
            stack.callback(one.server.stop)
            if one.is_hub:
                _settle(one.port)
            one.server.freeze() if not isinstance(one, DjangoOAuthToolkit) else None
            made.append(one)

        server = stack.enter_context(postgres_server(on_disk=True, **_DURABLE))
        for database in ("sqlite", "postgresql"):
            say(f"idhub on {database} ...")
            for is_cheap in (False, True) if kinds & {"cheap", "renew"} else (False,):
                # A database each: who stands still may hold a lock.
                own = data / f"{database}{is_cheap}"
                own.mkdir(parents=True)
                url = "" if database == "sqlite" else server.create(f"bench_{is_cheap}".lower())
                add(Hub(own, database, url, hub.prepare(own, url), is_cheap=is_cheap))
        say("npm oidc-provider ...")
        add(OidcProvider(data))
        if "real" in kinds:
            add(OidcProvider(data, argon2_hash=_argon2_hash()))
        if kinds & {"opaque", "introspection", "userinfo", "discovery", "jwks"}:
            environment = _environment(folder, say)
            say("django-oauth-toolkit ...")
            add(DjangoOAuthToolkit(data, environment))
        yield made
