"""The shape of the source: every module has a place, and the contracts that `make check` verifies cover all of it."""

import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def _contracts() -> dict[str, dict[str, Any]]:
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return {contract["id"]: contract for contract in configuration["contracts"]}


def _modules(package: Path) -> set[str]:
    files = {path.stem for path in package.glob("*.py")} - {"__init__"}
    return files | {path.parent.name for path in package.glob("*/__init__.py")}


def test_every_module_of_the_hub_has_a_place_in_the_import_order() -> None:
    layers = _contracts()["layers"]["layers"]
    placed = {name.strip(" ()") for layer in layers for name in layer.replace(":", "|").split("|")}

    without_a_place = _modules(ROOT / "idhub") - placed

    assert not without_a_place, "give each a place in [tool.importlinter], layers: " + ", ".join(without_a_place)


def test_the_import_order_refuses_modules_it_does_not_name() -> None:
    assert _contracts()["layers"]["exhaustive"] is True


def test_only_the_four_packages_are_shipped_and_all_are_under_contract() -> None:
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    shipped = set(configuration["hatch"]["build"]["targets"]["wheel"]["packages"])

    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}

    assert packages == shipped == set(configuration["importlinter"]["root_packages"])


def test_every_test_folder_is_a_package() -> None:
    """Without `__init__.py`, `tests/scim` would shadow the package `scim` in pytest."""
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py") if "node_modules" not in path.parts}

    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]
