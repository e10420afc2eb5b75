"""What counts as shown: the edges of the table, and what happens to a value on the other side of each."""

# ruff: noqa: ARG001 - hooks and fixtures name what they are given, used or not

from __future__ import annotations

import hashlib
from typing import Any, cast

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins import (
    EventError,
    FrozenDict,
    GateRefused,
    Message,
    ModelInput,
    PermissionRequest,
    Replace,
    ToolCall,
    ToolCallEnd,
    ToolCallStart,
    ToolResult,
    evolve,
)
from ally_plugins.contract.values.codec import decode, encode
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.shown import MAX_DEPTH, MAX_INTEGER, MAX_SHOWN_BYTES, MIN_INTEGER, media
from tests.kit.hosts import make_plugin, new_host, setup
from tests.kit.waiting import go

SECRET = "SECRET123"  # noqa: S105 - what a redactor would look for


def nested(depth: int, value: Any = SECRET) -> Any:
    for level in range(depth):
        value = [value] if level % 2 else {"k": value}
    return value


WITHIN = {
    "the largest integer": MAX_INTEGER,
    "the smallest integer": MIN_INTEGER,
    "a float": 1e308,
    "as deep as may be": nested(MAX_DEPTH),
    "an emoji": "\U0001f600",
    "many bytes": "x" * (MAX_SHOWN_BYTES - 100),
}
BEYOND = {
    "arguments.v is nan": float("nan"),
    "arguments.v is -inf": float("-inf"),
    "arguments.v is a whole number of 65 bits": MAX_INTEGER + 1,
    "arguments.v.k is a whole number of 64 bits": {"k": MIN_INTEGER - 1},
    "arguments.v[1] is a whole number of 16610 bits": [1, 10**5000],
    "nested deeper than 64 levels": nested(MAX_DEPTH + 1),
    "arguments.v has a lone surrogate": "a\ud800",
    "the key arguments.v.": {"\udfff": 1},
    "v is bytes": b"x",
    "v is set": {1},
    "expected a string, as JSON has": {1: 1},
    f"expected {MAX_SHOWN_BYTES:,} at most": "x" * MAX_SHOWN_BYTES,
    "expected 6,291,456 at most": "\x00" * (MAX_SHOWN_BYTES // 3),  # six bytes each, in JSON
}


@pytest.mark.parametrize("value", WITHIN.values(), ids=WITHIN)
def test_a_call_within_the_table_is_what_it_is_on_the_wire_too(value: Any) -> None:
    call = ToolCall("bash", {"v": value})
    assert decode(encode(call.arguments)) == {"v": value}


@pytest.mark.parametrize(("words", "value"), BEYOND.items(), ids=BEYOND)
def test_there_is_no_call_with_arguments_beyond_the_table(words: str, value: Any) -> None:
    if words.startswith("nested"):
        value = {"in": value}
    with pytest.raises(EventError) as caught:
        ToolCall("bash", {"command": "rm -rf /", "v": value})
    assert words.lower().replace("arguments.", "") in str(caught.value).lower().replace("arguments.", "")


def test_frozen_arguments_are_looked_at_too() -> None:
    frozen = FrozenDict({"n": 2**70})  # an event may hold it, a call that is gated may not
    with pytest.raises(EventError, match="71 bits"):
        ToolCall("bash", frozen)
    with pytest.raises(EventError, match="71 bits"):
        evolve(ToolCall("bash", {"n": 1}), arguments=frozen)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=3))
def test_whatever_a_call_can_be_made_of_arrives_as_it_is(arguments: dict[str, Any]) -> None:
    try:
        call = ToolCall("bash", arguments)
    except EventError:
        return
    assert decode(encode(call.arguments)) == arguments


def test_a_result_is_shown_as_whoever_reads_it_gets_it() -> None:
    result = ToolResult(success=False, output="a\ud800b", error="\udcffc")
    assert (result.output, result.error) == ("a\ufffdb", "\ufffdc")
    with pytest.raises(EventError, match=r"data\.n is a whole number of 71 bits"):
        ToolResult(success=True, data={"n": 2**70})


