"""Our values as JSON, and JSON as our values: messages, calls, results, contexts, receipts; for both ends of the wire.

A value's own fields are camelCase, as in Code-Ally; optional fields that are None are left out. Reading is strict about
types and names the path; what a newer host adds is passed over. Verdicts and replacements are in `answers`, events in
the contract's `eventjson`; limits on the values are left to `policy`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

from ally_plugins.contract.shapes import (
    ANY,
    FLAG,
    LENIENT,
    NUMBER,
    SHOWN,
    TEXT,
    Shape,
    WrongShape,
    or_null,
    ref,
    several,
)
from ally_plugins.contract.tables import Table, keys_of, object_of
from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.conversation import (
    AgentState,
    Context,
    Message,
    ModelInput,
    PromptSection,
    Receipt,
    Stop,
    TodoItem,
    ToolCall,
    ToolResult,
)
from ally_plugins.contract.values.errors import EventError
from ally_plugins.contract.values.eventjson import camel, event_data
from ally_plugins.contract.values.events import PermissionRequest

if TYPE_CHECKING:
    from ally_plugins.contract.calls import Task

__all__ = [
    "SCHEMAS",
    "answer_from_wire",
    "answer_to_wire",
    "call_from_wire",
    "call_to_wire",
    "context_from_wire",
    "context_to_wire",
    "message_from_wire",
    "message_to_wire",
    "model_input_from_wire",
    "model_input_to_wire",
    "receipt_from_wire",
    "receipt_to_wire",
    "request_from_wire",
    "request_to_wire",
    "result_from_wire",
    "result_to_wire",
    "sections_from_wire",
    "sections_to_wire",
    "stop_from_wire",
    "stop_to_wire",
    "tool_result_from",
    "tool_value",
]

_RESULT_KEYS: Final = frozenset({"success", "output", "error", "data"})
_REQUEST_IDS: Final = {"callId": "call_id", "agentId": "agent_id", "parentId": "parent_id", "turnId": "turn_id"}


def message_to_wire(message: Message) -> dict[str, Any]:
    """Return a message; `private`, which no plugin's context has, only where it is true."""
    wire: dict[str, Any] = {
        "id": message.id,
        "role": message.role,
        "content": message.content,
        "timestamp": message.timestamp,
        "metadata": message.metadata,
        "toolCalls": [call_to_wire(call) for call in message.tool_calls],
        "toolCallId": message.tool_call_id,
    }
    if message.private:
        wire["private"] = True
    if message.volatile:
        wire["volatile"] = True
    return wire


def message_from_wire(value: Any, path: str = "message") -> Message:
    """Return the message. Raises EventError, which names the path."""
    message: Message = _read(_MESSAGE, value, path)
    return message


def call_to_wire(call: ToolCall) -> dict[str, Any]:
    """Return a tool call."""
    wire: dict[str, Any] = {"toolName": call.tool_name, "arguments": call.arguments}
    if call.call_id is not None:
        wire["callId"] = call.call_id
    if call.agent_id is not None:
        wire["agentId"] = call.agent_id
    if call.common_name is not None:
        wire["commonName"] = call.common_name
    if call.argument_names:
        wire["argumentNames"] = call.argument_names
    return wire


def call_from_wire(value: Any, path: str = "call") -> ToolCall:
    """Return the tool call. Raises EventError, which names the path."""
    call: ToolCall = _read(_CALL, value, path)
    return call


def result_to_wire(result: ToolResult) -> dict[str, Any]:
    """Return a tool's result."""
    wire: dict[str, Any] = {"success": result.success, "output": result.output}
    if result.error is not None:
        wire["error"] = result.error
    if result.data is not None:
        wire["data"] = result.data
    return wire


def result_from_wire(value: Any, path: str = "result") -> ToolResult:
    """Return a tool's result; only the four fields that it has. Raises EventError, which names the path."""
    # Strict, unlike the others: what else a tool has returned would be lost without a word.
    if isinstance(value, dict) and (unknown := sorted(value.keys() - _RESULT_KEYS)):
        text = f"{path}.{unknown[0][:SHOWN]} is no field of a tool result; expected success, output, error, data"
        raise EventError(text, path=f"{path}.{unknown[0][:SHOWN]}")
    result: ToolResult = _read(_RESULT, value, path)
    return result


def sections_to_wire(sections: Iterable[PromptSection]) -> list[dict[str, Any]]:
    """Return the sections of a system prompt."""
    return [
        {"name": each.name, "text": each.text}
        | ({} if each.source is None else {"source": each.source})
        | ({"volatile": True} if each.volatile else {})
        for each in sections
    ]


