"""What an agent's hook has said, in our values, and the reading of its payload field by field.

A field that a guard needs and that is missing or of another type is a PayloadError, which names it; fields that nobody
asks for are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from attrs import field, frozen

from ally_plugins.contract.values.codec import decode
from ally_plugins.contract.values.conversation import ToolCall, ToolResult

__all__ = ["AgentHook", "EndedCall", "HookKind", "Payload", "PayloadError", "read_payload"]

MAX_PAYLOAD: Final = 16 * 1024 * 1024
"""Bytes of one payload; agents cut the output of tools far below (Claude Code: 30,000 characters)."""


class PayloadError(ValueError):
    """A payload is not what its agent is known to send; the text names the field, what was found and expected."""


class HookKind(StrEnum):
    """What a hook of any agent is about."""

    SESSION_START = "session_start"
    SESSION_END = "session_end"
    PROMPT = "prompt"
    BEFORE_TOOL = "before_tool"
    AFTER_TOOL = "after_tool"
    AFTER_CALLS = "after_calls"
    """After all calls of one answer of the model, before the next request."""
    PERMISSION = "permission"
    STOP = "stop"
    AGENT_START = "agent_start"
    """A sub-agent begins."""
    AGENT_STOP = "agent_stop"
    COMPACTION_START = "compaction_start"
    COMPACTION_END = "compaction_end"


@frozen
class EndedCall:
    """A call that has run and what it came to; `raw` is the tool's output in the agent's own form.

    A call whose arguments cannot be shown is one without any, and `unshown` says why.
    """

    call: ToolCall
    result: ToolResult | None = None
    raw: Any = None
    unshown: str | None = None


@frozen(kw_only=True)
class AgentHook:
    """One hook of an agent: `event` is its own name for it. `session_id` is the agent's, without our prefix.

    `agent_id` is the sub-agent's that it is about. `text` is the prompt, the agent's last answer, or why a session has
    ended. `is_person` says of a prompt that a person wrote it, as far as the agent tells. `may_ask` says that the agent
    asks the person about whatever a plugin does not waive.
    """

    kind: HookKind
    event: str
    session_id: str
    agent_id: str | None = None
    agent_name: str | None = None
    parent_id: str | None = None
    """The agent's id of the conversation that a sub-agent works for, where it has one of its own."""
    cwd: str | None = None
    model: str | None = None
    source: str | None = None
    event_file: str | None = None
    """Where the agent writes what happens, for one whose hooks do not say all of it."""
    transcript: str | None = None
    """Where the agent writes the conversation, for one whose form is known."""
    text: str = ""
    is_person: bool = True
    is_sent_on: bool = False
    may_ask: bool = True
    tool: EndedCall | None = None
    tools: tuple[EndedCall, ...] = ()
    newer: tuple[str, ...] = field(default=(), eq=False)
    """Fields of its payload that no version which was seen has; nobody reads them."""


@frozen
class Payload:
    """An object of a payload, with its path for errors."""

    data: Mapping[str, Any]
    path: str = ""

    def _at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def wrong(self, name: str, expected: str) -> PayloadError:
        """Return the error of one field."""
        found = f"is {type(self.data[name]).__name__}" if name in self.data else "is missing"
        return PayloadError(f"{self._at(name)!r} {found}; expected {expected}")

    def text(self, name: str) -> str:
        """Return a text that has to be there, and not empty."""
        value = self.data.get(name)
        if not isinstance(value, str) or not value:
            raise self.wrong(name, "a text")
        return value

    def maybe_text(self, name: str) -> str | None:
        """Return a text that may be missing or null; an empty one is None."""
        value = self.data.get(name)
        if value is not None and not isinstance(value, str):
            raise self.wrong(name, "a text, or nothing")
        return value or None

    def any_text(self, name: str) -> str:
        """Return a text that has to be there and may be empty."""
        value = self.data.get(name)
        if not isinstance(value, str):
            raise self.wrong(name, "a text")
        return value

    def flag(self, name: str) -> bool:
        """Return whether a flag is set; one that is missing is not."""
        value = self.data.get(name, False)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def object(self, name: str) -> Payload:
        """Return an object that has to be there."""
        value = self.data.get(name)
        if not isinstance(value, Mapping):
            raise self.wrong(name, "an object")
        return Payload(value, self._at(name))

    def objects(self, name: str) -> list[Payload]:
        """Return the objects of a list that has to be there."""
        value = self.data.get(name)
        if not isinstance(value, list) or not all(isinstance(each, Mapping) for each in value):
            raise self.wrong(name, "a list of objects")
        return [Payload(each, f"{self._at(name)}[{number}]") for number, each in enumerate(value)]

    def anything(self, name: str) -> Any:
        """Return a value that has to be there, of whatever kind."""
        if name not in self.data:
            raise self.wrong(name, "a value")
        return self.data[name]


def read_payload(raw: bytes) -> Payload:
    """Return a hook's payload. Raises PayloadError for what is no JSON object, or none that can be shown to anybody."""
    if len(raw) > MAX_PAYLOAD:
        raise PayloadError(f"the payload has {len(raw):,} bytes; expected {MAX_PAYLOAD:,} at most")
    try:
        data = decode(raw)
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"the payload is no JSON that can be shown: {error}") from None
    if not isinstance(data, dict):
        raise PayloadError(f"the payload is {type(data).__name__}; expected an object")
    return Payload(data)
