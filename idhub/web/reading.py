"""Reading what a browser sent, strictly: bounded, in one format, each field once, real text.

What no page of ours sends never reaches a route: reading raises `BrokenForm`, and the route class of `idhub.web.visit`
answers it with a page that names the field, and records it.
"""

from collections.abc import AsyncGenerator, Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from idhub.errors import NotFound
from idhub.pages import N_, Pages
from idhub.pages.direct import MAX_BODY, DirectRequest

MAX_FILE: Final = 32 * 1024 * 1024
"""A file of some 200,000 people; larger ones go in by the command line."""
_MAX_PAIRS: Final = 100
_FORM_TYPE: Final = "application/x-www-form-urlencoded"
_FILE_TYPE: Final = "multipart/form-data"
_MAX_FIELDS: Final = 8
_MAX_FIELD: Final = 2_048
_MOST_FILES: Final = 4
"""Files that one process reads at once: each lies in memory until it is sealed."""

_SENTENCES: Mapping[str, str] = {
    "form.content_type": N_("The form was sent in a format that is not accepted here."),
    "form.too_large": N_("The form is too large."),
    "form.busy": N_("Others are sending files at this moment. Try again in a minute."),
    "form.malformed": N_("The form could not be read."),
    "form.missing": N_("The field %(field)s is missing."),
    "form.doubled": N_("The field %(field)s was sent twice."),
    "form.too_long": N_("The field %(field)s is too long."),
    "form.characters": N_("The field %(field)s has characters that are not accepted here."),
}
_STATUS: Mapping[str, int] = {"form.content_type": 415, "form.too_large": 413, "form.busy": 503}
_SHOWN_FIELD: Final = 60
_READ: Final = "idhub.form"
"""Where a request keeps the fields that were read of it."""
_FILE: Final = "idhub.file"
_HAS_PLACE: Final = "idhub.file.place"


class BrokenForm(Exception):
    """A request that no page of ours sends. `rule` is stable; `field` is the name in the form that is to blame."""

    def __init__(self, rule: str, field: str = "") -> None:
        super().__init__(f"{rule} {field}".strip())
        self.rule = rule
        self.field = field[:_SHOWN_FIELD]


