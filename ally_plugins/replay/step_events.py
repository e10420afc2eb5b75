"""The events that a live host emits for a recorded step without calling a gate or transform. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ally_plugins.contract.tools.todo_tools import todo_data
from ally_plugins.contract.values.events import (
    AgentEnd,
    AgentStart,
    CompactionComplete,
    CompactionStart,
    ContextUsageUpdate,
    DiffPreview,
    Event,
    ModelRequest,
    ModelResponse,
    PermissionRequest,
    PermissionResponse,
    ThoughtComplete,
    TodoUpdate,
)

from .steps import (
    AgentEnded,
    AgentStarted,
    CompactionCompleted,
    CompactionStarted,
    Diff,
    ModelRequested,
    ModelResponded,
    PermissionAnswered,
    PermissionRequested,
    Step,
    Thought,
    Usage,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ally_plugins.contract.values.conversation import TodoItem, ToolCall

__all__ = ["EVENTS", "diff_preview", "permission_request", "todo_update"]

Envelope = dict[str, Any]
"""An event's envelope: `agent_id` and `parent_id`, and `call_id` where the step has one."""


def diff_preview(tool_name: str, diff: Diff, envelope: Envelope) -> DiffPreview:
    """Return the event of an edit tool's diff."""
    return DiffPreview(
        tool_name=tool_name,
        file_path=diff.path,
        old_content=diff.old,
        new_content=diff.new,
        operation_type=diff.operation,
        edits_count=diff.edits_count,
        **envelope,
    )


def todo_update(todos: Iterable[TodoItem], envelope: Envelope) -> TodoUpdate:
    """Return the event of a todo list, as the wire has it."""
    return TodoUpdate(todos=tuple(map(todo_data, todos)), **envelope)


def permission_request(step: PermissionRequested, call: ToolCall, envelope: Envelope) -> PermissionRequest:
    """Return the event of a question to the person, with the arguments as transforms left them."""
    is_changed = call.arguments != step.arguments
    return PermissionRequest(
        request_id=step.request_id,
        tool_name=step.tool_name,
        arguments=call.arguments,
        path=_text(call.arguments, "file_path", "path") if is_changed or step.path is None else step.path,
        command=_text(call.arguments, "command") if is_changed or step.command is None else step.command,
        sensitivity=step.sensitivity or "normal",
        options=step.options,
        common_name=call.common_name,
        **envelope,
    )


def _text(values: Mapping[str, Any], *keys: str) -> str | None:
    return next((value for key in keys if isinstance(value := values.get(key), str)), None)


def _usage(step: Usage, envelope: Envelope) -> Event:
    return ContextUsageUpdate(context_usage=step.percent, **envelope)


def _compaction_started(_step: CompactionStarted, envelope: Envelope) -> Event:
    return CompactionStart(**envelope)


def _compaction_completed(step: CompactionCompleted, envelope: Envelope) -> Event:
    return CompactionComplete(
        old_context_usage=step.old_percent,
        new_context_usage=step.new_percent,
        threshold=step.threshold,
        strategy=step.strategy,
        error=True if step.error is not None else None,
        error_message=step.error,
        **envelope,
    )


def _agent_started(step: AgentStarted, envelope: Envelope) -> Event:
    return AgentStart(
        agent_name=step.agent_name,
        is_specialized_agent=True,
        instance_id=step.agent_id,
        task_prompt=step.prompt or None,
        model=step.model or None,
        **envelope,
    )


def _agent_ended(step: AgentEnded, envelope: Envelope) -> Event:
    return AgentEnd(
        agent_name=step.agent_name,
        interrupted=step.is_interrupted,
        interruption_cause=step.interruption_cause,
        is_specialized_agent=True,
        instance_id=step.agent_id,
        result=step.result or None,
        duration=step.duration_ms / 1000,
        tool_use_count=step.tool_use_count,
        **envelope,
    )


def _thought(step: Thought, envelope: Envelope) -> Event:
    return ThoughtComplete(thinking=step.text, **envelope)


def _model_requested(step: ModelRequested, envelope: Envelope) -> Event:
    return ModelRequest(model=step.model or None, **envelope)


def _model_responded(step: ModelResponded, envelope: Envelope) -> Event:
    return ModelResponse(
        model=step.model or None,
        input_tokens=step.input_tokens,
        output_tokens=step.output_tokens,
        cache_read_tokens=step.cache_read_tokens,
        cache_creation_tokens=step.cache_creation_tokens,
        stop_reason=step.stop_reason,
        **envelope,
    )


def _permission_answered(step: PermissionAnswered, envelope: Envelope) -> Event:
    return PermissionResponse(request_id=step.request_id, choice=step.choice, **envelope)


EVENTS: Final[dict[type[Step], Callable[[Any, Envelope], Event]]] = {
    AgentEnded: _agent_ended,
    AgentStarted: _agent_started,
    CompactionCompleted: _compaction_completed,
    CompactionStarted: _compaction_started,
    ModelRequested: _model_requested,
    ModelResponded: _model_responded,
    PermissionAnswered: _permission_answered,
    Thought: _thought,
    Usage: _usage,
}
"""What makes the event of a step, for steps that are exactly one event."""
