"""Grants: the names of what a plugin may do, the same in manifests, commands, `config.toml`, the audit and errors.

    add_message:user|system|assistant|trigger_turn    emit_event    get_context:PART    tools    actions    tasks
    ask
    gate:tool_call[:TOOL]|message|permission|user_message|answer[:sentence]|stop|waive
    transform:tool_input[:TOOL]|tool_output[:TOOL]|user_message|answer|...
    request_action:ACTION|*                            events:TYPE|*|PLUGIN:TYPE|PLUGIN:*
    env:NAME                                           files:read|write:PATH    network    run:PROGRAM

`files`, `network` and `run` are what a plugin may do beside the host; they mean something in the placement `sandbox`
only. What a set of grants allows is decided in `policy.permissions`.
"""

from __future__ import annotations

import re
from typing import Final

from attrs import frozen

from .granted_paths import folder_problem, is_within, program_problem
from .values.errors import ConfigError
from .values.event_types import EVENT_NAMES
from .wording import describe, is_plain_text, nearest, suggest

__all__ = [
    "ADD_MESSAGE",
    "ANY",
    "BESIDE_THE_HOST",
    "CONTEXT_PARTS",
    "FILES",
    "GATES",
    "ROLES",
    "SENTENCE",
    "TRANSFORMS",
    "Grant",
    "event_problem",
    "is_plugin_name",
    "is_target_name",
    "variable_problem",
]

ANY: Final = "*"
ROLES: Final = ("user", "system", "assistant")
ADD_MESSAGE: Final = (*ROLES, "trigger_turn")
CONTEXT_PARTS: Final = ("messages", "focus", "token_usage", "todos", "agents", "is_processing")
GATES: Final = ("tool_call", "message", "permission", "user_message", "answer", "stop")
TRANSFORMS: Final = (
    "tool_input",
    "tool_output",
    "user_message",
    "answer",
    "plugin_message",
    "system_prompt",
    "model_request",
)
FILES: Final = ("read", "write")
BESIDE_THE_HOST: Final = ("files", "network", "run")
"""Kinds of what a plugin does without asking the host. Only a sandbox holds it to them."""

_TOPICS: Final[dict[str, tuple[str, ...]]] = {
    "add_message": ADD_MESSAGE,
    "emit_event": (),
    "get_context": CONTEXT_PARTS,
    "gate": (*GATES, "waive"),
    "transform": TRANSFORMS,
    "tools": (),
    "actions": (),
    "tasks": (),
    "ask": (),
    "files": FILES,
    "network": (),
}
_OPEN: Final = ("request_action", "events", "env", "run")
"""Kinds whose second part is a name that others chose."""

_BY_TOOL: Final = ("gate:tool_call", "transform:tool_input", "transform:tool_output")

SENTENCE: Final = "sentence"
_MODES: Final = {"gate:answer": (SENTENCE,)}
"""How a gate is asked, where there is more than one way. A grant without one is stricter: nothing is shown before."""

LONGEST_NAME: Final = 128
"""Characters of a plugin's, tool's or action's name; tool names of model APIs end at 64 or 128."""

# `\Z` in all of these: `$` would let a line feed follow, which nobody sees in a list.
_PLUGIN_NAME: Final = re.compile(r"[a-z0-9_][a-z0-9_-]*\Z")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z")
_OWN_VARIABLES: Final = ("ALLY_", "PLUGIN_CONFIG_")
"""Variables that the host sets for a plugin; those of its own environment may hold another plugin's token."""
_PLUGIN_EVENT: Final = re.compile(r"([a-z0-9_][a-z0-9_-]*):([A-Za-z0-9_.-]+|\*)\Z")
RESERVED_NAMES: Final = frozenset({"none", "host"})
"""`none` means no plugin in ALLY_PLUGINS; `host` is who the host is in the audit."""


def is_plugin_name(name: str) -> bool:
    """Return whether a plugin may be called so: lower-case letters, digits, `_` and `-`, not starting with `-`."""
    return len(name) <= LONGEST_NAME and _PLUGIN_NAME.match(name) is not None and name not in RESERVED_NAMES


def is_target_name(name: str) -> bool:
    """Return whether a grant may name a tool or an action so."""
    return 0 < len(name) <= LONGEST_NAME and is_plain_text(name) and " " not in name


def event_problem(name: str) -> str | None:
    """Return what is wrong with a subscription, None when nothing is."""
    # Any plugin's, installed or not: a manifest may name one that comes later.
    if name == ANY or name in EVENT_NAMES or _PLUGIN_EVENT.match(name):
        return None
    if ":" in name:
        return f"found {describe(name)}, expected PLUGIN:TYPE or PLUGIN:*"
    close = nearest(name, EVENT_NAMES)
    hint = f"did you mean {close!r}?" if close else "expected a built-in type, PLUGIN:TYPE, PLUGIN:* or *"
    return f"no event type {describe(name)}, {hint}"


