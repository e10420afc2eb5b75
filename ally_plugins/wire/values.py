"""Our values as JSON, and JSON as our values: messages, calls, results, contexts, receipts; for both ends of the wire.

A value's own fields are camelCase, as in Code-Ally; optional fields that are None are left out. Reading is strict about
types and says the path; what a newer host adds is passed over. Verdicts and replacements are in `answers`, events in
`eventlines`; what a value may say at all is `policy`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ally_plugins.contract.shapes import described_json
from ally_plugins.contract.values.codec import encode, event_data
from ally_plugins.contract.values.conversation import (
    AgentState,
    Context,
    Message,
    ModelInput,
    PromptSection,
    Receipt,
    TodoItem,
    ToolCall,
    ToolResult,
)
from ally_plugins.contract.values.errors import EventError
from ally_plugins.contract.values.events import PermissionRequest
from ally_plugins.contract.values.frozen import EMPTY, FrozenDict, freeze_mapping

if TYPE_CHECKING:
    from ally_plugins.contract.calls import Task

__all__ = [
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
    "tool_result_from",
    "tool_value",
]

T = TypeVar("T")

_RESULT_KEYS: Final = frozenset({"success", "output", "error", "data"})
_REQUEST_IDS: Final = {"callId": "call_id", "agentId": "agent_id", "parentId": "parent_id", "turnId": "turn_id"}
_SHOWN: Final = 40  # characters of a wrong value in an error text


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
    return wire


def message_from_wire(value: Any, path: str = "message") -> Message:
    """Return the message. Raises EventError, which names the path."""
    read = _Reader(value, path)
    calls = read.several("toolCalls", call_from_wire)
    return Message(
        role=read.text("role"),
        content=read.text("content"),
        id=read.text("id", ""),
        metadata=read.mapping("metadata"),
        tool_calls=calls or (),
        tool_call_id=read.text_or_none("toolCallId"),
        private=read.flag("private", default=False),
        timestamp=read.integer("timestamp", 0),
    )


def call_to_wire(call: ToolCall) -> dict[str, Any]:
    """Return a tool call."""
    wire: dict[str, Any] = {"toolName": call.tool_name, "arguments": call.arguments}
    if call.call_id is not None:
        wire["callId"] = call.call_id
    if call.agent_id is not None:
        wire["agentId"] = call.agent_id
    return wire


def call_from_wire(value: Any, path: str = "call") -> ToolCall:
    """Return the tool call. Raises EventError, which names the path."""
    read = _Reader(value, path)
    return ToolCall(
        tool_name=read.text("toolName"),
        arguments=read.mapping("arguments"),
        call_id=read.text_or_none("callId"),
        agent_id=read.text_or_none("agentId"),
    )


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
    read = _Reader(value, path)
    if unknown := sorted(value.keys() - _RESULT_KEYS):
        text = f"{path}.{unknown[0][:_SHOWN]} is no field of a tool result; expected success, output, error, data"
        raise EventError(text, path=f"{path}.{unknown[0][:_SHOWN]}")
    return ToolResult(
        success=read.flag("success"),
        output=read.text("output", ""),
        error=read.text_or_none("error"),
        data=value.get("data"),
    )


def sections_to_wire(sections: Iterable[PromptSection]) -> list[dict[str, Any]]:
    """Return the sections of a system prompt."""
    return [
        {"name": each.name, "text": each.text} | ({} if each.source is None else {"source": each.source})
        for each in sections
    ]


def sections_from_wire(value: Any, path: str = "sections") -> tuple[PromptSection, ...]:
    """Return the sections of a system prompt. Raises EventError, which names the path."""
    if not isinstance(value, (list, tuple)):
        raise _wrong(path, value, "a list")
    readers = [_Reader(each, f"{path}[{index}]") for index, each in enumerate(value)]
    return tuple([PromptSection(read.text("name"), read.text("text"), read.text_or_none("source")) for read in readers])


def model_input_to_wire(request: ModelInput) -> dict[str, Any]:
    """Return what the model is about to be asked."""
    messages = [message_to_wire(message) for message in request.messages]
    wire: dict[str, Any] = {"messages": messages, "settings": request.settings}
    return wire if request.model is None else {"model": request.model, **wire}


def model_input_from_wire(value: Any, path: str = "request") -> ModelInput:
    """Return what the model is about to be asked. Raises EventError, which names the path."""
    read = _Reader(value, path)
    return ModelInput(
        model=read.text_or_none("model"),
        messages=read.several("messages", message_from_wire) or (),
        settings=read.mapping("settings"),
    )


def tool_value(value: Any) -> Any:
    """Return what a daemon's tool handler returned as it is sent, so that the host reads it as it would inline.

    A plain object that happens to have a boolean `success` is sent as the data of a result, since on the wire such an
    object is itself a result.
    """
    if isinstance(value, ToolResult):
        return result_to_wire(value)
    if isinstance(value, Mapping) and isinstance(value.get("success"), bool):
        said = value.get("message")
        return {"success": True, "output": said if isinstance(said, str) else encode(value).decode(), "data": value}
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
    read = _Reader(value, path)
    return Receipt(read.text("id"), read.integer("offset"), read.text("state"))


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
    """Return a permission request as a gate is asked about it: the event's data, and the ids of its envelope."""
    ids = {key: value for key, name in _REQUEST_IDS.items() if (value := getattr(request, name)) is not None}
    return {**event_data(request), **ids}


