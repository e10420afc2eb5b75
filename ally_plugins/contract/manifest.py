"""The manifest: what a plugin says of itself before any of its code runs.

Reading is strict and complete: every mistake is named at once, with its path and the nearest right word. Where the file
lies is `discovery`'s business; what the operator makes of the requests is the registry's.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from attrs import frozen

from .grants import (
    ADD_MESSAGE,
    ANY,
    CONTEXT_PARTS,
    GATES,
    ROLES,
    TRANSFORMS,
    Grant,
    event_problem,
    is_target_name,
    variable_problem,
)
from .grants import is_plugin_name as _is_plugin_name
from .process_spec import Daemon, read_daemon
from .settings import Setting, read_settings
from .tables import Fields, describe
from .values.errors import ManifestError
from .values.frozen import FrozenDict

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "HOST_API",
    "MANIFEST_NAME",
    "MAX_MANIFEST_BYTES",
    "Activation",
    "Manifest",
    "Request",
    "Setting",
    "manifest_line",
]

HOST_API: Final = "1.0"
"""The version of the hooks, events and the handle that this host offers; `requires_host` is matched against it."""

MANIFEST_NAME: Final = "ally-plugin.toml"

MAX_MANIFEST_BYTES: Final = 64 * 1024
"""Larger files are refused unread; a manifest with every permission and twenty settings has 3 KiB."""

Activation = Literal["always", "tagged"]
"""Whether a plugin is active in a session from its start, or once the person has written `+NAME`."""

_PLAIN_RANGE: Final = re.compile(r"((==|!=|<=|>=|<|>)\d{1,9}(\.\d{1,9}){0,4}(, ?|\Z))+\Z")
"""Ranges that need no import of `packaging` to be known as such."""

_NAMES: Final = "lower-case letters, digits, '_' and '-', not starting with '-'"

_KEYS: Final = {"add_message": "roles", "get_context": "parts", "request_action": "actions", "env": "names"}
"""By what key a permission lists its topics; `on` for the others."""


@frozen
class Request:
    """One grant that a plugin asks for, and why. Subscriptions are requests too."""

    grant: Grant
    reason: str


@frozen(kw_only=True)
class Manifest:
    """What a plugin declares. `requests` is flat: one grant each, in the order of the file, subscriptions first."""

    description: str = ""
    requires_host: str = ""
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    durable: tuple[str, ...] = ()
    """Subscriptions that are read from the journal, from the last acknowledged event, across restarts."""
    requests: tuple[Request, ...] = ()
    settings: Mapping[str, Setting] = FrozenDict()
    daemon: Daemon | None = None
    """How it runs in a process of its own, paths as written; None for a class."""
    activation: Activation = "always"
    """`tagged` for plugins of systems that know tags; no key of an `ally-plugin.toml`."""

    @staticmethod
    def table_of(content: bytes, plugin: str | None = None) -> dict[str, Any]:
        """Return the table in the content of a manifest file. Raises ManifestError when it is not one."""
        if len(content) > MAX_MANIFEST_BYTES:
            raise _error([f"the file has more than {MAX_MANIFEST_BYTES} bytes, expected a short TOML file"], plugin)
        try:
            return tomllib.loads(content.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise _error([f"the file is not UTF-8 (byte {error.start})"], plugin) from None
        except RecursionError:
            raise _error(["not TOML: nested too deeply"], plugin) from None
        except ValueError as error:  # also the parent of TOMLDecodeError, for integers of thousands of digits
            raise _error([f"not TOML: {error}"], plugin) from None

    @classmethod
    def from_text(cls, text: str, plugin: str | None = None) -> Manifest:
        """Read TOML text. Raises ManifestError with every problem that was found."""
        return cls.from_mapping(cls.table_of(text.encode("utf-8", "replace"), plugin), plugin)

    @classmethod
    def from_mapping(cls, table: Mapping[str, Any], plugin: str | None = None) -> Manifest:
        """Read what TOML would give, for manifests given by code. Raises ManifestError with every problem."""
        problems: list[str] = []
        manifest = _read(Fields(table, problems), plugin)
        if problems:
            raise _error(problems, plugin)
        return manifest

    @property
    def grants(self) -> frozenset[Grant]:
        """What is asked for, without the reasons."""
        return frozenset(request.grant for request in self.requests)

    def host_problem(self) -> str | None:
        """Return why this host's API is not the one it needs, None when it is."""
        if not self.requires_host:
            return None
        from packaging.specifiers import SpecifierSet  # 20 ms, and only once a manifest is new

        if SpecifierSet(self.requires_host).contains(HOST_API, prereleases=True):
            return None
        return f"needs host API {self.requires_host}, this host has {HOST_API}; install a version made for it"


def manifest_line(grant: Grant) -> str:
    """Return the line that declares a grant, for the error that says that it is not declared."""
    reason = 'reason = "..."'
    if grant.kind == "events":
        return f'[events] subscribe = ["{grant.topic}"]'
    if grant.topic in ("trigger_turn", "waive"):
        return f"[permissions] {grant.kind} = {{ ..., {grant.topic} = true, {reason} }}"
    if not grant.topic:
        return f"[permissions] {grant.kind} = {{ {reason} }}"
    key = _KEYS.get(grant.kind, "on")
    tools = f', tools = ["{grant.target}"]' if grant.target else ""
    return f'[permissions] {grant.kind} = {{ {key} = ["{grant.topic}"]{tools}, {reason} }}'


