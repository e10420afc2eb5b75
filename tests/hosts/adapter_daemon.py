"""A plugin that runs in a process of its own in the adapter's tests; it uses every way into an agent."""

from __future__ import annotations

from ally_plugins import Ally, Deny, PromptSection, Replace, ToolCall, ToolCallEnd, evolve, hookimpl, tool


class Keeper:
    """Counts the tool calls that it hears of."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally
        self.heard: list[str] = []

    @hookimpl
    async def ally_tool_call_end(self, event: ToolCallEnd) -> None:
        self.heard.append(event.tool_name)
        if event.tool_name == "look":
            await self.ally.add_message("user", "you have looked")

    @hookimpl
    def ally_gate_tool_call(self, call: ToolCall) -> Deny | None:
        return Deny("never") if call.tool_name == "remove" else None

    @hookimpl
    def ally_transform_tool_input(self, call: ToolCall) -> Replace[ToolCall] | None:
        return Replace(evolve(call, arguments={"place": "attic"})) if call.tool_name == "look" else None

    @hookimpl
    def ally_transform_system_prompt(self, sections: tuple[PromptSection, ...]) -> Replace[tuple[PromptSection, ...]]:
        return Replace((*sections, PromptSection("keeper", "a keeper watches")))

    @tool
    async def heard_of(self, at_least: int) -> dict[str, object]:
        """Tell which tools have run."""
        return {"tools": self.heard, "enough": len(self.heard) >= at_least}
