"""The messages of the protocol, and JSON text to and from them, strictly.

`parse` knows the rules of one frame; what a message means beside the others is `connection`'s, what a method's params
mean is `methods`'.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, Final, TypeAlias

import orjson
from attrs import frozen

from ally_plugins.contract.values.codec import encode_exactly, find_long_integer

from .codes import INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, PARSE_ERROR
from .limits import DEFAULT_LIMITS, WireLimits

__all__ = [
    "Cancel",
    "ErrorResponse",
    "Malformed",
    "Message",
    "MessageId",
    "Notification",
    "Progress",
    "Request",
    "Response",
    "encode_error",
    "encode_notification",
    "encode_request",
    "encode_response",
    "parse",
]

MessageId: TypeAlias = int | str

ID_CHARS: Final = 128  # of a text as id: a peer's ids are kept while its requests are worked on
METHOD_CHARS: Final = 128  # a method stands in texts and logs; the longest of ours has 15

# One pass that leaves the openers costs half of two counts, and a third of a microsecond for 500 bytes.
_OPENERS: Final = b"[{"
_BRACKETS: Final = b"[]{}"
_NOT_OPENERS: Final = bytes(sorted(set(range(256)) - set(_OPENERS)))
_NOT_BRACKETS: Final = bytes(sorted(set(range(256)) - set(_BRACKETS)))
_AS_SQUARE: Final = bytes.maketrans(b"{}", b"[]")
_NOTHING: Final[Mapping[Any, str]] = {}
_ABSENT: Final = object()
_UNREAD: Final = object()
_SHORTEST_LONG: Final = 53  # bytes of a message with 19 digits in its result


# Frozen attrs, not named tuples: those are equal to each other across types when their fields are, which hides
# mistakes; being a tenth of a microsecond faster to make does not outweigh it.
@frozen
class Request:
    """A call that wants an answer."""

    id: MessageId
    method: str
    params: dict[str, Any]


@frozen
class Notification:
    """A call that wants no answer."""

    method: str
    params: dict[str, Any]


@frozen
class Response:
    """The result of a request of ours. `method` is the request's."""

    id: int
    method: str
    result: Any


@frozen
class ErrorResponse:
    """The failure of a request of ours. `method` is the request's; do not trust `message` and `data`."""

    id: int
    method: str
    code: int
    message: str
    data: Any = None


@frozen
class Cancel:
    """The peer wants no answer to its request any more; it has been given one (-32800) already."""

    id: MessageId


@frozen
class Progress:
    """How far the peer is with a request of ours: `progress` from 0 to 1, where known."""

    id: int
    progress: float | None = None
    message: str | None = None


Message: TypeAlias = Request | Notification | Response | ErrorResponse | Cancel | Progress


class Malformed(Exception):
    """One frame is no message; the connection turns this into an answer, or a ProtocolError.

    `id` is the request's where it can be read; `is_answered` is False for responses and notifications. `is_broken` is
    False where the frame is fine and one value in it is not, so that the peer needs not be cut off for many of them.
    """

    def __init__(
        self,
        code: int,
        text: str,
        *,
        id: MessageId | None = None,  # noqa: A002 - JSON-RPC's name for it
        is_answered: bool = True,
        is_broken: bool = True,
    ) -> None:
        super().__init__(text)
        self.code: Final = code
        self.text: Final = text
        self.id: Final = id
        self.is_answered: Final = is_answered
        self.is_broken: Final = is_broken


def parse(
    frame: bytes,
    limits: WireLimits = DEFAULT_LIMITS,
    outgoing: Mapping[Any, str] = _NOTHING,
    methods: Container[str] | None = None,
) -> Message:
    """Return the message of one line; `outgoing` gives the method of a response's request, else it is "".

    `methods` are those that may be called, where that is known: a call of another one is refused as such, and not for
    the form of its params. Of duplicate keys the last wins; members that the protocol does not know are ignored. The id
    of a response is not checked here: it may be anything that an id may be, and None for an error. A result with an
    integer of more than 64 bits is an ErrorResponse, since whoever waits for it is to be told. Raises Malformed and
    nothing else.
    """
    value = _decode(frame, limits)
    # orjson reads an integer of more than 64 bits as a float, which is another number, or not at all.
    found = find_long_integer(frame) if value is _UNREAD or len(frame) >= _SHORTEST_LONG else None
    if found is not None:
        return _refuse_long(_read(found[0], outgoing, methods), found[1])
    if value is _UNREAD:
        raise Malformed(PARSE_ERROR, "the line is not JSON in UTF-8")
    return _read(value, outgoing, methods)


