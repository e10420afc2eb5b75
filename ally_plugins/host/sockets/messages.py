"""The messages on one connection to a daemon that listens: one JSON text each way.

Pure: bytes in, values out; opening the connection is left to `link`.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field

from ally_plugins.contract.values.codec import LongInteger, decode_lenient, encode, encode_exactly
from ally_plugins.contract.values.errors import EventError, ToolCallError
from ally_plugins.contract.values.eventjson import event_data
from ally_plugins.contract.values.frozen import freeze
from ally_plugins.contract.values.inert import inert, shortened

if TYPE_CHECKING:
    from ally_plugins.contract.values.events import Event

__all__ = [
    "MAX_VALUES",
    "ArrivingAnswer",
    "beginning",
    "call_message",
    "event_message",
    "has_too_many",
    "quotable",
    "read_answer",
]

MAX_VALUES: Final = 250_000
"""Values in one answer. Code-Ally bounds only the bytes; ten megabytes of `[]` would block the loop for seconds."""

_EVENT: Final = (
    b'{"jsonrpc":"2.0","method":"on_event","params":{"event_type":%b,"event_data":%b,"type":%b,"data":%b,%b}\n'
)
_SHOWN: Final = 200  # bytes of what is no answer that an error shows
_LONGEST_ERROR: Final = 2_000  # characters of a daemon's own error that a failed call repeats
_TEXTS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"')
_SEPARATORS: Final = (b",", b"[", b"{")

_MOST_MARKS: Final = 4 * MAX_VALUES  # a value has two brackets or a quote at most, and its key another one
_BLANK: Final = b" \t\r\n"
_MARKS: Final = re.compile(rb'["\[\]{}]')
# Possessive (`*+`): nothing is tried twice, however long a text is that does not end.
_REST_OF_TEXT: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)


def event_message(event: Event) -> bytes:
    """Return an event as `on_event`, with its newline.

    `type` and `data` repeat `event_type` and `event_data`: some published daemons read those. The rest of the envelope
    is ours, so that a daemon that talks back can name what it reacts to.
    """
    kind, data = encode(event.type), encode(event_data(event))
    rest = {"timestamp": event.timestamp, "id": event.id, "session_id": event.session_id, "origin": event.origin}
    return _EVENT % (kind, data, kind, data, encode(rest)[1:])


def call_message(number: int, method: str, params: Mapping[str, Any]) -> bytes:
    """Return a request with its newline."""
    return encode_exactly({"jsonrpc": "2.0", "method": method, "params": params, "id": number}) + b"\n"


@define(eq=False)
class ArrivingAnswer:
    """One answer as it arrives; it lives as long as its connection.

    As Code-Ally does, it is read up to the end of its JSON value: it may have several lines, and no newline at its end.
    What begins neither an object nor a list ends with its line. Each byte is looked at once.
    """

    data: bytearray = field(init=False, factory=bytearray)
    _at: int = field(init=False, default=0)
    _depth: int = field(init=False, default=0)
    _seen: int = field(init=False, default=0)
    _is_in_text: bool = field(init=False, default=False)

    def receive_data(self, data: bytes) -> bool:
        """Take what has come; return whether the answer is whole, or has more values than are read."""
        self.data += data
        if not self._at:
            self.data = self.data.lstrip(_BLANK).removeprefix(BOM_UTF8).lstrip(_BLANK)
            if BOM_UTF8.startswith(self.data):  # nothing, or half of the mark, which Code-Ally passes over
                return False
        is_whole = self._has_value_ended() if self.data.startswith((b"{", b"[")) else self._has_line_ended()
        if is_whole and (end := self.data.find(b"\n", self._at)) >= 0:
            del self.data[end:]
        return is_whole

    def _has_line_ended(self) -> bool:
        end = self.data.find(b"\n", self._at)
        self._at = len(self.data) if end < 0 else end
        return end >= 0

    def _has_value_ended(self) -> bool:
        while mark := self._next_mark():
            self._seen += 1
            if mark == b'"':
                self._is_in_text = True
            else:
                self._depth += 1 if mark in b"[{" else -1
            if self._depth <= 0 or self._seen > _MOST_MARKS:
                return True
        return False

    def _next_mark(self) -> bytes:
        """Return the next quote or bracket outside of texts, b"" when more has to come first."""
        if self._is_in_text:
            rest = _REST_OF_TEXT.match(self.data, self._at)
            self._at = rest.end() if rest is not None else self._at
            if not self.data.startswith(b'"', self._at):  # all that came belongs to it, or the half of an escape
                return b""
            self._at, self._is_in_text = self._at + 1, False
        found = _MARKS.search(self.data, self._at)
        self._at = found.end() if found is not None else len(self.data)
        return found[0] if found is not None else b""


def read_answer(line: bytes, number: int, *, method: str, plugin: str) -> Any:
    """Return the frozen result of an answer.

    Raises ToolCallError for an error answer, for the answer to another question, and for what is no answer.
    """

    def failed(text: str) -> ToolCallError:
        return ToolCallError(f"{method!r} of {plugin!r} {text}", tool=method, plugin=plugin)

    answer = _read_object(line, failed)
    error, found = answer.get("error"), answer.get("id")
    # JSON-RPC: the error for a request that could not be read has no id.
    if (type(found) is not int or found != number) and not (found is None and error):
        raise failed(f"answered with the id {quotable(repr(found))}; expected {number}")
    if error:
        raise failed(_failure(error))
    if "result" not in answer:
        raise failed("answered with neither a result nor an error")
    try:
        return freeze(answer["result"])
    except EventError as problem:
        raise failed(f"answered what cannot be kept: {problem}") from None


def _read_object(line: bytes, failed: Callable[[str], ToolCallError]) -> dict[str, Any]:
    if not line.strip():
        raise failed("closed the connection without an answer")
    if has_too_many(line):
        raise failed(f"answered with more than {MAX_VALUES} values")
    try:
        # Leniently: Node.js writes half an emoji, a lone surrogate, where it has cut a text.
        answer = decode_lenient(line)
    except LongInteger as problem:
        raise failed(f"answered what cannot be kept: {problem}") from None
    except ValueError:
        raise failed(f"answered what is not JSON: {beginning(line)}") from None
    if not isinstance(answer, dict):
        raise failed(f"answered with a {type(answer).__name__}; expected a JSON-RPC object")
    if (version := answer.get("jsonrpc")) != "2.0":
        raise failed(f"answered with the jsonrpc {quotable(repr(version))}; expected '2.0'")
    return answer


def beginning(data: bytes | bytearray) -> str:
    """Return the first bytes of what a daemon has sent, in one line that may be shown."""
    return inert(data[:_SHOWN].decode("utf-8", "replace"))


def _failure(error: object) -> str:
    if not isinstance(error, dict):
        return f"failed: {quotable(str(error))}"
    message, code = error.get("message"), error.get("code")
    text = message if isinstance(message, str) and message else "no message"
    return f"failed: {quotable(text)}{f' (code {code})' if type(code) is int else ''}"


def quotable(text: str, longest: int = _LONGEST_ERROR) -> str:
    """Return an untrusted text cut to length, and without what a terminal would act on."""
    return inert(shortened(text, longest), keep_lines=True)


def has_too_many(line: bytes) -> bool:
    """Say whether a JSON text has more than `MAX_VALUES` values, before it is decoded.

    What can separate values is counted: first everywhere, which is quick, then outside of texts.
    """
    if sum(map(line.count, _SEPARATORS)) <= MAX_VALUES:
        return False
    bare = _TEXTS.sub(b"", line)
    return sum(map(bare.count, _SEPARATORS)) > MAX_VALUES
