"""What a conversation is made of: messages, tool calls, todos, and the read-only context that plugins are shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeVar

import attrs
from attrs import field, frozen

from .frozen import EMPTY, FrozenDict, freeze_mapping, trusted
from .inert import marked_lines, plugin_mark
from .shown import shown_arguments, shown_data, shown_text

__all__ = [
    "CONTEXT_PARTS",
    "DELIVER_AS",
    "ROLES",
    "ActionRequest",
    "AgentState",
    "Context",
    "DeliverAs",
    "Message",
    "ModelInput",
    "PromptSection",
    "Receipt",
    "Role",
    "SafePoint",
    "Stop",
    "TodoItem",
    "ToolCall",
    "ToolResult",
    "evolve",
]

V = TypeVar("V", "Message", "ToolCall", "ToolResult", "PromptSection", "ModelInput")

Role = Literal["user", "assistant", "system", "tool"]
DeliverAs = Literal["steer", "follow_up", "next_turn"]
SafePoint = Literal["step", "turn_end", "turn_start"]

ROLES: Final = ("user", "assistant", "system")
"""The roles that a plugin's message may have."""

DELIVER_AS: Final = ("steer", "follow_up", "next_turn")
"""When a plugin's message enters: at the next step, at the end of the turn, with the person's next message."""

CONTEXT_PARTS: Final = ("messages", "focus", "token_usage", "todos", "agents", "is_processing")
"""The parts of the context, each of which is a grant of its own."""


def _as_calls(calls: Iterable[ToolCall]) -> tuple[ToolCall, ...]:
    # Not `tuple` itself: to find its signature, attrs would import a tokenizer wherever this module is imported.
    return tuple(calls)


def _text_or_none(text: str | None) -> str | None:
    return text if text is None else shown_text(text)


@frozen(kw_only=True)
class Message:
    """One message of a conversation.

    `private` keeps it out of every plugin's context. `metadata` of a plugin's message holds `sourcePlugin`,
    `isPluginGenerated` and `origin`. `timestamp` is Unix time in milliseconds. `volatile` says of one that a transform
    adds to a request that it is another at each request: it stands at the end, behind what a provider's cache holds.
    """

    role: str
    content: str
    id: str = ""
    metadata: FrozenDict = field(default=EMPTY, converter=freeze_mapping)
    tool_calls: tuple[ToolCall, ...] = field(default=(), converter=_as_calls)
    tool_call_id: str | None = None
    private: bool = False
    timestamp: int = 0
    volatile: bool = False

    @property
    def source_plugin(self) -> str | None:
        """The plugin that wrote this message, or None."""
        name = self.metadata.get("sourcePlugin")
        return name if isinstance(name, str) else None

    @property
    def text_for_model(self) -> str:
        """The content as the model is to see it: each line of a plugin's is marked as the plugin's, and inert.

        So no line of it can pass as the person's, or another plugin's.
        """
        plugin = self.source_plugin
        return self.content if plugin is None else "\n".join(marked_lines(plugin_mark(plugin), self.content))


@frozen
class ToolCall:
    """A tool that the agent wants to run, with its arguments.

    There is none of arguments that could not be shown to a gate as they are: making one raises EventError, which says
    why (the table is in `contract.values.shown`). What cannot be made cannot be allowed.

    `tool_name` and `arguments` are the agent's own words. Where these are known, `common_name` is what all agents'
    tools of the kind are called (`bash`, `read`, `write`, `edit`, `search`, `web`, `agent`, `todo`), and
    `argument_names` has the common name of each argument that goes by another one. A grant may name either.
    """

    tool_name: str
    arguments: FrozenDict = field(default=EMPTY, converter=shown_arguments)
    call_id: str | None = None
    agent_id: str | None = None
    common_name: str | None = None
    argument_names: FrozenDict = field(default=EMPTY, converter=freeze_mapping)

    @property
    def common_arguments(self) -> FrozenDict:
        """The arguments by their common names; one whose common name is another argument's keeps its own."""
        if not self.argument_names:
            return self.arguments
        names = {own: common for own, common in self.argument_names.items() if common not in self.arguments}
        return trusted({names.get(name, name): value for name, value in self.arguments.items()})


@frozen
class ToolResult:
    """What a tool call came to; `data` is anything that plugins can be shown as it is, else EventError is raised.

    A lone surrogate in a text becomes U+FFFD. `unshown` says why the rest of a result cannot be shown, where a host has
    such a one all the same: it passes as it is when no plugin transforms it, and is withheld when one does.
    """

    success: bool
    output: str = field(default="", converter=shown_text)
    error: str | None = field(default=None, converter=_text_or_none)
    data: Any = field(default=None, converter=shown_data)
    unshown: str | None = None