def _error(problems: list[str], plugin: str | None) -> ManifestError:
    of = f" of {plugin!r}" if plugin else ""
    count = f"{len(problems)} problems: " if len(problems) > 1 else ""
    return ManifestError(
        f"the manifest{of} is wrong: {count}{'; '.join(problems)}", plugin=plugin, problems=tuple(problems)
    )


def _read(top: Fields, plugin: str | None) -> Manifest:
    description = top.text("description")
    requires_host = _range(top)
    before, after = _neighbours(top, "before", plugin), _neighbours(top, "after", plugin)
    subscribe, durable, listening = _events(top)
    asking = _permissions(top)
    settings = read_settings(top)
    daemon = read_daemon(top)
    top.close()
    return Manifest(
        description=description,
        requires_host=requires_host,
        before=before,
        after=after,
        subscribe=subscribe,
        durable=durable,
        requests=(*listening, *asking),
        settings=settings,
        daemon=daemon,
    )


def _range(top: Fields) -> str:
    text = top.text("requires_host")
    if not text or _PLAIN_RANGE.match(text):
        return text
    from packaging.specifiers import InvalidSpecifier, SpecifierSet  # a range of a rarer form

    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        top.wrong("requires_host", text, "a version range such as '>=1,<2'")
    return text


def _neighbours(top: Fields, key: str, plugin: str | None) -> tuple[str, ...]:
    names = top.texts(key)
    for name in names:
        if not _is_plugin_name(name):
            top.note(key, f"found {describe(name)}, expected the name of a plugin: {_NAMES}")
        elif name == plugin:
            top.note(key, f"names the plugin {name!r} itself, expected another one")
    return names


def _events(top: Fields) -> tuple[tuple[str, ...], tuple[str, ...], list[Request]]:
    table = top.table("events", 'a table such as { subscribe = ["TOOL_CALL_END"] }')
    if table is None:
        return (), (), []
    subscribe, durable = table.texts("subscribe"), table.texts("durable")
    reason = table.text("reason", "to listen")
    for name in subscribe:
        if (problem := event_problem(name)) is not None:
            table.note("subscribe", problem)
    for name in durable:
        if name not in subscribe:
            table.note("durable", f"found {describe(name)}, expected one of what 'subscribe' lists")
    table.close()
    return subscribe, durable, [Request(Grant("events", name), reason) for name in subscribe]


def _permissions(top: Fields) -> list[Request]:
    table = top.table("permissions")
    if table is None:
        return []
    requests: list[Request] = []
    for kind, reader in _READERS.items():
        permission = table.table(kind, 'a table such as { reason = "..." }')
        if permission is None:
            continue
        reason = permission.text("reason", required=True)
        requests += [Request(grant, reason) for grant in reader(kind, permission)]
        permission.close()
    table.close()
    return requests


def _flag(kind: str, _: Fields) -> list[Grant]:
    return [Grant(kind)]


def _messages(kind: str, table: Fields) -> list[Grant]:
    topics = list(table.words("roles", ROLES, required=True))
    if table.boolean("trigger_turn"):
        topics.append(ADD_MESSAGE[-1])
    return [Grant(kind, topic) for topic in topics]


def _context(kind: str, table: Fields) -> list[Grant]:
    return [Grant(kind, part) for part in table.words("parts", CONTEXT_PARTS, required=True)]


def _gate(kind: str, table: Fields) -> list[Grant]:
    waive = [Grant(kind, "waive")] if table.boolean("waive") else []
    return _narrowed(kind, table, GATES, ("tool_call",)) + waive


def _transform(kind: str, table: Fields) -> list[Grant]:
    return _narrowed(kind, table, TRANSFORMS, ("tool_input", "tool_output"))


def _narrowed(kind: str, table: Fields, topics: tuple[str, ...], by_tool: tuple[str, ...]) -> list[Grant]:
    on, tools = table.words("on", topics, required=True), _targets(table, "tools")
    if "tools" in table and on and not set(on).intersection(by_tool):
        table.note("tools", f"only narrows {' and '.join(by_tool)}, which 'on' does not list")
    grants = []
    for topic in on:
        narrow = tools if topic in by_tool and "tools" in table else ("",)
        grants += [Grant(kind, topic, tool) for tool in narrow]
    return grants


def _actions(kind: str, table: Fields) -> list[Grant]:
    return [Grant(kind, action) for action in _targets(table, "actions", required=True)]


def _variables(kind: str, table: Fields) -> list[Grant]:
    names = table.texts("names", required=True)
    for name in names:
        if (problem := variable_problem(name)) is not None:
            table.note("names", problem)
    return [Grant(kind, name) for name in names]


def _targets(table: Fields, key: str, *, required: bool = False) -> tuple[str, ...]:
    names = table.texts(key, required=required or key in table)
    for name in names:
        if not is_target_name(name) or (name == ANY and key == "tools"):
            table.note(key, f"found {describe(name)}, expected a name without spaces")
    return names


_READERS: Final[dict[str, Callable[[str, Fields], list[Grant]]]] = {
    "add_message": _messages,
    "emit_event": _flag,
    "get_context": _context,
    "gate": _gate,
    "transform": _transform,
    "tools": _flag,
    "actions": _flag,
    "tasks": _flag,
    "request_action": _actions,
    "env": _variables,
}
