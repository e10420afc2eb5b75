"""The plugin that `bench_fleet` and `fleet_soak` have hosts share."""

from __future__ import annotations

from ally_plugins import Allow, Ally, Deny, ToolCall, hookimpl


class Guard:
    """A gate that does nothing, but for a call that it is asked about a second time."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally
        self.seen: set[str] = set()

    @hookimpl
    async def ally_gate_tool_call(self, call: ToolCall) -> Allow | Deny:
        """Allow it."""
        if call.call_id in self.seen:
            return Deny("asked twice")
        if call.call_id:
            self.seen.add(call.call_id)
        return Allow()
