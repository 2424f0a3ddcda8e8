"""Relying parties that nobody here wrote, graded with a live session of a person who signed in at a served hub."""

import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml

from idhub.demo.browser import Browser
from idhub.demo.hub import Hub
from tests.flows.conftest import RunningHub, write_people
from tests.saml.products import apache, apache_command, opened
from tests.support.databases import Databases
from tests.support.processes import free_port, running, wait_until

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
MODULES = Path("/usr/lib/apache2/modules")
SECRET = secrets.token_urlsafe(32)


@dataclass(frozen=True)
class RelyingParty:
    """A kind of relying party: how it is started, where it listens, its grade and what does not work."""

    serve: Callable[[Path, int, str], Any]
    start: str
    callback: str
    logout: str
    graded: Mapping[str, tuple[str, dict[str, str]]]


@contextmanager
def _apache(folder: Path, port: int, issuer: str) -> Iterator[None]:
    """Debian's Apache with mod_auth_openidc."""
    assert (MODULES / "mod_auth_openidc.so").exists(), "libapache2-mod-auth-openidc is missing: `make test` installs it"
    opened(folder)
    apache(
        folder,
        port,
        "auth_openidc",
        f"""OIDCProviderMetadataURL {issuer}/.well-known/openid-configuration
OIDCClientID apache
OIDCClientSecret {SECRET}
OIDCRedirectURI http://127.0.0.1:{port}/redirect
OIDCCryptoPassphrase {secrets.token_hex(16)}
OIDCPKCEMethod S256
OIDCScope "openid profile"
<Location />
  AuthType openid-connect
  Require valid-user
</Location>""",
    )
    (folder / "www" / "secret").write_text('{"sub": "<!--#echo var="OIDC_CLAIM_sub" -->"}')
    with running(apache_command(folder), port=port, log=folder / "error.log"):
        yield


@contextmanager
def _express(folder: Path, port: int, issuer: str) -> Iterator[None]:
    node = shutil.which("node")
    modules = HERE.parent / "node_modules" / "express-openid-connect"
    assert node and modules.is_dir(), "node or express-openid-connect is missing: `make test` installs them"
    command: list[str | Path] = [node, HERE / "express_openid_connect.mjs", str(port), issuer, "express"]
    with running(command, port=port, log=folder / "node.log", env={"CLIENT_SECRET": SECRET}):
        yield


TWICE = {"replayed_jti": "answered 204"}
PARTIES = {
    "apache": RelyingParty(
        _apache,
        "/secret",
        "/redirect",
        "/redirect?logout=backchannel",
        # It knows a session by its sid where the ID token had one, as this hub's has, and then not by sub.
        {
            "sub": ("C", {"session_ended": "the session goes on; it was named by sub alone, not sid"}),
            "person": ("A", {}),
        },
    ),
    "express": RelyingParty(
        _express, "/login", "/callback", "/backchannel-logout", {"sub": ("B", TWICE), "person": ("B", TWICE)}
    ),
}
"""Each verdict was looked at by hand."""
PORTS = {name: free_port() for name in PARTIES}


@pytest.fixture(scope="module")
def running_hub(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    """`idhub serve` with the relying parties as its applications."""
    folder = tmp_path_factory.mktemp("hub")
    (folder / "party.secret").write_text(SECRET + "\n")
    applications = [
        {
            "slug": name,
            "name": {"en": name},
            "owner": "QY000100",
            "oidc": {
                "client_id": name,
                "client_secret_file": "party.secret",
                "redirect_uris": [f"http://127.0.0.1:{PORTS[name]}{party.callback}"],
                "backchannel_logout_uri": f"http://127.0.0.1:{PORTS[name]}{party.logout}",
            },
            "entitle": [{"role": "member", "rule": 'employments.type ne "contractor"'}],
        }
        for name, party in PARTIES.items()
    ]
    (folder / "apps.yaml").write_text(yaml.safe_dump({"applications": applications}))
    write_people(folder / "people.csv")
    with databases.fresh("sqlite", folder, migrated=False) as url:
        allowed = ",".join(f"127.0.0.1:{port}" for port in PORTS.values())
        hub = Hub(folder, outbound_allow=allowed, settings={"IDHUB_DATABASE_URL": url})
        try:
            hub.start()
            hub.run("people", "import", folder / "people.csv")
            hub.run("apply", folder / "apps.yaml")
            yield RunningHub(hub, "", 0, SECRET)
        finally:
            hub.close()


@dataclass(frozen=True)
class SignedIn:
    """A live session of somebody at a relying party."""

    number: str
    browser: Browser
    address: str

    @property
    def secret(self) -> str:
        """A page that only the session gets."""
        return f"{self.address}/secret"


@pytest.fixture(params=PARTIES)
def party(request: pytest.FixtureRequest, running_hub: RunningHub) -> Iterator[tuple[str, str]]:
    """A running relying party: its name and address."""
    name = request.param
    with (
        TemporaryDirectory(prefix=f"idhub-{name}-", ignore_cleanup_errors=True) as folder,
        PARTIES[name].serve(Path(folder), PORTS[name], running_hub.hub.address),
    ):
        yield name, f"http://127.0.0.1:{PORTS[name]}"


@contextmanager
def signed_in(running_hub: RunningHub, party: tuple[str, str]) -> Iterator[SignedIn]:
    """Somebody who has just signed in there."""
    name, address = party
    number = running_hub.new_employee()
    with Browser(language="en") as browser:
        running_hub.sign_in(browser, address + PARTIES[name].start, number)
        person = SignedIn(number, browser, address)
        page = browser.get(person.secret)
        assert (page.url, page.status) == (person.secret, 200), page.html
        yield person


@pytest.mark.parametrize("named", ["sub", "person"])
def test_certify_says_of_them_what_is_so(
    running_hub: RunningHub, party: tuple[str, str], named: str, tmp_path: Path
) -> None:
    name, address = party
    with signed_in(running_hub, party) as person:
        sub = json.loads(person.browser.get(person.secret).html)["sub"]
        (tmp_path / "cookie").write_text(person.browser.cookies)
        graded = running_hub.hub.run(
            *("certify", "oidc-logout", address + PARTIES[name].logout, "--client-id", name, "--json"),
            *(("--sub", sub) if named == "sub" else ("--person", person.number)),
            *("--probe-url", person.secret, "--probe-cookie-file", tmp_path / "cookie"),
            expect=(0, 1, 2),
        )
    found = {check["check"]: check["detail"] for check in graded.data["checks"] if check["verdict"] == "fail"}
    assert (graded.data["grade"], found) == PARTIES[name].graded[named]


def test_somebody_without_a_session_there_is_said(running_hub: RunningHub) -> None:
    graded = running_hub.hub.run(
        *("certify", "oidc-logout", "http://127.0.0.1:9/x", "--client-id", "express", "--person", "QY000119"),
        expect=(1,),
    )
    assert graded.stderr.splitlines()[-1].endswith("no live session there: sign in to the application first.")


def test_a_leave_ends_the_session_there(running_hub: RunningHub, party: tuple[str, str]) -> None:
    """What certify says of the named session is what a leave does."""
    with signed_in(running_hub, party) as person:
        running_hub.hub.run("offboard", person.number)
        wait_until(
            lambda: person.browser.get(person.secret).url != person.secret, seconds=30, what="the session there ends"
        )