def sections_from_wire(value: Any, path: str = "sections") -> tuple[PromptSection, ...]:
    """Return the sections of a system prompt. Raises EventError, which names the path."""
    sections: tuple[PromptSection, ...] = _read(_SECTIONS, value, path)
    return sections


def model_input_to_wire(request: ModelInput) -> dict[str, Any]:
    """Return a request to the model as it is sent."""
    messages = [message_to_wire(message) for message in request.messages]
    wire: dict[str, Any] = {"messages": messages, "settings": request.settings}
    return wire if request.model is None else {"model": request.model, **wire}


def model_input_from_wire(value: Any, path: str = "request") -> ModelInput:
    """Return a request to the model. Raises EventError, which names the path."""
    request: ModelInput = _read(_MODEL_INPUT, value, path)
    return request


def stop_to_wire(stop: Stop) -> dict[str, Any]:
    """Return the end of a turn that gates are asked about."""
    wire = {"reason": stop.reason, "answer": stop.answer, "sentOn": stop.sent_on}
    return wire if stop.agent_id is None else {**wire, "agentId": stop.agent_id}


def stop_from_wire(value: Any, path: str = "stop") -> Stop:
    """Return the end of a turn that gates are asked about. Raises EventError, which names the path."""
    stop: Stop = _read(_STOP, value, path)
    return stop


def tool_value(value: Any) -> Any:
    """Return what a daemon's tool handler returned as it is sent, so that the host reads it as it would inline.

    A plain object that happens to have a boolean `success` is sent as the data of a result, since on the wire such an
    object is itself a result.
    """
    if isinstance(value, ToolResult):
        return result_to_wire(value)
    if isinstance(value, Mapping) and isinstance(value.get("success"), bool):
        message = value.get("message")
        output = message if isinstance(message, str) else encode(value).decode()
        return {"success": True, "output": output, "data": value}
    return value


def tool_result_from(value: Any) -> Any:
    """Return what a daemon's tool answered as a handler would have returned it: an object with `success` is a result.

    Raises EventError for such an object with a field of a wrong type, or one that a result does not have.
    """
    if isinstance(value, dict) and isinstance(value.get("success"), bool):
        return result_from_wire(value)
    return value


def receipt_to_wire(receipt: Receipt) -> dict[str, Any]:
    """Return the answer to an accepted call."""
    return {"id": receipt.id, "offset": receipt.offset, "state": receipt.state}


def receipt_from_wire(value: Any, path: str = "receipt") -> Receipt:
    """Return the receipt. Raises EventError, which names the path."""
    receipt: Receipt = _read(_RECEIPT, value, path)
    return receipt


def _task_to_wire(task: Task) -> dict[str, Any]:
    return {"task_id": task.id}


def _task_id_from_wire(value: Any) -> str:
    task_id = value.get("task_id") if isinstance(value, dict) else None
    if not isinstance(task_id, str):
        raise EventError("the host answered start_task without a task_id", path="task_id")
    return task_id


def answer_to_wire(method: str, result: Any) -> Any:
    """Return what the host answers to a plugin's call, by the call's METHOD."""
    write, _ = _ANSWERS.get(method, _AS_IT_IS)
    return write(result)


def answer_from_wire(method: str, value: Any) -> Any:
    """Return what a plugin's call returns; of `start_task` the task's id. Raises EventError, which names the path."""
    _, read = _ANSWERS.get(method, _AS_IT_IS)
    return read(value)


def request_to_wire(request: PermissionRequest) -> dict[str, Any]:
    """Return a permission request as a gate gets it: the event's data, and the ids of its envelope."""
    ids = {key: value for key, name in _REQUEST_IDS.items() if (value := getattr(request, name)) is not None}
    return {**event_data(request), **ids}


def request_from_wire(value: Any, path: str = "request") -> PermissionRequest:
    """Return the permission request; what it does not have is kept in `extra`. Raises EventError, with the path."""
    request: PermissionRequest = _read(_REQUEST, value, path)
    return request


def context_to_wire(context: Context) -> dict[str, Any]:
    """Return a context: the parts that are there, and always session, cursor and whether it starts anew."""
    wire: dict[str, Any] = {"sessionId": context.session_id}
    if context.messages is not None:
        wire["messages"] = [message_to_wire(message) for message in context.messages]
    if context.focus is not None:
        wire["focus"] = context.focus
    if context.token_usage is not None:
        wire["tokenUsage"] = context.token_usage
    if context.todos is not None:
        wire["todos"] = [_todo_to_wire(todo) for todo in context.todos]
    if context.agents is not None:
        wire["agents"] = [_agent_to_wire(agent) for agent in context.agents]
    if context.is_processing is not None:
        wire["isProcessing"] = context.is_processing
    wire["cursor"] = context.cursor
    wire["isReset"] = context.is_reset
    wire["readOnly"] = True
    return wire


