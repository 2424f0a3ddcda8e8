"""Which sentences the source marks for translation, found the way babel's extractor finds them."""

from pathlib import Path

from babel.messages.extract import DEFAULT_KEYWORDS, extract_from_file

ROOT = Path(__file__).parents[2] / "idhub"
_KEYWORDS = {**DEFAULT_KEYWORDS, "N_": None, "translate": None, "t": None}


def marked_messages() -> dict[str | tuple[str, ...], list[str]]:
    """Each marked sentence (or singular and plural), with the places where it stands."""
    found: dict[str | tuple[str, ...], list[str]] = {}
    sources = [(path, "python") for path in [*(ROOT / "web").rglob("*.py"), *(ROOT / "pages").rglob("*.py")]]
    sources += [(path, "jinja2.ext:babel_extract") for path in (ROOT / "web" / "templates").rglob("*.html")]
    for path, method in sorted(sources):
        options = {"trimmed": "true"} if path.suffix == ".html" else {}
        for line, message, _comments, _context in extract_from_file(
            method, str(path), keywords=_KEYWORDS, options=options
        ):
            if message:
                key = message if isinstance(message, str) else tuple(message)
                found.setdefault(key, []).append(f"{path.relative_to(ROOT)}:{line}")
    return found
