"""Every message of the wire: who sends it, what its params are, what it is answered, which errors it may get.

The classes of the params are in `host_params`, `daemon_params` and `contract.calls`; this module is the table of them
and the way to read what came. What a daemon sends is read strictly; what a newer host may add is passed over by a
daemon.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from attrs import frozen

from ally_plugins.contract.calls import (
    AddMessage,
    AskQuestion,
    EmitEvent,
    GetContext,
    ReportProgress,
    RequestAction,
    StartTask,
    Unregister,
)
from ally_plugins.contract.tables import read_object, write_object
from ally_plugins.contract.values.errors import ValidationRefused
from ally_plugins.contract.wording import suggest

from .daemon_params import (
    AckEvents,
    ConnectParams,
    Log,
    RegisterActionParams,
    RegisterToolParams,
    ReportCrash,
    ReportTimes,
)
from .host_params import HOST_PARAMS, CancelParams, InitializeResult, ProgressParams, read_host_params

__all__ = [
    "COMMON_ERRORS",
    "HOST_METHODS",
    "METHODS",
    "PLUGIN_METHODS",
    "Method",
    "read_host_params",
    "read_initialize_result",
    "read_params",
    "unknown_method",
    "write_params",
]

COMMON_ERRORS: Final = ("validation", "internal", "cancelled")
"""What any request may be answered, by the names that `codes` has."""

_CALL: Final = ("not_initialized", "shutting_down", "unavailable")
_GRANTED: Final = (*_CALL, "permission", "budget", "not_found")


@frozen(kw_only=True)
class Method:
    """One message. `result` describes what it is answered with; a notification has none."""

    name: str
    sender: Literal["host", "plugin"]
    params: type[Any]
    result: str | None = None
    errors: tuple[str, ...] = ()

    @property
    def is_request(self) -> bool:
        """Whether it is answered."""
        return self.result is not None

    @property
    def doc(self) -> str:
        """What it means."""
        return " ".join((self.params.__doc__ or "").split())


def _host(name: str, result: str | None = None, errors: tuple[str, ...] = ()) -> Method:
    return Method(name=name, sender="host", params=HOST_PARAMS[name], result=result, errors=errors)


def _plugin(name: str, params: type[Any], result: str | None = None, errors: tuple[str, ...] = ()) -> Method:
    return Method(name=name, sender="plugin", params=params, result=result, errors=errors)


_RECEIPT: Final = "the receipt `{id, offset, state}`"

_FROM_HOST: Final = (
    _host("initialize", "what the daemon is and does", ("unsupported_protocol",)),
    _host("start", "null once the plugin has started", ("deadline",)),
    _host("shutdown", "null once the daemon has cleaned up", ("deadline",)),
    _host("ping", '`"pong"`, or anything else'),
    _host("drain", "null; an error of `method_not_found` counts as well"),
    _host("on_event"),
    _host("gate", 'null to abstain, or `{verdict: "allow" | "ask" | "deny", reason?, sensitive?}`', ("deadline",)),
    _host("transform", "null for no change, or `{replace: {the fields that change}}`", ("deadline",)),
    _host("call_tool", "any value; with a boolean `success`, a full tool result", ("tool_failed",)),
    _host("run_action", "any value, as it is", ("tool_failed",)),
    _host("run_task", "any value; it is the task's result", ("tool_failed",)),
    _host("$/cancel"),
    _host("$/progress"),
)

_FROM_PLUGIN: Final = (
    _plugin(
        "initialize",
        ConnectParams,
        "what a host's own `initialize` tells",
        ("unauthorized", "unsupported_protocol", "shutting_down", "busy"),
    ),
    _plugin(
        "add_message",
        AddMessage,
        f"{_RECEIPT}, `state` being `pending`",
        (*_GRANTED, "too_large", "hop_limit", "busy", "gate", "key_conflict", "reentry"),
    ),
    _plugin("emit_event", EmitEvent, f"{_RECEIPT}, `state` being `recorded`", (*_GRANTED, "too_large", "hop_limit")),
    _plugin("get_context", GetContext, "the context", _GRANTED),
    _plugin("register_tool", RegisterToolParams, f"{_RECEIPT}, `state` being `recorded`", (*_GRANTED, "too_large")),
    _plugin("register_action", RegisterActionParams, f"{_RECEIPT}, `state` being `recorded`", (*_GRANTED, "too_large")),
    _plugin("unregister", Unregister, "null", (*_CALL, "budget", "not_found")),
    _plugin(
        "request_action",
        RequestAction,
        "what the action returned",
        (*_GRANTED, "too_large", "hop_limit", "busy", "reentry", "tool_failed"),
    ),
    _plugin("ask", AskQuestion, "the choice, as it was given", (*_GRANTED, "hop_limit", "busy")),
    _plugin("start_task", StartTask, "`{task_id}`", (*_GRANTED, "hop_limit")),
    _plugin("task_progress", ReportProgress, "null", (*_CALL, "budget", "not_found")),
    _plugin("ack_events", AckEvents, "null once it is on disk", (*_CALL, "not_found")),
    _plugin("log", Log),
    _plugin("report_crash", ReportCrash),
    _plugin("report_times", ReportTimes),
    _plugin("$/cancel", CancelParams),
    _plugin("$/progress", ProgressParams),
)

HOST_METHODS: Final[Mapping[str, Method]] = {method.name: method for method in _FROM_HOST}
"""What a host sends, by name."""

PLUGIN_METHODS: Final[Mapping[str, Method]] = {method.name: method for method in _FROM_PLUGIN}
"""What a daemon sends, by name."""

METHODS: Final = (*_FROM_HOST, *_FROM_PLUGIN)
"""Every message; the three that both send stand here twice."""


def read_params(method: str, params: dict[str, Any], plugin: str | None = None) -> Any:
    """Return what a daemon sent as the class of that message (`PLUGIN_METHODS[method].params`).

    Raises KeyError for a method that no daemon sends, ValidationRefused for params that are not as they should be.
    """
    return read_object(PLUGIN_METHODS[method].params, params, method, plugin=plugin)


def read_initialize_result(result: Any, plugin: str | None = None) -> InitializeResult:
    """Return what a daemon answered to `initialize`; each of its hooks has the arguments that it wants.

    Raises ValidationRefused, which names where, what was found and what was expected, and the nearest right name.
    """
    return read_object(InitializeResult, result, "the answer to initialize", plugin=plugin, part="it")


def unknown_method(name: str) -> ValidationRefused:
    """Return the error for a method that a daemon called and that does not exist."""
    # Cut: the name is the peer's, and may be as long as a method can be.
    return ValidationRefused(f"there is no method {name[:40]!r}; {suggest(name, PLUGIN_METHODS)}", field="method")


def write_params(value: Any) -> dict[str, Any]:
    """Return params, or the answer to `initialize`, as they are sent; optional fields that are None are left out."""
    return write_object(value)
