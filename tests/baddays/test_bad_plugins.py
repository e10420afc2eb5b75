"""Plugins that crash, hang, flood or die in a live run: what they decide is denied, what they watch goes on."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from ally_plugins import Ally, hookimpl
from ally_plugins.contract.hookspecs import HOOKS
from ally_plugins.contract.values.errors import GateRefused, RefusedError
from ally_plugins.contract.values.events import (
    AgentEnd,
    AssistantMessage,
    DiffPreview,
    PermissionResponse,
    PluginMessageReceived,
    UserMessage,
)
from tests.kit.hosts import make_record

from .conversing import Conversation, Stage, agent_with, daemon, plugin_texts, staged
from .model_server import ModelServer, Reply

if TYPE_CHECKING:
    from ally_plugins import ToolCall
    from ally_plugins.host.person.permission import PermissionQuestion

Models = Callable[..., Any]

CALL = {"name": "note", "arguments": {"text": "this"}}
GATES_OF_CALLS = ("ally_gate_tool_call", "ally_gate_permission")
TRANSFORMS = sorted(name for name, hook in HOOKS.items() if hook.kind == "transform")
OBSERVERS = sorted(name for name, hook in HOOKS.items() if hook.kind == "observe")
HOWS = {"raises": "no such luck", "answers nonsense": "expected", "hangs": "0.05 s"}


def crasher(how: str, *hooks: str) -> type[Any]:
    """Return a plugin that fails in these hooks."""

    class Crasher:
        ran: ClassVar[list[str]] = []

        def __init__(self, ally: Ally) -> None:
            del ally

    for name in hooks:

        async def fail(self: Any, name: str) -> Any:
            self.ran.append(name)
            if how == "raises":
                raise RuntimeError("no such luck")
            if how == "hangs":
                await asyncio.Event().wait()
            return {"verdict": object()}

        setattr(Crasher, name, hookimpl(without_arguments(fail, name)))
    return Crasher


def without_arguments(fail: Any, name: str) -> Any:
    """Return a hook's implementation that wants no arguments; a default would be a load error."""

    async def hook(self: Any) -> Any:
        return await fail(self, name)

    return hook


class Noted:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> str:
        """Note a text."""
        self.texts.append(text)
        return f"noted {text}"


async def agree(question: PermissionQuestion) -> str:
    del question
    return "allow"


def preview(call: ToolCall) -> DiffPreview:
    return DiffPreview(
        tool_name=call.tool_name, file_path="a.txt", old_content="a", new_content="b", call_id=call.call_id
    )


@asynccontextmanager
async def scene(
    folder: Path, model: Any, plugin: Any, **settled: Any
) -> AsyncIterator[tuple[Stage, Conversation, Noted]]:
    """Have a conversation with everything in it that hooks are asked about, and a plugin that is about to fail."""
    async with staged(folder, bad=(plugin, make_record("bad", **settled))) as stage:
        noted = Noted()
        more: dict[str, Any] = {"approve": agree, "sensitive": ["note"], "preview": preview, "context_window": 20}
        agent, _ = agent_with(stage, model, [noted.note], **more)
        stage.host.session("c")
        yield stage, Conversation(agent), noted


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("hook", GATES_OF_CALLS)
def test_a_gate_that_fails_denies_and_the_model_is_told_which(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path, hook: str, how: str
) -> None:
    async def main() -> None:
        bad = crasher(how, hook)
        async with scene(tmp_path, model(), bad, deadlines={hook: 0.05}) as (stage, talk, noted):
            for _ in range(2):
                model_server.add(Reply(tools=[CALL]), Reply("so be it"))
                assert await talk.say("note this") == "so be it"
                told = list(model_server.requests[-1].answers.values())[-1]
                assert "not run: bad" in told
                assert HOWS[how] in told
            assert noted.texts == []
            assert bad.ran == [hook] * 2
            assert {response.choice for response in stage.of(PermissionResponse)} <= {"deny"}
            assert [end.interrupted for end in stage.of(AgentEnd)] == [False, False]

    go(main())


