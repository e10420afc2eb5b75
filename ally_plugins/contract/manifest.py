"""The manifest: what a plugin declares before any of its code runs.

Reading is strict and complete: every mistake is named at once, with its path and the nearest right word. Where the file
lies is left to `catalog.discovery`; what the operator grants of the requests, to `catalog.registry`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal

from attrs import frozen

from .documents import FILLED, LINE, LINES, Document, checked, choices, line, lines, table, toml_of
from .granted_paths import folder_problem, program_problem
from .grants import (
    ANY,
    CONTEXT_PARTS,
    FILES,
    GATES,
    ROLES,
    SENTENCE,
    TRANSFORMS,
    Grant,
    event_problem,
    is_target_name,
    variable_problem,
)
from .grants import is_plugin_name as _is_plugin_name
from .process_spec import DAEMON, Daemon, daemon_of
from .settings import SETTINGS, Setting, settings_of
from .shapes import FLAG, NUMBER, WRONG, Mistakes, Shape, one_of
from .tables import keys
from .values.errors import ManifestError
from .values.frozen import FrozenDict
from .wording import describe

__all__ = [
    "FILE",
    "HOST_API",
    "MANIFEST_NAME",
    "MAX_MANIFEST_BYTES",
    "Activation",
    "GrantRequest",
    "Manifest",
    "Setting",
    "manifest_line",
]

_THRESHOLD: Final = "CONTEXT_THRESHOLD"  # by name: to make the classes of events takes 20 ms

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

_KEYS: Final = {
    "add_message": "roles",
    "get_context": "parts",
    "gate": "on",
    "transform": "on",
    "request_action": "actions",
    "env": "names",
    "run": "programs",
}
"""By what key a permission lists its topics, where it has any."""
_FULL: Final = 100  # percent
_MAX_LEVELS: Final = 8  # each is an event in every session; who wants to follow usage subscribes to its updates

_NARROWED: Final = {"gate": GATES, "transform": TRANSFORMS}
_BY_TOOL: Final = frozenset({"tool_call", "tool_input", "tool_output"})
"""Topics that can be narrowed to some tools."""


@frozen
class GrantRequest:
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
    thresholds: tuple[float, ...] = ()
    """Levels of context usage, in percent and rising, of which it alone is told by CONTEXT_THRESHOLD."""
    requests: tuple[GrantRequest, ...] = ()
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
            return toml_of(content)
        except ValueError as error:
            raise _error([str(error)], plugin) from None

    @classmethod
    def from_text(cls, text: str, plugin: str | None = None) -> Manifest:
        """Read TOML text. Raises ManifestError with every problem that was found."""
        return cls.from_mapping(cls.table_of(text.encode("utf-8", "replace"), plugin), plugin)

    @classmethod
    def from_mapping(cls, table: Mapping[str, Any], plugin: str | None = None) -> Manifest:
        """Read what TOML would give, for manifests given by code. Raises ManifestError with every problem."""
        document = Document()
        manifest = _read(document, table, plugin)
        if document.problems:
            raise _error(document.problems, plugin)
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

        # With pre-releases: a host that is one still has the API that it names.
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
    if grant.kind == "files":
        return f'[permissions] files = {{ {grant.topic} = ["{grant.target}"], {reason} }}'
    key = _KEYS[grant.kind]
    narrowed = f', tools = ["{grant.target}"]' if grant.target else ""
    if grant.topic == "answer" and grant.target:
        narrowed = f', mode = "{grant.target}"'
    return f'[permissions] {grant.kind} = {{ {key} = ["{grant.topic}"]{narrowed}, {reason} }}'


def _error(problems: list[str], plugin: str | None) -> ManifestError:
    of = f" of {plugin!r}" if plugin else ""
    count = f"{len(problems)} problems: " if len(problems) > 1 else ""
    return ManifestError(
        f"the manifest{of} is wrong: {count}{'; '.join(problems)}", plugin=plugin, problems=tuple(problems)
    )


def _read(document: Document, written: Mapping[str, Any], plugin: str | None) -> Manifest:
    given: dict[str, Any] = FILE.read(written, "", document)
    # Here, since the shape of a key does not know whose manifest it is.
    for key in ("before", "after"):
        if plugin is not None and plugin in given.get(key, ()):
            document.refuse(key, f"names the plugin {plugin!r} itself, expected another one")
    events = given.get("events", {})
    subscribe: tuple[str, ...] = events.get("subscribe", ())
    listening = [GrantRequest(Grant("events", name), events.get("reason", "to listen")) for name in subscribe]
    asking = [
        GrantRequest(grant, permission.get("reason", ""))
        for kind, permission in given.get("permissions", {}).items()
        for grant in _grants(kind, permission)
    ]
    return Manifest(
        **{key: given[key] for key in ("description", "requires_host", "before", "after") if key in given},
        subscribe=subscribe,
        durable=events.get("durable", ()),
        thresholds=tuple(sorted(set(events.get("thresholds", ())))),
        requests=(*listening, *asking),
        settings=settings_of(given.get("settings", {})),
        # A Daemon raises for what could not be run, which the document has collected with all else.
        daemon=daemon_of(given["daemon"]) if "daemon" in given and not document.problems else None,
    )


def _range_problem(text: str) -> str | None:
    if _PLAIN_RANGE.match(text):
        return None
    from packaging.specifiers import InvalidSpecifier, SpecifierSet  # a range of a rarer form

    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        return f"found {describe(text)}, expected a version range such as '>=1,<2'"
    return None


def _name_problem(name: str) -> str | None:
    return None if _is_plugin_name(name) else f"found {describe(name)}, expected the name of a plugin: {_NAMES}"


def _target_problem(name: str) -> str | None:
    return None if is_target_name(name) else f"found {describe(name)}, expected a name without spaces"


def _tool_problem(name: str) -> str | None:
    return _target_problem("" if name == ANY else name) and f"found {describe(name)}, expected a name without spaces"


def _read_levels(value: Sequence[Any], path: str, mistakes: Mistakes) -> Any:
    levels = [NUMBER.read(level, path, mistakes) for level in value]
    right = [float(level) for level in levels if level is not WRONG and 0 < level < _FULL]
    if len(right) < len(value) or len(value) > _MAX_LEVELS:
        return mistakes.wrong(path, value, f"at most {_MAX_LEVELS} numbers between 0 and {_FULL}")
    return tuple(right)


def _unheard_levels(given: dict[str, Any], _: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if given.get("thresholds") and not {_THRESHOLD, ANY}.intersection(given.get("subscribe", ())):
        yield "thresholds", f"needs {_THRESHOLD!r} among what 'subscribe' lists"


def _undurable(given: dict[str, Any], _: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in given.get("durable", ()):
        if name not in given.get("subscribe", ()):
            yield "durable", f"found {describe(name)}, expected one of what 'subscribe' lists"


def _unnarrowed(
    topics: tuple[str, ...], given: dict[str, Any], written: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    on = given.get("on")
    if on and "tools" in written and not _BY_TOOL.intersection(on):
        by_tool = [topic for topic in topics if topic in _BY_TOOL]
        yield "tools", f"only narrows {' and '.join(by_tool)}, which 'on' does not list"
    if on and "mode" in written and "answer" not in on:
        yield "mode", "is how the gate of 'answer' is asked, which 'on' does not list"


def _grants(kind: str, given: Mapping[str, Any]) -> list[Grant]:
    """Return what a permission asks for, one grant each."""
    if kind == "files":
        return [Grant(kind, topic, path) for topic in FILES for path in given.get(topic, ())]
    topics = given.get(_KEYS[kind], ()) if kind in _KEYS else ("",)
    tools: tuple[str, ...] = given.get("tools", ("",))
    mode = SENTENCE if given.get("mode") == SENTENCE else ""
    targets: dict[str, tuple[str, ...]] = {"answer": (mode,)}
    targets |= dict.fromkeys(_BY_TOOL, tools)
    grants = [Grant(kind, topic, target) for topic in topics for target in targets.get(topic, ("",))]
    return grants + [Grant(kind, flag) for flag in ("trigger_turn", "waive") if given.get(flag)]


def _permission(kind: str, **shapes: Shape) -> Shape:
    needs = ("reason", _KEYS[kind]) if kind in _KEYS else ("reason",)
    read = table('a table such as { reason = "..." }', needs, reason=FILLED, **shapes)
    return checked(read, partial(_unnarrowed, _NARROWED[kind])) if kind in _NARROWED else read


def _pathless(_: dict[str, Any], written: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    # In what was written: a list with a mistake in it was reported already.
    if not any(topic in written for topic in FILES):
        yield FILES[0], f"missing, expected a list of paths here or in '{FILES[1]}'"


_PATHS: Final = lines(folder_problem, at_least_one=True)
_TOOLS: Final = lines(_tool_problem, at_least_one=True)
_PERMISSIONS: Final = {
    "add_message": _permission("add_message", roles=choices(*ROLES, at_least_one=True), trigger_turn=FLAG),
    "emit_event": _permission("emit_event"),
    "get_context": _permission("get_context", parts=choices(*CONTEXT_PARTS, at_least_one=True)),
    "gate": _permission(
        "gate", on=choices(*GATES, at_least_one=True), tools=_TOOLS, mode=one_of("whole", SENTENCE), waive=FLAG
    ),
    "transform": _permission("transform", on=choices(*TRANSFORMS, at_least_one=True), tools=_TOOLS),
    "tools": _permission("tools"),
    "actions": _permission("actions"),
    "tasks": _permission("tasks"),
    "ask": _permission("ask"),
    "request_action": _permission("request_action", actions=lines(_target_problem, at_least_one=True)),
    "env": _permission("env", names=lines(variable_problem, at_least_one=True)),
    "files": checked(_permission("files", **dict.fromkeys(FILES, _PATHS)), _pathless),
    "network": _permission("network"),
    "run": _permission("run", programs=lines(program_problem, at_least_one=True)),
}
_EVENTS: Final = table(
    'a table such as { subscribe = ["TOOL_CALL_END"] }',
    subscribe=lines(event_problem),
    durable=LINES,
    reason=LINE,
    thresholds=Shape((list,), "a list of numbers", {"type": "array", "items": NUMBER.schema}, _read_levels),
)
FILE: Final = keys(
    description=LINE,
    requires_host=line(_range_problem),
    before=lines(_name_problem),
    after=lines(_name_problem),
    events=checked(checked(_EVENTS, _undurable), _unheard_levels),
    permissions=table("a table", **_PERMISSIONS),
    settings=SETTINGS,
    daemon=DAEMON,
)
"""The keys of an `ally-plugin.toml`."""
