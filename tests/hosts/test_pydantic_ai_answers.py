"""What the person says, the model answers and a turn ends with, in agents of pydantic-ai: held, changed and refused."""

# ruff: noqa: ARG001, ARG002 - hooks are methods, and take what their event promises

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, RunContext, capture_run_messages
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import RunCancelled
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ToolCallPart,
)
from pydantic_ai.models.function import DeltaThinkingPart, FunctionModel
from pydantic_core import from_json

from ally_plugins import (
    AgentEnd,
    AgentStart,
    Allow,
    AssistantMessage,
    Decision,
    Deny,
    GateRefused,
    Message,
    Replace,
    ThoughtComplete,
    ToolCall,
    UserMessage,
    evolve,
)
from ally_plugins.contract.values.events import ModelResponse as Responded
from tests.hosts.scripted import Bench, Script, answer, live, texts_of
from tests.kit.hosts import make_plugin, setup
from tests.kit.placements import PLACEMENTS, Placed, look_until
from tests.kit.waiting import go

LONG = "One is fine. Two is fine. Three has a secret. Four never comes."
REFUSED = "the answer was withheld: guard: it has a secret"


def _judge(text: str) -> Deny | Allow:
    return Deny("it has a secret") if "secret" in text else Allow()


async def _gate_answer(self: Any, message: Message) -> Any:
    self.seen.append((message.content, bool(message.metadata.get("isPartial"))))
    return _judge(message.content)


GUARD = make_plugin(ally_gate_answer=_gate_answer)


def guard(mode: str = "", plugin: Any = GUARD, **config: Any) -> Any:
    return setup(plugin, [f"gate:answer{mode}"], **config)


def seen_by(bench: Bench, name: str = "guard") -> list[Any]:
    seen: list[Any] = bench.host.plugins[name].instance.seen
    return seen


async def run(  # noqa: C901 - the ways that the framework has
    agent: Agent[None, Any], way: str, shown: list[str], prompt: str | None = "go", **more: Any
) -> Any:
    """Run an agent in one of the framework's ways, and keep the words that the person saw while it ran."""

    async def handle(_: RunContext[None], events: Any) -> None:
        async for event in events:
            if isinstance(event, PartStartEvent) and isinstance(event.part, (TextPart, ThinkingPart)):
                shown.append(event.part.content)
            elif isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
                shown.append(event.delta.content_delta)

    more = {"conversation_id": "s", **more}
    match way:
        case "run":
            return (await agent.run(prompt, **more)).output
        case "handler":
            return (await agent.run(prompt, event_stream_handler=handle, **more)).output
        case "run_stream":
            async with agent.run_stream(prompt, **more) as stream:
                async for delta in stream.stream_text(delta=True, debounce_by=None):
                    shown.append(delta)  # noqa: PERF401 - what came before an error is to be there
                return await stream.get_output()
        case _:
            async with agent.iter(prompt, **more) as nodes:
                async for node in nodes:
                    if Agent.is_model_request_node(node):
                        async with node.stream(nodes.ctx) as each:
                            await handle(None, each)  # type: ignore[arg-type]
            return nodes.result.output if nodes.result is not None else None


WAYS = ["run", "handler", "run_stream", "iter"]
STREAMS = WAYS[1:]


def last_texts(messages: list[ModelMessage]) -> list[str]:
    return texts_of(messages[-1])


# --- whole ---


@pytest.mark.parametrize("way", WAYS)
def test_a_denied_answer_is_neither_shown_nor_kept_and_the_model_is_not_asked_again(way: str) -> None:
    async def main() -> None:
        async with live({"guard": guard()}) as bench:
            script, shown = Script("the secret is wxyz", "again?"), list[str]()
            with capture_run_messages() as messages, pytest.raises(GateRefused, match=REFUSED):
                await run(bench.agent(script), way, shown)
            assert shown == []
            assert len(script.seen) == 1
            assert last_texts(messages) == [f"[{REFUSED}]"]
            assert "wxyz" not in str(messages)
            assert bench.of(AssistantMessage) == []
            (end,) = bench.of(AgentEnd)
            assert (end.interrupted, end.interruption_cause) == (True, REFUSED)
            (responded,) = bench.of(Responded)
            assert responded.output_tokens
            session = bench.host.sessions["s"]
            assert [each.content for each in session.conversation.messages] == ["go", f"[{REFUSED}]"]
            history = list(messages)
            output = await run(bench.agent(script), way, shown, "once more", message_history=history)
            assert output.strip() == "again?", "the conversation goes on"
            assert script.texts() == ["go", f"[{REFUSED}]", "once more"]

    go(main())


