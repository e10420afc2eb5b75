"""What several adapters do the same: what waits is stopped, prompts, answers of the person, plugins' tools."""

# ruff: noqa: ARG001 - hooks name what they are given

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import (
    ArgumentsError,
    Ask,
    GateRefused,
    Message,
    ModelInput,
    ModelResponse,
    PromptSection,
    Replace,
    ToolCall,
    ToolResult,
    evolve,
    tool,
)
from ally_plugins.adapters.kit.model_requests import changed_blocks, changed_instructions, changed_request
from ally_plugins.adapters.kit.plugin_tools import call_offered, checking, digest_of, text_for_model
from ally_plugins.adapters.kit.run import Interrupted
from ally_plugins.adapters.kit.tool_calls import CallDeferred
from ally_plugins.adapters.kit.weaving import rebuilt, shown, woven
from tests.kit.hosts import make_plugin, setup
from tests.kit.waiting import go

from .bench import KitBench

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ally_plugins import AgentWork, PermissionQuestion

CALL = ToolCall("bash", {"command": "ls"}, "c1")


def run(bench: KitBench, play: Callable[[AgentWork], Awaitable[None]], *, can_defer: bool = False) -> None:
    async def main() -> None:
        async with bench.kit.work("s", "r", "agent") as work:
            work.can_defer = can_defer
            await work.begin("go")
            await play(work)

    go(main())


# --- a host that has stopped ---


@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_request_is_not_sent_where_a_plugin_that_blocks_cannot_look_at_it(is_stopped: bool) -> None:  # noqa: FBT001
    def cut(self: Any, request: ModelInput) -> Replace[ModelInput]:
        return Replace(evolve(request, messages=request.messages[1:]))

    def change(self: Any, sections: tuple[PromptSection, ...]) -> Replace[tuple[PromptSection, ...]]:
        return Replace((PromptSection("p", "changed"),))

    plugin = make_plugin(ally_transform_model_request=cut, ally_transform_system_prompt=change)
    bench = KitBench({"redact": setup(plugin, transform_on_error="block")})
    said = (Message(role="user", content="my secret"), Message(role="user", content="go on"))

    async def play(work: AgentWork) -> None:
        if is_stopped:
            await bench.host.stop()
        sent: list[Any] = []
        with pytest.raises(GateRefused, match="redact") if is_stopped else nullcontext():
            sent.append(await changed_instructions(work, "be kind"))
        assert work.wants("model_request")
        with pytest.raises(GateRefused, match="redact") if is_stopped else nullcontext():
            left, _ = await changed_request(work, "m", enumerate(said), None)
            sent.append([now.content for _, _, now in left or ()])
        assert sent == ([] if is_stopped else [("changed", ()), ["go on"]])

    run(bench, play)


# --- what waits ---


@pytest.mark.parametrize("is_impatient", [False, True])
def test_what_waits_is_stopped_from_any_thread_and_the_task_goes_on(is_impatient: bool) -> None:  # noqa: FBT001
    bench = KitBench()

    async def play(work: AgentWork) -> None:
        begun = asyncio.Event()

        async def wait() -> str:
            try:
                with work.stoppable():
                    begun.set()
                    await asyncio.Event().wait()
            except Interrupted as interrupted:
                await asyncio.sleep(0)  # raises where the cancellation has not been taken back
                return str(interrupted)
            return "went on"

        waiting = asyncio.ensure_future(wait())
        await begun.wait()
        if is_impatient:  # a person may press the key twice
            work.interrupt("wait")
            work.interrupt("enough")
        else:
            await asyncio.to_thread(work.interrupt, "enough")
        assert await waiting == "enough"

    run(bench, play)
    assert bench.end.interruption_cause == "enough"


def test_a_cancellation_by_others_is_one_also_where_the_run_is_interrupted_too() -> None:
    async def play(work: AgentWork) -> None:
        for is_interrupted in (False, True):
            begun = asyncio.Event()

            async def wait(begun: asyncio.Event = begun) -> None:
                with work.stoppable():
                    begun.set()
                    await asyncio.Event().wait()

            waiting = asyncio.ensure_future(wait())
            await begun.wait()
            if is_interrupted:
                work.interrupt("enough")
            waiting.cancel()
            await asyncio.wait([waiting])
            assert waiting.cancelled()

    run(KitBench(), play)


