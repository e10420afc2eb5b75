"""The names of the built-in event types, for whoever asks for no more: to make the classes of `events` takes 20 ms."""

from __future__ import annotations

from typing import Final

__all__ = ["CODE_ALLY_TYPES", "EVENT_NAMES", "PLUGIN_TYPES", "hook_name"]

CODE_ALLY_TYPES: Final = (
    "TOOL_CALL_START",
    "TOOL_CALL_END",
    "AGENT_START",
    "AGENT_END",
    "PERMISSION_REQUEST",
    "PERMISSION_RESPONSE",
    "COMPACTION_START",
    "COMPACTION_COMPLETE",
    "CONTEXT_USAGE_UPDATE",
    "TODO_UPDATE",
    "THOUGHT_COMPLETE",
    "DIFF_PREVIEW",
)
"""The twelve types that Code-Ally's plugins may subscribe to (code-ally-facts, section 4)."""

PLUGIN_TYPES: Final = ("PLUGIN_MESSAGE_RECEIVED", "PLUGIN_EVENT_EMITTED", "PLUGIN_ACTION_REQUESTED")
"""What plugins cause, by type."""

EVENT_NAMES: Final = (
    *CODE_ALLY_TYPES,
    *PLUGIN_TYPES,
    "SESSION_START",
    "SESSION_END",
    "USER_MESSAGE",
    "ASSISTANT_MESSAGE",
    "MODEL_REQUEST",
    "MODEL_RESPONSE",
    "CONTEXT_THRESHOLD",
    "PROMPT_PREFIX_CHANGED",
    "PLUGIN_STATE",
    "TASK_PROGRESS",
    "DECISION",
    "EVENTS_DROPPED",
)
"""Every built-in type, in the order of `events.EVENT_TYPES`, which has the classes."""


def hook_name(event_type: str) -> str:
    """Return the name of the hook that observes a built-in event type."""
    return f"ally_{event_type.lower()}"
