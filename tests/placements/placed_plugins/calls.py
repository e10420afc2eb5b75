"""Plugins that the tests of placements run inline and in a process: outbound calls, tools, actions and tasks."""

# ruff: noqa: ARG002 - hooks name what they are given, used or not

from __future__ import annotations

import asyncio
from typing import Any

import attrs

from ally_plugins import (
    Ally,
    Context,
    Deny,
    Replace,
    evolve,
    hookimpl,
    tool,
)

from .hooks import HearsAll, Plain

_ATTRIBUTES = (
    "plugin", "permission", "command", "budget", "retry_after", "field", "chain", "decision_id", "tool", "problems",
)  # fmt: skip


def plain(value: Any) -> Any:
    """Return what a call returned as JSON can say it."""
    if isinstance(value, Context):
        return {"value": repr(value), "cursor": value.cursor}
    return attrs.asdict(value) if attrs.has(type(value)) else value


async def outcome(call: Any) -> dict[str, Any]:
    """Make a call and return what came of it: `returned`, or `raised`, `text` and the error's attributes."""
    try:
        returned = await call
    except Exception as error:  # noqa: BLE001 - the test looks at what it was
        return failure(error)
    return {"returned": plain(returned)}


def failure(error: BaseException) -> dict[str, Any]:
    """Return what an error says, by all that a plugin can know of it."""
    facts = {name: getattr(error, name) for name in _ATTRIBUTES if getattr(error, name, None) is not None}
    return {"raised": type(error).__name__, "text": str(error), "reason": getattr(error, "reason", None), **facts}


class Caller(HearsAll):
    """Makes the call that the tool is told."""

    @tool
    async def call(self, method: str, arguments: list[Any], keywords: dict[str, Any]) -> dict[str, Any]:
        return await outcome(getattr(self.ally, method)(*arguments, **keywords))

    @tool
    def call_blocking(self, method: str, arguments: list[Any], keywords: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"returned": plain(getattr(self.ally.blocking, method)(*arguments, **keywords))}
        except Exception as error:  # noqa: BLE001 - the test looks at what it was
            return failure(error)

    @tool
    async def block_the_loop(self) -> dict[str, Any]:
        try:
            self.ally.blocking.add_message("user", "x")
        except RuntimeError as error:
            return failure(error)
        return {}

    @tool
    def from_another_loop(self) -> dict[str, Any]:
        return asyncio.run(outcome(self.ally.add_message("user", "from another loop")))

    @tool
    async def register(self, how: str) -> dict[str, Any]:
        async def double(number: int) -> int:
            return 2 * number

        return await outcome(self.ally.register_action(double, name=how))

    @tool
    async def start(self, how: str) -> dict[str, Any]:
        return await outcome(self.ally.start_task(how, asyncio.sleep(0)))

    @tool
    async def emit_both(self) -> None:
        await self.ally.emit_event("news")
        await self.ally.emit_event("olds")


class GatesAll(Caller):
    """Denies every message of others."""

    @hookimpl
    async def ally_gate_message(self, message: Any) -> Deny:
        return Deny("no")


class ChangesAll(Caller):
    """Changes every message of others."""

    @hookimpl
    def ally_transform_plugin_message(self, message: Any) -> Any:
        return Replace(evolve(message, content="changed"))


class Odd(Plain):
    """Calls with what JSON cannot say, and too many at once."""

    @tool
    async def unsayable(self) -> list[Any]:
        odd: Any = {"it": float("nan")}, {"it": object()}, {1: "a"}, b"bytes", {"it": {1, 2}}
        calls = (
            self.ally.emit_event("x", odd[0]),
            self.ally.emit_event("x", odd[1]),
            self.ally.emit_event("x", odd[2]),
            self.ally.add_message("user", "\ud800"),
            self.ally.add_message("user", odd[3]),
            self.ally.add_message("user", "x", metadata=odd[4]),
            self.ally.request_action("compact", odd[4]),
        )
        return [await outcome(each) for each in calls]

    @tool
    async def three_at_once(self) -> list[Any]:
        calls = [self.ally.request_action("other:slow", timeout=0.5) for _ in range(3)]
        return list(await asyncio.gather(*map(outcome, calls)))


class GivesUp(Plain):
    """Does not wait for its own calls."""

    @tool
    async def give_up(self) -> str:
        try:
            await asyncio.wait_for(self.ally.add_message("user", "slow"), 0.3)
        except TimeoutError:
            return "gave up"
        return "?"

    @tool
    def give_up_in_thread(self) -> str:
        self.ally.blocking.wait = 0.3
        try:
            self.ally.blocking.add_message("user", "slow")
        except TimeoutError:
            return "gave up"
        return "?"


class HangsOnMessages(Plain):
    @hookimpl
    async def ally_gate_message(self, message: Any) -> None:
        self.seen.append("asked")
        try:
            await asyncio.sleep(3600)
        finally:
            self.seen.append("interrupted")


class Interrupts(Plain):
    @hookimpl
    async def ally_gate_tool_call(self, call: Any) -> None:
        raise KeyboardInterrupt


class Silent:
    """Hears nothing, and asks for actions."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally

    @tool
    async def ask(self, action: str) -> dict[str, Any]:
        return await outcome(self.ally.request_action(action, {"number": 1}))