@pytest.mark.parametrize("way", STREAMS)
def test_nothing_of_a_held_answer_is_shown_before_it_is_allowed(way: str) -> None:
    asked = asyncio.Event

    async def main() -> None:
        begun, verdict = asked(), asyncio.get_running_loop().create_future()

        async def gate(self: Any, message: Message) -> Any:
            begun.set()
            return await verdict

        async with live({"guard": guard(plugin=make_plugin(ally_gate_answer=gate))}) as bench:
            shown: list[str] = []
            running = asyncio.ensure_future(run(bench.agent(Script(LONG)), way, shown))
            await begun.wait()
            assert shown == []
            assert bench.of(AssistantMessage) == []
            verdict.set_result(Allow())
            assert (await running).strip() == LONG
            assert "".join(shown).strip() == LONG
            assert [event.content.strip() for event in bench.of(AssistantMessage)] == [LONG]

    go(main())


@pytest.mark.parametrize("way", WAYS)
def test_what_transforms_made_of_an_answer_is_gated_shown_kept_and_told(way: str) -> None:
    async def change(self: Any, message: Message) -> Any:
        return Replace(evolve(message, content=message.content.replace("secret", "***")))

    async def main() -> None:
        redact = setup(make_plugin(ally_transform_answer=change), ["transform:answer"])
        async with live({"guard": guard(), "redact": redact}) as bench:
            script, shown = Script("the secret is out"), list[str]()
            with capture_run_messages() as messages:
                output = await run(bench.agent(script), way, shown)
            assert output.strip() == "the *** is out"
            assert [text.strip() for text in shown] in ([], ["the *** is out"])
            assert [text.strip() for text in last_texts(messages)] == ["the *** is out"]
            assert "secret" not in str(messages)
            assert [event.content.strip() for event in bench.of(AssistantMessage)] == ["the *** is out"]
            assert [text.strip() for text, _ in seen_by(bench)] == ["the *** is out"], "the gate is asked once"

    go(main())


@pytest.mark.parametrize("way", ["run", "handler"])
def test_what_a_transform_adds_besides_text_is_no_call_and_no_control_character(way: str) -> None:
    async def forge(self: Any, message: Message) -> Any:
        return Replace(evolve(message, content="harmless", tool_calls=(ToolCall("wipe", {}, "c9"),)))

    async def ring(self: Any, message: Message) -> Any:
        return Replace(evolve(message, content=f"{message.content}\x1b[2J"))

    async def main() -> None:
        wiped: list[str] = []

        def wipe() -> str:
            wiped.append("all")
            return "gone"

        plugins = {
            "forger": setup(make_plugin(ally_transform_answer=forge), ["transform:answer"]),
            "ringer": setup(make_plugin(ally_transform_answer=ring), ["transform:answer"]),
        }
        async with live(plugins) as bench:
            assert await run(bench.agent(Script("hello"), tools=[wipe]), way, []) == "harmless"
            assert wiped == []
            assert bench.host.plugins["ringer"].counts.crashes == 1

    go(main())


FAILURES: dict[str, Callable[[], Any]] = {
    "raises": lambda: (_ for _ in ()).throw(ValueError("broken")),
    "answers nonsense": lambda: "yes",
}


@pytest.mark.parametrize("mode", ["", ":sentence"])
@pytest.mark.parametrize("how", [*FAILURES, "hangs"])
def test_a_gate_that_fails_while_an_answer_is_held_withholds_it(how: str, mode: str) -> None:
    async def gate(self: Any, message: Message) -> Any:
        if "Three" not in message.content:
            return Allow()
        if how == "hangs":
            await asyncio.sleep(3600)
        return FAILURES[how]()

    async def main() -> None:
        plugin = guard(mode, make_plugin(ally_gate_answer=gate), deadlines={"gate": 0.05})
        async with live({"guard": plugin}) as bench:
            script, shown = Script(LONG, "again"), list[str]()
            with capture_run_messages() as messages, pytest.raises(GateRefused, match="guard: its gate"):
                await run(bench.agent(script), "handler", shown)
            allowed = "One is fine. Two is fine." if mode else ""
            assert "".join(shown).strip() == allowed
            assert len(script.seen) == 1
            (text,) = last_texts(messages)
            assert text.startswith(f"{allowed}\n[the answer was cut here" if mode else "[the answer was withheld")

    go(main())


