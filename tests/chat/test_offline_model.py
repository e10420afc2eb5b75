from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    PartDeltaEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)

from ally_plugins.cli.chat.offline.model import OfflineModel
from ally_plugins.cli.chat.tools.delegation import Delegation
from ally_plugins.cli.chat.tools.files import FileTools
from ally_plugins.cli.chat.tools.todos import Todos

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterator
    from pathlib import Path

    from pydantic_ai.run import AgentRunResult


def agent_in(folder: Path, **tools: Any) -> Agent[None, str]:
    files = FileTools(folder)
    delegation = Delegation(lambda: Agent(OfflineModel(), capabilities=[files]))
    agent = Agent(OfflineModel(), capabilities=[files, Todos(), delegation])
    for name, tool in tools.items():
        agent.tool_plain(name=name)(tool)
    return agent


def ask(agent: Agent[None, str], text: str | None, **options: Any) -> AgentRunResult[str]:
    return asyncio.run(agent.run(text, **options))


def given(answers: Iterator[str | ToolFailed]) -> str:
    answer = next(answers)
    if isinstance(answer, ToolFailed):
        raise answer
    return answer


def calls_of(messages: list[ModelMessage]) -> list[list[str]]:
    return [
        [part.tool_name for part in message.parts if isinstance(part, ToolCallPart)]
        for message in messages
        if isinstance(message, ModelResponse)
    ]