def variable_problem(name: str) -> str | None:
    """Return why no grant can pass on an environment variable of this name, None when one can."""
    if not _VARIABLE.match(name):
        return f"found {describe(name)}, expected the name of an environment variable, such as 'OPENAI_API_KEY'"
    if name.upper().startswith(_OWN_VARIABLES):
        return f"{describe(name)} is set by the host and cannot be asked for"
    return None


@frozen(order=True)
class Grant:
    """One thing that a plugin asks to be allowed, or is allowed, to do."""

    kind: str
    topic: str = ""
    target: str = ""
    """The one tool that a gate or a transform is narrowed to, empty for all; the mode of a gate that has some; or the
    path of files."""

    @property
    def text(self) -> str:
        """The grant as everybody writes it."""
        return ":".join(part for part in (self.kind, self.topic, self.target) if part)

    @classmethod
    def parse(cls, text: str) -> Grant:
        """Read a grant. Raises ConfigError, which names the nearest right word."""
        kind, colon, rest = text.partition(":")
        if kind in _OPEN:
            return cls._parse_open(kind, rest, text)
        if kind not in _TOPICS:
            raise _wrong(text, f"no such permission; {_hint(text)}")
        topics = _TOPICS[kind]
        if not topics and colon:
            raise _wrong(text, f"{kind!r} has no narrower form; did you mean {kind!r}?")
        topic, narrowed, target = rest.partition(":")
        if topics and topic not in topics:
            raise _wrong(text, _topic_problem(kind, topic, topics))
        if kind == "files":
            _check_path(text, f"{kind}:{topic}", target)
        elif narrowed:
            _check_target(text, f"{kind}:{topic}", target)
        return cls(kind, topic, target)

    @classmethod
    def _parse_open(cls, kind: str, rest: str, text: str) -> Grant:
        if kind == "events":
            problem = event_problem(rest) if rest else "expected events:TYPE, such as 'events:TOOL_CALL_END'"
        elif kind == "env":
            problem = variable_problem(rest) if rest else "expected env:NAME, such as 'env:OPENAI_API_KEY'"
        elif kind == "run":
            problem = program_problem(rest) if rest else "expected run:PROGRAM, such as 'run:git'"
        else:
            problem = None if is_target_name(rest) else "expected request_action:ACTION or 'request_action:*'"
        if problem is not None:
            raise _wrong(text, problem)
        return cls(kind, rest)

    def covers(self, other: Grant) -> bool:
        """Return whether who has this grant has the other one too."""
        if self.kind != other.kind:
            return False
        if self.topic != other.topic:
            return self._is_wide() and (self.topic == ANY or self._covers_event(other.topic))
        if self.kind == "files":
            return is_within(other.target, self.target)
        if f"{self.kind}:{self.topic}" in _MODES:  # a mode shows something before the verdict, so it is the wider one
            return other.target in ("", self.target)
        return self.target in ("", other.target)

    def _is_wide(self) -> bool:
        # No `env:*`, which would hand on every key in the host's environment, and no `run:*`.
        return self.kind in ("request_action", "events")

    def _covers_event(self, name: str) -> bool:
        return self.kind == "events" and self.topic.endswith(":*") and name.startswith(self.topic[:-1])


def _wrong(text: str, problem: str) -> ConfigError:
    return ConfigError(f"grant {describe(text)} is not valid: {problem}", path=text)


def _topic_problem(kind: str, topic: str, topics: tuple[str, ...]) -> str:
    if not topic:
        return f"{kind!r} needs one of {', '.join(f'{kind}:{option}' for option in topics)}"
    close = nearest(topic, topics)
    return f"did you mean '{kind}:{close}'?" if close else suggest(topic, [f"{kind}:{option}" for option in topics])


def _check_path(text: str, stem: str, path: str) -> None:
    problem = folder_problem(path) if path else f"expected {stem}:PATH, such as '{stem}:project'"
    if problem is not None:
        raise _wrong(text, problem)


def _check_target(text: str, stem: str, target: str) -> None:
    if stem in _MODES:
        if target not in _MODES[stem]:
            modes = " or ".join(f"'{stem}:{mode}'" for mode in _MODES[stem])
            raise _wrong(text, f"expected '{stem}' or {modes}")
        return
    if stem not in _BY_TOOL:
        raise _wrong(text, f"{stem!r} cannot be narrowed to a tool; did you mean {stem!r}?")
    if not is_target_name(target):
        raise _wrong(text, f"expected the name of a tool after '{stem}:'")


def _hint(text: str) -> str:
    whole = [f"{kind}:{topic}" if topic else kind for kind, topics in _TOPICS.items() for topic in topics or ("",)]
    close = nearest(text, whole)
    return f"did you mean {close!r}?" if close else suggest(text.partition(":")[0], [*_TOPICS, *_OPEN])
