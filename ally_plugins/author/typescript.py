"""The protocol's values and messages as TypeScript declarations, of the same schemas as the OpenRPC documents."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

__all__ = ["protocol_types"]

Side = Literal["host", "daemon"]

_HEAD: Final = """\
// The messages of the protocol of ally_plugins, version {version}: params and results by the method's name. What the
// host sends stands in `HostRequests` and `HostNotifications`, what a daemon may send in `DaemonRequests` and
// `DaemonNotifications`. Made by `ally-plugins new`; nothing of it runs.

export type Json = null | boolean | number | string | Json[] | {{ [key: string]: Json }};
"""
_SIMPLE: Final = {
    "string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null",
    "object": "{ [key: string]: Json }", "array": "Json[]",
}  # fmt: skip
_SIDES: Final[tuple[tuple[Side, Literal["host", "plugin"], str], ...]] = (
    ("daemon", "host", "Host"),
    ("host", "plugin", "Daemon"),
)
_NAME: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*\Z")
_WIDTH: Final = 110


def protocol_types() -> str:
    """Return the declarations: what is imported in an editor as `import("./protocol").Gate`."""
    from ally_plugins.wire.handshake import PROTOCOL
    from ally_plugins.wire.methods import METHODS
    from ally_plugins.wire.schema import components, openrpc, result_schema

    lines = [_HEAD.format(version=PROTOCOL)]
    for name, schema in components().items():
        # Of an event these are its data: its envelope stands beside them in `on_event`.
        suffix = "Data" if name.isupper() else ""
        lines += [*_comment(schema), f"export type {_type_name(name, suffix)} = {_type(schema)};", ""]
    results = {(method.sender, method.name): result_schema(method) for method in METHODS}
    kinds = {(method.sender, method.name): method.is_request for method in METHODS}
    for server, sender, title in _SIDES:
        methods = openrpc(server)["methods"]
        for method in methods:
            # Both sides have some methods; the host's have the plain names.
            name = _type_name(method["name"], "" if sender == "host" else "Call")
            lines += [*_comment(method), f"export interface {name} {{", *_params(method), "}", ""]
        for is_request, what in ((True, "Requests"), (False, "Notifications")):
            lines.append(f"export interface {title}{what} {{")
            for method in methods:
                if kinds[sender, method["name"]] is is_request:
                    params = _type_name(method["name"], "" if sender == "host" else "Call")
                    result = f"; result: {_type(results[sender, method['name']])}" if is_request else ""
                    lines.append(f"  {json.dumps(method['name'])}: {{ params: {params}{result} }};")
            lines += ["}", ""]
    return "\n".join(lines)


def _params(method: Mapping[str, Any]) -> Iterator[str]:
    for param in method["params"]:
        yield from (f"  {line}" for line in _comment(param))
        yield f"  {_key(param['name'])}{'' if param['required'] else '?'}: {_type(param['schema'])};"


def _comment(about: Mapping[str, Any]) -> Iterator[str]:
    text = " ".join(str(about.get("description", "")).replace("*/", "* /").split())
    if text:
        yield f"/** {text} */"


def _type(schema: Any) -> str:
    """Return the type of a JSON schema; what has no closer one is any JSON."""
    if not isinstance(schema, Mapping):
        return "Json"
    if "$ref" in schema:
        return _type_name(str(schema["$ref"]).rpartition("/")[2])
    named = schema.get("type")
    choices = [json.dumps(each) for each in schema.get("enum", [schema["const"]] if "const" in schema else [])]
    choices += [_type(each) for key in ("anyOf", "oneOf") for each in schema.get(key, ())]
    if not choices and isinstance(named, list):
        choices = [_type({**schema, "type": each}) for each in named]
    return " | ".join(dict.fromkeys(choices)) or _plain_type(named, schema)


def _plain_type(named: Any, schema: Mapping[str, Any]) -> str:
    if named == "array" and isinstance(schema.get("items"), Mapping):
        return f"Array<{_type(schema['items'])}>"
    if named == "object" and schema.get("properties"):
        return _object(schema)
    if named == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"{{ [key: string]: {_type(schema['additionalProperties'])} }}"
    return _SIMPLE.get(str(named), "Json")


def _object(schema: Mapping[str, Any]) -> str:
    required = schema.get("required", ())
    parts = [
        f"{_key(name)}{'' if name in required else '?'}: {_type(each)}" for name, each in schema["properties"].items()
    ]
    inline = f"{{ {'; '.join(parts)} }}"
    return inline if len(inline) <= _WIDTH else "{\n  " + ";\n  ".join(parts) + ";\n}"


def _key(name: str) -> str:
    return name if _NAME.match(name) else json.dumps(name)


def _type_name(name: str, suffix: str = "") -> str:
    """Return a type's name for a method's or an event's: `on_event` is OnEvent, `TOOL_CALL_END` ToolCallEnd."""
    parts = re.split(r"[^A-Za-z0-9]+", name.lower() if name.isupper() else name)
    return "".join(part[:1].upper() + part[1:] for part in parts) + suffix
