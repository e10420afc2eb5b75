"""The messages on one connection to a daemon that listens: one line of JSON each way.

Pure: bytes in, values out; opening the connection is left to `link`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.contract.values.codec import decode, encode
from ally_plugins.contract.values.errors import EventError, ToolCallError
from ally_plugins.contract.values.eventjson import event_data
from ally_plugins.contract.values.frozen import freeze
from ally_plugins.contract.values.inert import inert, shortened

if TYPE_CHECKING:
    from ally_plugins.contract.values.events import Event

__all__ = ["MAX_VALUES", "call_message", "event_message", "has_too_many", "quotable", "read_answer"]

MAX_VALUES: Final = 250_000
"""Values in one answer. Code-Ally bounds only the bytes; ten megabytes of `[]` would block the loop for seconds."""

_EVENT: Final = (
    b'{"jsonrpc":"2.0","method":"on_event","params":{"event_type":%b,"event_data":%b,"type":%b,"data":%b,%b}\n'
)
_LONGEST_ERROR: Final = 2_000  # characters of a daemon's own error that a failed call repeats
_TEXTS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"')
_SEPARATORS: Final = (b",", b"[", b"{")


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
    return encode({"jsonrpc": "2.0", "method": method, "params": params, "id": number}) + b"\n"


def read_answer(line: bytes, number: int, *, method: str, plugin: str) -> Any:
    """Return the frozen result of an answer.

    Raises ToolCallError for an error answer, for the answer to another question, and for what is no answer.
    """

    def failed(text: str) -> ToolCallError:
        return ToolCallError(f"{method!r} of {plugin!r} {text}", tool=method, plugin=plugin)

    if not line.strip():
        raise failed("closed the connection without an answer")
    if has_too_many(line):
        raise failed(f"answered with more than {MAX_VALUES} values")
    try:
        answer = decode(line)
    except ValueError:
        raise failed(f"answered what is not JSON: {quotable(line[:200].decode('utf-8', 'replace'))}") from None
    if not isinstance(answer, dict):
        raise failed(f"answered with a {type(answer).__name__}; expected a JSON-RPC object")
    error, found = answer.get("error"), answer.get("id")
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