@pytest.mark.parametrize("mode", ["", ":sentence"])
def test_an_answer_is_withheld_when_the_process_of_its_gate_is_killed_while_it_is_held(mode: str) -> None:
    (process,) = (each for each in PLACEMENTS if each.name == "process")
    grants = ["tools", "gate:tool_call", "gate:message", "gate:permission", "gate:user_message", "gate:stop"]

    async def main() -> None:
        judge = Placed(process)("hooks:Judges", [*grants, f"gate:answer{mode}"])
        async with live({"judge": judge.under("judge")}) as bench:
            script, shown = Script("allow it", "hang. And so on", "again"), list[str]()
            agent = bench.agent(script)
            assert (await run(agent, "handler", shown)).strip() == "allow it"
            shown.clear()
            running = asyncio.ensure_future(run(agent, "handler", shown, "allow"))
            await look_until(bench.host, lambda seen: any("hang" in each[1] for each in seen), "judge")
            supervisor = bench.host.plugins["judge"].supervisor
            assert supervisor is not None
            assert supervisor.process is not None
            supervisor.process.kill()
            with pytest.raises(GateRefused, match="the answer was withheld: judge"):
                await running
            assert shown == []
            assert len(script.seen) == 2

    go(main())


def test_a_gate_that_is_not_running_withholds_every_answer() -> None:
    async def main() -> None:
        waiting = setup(GUARD, ["gate:answer"], state="waiting for consent", reason="it asks for more")
        async with live({"guard": waiting}) as bench:
            shown: list[str] = []
            with pytest.raises(GateRefused, match="it has a gate and waits for consent"):
                await run(bench.agent(Script("hello")), "handler", shown)
            assert shown == []

    go(main())


@pytest.mark.parametrize("mode", ["", ":sentence"])
@pytest.mark.parametrize("way", ["run", "handler"])
def test_a_turn_that_is_cancelled_while_its_answer_is_held_shows_and_keeps_nothing_of_it(way: str, mode: str) -> None:
    async def main() -> None:
        begun = asyncio.Event()

        async def gate(self: Any, message: Message) -> Any:
            begun.set()
            await asyncio.sleep(3600)

        async with live({"guard": guard(mode, make_plugin(ally_gate_answer=gate))}) as bench:
            shown: list[str] = []
            agent = bench.agent(Script("the secret is wxyz. And so on."))
            with capture_run_messages() as messages:
                running = asyncio.ensure_future(run(agent, way, shown))
                await begun.wait()
                running.cancel()
                with pytest.raises((asyncio.CancelledError, RunCancelled)):
                    await running
            assert shown == []
            assert "wxyz" not in str(messages)
            assert bench.of(AssistantMessage) == []
            (end,) = bench.of(AgentEnd)
            assert end.interrupted

    go(main())


def test_an_answer_that_is_too_large_to_be_shown_is_withheld_with_that_reason() -> None:
    async def main() -> None:
        async with live({"guard": guard()}) as bench:
            with pytest.raises(GateRefused, match="withheld: it cannot be shown to gates as it is: it takes 7,0"):
                await run(bench.agent(Script("x" * 7_000_000)), "handler", [])
            assert seen_by(bench) == []

    go(main())


# --- sentences ---


