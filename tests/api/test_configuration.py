"""`apps.yaml`: checked field by field, all or nothing, idempotent; an export is what apply takes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from audit.tables import audit_events
from idhub.access.tables import Application, EntitlementRule, OidcClient, ScimTarget
from idhub.api.configuration import Applied, apply
from idhub.api.configuration_file import MAX_BYTES, read_configuration
from idhub.api.export import export_configuration
from idhub.changes import COMMAND_LINE
from idhub.errors import IdhubError, Invalid
from tests.lifecycle.world import World

SECRET, TOKEN = "a-secret-of-more-than-32-characters-000", "scim-token"
BLOCK: dict[str, Any] = {
    "slug": "crm",
    "name": {"en": "CRM", "zh": "客户管理"},
    "description": "Customers",
    "owner": "HQ/QY000001",
    "organization": "HQ",
    "criticality": "critical",
    "revocation_deadline": "10m",
    "required_evidence": "E1",
    "oidc": {
        "client_id": "crm",
        "client_secret_file": "crm.secret",
        "redirect_uris": ["https://crm.example/cb"],
        "post_logout_redirect_uris": ["https://crm.example/bye"],
        "backchannel_logout_uri": "https://crm.example/logout",
        "scopes": ["openid", "email"],
        "access_token": "opaque",
        "access_token_lifetime": 120,
        "sector": "crm.example",
    },
    "scim": {
        "base_url": "https://crm.example/scim/v2/",
        "token_file": "crm-scim.token",
        "user_name": "employee_number",
    },
    "entitle": [{"role": "sales", "rule": 'employments.companyCode eq "HQ"'}],
}


class Files:
    """A folder with a configuration and its secrets."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder = world, folder
        (folder / "crm.secret").write_text(SECRET + "\n")
        (folder / "crm-scim.token").write_text(TOKEN)

    def write(self, content: str | bytes) -> Path:
        path = self.folder / "apps.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return path

    def apply(self, *blocks: dict[str, Any], dry_run: bool = False) -> Applied:
        return self.apply_text(yaml.safe_dump({"applications": list(blocks)}, allow_unicode=True), dry_run=dry_run)

    def apply_text(self, content: str, *, dry_run: bool = False) -> Applied:
        return apply(
            self.world.database,
            self.world.keyring,
            self.write(content),
            clock=self.world.clock,
            actor=COMMAND_LINE,
            door="cli",
            outbound_allow="",
            dry_run=dry_run,
        )

    def state(self) -> list[Any]:
        tables = (Application, EntitlementRule, OidcClient, ScimTarget)
        with self.world.database.read() as session:
            rows = [list(session.execute(select(table.__table__))) for table in tables]
            rows.append(list(session.execute(select(audit_events.c.event_id))))
        return [sorted(map(repr, part)) for part in rows]


@pytest.fixture
def files(world: World, tmp_path: Path) -> Files:
    world.hire("陈静")
    folder = tmp_path / "configuration"
    folder.mkdir()
    return Files(world, folder)


def changed(path: str, value: Any, block: dict[str, Any] = BLOCK) -> dict[str, Any]:
    head, _, rest = path.partition(".")
    if not rest:
        return {**block, head: value}
    return {**block, head: changed(rest, value, block[head])}


def test_applying_twice_changes_nothing_and_records_nothing(files: Files) -> None:
    first = files.apply(BLOCK)
    assert [change["application"] for change in first.changes] == ["crm"]
    assert first.needs_review
    before = files.state()
    files.world.clock.advance(hours=1)
    again = files.apply(BLOCK)
    assert again.changes == []
    assert not again.needs_review
    assert files.state() == before


def test_a_dry_run_tells_the_difference_and_writes_nothing(files: Files) -> None:
    before = files.state()
    told = files.apply(BLOCK, dry_run=True)
    assert files.state() == before
    assert [c["field"] for c in told.changes[0]["changes"]] == [
        c["field"] for c in files.apply(BLOCK).changes[0]["changes"]
    ]