def context_from_wire(value: Any, path: str = "context") -> Context:
    """Return the context. Raises EventError, which names the path."""
    context: Context = _read(_CONTEXT, value, path)
    return context


def _todo_to_wire(todo: TodoItem) -> dict[str, Any]:
    wire = {"id": todo.id, "task": todo.task, "status": todo.status}
    return wire if todo.active_form is None else {**wire, "activeForm": todo.active_form}


def _agent_to_wire(agent: AgentState) -> dict[str, Any]:
    wire: dict[str, Any] = {"agentId": agent.agent_id, "agentName": agent.agent_name, "started": agent.started}
    if agent.task is not None:
        wire["task"] = agent.task
    if agent.parent_id is not None:
        wire["parentId"] = agent.parent_id
    if agent.path:
        wire["path"] = list(agent.path)
    return wire


def _read(shape: Shape, value: Any, path: str) -> Any:
    try:
        return shape.read(value, path, LENIENT)
    # Readers of events know EventError; that a shape was wrong is how it was found, not what happened.
    except WrongShape as wrong:
        raise EventError(f"{wrong.path} {wrong.problem}", path=wrong.path) from None


def _object(cls: type[Any], *, rest: str | None = None, **shapes: Shape | None) -> Shape:
    """Return the shape of one of our values, by its fields; one with a default may be left out, and is never null."""
    return object_of(Table(keys_of(cls, camel, **shapes), cls, takes_null=False, rest=rest), is_strict=False)


def _named(of: Shape, name: str) -> Shape:
    """Return the shape with a reference to its schema, which stands under that name."""
    return attrs.evolve(of, schema=ref(name).schema)


def _absent(of: Shape, instead: Any = None) -> Shape:
    """Return the shape of what is not to be sent where there is none; null passes for that all the same."""
    return attrs.evolve(or_null(of, instead), schema=of.schema)


_CALL: Final = _object(ToolCall)
_MESSAGE: Final = _object(Message, tool_calls=_absent(several(_named(_CALL, "ToolCall")), ()))
_MESSAGES: Final = several(_named(_MESSAGE, "Message"))
_RESULT: Final = _object(ToolResult, unshown=None)
_SECTION: Final = _object(PromptSection)
_SECTIONS: Final = several(_SECTION)
_MODEL_INPUT: Final = _object(ModelInput, messages=_absent(_MESSAGES, ()))
_STOP: Final = _object(Stop)
_TODO: Final = _object(TodoItem)
_AGENT: Final = _object(AgentState)
_CONTEXT: Final = _object(
    Context,
    messages=_absent(_MESSAGES),
    focus=_absent(TEXT),
    token_usage=_absent(NUMBER),
    todos=_absent(several(_named(_TODO, "Todo"))),
    agents=_absent(several(_named(_AGENT, "Agent"))),
    is_processing=_absent(FLAG),
    read_only=None,
)
_RECEIPT: Final = _object(Receipt)
_STAMPED: Final = dict.fromkeys(("seq", "timestamp", "session_id", "origin"))
_REQUEST: Final = _object(PermissionRequest, rest="extra", extra=None, options=or_null(several(ANY), ()), **_STAMPED)

SCHEMAS: Final[Mapping[str, Mapping[str, Any]]] = {
    "Message": _MESSAGE.schema,
    "ToolCall": _CALL.schema,
    "ToolResult": _RESULT.schema,
    "PromptSection": _SECTION.schema,
    "ModelInput": {**_MODEL_INPUT.schema, "required": ["messages", "settings"]},
    "Stop": _STOP.schema,
    "Context": {
        **_CONTEXT.schema,
        "properties": {**_CONTEXT.schema["properties"], "readOnly": {"const": True}},
        "required": ["sessionId", "cursor", "isReset", "readOnly"],
    },
    "Todo": _TODO.schema,
    "Agent": _AGENT.schema,
    "Receipt": _RECEIPT.schema,
}
"""The JSON schemas of our values, by name. What is written always is required there, though it may be missing."""

_Convert = Callable[[Any], Any]

_AS_IT_IS: Final[tuple[_Convert, _Convert]] = (lambda value: value, lambda value: value)
_AS_RECEIPT: Final[tuple[_Convert, _Convert]] = (receipt_to_wire, receipt_from_wire)

_ANSWERS: Final[dict[str, tuple[_Convert, _Convert]]] = {
    "add_message": _AS_RECEIPT,
    "emit_event": _AS_RECEIPT,
    "get_context": (context_to_wire, context_from_wire),
    "register_tool": _AS_RECEIPT,
    "register_action": _AS_RECEIPT,
    "start_task": (_task_to_wire, _task_id_from_wire),
}
"""How the answers to a plugin's calls are written and read; what is not here is any JSON value, or null."""
