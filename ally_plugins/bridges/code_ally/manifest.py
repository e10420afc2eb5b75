"""Reading `plugin.json`: every mistake at once, each with its field; what an older host let pass is a warning.

What the operator makes of it is the registry's business, what its words mean stands in `plugin`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, cast, get_args

from attrs import evolve

from ally_plugins.contract.grants import LONGEST_NAME, is_plugin_name
from ally_plugins.contract.manifest import Activation, Manifest, Request
from ally_plugins.contract.process_spec import path_problem
from ally_plugins.contract.tables import describe
from ally_plugins.contract.values.codec import decode
from ally_plugins.contract.values.errors import ManifestError

from . import limits as numbers
from .jsonfields import JsonFields
from .plugin import (
    SESSION_PLACEHOLDER,
    Background,
    Dependencies,
    Health,
    LegacyPlugin,
    LegacyTool,
    Runtime,
    command_problem,
    events_problem,
)
from .settingfields import read_config
from .toolfields import read_tools

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MAX_LEGACY_BYTES", "LegacyPlugin", "LegacyTool", "read_legacy"]

MAX_LEGACY_BYTES: Final = 1024 * 1024
"""Larger files are refused unread. Schemas of tools make these files larger than an `ally-plugin.toml`."""

_NAME: Final = re.compile(r"[a-z0-9_-]+\Z")
_DISPLAY: Final = ("license", "homepage", "repository", "keywords")  # what no host reads, and authors write


def read_legacy(content: bytes, folder: str) -> LegacyPlugin:
    """Read the content of a `plugin.json`; `folder` is where it lies.

    Raises ManifestError whose `problems` name every mistake with its field. Nothing is looked up on disk.
    """
    table = _table_of(content, folder)
    problems: list[str] = []
    plugin = _read(JsonFields(table, problems, []), folder)
    if problems:
        raise _error(problems, folder, plugin.name)
    return plugin


def _table_of(content: bytes, folder: str) -> Mapping[str, Any]:
    if len(content) > MAX_LEGACY_BYTES:
        raise _error([f"the file has more than {MAX_LEGACY_BYTES} bytes, expected a short JSON file"], folder)
    try:
        table = decode(content)
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


def _read(top: JsonFields, folder: str) -> LegacyPlugin:
    name = _name(top)
    description = top.prose("description")
    if not description:
        top.warn("description", "missing, expected a text that says what it does")
    background = _background(top)
    tools = read_tools(top, has_daemon=background is not None)
    if not top.take("tools") and "command" not in top and not (background is not None and background.events):
        top.note("tools", "there are no tools and no background events, expected at least one of them")
    plugin = LegacyPlugin(
        name=name,
        folder=folder,
        version=_version(top),
        description=description,
        author=_author(top),
        runtime=cast("Runtime | None", top.word("runtime", get_args(Runtime))),
        dependencies=_dependencies(top),
        activation=cast("Activation", top.word("activationMode", get_args(Activation), "always")),
        tools=tools,
        background=background,
        settings=read_config(top),
        more=_permissions(top, name),
    )
    for key in _DISPLAY:
        top.take(key)
    top.close()
    return _with_warnings(plugin, top)


def _with_warnings(plugin: LegacyPlugin, top: JsonFields) -> LegacyPlugin:
    if plugin.dependencies is not None and plugin.runtime is None:
        top.warn("dependencies", "there is no runtime ('python3' or 'node'), so nothing is installed")
    return evolve(plugin, warnings=tuple(top.warnings))


def _name(top: JsonFields) -> str:
    value = top.take("name")
    expected = f"at most {LONGEST_NAME} lower-case letters, digits, '_' and '-', not starting with '+' or '-'"
    if value is None or value == "":
        top.note("name", f"missing, expected {expected}")
    elif not isinstance(value, str) or not _NAME.match(value) or value[0] in "+-" or len(value) > LONGEST_NAME:
        top.wrong("name", value, expected)
    elif not is_plugin_name(value):
        top.wrong("name", value, "another name: this one is reserved")
    else:
        return value
    return ""


def _version(top: JsonFields) -> str:
    value = top.text("version")
    if not value.strip() and (top.take("version") is None or top.take("version") == value):
        top.note("version", "missing, expected a text such as '1.0.0'")
    return value


def _author(top: JsonFields) -> str:
    """Return who wrote it, also from the object that package managers have there."""
    value = top.take("author")
    if isinstance(value, dict):
        value = value.get("name")
    return value if isinstance(value, str) and value.isprintable() else ""


def _dependencies(top: JsonFields) -> Dependencies | None:
    table = top.table("dependencies")
    if table is None:
        return None
    file, command = table.text("file"), table.argument("install_command")
    if file and not _is_inside(file):
        table.wrong("file", file, "a file in the plugin's folder")
    table.close()
    return Dependencies(file, command) if file or command else None


def _is_inside(path: str) -> bool:
    return not path.startswith("/") and ".." not in path.replace("\\", "/").split("/")


def _permissions(top: JsonFields, name: str) -> tuple[Request, ...]:
    """Read what it asks for in the words of `ally-plugin.toml`, with the same checks."""
    value = top.take("permissions")
    if value is None:
        return ()
    if not isinstance(value, dict):
        top.wrong("permissions", value, 'an object such as {"add_message": {"roles": ["user"], "reason": "..."}}')
        return ()
    try:
        return Manifest.from_mapping({"permissions": value}, name).requests
    except ManifestError as error:
        top.problems.extend(error.problems)
        return ()


def _background(top: JsonFields) -> Background | None:
    table = top.table("background")
    if table is None:
        return None
    if not table.boolean("enabled"):
        if "enabled" not in table:
            table.warn("enabled", "missing, so the daemon is not started; expected true")
        return None
    command = table.argument("command")
    if (problem := command_problem(command)) is not None:
        table.note("command", problem)
    background = Background(
        command=command,
        args=table.command_line("args"),
        socket=_socket(table),
        events=_events(table),
        health=_health(table),
        startup_timeout=table.seconds("startup_timeout", numbers.STARTUP_TIMEOUT),
        grace=table.seconds("shutdown_grace_period", numbers.GRACE),
    )
    table.close()
    return background


def _socket(background: JsonFields) -> str:
    table = background.table("communication", 'an object such as {"type": "socket", "path": "/tmp/x.sock"}')
    if table is None:
        if background.take("communication") is None:
            background.note("communication", 'missing, expected {"type": "socket", "path": "/tmp/..."}')
        return ""
    kind, path = table.take("type"), table.take("path")
    if kind != "socket":
        table.note("type", f"found {describe(kind)}, expected 'socket'" if kind else "missing, expected 'socket'")
    if path is None or path == "":
        table.note("path", "missing, expected an absolute path")
    elif not isinstance(path, str):
        table.wrong("path", path, "an absolute path")
    elif (problem := path_problem(path.replace(SESSION_PLACEHOLDER, ""))) is not None:
        table.note("path", problem)
    else:
        table.close()
        return path
    return ""


def _events(background: JsonFields) -> tuple[str, ...]:
    events = background.texts("events")
    if (problem := events_problem(events)) is not None:
        background.note("events", problem)
    return events


def _health(background: JsonFields) -> Health:
    """Read `healthcheck` in milliseconds, or the older `health` in seconds."""
    current, older = background.table("healthcheck"), background.table("health")
    if current is not None and older is not None:
        background.warn("health", "is left alone, since there is a 'healthcheck'")
    table, unit = (current, 0.001) if current is not None else (older, 1.0)
    if table is None:
        return Health()
    health = Health(
        interval=table.seconds("interval", numbers.HEALTH_INTERVAL, unit=unit),
        timeout=table.seconds("timeout", numbers.HEALTH_TIMEOUT, unit=unit),
        retries=table.count("retries", lowest=1) or numbers.HEALTH_RETRIES,
    )
    table.close()
    return health