def request_from_wire(value: Any, path: str = "request") -> PermissionRequest:
    """Return the permission request. Raises EventError, which names the path."""
    read = _Reader(value, path)
    known = {"requestId", "toolName", "arguments", "path", "command", "sensitivity", "options", *_REQUEST_IDS}
    return PermissionRequest(
        request_id=read.text("requestId"),
        tool_name=read.text("toolName"),
        arguments=read.mapping("arguments"),
        path=read.text_or_none("path"),
        command=read.text_or_none("command"),
        sensitivity=read.text("sensitivity", "normal"),
        options=read.listed("options") or (),
        extra=freeze_mapping({key: item for key, item in value.items() if key not in known}),
        **{name: read.text_or_none(key) for key, name in _REQUEST_IDS.items()},
    )


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
    read = _Reader(value, path)
    return Context(
        session_id=read.text("sessionId"),
        messages=read.several("messages", message_from_wire),
        focus=read.text_or_none("focus"),
        token_usage=read.number_or_none("tokenUsage"),
        todos=read.several("todos", _todo_from_wire),
        agents=read.several("agents", _agent_from_wire),
        is_processing=read.flag_or_none("isProcessing"),
        cursor=read.text("cursor", ""),
        is_reset=read.flag("isReset", default=False),
    )


def _todo_to_wire(todo: TodoItem) -> dict[str, Any]:
    wire = {"id": todo.id, "task": todo.task, "status": todo.status}
    return wire if todo.active_form is None else {**wire, "activeForm": todo.active_form}


def _todo_from_wire(value: Any, path: str) -> TodoItem:
    read = _Reader(value, path)
    return TodoItem(read.text("id"), read.text("task"), read.text("status", "pending"), read.text_or_none("activeForm"))


def _agent_to_wire(agent: AgentState) -> dict[str, Any]:
    wire: dict[str, Any] = {"agentId": agent.agent_id, "agentName": agent.agent_name, "started": agent.started}
    if agent.task is not None:
        wire["task"] = agent.task
    if agent.parent_id is not None:
        wire["parentId"] = agent.parent_id
    return wire


def _agent_from_wire(value: Any, path: str) -> AgentState:
    read = _Reader(value, path)
    return AgentState(
        agent_id=read.text("agentId"),
        agent_name=read.text("agentName"),
        task=read.text_or_none("task"),
        parent_id=read.text_or_none("parentId"),
        started=read.integer("started", 0),
    )


class _Reader:
    """One JSON object that is being read; each method returns the field, or raises EventError with its path."""

    __slots__ = ("_path", "_value")

    def __init__(self, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise _wrong(path, value, "an object")
        self._value = value
        self._path = path

    def text(self, key: str, default: str | None = None) -> str:
        value = self._value.get(key, default)
        if type(value) is str:
            return value
        raise self._bad(key, "a string")

    def text_or_none(self, key: str) -> str | None:
        value = self._value.get(key)
        if value is None or type(value) is str:
            return value
        raise self._bad(key, "a string or null")

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._value.get(key, default)
        if type(value) is int:
            return value
        raise self._bad(key, "an integer")

    def number_or_none(self, key: str) -> float | None:
        value = self._value.get(key)
        if value is None or type(value) is float or type(value) is int:
            return value
        raise self._bad(key, "a number or null")

    def flag(self, key: str, *, default: bool | None = None) -> bool:
        value = self._value.get(key, default)
        if value is True or value is False:
            return value
        raise self._bad(key, "true or false")

    def flag_or_none(self, key: str) -> bool | None:
        return None if self._value.get(key) is None else self.flag(key)

    def mapping(self, key: str) -> FrozenDict:
        value = self._value.get(key, EMPTY)
        if isinstance(value, dict):
            return freeze_mapping(value)
        raise self._bad(key, "an object")

    def listed(self, key: str) -> tuple[Any, ...] | None:
        value = self._value.get(key)
        if value is None:
            return None
        if isinstance(value, (list, tuple)):
            return tuple(value)
        raise self._bad(key, "a list")

    def several(self, key: str, read: Callable[[Any, str], T]) -> tuple[T, ...] | None:
        items = self.listed(key)
        if items is None:
            return None
        return tuple([read(item, f"{self._path}.{key}[{index}]") for index, item in enumerate(items)])

    def _bad(self, key: str, expected: str) -> EventError:
        path = f"{self._path}.{key}"
        if key not in self._value:
            return EventError(f"{path} is missing; expected {expected}", path=path)
        return _wrong(path, self._value[key], expected)


def _wrong(path: str, value: object, expected: str) -> EventError:
    """Return the error; of a text only its length is said, which may be a secret."""
    found = described_json(value)
    return EventError(f"{path} is {found}; expected {expected}", path=path, found=found)


_Convert = Callable[[Any], Any]

_AS_IT_IS: Final[tuple[_Convert, _Convert]] = (lambda value: value, lambda value: value)
_RECEIPT: Final[tuple[_Convert, _Convert]] = (receipt_to_wire, receipt_from_wire)

_ANSWERS: Final[dict[str, tuple[_Convert, _Convert]]] = {
    "add_message": _RECEIPT,
    "emit_event": _RECEIPT,
    "get_context": (context_to_wire, context_from_wire),
    "register_tool": _RECEIPT,
    "register_action": _RECEIPT,
    "start_task": (_task_to_wire, _task_id_from_wire),
}
"""How the answers to a plugin's calls are written and read; what is not here is any JSON value, or null."""
