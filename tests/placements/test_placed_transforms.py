"""Transforms in every placement: chains, what may change, nonsense, and what follows from a failure."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from ally_plugins import GateRefused, Message, ToolCall, ToolResult
from tests.kit.placements import Placed, call, look, records_of
from tests.kit.waiting import go

CALL = ToolCall("bash", {"command": "ls", "deep": {"a": [1, None, 0.5]}}, "c1", "agent-1")
RESULT = ToolResult(True, "out", data={"lines": [1]})  # noqa: FBT003
CALLS: Any = (CALL,)
USER = Message(
    role="user", content="hello", id="m1", timestamp=5, metadata={"a": [1]}, tool_call_id="c1", tool_calls=CALLS
)


def how(way: str) -> ToolCall:
    return attrs.evolve(CALL, arguments={"command": "ls", "number": 1, "how": way})


def test_every_transform_is_a_chain_in_hook_order_and_sees_equal_values(placed: Placed) -> None:
    async def main() -> None:
        plugins = {
            "a": placed("hooks:Changes", mandatory=True),
            "b": placed("hooks:Changes"),
            "c": placed("hooks:Changes", manifest='before = ["b"]'),
            "p": placed("calls:Caller"),
        }
        async with placed.host(plugins) as host:
            session = host.session("s")
            changed = await session.transform_tool_input(CALL)
            assert changed == attrs.evolve(CALL, arguments={**CALL.arguments, "command": "ls c b a"})
            result = await session.transform_tool_output(CALL, RESULT)
            assert result == attrs.evolve(RESULT, output="out c b a")
            message = await session.transform_user_message(USER)
            assert message == attrs.evolve(USER, content="hello c b a")
            receipt = await call(host, "add_message", "user", "hi")
            (delivered,) = await session.safe_point()
            assert (delivered.content, delivered.id) == ("hi c b a", receipt["returned"]["id"])
            notes = await look(host, "c")
            assert notes[:3] == [
                ["tool_input", repr(CALL), "s"],
                ["tool_output", repr(CALL), repr(RESULT), "s"],
                ["user_message", repr(USER), "s"],
            ]
            original = attrs.evolve(delivered, content="hi")
            assert notes[3] == ["plugin_message", repr(original), "s"]
            assert (await look(host, "a"))[0] == ["tool_input", repr(attrs.evolve(changed, arguments={
                **CALL.arguments, "command": "ls c b"})), "s"]  # fmt: skip

    go(main())


ILLEGAL_CALLS = {
    "rename": "the transform changed the tool from 'bash'; only arguments may change",
    "wrong none": "the transform replaced a ToolCall by NoneType; use evolve(value, field=...)",
    "wrong dict": "the transform replaced a ToolCall by dict",
    "wrong text": "the transform replaced a ToolCall by str",
    "wrong class": "the transform replaced a ToolCall by type",
    "nonsense call": "the transform returned a value of the type ToolCall; expected Replace(value) or None",
    "nonsense true": "the transform returned True; expected",
    "nonsense text": "the transform returned a value of the type str; expected",
    "nonsense class": "the transform returned the class Replace (write Replace(...)); expected",
}


@pytest.mark.parametrize("part", [0, 1, 2])
def test_illegal_changes_and_nonsense_are_left_out_and_the_chain_goes_on(
    part: int, placed: Placed, caplog: pytest.LogCaptureFixture
) -> None:
    ways = dict(list(ILLEGAL_CALLS.items())[part * 3 : part * 3 + 3])

    async def main() -> None:
        plugins = {"a": placed("hooks:Changes"), "b": placed("hooks:ChangesAlways")}
        async with placed.host(plugins) as host:
            session = host.session()
            for number, (way, words) in enumerate(ways.items(), 1):
                changed = await session.transform_tool_input(how(way))
                assert changed.arguments == {**how(way).arguments, "command": "ls b"}
                assert changed.tool_name == "bash"
                assert host.plugins["a"].counts.crashes == number
                assert words in caplog.text

    go(main())


def test_who_made_a_call_and_which_one_it_is_cannot_be_changed(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"a": placed("hooks:Changes")}) as host:
            session = host.session()
            forged = await session.transform_tool_input(how("forge"))
            assert forged == attrs.evolve(CALL, arguments={"command": "pwd"})
            message = await session.transform_user_message(attrs.evolve(USER, content="forge"))
            assert message == attrs.evolve(USER, content="forged")
            called = await session.transform_user_message(attrs.evolve(USER, content="call"))
            assert called == attrs.evolve(USER, content="called")
            assert host.plugins["a"].counts.crashes == 0

    go(main())


ILLEGAL_RESULTS = {
    "success": "changed whether the tool succeeded",
    "number": "output is int",
    "none": "output is NoneType",
}


def test_what_is_no_valid_result_is_left_out(placed: Placed, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with placed.host({"a": placed("hooks:Changes")}) as host:
            session = host.session()
            for way, words in ILLEGAL_RESULTS.items():
                assert await session.transform_tool_output(how(way), RESULT) == RESULT
                assert words in caplog.text

    go(main())


def test_output_error_and_data_of_a_result_may_be_changed(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"a": placed("hooks:Changes")}) as host:
            session = host.session()
            mended = await session.transform_tool_output(how("surrogate"), RESULT)
            assert mended.output == "a\ufffdb"  # in a result it becomes what the model can read
            data = await session.transform_tool_output(how("data"), RESULT)
            assert data == ToolResult(True, "\x1b[1mred\x1b[0m", data={"lines": [2, None, 0.5]})  # noqa: FBT003
            failed = ToolResult(False, "", "no", {"code": 1})  # noqa: FBT003
            changed = await session.transform_tool_output(how("error"), failed)
            assert changed == attrs.evolve(failed, error="it failed")
            assert await session.transform_tool_output(how("bytes"), RESULT) == RESULT  # no text
            assert host.plugins["a"].counts.crashes == 1

    go(main())


def test_a_message_with_text_that_is_none_is_left_out(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"a": placed("hooks:Changes")}) as host:
            session = host.session()
            for number, content in enumerate(("number", "none", "control", "surrogate"), 1):
                message = attrs.evolve(USER, content=content)
                assert await session.transform_user_message(message) == message
                assert host.plugins["a"].counts.crashes == number

    go(main())


def test_one_that_raises_is_left_out_or_blocks_as_the_operator_has_set(placed: Placed) -> None:
    async def main() -> None:
        plugins = {
            "drops": placed("hooks:Changes", ["transform:tool_input:bash"], deadlines={"transform": 0.4}),
            "later": placed("hooks:ChangesAlways"),
            "blocks": placed("hooks:Changes", ["transform:tool_input:other"], transform_on_error="block"),
        }
        async with placed.host(plugins) as host:
            session = host.session("s")
            for number, way in enumerate(("error", "exit", "cancelled", "hang"), 1):
                changed = await session.transform_tool_input(how(way))
                assert changed.arguments["command"] == "ls later"
                assert host.plugins["drops"].counts.crashes == number
            refused = await session.transform_tool_input(how("refused"))
            assert refused.arguments["command"] == "ls later"
            assert host.plugins["drops"].counts.crashes == 4  # a refusal is none
            with pytest.raises(GateRefused, match="blocks could not check it, and is set to block then") as blocked:
                await session.transform_tool_input(attrs.evolve(how("error"), tool_name="other"))
            assert placed.raised("ValueError: a broken thing") in str(blocked.value)
            assert blocked.value.plugin == "blocks"
            done = await records_of(host, "transform")
            assert [[change["plugin"] for change in r.data["changes"]] for r in done] == [
                *[["drops", "later"]] * 5, ["blocks"],
            ]  # fmt: skip
            assert placed.raised("ValueError: a broken thing") in done[0].data["changes"][0]["error"]
            assert "did not answer within 0.4 s" in done[3].data["changes"][0]["error"]
            assert "ally-plugins grant drops add_message:system" in done[4].data["changes"][0]["error"]
            assert done[5].data["blocked_by"] == "blocks"
            assert {r.data["cause"] for r in done} == {"c1"}

    go(main())


def test_a_shadow_transform_is_asked_and_changes_nothing(placed: Placed, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        plugins = {
            "a": placed("hooks:Changes", shadow=True, transform_on_error="block"),
            "b": placed("hooks:Changes"),
            "c": placed("hooks:Changes"),
        }
        async with placed.host(plugins) as host:
            session = host.session()
            assert (await session.transform_tool_input(CALL)).arguments["command"] == "ls b c"
            assert len(await look(host, "a")) == 1
            assert "b, c all changed 'command'; the last one won" in caplog.text
            other = await session.transform_tool_input(how("other field"))
            assert {"b", "c"} <= set(other.arguments)
            assert "a" not in other.arguments

    go(main())


def test_it_is_asked_only_about_what_it_was_granted_and_never_about_its_own_message(placed: Placed) -> None:
    async def main() -> None:
        plugins = {
            "p": placed("calls:ChangesAll"),
            "bash": placed("hooks:Changes", ["tools", "transform:tool_input:bash"]),
        }
        async with placed.host(plugins) as host:
            session = host.session()
            assert (await session.transform_tool_input(CALL)).arguments["command"] == "ls bash"
            assert (await session.transform_tool_input(attrs.evolve(CALL, tool_name="sh"))).arguments["command"] == "ls"
            assert await session.transform_tool_output(CALL, RESULT) == RESULT
            await call(host, "add_message", "user", "hi")
            assert [message.content for message in await session.safe_point()] == ["hi"]
            assert [note[0] for note in await look(host, "bash")] == ["tool_input"]

    go(main())


def test_one_tool_call_takes_its_steps_in_order(placed: Placed) -> None:
    async def run(call: ToolCall) -> ToolResult:
        return ToolResult(True, f"ran {call.arguments['command']}")  # noqa: FBT003

    async def main() -> None:
        plugins = {"p": placed("hooks:Changes"), "q": placed("hooks:Observes")}
        async with placed.host(plugins) as host:
            session = host.session()
            result = await session.run_tool_call(CALL, run)
            assert result.output == "ran ls p p"
            await session.drained()
            assert await look(host, "q") == ["bash in thread", "gate", "bash"]  # it begins, and then it is judged
            blocked = await session.run_tool_call(attrs.evolve(CALL, tool_name="error"), run)
            assert blocked.success

    go(main())
