"""Connections of the client that calls out: each carries one answer to each question, within an allowance of bytes.

Imported with aiohttp, at the first call.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Final

from aiohttp import ClientPayloadError, TCPConnector
from aiohttp.client_exceptions import ClientConnectionError
from aiohttp.client_proto import ResponseHandler

_MOST_INTERIM: Final = 16
"""Interim answers (1xx) before an answer: RFC 9110 section 15.2 sets no bound."""
_OVERHEAD: Final = 262_144
"""What head, chunks and trailers may take beside the body."""
_allowance: ContextVar[int] = ContextVar("allowance")


@contextmanager
def allowance(max_bytes: int) -> Iterator[None]:
    """What a request that is sent within may be answered with; a body may have grown by its compression."""
    token = _allowance.set(2 * max_bytes + _OVERHEAD)
    try:
        yield
    finally:
        _allowance.reset(token)


class OneAnswer(ResponseHandler):
    """A connection that is closed when it says more than it was asked, or says it at endless length.

    What came unasked on an idle connection would be taken for the answer to the next question, and that answer for the
    one after it.
    """

    _answer: Any = None
    """The body of the answer; None: it has not begun."""
    _interim = 0
    _left = 0

    def set_response_params(self, **params: Any) -> None:
        """A question is about to be sent."""
        self._answer, self._interim, self._left = None, 0, _allowance.get()
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Read what was asked for; everything else ends the connection."""
        if data and (self._parser is None or (self._answer is not None and self._answer.is_eof())):
            self._break_off(ClientConnectionError("spoke without being asked"))
            return
        self._left -= len(data)
        if self._left < 0:
            self._break_off(ClientPayloadError("answered at endless length"))
            return
        super().data_received(data)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Take a head that was read, and with it the body that is to come."""
        message, body = data
        if message.code >= 200 or message.code == 101:
            if self._answer is not None:
                self.force_close()
                return
            self._answer = body
        else:
            self._interim += 1
            if self._interim > _MOST_INTERIM:
                self._break_off(ClientPayloadError("answered at endless length"))
                return
        super().feed_data(data, size)

    def _break_off(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.is_eof():
            self._answer.set_exception(error)
        self.set_exception(error)
        if self.transport is not None:
            self.transport.abort()


class OneAnswerConnector(TCPConnector):
    """Makes such connections."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # What the library has no option for; a test fails where a version keeps it elsewhere.
        self._factory: Any = partial(OneAnswer, loop=self._loop)