def _read(value: Any, outgoing: Mapping[Any, str], methods: Container[str] | None) -> Message:
    if value.__class__ is not dict:
        what = "a batch; send one message a line" if value.__class__ is list else "not an object"
        raise Malformed(INVALID_REQUEST, f"the message is {what}")
    if value.get("jsonrpc") != "2.0":
        raise _refuse(value, "'jsonrpc' is missing or not '2.0'")
    if "result" in value or "error" in value:
        return _read_answer(value, outgoing)
    method = value.get("method")
    if method.__class__ is not str or not 0 < len(method) <= METHOD_CHARS:
        raise _refuse(value, f"'method' is missing or no text of 1 to {METHOD_CHARS} characters")
    return _read_call(value, method, methods)


def _refuse_long(message: Message, problem: str) -> ErrorResponse:
    """Return what an answer with too long an integer is instead; raise Malformed for a call."""
    if isinstance(message, Response):
        text = f"the answer to {message.method!r} cannot be read: {problem}"
        return ErrorResponse(message.id, message.method, PARSE_ERROR, text)
    if isinstance(message, ErrorResponse):
        return ErrorResponse(message.id, message.method, message.code, message.message)
    id_ = message.id if isinstance(message, Request) else None
    raise Malformed(INVALID_PARAMS, problem, id=id_, is_answered=id_ is not None, is_broken=False)


def encode_request(id_: int, method: str, params: Mapping[str, Any] | None) -> bytes:
    """Return the line of a request. Raises EncodeError when `params` holds something that is no JSON value.

    The context that a gate is given may hold what JSON cannot say, as an event may: it is written as `encode` does.
    """
    if params is None:
        return encode_exactly({"jsonrpc": "2.0", "id": id_, "method": method}) + b"\n"
    message = {"jsonrpc": "2.0", "id": id_, "method": method, "params": params}
    return encode_exactly(message, may_change="params.context.") + b"\n"


def encode_notification(method: str, params: Mapping[str, Any] | None = None) -> bytes:
    """Return the line of a notification. Raises EncodeError when `params` holds something that is no JSON value."""
    if params is None:
        return encode_exactly({"jsonrpc": "2.0", "method": method}) + b"\n"
    return encode_exactly({"jsonrpc": "2.0", "method": method, "params": params}) + b"\n"


def encode_response(id_: MessageId, result: Any) -> bytes:
    """Return the line of a result. Raises EncodeError when `result` is no JSON value."""
    return encode_exactly({"jsonrpc": "2.0", "id": id_, "result": result}) + b"\n"


def encode_error(id_: MessageId | None, code: int, message: str, data: Any = None) -> bytes:
    """Return the line of an error; `data` is left out when None. Raises EncodeError when it is no JSON value."""
    error = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return encode_exactly({"jsonrpc": "2.0", "id": id_, "error": error}) + b"\n"


def _decode(frame: bytes, limits: WireLimits) -> Any:
    size = len(frame)
    # A value takes two bytes at least ("1,"), a level two ("[]"): most frames are too short to break either limit.
    is_deep = size > 2 * limits.depth and len(frame.translate(None, _NOT_OPENERS)) > limits.depth
    # With `depth` openers at most a frame has no more values than one, and its commas and openers.
    if is_deep or (size > 2 * limits.nodes and frame.count(b",") + limits.depth >= limits.nodes):
        _check_shape(frame, limits)
    try:
        return orjson.loads(frame)
    except ValueError:  # its text quotes the frame
        return _UNREAD