class BoundedRequest(DirectRequest):
    """A request whose body is at most `limit` bytes, whatever it says of its length."""

    limit = MAX_BODY

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The body.

        Raises:
            BrokenForm: `form.too_large`.
        """
        size = 0
        async for chunk in super().stream():
            size += len(chunk)
            if size > self.limit:
                raise BrokenForm("form.too_large")
            yield chunk

    async def body(self) -> bytes:
        """The whole body, without the generators of `stream`; read once.

        Raises:
            BrokenForm: `form.too_large`.
            ClientDisconnect: it was cut off.
        """
        if not hasattr(self, "_body"):
            if self._stream_consumed:
                raise RuntimeError("the body was read piece by piece")
            parts, size, is_whole = [], 0, False
            while not is_whole:
                message = await self.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                parts.append(message.get("body", b""))
                is_whole = not message.get("more_body", False)
                size += len(parts[-1])
                if size > self.limit:
                    raise BrokenForm("form.too_large")
            self._stream_consumed = True
            self._body = b"".join(parts)
        return self._body


class UploadRequest(BoundedRequest):
    """A request that may bring a file."""

    limit = MAX_FILE + MAX_BODY


def check_path(request: Request) -> None:
    """Refuse a path that nothing can have. Odd parameters are for the page, which leaves them out and says so.

    Raises:
        NotFound: control characters, or what is not text.
    """
    path: str = request.scope["path"]
    if any(c < " " or c == "\x7f" or "\ud800" <= c <= "\udfff" for c in path):
        raise NotFound("Not found.", rule="address.characters")


async def read_pairs(request: Request) -> list[tuple[bytes, bytes]]:
    """Names and values of a form, still encoded. The body stays readable.

    Raises:
        BrokenForm: another format, too large, cut off, or with more fields than any form of ours.
    """
    # A type that a page of another site could send without asking is refused before anything is read (T02).
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM_TYPE:
        raise BrokenForm("form.content_type")
    try:
        body = await request.body()
    except ClientDisconnect as error:
        raise BrokenForm("form.malformed") from error
    parts = [part for part in body.split(b"&") if part]
    if len(parts) > _MAX_PAIRS:
        raise BrokenForm("form.malformed")
    split = (part.partition(b"=") for part in parts)
    return [(name, value) for name, _, value in split]


async def read_form(request: Request) -> Mapping[str, str]:
    """Fields of a form, read once for whoever asks again.

    A form of which two parsers could read different things is refused, and so is what is not text.

    Raises:
        BrokenForm: see `read_pairs`; `form.doubled`, `form.characters`.
    """
    known: Mapping[str, str] | None = request.scope.get(_READ)
    if known is not None:
        return known
    fields: dict[str, str] = {}
    for raw_name, raw_value in await read_pairs(request):
        name = text_of(raw_name, "")
        # Whichever of two values another parser would take, this one takes neither.
        if name in fields:
            raise BrokenForm("form.doubled", name)
        fields[name] = text_of(raw_value, name)
    request.scope[_READ] = fields
    return fields


class _InMemory(MultiPartParser):
    """Keeps a file in memory: on a disk it would lie in the clear."""

    spool_max_size = MAX_FILE + MAX_BODY

    def close(self) -> None:
        """Let go of files that came before what was wrong; the parser itself does for its own faults alone."""
        for file in self._files_to_close_on_error:
            file.close()

    @property
    def begun(self) -> int:
        """How many files began; the parser passes over one whose end did not come."""
        return len(self._files_to_close_on_error)


class _Reading:
    """How many files are being read, or lie in memory until they are sealed."""

    count = 0


async def read_upload(request: Request) -> None:
    """Read a form with one file: its fields as `read_form` finds them, the file for `file_of`.

    Whoever may not send one is turned away before. The caller ends with `drop_file`, whatever happens.

    Raises:
        BrokenForm: another format, too large, cut off, more fields than expected or one of them doubled.
    """
    if _Reading.count >= _MOST_FILES:
        raise BrokenForm("form.busy")
    _Reading.count += 1
    request.scope[_HAS_PLACE] = True
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FILE_TYPE:
        raise BrokenForm("form.content_type")
    limits = {"max_files": 1, "max_fields": _MAX_FIELDS, "max_part_size": _MAX_FIELD}
    parser = _InMemory(request.headers, request.stream(), **limits)
    try:
        form = await parser.parse()
    except BrokenForm:
        parser.close()
        raise
    except (HTTPException, MultiPartException, ClientDisconnect) as error:
        parser.close()
        raise BrokenForm("form.malformed") from error
    fields: dict[str, str] = {}
    sent = form.multi_items()
    if parser.begun != sum(isinstance(value, UploadFile) for _, value in sent):
        parser.close()
        raise BrokenForm("form.malformed")
    request.scope[_FILE] = next((value for _, value in sent if isinstance(value, UploadFile)), None)
    names = [name for name, _ in sent]
    for name, value in sent:
        # A file and a text of one name are two values too.
        if names.count(name) > 1:
            raise BrokenForm("form.doubled", name)
        if isinstance(value, UploadFile):
            continue
        if "\x00" in name + value:
            raise BrokenForm("form.characters", name)
        fields[name] = value
    request.scope[_READ] = fields


def file_of(request: Request) -> UploadFile | None:
    """The file that came with the form; None: nobody chose one."""
    file: UploadFile | None = request.scope.get(_FILE)
    return file if file is not None and file.size else None


def drop_file(request: Request) -> None:
    """Forget the file that came with a form, and give its place to the next."""
    if request.scope.pop(_HAS_PLACE, False):
        _Reading.count -= 1
    file: UploadFile | None = request.scope.pop(_FILE, None)
    if file is not None:
        file.file.close()


def text_of(raw: bytes, field: str) -> str:
    """A decoded name (`field` empty) or value.

    Raises:
        BrokenForm: not UTF-8, or with a NUL character.
    """
    try:
        is_plain = b"%" not in raw and b"+" not in raw
        text = (raw if is_plain else unquote_to_bytes(raw.replace(b"+", b" "))).decode("utf-8")
    except UnicodeDecodeError as error:
        raise BrokenForm("form.characters" if field else "form.malformed", field) from error
    if "\x00" in text:
        raise BrokenForm("form.characters" if field else "form.malformed", field)
    return text


def render_broken_form(pages: Pages, request: Request, broken: BrokenForm) -> Response:
    """The page for a form that could not be read: which field, and what to do."""
    sentence = pages.gettext(request, _SENTENCES[broken.rule])
    context = {
        "title": pages.gettext(request, N_("The form could not be used")),
        "sentence": sentence % {"field": broken.field} if "%(field)s" in sentence else sentence,
        "next_step": pages.gettext(request, N_("Nothing was changed. Go back, reload the page and fill it in again.")),
        "link": None,
        # Never the request's own address, which may be what was broken.
        "here": "/",
    }
    return pages.render(request, "error.html", context, _STATUS.get(broken.rule, 400))
