"""The person has said only what the person wrote: not a sub-agent's task, a notification, nor our own words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ally_plugins import Deny, Message, Stop
from tests.kit.waiting import go

from .agents import recorded
from .test_conversations import Talk, talk_of

SAID: list[tuple[str, str, str, bool]] = [
    ("claude", "UserPromptSubmit", "", True),
    ("claude", "UserPromptSubmit", "subagent-2", False),  # a background task's notification
    ("codex", "UserPromptSubmit", "", True),
    ("codex", "UserPromptSubmit", "subagent", True),  # the main agent's, of the run that had a sub-agent
    ("codex", "UserPromptSubmit", "subagent-2", False),
    ("gemini", "BeforeAgent", "", True),
    ("copilot", "userPromptSubmitted", "", True),
    ("copilot", "userPromptSubmitted", "subagent", False),
    ("opencode", "chat.message", "", True),
    ("opencode", "chat.message", "subagent", False),
    ("pi", "input", "", True),
    ("goose", "UserPromptSubmit", "", True),
    ("goose", "UserPromptSubmit", "subagent", False),
]

TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "goose": ("PreToolUse", {"tool_name": "delegate", "tool_input": {"instructions": "look around"}}),
    "opencode": (
        "tool.execute.before",
        {"input": {"tool": "task", "sessionID": "main", "callID": "c1"}, "output": {"args": {"prompt": "look around"}}},
    ),
}
"""The call that gives a sub-agent its task, of those whose prompt does not say that it is a sub-agent's."""


def of(agent: str, event: str, case: str) -> bytes:
    found = [each["payload"] for each in recorded(agent) if (each["event"], each["case"]) == (event, case)]
    return json.dumps(found[0]).encode()


async def send(talk: Talk, event: str, raw: bytes) -> None:
    await talk.conversations.reply(talk.agent, event, raw, 20)


@pytest.mark.parametrize(("agent", "event", "case", "is_person"), SAID)
def test_a_recorded_prompt_is_the_persons_or_not(agent: str, event: str, case: str, *, is_person: bool) -> None:
    def gate(self: Any, message: Message) -> None:
        self.seen.append(message.content)

    async def main() -> None:
        async with talk_of(agent, ["gate:user_message"], ally_gate_user_message=gate) as talk:
            if agent in TASKS and not is_person:
                before, changes = TASKS[agent]
                await talk.hook(before, **changes)
            await send(talk, event, of(agent, event, case))
            said = [each for each in talk.events() if each["type"] == "USER_MESSAGE"]
            assert len(said) == is_person
            if agent != "goose":  # which holds no prompt, so that no gate is asked
                assert len(talk.host.plugins["p"].instance.seen) == is_person

    go(main())


@pytest.mark.parametrize("agent", sorted(TASKS))
def test_a_sub_agent_that_is_known_by_its_task_works_in_the_conversation_that_gave_it(agent: str) -> None:
    event, case = {"goose": ("UserPromptSubmit", "subagent"), "opencode": ("chat.message", "subagent")}[agent]

    async def main() -> None:
        async with talk_of(agent) as talk:
            before, changes = TASKS[agent]
            await talk.hook(before, **changes)
            await send(talk, event, of(agent, event, case))
            if agent == "opencode":  # says later what the other never says
                about = next(
                    each["payload"]
                    for each in recorded(agent)
                    if (each["event"], each["case"]) == ("event.session.created", "subagent")
                )
                about["input"]["properties"]["info"]["parentID"] = "main"
                await send(talk, "event.session.created", json.dumps(about).encode())
            assert len(talk.host.sessions) == 1
            started = [each for each in talk.events() if each["type"] == "AGENT_START"]
            assert len(started) == 1
            assert started[0]["isSpecializedAgent"] is True

    go(main())


def test_the_same_words_are_the_persons_where_no_call_gives_them_as_a_task() -> None:
    async def main() -> None:
        async with talk_of("goose") as talk:
            before, changes = TASKS["goose"]
            await talk.hook(before, **changes)
            await talk.hook("PostToolUse", **changes)
            await send(talk, "UserPromptSubmit", of("goose", "UserPromptSubmit", "subagent"))
            assert "USER_MESSAGE" in talk.types()
            assert len(talk.host.sessions) == 2

    go(main())


@pytest.mark.parametrize(
    ("agent", "stop", "prompt"),
    [("gemini", "AfterAgent", "BeforeAgent"), ("copilot", "agentStop", "userPromptSubmitted")],
)
def test_the_reason_that_sent_the_agent_on_is_not_the_persons_but_the_same_words_later_are(
    agent: str, stop: str, prompt: str
) -> None:
    def once(self: Any, stop: Stop) -> Deny | None:
        self.seen.append(stop)
        return Deny("go on") if len(self.seen) == 1 else None

    async def main() -> None:
        async with talk_of(agent, ["gate:stop"], ally_gate_stop=once) as talk:
            await talk.hook(prompt, prompt="hello")
            assert (await talk.hook(stop)).goes_on
            for _ in range(2):  # a person's configuration and a project's both ask
                await talk.hook(prompt, "stop-2", prompt="[plugin p] go on")
            assert not (await talk.hook(stop)).goes_on
            await talk.hook(prompt, prompt="[plugin p] go on")
            said = [each["content"] for each in talk.events() if each["type"] == "USER_MESSAGE"]
            assert said == ["hello", "[plugin p] go on"]

    go(main())