def test_media_are_shown_as_what_they_are_and_not_as_their_bytes() -> None:
    assert media("image", "image/png", b"abc") == {
        "type": "image", "mediaType": "image/png", "bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest(),
    }  # fmt: skip


# --- what a host does with a value that it cannot show ---


def watcher(*hooks: str) -> tuple[Any, list[Any]]:
    """Return a plugin with these hooks, and what it was shown."""
    seen: list[Any] = []
    return make_plugin(**_noting(hooks, seen)), seen


def _noting(hooks: tuple[str, ...], seen: list[Any]) -> dict[str, Any]:
    def call_hook(self: Any, call: Any) -> None:
        seen.append(call)

    def result_hook(self: Any, call: Any, result: Any) -> None:
        seen.append(result)

    def request_hook(self: Any, request: Any) -> None:
        seen.append(request)

    def message_hook(self: Any, message: Any) -> None:
        seen.append(message)

    kinds = {
        "ally_gate_tool_call": call_hook,
        "ally_transform_tool_output": result_hook,
        "ally_gate_permission": request_hook,
        "ally_transform_user_message": message_hook,
        "ally_transform_model_request": request_hook,
    }
    return {hook: kinds[hook] for hook in hooks}


def test_a_question_that_cannot_be_shown_is_a_deny_and_no_gate_is_asked() -> None:
    guard, seen = watcher("ally_gate_permission")
    request = PermissionRequest(request_id="r", tool_name="bash", arguments={"n": 2**70, "command": "rm"})

    async def main() -> None:
        async with new_host({"guard": guard}) as host:
            ruling = await host.session().gate_permission(request)
            assert ruling.is_denied
            assert "71 bits" in ruling.reason
            await host.journal.flush()
            (record,) = host.journal.reader.records(kind="decision")
            assert record.data is not None
            assert record.data["verdict"] == "deny"

    go(main())
    assert seen == []


def _looped() -> list[Any]:
    value: list[Any] = [SECRET]
    value.append(value)
    return value


class Raises(dict[str, Any]):
    """Arguments that only look like a dict, as a lazy one of somebody's own."""

    @override
    def items(self) -> Any:
        raise ValueError("not loaded yet")


@pytest.mark.parametrize(
    "arguments", [{10**5000: "x"}, {"a": {(10**5000,): 1}}, Raises(a=1)], ids=["key", "tuple", "lazy"]
)
def test_arguments_that_cannot_even_be_read_are_an_error_of_ours_whatever_they_raise(arguments: Any) -> None:
    with pytest.raises(EventError, match=r"has the key of the type|raises ValueError when it is looked at"):
        ToolCall("bash", arguments)


