"""The answer of a Code-Ally tool as our ToolResult: the rules for daemons' methods and for programs.

Pure: calling the method and running the program is left to the host.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.contract.values.codec import LongInteger, decode_lenient, encode
from ally_plugins.contract.values.conversation import ToolResult
from ally_plugins.contract.values.errors import EventError
from ally_plugins.contract.values.inert import ending, inert
from ally_plugins.host.sockets.messages import MAX_VALUES, has_too_many, quotable

from .limits import MAX_OUTPUT

if TYPE_CHECKING:
    from ally_plugins.contract.programs import Ran

__all__ = ["executable_result", "rpc_result", "stderr_note"]

_SHOWN: Final = 4_000
"""Characters of a program's raw output, and as many of its stderr, that an error shows."""

_DESCRIBED: Final = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}


def rpc_result(value: Any) -> ToolResult:
    """Return what a daemon's method answered: `message` is the output, `data` (or else everything) the data.

    What is no object is wrapped in one. An object with `success: false` is a failure.
    """
    if not isinstance(value, Mapping):
        return ToolResult(
            success=True, output=value if isinstance(value, str) else _json(value), data={"result": value}
        )
    return _object_result(value, is_failed=value.get("success") is False)


def executable_result(tool: str, ran: Ran) -> ToolResult:
    """Return what a program printed: `success: false` or a truthy `error` means failure.

    So does an exit code other than 0, unless the object has `success: true`. `data` (or else everything) is the data.
    Anything but one JSON object is an error that shows the beginning of the raw output and the end of stderr.
    """
    value, problem = _object(ran)
    if value is None:
        return ToolResult(success=False, error=_raw(tool, ran, problem))
    has_failed = value.get("success") is False or bool(value.get("error"))
    try:
        if ran.ended and not has_failed and value.get("success") is not True:
            shown = stderr_note(ran.stderr.decode("utf-8", "replace"))
            return ToolResult(success=False, error=f"{tool!r} {ran.ended}{shown}", data=value)
        return _object_result(value, is_failed=has_failed)
    except EventError as error:
        return ToolResult(success=False, error=f"{tool!r} printed what cannot be kept: {error}")


def _object_result(value: Mapping[str, Any], *, is_failed: bool) -> ToolResult:
    data = value["data"] if value.get("data") is not None else value
    if is_failed:
        error, message = value.get("error"), value.get("message")
        reason = error or message or "it failed and said no more"
        return ToolResult(
            success=False, error=quotable(reason if isinstance(reason, str) else _json(reason), _SHOWN), data=data
        )
    texts = [value.get(key) for key in ("message", "output")]
    output = next((text for text in texts if isinstance(text, str)), None)
    return ToolResult(success=True, output=_json(data) if output is None else output, data=data)


def _object(ran: Ran) -> tuple[dict[str, Any] | None, str]:
    text = ran.stdout.strip().removeprefix(codecs.BOM_UTF8)
    if not text:
        return None, "printed nothing"
    # Before it is decoded: ten megabytes of `[]` would block the event loop for seconds.
    if has_too_many(text):
        return None, f"printed more than {MAX_VALUES} values"
    try:
        value = decode_lenient(text)
    # Before ValueError, which it is: the text is JSON, and one number in it is too long.
    except LongInteger as problem:
        return None, f"printed what cannot be kept: {problem}"
    except ValueError:
        return None, "printed what is not JSON"
    if not isinstance(value, dict):
        return None, f"printed {_DESCRIBED.get(type(value), 'a number')}"
    return value, ""


def _raw(tool: str, ran: Ran, problem: str) -> str:
    parts = [f"{tool!r} {problem}; expected one JSON object on standard output"]
    if ran.ended:
        parts.append(f"it {ran.ended}")
    if ran.stdout.strip():
        note = f" [truncated at {MAX_OUTPUT} bytes]" if ran.is_cut else ""
        parts.append(f"output: {_text(ran.stdout)}{note}")
    return "; ".join(parts) + stderr_note(ran.stderr.decode("utf-8", "replace"))


def _text(data: bytes) -> str:
    return quotable(data.strip().decode("utf-8", "replace"), _SHOWN)


def stderr_note(text: str) -> str:
    """Return the end of what a program wrote to stderr, to follow an error: the reason stands there. "" for nothing."""
    return f"; its stderr: {inert(ending(text.strip(), _SHOWN), keep_lines=True)}" if text.strip() else ""


def _json(value: Any) -> str:
    return encode(value).decode()