def _check_shape(frame: bytes, limits: WireLimits) -> None:
    """Count values and levels exactly, outside of strings, and without decoding anything.

    Exact for what is JSON; anything else is refused by the codec, which has a limit of its own, right after this.
    """
    # In JSON a backslash stands in strings only, so without its pairs every quote left is one that opens or closes.
    bare = b"0".join(frame.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2]).translate(None, b" \t\r")
    brackets = bare.translate(_AS_SQUARE, _NOT_BRACKETS)
    empty = bare.count(b"[]") + bare.count(b"{}")
    if 1 + bare.count(b",") + brackets.count(b"[") - empty > limits.nodes:
        raise Malformed(INVALID_REQUEST, f"the message has more than {limits.nodes} values")
    for _ in range(limits.depth):  # each round takes the innermost level away
        if not brackets:
            return
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise Malformed(INVALID_REQUEST, f"the message is nested deeper than {limits.depth} levels")


def _read_call(
    value: dict[str, Any], method: str, methods: Container[str] | None
) -> Request | Notification | Cancel | Progress:
    params = value.get("params", _ABSENT)
    id_ = value.get("id", _ABSENT)
    if id_ is not _ABSENT and not _is_id(id_):
        raise _refuse(value, f"'id' is no whole number of 64 bits and no text of {ID_CHARS} characters at most")
    if params is _ABSENT:
        params = {}
    elif params.__class__ is not dict:
        # The method first: whoever calls what is not there learns nothing from the form of its params.
        if methods is not None and method not in methods:
            raise _refuse(value, f"there is no method {method!r}", METHOD_NOT_FOUND)
        raise _refuse(value, "'params' is not an object", INVALID_PARAMS)
    if id_ is not _ABSENT:
        return Request(id_, method, params)
    # Only as notifications: with an id they are requests of an unknown method, and answered as such.
    if method == "$/cancel":
        return _read_cancel(value, params)
    if method == "$/progress":
        return _read_progress(value, params)
    return Notification(method, params)


def _read_cancel(value: dict[str, Any], params: dict[str, Any]) -> Cancel:
    if not _is_id(params.get("id")):
        raise _refuse(value, "'$/cancel' names no request: 'id' is missing or wrong")
    return Cancel(params["id"])


def _read_progress(value: dict[str, Any], params: dict[str, Any]) -> Progress:
    progress, message = params.get("progress"), params.get("message")
    is_number = progress is None or (progress.__class__ in (int, float) and 0 <= progress <= 1)
    is_text = message is None or message.__class__ is str
    if not (_is_id(params.get("id")) and is_number and is_text):
        raise _refuse(value, "'$/progress' wants an 'id', a 'progress' from 0 to 1 and a 'message' that is text")
    return Progress(params["id"], progress, message)


def _read_answer(value: dict[str, Any], outgoing: Mapping[Any, str]) -> Response | ErrorResponse:
    id_ = value.get("id", _ABSENT)
    if "method" in value or ("result" in value) is ("error" in value):
        raise _refuse(value, "a response has either 'result' or 'error', and no 'method'")
    if not _is_id(id_) and not (id_ is None and "error" in value):
        raise _refuse(value, "the 'id' of a response is missing or wrong")
    if "result" in value:
        return Response(value["id"], outgoing.get(id_, ""), value["result"])
    error = value["error"]
    is_error = error.__class__ is dict and error.get("code").__class__ is int and error.get("message").__class__ is str
    if not is_error:
        raise _refuse(value, "an 'error' has a whole number as 'code' and a text as 'message'")
    return ErrorResponse(value["id"], outgoing.get(id_, ""), error["code"], error["message"], error.get("data"))


def _is_id(id_: Any) -> bool:
    # By class: `isinstance` would take True for 1. No float: 1 and 1.0 would be one id here and two elsewhere.
    return id_.__class__ is int or (id_.__class__ is str and len(id_) <= ID_CHARS)


def _refuse(value: dict[str, Any], text: str, code: int = INVALID_REQUEST) -> Malformed:
    """Describe what is wrong with an object. Responses and notifications have no answer, whatever is wrong."""
    is_response = "result" in value or "error" in value
    is_notification = "id" not in value and value.get("method").__class__ is str
    id_ = value.get("id")
    return Malformed(code, text, id=id_ if _is_id(id_) else None, is_answered=not is_response and not is_notification)