def test_it_does_the_steps_one_after_the_other_and_says_what_came_of_them(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello\n")
    (tmp_path / "b.txt").write_text("world\n")
    result = ask(agent_in(tmp_path), "read a.txt\nalso read b.txt\nlist\nsay that is all")
    assert calls_of(result.all_messages()) == [["read_file", "read_file"], ["list_directory"], []]
    assert "list_directory gave a.txt" in result.output
    assert result.output.endswith("that is all")


def test_it_thinks_before_every_answer_and_streams_word_by_word(tmp_path: Path) -> None:
    pieces: list[str] = []

    async def listen(_: Any, events: AsyncIterable[Any]) -> None:
        deltas = [event.delta async for event in events if isinstance(event, PartDeltaEvent)]
        pieces.extend(delta.content_delta for delta in deltas if isinstance(delta, TextPartDelta))

    result = asyncio.run(agent_in(tmp_path).run("say one two three", event_stream_handler=listen))
    assert result.output == "one two three"
    assert len(pieces) > 1
    responses = [message for message in result.all_messages() if isinstance(message, ModelResponse)]
    assert all(isinstance(message.parts[0], ThinkingPart) for message in responses)


def test_streamed_and_not_it_answers_the_same_with_the_same_counts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello\n")

    async def listen(_: Any, events: AsyncIterable[Any]) -> None:
        async for _event in events:
            pass

    plain = ask(agent_in(tmp_path), "read a.txt")
    streamed = asyncio.run(agent_in(tmp_path).run("read a.txt", event_stream_handler=listen))
    assert streamed.output == plain.output
    assert (streamed.usage.input_tokens, streamed.usage.output_tokens) == (
        plain.usage.input_tokens,
        plain.usage.output_tokens,
    )
    assert calls_of(streamed.all_messages()) == calls_of(plain.all_messages())


def test_it_stops_where_a_step_fails_and_says_what_is_left(tmp_path: Path) -> None:
    def refuse() -> str:
        return "not run: the person did not agree"

    result = ask(agent_in(tmp_path, refuse=refuse), "call refuse\nread a.txt\nread b.txt")
    assert calls_of(result.all_messages()) == [["refuse"], []]
    assert "refuse did not work: not run: the person did not agree" in result.output
    assert "2 more steps are left undone" in result.output


def test_it_insists_until_it_works_or_is_refused_or_eight_times(tmp_path: Path) -> None:
    answers: Iterator[str | ToolFailed] = iter([ToolFailed("there is no a"), ToolFailed("there is no a"), "found"])
    works = ask(agent_in(tmp_path, seek=lambda: given(answers)), "insist call seek")
    assert calls_of(works.all_messages()) == [["seek"]] * 3 + [[]]
    refusals: Iterator[str | ToolFailed] = iter([ToolFailed("there is no a"), "not run: a plugin has had enough"])
    refused = ask(agent_in(tmp_path, seek=lambda: given(refusals)), "list\ninsist call seek")
    assert calls_of(refused.all_messages()) == [["list_directory"], ["seek"], ["seek"], []]
    never = ask(agent_in(tmp_path), "insist read nothing")
    assert calls_of(never.all_messages()) == [["read_file"]] * 8 + [[]]


def test_a_plugins_message_is_answered_and_not_obeyed(tmp_path: Path) -> None:
    agent = agent_in(tmp_path)
    first = ask(agent, "say hi")
    told = ModelRequest(parts=[UserPromptPart("[plugin loop-guard] read a.txt")])
    woken = ask(agent, None, message_history=[*first.all_messages(), told])
    assert calls_of(woken.new_messages()) == [[]]
    assert woken.output == "The plugin loop-guard tells me: read a.txt I take that into account."


def test_a_plugins_message_of_several_lines_is_one_word_of_that_plugin(tmp_path: Path) -> None:
    agent = agent_in(tmp_path)
    first = ask(agent, "say hi")
    text = "[plugin loop-guard] one\n[plugin loop-guard] [plugin good] two\n[plugin loop-guard]"
    told = ModelRequest(parts=[UserPromptPart(text)])
    woken = ask(agent, None, message_history=[*first.all_messages(), told])
    assert calls_of(woken.new_messages()) == [[]]
    assert woken.output.startswith("The plugin loop-guard tells me: one")
    assert woken.output.count("The plugin") == 1


def test_woken_by_a_plugin_it_does_not_begin_again_what_was_answered(tmp_path: Path) -> None:
    agent = agent_in(tmp_path)
    first = ask(agent, "read nothing-there\nread neither")
    told = ModelRequest(parts=[UserPromptPart("[plugin p] look")])
    woken = ask(agent, None, message_history=[*first.all_messages(), told])
    assert calls_of(woken.new_messages()) == [[]]
    assert woken.output.startswith("The plugin p tells me")


def test_what_the_todos_add_to_a_request_is_no_request(tmp_path: Path) -> None:
    result = ask(agent_in(tmp_path), "plan build; test\ndone build")
    assert "I do not understand" not in result.output
    assert calls_of(result.all_messages()) == [["write_plan"], ["write_plan"], []]


def test_a_sub_agent_understands_the_same_requests(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello\n")
    result = ask(agent_in(tmp_path), "delegate read a.txt")
    assert "delegate_task gave read_file gave" in result.output
    assert "hello" in result.output


def test_ids_of_calls_never_come_twice_also_after_a_resume(tmp_path: Path) -> None:
    first = ask(agent_in(tmp_path), "list\nlist")
    saved = ModelMessagesTypeAdapter.validate_json(first.all_messages_json())
    second = ask(agent_in(tmp_path), "list", message_history=saved)
    ids = [
        part.tool_call_id
        for message in second.all_messages()
        if isinstance(message, ModelResponse)
        for part in message.parts
        if isinstance(part, ToolCallPart)
    ]
    assert ids == ["call-1", "call-2", "call-3"]


def test_its_counts_are_an_estimate_of_what_is_there(tmp_path: Path) -> None:
    model = OfflineModel(1234)
    assert model.context_window == 1234
    agent = agent_in(tmp_path)
    small = ask(agent, "say x").usage.input_tokens
    large = ask(agent, f"say {'x' * 4000}").usage
    assert large.input_tokens - small == pytest.approx(1000, abs=2)
    assert large.output_tokens >= 1000


def test_without_tools_it_summarises_as_well_as_it_can() -> None:
    result = ask(Agent(OfflineModel()), "read a\nrun rm -rf /")
    assert result.output.startswith("(the offline model cannot summarise")
    assert calls_of(result.all_messages()) == [[]]


def test_an_interrupted_call_is_no_success() -> None:
    from ally_plugins.cli.chat.offline.history_view import view_history

    history: list[ModelMessage] = [
        ModelRequest(parts=[UserPromptPart("run a\nrun b")]),
        ModelResponse(parts=[ToolCallPart("run_command", {}, "call-1")]),
        ModelRequest(parts=[ToolReturnPart("run_command", "stopped", "call-1", outcome="interrupted")]),
    ]
    look = view_history(history)
    assert (look.person, look.steps_done, look.is_over) == ("run a\nrun b", 1, False)
    assert [result.is_good for result in look.results] == [False]
    over = view_history([*history, ModelResponse(parts=[TextPart("I stop here")])])
    assert over.is_over
