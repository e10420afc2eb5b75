"""Transforms are a chain: each sees what the one before made, whatever comes out is checked, nothing is changed in place."""  # noqa: E501

from __future__ import annotations

import asyncio
from typing import Any

import attrs
import pytest

from ally_plugins import GateRefused, Message, Replace, ToolCall, ToolResult
from tests.kit.hosts import make_plugin, new_host, setup
from tests.kit.waiting import go

CALL = ToolCall("bash", {"command": "ls", "cwd": "/"}, "c1", "agent-1")
RESULT = ToolResult(True, "out", data={"lines": 1})  # noqa: FBT003


def with_command(text: str) -> Any:
    async def transform(self: Any, call: ToolCall) -> Replace[ToolCall]:
        self.seen.append(call.arguments["command"])
        return Replace(attrs.evolve(call, arguments={**call.arguments, "command": call.arguments["command"] + text}))

    return transform


def answers(value: Any) -> Any:
    def transform(self: Any, call: ToolCall) -> Any:  # noqa: ARG001
        return value

    return transform


def test_each_sees_what_the_one_before_made_and_mandatory_plugins_come_last() -> None:
    given = {
        "a": setup(make_plugin(ally_transform_tool_input=with_command(" a")), mandatory=True),
        "b": make_plugin(ally_transform_tool_input=with_command(" b")),
        "c": setup(make_plugin(ally_transform_tool_input=with_command(" c")), before=["b"]),
    }

    async def main() -> Any:
        async with new_host(given) as host:
            call = await host.session().transform_tool_input(CALL)
            return call, [host.plugins[name].instance.seen for name in "cba"]

    call, seen = go(main())
    assert call.arguments == {"command": "ls c b a", "cwd": "/"}
    assert seen == [["ls"], ["ls c"], ["ls c b"]]
    assert CALL.arguments == {"command": "ls", "cwd": "/"}


def test_a_value_cannot_be_changed_in_place() -> None:
    def spoil(self: Any, call: ToolCall) -> None:
        with pytest.raises(TypeError):
            call.arguments["command"] = "rm"
        with pytest.raises(TypeError):
            call.arguments.update({"command": "rm"})
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            call.tool_name = "rm"  # type: ignore[misc]
        self.seen.append("tried")

    async def main() -> Any:
        async with new_host({"p": make_plugin(ally_transform_tool_input=spoil)}) as host:
            return await host.session().transform_tool_input(CALL), host.plugins["p"].instance.seen

    assert go(main()) == (CALL, ["tried"])


BAD_CALLS = [
    (attrs.evolve(CALL, tool_name="rm"), "changed the tool from 'bash'"),
    (Message(role="user", content="x"), "replaced a ToolCall by Message"),
    ({"tool_name": "bash"}, "replaced a ToolCall by dict"),
    (None, "replaced a ToolCall by NoneType"),
    (ToolCall, "replaced a ToolCall by type"),
]