@pytest.mark.parametrize("way", STREAMS)
def test_by_sentences_what_was_allowed_is_shown_and_a_deny_cuts_the_answer(way: str) -> None:
    async def main() -> None:
        async with live({"guard": guard(":sentence")}) as bench:
            script, shown = Script(LONG, "again"), list[str]()
            with capture_run_messages() as messages, pytest.raises(GateRefused, match="the answer was cut here: guard"):
                await run(bench.agent(script), way, shown)
            assert "".join(shown).strip() == "One is fine. Two is fine."
            assert len(script.seen) == 1
            parts = ["One is fine.", "One is fine. Two is fine.", "One is fine. Two is fine. Three has a secret."]
            assert seen_by(bench) == [(text, True) for text in parts]
            assert last_texts(messages) == [
                "One is fine. Two is fine.\n[the answer was cut here: guard: it has a secret]"
            ]
            assert [event.content for event in bench.of(AssistantMessage)] == ["One is fine. Two is fine."]
            assert "secret. Four" not in str(messages)

    go(main())


@pytest.mark.parametrize("way", STREAMS)
def test_by_sentences_an_allowed_answer_comes_in_pieces_and_is_judged_as_a_whole_at_last(way: str) -> None:
    async def main() -> None:
        async with live({"guard": guard(":sentence")}) as bench:
            shown: list[str] = []
            assert (await run(bench.agent(Script("One. Two. Three")), way, shown)).strip() == "One. Two. Three"
            assert "".join(shown).strip() == "One. Two. Three"
            assert len(shown) == 3
            assert seen_by(bench) == [("One.", True), ("One. Two.", True), ("One. Two. Three ", False)]

    go(main())


def test_one_gate_that_wants_it_whole_holds_it_whole_for_all() -> None:
    async def main() -> None:
        async with live({"guard": guard(":sentence"), "other": guard()}) as bench:
            shown: list[str] = []
            with pytest.raises(GateRefused, match="guard: it has a secret; other: it has a secret"):
                await run(bench.agent(Script(LONG)), "handler", shown)
            assert shown == []
            assert [is_partial for _, is_partial in seen_by(bench)] == [False]

    go(main())


def test_thoughts_are_shown_by_sentences_and_not_where_the_whole_is_withheld() -> None:
    async def stream(messages: Any, info: Any) -> Any:
        yield {0: DeltaThinkingPart(content="the secret of it")}
        yield "One. "
        yield "the secret is out. "

    async def main() -> None:
        for mode, thoughts in {"": [], ":sentence": ["the secret of it"]}.items():
            async with live({"guard": guard(mode)}) as bench:
                agent = bench.agent(Script())
                shown: list[str] = []
                with agent.override(model=FunctionModel(stream_function=stream)), pytest.raises(GateRefused):
                    await run(agent, "handler", shown)
                assert shown == thoughts + ["One."] * bool(mode)
                assert [event.thinking for event in bench.of(ThoughtComplete)] == []

    go(main())


# --- what an answer is ---


class City(BaseModel):
    name: str


@pytest.mark.parametrize("output", [City, NativeOutput(City)], ids=["tool", "native"])
@pytest.mark.parametrize("way", ["run", "handler"])
def test_structured_output_is_an_answer_as_its_json(way: str, output: Any) -> None:
    async def change(self: Any, message: Message) -> Any:
        self.seen.append((message.content, message.metadata.get("isStructured")))
        return Replace(evolve(message, content=message.content.replace("Rome", "Roma")))

    def step(name: str) -> Any:
        def respond(messages: Any, info: Any) -> Any:
            json = f'{{"name": "{name}"}}'
            return answer(ToolCallPart(info.output_tools[0].name, json, "o1")) if info.output_tools else json

        return respond

    async def main() -> None:
        redact = setup(make_plugin(ally_transform_answer=change), ["transform:answer"])
        async with live({"redact": redact, "guard": guard()}) as bench:
            agent = bench.agent(Script(step("Rome")), output_type=output)
            assert await run(agent, way, []) == City(name="Roma")
            assert [(from_json(text), is_json) for text, is_json in seen_by(bench, "redact")] == [
                ({"name": "Rome"}, True)
            ]
            assert [from_json(text) for text, _ in seen_by(bench)] == [{"name": "Roma"}]
            script = Script(step("secret"), step("again"))
            with pytest.raises(GateRefused, match=REFUSED):
                await run(bench.agent(script, output_type=output), way, [], conversation_id="t")
            assert len(script.seen) == 1

    go(main())


