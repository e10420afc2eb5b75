"""Reading the tools of a `plugin.json`, their schemas, and the deprecated form with one tool at the top level."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, get_args

from ally_plugins.contract.documents import LINE, LINES
from ally_plugins.contract.shapes import ANY, FLAG, one_of
from ally_plugins.contract.tables import keys
from ally_plugins.contract.values.errors import EventError
from ally_plugins.contract.values.frozen import EMPTY, FrozenDict, freeze_mapping
from ally_plugins.contract.wording import describe

from . import limits as numbers
from .document import ARGUMENT, COMMAND_LINE, MILLISECONDS, PROSE
from .plugin import CodeAllyTool, ToolKind, command_problem

if TYPE_CHECKING:
    from .document import PluginJson

__all__ = ["AT_THE_TOP", "OF_A_TOOL", "read_tools"]

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")  # as every tool's; model providers accept no others
_NAMES: Final = "1 to 64 letters, digits, '_' and '-'"
_TYPES: Final = ("string", "number", "integer", "boolean", "array", "object", "null")
_ANY_ARGUMENTS: Final = FrozenDict({"type": "object", "properties": {}})

AT_THE_TOP: Final = {"command": ARGUMENT, "args": COMMAND_LINE, "schema": ANY, "timeout": MILLISECONDS}
"""The keys of the deprecated form that a file with a list of tools may have as well."""

OF_A_TOOL: Final = {
    "type": one_of(*get_args(ToolKind)),
    "name": ANY,
    "description": PROSE,
    "method": LINE,
    "cwd": LINE,
    "requiresConfirmation": FLAG,
    "visible_to": LINES,
    "usageGuidance": PROSE,
    "display_name": LINE,
    "subtext": LINE,
    **AT_THE_TOP,
}
"""The keys of a tool, which the deprecated form has at the top level."""
_KEYS: Final = keys(**OF_A_TOOL)


def read_tools(top: Mapping[str, Any], document: PluginJson, *, has_daemon: bool) -> tuple[CodeAllyTool, ...]:
    """Return the tools in a `plugin.json`. Without a list, a `command` at the top level is the one tool."""
    tools: dict[str, CodeAllyTool] = {}
    for path, item in _listed(top.get("tools"), document):
        tool = _tool(item, path, document, has_daemon=has_daemon)
        if tool.name and tool.name in tools:
            document.refuse(f"{path}.name", f"there are two tools called {tool.name!r}, expected one")
        tools[tool.name] = tool
    # After the list, whose tools count where a file has both forms.
    if "command" not in top:
        return tuple(tools.values())
    if top.get("tools") is not None:
        document.warn("command", "is left alone, since there are 'tools'")
        return tuple(tools.values())
    document.warn("command", "a tool at the top level is deprecated, expected a list 'tools'")
    return (_tool({key: item for key, item in top.items() if key in OF_A_TOOL}, "", document, has_daemon=has_daemon),)


def _listed(value: Any, document: PluginJson) -> list[tuple[str, dict[str, Any]]]:
    if value is not None and not isinstance(value, list):
        document.wrong("tools", value, "a list of objects")
    found = []
    for index, item in enumerate(value if isinstance(value, list) else ()):
        if isinstance(item, dict):
            found.append((f"tools[{index}]", item))
        else:
            document.wrong(f"tools[{index}]", item, "an object")
    return found


def _tool(written: Mapping[str, Any], path: str, document: PluginJson, *, has_daemon: bool) -> CodeAllyTool:
    given: dict[str, Any] = _KEYS.read(written, path, document)
    kind: ToolKind = given.get("type", "executable")
    at = f"{path}." if path else ""
    if path and not given.get("description"):
        document.warn(f"{at}description", "missing, expected a text that tells the model when to use it")
    method, command, cwd = given.get("method", ""), given.get("command", ""), given.get("cwd", "")
    if kind == "background_rpc":
        if not method and not written.get("method"):
            document.refuse(f"{at}method", "missing, expected the daemon's method to call")
        if not has_daemon:
            document.refuse(f"{at}type", "'background_rpc' needs a daemon, expected background.enabled to be true")
    # Not for a type that is wrong: that is reported, and which keys belong to it is not known.
    elif written.get("type") in (None, "executable") and (problem := command_problem(command)) is not None:
        document.refuse(f"{at}command", problem + (" (or the type 'background_rpc')" if method else ""))
    # With backslashes too, as an author on Windows writes paths.
    if cwd.startswith("/") or ".." in cwd.replace("\\", "/").split("/"):
        document.wrong(f"{at}cwd", cwd, "a folder within the plugin's own")
    default = numbers.RPC_TIMEOUT if kind == "background_rpc" else numbers.EXECUTABLE_TIMEOUT
    return CodeAllyTool(
        kind=kind,
        name=_name(given.get("name"), path, document),
        description=given.get("description", ""),
        method=method if kind == "background_rpc" else "",
        command=command if kind == "executable" else "",
        args=given.get("args", ()),
        cwd=cwd,
        timeout=given.get("timeout", default),
        requires_confirmation=given.get("requiresConfirmation", False),
        schema=_schema(given.get("schema"), f"{at}schema", document),
        visible_to=given.get("visible_to", ()),
        usage_guidance=given.get("usageGuidance", ""),
        display_name=given.get("display_name", ""),
        subtext=given.get("subtext", ""),
    )


def _name(value: Any, path: str, document: PluginJson) -> str:
    if path and (value is None or value == ""):
        document.refuse(f"{path}.name", f"missing, expected {_NAMES}")
    elif path and (not isinstance(value, str) or not _NAME.match(value)):
        document.wrong(f"{path}.name", value, _NAMES)
    elif isinstance(value, str):  # at the top it is the plugin's own name, which is checked as such
        return value
    return ""


def _schema(value: Any, path: str, document: PluginJson) -> FrozenDict:
    if value is None:
        return _ANY_ARGUMENTS
    if not isinstance(value, dict):
        document.wrong(path, value, 'an object with "type": "object"')
        return EMPTY
    kind = value.get("type", "object" if "properties" in value or not value else None)
    if kind != "object":
        document.refuse(f"{path}.type", f"found {'nothing' if kind is None else describe(kind)}, expected 'object'")
    properties = value.get("properties") or {}
    if not isinstance(properties, dict):
        document.wrong(f"{path}.properties", properties, "an object")
        return EMPTY
    for name, each in properties.items():
        # Quoted where it would act on a terminal: a path is part of an error.
        _check_property(each, f"{path}.properties.{name if name.isprintable() else repr(name)}", document)
    return _normal(value, properties, path, document)


def _check_property(value: object, path: str, document: PluginJson) -> None:
    if not isinstance(value, dict):
        document.refuse(path, f'found {document.describe(value)}, expected an object such as {{"type": "string"}}')
        return
    kind = value.get("type")
    kinds = kind if isinstance(kind, list) and kind else [kind]
    if kind is None:
        document.refuse(f"{path}.type", f"missing, expected one of {', '.join(_TYPES)}")
    elif any(each not in _TYPES for each in kinds):
        document.refuse(f"{path}.type", f"found {describe(kind)}, expected one of {', '.join(_TYPES)}")
    if not value.get("description"):
        document.warn(f"{path}.description", "missing, expected a text that tells the model what it is")


def _normal(schema: Mapping[str, Any], properties: Mapping[str, Any], path: str, document: PluginJson) -> FrozenDict:
    """Return the schema as JSON Schema has it: `required` is a list of names, not a flag in each property."""
    flagged = [name for name, each in properties.items() if isinstance(each, dict) and each.get("required") is True]
    required = schema.get("required") or []
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        document.wrong(f"{path}.required", required, "a list of names")
        return EMPTY
    plain = {name: _unflagged(each) for name, each in properties.items()}
    every = list(dict.fromkeys([*required, *flagged]))
    normal = {**schema, "type": "object", "properties": plain} | ({"required": every} if every else {})
    try:
        return freeze_mapping(normal)
    except EventError as error:
        document.refuse(path, str(error))
        return EMPTY


def _unflagged(value: object) -> object:
    if not isinstance(value, dict) or not isinstance(value.get("required"), bool):
        return value
    return {key: each for key, each in value.items() if key != "required"}
