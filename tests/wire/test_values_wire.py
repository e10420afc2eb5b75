"""Messages, calls, results, contexts and receipts cross the wire and come out the same; what is wrong is refused."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.contract.values.codec import decode, encode
from ally_plugins.contract.values.conversation import (
    AgentState,
    Context,
    Message,
    Receipt,
    TodoItem,
    ToolCall,
    ToolResult,
)
from ally_plugins.contract.values.errors import EventError
from ally_plugins.contract.values.events import PermissionRequest
from ally_plugins.wire.values import (
    call_from_wire,
    call_to_wire,
    context_from_wire,
    context_to_wire,
    message_from_wire,
    message_to_wire,
    model_input_from_wire,
    receipt_from_wire,
    receipt_to_wire,
    request_from_wire,
    request_to_wire,
    result_from_wire,
    result_to_wire,
    sections_from_wire,
    tool_result_from,
    tool_value,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
whole = st.integers(-(2**53), 2**53)
jsons = st.recursive(
    st.none() | st.booleans() | whole | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(texts, jsons, max_size=3)
maybe = st.none() | texts
names = st.dictionaries(texts, texts, max_size=2)
calls = st.builds(ToolCall, texts, objects, maybe, maybe, maybe, names)
results = st.builds(ToolResult, st.booleans(), texts, st.none() | texts, jsons)
messages = st.builds(
    Message,
    role=texts,
    content=texts,
    id=texts,
    metadata=objects,
    tool_calls=st.lists(calls, max_size=2),
    tool_call_id=st.none() | texts,
    private=st.booleans(),
    timestamp=whole,
)
todos = st.builds(TodoItem, texts, texts, texts, st.none() | texts)
agents = st.builds(AgentState, texts, texts, st.none() | texts, st.none() | texts, whole)
contexts = st.builds(
    Context,
    session_id=texts,
    messages=st.none() | st.lists(messages, max_size=2).map(tuple),
    focus=st.none() | texts,
    token_usage=st.none() | st.floats(0, 100),
    todos=st.none() | st.lists(todos, max_size=2).map(tuple),
    agents=st.none() | st.lists(agents, max_size=2).map(tuple),
    is_processing=st.none() | st.booleans(),
    cursor=texts,
    is_reset=st.booleans(),
)
requests = st.builds(
    PermissionRequest,
    request_id=texts,
    tool_name=texts,
    arguments=objects,
    path=st.none() | texts,
    command=st.none() | texts,
    sensitivity=texts,
    options=st.lists(jsons, max_size=2),
    call_id=st.none() | texts,
    agent_id=st.none() | texts,
    parent_id=st.none() | texts,
    turn_id=st.none() | texts,
    extra=st.dictionaries(st.sampled_from(["newField", "risk"]), jsons, max_size=1),
)


readers = st.sampled_from(
    [message_from_wire, call_from_wire, result_from_wire, context_from_wire, receipt_from_wire, request_from_wire]
)


def _over_the_wire(value: Any) -> Any:
    return decode(encode(value))


WRONG = [
    (message_from_wire, [], "message is a list; expected an object"),
    (message_from_wire, {"role": "user"}, "message.content is missing; expected a string"),
    (message_from_wire, {"role": 1, "content": ""}, "message.role is the number 1; expected a string"),
    (
        message_from_wire,
        {"role": "u", "content": "", "timestamp": 1.5},
        "message.timestamp is the number 1.5;",
    ),
    (
        message_from_wire,
        {"role": "u", "content": "", "timestamp": True},
        "message.timestamp is true; expected",
    ),
    (
        message_from_wire,
        {"role": "u", "content": "", "toolCalls": [{"toolName": "a"}, {}]},
        "message.toolCalls[1].toolName is missing; expected a string",
    ),
    (
        call_from_wire,
        {"toolName": "a", "arguments": "ls"},
        "call.arguments is a string of 2 characters; exp",
    ),
    (call_from_wire, {"toolName": "a", "callId": 5}, "call.callId is the number 5; expected a string or null"),
    (result_from_wire, {"success": 1}, "result.success is the number 1; expected true or false"),
    (result_from_wire, {"success": True, "output": None}, "result.output is null; expected a string"),
    (result_from_wire, {"success": True, "rows": 5}, "result.rows is no field of a tool result; expected"),
    (context_from_wire, {"sessionId": "s", "todos": {}}, "context.todos is an object; expected a list"),
    (
        context_from_wire,
        {"sessionId": "s", "isProcessing": 0},
        "context.isProcessing is the number 0; expected",
    ),
    (context_from_wire, {"sessionId": "s", "tokenUsage": "9"}, "context.tokenUsage is a string of 1 characters; expec"),
    (receipt_from_wire, {"id": "m", "state": "pending"}, "receipt.offset is missing; expected an integer"),
    (request_from_wire, {"toolName": "bash"}, "request.requestId is missing; expected a string"),
    (request_from_wire, {"requestId": "r", "toolName": "t", "options": "yes"}, "request.options is a string of 3 char"),
    (message_from_wire, {"role": "u", "content": "", "id": None}, "message.id is null; expected a string"),
    (
        message_from_wire,
        {"role": "u", "content": "", "private": None},
        "message.private is null; expected true or false",
    ),
    (
        message_from_wire,
        {"role": "u", "content": "", "private": 1},
        "message.private is the number 1; expected true or",
    ),
    (message_from_wire, {"role": "u", "content": "", "metadata": None}, "message.metadata is null; expected an object"),
    (context_from_wire, {"sessionId": "s", "isReset": None}, "context.isReset is null; expected true or false"),
    (
        context_from_wire,
        {"sessionId": "s", "tokenUsage": True},
        "context.tokenUsage is true; expected a number or null",
    ),
    (
        context_from_wire,
        {"sessionId": "s", "messages": [{"role": "u", "content": "", "toolCalls": [[]]}]},
        "context.messages[0].toolCalls[0] is a list; expected an object",
    ),
    (
        receipt_from_wire,
        {"id": "m", "offset": 1.0, "state": "x"},
        "receipt.offset is the number 1.0; expected an integer",
    ),
    (sections_from_wire, {"name": "a"}, "sections is an object; expected a list"),
    (sections_from_wire, [{"name": "a", "text": None}], "sections[0].text is null; expected a string"),
    (model_input_from_wire, {"model": 5}, "request.model is the number 5; expected a string or null"),
    (model_input_from_wire, {"messages": [3]}, "request.messages[0] is the number 3; expected an object"),
    (model_input_from_wire, {"settings": []}, "request.settings is a list; expected an object"),
]


@pytest.mark.parametrize(("read", "value", "text"), WRONG, ids=[text[:40] for _, _, text in WRONG])
def test_a_wrong_type_is_an_error_that_names_the_path(read: Any, value: Any, text: str) -> None:
    with pytest.raises(EventError) as caught:
        read(value)
    assert str(caught.value).startswith(text)
    assert text.startswith(caught.value.path)


@pytest.mark.parametrize("key", ["toolCalls", "toolCallId"])
def test_a_list_or_an_id_that_is_null_counts_as_absent(key: str) -> None:
    assert message_from_wire({"role": "u", "content": "x", key: None}) == Message(role="u", content="x")


def test_what_was_found_is_never_quoted_since_it_may_be_secret() -> None:
    with pytest.raises(EventError) as caught:
        call_from_wire({"toolName": "bash", "arguments": "hunter2"})
    assert "hunter2" not in repr(caught.value)


@given(
    read=readers,
    value=jsons | st.dictionaries(st.sampled_from(["role", "content", "success", "sessionId", "toolName"]), jsons),
)
def test_garbage_is_read_or_an_event_error_and_nothing_else(read: Any, value: Any) -> None:
    with suppress(EventError):
        read(value)


@given(messages)
def test_a_message_comes_out_as_it_went_in(message: Message) -> None:
    assert message_from_wire(_over_the_wire(message_to_wire(message))) == message


@given(calls)
def test_a_call_comes_out_as_it_went_in(call: ToolCall) -> None:
    assert call_from_wire(_over_the_wire(call_to_wire(call))) == call


@given(results)
def test_a_result_comes_out_as_it_went_in(result: ToolResult) -> None:
    assert result_from_wire(_over_the_wire(result_to_wire(result))) == result
    assert tool_result_from(_over_the_wire(tool_value(result))) == result


@given(contexts)
def test_a_context_comes_out_as_it_went_in(context: Context) -> None:
    assert context_from_wire(_over_the_wire(context_to_wire(context))) == context


@given(requests)
def test_a_permission_request_comes_out_as_it_went_in(request: PermissionRequest) -> None:
    assert request_from_wire(_over_the_wire(request_to_wire(request))) == request


def test_a_receipt_comes_out_as_it_went_in() -> None:
    receipt = Receipt("m3", 118, "pending")
    assert receipt_from_wire(_over_the_wire(receipt_to_wire(receipt))) == receipt


def test_parts_of_a_context_that_are_none_are_not_sent() -> None:
    wire = context_to_wire(Context(session_id="s", focus="/x", cursor="7"))
    assert wire == {"sessionId": "s", "focus": "/x", "cursor": "7", "isReset": False, "readOnly": True}


def test_what_was_read_cannot_be_changed() -> None:
    call = call_from_wire({"toolName": "bash", "arguments": {"list": [{"a": 1}]}})
    with pytest.raises(TypeError):
        call.arguments["list"][0]["a"] = 2


def test_what_a_newer_host_adds_to_a_value_is_passed_over() -> None:
    assert call_from_wire({"toolName": "bash", "mood": 1}).tool_name == "bash"


@given(jsons)
def test_a_tool_that_returns_a_plain_value_is_read_as_inline(value: Any) -> None:
    """Be it an object that has a `success` of its own."""
    from ally_plugins.host.bus.contributions import as_tool_result

    inline = as_tool_result(value)
    assert as_tool_result(tool_result_from(_over_the_wire(tool_value(value)))) == inline


@pytest.mark.parametrize("value", [{"success": True, "rows": 5}, {"success": False, "message": "no", "error": 5}])
def test_a_plain_object_with_a_success_of_its_own_is_data_as_inline(value: Any) -> None:
    from ally_plugins.host.bus.contributions import as_tool_result

    assert as_tool_result(tool_result_from(_over_the_wire(tool_value(value)))) == as_tool_result(value)


def test_lone_surrogates_never_break_the_line() -> None:
    assert decode(encode(message_to_wire(Message(role="user", content="a\ud800"))))["content"] == "a?"