def test_an_export_is_what_apply_takes(files: Files) -> None:
    public = {
        "slug": "app",
        "name": "App",
        "enabled": False,
        "criticality": "low",
        "oidc": {
            "client_id": "app",
            "public": True,
            "native": True,
            "redirect_uris": ["com.example.app:/cb"],
            "scopes": [],
            "grant_types": ["authorization_code"],
            "rotate_refresh": False,
        },
    }
    files.apply(BLOCK, public, {"slug": "bare", "name": "Bare"})
    for slug in ("office", "wiki"):
        (files.folder / f"{slug}.secret").write_text("s" * 43)
    (files.folder / "office-scim.token").write_text("t")
    with files.world.database.read() as session:
        exported = export_configuration(session)
    assert SECRET not in exported
    assert TOKEN not in exported
    first = files.apply_text(exported).changes
    # Those of the world have no address for the portal yet; a file without one means the origin of the first redirect.
    assert {(c["application"], f["field"]) for c in first for f in c["changes"]} == {
        ("office", "home_url"),
        ("wiki", "home_url"),
    }
    with files.world.database.read() as session:
        settled = export_configuration(session)
    before = files.state()
    assert files.apply_text(settled).changes == []
    assert files.state() == before


def test_no_secret_is_in_the_difference_or_the_log(files: Files) -> None:
    told = files.apply(BLOCK)
    (files.folder / "crm.secret").write_text("another-secret-of-more-than-32-characters")
    again = files.apply(BLOCK)
    assert [c["after"] for c in again.changes[0]["changes"]] == ["(new secret)"]
    with files.world.database.read() as session:
        log = b"".join(session.execute(select(audit_events.c.body)).scalars())
    for text in (repr(told), repr(again), log.decode()):
        assert SECRET not in text
        assert "another-secret" not in text


WRONG: tuple[tuple[str, Any, str], ...] = (
    ("slug", "CRM", "slug"),
    ("slug", "", "slug"),
    ("slug", "-crm", "slug"),
    ("slug", "x" * 61, "slug"),
    ("slug", 7, "slug"),
    ("name", "", "name"),
    ("name", {"zh": "只有"}, "name"),
    ("name", "x" * 121, "name"),
    ("name", "a\0b", "name"),
    ("name", ["CRM"], "name"),
    ("description", "x" * 2_001, "description"),
    ("description", "a\0b", "description"),
    ("home_url", "javascript:alert(1)", "home_url"),
    ("home_url", "http://crm.example/", "home_url"),
    ("organization", "nowhere", "organization"),
    ("organization", "a\0b", "organization"),
    ("owner", "nobody", "owner"),
    ("criticality", "very", "criticality"),
    ("revocation_deadline", "soon", "revocation_deadline"),
    ("revocation_deadline", 0, "revocation_deadline"),
    ("revocation_deadline", "-5m", "revocation_deadline"),
    ("revocation_deadline", 10**30, "revocation_deadline"),
    ("required_evidence", "E4", "required_evidence"),
    ("required_evidence", 2, "required_evidence"),
    ("enabled", "yes please", "enabled"),
    ("enabled", 1, "enabled"),
    ("oidc", [], "oidc"),
    ("oidc.client_id", "a b", "client_id"),
    ("oidc.client_id", "x" * 101, "client_id"),
    ("oidc.client_secret_file", "missing.secret", "client_secret_file"),
    ("oidc.client_secret_file", "a\0b", "client_secret_file"),
    ("oidc.client_secret_file", ".", "client_secret_file"),
    ("oidc.client_secret_file", "crm-scim.token", "client_secret_file"),
    ("oidc.client_secret_file", None, "oidc"),
    ("oidc.public", True, "oidc"),
    ("oidc.auth_method", "private_key_jwt", "auth_method"),
    ("oidc.redirect_uris", [], "redirect_uris"),
    ("oidc.redirect_uris", "https://crm.example/cb", "redirect_uris"),
    ("oidc.redirect_uris", ["https://crm.example/*"], "redirect_uris"),
    ("oidc.redirect_uris", ["http://[::1"], "redirect_uris"),
    ("oidc.redirect_uris", ["https://crm.example/cb"] * 51, "redirect_uris"),
    ("oidc.post_logout_redirect_uris", ["data:text/html,x"], "post_logout_redirect_uris"),
    ("oidc.backchannel_logout_uri", "ftp://crm.example/", "backchannel_logout_uri"),
    ("oidc.scopes", ["open id"], "scopes"),
    ("oidc.grant_types", ["password"], "grant_types"),
    ("oidc.access_token", "saml", "access_token"),
    ("oidc.access_token_lifetime", "1 fortnight", "access_token_lifetime"),
    ("oidc.id_token_alg", "none", "id_token_alg"),
    ("oidc.sector", "x" * 201, "sector"),
    ("oidc.native", "no", "native"),
    ("scim.base_url", "ldap://crm.example", "base_url"),
    ("scim.base_url", "http://crm.example/v2", "base_url"),
    ("scim.token_file", "missing.token", "token_file"),
    ("scim.user_name", "mobile", "user_name"),
    ("scim.dialect", "exotic", "dialect"),
    ("scim.control_user_name", "a\nb", "control_user_name"),
    ("entitle", [{"role": "sales"}], "rule"),
    ("entitle", [{"role": "a b", "rule": "id pr"}], "role"),
    ("entitle", [{"role": "sales", "rule": "employments.salary gt 1"}], "entitle"),
    ("entitle", [{"role": "sales", "rule": ""}], "rule"),
    ("typo", 1, "typo"),
    ("oidc.typo", 1, "typo"),
    ("scim.typo", 1, "typo"),
)


