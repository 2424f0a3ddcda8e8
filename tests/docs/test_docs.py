"""The documentation is what the code says, and leads where it says."""

import ast
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from idhub.api.configuration import apply
from idhub.api.configuration_file import ConfigurationFile
from idhub.changes import COMMAND_LINE
from idhub.settings import Settings
from providers.hr_file.rows import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, Rule
from tests.saml.conftest import furnished
from tests.saml.partner import Partner, pem_of
from tests.support.clock import Clock
from tests.support.databases import Databases

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md"])
LINK = re.compile(r"\]\(([^)\s]+)\)")
TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
CELL_END = re.compile(r"(?<!\\)\|")
FENCED = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def links(page: Path) -> Iterator[str]:
    text = FENCED.sub("", page.read_text("utf-8"))
    return (target for target in LINK.findall(text) if not target.startswith(("http://", "https://", "mailto:")))


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def test_the_map_of_the_architecture_has_every_module() -> None:
    drawn = (DOCS / "architecture.md").read_text("utf-8").partition("```")[2].partition("```")[0].partition("---")[0]
    named = {word for line in drawn.splitlines() for word in re.split(r"[ |:]+", re.split(r" {3,}(?=\S)", line)[0])}
    there = {one.stem for one in (DOCS.parent / "idhub").iterdir() if not one.name.startswith("__")}
    assert (there - named, named - there - {""}) == (set(), set())


def test_the_walks_through_the_code_name_what_is_there() -> None:
    named = re.findall(r"`([\w/]+\.py):([\w.]+)`", (DOCS / "architecture.md").read_text("utf-8"))
    assert len(named) > 20
    for path, dotted in named:
        body = ast.parse((ROOT / path).read_text("utf-8")).body
        for part in dotted.split("."):
            found = [one for one in body if getattr(one, "name", None) == part or part in _assigned(one)]
            assert found, f"{path} has no {dotted}"
            body = getattr(found[0], "body", [])


def _assigned(statement: ast.stmt) -> list[str]:
    return [target.id for target in getattr(statement, "targets", []) if isinstance(target, ast.Name)]


def test_generated_pages_are_what_the_code_says() -> None:
    """Stale? Run `python docs/generate.py`."""
    assert runpy.run_path(str(DOCS / "generate.py"))["stale"]() == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{name(page)} links to {target}"
        assert found.is_relative_to(ROOT)
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), f"{name(page)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_row_of_a_table_has_as_many_cells_as_its_head(page: Path) -> None:
    """A cell too many is not shown, one too few is shown empty."""
    for table in TABLE.findall(FENCED.sub("", page.read_text("utf-8"))):
        head, *rows = ((line, len(CELL_END.findall(line))) for line in table.splitlines())
        assert [row for row, cells in rows if cells != head[1]] == [], name(page)


def test_every_page_is_reached_from_the_readme() -> None:
    seen, todo = set[Path](), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        seen.add(page)
        for target in links(page):
            found = (page.parent / target.partition("#")[0]).resolve()
            pages = sorted(found.glob("*.md")) if found.is_dir() else [found]
            todo += [one for one in pages if one.suffix == ".md" and one.is_file() and one not in seen]
    assert [name(page) for page in PAGES if page.resolve() not in {one.resolve() for one in seen}] == []


@pytest.mark.parametrize("page", [page for page in PAGES if "reference" in page.parts], ids=name)
def test_specifications_name_tests_that_exist(page: Path) -> None:
    """A row that says "implemented" names the test that shows it."""
    for path, test in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text("utf-8")):
        assert (ROOT / path).is_file(), f"{name(page)} names {path}"
        if test:
            assert f"def {test}(" in (ROOT / path).read_text("utf-8"), f"{name(page)} names {path}::{test}"


def test_every_implemented_row_of_the_specifications_names_its_test() -> None:
    rows = [line for line in (DOCS / "reference/specifications.md").read_text("utf-8").splitlines() if line[:1] == "|"]
    held = [row for row in rows if "| implemented |" in row or "| partial |" in row]
    assert len(held) > 20
    assert [row for row in held if "`tests/" not in row] == []


def test_configurations_in_the_documentation_are_ones() -> None:
    shown = 0
    for page in PAGES:
        for language, block in FENCED.findall(page.read_text("utf-8")):
            if language == "yaml" and block.startswith(("applications:", "providers:")):
                ConfigurationFile.model_validate(yaml.safe_load(block))
                shown += 1
    assert shown >= 3


def test_configurations_of_the_connect_pages_can_be_applied(databases: Databases, tmp_path: Path) -> None:
    """Each by itself, on a hub that has the people and files that it names."""
    partner = Partner("https://hub.example")
    blocks = [
        (page, yaml.safe_load(block))
        for page in PAGES
        if page.parent.name == "connect"
        for language, block in FENCED.findall(page.read_text("utf-8"))
        if language == "yaml" and block.startswith("applications:")
    ]
    assert len(blocks) > 8
    with databases.fresh("sqlite", tmp_path, migrated=True) as url:
        settings = Settings(data_dir=tmp_path, database_url=url, argon2_memory_kib=1024, argon2_time_cost=1)
        with furnished(settings, databases, Clock()) as scene:
            hub = scene.stage.hub
            for page, block in blocks:
                for application in block["applications"]:
                    application.pop("owner", None)
                    application.pop("organization", None)
                    _write_files(application, tmp_path, partner)
                path = tmp_path / "page.yaml"
                path.write_text(yaml.safe_dump(block, allow_unicode=True), "utf-8")
                applied = apply(
                    hub.database, hub.keyring, path, clock=scene.stage.clock, actor=COMMAND_LINE, door="cli",
                    outbound_allow="127.0.0.1:9001,127.0.0.1:8181", dry_run=True,
                )  # fmt: skip
                assert [one.is_new for one in applied.differences] == [True] * len(block["applications"]), name(page)


def _write_files(block: object, folder: Path, partner: Partner) -> None:
    """Whatever files a block names, with something of their kind in them."""
    if isinstance(block, list):
        for one in block:
            _write_files(one, folder, partner)
    if not isinstance(block, dict):
        return
    for key, value in block.items():
        if key == "metadata_file":
            (folder / value).write_bytes(partner.metadata())
        elif key.endswith("_file"):
            (folder / value).write_text("t" * 48)
        elif key in {"certificates", "encryption_certificates"}:
            for one in value:
                (folder / one).write_text(pem_of(partner.signer.certificate))
        else:
            _write_files(value, folder, partner)


def test_the_hr_file_page_names_every_column_and_rule() -> None:
    text = (DOCS / "reference/hr-file.md").read_text("utf-8")
    missing = [
        word
        for word in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS, *(rule.value for rule in Rule))
        if f"`{word}`" not in text
    ]
    assert missing == []


def test_the_configuration_page_names_every_field() -> None:
    text = (DOCS / "reference/configuration.md").read_text("utf-8")
    definitions = ConfigurationFile.model_json_schema()["$defs"]
    fields = {field for definition in definitions.values() for field in definition["properties"]}
    assert [field for field in sorted(fields) if f"`{field}`" not in text] == []


def test_settings_in_the_documentation_exist() -> None:
    known = {f"IDHUB_{setting.upper()}" for setting in Settings.model_fields}
    for page in PAGES:
        assert set(re.findall(r"IDHUB_[A-Z0-9_]+", page.read_text("utf-8"))) <= known, name(page)