@pytest.mark.parametrize(
    "result",
    [
        ToolResult(success=True, output="text", unshown="data is nested deeper than 64 levels"),
        ToolResult(success=True, output=SECRET + "x" * MAX_SHOWN_BYTES),
        ToolResult(success=True, output="x" * (MAX_SHOWN_BYTES // 2), data=["y" * (MAX_SHOWN_BYTES // 2)]),
        ToolResult(success=True, output=cast("Any", {7: SECRET})),
        ToolResult(success=True, output=cast("Any", {10**4400: SECRET})),
        ToolResult(success=True, output=cast("Any", _looped())),
    ],
    ids=["unshown", "large", "large in all", "no text", "a key that has none", "holds itself"],
)
def test_an_output_that_cannot_be_shown_is_withheld_and_no_transform_is_asked(result: ToolResult) -> None:
    redactor, seen = watcher("ally_transform_tool_output")
    ends: list[Any] = []

    async def run(_: ToolCall) -> ToolResult:
        return result

    async def main() -> None:
        async with new_host({"redactor": redactor}) as host:
            host.stream.subscribe("TOOL_CALL_END", ends.append)
            session = host.session()
            with pytest.raises(GateRefused, match="cannot be shown to plugins as it is"):
                await session.transform_tool_output(ToolCall("bash"), result)
            said = await session.run_tool_call(ToolCall("bash", call_id="c1"), run)
            assert (said.success, said.output, said.data) == (False, "", None)
            assert "the output is withheld" in (said.error or "")

    go(main())
    assert seen == []
    assert [(each.success, each.denied, each.output) for each in ends] == [(False, False, "")]


def test_a_host_s_own_kind_of_result_is_withheld_as_any_other() -> None:
    class Measured(ToolResult):
        pass

    redactor, seen = watcher("ally_transform_tool_output")

    async def main() -> None:
        async with new_host({"redactor": redactor}) as host:
            with pytest.raises(GateRefused, match="too deep"):
                await host.session().transform_tool_output(ToolCall("bash"), Measured(True, "x", unshown="too deep"))  # noqa: FBT003 - the first field

    go(main())
    assert seen == []


def test_a_number_is_shown_as_the_number_that_it_is_and_not_as_what_it_says() -> None:
    class Small(int):
        def __int__(self) -> int:
            return 1

    class Low(float):
        def __float__(self) -> float:
            return 0.5

    assert ToolCall("pay", {"sum": Small(1_000_000), "rate": Low(9.5)}).arguments == {"sum": 1_000_000, "rate": 9.5}


def test_an_output_that_nobody_transforms_passes_as_it_is() -> None:
    result = ToolResult(success=True, output="x" * (MAX_SHOWN_BYTES + 1), unshown="whatever")
    guard, _ = watcher("ally_gate_tool_call")

    async def run(_: ToolCall) -> ToolResult:
        return result

    async def main() -> None:
        async with new_host({"guard": guard}) as host:
            assert await host.session().run_tool_call(ToolCall("bash"), run) is result

    go(main())


def test_a_shadow_is_no_reason_to_withhold_anything() -> None:
    redactor, _ = watcher("ally_transform_tool_output")
    result = ToolResult(success=True, output="text", unshown="whatever")

    async def main() -> None:
        async with new_host({"redactor": setup(redactor, shadow=True)}) as host:
            assert await host.session().transform_tool_output(ToolCall("bash"), result) == result

    go(main())


def test_a_transform_may_not_make_what_the_next_one_cannot_be_shown() -> None:
    def swell(self: Any, result: ToolResult) -> Any:
        return Replace(attrs.evolve(result, output="x" * MAX_SHOWN_BYTES))

    last, seen = watcher("ally_transform_tool_output")

    async def main() -> None:
        async with new_host({"a": make_plugin(ally_transform_tool_output=swell), "b": last}) as host:
            result = ToolResult(success=True, output="small")
            assert await host.session().transform_tool_output(ToolCall("bash"), result) == result
            assert host.plugins["a"].counts.crashes == 1

    go(main())
    assert [each.output for each in seen] == ["small"]


@pytest.mark.parametrize("content", ["a\ud800", "x" * MAX_SHOWN_BYTES], ids=["surrogate", "large"])
def test_words_of_the_person_that_cannot_be_shown_go_no_further(content: str) -> None:
    watching, seen = watcher("ally_transform_user_message", "ally_transform_model_request")
    message = Message(role="user", content=content, id="m1")

    async def main() -> None:
        async with new_host({"p": watching}) as host:
            session = host.session()
            with pytest.raises(GateRefused, match="cannot be shown"):
                await session.transform_user_message(message)
            with pytest.raises(GateRefused, match="cannot be shown"):
                await session.transform_model_request(ModelInput(messages=[message]))
            hidden = attrs.evolve(message, private=True)
            shown = Message(role="user", content="hello", id="m2")
            await session.transform_model_request(ModelInput(messages=[hidden, shown]))

    go(main())
    assert [[each.content for each in request.messages] for request in seen] == [["hello"]]


def test_an_old_recording_of_a_call_is_read_with_what_it_lacks() -> None:
    assert ToolCallStart(tool_name="bash").unshown is None
    assert ToolCallEnd(tool_name="bash").denied is False