@pytest.mark.parametrize("how", HOWS)
def test_a_gate_of_the_persons_message_that_fails_denies_it_and_the_model_is_not_asked(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path, how: str
) -> None:
    async def main() -> None:
        bad = crasher(how, "ally_gate_user_message")
        async with scene(tmp_path, model(), bad, deadlines={"ally_gate_user_message": 0.05}) as (stage, talk, _):
            with pytest.raises(GateRefused, match=HOWS[how]):
                await talk.say("note this")
            assert model_server.requests == []
            assert stage.of(UserMessage) == []

    go(main())


@pytest.mark.parametrize("how", HOWS)
def test_a_gate_of_answers_that_fails_withholds_them_and_the_conversation_goes_on(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path, how: str
) -> None:
    async def main() -> None:
        bad = crasher(how, "ally_gate_answer")
        async with scene(tmp_path, model(), bad, deadlines={"ally_gate_answer": 0.05}) as (stage, talk, noted):
            for _ in range(2):
                model_server.add(Reply("I note it", tools=[CALL]), Reply("and again"))
                with pytest.raises(GateRefused, match=HOWS[how]):
                    await talk.say("note this")
            assert len(model_server.requests) == 2
            assert noted.texts == []
            assert stage.of(AssistantMessage) == []
            assert [end.interrupted for end in stage.of(AgentEnd)] == [True, True]

    go(main())


@pytest.mark.parametrize("how", HOWS)
def test_a_gate_of_the_end_that_fails_sends_the_agent_on_until_the_limit(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path, how: str
) -> None:
    async def main() -> None:
        bad = crasher(how, "ally_gate_stop")
        model_server.add(*(Reply(f"done {number}") for number in range(4)))
        async with scene(tmp_path, model(), bad, deadlines={"ally_gate_stop": 0.05}) as (stage, talk, _):
            assert await talk.say("note this") == "done 3"
            assert [HOWS[how] in text for text in plugin_texts(model_server.requests[-1].texts)] == [True] * 3
            assert bad.ran == ["ally_gate_stop"] * 3
            assert [end.interrupted for end in stage.of(AgentEnd)] == [False]

    go(main())


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("on_error", ["drop", "block"])
@pytest.mark.parametrize("hook", TRANSFORMS)
def test_a_transform_that_fails_is_left_out_or_blocks_as_the_operator_has_it(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path, hook: str, how: str, on_error: str
) -> None:
    blocks = hook if on_error == "block" else ""

    async def main() -> None:
        bad = crasher(how, hook)
        settled: dict[str, Any] = {"deadlines": {hook: 0.05}, "transform_on_error": on_error}
        async with scene(tmp_path, model(), bad, **settled) as (stage, talk, noted):
            if blocks == "ally_transform_plugin_message":
                with pytest.raises(GateRefused, match="bad could not check it, and is set to block then"):
                    await stage.witness.ally.add_message("user", "hello", session_id="c")
            elif hook == "ally_transform_plugin_message":
                await stage.witness.ally.add_message("user", "hello", session_id="c")
            if blocks in {
                "ally_transform_user_message",
                "ally_transform_system_prompt",
                "ally_transform_model_request",
            }:
                with pytest.raises(GateRefused, match="bad could not check it, and is set to block then"):
                    await talk.say("note this")
                assert model_server.requests == []
                return
            model_server.add(Reply(tools=[CALL]), Reply("so be it"))
            if blocks == "ally_transform_answer":
                with pytest.raises(GateRefused, match="withheld: bad could not check it, and is set to block then"):
                    await talk.say("note this")
                assert noted.texts == ["this"]
                assert stage.of(AssistantMessage) == []
                return
            assert await talk.say("note this") == "so be it"
            told = list(model_server.requests[-1].answers.values())[-1]
            assert noted.texts == ([] if blocks == "ally_transform_tool_input" else ["this"])
            if blocks in {"ally_transform_tool_input", "ally_transform_tool_output"}:
                assert HOWS[how] in told
                assert "noted this" not in told
            else:
                assert told == "noted this"
            assert bad.ran
            assert [said.content for said in stage.of(UserMessage)] == ["note this"]

    go(main())


