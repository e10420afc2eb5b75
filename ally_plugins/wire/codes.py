"""The error codes of the protocol, and our errors to and from them.

A text crosses the wire only when it is our own: that of a refusal, which is an answer, that of a tool that failed, and
that of a deadline that a hook passed.
Of anything else the peer learns that something went wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from attrs import frozen

from ally_plugins.contract.values.errors import (
    AllyError,
    ArgumentsError,
    BudgetRefused,
    GateRefused,
    HopLimitRefused,
    KeyConflictRefused,
    NotFoundRefused,
    PermissionRefused,
    PluginError,
    ReentryRefused,
    RefusedError,
    RemoteError,
    TimedOut,
    ToolCallError,
    UnavailableRefused,
    ValidationRefused,
)

__all__ = ["CODES", "REASONS", "WireAnswer", "read_error", "write_error"]

PARSE_ERROR: Final = -32700  # these five are JSON-RPC's
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
CANCELLED: Final = -32800  # the number that the language server protocol gave it
REFUSED: Final = -32000  # from here to -32099 JSON-RPC leaves them to us
PERMISSION: Final = -32001
BUDGET: Final = -32002
TOO_LARGE: Final = -32003
HOP_LIMIT: Final = -32004
SHUTTING_DOWN: Final = -32005
BUSY: Final = -32006
GATE: Final = -32007
KEY_CONFLICT: Final = -32008
REENTRY: Final = -32009
NOT_FOUND: Final = -32010
UNAVAILABLE: Final = -32011
TOOL_FAILED: Final = -32012
NOT_INITIALIZED: Final = -32013
UNSUPPORTED_PROTOCOL: Final = -32014
UNAUTHORIZED: Final = -32015
DEADLINE: Final = -32016

REASONS: Final[Mapping[int, str]] = MappingProxyType(
    {
        PARSE_ERROR: "parse",
        INVALID_REQUEST: "invalid_request",
        METHOD_NOT_FOUND: "method_not_found",
        INVALID_PARAMS: "validation",
        INTERNAL_ERROR: "internal",
        CANCELLED: "cancelled",
        REFUSED: "refused",
        PERMISSION: "permission",
        BUDGET: "budget",
        TOO_LARGE: "too_large",
        HOP_LIMIT: "hop_limit",
        SHUTTING_DOWN: "shutting_down",
        BUSY: "busy",
        GATE: "gate",
        KEY_CONFLICT: "key_conflict",
        REENTRY: "reentry",
        NOT_FOUND: "not_found",
        UNAVAILABLE: "unavailable",
        TOOL_FAILED: "tool_failed",
        NOT_INITIALIZED: "not_initialized",
        UNSUPPORTED_PROTOCOL: "unsupported_protocol",
        UNAUTHORIZED: "unauthorized",
        DEADLINE: "deadline",
    }
)
"""The stable short word of each code; it stands in `data.reason` of every error that we send."""

CODES: Final[Mapping[str, int]] = MappingProxyType({reason: code for code, reason in REASONS.items()})

_INTERNAL_TEXT: Final = "internal error"
_CALLS_IN_FLIGHT: Final = "calls_in_flight"
_ATTRIBUTES: Final = (
    "plugin",
    "permission",
    "command",
    "budget",
    "retry_after",
    "field",
    "chain",
    "decision_id",
    "tool",
    "problems",
)


@frozen
class WireAnswer:
    """The content of an error response."""

    code: int
    message: str
    data: dict[str, Any]


def write_error(error: BaseException, *, names_type: bool = False) -> WireAnswer:
    """Return the answer that a peer gets for an exception.

    Refusals and failures of tools cross with their text and attributes. Anything else is an internal error;
    `names_type` adds the name of its class (for a daemon, whose author reads the host's log).
    """
    code = _find_code(error)
    if code is None:
        # The class at most: a text may quote what is secret, or the host's own files.
        data = {"reason": REASONS[INTERNAL_ERROR]} | ({"type": type(error).__name__} if names_type else {})
        return WireAnswer(INTERNAL_ERROR, _INTERNAL_TEXT, data)
    found = {name: getattr(error, name, None) for name in _ATTRIBUTES}
    data = {"reason": REASONS[code]} | {name: value for name, value in found.items() if value not in (None, ())}
    return WireAnswer(code, str(error), data)


def read_error(code: int, message: str, data: Any = None) -> AllyError:
    """Return the error that the same call would have raised inside the host, or a RemoteError.

    It is a RemoteError for codes that are none of ours or have no error of their own, and where `data` lacks what that
    error needs. What stands in it is the peer's word: only a daemon, which trusts its host, should raise it as it is.
    """
    facts = data if isinstance(data, Mapping) else {}
    read = _READERS.get(code)
    try:
        return read(message, facts) if read is not None else _read_remote(code, message, facts)
    # A peer of another version may leave out what our error's class needs; its code and text are still told.
    except (KeyError, TypeError):
        return _read_remote(code, message, facts)


def _find_code(error: BaseException) -> int | None:
    # Before ToolCallError, whose subclass it is; so is BudgetRefused of RefusedError.
    if isinstance(error, ArgumentsError):
        return INVALID_PARAMS
    if isinstance(error, ToolCallError):
        return TOOL_FAILED
    if isinstance(error, BudgetRefused):
        return _find_budget_code(error)
    if isinstance(error, TimedOut):
        return DEADLINE
    if isinstance(error, RefusedError):
        return CODES.get(error.reason, REFUSED)
    return None


def _find_budget_code(error: BudgetRefused) -> int:
    if error.budget == _CALLS_IN_FLIGHT:
        return BUSY
    # A size never fits by waiting. A rate whose limit is 0 gives no time either, so the name decides.
    is_size = error.retry_after is None and error.budget.endswith("_bytes")
    return TOO_LARGE if is_size else BUDGET


def _text(facts: Mapping[str, Any], name: str) -> str:
    value = facts[name]
    if not isinstance(value, str):
        raise TypeError(name)
    return value


def _text_or_none(facts: Mapping[str, Any], name: str) -> str | None:
    return _text(facts, name) if facts.get(name) is not None else None


def _texts(facts: Mapping[str, Any], name: str) -> tuple[str, ...]:
    values = facts[name]
    if not (isinstance(values, list | tuple) and all(isinstance(value, str) for value in values)):
        raise TypeError(name)
    return tuple(values)


def _seconds_or_none(facts: Mapping[str, Any], name: str) -> float | None:
    value = facts.get(name)
    if value is not None and type(value) not in {int, float}:
        raise TypeError(name)
    return value


def _plugin(facts: Mapping[str, Any]) -> str | None:
    return _text_or_none(facts, "plugin")


def _read_remote(code: int, message: str, facts: Mapping[str, Any]) -> RemoteError:
    return RemoteError(message, code=code, data=dict(facts))


def _read_plain(cls: type[PluginError]) -> Callable[[str, Mapping[str, Any]], AllyError]:
    return lambda message, facts: cls(message, plugin=_plugin(facts))


def _read_permission(message: str, facts: Mapping[str, Any]) -> AllyError:
    permission, command = _text(facts, "permission"), _text(facts, "command")
    return PermissionRefused(message, plugin=_plugin(facts), permission=permission, command=command)


def _read_budget(message: str, facts: Mapping[str, Any]) -> AllyError:
    wait = _seconds_or_none(facts, "retry_after")
    return BudgetRefused(message, plugin=_plugin(facts), budget=_text(facts, "budget"), retry_after=wait)


def _read_validation(message: str, facts: Mapping[str, Any]) -> AllyError:
    # One code, two errors: only wrong arguments name a tool.
    if "tool" in facts:
        problems = _texts(facts, "problems") if "problems" in facts else ()
        return ArgumentsError(message, tool=_text(facts, "tool"), plugin=_plugin(facts), problems=problems)
    return ValidationRefused(message, plugin=_plugin(facts), field=_text(facts, "field"))


def _read_hop_limit(message: str, facts: Mapping[str, Any]) -> AllyError:
    return HopLimitRefused(message, plugin=_plugin(facts), chain=_texts(facts, "chain"))


def _read_gate(message: str, facts: Mapping[str, Any]) -> AllyError:
    return GateRefused(message, plugin=_plugin(facts), decision_id=_text_or_none(facts, "decision_id"))


def _read_tool(message: str, facts: Mapping[str, Any]) -> AllyError:
    return ToolCallError(message, tool=_text(facts, "tool"), plugin=_plugin(facts))


_READERS: Final[Mapping[int, Callable[[str, Mapping[str, Any]], AllyError]]] = {
    INVALID_PARAMS: _read_validation,
    REFUSED: _read_plain(RefusedError),
    PERMISSION: _read_permission,
    BUDGET: _read_budget,
    TOO_LARGE: _read_budget,
    HOP_LIMIT: _read_hop_limit,
    SHUTTING_DOWN: _read_plain(UnavailableRefused),
    BUSY: _read_budget,
    GATE: _read_gate,
    KEY_CONFLICT: _read_plain(KeyConflictRefused),
    REENTRY: _read_plain(ReentryRefused),
    NOT_FOUND: _read_plain(NotFoundRefused),
    UNAVAILABLE: _read_plain(UnavailableRefused),
    TOOL_FAILED: _read_tool,
    DEADLINE: _read_plain(TimedOut),
}
