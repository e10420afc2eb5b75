"""Whether a history is one that a model takes; whatever a transform does to one, it stays so or is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins import Message, ModelInput, ToolCall
from ally_plugins.contract.values.errors import PluginError
from ally_plugins.policy.model_input import check_model_input, find_history_problem, shown_to_plugins, with_ids


def says(role: str, name: str, **fields: Any) -> Message:
    return Message(role=role, content=f"text of {name}", id=name, **fields)


def calls(name: str, *ids: str, private: bool = False) -> Message:
    made: Any = tuple(ToolCall("bash", call_id=each) for each in ids)
    return Message(role="assistant", content="", id=name, tool_calls=made, private=private)


def answers(call_id: str, *, private: bool = False) -> Message:
    return says("tool", f"t-{call_id}", tool_call_id=call_id, private=private)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], None),
        ([says("user", "u")], None),
        ([calls("a", "1", "2"), answers("2"), answers("1"), says("user", "u")], None),
        ([calls("a", "1")], "the call '1' of the message 'a' has no result at the end"),
        ([answers("1")], "the result 't-1' does not follow the call '1' that it answers"),
        ([calls("a", "1"), says("user", "u"), answers("1")], "the call '1' of the message 'a' has no result before"),
        ([calls("a", "1"), answers("1"), answers("1")], "the result 't-1' does not follow"),
        ([calls("a", "1"), calls("b", "2"), answers("1"), answers("2")], "has no result before the message 'b'"),
    ],
)
def test_each_call_is_answered_once_and_at_once(messages: list[Message], words: str | None) -> None:
    problem = find_history_problem(messages)
    assert problem is None if words is None else words in str(problem)


@st.composite
def histories(draw: Any) -> tuple[Message, ...]:
    """Make a valid history; anything in it may be private."""
    messages: list[Message] = []
    for turn in range(draw(st.integers(1, 4))):
        messages.append(says("user", f"u{turn}", private=draw(st.booleans())))
        for step in range(draw(st.integers(0, 3))):
            ids = [f"{turn}.{step}.{each}" for each in range(draw(st.integers(0, 3)))]
            messages.append(calls(f"a{turn}.{step}", *ids, private=draw(st.booleans())))
            messages += [answers(each, private=draw(st.booleans())) for each in draw(st.permutations(ids))]
    return (*messages, says("user", "last", private=draw(st.booleans())))


@given(st.data(), histories())
def test_whatever_is_dropped_and_added_the_history_stays_valid_and_private_ones_stay(
    data: Any, messages: tuple[Message, ...]
) -> None:
    assert find_history_problem(messages) is None
    old = with_ids(ModelInput("m", messages))
    shown = shown_to_plugins(old)
    new: list[Message] = []
    for message in shown.messages:
        new += [message] * data.draw(st.sampled_from([0, 1, 1, 1, 1, 2]))
        if data.draw(st.integers(0, 4)) == 0:
            new.append(Message(role=data.draw(st.sampled_from(["user", "assistant"])), content="new"))
    try:
        taken, _ = check_model_input(old, ModelInput("m", tuple(new)), "p")
    except PluginError:
        return
    assert find_history_problem(taken.messages) is None
    private = [message for message in old.messages if message.private]
    assert [message for message in taken.messages if message.private] == private
    known = [message for message in taken.messages if message.source_plugin is None]
    assert known == [message for message in old.messages if message in known]
    assert all(message.content == "new" for message in taken.messages if message.source_plugin == "p")


@given(histories())
def test_what_is_left_as_it_was_is_no_change(messages: tuple[Message, ...]) -> None:
    old = with_ids(ModelInput("m", messages, {"temperature": 1}))
    assert check_model_input(old, shown_to_plugins(old), "p") == (old, ())


def test_a_history_that_was_not_valid_before_is_no_fault_of_the_plugin() -> None:
    broken = ModelInput("m", (says("user", "u"), answers("1"), says("user", "v")))
    taken, fields = check_model_input(broken, ModelInput("m", broken.messages[1:]), "p")
    assert taken.messages == broken.messages[1:]
    assert fields == ("message u",)