def test_a_plugin_that_fails_in_every_observer_is_quarantined_and_the_turn_never_knows(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path
) -> None:
    model_server.add(Reply("hm", tools=[CALL], thinking="what now"), Reply("done"), Reply("still here"))

    async def main() -> None:
        bad = crasher("raises", *OBSERVERS)
        async with scene(tmp_path, model(), bad) as (stage, talk, noted):
            await stage.witness.ally.add_message("user", "hello", session_id="c")
            assert await talk.say("note this") == "done"
            assert noted.texts == ["this"]
            await stage.until(lambda: stage.host.plugins["bad"].state == "quarantined", "it is quarantined")
            assert await talk.say("well?") == "still here"
            assert len(stage.of(PluginMessageReceived)) == 1
            heard = [event.seq for event in stage.witness.heard]
            await stage.host.sessions["c"].drained()
            assert heard == sorted(heard)
            assert bad.ran

    go(main())


def test_a_gate_of_a_quarantined_plugin_denies_and_names_the_way_out(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path
) -> None:
    async def main() -> None:
        bad = crasher("raises", "ally_gate_tool_call")
        async with scene(tmp_path, model(), bad) as (stage, talk, noted):
            for _ in range(6):
                model_server.add(Reply(tools=[CALL]), Reply("so be it"))
                assert await talk.say("note this") == "so be it"
            told = list(model_server.requests[-1].answers.values())[-1]
            assert "bad: it has a gate and is in quarantine" in told
            assert stage.host.plugins["bad"].state == "quarantined"
            assert bad.ran == ["ally_gate_tool_call"] * 5
            assert noted.texts == []

    go(main())


def test_a_gate_of_messages_that_fails_keeps_them_out(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path
) -> None:
    model_server.add(Reply("hello"))

    async def main() -> None:
        async with scene(tmp_path, model(), crasher("raises", "ally_gate_message")) as (stage, talk, _):
            with pytest.raises(GateRefused, match="no such luck"):
                await stage.witness.ally.add_message("user", "hi", session_id="c")
            assert await talk.say("hello") == "hello"
            assert plugin_texts(model_server.requests[-1].texts) == []

    go(main())


# --- daemons ---

DYING_GATE = """
is_first = not os.path.exists(os.environ["NOTES"])
def gate(params):
    note(["asked", os.getpid()])
    if is_first:
        linger()
    return {"verdict": "allow"}
note(["started", os.getpid()])
serve(hello={"hooks": ["ally_gate_tool_call"], "events": []}, gate=gate)
"""

HANGING_GATE = """
serve(hello={"hooks": ["ally_gate_tool_call"], "events": []}, gate=lambda params: SILENCE)
"""


@pytest.mark.slow
def test_a_daemon_killed_amid_its_gate_denies_and_the_conversation_goes_on(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path
) -> None:
    async def main() -> None:
        gate = make_record("keeper", daemon=daemon(tmp_path, DYING_GATE))
        async with staged(tmp_path, keeper=(gate.daemon, gate)) as stage:
            noted = Noted()
            agent, _ = agent_with(stage, model(), [noted.note])
            talk = Conversation(agent)
            model_server.add(Reply(tools=[CALL]), Reply("so be it"))
            turn = asyncio.create_task(talk.say("note this"))
            await stage.until(lambda: len(stage.notes()) == 2, "the gate is asked")
            os.kill(stage.notes()[1][1], signal.SIGKILL)
            assert await turn == "so be it"
            told = list(model_server.requests[-1].answers.values())[-1]
            assert "not run: keeper" in told
            assert "killed by SIGKILL" in told
            assert noted.texts == []
            (end,) = stage.of(AgentEnd)
            assert not end.interrupted
            await stage.until(lambda: len(stage.notes()) == 3, "another process")  # before, it counts as running still
            await stage.until(lambda: stage.host.plugins["keeper"].state == "running", "it runs again")
            model_server.add(Reply(tools=[CALL]), Reply("done"))
            assert await talk.say("again") == "done"
            assert noted.texts == ["this"]

    go(main())


