"""The protocol as OpenRPC documents, made from the table of methods: one for what a host serves, one for a daemon's.

The documents in `docs/reference` are these, written down; a test compares them. Two, since in an OpenRPC document a
name stands once, and both sides serve `initialize`, `$/cancel` and `$/progress`.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import attrs

from ally_plugins.contract.tables import annotations_of, object_schema
from ally_plugins.contract.values.eventjson import json_name
from ally_plugins.contract.values.events import EVENT_TYPES, Event

from .codes import CODES
from .handshake import PROTOCOL
from .host_params import InitializeParams, InitializeResult
from .methods import COMMON_ERRORS, METHODS, Method
from .offers import HookOffer, ToolOffer
from .samples import SAMPLES
from .values import SCHEMAS

__all__ = ["ERROR_DESCRIPTIONS", "components", "openrpc", "result_schema"]

OPENRPC: Final = "1.3.2"

ERROR_DESCRIPTIONS: Final = {
    "parse": "the line is no strict JSON (NaN, a lone surrogate, invalid UTF-8); answered with the id null",
    "invalid_request": "the frame is no JSON-RPC 2.0 message, or a batch, or its id is in use already",
    "method_not_found": "there is no such method; the text names the nearest one",
    "validation": "the params are not acceptable; `data.field` names the one that is not",
    "internal": "something went wrong inside; what it was stands in the log of that side and never crosses the wire",
    "cancelled": "the request was cancelled by `$/cancel`",
    "refused": "the call was refused for a reason that has no code of its own",
    "permission": "not granted; `data.permission` is the grant, `data.command` the command that grants it",
    "budget": "too often; `data.budget` is the limit, `data.retry_after` the seconds after which it may be tried again",
    "too_large": "a size is over its limit; `data.budget` is the limit",
    "hop_limit": "plugins have set each other off too often; `data.chain` names them",
    "shutting_down": "the host is closing",
    "busy": "too many of the plugin's requests are unanswered, or it is connected already: later it is answered",
    "gate": "another plugin's gate said no; `data.decision_id` is for `ally-plugins explain`",
    "key_conflict": "the key was used before, with other content",
    "reentry": "the call would wait for the hook that makes it",
    "not_found": "there is no such session, action, tool or task",
    "unavailable": "the host cannot do it now: it is stopping, or its journal cannot be written",
    "tool_failed": "the tool, action or task failed on purpose; the text is an answer, and the model may read it",
    "not_initialized": "`initialize` was not answered yet",
    "unsupported_protocol": "the sides have no version of the wire in common; the text names both",
    "unauthorized": "the token is not the one of a daemon of this host that is running",
    "deadline": "the hook did not answer within the deadline that it was given",
}
"""What each error means, by the short word that `codes` gives it."""

_TEXT: Final = {"type": "string"}
_OBJECT: Final = {"type": "object"}


def openrpc(server: Literal["host", "daemon"]) -> dict[str, Any]:
    """Return the OpenRPC document of the methods that `server` answers: those that the other side sends."""
    sender = "plugin" if server == "host" else "host"
    return {
        "openrpc": OPENRPC,
        "info": {
            "title": f"ally_plugins: what a {server} serves",
            "version": PROTOCOL,
            "description": "JSON-RPC 2.0, one JSON text a line, params by name. See the page on the protocol.",
        },
        "methods": [_method(method) for method in METHODS if method.sender == sender],
        "components": {"schemas": components(), "errors": {reason: _error(reason) for reason in CODES}},
    }


def result_schema(method: Method) -> dict[str, Any]:
    """Return the JSON schema of what a request is answered."""
    return _RESULTS[method.sender].get(method.name, {})


def components() -> dict[str, Any]:
    """Return the JSON schemas of our values, and of the data of each event, by name."""
    return {
        **SCHEMAS,
        "PermissionRequest": {
            **_event_data(EVENT_TYPES["PERMISSION_REQUEST"]),
            "description": "the data of that event, with callId, agentId, parentId and turnId beside them",
        },
        "Verdict": _VERDICT,
        "Replacement": _REPLACEMENT,
        "Hook": object_schema(HookOffer, is_strict=True),
        "Tool": object_schema(ToolOffer, is_strict=True),
    } | {name: _event_data(cls) for name, cls in EVENT_TYPES.items()}


def _method(method: Method) -> dict[str, Any]:
    reasons = (*method.errors, *COMMON_ERRORS) if method.is_request else ()
    written: dict[str, Any] = {
        "name": method.name,
        "description": method.doc,
        "paramStructure": "by-name",
        "params": _params(method),
    }
    if method.result is not None:
        written["result"] = {"name": "result", "description": method.result, "schema": result_schema(method)}
        written["errors"] = [{"$ref": f"#/components/errors/{reason}"} for reason in reasons]
    return {**written, "examples": [_example(method)]}


def _params(method: Method) -> list[dict[str, Any]]:
    schema = object_schema(method.params, is_strict=method.sender == "plugin")
    required = schema.get("required", ())
    params = []
    for name, each in schema["properties"].items():
        # OpenRPC has it beside the schema and not in it.
        description = each.pop("description")
        params.append({"name": name, "description": description, "required": name in required, "schema": each})
    return sorted(params, key=lambda param: not param["required"])  # as OpenRPC has it


def _example(method: Method) -> dict[str, Any]:
    sample = SAMPLES[method.sender][method.name]
    example: dict[str, Any] = {
        "name": method.name,
        "params": [{"name": name, "value": value} for name, value in sample.params.items()],
    }
    if method.is_request:
        example["result"] = {"name": "result", "value": sample.result}
    return example


def _error(reason: str) -> dict[str, Any]:
    return {"code": CODES[reason], "message": ERROR_DESCRIPTIONS[reason], "data": {"reason": reason}}


_JSON_TYPES: Final = {"str": "string", "bool": "boolean", "int": "integer", "float": "number", "FrozenDict": "object"}


def _event_data(cls: type[Event]) -> dict[str, Any]:
    """Return the schema of the data of one event, from the fields of its class."""
    envelope = {a.name for a in attrs.fields(Event)}
    own, types = [a for a in attrs.fields(cls) if a.name not in envelope], annotations_of(cls)
    needed = [json_name(a) for a in own if a.default is attrs.NOTHING]
    schema: dict[str, Any] = {
        "type": "object",
        "description": " ".join((cls.__doc__ or "").split()),
        "properties": {json_name(a): _type_schema(types[a.name]) for a in own},
    }
    return {**schema, "required": needed} if needed else schema


def _type_schema(annotation: str) -> dict[str, Any]:
    kind = annotation.removesuffix(" | None")
    if kind.startswith("tuple"):
        return {"type": "array"}
    return {"type": _JSON_TYPES[kind]} if kind in _JSON_TYPES else {}


def _object(needed: str, /, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": needed.split()}


_VERDICT: Final = {
    "oneOf": [
        {"type": "null"},
        {**_object("verdict", verdict={"const": "allow"}), "additionalProperties": False},
        {**_object("verdict reason", verdict={"const": "ask"}, reason=_TEXT), "additionalProperties": False},
        {
            **_object("verdict reason", verdict={"const": "deny"}, reason=_TEXT, sensitive={"type": "boolean"}),
            "additionalProperties": False,
        },
    ]
}
_REPLACEMENT: Final = {
    "oneOf": [{"type": "null"}, {**_object("replace", replace=_OBJECT), "additionalProperties": False}]
}
_NULL: Final = {"type": "null"}


def _named(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


_RESULTS: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "host": {
        "initialize": object_schema(InitializeResult, is_strict=True),
        "gate": _named("Verdict"),
        "transform": _named("Replacement"),
    },
    "plugin": {
        "initialize": object_schema(InitializeParams, is_strict=False),
        "get_context": _named("Context"),
        "unregister": _NULL,
        "task_progress": _NULL,
        "ack_events": _NULL,
        "start_task": _object("task_id", task_id=_TEXT),
    }
    | {name: _named("Receipt") for name in ("add_message", "emit_event", "register_tool", "register_action")},
}