def test_every_wrong_field_is_named_with_its_rule_and_nothing_is_written(files: Files) -> None:
    files.apply({"slug": "first", "name": "First"})
    before = files.state()
    for path, value, field in WRONG:
        good = {"slug": "first", "name": "First, renamed"}
        try:
            files.apply(good, changed(path, value))
        except IdhubError as refused:
            assert field in str(refused.field), (path, value, refused.field)
            assert refused.rule, (path, value)
        else:
            pytest.fail(f"{path}: {value!r} was taken")
        assert files.state() == before, "all or nothing"


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\napplications: [*b]\n"
TEXTS: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "configuration.model_type"),
    "a list": ("- slug: x\n", "configuration.model_type"),
    "not YAML": ("applications: [", "file.yaml"),
    "tabs": ("applications:\n\t- slug: x\n", "file.yaml"),
    "an alias": ("x: &x {slug: a}\napplications: [*x]\n", "file.yaml"),
    "a bomb": (BOMB, "file.yaml"),
    "a repeated key": ("applications: []\napplications: []\n", "file.yaml"),
    "a repeated key below": ("applications:\n  - {slug: a, slug: b, name: x}\n", "file.yaml"),
    "an object": ("applications: !!python/object/apply:os.system ['true']\n", "file.yaml"),
    "two documents": ("applications: []\n---\napplications: []\n", "file.yaml"),
    "an impossible date": ("applications:\n  - {slug: 2026-13-45, name: x}\n", "file.yaml"),
    "a huge number": ("applications:\n  - {slug: a, name: x, revocation_deadline: " + "9" * 6_000 + "}\n", "file.yaml"),
    "a list as a key": ("applications:\n  - {[a]: b}\n", "file.yaml"),
    "deep": ("applications: " + "[" * 20_000, "file.yaml"),
    "not UTF-8": (b"applications: \xff\xfe\n", "file.encoding"),
    "control characters": (b"applications: \x01\n", "file.yaml"),
    "the same slug twice": ("applications: [{slug: a, name: x}, {slug: a, name: y}]\n", "configuration.repeated"),
    "too large": (b"#" * (MAX_BYTES + 1), "file.size"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_file_that_is_none_is_refused_by_name(tmp_path: Path, name: str) -> None:
    content, rule = TEXTS[name]
    path = tmp_path / "apps.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(Invalid) as refused:
        read_configuration(path)
    assert refused.value.rule == rule
    assert len(refused.value.description) < 600


def test_a_folder_or_nothing_is_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.yaml"):
        with pytest.raises(Invalid) as refused:
            read_configuration(path)
        assert refused.value.rule == "file.unreadable"


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.text(max_size=200) | st.binary(max_size=200))
def test_any_file_is_read_or_refused(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "any.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    try:
        read_configuration(path)
    except Invalid as refused:
        assert refused.rule


def test_criticality_decides_what_is_not_named(files: Files) -> None:
    files.apply({"slug": "a", "name": "A"}, {"slug": "b", "name": "B", "criticality": "low"})
    with files.world.database.read() as session:
        rows = session.execute(
            select(Application.slug, Application.revocation_deadline_seconds, Application.required_grade).where(
                Application.slug.in_(["a", "b"])
            )
        ).all()
    assert {tuple(row) for row in rows} == {("a", 4 * 3_600, None), ("b", 24 * 3_600, 1)}


def test_only_what_may_change_access_asks_to_look_at_everybody(files: Files) -> None:
    files.apply(BLOCK)
    steps: list[tuple[Callable[[], dict[str, Any]], bool]] = [
        (lambda: changed("description", "Other words"), False),
        (lambda: changed("enabled", False), True),
        (lambda: {**changed("enabled", False), "entitle": []}, True),
    ]
    for block, needs_review in steps:
        assert files.apply(block()).needs_review is needs_review
