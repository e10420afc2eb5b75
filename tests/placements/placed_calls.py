"""Plugins that the tests of placements run inline and in a process: outbound calls, tools, actions and tasks."""

# ruff: noqa: ARG002 - hooks name what they are given, used or not

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
import time
from typing import Any

import attrs
from placed_hooks import HearsAll, Plain

from ally_plugins import Ally, Context, Deny, Replace, ToolCallError, ToolResult, action, evolve, hookimpl, tool

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