@pytest.mark.parametrize(
    "last", [TextPart("a secret"), ToolCallPart("final_result", {"text": "a secret"}, "o1")], ids=["text", "output"]
)
def test_an_answer_at_the_end_of_the_history_that_a_run_is_given_is_gated(last: Any) -> None:
    kept: list[str] = []

    def keep(text: str) -> str:
        kept.append(text)
        return text

    async def main() -> None:
        async with live({"guard": guard()}) as bench:
            agent = bench.agent(Script(), output_type=keep if isinstance(last, ToolCallPart) else str)
            with pytest.raises(GateRefused, match=REFUSED):
                await agent.run(message_history=[ModelRequest(parts=[]), ModelResponse(parts=[last])])
            assert not kept

    go(main())


@pytest.mark.parametrize("way", ["run", "handler"])
def test_text_beside_tool_calls_is_an_answer_and_its_calls_do_not_run_when_it_is_denied(way: str) -> None:
    async def main() -> None:
        ran: list[str] = []

        def work() -> str:
            ran.append("work")
            return "done"

        async with live({"guard": guard()}) as bench:
            script = Script(answer("I look it up", ToolCallPart("work", {}, "c1")), "found", "more")
            assert (await run(bench.agent(script, tools=[work]), way, [])).strip() == "found"
            assert [text.strip() for text, _ in seen_by(bench)] == ["I look it up", "found"]
            script = Script(answer("a secret", ToolCallPart("work", {}, "c1")), "again", "and again")
            with capture_run_messages() as messages, pytest.raises(GateRefused, match=REFUSED):
                await run(bench.agent(script, tools=[work]), way, [], conversation_id="t")
            assert (ran, len(script.seen)) == (["work"], 1)
            history = list(messages)
            assert history[-1].parts == [TextPart(f"[{REFUSED}]")]
            agent = bench.agent(script, tools=[work])
            assert (await run(agent, way, [], "hm", message_history=history, conversation_id="t")).strip() == "again"

    go(main())


def test_a_sub_agents_refused_answer_is_a_failed_call_that_the_agent_reads() -> None:
    async def main() -> None:
        async with live({"guard": guard()}) as bench:
            inner = bench.agent(Script("the secret is wxyz"), name="inner")

            async def ask(ctx: RunContext[None]) -> str:
                return str((await inner.run("what is it?")).output)

            script = Script(answer(ToolCallPart("ask", {}, "c1")), "so be it")
            with capture_run_messages() as messages:
                assert await run(bench.agent(script, tools=[ask]), "run", []) == "so be it"
            assert REFUSED in str(messages)
            assert "wxyz" not in str(messages)
            assert [event.content for event in bench.of(AssistantMessage)] == ["so be it"]

    go(main())


class _Edits(AbstractCapability[Any]):
    """Another capability that changes what the model answered."""

    async def after_model_request(self, ctx: Any, *, request_context: Any, response: ModelResponse) -> ModelResponse:
        parts = [TextPart(f"{part.content} a secret") for part in response.parts if isinstance(part, TextPart)]
        return ModelResponse(parts=parts, usage=response.usage)


@pytest.mark.parametrize("way", ["run", "handler"])
def test_what_another_capability_makes_of_an_answer_is_gated_too(way: str) -> None:
    async def main() -> None:
        async with live({"guard": guard()}) as bench:
            with capture_run_messages() as messages, pytest.raises(GateRefused, match=REFUSED):
                await run(bench.agent(Script("hello"), capabilities=[_Edits()]), way, [])
            assert "a secret]" in last_texts(messages)[0]
            assert "hello" not in str(messages[-1])

    go(main())


def test_a_stream_that_its_handler_gives_up_on_after_a_deny_ends_the_run_all_the_same() -> None:
    async def swallow(_: Any, events: Any) -> None:
        try:
            async for _event in events:
                pass
        except GateRefused:
            return

    async def main() -> None:
        async with live({"guard": guard()}) as bench:
            script = Script("a secret", "again")
            with pytest.raises(GateRefused, match=REFUSED):
                await bench.agent(script).run("go", event_stream_handler=swallow)
            assert len(script.seen) == 1

    go(main())