def test_who_has_left_by_then_is_not_cancelled() -> None:
    async def play(work: AgentWork) -> None:
        with work.stoppable():
            work.interrupt("enough")
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    run(KitBench(), play)


# --- prompts ---

BLOCKS: list[dict[str, Any]] = [{"cache": 0}, {"text": "one"}, {"cache": 1}, {"text": "two", "id": 2}, {"cache": 2}]


@pytest.mark.parametrize(
    ("change", "made"),
    [
        (lambda one, two: (one, two), BLOCKS),
        (lambda one, two: (evolve(one, text="1"), two), [BLOCKS[0], {"text": "1"}, *BLOCKS[2:]]),
        (lambda one, two: (two, one), [BLOCKS[0], *BLOCKS[3:], *BLOCKS[1:3]]),
        (lambda _, two: (two,), [BLOCKS[0], *BLOCKS[3:], BLOCKS[2]]),
        (
            lambda one, two: (one, two, PromptSection("p", "new\u202e")),
            [*BLOCKS, {"type": "text", "text": "new\\u202e"}],
        ),
    ],
)
def test_blocks_of_a_prompt_keep_what_stands_behind_them(change: Any, made: list[dict[str, Any]]) -> None:
    async def transform(_: Any, sections: Any) -> Any:
        assert [(each.name, each.text) for each in sections] == [("instructions-1", "one"), ("instructions-2", "two")]
        return Replace(change(*sections))

    async def play(work: AgentWork) -> None:
        assert await changed_blocks(work, BLOCKS, like={"type": "text"}) == (made, ())

    run(KitBench({"p": make_plugin(ally_transform_system_prompt=transform)}), play)


def test_a_prompt_that_is_one_text_may_be_taken_away_and_given_and_what_is_volatile_is_no_part_of_it() -> None:
    async def transform(_: Any, sections: Any) -> Any:
        return Replace((*sections[1:], PromptSection("p", "now", volatile=True)))

    async def play(work: AgentWork) -> None:
        text, tail = await changed_instructions(work, "be brief")
        assert text is None
        assert ["now" in each.content for each in tail] == [True]
        assert (await changed_instructions(work, None))[0] is None

    run(KitBench({"p": make_plugin(ally_transform_system_prompt=transform)}), play)


def test_a_prompt_that_nobody_transforms_is_the_same() -> None:
    async def play(work: AgentWork) -> None:
        assert (await changed_blocks(work, BLOCKS))[0] is BLOCKS
        assert await changed_instructions(work, "be brief") == ("be brief", ())
        assert await changed_instructions(work, None) == (None, ())

    run(KitBench(), play)


# --- messages ---


def test_items_are_rebuilt_from_the_messages_that_plugins_left() -> None:
    own, plugins = Message(role="user", content="a"), Message(role="user", content="b", metadata={"sourcePlugin": "p"})
    items = list(shown([("system", None), ("own", own), ("plugin's", plugins), ("same", own)], "s"))
    one, two, three = (message for _, message in items if message is not None)
    after = (evolve(one, content="x"), Message(role="user", content="new"), evolve(two, content="y"), three)
    left = woven(items, after)
    made = rebuilt(left, lambda item, message: f"{item}={message.content}", lambda message: message.content)
    assert list(made) == ["system", "own=x", "new", "y", "same"]


# --- answers that a framework brings along ---


def asking() -> KitBench:
    async def gate(_: Any, call: ToolCall) -> Ask:
        return Ask("sure?")

    return KitBench({"p": make_plugin(ally_gate_tool_call=gate)})


@pytest.mark.parametrize(
    ("answer", "error"), [(True, None), (False, "not run: the person did not agree"), (None, "waits")]
)
def test_a_call_is_decided_by_the_answer_to_the_question_about_it(answer: Any, error: str | None) -> None:
    async def play(work: AgentWork) -> None:
        with pytest.raises(CallDeferred):
            await work.begin_call(CALL)
        if error == "waits":
            with pytest.raises(CallDeferred):
                await work.begin_call(CALL, answered=lambda _: answer)
            return
        begun = await work.begin_call(CALL, answered=lambda _: answer)
        assert getattr(begun, "error", None) == error

    run(asking(), play, can_defer=True)