@pytest.mark.slow
def test_a_daemon_whose_gate_hangs_denies_at_its_deadline_and_can_be_interrupted_before(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path
) -> None:
    async def main() -> None:
        gate = make_record("keeper", daemon=daemon(tmp_path, HANGING_GATE), deadlines={"ally_gate_tool_call": 0.2})
        async with staged(tmp_path, keeper=(gate.daemon, gate)) as stage:
            noted = Noted()
            agent, plugins = agent_with(stage, model(), [noted.note])
            talk = Conversation(agent)
            model_server.add(Reply(tools=[CALL]), Reply("so be it"))
            assert await talk.say("note this") == "so be it"
            told = list(model_server.requests[-1].answers.values())[-1]
            assert "keeper" in told
            assert "0.2 s" in told
            assert noted.texts == []
            assert not plugins.interrupt("c")

    go(main())


# --- floods ---


class Flooder:
    """A plugin that says what it thinks of every call, a hundred times."""

    refused: ClassVar[list[RefusedError]] = []

    def __init__(self, ally: Ally) -> None:
        self.ally = ally

    @hookimpl
    async def ally_tool_call_end(self) -> None:
        for number in range(100):
            try:
                await self.ally.add_message("user", f"thought {number}")
            except RefusedError as refused:
                self.refused.append(refused)


@pytest.mark.slow
def test_of_a_flood_of_messages_the_budget_enters_in_order_and_once(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path
) -> None:
    model_server.add(Reply(tools=[CALL]), Reply("done", times=0))

    async def main() -> None:
        Flooder.refused = []
        async with staged(tmp_path, home=tmp_path / "home", flooder=Flooder) as stage:
            agent, _ = agent_with(stage, model(), [Noted().note])
            talk = Conversation(agent)
            assert await talk.say("note this") == "done"
            await stage.host.sessions["c"].drained()
            assert await talk.say("well?") == "done"
            entered = plugin_texts(model_server.requests[-1].texts)
            assert entered == [f"[plugin flooder] thought {number}" for number in range(30)]
            assert len(Flooder.refused) == 70
            assert "30" in str(Flooder.refused[0])

    go(main())


FLOODING = """
def on_event(params):
    if params["event_type"] == "TOOL_CALL_END":
        for number in range(500):
            said = {"role": "user", "content": f"thought {number}", "session_id": params["session_id"]}
            send(id=f"f{number}", method="add_message", params=said)
serve(hello={"hooks": [], "events": ["TOOL_CALL_END"]}, on_event=on_event)
"""


def test_a_daemon_that_floods_without_waiting_gets_no_more(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path
) -> None:
    model_server.add(Reply(tools=[CALL]), Reply("done", times=0))

    async def main() -> None:
        flooding = make_record("flooding", daemon=daemon(tmp_path, FLOODING, "flooding"))
        async with staged(tmp_path, flooding=(flooding.daemon, flooding)) as stage:
            agent, _ = agent_with(stage, model(), [Noted().note])
            talk = Conversation(agent)
            assert await talk.say("note this") == "done"
            await stage.until(lambda: stage.host.plugins["flooding"].counts.refused, "it is refused")
            assert await talk.say("well?") == "done"
            entered = plugin_texts(model_server.requests[-1].texts)
            assert 0 < len(entered) <= 30
            assert entered == [f"[plugin flooding] thought {number}" for number in range(len(entered))]

    go(main())
