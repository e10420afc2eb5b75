"""What happened in a recorded session, as frozen values that are the same for every format.

Readers yield these and nothing else; the player turns them into events and calls of a live session. A step carries
recorded facts only: running gates and transforms on them is left to the player.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

from attrs import field, frozen

from ally_plugins.contract.tools.common_names import CommonName
from ally_plugins.contract.values.conversation import TodoItem

__all__ = [
    "MAX_NAME",
    "AgentEnded",
    "AgentStarted",
    "AssistantReplied",
    "BrokenLine",
    "CompactionCompleted",
    "CompactionStarted",
    "Diff",
    "DiffMade",
    "Interrupted",
    "ModelRequested",
    "ModelResponded",
    "PermissionAnswered",
    "PermissionRequested",
    "PersonMessage",
    "SafePoint",
    "SafePointKind",
    "SessionEnded",
    "SessionStarted",
    "Skipped",
    "Step",
    "Thought",
    "TodosChanged",
    "ToolCalled",
    "ToolReturned",
    "Usage",
    "percent_of",
]

MAX_NAME: Final = 64
"""Characters that are kept of a name which comes from the file: none of them may carry the file's size."""


class SafePointKind(StrEnum):
    """Where the conversation may change; the values are the argument of `session.safe_point`."""

    STEP = "step"
    TURN_END = "turn_end"
    TURN_START = "turn_start"


@frozen
class Diff:
    """What an edit tool is about to do to one file. Unknown old content is the empty string."""

    path: str
    old: str
    new: str
    operation: str
    edits_count: int = 1


@frozen
class Step:
    """Something that happened. `at` is the recorded time in Unix milliseconds and never runs backward."""

    at: int


@frozen
class SessionStarted(Step):
    """The recording begins. `session_id`, `cwd` and `model` are empty where they are not recorded."""

    session_id: str = ""
    cwd: str = ""
    model: str = ""


@frozen
class SessionEnded(Step):
    """The recording ends; always the last step. `reason` is the recorded one, or `end_of_recording`."""

    reason: str = "end_of_recording"


@frozen
class PersonMessage(Step):
    """A message of the person. `is_interjection`: in the middle of a turn, which goes on."""

    text: str
    is_interjection: bool = False


@frozen
class AssistantReplied(Step):
    """The model wrote text for the person, or a sub-agent (`agent_id`) for the agent that started it."""

    text: str
    model: str = ""
    agent_id: str | None = field(default=None, kw_only=True)


@frozen
class Thought(Step):
    """The model finished thinking."""

    text: str
    agent_id: str | None = field(default=None, kw_only=True)


@frozen
class ModelRequested(Step):
    """A request was sent to the model."""

    model: str = ""
    agent_id: str | None = field(default=None, kw_only=True)


@frozen
class ModelResponded(Step):
    """The model began to answer. Token counts are None where they are not recorded."""

    model: str = ""
    stop_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_creation_tokens: int | None = None
    agent_id: str | None = field(default=None, kw_only=True)


@frozen
class Usage(Step):
    """How full the main conversation's context is, in percent from 0 to 100; `tokens` where they are recorded."""

    percent: float
    tokens: int | None = None


def percent_of(tokens: int, window: int) -> float:
    """Return how full a window is, 100 at most: which window it was may not be recorded."""
    return min(100.0, 100 * tokens / window)


@frozen
class ToolCalled(Step):
    """A tool is to be called. A `ToolReturned` with the same `call_id` follows, whatever happens.

    `common` is what the tool and its arguments are called in all agents: plugins are asked by that name too.
    `unshown` is why the recording has no arguments: they could not be shown to plugins, and cannot be now.
    """

    call_id: str
    tool_name: str
    arguments: dict[str, Any]
    common: CommonName = field(default=(None, {}), kw_only=True)
    agent_id: str | None = field(default=None, kw_only=True)
    unshown: str | None = field(default=None, kw_only=True)


@frozen
class ToolReturned(Step):
    """A tool call ended. `tool_name` and `duration_ms` are filled in from the call.

    `is_rejected`: the person refused it. `is_launch`: it only started a sub-agent, which goes on.
    `is_denied`: it did not run, since a plugin or the person refused it. `unshown`: why the recording lacks a part.
    """

    call_id: str
    success: bool
    output: str = ""
    error: str | None = None
    is_rejected: bool = False
    is_launch: bool = False
    tool_name: str = ""
    duration_ms: int = 0
    agent_id: str | None = field(default=None, kw_only=True)
    is_denied: bool = field(default=False, kw_only=True)
    unshown: str | None = field(default=None, kw_only=True)


@frozen
class DiffMade(Step):
    """An edit tool showed its diff; comes right after its `ToolCalled`, before anything ran."""

    call_id: str | None
    tool_name: str
    diff: Diff
    agent_id: str | None = field(default=None, kw_only=True)


@frozen
class TodosChanged(Step):
    """The agent's todo list is another.

    It comes right after the `ToolCalled` that writes the list; for a tool that changes one entry right before its
    `ToolReturned`, whose `output` and `details` name the entry.
    """

    todos: tuple[TodoItem, ...]
    call_id: str | None = None
    agent_id: str | None = field(default=None, kw_only=True)
    output: str = field(default="", kw_only=True)
    details: Any = field(default=None, kw_only=True)


@frozen
class PermissionRequested(Step):
    """The person was asked whether a tool may run."""

    request_id: str
    tool_name: str
    arguments: dict[str, Any]
    path: str | None = None
    command: str | None = None
    sensitivity: str = ""
    options: tuple[str, ...] = ()
    call_id: str | None = None
    common: CommonName = field(default=(None, {}), kw_only=True)
    agent_id: str | None = field(default=None, kw_only=True)


@frozen
class PermissionAnswered(Step):
    """The person answered."""

    request_id: str
    choice: str
    agent_id: str | None = field(default=None, kw_only=True)


@frozen
class CompactionStarted(Step):
    """The conversation is being compacted."""


@frozen
class CompactionCompleted(Step):
    """The conversation was compacted. Percentages are None where they are not recorded."""

    old_percent: float | None = None
    new_percent: float | None = None
    threshold: float | None = None
    strategy: str | None = None
    error: str | None = None


@frozen
class AgentStarted(Step):
    """A sub-agent began. `call_id` is the tool call that started it, where that is known, and then its id too."""

    agent_id: str
    call_id: str | None
    agent_name: str = ""
    prompt: str = ""
    model: str = ""


@frozen
class AgentEnded(Step):
    """A sub-agent ended, right before the call that started it returns."""

    agent_id: str
    call_id: str | None
    agent_name: str = ""
    result: str = ""
    is_interrupted: bool = False
    interruption_cause: str | None = None
    duration_ms: int = 0
    tool_use_count: int = 0


@frozen
class SafePoint(Step):
    """Here plugin messages may enter the conversation: no call of the main agent is open."""

    kind: SafePointKind


@frozen
class Interrupted(Step):
    """The person stopped the agent in the middle of its turn."""


def _kept_name(name: str) -> str:
    return name[:MAX_NAME]


@frozen
class Skipped(Step):
    """A record, or a part of one, that has no event. `record_type` is what it is counted under, cut to `MAX_NAME`."""

    record_type: str = field(converter=_kept_name)


@frozen
class BrokenLine(Step):
    """A line that cannot be read in full. `number` counts from 1; in a trajectory it is the array element's.

    `file` is empty for the recording's own file.
    """

    number: int
    reason: str
    file: str = ""