@frozen
class PromptSection:
    """A named part of the system prompt; `source` is the plugin that added it, None for the host's own.

    Names are unique within a prompt. The host sets the source; what a plugin gives there is ignored. `volatile` says of
    a plugin's own section that its text changes from request to request (the time, what is open): it is sent behind
    what a provider's cache holds. One that is not is stable, and stays where the plugin has put it.
    """

    name: str
    text: str
    source: str | None = None
    volatile: bool = False

    def as_message(self) -> Message:
        """Return a plugin's section as its message, for the end of a request where it is volatile."""
        # As a message of that plugin, with its mark on each line: at the end of a request it stands among the person's
        # words.
        source = self.source or ""
        return Message(role="user", content=self.text, metadata=plugin_metadata(source, (source,)))


def _messages(messages: Iterable[Message]) -> tuple[Message, ...]:
    return tuple(messages)


@frozen
class ModelInput:
    """The next request to the model: the messages without the system prompt, and the settings of the request.

    `settings` are the framework's own words (temperature, max_tokens, ...). A tool's result is a message of the role
    `tool` whose `tool_call_id` names the call; it follows the assistant's message that made the call.
    """

    model: str | None = None
    messages: tuple[Message, ...] = field(default=(), converter=_messages)
    settings: FrozenDict = field(default=EMPTY, converter=freeze_mapping)


@frozen(kw_only=True)
class Stop:
    """The agent wants to end its turn; `reason` is why the model stopped, in the framework's word (`stop`, `length`).

    `answer` is its answer as the person gets it, a structured one as its JSON; empty where there is none. `sent_on` is
    how often gates have sent the agent on in this turn; the session counts it, whatever the host gives.
    """

    reason: str = ""
    answer: str = ""
    sent_on: int = 0
    agent_id: str | None = None


@frozen
class TodoItem:
    """One todo of the agent; `status` is pending, in_progress or completed."""

    id: str
    task: str
    status: str = "pending"
    active_form: str | None = None


@frozen
class AgentState:
    """An agent or sub-agent that is at work; `started` is Unix time in milliseconds.

    `parent_id` is the tool call in which a sub-agent works, `path` the ids of the agents that it works for, from the
    one that the person talks to. Calls, stops and events of a sub-agent have its `agent_id`.
    """

    agent_id: str
    agent_name: str
    task: str | None = None
    parent_id: str | None = None
    started: int = 0
    path: tuple[str, ...] = ()


@frozen(kw_only=True)
class Context:
    """What a plugin may read of one session, frozen at one moment; parts that were not granted or asked for are None.

    `messages` holds only what came after the cursor that was given. `cursor` is for the next call; `token_usage` is in
    percent of the model's window. `is_reset` says that the conversation was shortened or replaced since the cursor, so
    that `messages` starts at its beginning.
    """

    session_id: str
    messages: tuple[Message, ...] | None = None
    focus: str | None = None
    token_usage: float | None = None
    todos: tuple[TodoItem, ...] | None = None
    agents: tuple[AgentState, ...] | None = None
    is_processing: bool | None = None
    cursor: str = ""
    is_reset: bool = False
    read_only: bool = True


@frozen
class Receipt:
    """The answer to an accepted call: it is on disk as record number `offset`.

    `state` is `pending` or `delivered` for messages, `recorded` for everything else.
    """

    id: str
    offset: int
    state: str


@frozen
class ActionRequest:
    """Somebody asks for an action; `requested_by` is a plugin's name, `person`, `agent` or `host`."""

    action: str
    arguments: FrozenDict = field(default=EMPTY, converter=freeze_mapping)
    requested_by: str = "host"
    plugin: str | None = None
    origin: tuple[str, ...] = ()


def evolve(value: V, **changes: Any) -> V:
    """Return a copy of a message, tool call, result, section or model input with some fields changed, for `Replace`.

    Raises TypeError for a field that the value does not have.
    """
    return attrs.evolve(value, **changes)


def plugin_metadata(plugin: str, origin: tuple[str, ...], given: Mapping[str, Any] | None = None) -> FrozenDict:
    """Return the metadata of a plugin's message; the stamp always wins over what the plugin gave."""
    stamp = {"sourcePlugin": plugin, "isPluginGenerated": True, "origin": origin}
    # Trusted: a stamp alone is of plain values, and every message of a plugin has one.
    return freeze_mapping({**given, **stamp}) if given else trusted(stamp)
