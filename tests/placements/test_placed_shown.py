"""What a gate and a transform are shown is the same in every placement, up to the edges of the table and beyond."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import GateRefused, PermissionRequest, ToolCall, ToolResult
from ally_plugins.contract.values.shown import MAX_DEPTH, MAX_INTEGER, MAX_SHOWN_BYTES, MIN_INTEGER
from tests.kit.waiting import PATIENCE, go
from tests.placements.placed_plugins.shown import digest

if TYPE_CHECKING:
    from tests.kit.placements import Placed


def nested(depth: int) -> Any:
    value: Any = "deep"
    for _ in range(depth):
        value = [value]
    return value


WITHIN = {
    "integers": [MIN_INTEGER, MAX_INTEGER, 0],
    "floats": [0.1, 1e308, 5e-324],
    "depth": nested(MAX_DEPTH - 1),
    "bytes": "x" * (MAX_SHOWN_BYTES - 1000),
    "many": [1] * 100_000,
    "text": "\x00\u2028\U0001f600\u202e",
}
# As many as there may be: each costs a second and more, in every hook and process that it comes to.
MOST = pytest.param([1] * (MAX_SHOWN_BYTES // 2 - 1000), id="most", marks=pytest.mark.soak)


@pytest.mark.parametrize("value", [*(pytest.param(value, id=name) for name, value in WITHIN.items()), MOST])
def test_up_to_the_edge_of_the_table_it_is_the_value_itself(value: Any, placed: Placed) -> None:
    arguments = {"v": value}
    patient = {"gate": PATIENCE, "transform": PATIENCE}  # the largest take seconds, and a busy machine minutes

    async def main() -> None:
        async with placed.host({"p": placed("shown:Digests", deadlines=patient)}) as host:
            session = host.session()
            ruling = await session.gate_tool_call(ToolCall("bash", arguments))
            assert ruling.reason == f"p: {digest(arguments)}"
            request = PermissionRequest(request_id="r", tool_name="bash", arguments=arguments)
            assert (await session.gate_permission(request)).reason == f"p: {digest(arguments)}"
            result = ToolResult(success=True, data=arguments)
            changed = await session.transform_tool_output(ToolCall("bash", arguments), result)
            assert changed.output == digest([arguments, "", arguments])
            assert host.plugins["p"].counts.crashes == 0

    go(main(), 10 * PATIENCE)


def test_beyond_it_the_answer_is_no_and_nobody_is_asked(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("shown:Digests")}) as host:
            session = host.session()
            for value in (2**70, "\ud800", "x" * MAX_SHOWN_BYTES):
                request = PermissionRequest(request_id="r", tool_name="bash", arguments={"v": value})
                ruling = await session.gate_permission(request)
                assert ruling.is_denied
                assert "cannot be shown to gates as it is" in ruling.reason
            for result in (
                ToolResult(success=True, output="x" * MAX_SHOWN_BYTES),
                ToolResult(success=True, unshown="it is too deep"),
            ):
                with pytest.raises(GateRefused, match="cannot be shown to plugins as it is"):
                    await session.transform_tool_output(ToolCall("bash"), result)
            assert host.plugins["p"].counts.crashes == 0
            assert host.plugins["p"].state == "running"

    go(main())
