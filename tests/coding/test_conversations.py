"""Conversations of agents on a running host: what plugins decide is what the agent does, whatever goes wrong."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Allow, Ask, Deny, Host, Message, Replace, Stop, ToolCall, ToolResult, evolve
from ally_plugins.adapters.coding.dialects import DIALECTS
from ally_plugins.adapters.coding.serving.conversations import Conversations
from ally_plugins.contract.values.eventjson import event_data
from ally_plugins.testing.agents.reactions import Reaction, react
from tests.kit.hosts import make_plugin, setup
from tests.kit.waiting import go

from .agents import recorded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from ally_plugins import Event

AGENTS = ["claude", "codex"]
"""Those whose hooks have the same names; the others are at the end."""
SECRET = "sk-live-0123456789"  # noqa: S105 - a test's


class Talk:
    """One conversation of an agent: recorded payloads with other words in them."""

    def __init__(self, host: Host, agent: str) -> None:
        self.host, self.agent, self.conversations = host, agent, Conversations(host)
        self.emitted: list[Event] = []
        host.stream.subscribe("*", self.emitted.append)

    def payload(self, event: str, case: str = "", **changes: Any) -> dict[str, Any]:
        found = [each["payload"] for each in recorded(self.agent) if (each["event"], each["case"]) == (event, case)]
        session = {"sessionId": "s1"} if self.agent == "copilot" else {"session_id": "s1"}
        return {**found[0], **session, **changes}

    async def hook(self, event: str, case: str = "", *, within: float = 20.0, **changes: Any) -> Reaction:
        payload = self.payload(event, case, **changes)
        reply = await self.conversations.reply(self.agent, event, json.dumps(payload).encode(), within)
        return react(self.agent, event, payload, (reply.exit_code, reply.stdout, reply.stderr))

    async def before(self, command: str = "echo hi", call_id: str = "c1", **changes: Any) -> Reaction:
        return await self.hook("PreToolUse", tool_input={"command": command}, tool_use_id=call_id, **changes)

    async def after(self, output: str = "hi", call_id: str = "c1", **changes: Any) -> Reaction:
        shape = self.payload("PostToolUse")["tool_response"]
        response = output if isinstance(shape, str) else {**shape, "stdout": output}
        about = {"tool_input": {"command": "echo hi"}, "tool_use_id": call_id, **changes}
        return await self.hook("PostToolUse", tool_response=response, **about)

    def events(self) -> list[dict[str, Any]]:
        return [{"type": event.type, **json.loads(json.dumps(event_data(event)))} for event in self.emitted]

    def types(self) -> list[str]:
        return [event.type for event in self.emitted]


@asynccontextmanager
async def talk_of(agent: str, grants: Iterable[str] = (), **hooks: Any) -> AsyncIterator[Talk]:
    """Return a conversation with an agent behind which one plugin stands, with these hooks and grants."""
    given = setup(make_plugin(**hooks), grants).under("p")
    async with Host(home=None, discover=False, plugins={"p": given}) as host:
        yield Talk(host, agent)


def denies_rm(self: Any, call: ToolCall) -> Deny | None:
    self.seen.append(call)
    return Deny("no rm here") if "rm" in call.common_arguments["command"] else None


def redacts(self: Any, call: ToolCall, result: ToolResult) -> Replace[ToolResult] | None:  # noqa: ARG001
    if SECRET not in result.output:
        return None
    data = json.loads(json.dumps(result.data).replace(SECRET, "[key]"))
    error = result.error.replace(SECRET, "[key]") if result.error else result.error
    return Replace(evolve(result, output=result.output.replace(SECRET, "[key]"), error=error, data=data))


REDACTS: Any = {"grants": ["transform:tool_output"], "ally_transform_tool_output": redacts}


# --- calls ---


@pytest.mark.parametrize("agent", AGENTS)
def test_a_denied_call_does_not_run_and_its_reason_names_the_plugin(agent: str) -> None:
    async def main() -> None:
        async with talk_of(agent, ["gate:tool_call:bash"], ally_gate_tool_call=denies_rm) as talk:
            assert not (await talk.before("ls")).stopped
            assert (await talk.before("rm -rf ~", "c2")).stopped
            reply = await talk.conversations.reply(
                agent, "PreToolUse", json.dumps(talk.payload("PreToolUse", tool_input={"command": "rm x"})).encode(), 9
            )
            assert "p: no rm here" in reply.stdout
            ended = [each for each in talk.events() if each["type"] == "TOOL_CALL_END"]
            assert [each["denied"] for each in ended] == [True, True]

    go(main())


@pytest.mark.parametrize("agent", AGENTS)
def test_changed_arguments_are_what_runs_and_what_gates_see(agent: str) -> None:
    def adds(self: Any, call: ToolCall) -> Replace[ToolCall]:  # noqa: ARG001
        return Replace(evolve(call, arguments={**call.arguments, "command": "rm changed"}))

    async def main() -> None:
        grants = ["transform:tool_input"]
        async with talk_of(agent, grants, ally_transform_tool_input=adds) as talk:
            found = await talk.before("ls")
            assert found.value == {"command": "rm changed"}
        grants = ["transform:tool_input", "gate:tool_call"]
        hooks = {"ally_transform_tool_input": adds, "ally_gate_tool_call": denies_rm}
        async with talk_of(agent, grants, **hooks) as talk:
            assert (await talk.before("ls")).stopped

    go(main())


def test_codex_is_denied_a_call_whose_changed_arguments_it_would_not_run_and_the_call_ends() -> None:
    def adds(self: Any, call: ToolCall) -> Replace[ToolCall]:  # noqa: ARG001
        return Replace(evolve(call, arguments={"command": "other"}))

    async def main() -> None:
        async with talk_of("codex", ["transform:tool_input"], ally_transform_tool_input=adds) as talk:
            assert (await talk.before("ls", permission_mode="default")).stopped
            (ended,) = [each for each in talk.events() if each["type"] == "TOOL_CALL_END"]
            assert ended["denied"]
            assert '{"command":"other"}' in ended["error"]

    go(main())


@pytest.mark.parametrize(("agent", "asks"), [("claude", True), ("codex", False)])
def test_a_question_is_the_agents_own_to_put_or_a_deny(agent: str, *, asks: bool) -> None:
    def asks_person(self: Any, call: ToolCall) -> Ask:  # noqa: ARG001
        return Ask("sure?")

    async def main() -> None:
        async with talk_of(agent, ["gate:tool_call"], ally_gate_tool_call=asks_person) as talk:
            found = await talk.before()
            assert (found.asks, found.stopped) == (asks, not asks)

    go(main())


@pytest.mark.parametrize("agent", AGENTS)
def test_a_secret_in_an_output_reaches_the_model_redacted_and_the_journal_too(agent: str) -> None:
    async def main() -> None:
        async with talk_of(agent, **REDACTS) as talk:
            await talk.before()
            found = await talk.after(f"key: {SECRET}")
            assert found.stopped
            assert "[key]" in json.dumps(found.value)
            assert SECRET not in json.dumps(found.value)
            assert SECRET not in json.dumps(talk.events())
            await talk.before(call_id="c2")
            assert await talk.after("nothing", "c2") == Reaction()

    go(main())


def test_claudes_turn_ends_where_a_failed_call_shows_what_plugins_redact() -> None:
    async def main() -> None:
        async with talk_of("claude", **REDACTS) as talk:
            await talk.before()
            await talk.hook("PostToolUseFailure", "fail", tool_use_id="c1", error=f"Exit code 1\n{SECRET}")
            calls = [{**talk.payload("PostToolBatch")["tool_calls"][0], "tool_use_id": "c1", "tool_response": SECRET}]
            assert (await talk.hook("PostToolBatch", tool_calls=calls)).stopped
            await talk.before(call_id="c2")
            await talk.hook("PostToolUseFailure", "fail", tool_use_id="c2", error="Exit code 1\nfine")
            calls[0]["tool_use_id"] = "c2"
            assert not (await talk.hook("PostToolBatch", tool_calls=calls)).stopped

    go(main())


def test_claudes_turn_ends_where_no_hook_came_after_a_call_that_shows_what_plugins_redact() -> None:
    async def main() -> None:
        async with talk_of("claude", **REDACTS) as talk:
            for number, (output, ends) in enumerate(((SECRET, True), ("fine", False))):
                for call_id, begins in ((f"a{number}", True), (f"b{number}", False)):
                    if begins:
                        await talk.before(call_id=call_id)
                    call = {**talk.payload("PostToolBatch")["tool_calls"][0], "tool_use_id": call_id}
                    found = await talk.hook("PostToolBatch", tool_calls=[{**call, "tool_response": output}])
                    assert found.stopped == ends
            ended = [each for each in talk.events() if each["type"] == "TOOL_CALL_END"]
            assert len(ended) == 2

    go(main())


@pytest.mark.parametrize("agent", AGENTS)
def test_the_output_of_a_call_that_no_gate_has_seen_or_that_was_refused_is_withheld(agent: str) -> None:
    async def main() -> None:
        async with talk_of(agent, ["gate:tool_call"], ally_gate_tool_call=denies_rm) as talk:
            assert (await talk.after("raw", "never-seen")).stopped
            assert (await talk.before("rm x", "c2")).stopped
            found = await talk.after("raw", "c2")
            assert found.stopped
            assert "raw" not in str(found.value)

    go(main())


@pytest.mark.parametrize("agent", AGENTS)
def test_a_hook_that_comes_twice_is_asked_about_once_and_answered_alike(agent: str) -> None:
    async def main() -> None:
        async with talk_of(agent, ["gate:tool_call"], ally_gate_tool_call=denies_rm) as talk:
            one, two = await asyncio.gather(talk.before("rm x"), talk.before("rm x"))
            assert one == two
            assert one.stopped
            assert await talk.before("rm x") == one
            assert len(talk.host.plugins["p"].instance.seen) == 1
            assert not (await talk.before("ls", "c2")).stopped
            assert not (await talk.before("ls", "c2")).stopped

    go(main())


@pytest.mark.parametrize("agent", AGENTS)
def test_a_call_under_an_id_that_is_open_with_other_arguments_does_not_run(agent: str) -> None:
    async def main() -> None:
        async with talk_of(agent) as talk:
            assert not (await talk.before("ls")).stopped
            assert (await talk.before("rm x")).stopped

    go(main())


@pytest.mark.parametrize("agent", AGENTS)
def test_arguments_that_cannot_be_shown_are_denied_and_recorded(agent: str) -> None:
    async def main() -> None:
        deep: Any = "x"
        for _ in range(150):
            deep = [deep]
        async with talk_of(agent, ["gate:tool_call"], ally_gate_tool_call=denies_rm) as talk:
            assert (await talk.hook("PreToolUse", tool_input={"command": deep}, tool_use_id="c1")).stopped
            assert "TOOL_CALL_END" in talk.types()

    go(main())


# --- faults ---


@pytest.mark.parametrize("agent", AGENTS)
def test_a_gate_that_hangs_or_crashes_and_a_host_in_a_hurry_are_no_yes(agent: str) -> None:
    async def hangs(self: Any, call: ToolCall) -> Allow:  # noqa: ARG001
        await asyncio.sleep(3600)
        return Allow()

    def crashes(self: Any, call: ToolCall) -> Allow:  # noqa: ARG001
        raise ValueError

    async def main() -> None:
        for gate in (hangs, crashes):
            async with talk_of(agent, ["gate:tool_call"], ally_gate_tool_call=gate) as talk:
                assert (await talk.before(within=0.2)).stopped
                ended = [each for each in talk.events() if each["type"] == "TOOL_CALL_END"]
                assert len(ended) == 1

    go(main())


@pytest.mark.parametrize("agent", AGENTS)
def test_without_its_journal_no_call_runs_and_no_observer_stands_in_the_way(agent: str) -> None:
    async def main() -> None:
        async with talk_of(agent, ["gate:tool_call"], ally_gate_tool_call=denies_rm) as talk:
            assert not (await talk.before("ls")).stopped
            await talk.host.journal.close()
            assert (await talk.before("ls", "c2")).stopped
            assert not (await talk.hook("Stop")).goes_on

    go(main())


@pytest.mark.parametrize("agent", AGENTS)
def test_a_payload_of_another_shape_is_closed_and_the_reason_names_field_and_versions(agent: str) -> None:
    async def main() -> None:
        async with talk_of(agent) as talk:
            payload = talk.payload("PreToolUse", tool_input=["echo hi"])
            reply = await talk.conversations.reply(agent, "PreToolUse", json.dumps(payload).encode(), 9)
            assert reply.exit_code == 2
            assert "'tool_input' is list; expected an object" in reply.stderr
            assert DIALECTS[agent].versions[0] in reply.stderr
            observed = await talk.conversations.reply(agent, "Stop", b"\xff", 9)
            assert observed.exit_code == 0

    go(main())


def test_an_agent_that_nobody_knows_is_refused() -> None:
    async def main() -> None:
        async with talk_of("claude") as talk:
            reply = await talk.conversations.reply("emacs", "PreToolUse", b"{}", 9)
            assert reply.exit_code == 2

    go(main())


def test_a_mandatory_plugin_that_needs_what_codex_cannot_serve_lets_nothing_run() -> None:
    async def main() -> None:
        given = setup(
            make_plugin(ally_gate_permission=lambda self, request: None),  # noqa: ARG005
            ["gate:permission"],
            mandatory=True,
        ).under("p")
        async with Host(home=None, discover=False, plugins={"p": given}) as host:
            assert not (await Talk(host, "claude").before()).stopped
            assert (await Talk(host, "codex").before()).stopped

    go(main())


# --- turns ---


@pytest.mark.parametrize("agent", AGENTS)
def test_what_a_plugin_says_of_a_call_stands_beside_its_result(agent: str) -> None:
    async def speaks(self: Any, event: Any) -> None:
        await self.ally.add_message("user", f"I saw {event.tool_name}")

    async def main() -> None:
        grants = ["events:TOOL_CALL_END", "add_message:user"]
        async with talk_of(agent, grants, ally_tool_call_end=speaks) as talk:
            await talk.before()
            found = await talk.after()
            if agent == "codex":  # whose hook does not say yet how the command ended
                assert found.context == ""
                found = await talk.before(call_id="c2")
            assert found.context == "[plugin p] I saw Bash"

    go(main())


@pytest.mark.parametrize("agent", AGENTS)
def test_a_prompt_is_gated_and_a_changed_one_is_blocked_with_the_changed_words(agent: str) -> None:
    def gate(self: Any, message: Message) -> Deny | None:
        self.seen.append(message.content)
        return Deny("not that") if "bad" in message.content else None

    def transform(self: Any, message: Message) -> Replace[Message] | None:  # noqa: ARG001
        return Replace(evolve(message, content="[key]")) if SECRET in message.content else None

    async def main() -> None:
        grants = ["gate:user_message", "transform:user_message"]
        hooks = {"ally_gate_user_message": gate, "ally_transform_user_message": transform}
        async with talk_of(agent, grants, **hooks) as talk:
            assert not (await talk.hook("UserPromptSubmit", prompt="hello")).stopped
            assert (await talk.hook("UserPromptSubmit", prompt="bad")).stopped
            assert (await talk.hook("UserPromptSubmit", prompt=f"use {SECRET}")).stopped
            said = [each["content"] for each in talk.events() if each["type"] == "USER_MESSAGE"]
            assert said == ["hello"]
            assert SECRET not in json.dumps(talk.events())

    go(main())


@pytest.mark.parametrize("agent", AGENTS)
def test_what_no_person_wrote_is_no_message_of_the_person(agent: str) -> None:
    def never(self: Any, message: Message) -> Deny:  # noqa: ARG001
        return Deny("never")

    async def main() -> None:
        async with talk_of(agent, ["gate:user_message"], ally_gate_user_message=never) as talk:
            assert not (await talk.hook("UserPromptSubmit", "subagent-2")).stopped
            assert "USER_MESSAGE" not in talk.types()
            assert (await talk.hook("UserPromptSubmit")).stopped

    go(main())


@pytest.mark.parametrize("agent", AGENTS)
def test_a_gate_of_stops_sends_the_agent_on_three_times_and_a_call_lets_it_again(agent: str) -> None:
    def never(self: Any, stop: Stop) -> Deny:  # noqa: ARG001
        return Deny("the tests fail")

    async def main() -> None:
        async with talk_of(agent, ["gate:stop"], ally_gate_stop=never) as talk:
            await talk.hook("UserPromptSubmit")
            for _ in range(2):
                gone_on = [(await talk.hook("Stop")).goes_on for _ in range(4)]
                assert gone_on == [True, True, True, False]
                await talk.hook("UserPromptSubmit")
            await talk.hook("Stop")
            await talk.before()
            await talk.after()
            assert [(await talk.hook("Stop")).goes_on for _ in range(4)] == [True, True, True, False]

    go(main())


@pytest.mark.parametrize("agent", AGENTS)
def test_a_turn_has_one_beginning_and_one_end_and_its_calls_end_within_it(agent: str) -> None:
    async def main() -> None:
        async with talk_of(agent) as talk:
            await talk.hook("SessionStart")
            await talk.hook("UserPromptSubmit")
            await talk.before()
            await talk.after()
            await talk.before(call_id="lost")
            await talk.hook("Stop")
            assert talk.types() == [
                "SESSION_START", "USER_MESSAGE", "AGENT_START", "TOOL_CALL_START", "TOOL_CALL_END", "TOOL_CALL_START",
                "ASSISTANT_MESSAGE", "TOOL_CALL_END", "AGENT_END",
            ]  # fmt: skip
            await talk.hook("UserPromptSubmit")
            await talk.hook("UserPromptSubmit")
            ends = [each for each in talk.events() if each["type"] == "AGENT_END"]
            assert [each.get("interruptionCause") for each in ends] == [None, "another prompt came"]
            await talk.hook("SessionEnd")
            assert f"{agent}-s1" not in talk.host.sessions

    go(main())


@pytest.mark.parametrize("agent", AGENTS)
def test_a_sub_agents_call_goes_on_when_the_turn_of_the_main_agent_ends(agent: str) -> None:
    async def main() -> None:
        async with talk_of(agent) as talk:
            await talk.hook("UserPromptSubmit")
            await talk.before(call_id="c9", agent_id="sub1")
            await talk.before(call_id="c1")
            await talk.hook("Stop")
            await talk.hook("UserPromptSubmit")
            assert not (await talk.after("fine", "c9", agent_id="sub1")).stopped
            assert (await talk.after("late", "c1")).stopped

    go(main())


@pytest.mark.parametrize("agent", AGENTS)
def test_a_conversation_that_was_silent_is_closed_and_found_again(agent: str) -> None:
    async def main() -> None:
        async with talk_of(agent) as talk:
            await talk.before()
            assert talk.conversations.are_busy
            await talk.conversations.close_silent(after=3600)
            assert f"{agent}-s1" in talk.host.sessions
            await talk.conversations.close_silent(after=0)
            assert f"{agent}-s1" not in talk.host.sessions
            assert not talk.conversations.are_busy
            assert not (await talk.before(call_id="c2")).stopped

    go(main())


def test_claudes_permission_question_is_refused_waived_or_left_to_the_person() -> None:
    def judges(self: Any, request: Any) -> Any:  # noqa: ARG001
        return {"deny": Deny("no"), "allow": Allow(), "ask": Ask("?")}[request.arguments["how"]]

    async def main() -> None:
        grants = ["gate:permission", "gate:waive"]
        async with talk_of("claude", grants, ally_gate_permission=judges) as talk:
            found = {
                how: await talk.hook("PermissionRequest", tool_input={"how": how}) for how in ("deny", "allow", "ask")
            }
            assert found["deny"].stopped
            assert found["allow"] == Reaction(waived=True)
            assert found["ask"] == Reaction()

    go(main())


def event_lines(*codes: int) -> str:
    lines = []
    for number, code in enumerate(codes):
        output = f"Chunk ID: 1\nWall time: 0.1 seconds\nProcess exited with code {code}\nOutput:\nx"
        about = {"type": "function_call_output", "call_id": f"c{number}", "output": output}
        lines.append(json.dumps({"type": "response_item", "payload": about}) + "\n")
    return "".join(lines)


def test_codexs_event_file_says_how_commands_ended_at_the_next_hook(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"

    async def main() -> None:
        async with talk_of("codex") as talk:
            for number in range(3):
                await talk.before(call_id=f"c{number}")
            file.write_text("cut at the beginning\n")
            for number in range(3):
                await talk.after("Process exited with code 9", f"c{number}", transcript_path=str(file))
            assert "TOOL_CALL_END" not in talk.types()
            with file.open("a") as opened:
                opened.write(event_lines(0, 3))
            await talk.hook("Stop")
            ended = [each for each in talk.events() if each["type"] == "TOOL_CALL_END"]
            assert [(each["success"], each.get("error")) for each in ended] == [
                (True, None), (False, "it ended with code 3"), (True, None),
            ]  # fmt: skip

    go(main())


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "garbage"])
def test_an_event_file_that_says_nothing_holds_nothing_up(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "events"
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "garbage":
        file.write_bytes(b'\xff\n{"payload": 3}\n[]\n{"payload": {"call_id": "c1", "type": "function_call_output"}}\n')

    async def main() -> None:
        async with talk_of("codex", **REDACTS) as talk:
            await talk.before()
            assert (await talk.after(f"key: {SECRET}", transcript_path=str(file))).stopped
            await talk.hook("SessionEnd")
            (ended,) = [each for each in talk.events() if each["type"] == "TOOL_CALL_END"]
            assert ended["success"]
            assert SECRET not in json.dumps(talk.events())

    go(main())


# --- agents whose hooks name no call ---

BEFORE = {"gemini": "BeforeTool", "copilot": "preToolUse", "goose": "PreToolUse"}
AFTER = {"gemini": "AfterTool", "copilot": "postToolUse", "goose": "PostToolUse"}
STOP = {"gemini": "AfterAgent", "copilot": "agentStop", "goose": "Stop"}
PROMPT = {"gemini": "BeforeAgent", "copilot": "userPromptSubmitted", "goose": "UserPromptSubmit"}
OTHERS = sorted(BEFORE)


def arguments(agent: str, command: str) -> dict[str, Any]:
    return {"toolArgs" if agent == "copilot" else "tool_input": {"command": command}}


def output(agent: str, text: str) -> dict[str, Any]:
    return {
        "gemini": {"tool_response": {"llmContent": text}},
        "copilot": {"toolResult": {"resultType": "success", "textResultForLlm": text}},
        "goose": {},
    }[agent]


@pytest.mark.parametrize("agent", OTHERS)
def test_equal_calls_without_ids_begin_and_end_in_order_and_one_more_end_is_withheld(agent: str) -> None:
    async def main() -> None:
        async with talk_of(agent, ["gate:tool_call:bash"], ally_gate_tool_call=denies_rm) as talk:
            assert (await talk.hook(BEFORE[agent], **arguments(agent, "rm x"))).stopped
            for _ in range(2):
                assert not (await talk.hook(BEFORE[agent], **arguments(agent, "ls"))).stopped
            for ends in (False, False, True):
                found = await talk.hook(AFTER[agent], **arguments(agent, "ls"), **output(agent, "raw"))
                assert found.stopped == (ends and agent != "goose")  # of which no hook has an output
            ended = [each["success"] for each in talk.events() if each["type"] == "TOOL_CALL_END"]
            assert ended == [False, True, True]

    go(main())


@pytest.mark.parametrize(("agent", "runs"), [("gemini", True), ("copilot", True), ("goose", False)])
def test_changed_arguments_of_a_call_without_an_id_run_or_the_call_is_denied(agent: str, *, runs: bool) -> None:
    def adds(self: Any, call: ToolCall) -> Replace[ToolCall]:  # noqa: ARG001
        return Replace(evolve(call, arguments={"command": "changed"}))

    async def main() -> None:
        async with talk_of(agent, ["transform:tool_input"], ally_transform_tool_input=adds) as talk:
            found = await talk.hook(BEFORE[agent], **arguments(agent, "ls"))
            assert (found.stopped, found.value) == (not runs, {"command": "changed"} if runs else None)
            if runs:  # told of by what the model wrote, or by what ran
                assert not (await talk.hook(AFTER[agent], **arguments(agent, "changed"), **output(agent, "x"))).stopped
                await talk.hook(BEFORE[agent], **arguments(agent, "ls"))
                assert not (await talk.hook(AFTER[agent], **arguments(agent, "ls"), **output(agent, "x"))).stopped

    go(main())


@pytest.mark.parametrize("agent", ["gemini", "copilot"])
def test_an_output_is_redacted_also_of_a_command_that_failed(agent: str) -> None:
    ending = {"gemini": "\nExit Code: 3\n", "copilot": "\n<shellId: 0 completed with exit code 3>"}[agent]

    async def main() -> None:
        async with talk_of(agent, **REDACTS) as talk:
            await talk.hook(BEFORE[agent], **arguments(agent, "cat"))
            found = await talk.hook(AFTER[agent], **arguments(agent, "cat"), **output(agent, f"key: {SECRET}{ending}"))
            assert found.stopped
            assert "[key]" in str(found.value)
            assert SECRET not in str(found.value)
            (ended,) = [each for each in talk.events() if each["type"] == "TOOL_CALL_END"]
            assert ended["success"] is False

    go(main())


@pytest.mark.parametrize("agent", OTHERS)
def test_what_sent_the_agent_on_is_no_message_of_the_person_when_it_comes_back_as_a_prompt(agent: str) -> None:
    def once(self: Any, stop: Stop) -> Deny | None:
        self.seen.append(stop)
        return Deny("run the tests") if len(self.seen) == 1 else None

    async def main() -> None:
        async with talk_of(agent, ["gate:stop"], ally_gate_stop=once) as talk:

            def words(text: str) -> dict[str, Any]:
                return {"message" if agent == "goose" else "prompt": text}

            await talk.hook(PROMPT[agent], **words("hello"))
            assert (await talk.hook(STOP[agent])).goes_on
            await talk.hook(PROMPT[agent], **words("[plugin p] run the tests"))
            assert not (await talk.hook(STOP[agent])).goes_on
            said = [each["content"] for each in talk.events() if each["type"] == "USER_MESSAGE"]
            assert said == ["hello"]

    go(main())


def test_a_copilot_prompt_that_plugins_change_goes_on_changed() -> None:
    def transform(self: Any, message: Message) -> Replace[Message]:  # noqa: ARG001
        return Replace(evolve(message, content="[key]"))

    async def main() -> None:
        async with talk_of("copilot", ["transform:user_message"], ally_transform_user_message=transform) as talk:
            assert (await talk.hook("userPromptSubmitted", prompt=SECRET)).value == "[key]"
            assert SECRET not in json.dumps(talk.events())

    go(main())


def test_copilots_sub_agents_work_in_the_conversation_of_the_one_that_the_person_talks_to() -> None:
    async def main() -> None:
        async with talk_of("copilot", ["gate:tool_call"], ally_gate_tool_call=denies_rm) as talk:
            await talk.hook("userPromptSubmitted")
            for parent, own in (("s1", "a1"), ("a1", "a2")):
                about: dict[str, Any] = {"sessionId": own, "agentId": own, "parentAgentId": parent}
                assert not (await talk.hook("userPromptSubmitted", prompt="do it", **about)).stopped
                assert (await talk.hook("preToolUse", **arguments("copilot", "rm x"), **about)).stopped
            assert list(talk.host.sessions) == ["copilot-s1"]
            said = [each for each in talk.events() if each["type"] == "USER_MESSAGE"]
            assert len(said) == 1

    go(main())


# --- agents with our code in their process ---


class Inside:
    """A conversation of opencode or pi, with the words of each."""

    def __init__(self, talk: Talk) -> None:
        self.talk, self.is_pi = talk, talk.agent == "pi"

    async def prompt(self, text: str, session: str = "s1") -> Reaction:
        if self.is_pi:
            return await self.talk.hook("input", text=text, session_id=session)
        about: dict[str, Any] = {"input": {"sessionID": session}, "output": {"parts": [{"type": "text", "text": text}]}}
        return await self.talk.hook("chat.message", **about)

    async def before(self, command: str, call_id: str = "c1", session: str = "s1") -> Reaction:
        if self.is_pi:
            about: dict[str, Any] = {"input": {"command": command}, "toolCallId": call_id, "session_id": session}
            return await self.talk.hook("tool_call", **about)
        given = {"tool": "bash", "sessionID": session, "callID": call_id}
        return await self.talk.hook("tool.execute.before", input=given, output={"args": {"command": command}})

    async def after(self, text: str, call_id: str = "c1", session: str = "s1") -> Reaction:
        if self.is_pi:
            about: dict[str, Any] = {"content": [{"type": "text", "text": text}], "structuredContent": {"output": text}}
            return await self.talk.hook("tool_result", toolCallId=call_id, session_id=session, **about)
        given = {"tool": "bash", "sessionID": session, "callID": call_id, "args": {"command": "x"}}
        return await self.talk.hook("tool.execute.after", input=given, output={"output": text, "metadata": {"exit": 3}})

    async def stop(self, session: str = "s1") -> Reaction:
        if self.is_pi:
            return await self.talk.hook("agent_end", session_id=session)
        return await self.talk.hook("event.session.idle", input={"properties": {"sessionID": session}})


@pytest.mark.parametrize("agent", ["opencode", "pi"])
def test_an_agent_with_our_code_in_it_is_denied_redacted_and_gated_like_the_others(agent: str) -> None:
    def transform(self: Any, message: Message) -> Replace[Message] | None:  # noqa: ARG001
        return Replace(evolve(message, content="[key]")) if SECRET in message.content else None

    async def main() -> None:
        hooks = {
            "ally_gate_tool_call": denies_rm,
            "ally_transform_tool_output": redacts,
            "ally_transform_user_message": transform,
        }
        grants = ["gate:tool_call:bash", "transform:tool_output", "transform:user_message"]
        async with talk_of(agent, grants, **hooks) as talk:
            agents = Inside(talk)
            assert (await agents.prompt(SECRET)).value == "[key]"
            assert (await agents.before("rm x", "c0")).stopped
            assert not (await agents.before("ls")).stopped
            found = await agents.after(f"key: {SECRET}")
            assert found.stopped
            assert SECRET not in str(found.value)
            assert (await agents.after("raw", "never-seen")).stopped
            assert not (await agents.stop()).goes_on
            assert SECRET not in json.dumps(talk.events())
            assert talk.types()[-1] == "AGENT_END"

    go(main())


def test_opencodes_sub_agents_work_in_the_conversation_that_began_them() -> None:
    def never(self: Any, message: Message) -> Deny:  # noqa: ARG001
        return Deny("never")

    async def main() -> None:
        grants = ["gate:user_message", "gate:tool_call"]
        hooks = {"ally_gate_user_message": never, "ally_gate_tool_call": denies_rm}
        async with talk_of("opencode", grants, **hooks) as talk:
            info = {"sessionID": "sub", "info": {"id": "sub", "parentID": "s1", "agent": "general"}}
            await talk.hook("event.session.created", input={"properties": info})
            agents = Inside(talk)
            assert not (await agents.prompt("do it", "sub")).stopped
            assert (await agents.prompt("do it")).stopped
            assert (await agents.before("rm x", session="sub")).stopped
            assert not (await agents.before("ls", "c2", session="sub")).stopped
            assert not (await agents.after("fine", "c2", session="sub")).stopped
            await agents.stop("sub")
            assert list(talk.host.sessions) == ["opencode-s1"]
            assert [each for each in talk.types() if each.startswith("AGENT")] == ["AGENT_START", "AGENT_END"]
            assert {event.agent_id for event in talk.emitted if event.type.startswith("TOOL_CALL")} == {"sub"}

    go(main())


def test_pi_is_sent_on_three_times_in_a_row_and_no_more() -> None:
    def never(self: Any, stop: Stop) -> Deny:  # noqa: ARG001
        return Deny("go on")

    async def main() -> None:
        async with talk_of("pi", ["gate:stop"], ally_gate_stop=never) as talk:
            agents = Inside(talk)
            await agents.prompt("hello")
            assert [(await agents.stop()).goes_on for _ in range(4)] == [True, True, True, False]

    go(main())
