"""Static files in memory, addressed by their content, so that a browser may keep them for a year."""

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
}
_COMPRESSED = frozenset({".css", ".js", ".svg", ".txt"})


@dataclass(frozen=True, slots=True)
class Asset:
    """One static file: its bytes, plain and compressed (None where that does not pay), and its type."""

    media_type: str
    body: bytes
    gzipped: bytes | None


class Assets:
    """The static files below a folder, read once.

    One version covers the whole folder: a stylesheet's relative `url(fonts/...)` then stays right without rewriting.
    """

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Asset] = {}
        digest = hashlib.sha256()
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in _TYPES):
            name, body = path.relative_to(folder).as_posix(), path.read_bytes()
            digest.update(f"{name}\0{len(body)}\0".encode() + body)
            gzipped = gzip.compress(body, mtime=0) if path.suffix in _COMPRESSED else None
            self._files[name] = Asset(_TYPES[path.suffix], body, gzipped)
        self.version = digest.hexdigest()[:16]

    def url(self, name: str) -> str:
        """Address of a file, for templates.

        Raises:
            KeyError: there is no such file; a template that names it would be broken for everyone.
        """
        if name not in self._files:
            raise KeyError(name)
        return f"/static/{self.version}/{name}"

    def find(self, name: str) -> Asset | None:
        """The file of that name, or None. Names are looked up, never joined to a path."""
        return self._files.get(name)
