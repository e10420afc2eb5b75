"""The plugin that `bench_fleet` has hosts share."""

from __future__ import annotations

from ally_plugins import Allow, Ally, ToolCall, hookimpl


class Guard:
    """A gate that does nothing."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally

    @hookimpl
    async def ally_gate_tool_call(self, call: ToolCall) -> Allow:
        """Allow it."""
        del call
        return Allow()
