"""Reading `plugin.json`: every mistake at once, each with its field; what an older host let pass is a warning.

The values that it is read into are in `plugin`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, get_args

from ally_plugins.contract.documents import LINE, LINES, count, line, table, text_of
from ally_plugins.contract.grants import LONGEST_NAME, is_plugin_name
from ally_plugins.contract.manifest import Activation, GrantRequest, Manifest
from ally_plugins.contract.process_spec import path_problem
from ally_plugins.contract.shapes import ANY, FLAG, OBJECT, SECONDS, WRONG, Mistakes, Shape, one_of
from ally_plugins.contract.tables import Table, keys
from ally_plugins.contract.values.codec import decode
from ally_plugins.contract.values.errors import ManifestError
from ally_plugins.contract.wording import describe

from . import limits as numbers
from .document import ARGUMENT, COMMAND_LINE, MILLISECONDS, PROSE, PluginJson
from .plugin import (
    SESSION_PLACEHOLDER,
    CodeAllyDaemon,
    CodeAllyPlugin,
    CodeAllyTool,
    Dependencies,
    Health,
    Runtime,
    command_problem,
    events_problem,
)
from .settingkeys import CONFIG
from .toolkeys import AT_THE_TOP, OF_A_TOOL, read_tools

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MAX_PLUGIN_JSON_BYTES", "CodeAllyPlugin", "CodeAllyTool", "read_plugin_json"]

MAX_PLUGIN_JSON_BYTES: Final = 1024 * 1024
"""Larger files are refused unread. Schemas of tools make these files larger than an `ally-plugin.toml`."""

_NAME: Final = re.compile(r"[a-z0-9_-]+\Z")
_DISPLAY: Final = ("license", "homepage", "repository", "keywords")  # authors write them and no host reads them


def read_plugin_json(content: bytes, folder: str) -> CodeAllyPlugin:
    """Read the content of a `plugin.json`; `folder` is where it lies.

    Raises ManifestError whose `problems` name every mistake with its field. Nothing is looked up on disk.
    """
    written = _object_of(content, folder)
    document = PluginJson()
    plugin = _read(document, written, folder)
    if document.problems:
        raise _error(document.problems, folder, plugin.name)
    return plugin


def _object_of(content: bytes, folder: str) -> Mapping[str, Any]:
    if len(content) > MAX_PLUGIN_JSON_BYTES:
        raise _error([f"the file has more than {MAX_PLUGIN_JSON_BYTES} bytes, expected a short JSON file"], folder)
    try:
        table = decode(text_of(content))
    except ValueError as error:
        raise _error([f"not JSON: {error}"], folder) from None
    if not isinstance(table, dict):
        raise _error([f"found {describe(table)}, expected a JSON object"], folder)
    return table


def _error(problems: list[str], folder: str, name: str = "") -> ManifestError:
    of = repr(name) if name else f"the folder {folder!r}"
    count = f"{len(problems)} problems: " if len(problems) > 1 else ""
    text = f"the plugin.json of {of} is wrong: {count}{'; '.join(problems)}"
    return ManifestError(text, plugin=name or None, problems=tuple(problems))


def _read(document: PluginJson, written: Mapping[str, Any], folder: str) -> CodeAllyPlugin:
    given: dict[str, Any] = _keys_of(written).read(written, "", document)
    name, background = _name(written.get("name"), document), given.get("background")
    if not given.get("description"):
        document.warn("description", "missing, expected a text that says what it does")
    tools = read_tools(written, document, has_daemon=background is not None)
    if not written.get("tools") and "command" not in written and not (background is not None and background.events):
        document.refuse("tools", "there are no tools and no background events, expected at least one of them")
    version, runtime = given.get("version", ""), given.get("runtime")
    # One of a wrong type is not in `given`, and was reported when it was read.
    if not version.strip() and ("version" in given or written.get("version") is None):
        document.refuse("version", "missing, expected a text such as '1.0.0'")
    if (dependencies := given.get("dependencies")) is not None and runtime is None:
        document.warn("dependencies", "there is no runtime ('python3' or 'node'), so nothing is installed")
    return CodeAllyPlugin(
        name=name,
        folder=folder,
        version=version,
        description=given.get("description", ""),
        author=given.get("author", ""),
        runtime=runtime,
        dependencies=dependencies,
        activation=given.get("activationMode", "always"),
        tools=tools,
        background=background,
        settings=given.get("config", {}),
        more=_permissions(given.get("permissions"), name, document),
        warnings=tuple(document.warnings),
    )


def _name(value: Any, document: PluginJson) -> str:
    expected = f"at most {LONGEST_NAME} lower-case letters, digits, '_' and '-', not starting with '+' or '-'"
    if value is None or value == "":
        document.refuse("name", f"missing, expected {expected}")
    # `+NAME` and `-NAME` in a message turn a plugin on and off, so that no name begins so.
    elif not isinstance(value, str) or not _NAME.match(value) or value[0] in "+-" or len(value) > LONGEST_NAME:
        document.wrong("name", value, expected)
    elif not is_plugin_name(value):
        document.wrong("name", value, "another name: this one is reserved")
    else:
        return value
    return ""


def _read_author(value: Any, _path: str, _mistakes: Mistakes) -> str:
    """Return who wrote it, also from the object that package managers have there."""
    name = value.get("name") if isinstance(value, dict) else value
    return name if isinstance(name, str) and name.isprintable() else ""


def _read_dependencies(value: dict[str, Any], path: str, mistakes: Mistakes) -> Any:
    given: dict[str, str] = _DEPENDENCIES.read(value, path, mistakes)
    file, command = given.get("file", ""), given.get("install_command", "")
    return Dependencies(file, command) if file or command else WRONG


def _file_problem(path: str) -> str | None:
    # With backslashes too, as an author on Windows writes paths.
    is_inside = not path.startswith("/") and ".." not in path.replace("\\", "/").split("/")
    return None if is_inside else f"found {describe(path)}, expected a file in the plugin's folder"


def _permissions(value: Any, name: str, document: PluginJson) -> tuple[GrantRequest, ...]:
    """Read `permissions`, which has the form and the checks of the one in `ally-plugin.toml`."""
    if value is None:
        return ()
    try:
        return Manifest.from_mapping({"permissions": value}, name).requests
    except ManifestError as error:
        document.problems.extend(error.problems)
        return ()


def _read_background(value: dict[str, Any], path: str, mistakes: Mistakes) -> Any:
    enabled = value.get("enabled")
    if "enabled" not in value:
        mistakes.warn(f"{path}.enabled", "missing, so the daemon is not started; expected true")
    if enabled is None or FLAG.read(enabled, f"{path}.enabled", mistakes) is not True:
        return WRONG  # there is no daemon, so the other keys are not checked
    given: dict[str, Any] = _BACKGROUND.read(value, path, mistakes)
    command, events = given.get("command", ""), given.get("events", ())
    for key, problem in (("command", command_problem(command)), ("events", events_problem(events))):
        if problem is not None:
            mistakes.refuse(f"{path}.{key}", problem)
    if value.get("communication") is None:
        mistakes.refuse(f"{path}.communication", 'missing, expected {"type": "socket", "path": "/tmp/..."}')
    if "healthcheck" in given and "health" in given:
        mistakes.warn(f"{path}.health", "is left alone, since there is a 'healthcheck'")
    # The older key has seconds, where all other times of the file are in milliseconds.
    key, seconds = ("healthcheck", MILLISECONDS) if "healthcheck" in given else ("health", SECONDS)
    health: dict[str, Any] = _health(seconds).read(given.get(key, {}), f"{path}.{key}", mistakes)
    return CodeAllyDaemon(
        command=command,
        args=given.get("args", ()),
        socket=given.get("communication", ""),
        events=events,
        health=Health(**health),
        startup_timeout=given.get("startup_timeout", numbers.STARTUP_TIMEOUT),
        grace=given.get("shutdown_grace_period", numbers.GRACE),
    )


def _read_socket(value: dict[str, Any], at: str, mistakes: Mistakes) -> Any:
    kind, path = value.get("type"), value.get("path")
    if kind != "socket":
        found = f"found {describe(kind)}" if kind else "missing"
        mistakes.refuse(f"{at}.type", f"{found}, expected 'socket'")
    if path is None or path == "":
        return mistakes.refuse(f"{at}.path", "missing, expected an absolute path")
    if not isinstance(path, str):
        return mistakes.wrong(f"{at}.path", path, "an absolute path")
    # Without the placeholder: how long the id is shows in a session, where the path is checked again.
    if (problem := path_problem(path.replace(SESSION_PLACEHOLDER, ""))) is not None:
        return mistakes.refuse(f"{at}.path", problem)
    _SOCKET.read(value, at, mistakes)
    return path


def _health(seconds: Shape) -> Shape:
    """Return the shape of `healthcheck`, in milliseconds, or of the older `health`, in seconds."""
    return table("an object", interval=seconds, timeout=seconds, retries=count(1))


_SOCKET: Final = keys(type=ANY, path=ANY)
_BACKGROUND: Final = keys(
    enabled=FLAG,
    command=ARGUMENT,
    args=COMMAND_LINE,
    communication=Shape(
        (dict,), 'an object such as {"type": "socket", "path": "/tmp/x.sock"}', {"type": "object"}, _read_socket
    ),
    events=LINES,
    healthcheck=OBJECT,
    health=OBJECT,
    startup_timeout=MILLISECONDS,
    shutdown_grace_period=MILLISECONDS,
)
_DEPENDENCIES: Final = keys(file=line(_file_problem), install_command=ARGUMENT)
_PERMISSIONS: Final = 'an object such as {"add_message": {"roles": ["user"], "reason": "..."}}'
_SHAPES: Final = {
    "name": ANY,
    "description": PROSE,
    "background": Shape((dict,), "an object", {"type": "object"}, _read_background),
    "tools": ANY,
    "version": LINE,
    "author": Shape((), "a text", {}, _read_author),
    "runtime": one_of(*get_args(Runtime)),
    "dependencies": Shape((dict,), "an object", {"type": "object"}, _read_dependencies),
    "activationMode": one_of(*get_args(Activation)),
    "config": CONFIG,
    "permissions": Shape((dict,), _PERMISSIONS, {"type": "object"}),
    **dict.fromkeys(_DISPLAY, ANY),
}
_KEYS: Final = keys(**_SHAPES)


def _keys_of(written: Mapping[str, Any]) -> Table:
    """Return the keys of a file; those of the deprecated form with a tool at the top are read in `toolkeys`."""
    if "command" not in written:
        return _KEYS
    more = AT_THE_TOP if written.get("tools") is not None else OF_A_TOOL
    return keys(**{**dict.fromkeys(more, ANY), **_SHAPES})
