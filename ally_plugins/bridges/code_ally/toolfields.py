"""Reading the tools of a `plugin.json`, their schemas, and the deprecated form with one tool at the top level."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast, get_args

from ally_plugins.contract.tables import describe
from ally_plugins.contract.values.errors import EventError
from ally_plugins.contract.values.frozen import EMPTY, FrozenDict, freeze_mapping

from . import limits as numbers
from .plugin import LegacyTool, ToolKind, command_problem

if TYPE_CHECKING:
    from .jsonfields import JsonFields

__all__ = ["read_tools"]

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")  # as every tool's; model providers accept no others
_TYPES: Final = ("string", "number", "integer", "boolean", "array", "object", "null")
_ANY_ARGUMENTS: Final = FrozenDict({"type": "object", "properties": {}})


def read_tools(top: JsonFields, *, has_daemon: bool) -> tuple[LegacyTool, ...]:
    """Return the tools; mistakes are noted in `top`. Without a list, a `command` at the top level is the one tool."""
    is_listed = top.take("tools") is not None
    tools: dict[str, LegacyTool] = {}
    for fields in top.items("tools"):
        tool = _tool(fields, has_daemon=has_daemon)
        if tool.name and tool.name in tools:
            fields.note("name", f"there are two tools called {tool.name!r}, expected one")
        tools[tool.name] = tool
        fields.close()
    if "command" not in top:
        return tuple(tools.values())
    if is_listed:
        top.warn("command", "is left alone, since there are 'tools'")
        for key in ("command", "args", "schema", "timeout"):
            top.take(key)
        return tuple(tools.values())
    top.warn("command", "a tool at the top level is deprecated, expected a list 'tools'")
    return (_tool(top, has_daemon=has_daemon),)


def _tool(fields: JsonFields, *, has_daemon: bool) -> LegacyTool:
    kind = cast("ToolKind", fields.word("type", get_args(ToolKind), "executable"))
    name, description = _name(fields), fields.prose("description")
    if not description and fields.path:
        fields.warn("description", "missing, expected a text that tells the model when to use it")
    method, command = fields.text("method"), fields.argument("command")
    if kind == "background_rpc":
        _check_method(fields, method, has_daemon=has_daemon)
    elif fields.take("type") in (None, "executable") and (problem := command_problem(command)) is not None:
        fields.note("command", problem + (" (or the type 'background_rpc')" if method else ""))
    default = numbers.RPC_TIMEOUT if kind == "background_rpc" else numbers.EXECUTABLE_TIMEOUT
    return LegacyTool(
        kind=kind,
        name=name,
        description=description,
        method=method if kind == "background_rpc" else "",
        command=command if kind == "executable" else "",
        args=fields.command_line("args"),
        cwd=_cwd(fields),
        timeout=fields.seconds("timeout", default),
        requires_confirmation=fields.boolean("requiresConfirmation"),
        schema=_schema(fields),
        visible_to=fields.texts("visible_to"),
        usage_guidance=fields.prose("usageGuidance"),
        display_name=fields.text("display_name"),
        subtext=fields.text("subtext"),
    )


def _name(fields: JsonFields) -> str:
    value = fields.take("name")
    if not fields.path:  # the plugin's own name, which is checked as such
        return value if isinstance(value, str) else ""
    if value is None or value == "":
        fields.note("name", "missing, expected 1 to 64 letters, digits, '_' and '-'")
    elif not isinstance(value, str) or not _NAME.match(value):
        fields.wrong("name", value, "1 to 64 letters, digits, '_' and '-'")
    else:
        return value
    return ""


def _check_method(fields: JsonFields, method: str, *, has_daemon: bool) -> None:
    if not method and not fields.take("method"):
        fields.note("method", "missing, expected the daemon's method to call")
    if not has_daemon:
        fields.note("type", "'background_rpc' needs a daemon, expected background.enabled to be true")


def _cwd(fields: JsonFields) -> str:
    path = fields.text("cwd")
    if path.startswith("/") or ".." in path.replace("\\", "/").split("/"):
        fields.wrong("cwd", path, "a folder within the plugin's own")
    return path


def _schema(fields: JsonFields) -> FrozenDict:
    value = fields.take("schema")
    if value is None:
        return _ANY_ARGUMENTS
    if not isinstance(value, dict):
        fields.wrong("schema", value, 'an object with "type": "object"')
        return EMPTY
    kind = value.get("type", "object" if "properties" in value or not value else None)
    if kind != "object":
        fields.note("schema.type", f"found {'nothing' if kind is None else describe(kind)}, expected 'object'")
    properties = value.get("properties") or {}
    if not isinstance(properties, dict):
        fields.wrong("schema.properties", properties, "an object")
        return EMPTY
    for name, each in properties.items():
        _check_property(fields, f"schema.properties.{name if name.isprintable() else repr(name)}", each)
    return _normal(fields, value, properties)


def _check_property(fields: JsonFields, key: str, value: object) -> None:
    if not isinstance(value, dict):
        fields.wrong(key, value, 'an object such as {"type": "string"}')
        return
    kind = value.get("type")
    kinds = kind if isinstance(kind, list) and kind else [kind]
    if kind is None:
        fields.note(f"{key}.type", f"missing, expected one of {', '.join(_TYPES)}")
    elif any(each not in _TYPES for each in kinds):
        fields.note(f"{key}.type", f"found {describe(kind)}, expected one of {', '.join(_TYPES)}")
    if not value.get("description"):
        fields.warn(f"{key}.description", "missing, expected a text that tells the model what it is")


def _normal(fields: JsonFields, schema: Mapping[str, Any], properties: Mapping[str, Any]) -> FrozenDict:
    """Return the schema as JSON Schema has it: `required` is a list of names, not a flag in each property."""
    flagged = [name for name, each in properties.items() if isinstance(each, dict) and each.get("required") is True]
    required = schema.get("required") or []
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        fields.wrong("schema.required", required, "a list of names")
        return EMPTY
    plain = {name: _unflagged(each) for name, each in properties.items()}
    every = list(dict.fromkeys([*required, *flagged]))
    normal = {**schema, "type": "object", "properties": plain} | ({"required": every} if every else {})
    try:
        return freeze_mapping(normal)
    except EventError as error:
        fields.note("schema", str(error))
        return EMPTY


def _unflagged(value: object) -> object:
    if not isinstance(value, dict) or not isinstance(value.get("required"), bool):
        return value
    return {key: each for key, each in value.items() if key != "required"}