def test_where_nobody_gates_or_only_watches_answers_a_stream_is_untouched() -> None:
    async def main() -> None:
        async with live({}) as bench:
            shown: list[str] = []
            await run(bench.agent(Script("one two three")), "handler", shown)
            assert shown == ["one ", "two ", "three "]
        async with live({"guard": guard(shadow=True)}) as bench:
            shown = []
            await run(bench.agent(Script("a secret word")), "handler", shown)
            assert shown == ["a ", "secret ", "word "]
            (decision,) = bench.of(Decision)
            assert (decision.kind, decision.verdict) == ("answer", "allow")
            assert seen_by(bench) == [("a secret word ", False)]

    go(main())


# --- the person's message ---


def test_a_denied_message_of_the_person_begins_nothing_and_its_reason_is_raised() -> None:
    async def gate(self: Any, message: Message) -> Any:
        self.seen.append(message.content)
        return _judge(message.content)

    async def change(self: Any, message: Message) -> Any:
        return Replace(evolve(message, content=message.content.replace("password", "secret")))

    async def main() -> None:
        plugins = {
            "guard": setup(make_plugin(ally_gate_user_message=gate), ["gate:user_message"]),
            "words": setup(make_plugin(ally_transform_user_message=change), ["transform:user_message"]),
        }
        async with live(plugins) as bench:
            script = Script("hm")
            with pytest.raises(GateRefused, match="guard: it has a secret") as refused:
                await bench.agent(script).run("my password is wxyz", conversation_id="s")
            assert refused.value.decision_id == bench.of(Decision)[0].decision_id
            assert script.seen == []
            assert seen_by(bench) == ["my secret is wxyz"]
            assert bench.of(UserMessage) + bench.of(AgentStart) + bench.of(AgentEnd) == []
            assert bench.host.sessions["s"].conversation.messages == []
            assert (await bench.agent(script).run("hello", conversation_id="s")).output == "hm"

    go(main())


# --- the end of a turn ---


def _stubborn(times: int) -> Any:
    async def gate(self: Any, stop: Any) -> Any:
        self.seen.append((stop.answer.strip(), stop.sent_on))
        return Deny("run the tests") if len(self.seen) <= times else None

    return make_plugin(ally_gate_stop=gate)


@pytest.mark.parametrize("way", ["run", "handler", "iter"])
def test_a_denied_stop_sends_the_agent_on_with_the_reason_as_the_plugins_message(way: str) -> None:
    async def main() -> None:
        async with live({"tester": setup(_stubborn(1), ["gate:stop"])}) as bench:
            script = Script("done", "tested")
            assert (await run(bench.agent(script), way, [])).strip() == "tested"
            assert [text.strip() for text in script.texts()] == ["go", "done", "[plugin tester] run the tests"]
            assert seen_by(bench, "tester") == [("done", 0), ("tested", 1)]
            (end,) = bench.of(AgentEnd)
            assert (end.content or "").strip() == "tested"

    go(main())


def test_a_gate_that_denies_the_end_three_times_in_a_row_is_not_asked_again_and_the_limit_is_said() -> None:
    async def main() -> None:
        async with live({"tester": setup(_stubborn(3), ["gate:stop"])}) as bench:
            script = Script("1", "2", "3", "4", "5")
            assert await run(bench.agent(script), "run", []) == "4"
            assert len(script.seen) == 4
            *_, last = bench.of(Decision)
            assert last.reason.startswith("plugins have sent the agent on 3 times in a row")
            assert await run(bench.agent(script), "run", [], "and now?") == "5"

    go(main())


def test_a_tool_call_between_is_a_step() -> None:
    async def main() -> None:
        def test() -> str:
            return "all is well"

        async with live({"tester": setup(_stubborn(4), ["gate:stop"])}) as bench:
            script = Script("1", "2", "3", answer(ToolCallPart("test", {}, "c1")), "4", "5")
            assert await run(bench.agent(script, tools=[test]), "run", []) == "5"
            assert [sent_on for _, sent_on in seen_by(bench, "tester")] == [0, 1, 2, 3, 4]

    go(main())


def test_a_stop_of_a_streamed_run_whose_result_is_out_is_told_with_the_next_turn() -> None:
    async def main() -> None:
        async with live({"tester": setup(_stubborn(1), ["gate:stop"])}) as bench:
            script = Script("done", "tested")
            assert (await run(bench.agent(script), "run_stream", [])).strip() == "done"
            assert (await run(bench.agent(script), "run_stream", [], "well?")).strip() == "tested"

    go(main())
