"""Tokens, icons and vendored files: what pages are made of."""

import re
from pathlib import Path

import pytest

WEB = Path("idhub/web")
CSS = (WEB / "static" / "app.css").read_text()


def _tokens(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([a-z0-9-]+): (#[0-9A-F]{6});", block))


_LIGHT = _tokens(CSS[CSS.index(":root {") : CSS.index("@media screen and (prefers-color-scheme")])
_SYSTEM_DARK = _tokens(
    CSS[CSS.index("@media screen and (prefers-color-scheme") : CSS.index(':root[data-theme="dark"]')]
)
_CHOSEN_DARK = _tokens(CSS[CSS.index(':root[data-theme="dark"]') : CSS.index("/* ---- ground")])


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


# (foreground, background, least contrast): text 4.5, large marks and edges of controls 3.
_PAIRS = [
    *[(ink, ground, 4.5) for ink in ("text", "text-2", "text-3") for ground in ("surface", "canvas", "sunken")],
    *[(ink, "warn-tint", 4.5) for ink in ("text", "text-2", "text-3", "bad", "warn", "accent")],
    ("accent", "surface", 4.5),
    ("accent", "canvas", 4.5),
    ("accent", "sunken", 4.5),
    ("on-fill", "accent-fill", 4.5),
    ("on-fill", "accent-hover", 4.5),
    ("on-fill", "bad-fill", 4.5),
    *[(role, "surface", 4.5) for role in ("ok", "warn", "bad")],
    *[(role, f"{role}-soft", 4.5) for role in ("ok", "warn", "bad", "accent", "neutral")],
    *[(ink, f"{role}-soft", 4.5) for ink in ("text", "text-2") for role in ("ok", "warn", "bad", "accent")],
    ("field", "surface", 3.0),
    *[(f"chart-{name}", "surface", 3.0) for name in ("1", "2", "3", "4", "other", "bad")],
    *[(f"e{grade}", "surface", 3.0) for grade in range(4)],
]


@pytest.mark.parametrize(("ink", "ground", "least"), _PAIRS)
@pytest.mark.parametrize("tokens", [_LIGHT, _CHOSEN_DARK], ids=["light", "dark"])
def test_contrast(tokens: dict[str, str], ink: str, ground: str, least: float) -> None:
    """WCAG 2.2, 1.4.3 and 1.4.11."""
    assert _contrast(tokens[ink], tokens[ground]) >= least


def test_dark_by_system_and_dark_by_choice_are_one_set() -> None:
    assert _SYSTEM_DARK == _CHOSEN_DARK
    assert _LIGHT.keys() == _CHOSEN_DARK.keys()


@pytest.mark.parametrize("colour", re.findall(r"\.logo(?:\.hue\d)? \{[^}]*background: (#[0-9A-Fa-f]{6})", CSS))
def test_letters_on_application_marks_can_be_read(colour: str) -> None:
    assert _contrast("#FFFFFF", colour) >= 4.5


def test_templates_name_icons_that_exist() -> None:
    sprite = set(re.findall(r'<symbol id="([a-z0-9-]+)"', (WEB / "static" / "icons.svg").read_text()))
    named = {
        m
        for p in WEB.rglob("*.html")
        for m in re.findall(r'ui\.icon\("([a-z0-9-]+)"|\bicon\("([a-z0-9-]+)"', p.read_text())
    }

    assert {name for pair in named for name in pair if name} <= sprite
    labels = "\n".join(path.read_text() for path in WEB.glob("*.py"))
    assert set(re.findall(r'Label\("[a-z]+", [^"\n]*"[^"]*"\)*, "([a-z0-9-]+)"\)', labels)) <= sprite


def test_licences_of_vendored_files_lie_beside_them() -> None:
    static = WEB / "static"

    for name in ("tabler-icons.LICENSE.txt", "fonts/inter.LICENSE.txt", "fonts/jetbrains-mono.LICENSE.txt",
                 "vendor/htmx.LICENSE.txt"):  # fmt: skip
        assert len((static / name).read_text()) > 500


def test_the_stylesheet_stays_small() -> None:
    assert len(CSS.encode()) < 40_000