def test_a_yes_to_other_arguments_is_none_and_plugins_have_the_last_word_on_what_is_asked_about() -> None:
    shown: list[str] = []

    async def add(_: Any, call: ToolCall) -> Any:
        return Replace(evolve(call, arguments={"command": f"{call.arguments['command']} -l"}))

    def answered(call: ToolCall) -> bool:
        shown.append(call.arguments["command"])
        if digest_of(call) != digest_of(CALL):
            raise ArgumentsError("others than those that the person was shown", tool=call.tool_name)
        return True

    async def play(work: AgentWork) -> None:
        begun = await work.begin_call(CALL, answered=answered)
        assert isinstance(begun, ToolResult)
        assert begun.error is not None
        assert "others than those" in begun.error

    run(KitBench({"p": make_plugin(ally_transform_tool_input=add)}), play, can_defer=True)
    assert shown == ["ls -l"]


def test_how_sensitive_a_call_is_may_be_said_of_its_final_arguments_and_it_is_carried_out_later() -> None:
    async def shout(_: Any, call: ToolCall) -> Any:
        return Replace(evolve(call, arguments={"command": call.arguments["command"].upper()}))

    asked: list[Any] = []

    async def approve(question: PermissionQuestion) -> str:
        asked.append((question.request.sensitivity, question.call.arguments["command"]))
        return "allow"

    async def sensitivity(call: ToolCall) -> str | None:
        return "high" if call.arguments["command"] == "RM" else None

    async def done(call: ToolCall) -> ToolResult:
        return ToolResult(success=True, output=call.arguments["command"])

    async def play(work: AgentWork) -> None:
        for command in ("ls", "rm"):
            call = ToolCall("bash", {"command": command}, command)
            admitted = await work.admitted(call, sensitivity=sensitivity)
            assert isinstance(admitted, ToolCall)
            assert (await work.carry_out(admitted, done)).output == command.upper()

    run(KitBench({"p": make_plugin(ally_transform_tool_input=shout)}, approve=approve), play)
    assert asked == [("high", "RM")]


# --- requests to the model ---


def test_requests_at_once_are_timed_each_by_itself_and_without_what_plugins_do_about_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = 0.0
    monkeypatch.setattr("ally_plugins.adapters.kit.work.perf_counter", lambda: clock)
    bench = KitBench()

    async def play(work: AgentWork) -> None:
        nonlocal clock
        for clock, ask in ((1.0, "one"), (2.0, "two")):  # noqa: B007 - the clock is read by the kit
            work.requested("m", 1, by=ask)
        clock = 4.0
        work.received(by="one")
        clock = 8.0
        work.model_failed(TimeoutError(), by="two")
        work.model_answered("hello", by="one", input_tokens=7)
        work.model_failed(TimeoutError(), by="one")

    run(bench, play)
    told = [(each.duration_ms, each.stop_reason, each.input_tokens) for each in bench.of(ModelResponse)]
    assert told == [(6000.0, "TimeoutError", None), (3000.0, None, 7)]


# --- tools ---


def test_arguments_are_checked_where_plugins_changed_them_and_nowhere_else() -> None:
    def schema() -> dict[str, Any]:
        return {"type": "object", "properties": {"command": {"type": "string", "maxLength": 1}}}

    check = checking(CALL, schema, "runs a command")
    check(CALL.arguments)
    check({"command": "l"})
    with pytest.raises(ArgumentsError):
        check({"command": "rm"})


def test_a_plugins_tool_that_cannot_take_its_arguments_says_so_in_its_result() -> None:
    class Tools:
        def __init__(self, ally: Any) -> None: ...

        @tool
        async def double(self, number: int) -> str:
            """Double a number."""
            return str(2 * number)

    async def play(work: AgentWork) -> None:
        (offered,) = work.offered()
        call = ToolCall(offered.name, {"number": "four"}, "c1")

        async def carry_out(made: ToolCall) -> ToolResult:
            return await call_offered(work, offered, made.arguments)

        failed = await work.run_tool_call(call, carry_out)
        done = await work.run_tool_call(ToolCall(offered.name, {"number": 4}, "c2"), carry_out)
        assert (failed.success, done.success, done.output) == (False, True, "8")
        assert "number" in text_for_model(failed)
        assert text_for_model(done) == "8"

    run(KitBench({"p": Tools}), play)