@pytest.mark.parametrize(("value", "words"), BAD_CALLS)
def test_what_is_no_valid_call_is_left_out_and_the_chain_goes_on(
    value: Any, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    given = {
        "a": make_plugin(ally_transform_tool_input=answers(Replace(value))),
        "b": make_plugin(ally_transform_tool_input=with_command(" b")),
    }

    async def main() -> Any:
        async with new_host(given) as host:
            call = await host.session().transform_tool_input(CALL)
            return call, host.plugins["a"].counts.crashes

    call, crashes = go(main())
    assert call.arguments["command"] == "ls b"
    assert crashes == 1
    assert words in caplog.text


@pytest.mark.parametrize("value", [CALL, True, "ls", {"command": "ls"}, Replace])
def test_what_is_no_replace_is_left_out(value: Any) -> None:
    async def main() -> Any:
        async with new_host({"a": make_plugin(ally_transform_tool_input=answers(value))}) as host:
            return await host.session().transform_tool_input(CALL), host.plugins["a"].counts.crashes

    assert go(main()) == (CALL, 1)


def test_who_made_a_call_and_which_one_it_is_cannot_be_changed() -> None:
    forged = Replace(attrs.evolve(CALL, call_id="c9", agent_id="other", arguments={"command": "pwd"}))

    async def main() -> Any:
        async with new_host({"a": make_plugin(ally_transform_tool_input=answers(forged))}) as host:
            return await host.session().transform_tool_input(CALL)

    assert go(main()) == attrs.evolve(CALL, arguments={"command": "pwd"})


BAD_RESULTS = [
    (attrs.evolve(RESULT, success=False), "changed whether the tool succeeded"),
    (attrs.evolve(RESULT, output=5), "output is int"),  # type: ignore[arg-type]
    (attrs.evolve(RESULT, output=None), "output is NoneType"),  # type: ignore[arg-type]
    (attrs.evolve(RESULT, error=b"x"), "error is bytes"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("value", "words"), BAD_RESULTS)
def test_what_is_no_valid_result_is_left_out(value: Any, words: str, caplog: pytest.LogCaptureFixture) -> None:
    def transform(self: Any, result: ToolResult) -> Any:  # noqa: ARG001
        return Replace(value)

    async def main() -> Any:
        async with new_host({"a": make_plugin(ally_transform_tool_output=transform)}) as host:
            return await host.session().transform_tool_output(CALL, RESULT)

    assert go(main()) == RESULT
    assert words in caplog.text


def test_output_and_data_of_a_result_may_be_changed() -> None:
    def transform(self: Any, call: ToolCall, result: ToolResult) -> Any:  # noqa: ARG001
        return Replace(attrs.evolve(result, output=f"{call.tool_name}: \x1b[1mred\x1b[0m", data={"lines": [2]}))

    async def main() -> Any:
        async with new_host({"a": make_plugin(ally_transform_tool_output=transform)}) as host:
            return await host.session().transform_tool_output(CALL, RESULT)

    assert go(main()) == ToolResult(True, "bash: \x1b[1mred\x1b[0m", data={"lines": [2]})  # noqa: FBT003


@pytest.mark.parametrize("content", ["a\x00b", "a\ud800b", 5, None])
def test_a_message_with_text_that_is_none_is_left_out(content: Any) -> None:
    message = Message(role="user", content="hello", id="m1")

    def transform(self: Any, message: Message) -> Any:  # noqa: ARG001
        return Replace(attrs.evolve(message, content=content))

    async def main() -> Any:
        async with new_host({"a": make_plugin(ally_transform_user_message=transform)}) as host:
            return await host.session().transform_user_message(message), host.plugins["a"].counts.crashes

    assert go(main()) == (message, 1)


def test_only_the_content_of_a_message_may_be_changed() -> None:
    message = Message(role="user", content="hello", id="m1")

    def transform(self: Any, message: Message) -> Any:  # noqa: ARG001
        return Replace(attrs.evolve(message, content="HELLO", role="system", id="m2", metadata={"a": 1}))

    async def main() -> Any:
        async with new_host({"a": make_plugin(ally_transform_user_message=transform)}) as host:
            return await host.session().transform_user_message(message)

    assert go(main()) == attrs.evolve(message, content="HELLO")


# --- failures ---


@pytest.mark.parametrize(
    "raised", [ValueError("broken"), SystemExit(2), asyncio.CancelledError(), GeneratorExit(), StopIteration()]
)
@pytest.mark.parametrize("is_async", [True, False])
def test_a_transform_that_raises_is_left_out_by_default(
    raised: BaseException,
    is_async: bool,  # noqa: FBT001
) -> None:
    def fail(self: Any, call: ToolCall) -> Any:  # noqa: ARG001
        raise raised

    async def fail_async(self: Any, call: ToolCall) -> Any:  # noqa: ARG001
        raise raised

    given = {
        "a": make_plugin(ally_transform_tool_input=fail_async if is_async else fail),
        "b": make_plugin(ally_transform_tool_input=with_command(" b")),
    }

    async def main() -> Any:
        async with new_host(given) as host:
            call = await host.session().transform_tool_input(CALL)
            return call.arguments["command"], host.plugins["a"].counts.crashes

    assert go(main()) == ("ls b", 1)


def test_a_transform_set_to_block_stops_what_it_could_not_check() -> None:
    async def hang(self: Any, call: ToolCall) -> Any:  # noqa: ARG001
        await asyncio.sleep(3600)

    async def fail(self: Any) -> None:  # noqa: ARG001
        raise OSError("no device")

    def crash(self: Any, call: ToolCall) -> Any:  # noqa: ARG001
        raise ValueError("broken")

    for hooks, words in (
        ({"ally_transform_tool_input": crash}, "ValueError: broken"),
        ({"ally_transform_tool_input": hang}, "did not answer within"),
        ({"ally_transform_tool_input": answers(5)}, "expected Replace"),
        ({"ally_transform_tool_input": answers(None), "ally_start": fail}, "it is failed"),
    ):

        async def main(hooks: Any = hooks) -> Any:
            given = {
                "guard": setup(make_plugin(**hooks), transform_on_error="block", deadlines={"transform": 0.05}),
                "later": make_plugin(ally_transform_tool_input=with_command(" later")),
            }
            async with new_host(given) as host:
                ran: list[Any] = []

                async def run(call: ToolCall) -> ToolResult:
                    ran.append(call)
                    return RESULT

                with pytest.raises(GateRefused) as refused:
                    await host.session().transform_tool_input(CALL)
                result = await host.session("other").run_tool_call(CALL, run)
                assert ran == []
                assert not result.success
                assert host.plugins["later"].instance.seen == []
                return str(refused.value)

        assert words in go(main())


def test_a_shadow_transform_is_asked_and_changes_and_blocks_nothing() -> None:
    def crash(self: Any, call: ToolCall) -> Any:  # noqa: ARG001
        raise ValueError("broken")

    given = {
        "a": setup(make_plugin(ally_transform_tool_input=with_command(" a")), shadow=True),
        "b": setup(make_plugin(ally_transform_tool_input=crash), shadow=True, transform_on_error="block"),
        "c": make_plugin(ally_transform_tool_input=with_command(" c")),
    }

    async def main() -> Any:
        async with new_host(given) as host:
            call = await host.session().transform_tool_input(CALL)
            return call.arguments["command"], host.plugins["a"].instance.seen, host.plugins["c"].instance.seen

    assert go(main()) == ("ls c", ["ls"], ["ls"])


def test_two_that_change_one_field_are_reported_and_the_last_one_wins(caplog: pytest.LogCaptureFixture) -> None:
    async def other_field(self: Any, call: ToolCall) -> Any:  # noqa: ARG001
        return Replace(attrs.evolve(call, arguments={**call.arguments, "cwd": "/tmp"}))  # noqa: S108

    given = {
        "a": make_plugin(ally_transform_tool_input=with_command(" a")),
        "b": make_plugin(ally_transform_tool_input=with_command(" b")),
        "c": make_plugin(ally_transform_tool_input=other_field),
    }

    async def main() -> Any:
        async with new_host(given) as host:
            session = host.session()
            await session.transform_tool_input(CALL)
            return await session.gates.transform_tool_input(CALL, ())

    done = go(main())
    assert done.conflicts == {"command": ("a", "b")}
    assert [(change.plugin, change.fields) for change in done.changes] == [
        ("a", ("command",)), ("b", ("command",)), ("c", ("cwd",)),
    ]  # fmt: skip
    assert "a, b all changed 'command'; the last one won" in caplog.text


def test_a_transform_that_is_granted_for_one_tool_is_not_asked_about_another() -> None:
    given = {"p": setup(make_plugin(ally_transform_tool_input=with_command("!")), ["transform:tool_input:bash"])}

    async def main() -> Any:
        async with new_host(given) as host:
            session = host.session()
            calls = [await session.transform_tool_input(attrs.evolve(CALL, tool_name=name)) for name in ("bash", "sh")]
            return [call.arguments["command"] for call in calls]

    assert go(main()) == ["ls!", "ls"]


def test_nobody_transforms_its_own_message_and_others_do() -> None:
    def shout(self: Any, message: Message) -> Any:
        self.seen.append(message.content)
        return Replace(attrs.evolve(message, content=message.content + "!"))

    async def speak(self: Any, event: Any) -> None:  # noqa: ARG001
        await self.ally.add_message("user", "hello")

    async def main() -> Any:
        given = {
            "author": make_plugin(ally_transform_plugin_message=shout, ally_session_start=speak),
            "editor": make_plugin(ally_transform_plugin_message=shout),
        }
        async with new_host(given) as host:
            session = host.session()
            await session.drained()
            messages = await session.safe_point()
            return [m.content for m in messages], [host.plugins[name].instance.seen for name in given]

    assert go(main()) == (["hello!"], [[], ["hello"]])


def test_one_call_takes_its_steps_in_order_and_events_carry_the_transformed_values() -> None:
    log: list[Any] = []

    def redact(self: Any, result: ToolResult) -> Any:  # noqa: ARG001
        log.append("output transform")
        return Replace(attrs.evolve(result, output="***"))

    async def gate(self: Any, call: ToolCall) -> None:  # noqa: ARG001
        log.append(("gate", call.arguments["command"]))

    async def observe(self: Any, event: Any) -> None:  # noqa: ARG001
        log.append((event.type, getattr(event, "output", None) or event.arguments["command"]))

    async def main() -> Any:
        hooks: dict[str, Any] = {"ally_transform_tool_input": with_command(" -l"), "ally_gate_tool_call": gate}
        hooks |= {"ally_transform_tool_output": redact, "ally_tool_call_start": observe, "ally_tool_call_end": observe}
        async with new_host({"p": make_plugin(**hooks)}) as host:
            session = host.session()

            async def run(call: ToolCall) -> ToolResult:
                log.append(("run", call.arguments["command"]))
                return ToolResult(True, "secret")  # noqa: FBT003

            def check(arguments: Any) -> None:
                log.append(("check", arguments["command"]))

            result = await session.run_tool_call(CALL, run, check=check)
            await session.drained()
            return result

    assert go(main()).output == "***"
    steps = [entry for entry in log if not (isinstance(entry, tuple) and entry[0].startswith("TOOL_CALL"))]
    assert steps == [("check", "ls -l"), ("gate", "ls -l"), ("run", "ls -l"), "output transform"]
    assert [entry for entry in log if entry not in steps] == [
        ("TOOL_CALL_START", "ls -l"), ("TOOL_CALL_END", "***"),
    ]  # fmt: skip
