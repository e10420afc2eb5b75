"""Plugins that the tests of placements run inline and in a process: hooks of every kind, and what they were given.

Each notes what it sees in `seen`, which the tool `look` shows to the test.
"""

# ruff: noqa: ARG002 - hooks name what they are given, used or not

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

from ally_plugins import Allow, Ally, Ask, Deny, Replace, ToolCallError, evolve, hookimpl, tool
from ally_plugins.contract.values.event_types import hook_name
from ally_plugins.contract.values.events import EVENT_TYPES, Event


class Plain:
    """Only what every plugin of these tests has."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally
        self.seen: list[Any] = []

    @tool
    async def look(self) -> list[Any]:
        return self.seen


def describe(event: Event) -> dict[str, Any]:
    """Return all that a plugin can know of an event."""
    return {
        "value": repr(event),
        "extra": event.extra,
        "id": event.id,
        "type": event.type,
        "seq": event.seq,
        "timestamp": event.timestamp,
        "session_id": event.session_id,
        "origin": list(event.origin),
    }


def _hears(hook: str) -> Callable[..., Any]:
    async def hear(self: Any, event: Event) -> None:
        self.seen.append([hook, describe(event), self.ally.session])

    return hookimpl(hear, specname=hook)


def _hears_in_thread(hook: str) -> Callable[..., Any]:
    def hear(self: Any, event: Event) -> None:
        self.seen.append([hook, describe(event), self.ally.session])

    return hookimpl(hear, specname=hook)


_OBSERVERS = ["ally_event", *map(hook_name, EVENT_TYPES)]

Hears = type("Hears", (Plain,), {hook: _hears(hook) for hook in _OBSERVERS})
HearsInThread = type("HearsInThread", (Plain,), {hook: _hears_in_thread(hook) for hook in _OBSERVERS})


class HearsAll(Plain):
    """Notes the types of events in order."""

    @hookimpl
    async def ally_event(self, event: Event) -> None:
        self.seen.append(event.type)


class HearsSlowly(Plain):
    """Takes its time for the start of a call, and fails at its end."""

    @hookimpl
    async def ally_tool_call_start(self) -> None:
        await asyncio.sleep(0.03)

    @hookimpl
    async def ally_tool_call_end(self) -> None:
        raise ValueError("a broken thing")


class HearsSlowlyInThread(Plain):
    """The same with `def` hooks."""

    @hookimpl
    def ally_tool_call_start(self) -> None:
        time.sleep(0.03)

    @hookimpl
    def ally_tool_call_end(self) -> None:
        raise ValueError("a broken thing")


class HearsThresholds(Plain):
    """Notes the levels that it is told of."""

    @hookimpl
    async def ally_context_threshold(self, event: Event) -> None:
        self.seen.append(getattr(event, "threshold", None))


class HearsNothingOfIt(Plain):
    """Wants to know that something happened, not what."""

    @hookimpl
    async def ally_tool_call_end(self) -> None:
        self.seen.append("end")

    @hookimpl
    def ally_tool_call_start(self) -> None:
        self.seen.append("start")


class HearsDrops(Plain):
    @hookimpl
    async def ally_tool_call_end(self, event: Any) -> None:
        self.seen.append(event.seq)

    @hookimpl
    async def ally_events_dropped(self, event: Any) -> None:
        self.seen.append([event.plugin_name, event.count, [list(each) for each in event.ranges]])


def act(how: str) -> Any:
    """Do what goes wrong in a hook, by its name."""
    match how:
        case "error":
            raise ValueError("a broken thing")
        case "exit":
            sys.exit(3)
        case "cancelled":
            raise asyncio.CancelledError
        case "stop":
            raise StopIteration("stop")
        case "generator_exit":
            raise GeneratorExit
        case "timeout":
            raise TimeoutError("mine")
        case "tool":
            raise ToolCallError("the file is not there", tool="reader")
        case _:
            return None


class Observes(Plain):
    """Fails in the way that the tool's name says."""

    @hookimpl
    async def ally_tool_call_end(self, event: Any) -> None:
        self.seen.append(event.tool_name)
        if event.tool_name == "refused":
            await self.ally.add_message("system", "not granted")
        if event.tool_name == "hang":
            await asyncio.sleep(3600)
        act(event.tool_name)

    @hookimpl
    def ally_tool_call_start(self, event: Any) -> None:
        self.seen.append(f"{event.tool_name} in thread")
        if event.tool_name == "refused":
            self.ally.blocking.add_message("system", "not granted")
        act(event.tool_name)

    @hookimpl
    async def ally_gate_tool_call(self, call: Any) -> None:
        self.seen.append("gate")


_NONSENSE: dict[str, Callable[[], Any]] = {
    "true": lambda: True,
    "text": lambda: "allow",
    "class": lambda: Allow,
    "dict": lambda: {"verdict": "allow"},
    "object": object,
    "empty": lambda: Deny(""),
    "control": lambda: Deny("a\x00b"),
    "number": lambda: Ask(5),  # type: ignore[arg-type]
    "surrogate": lambda: Deny("a\ud800b"),
    "replace": lambda: Replace(None),
    "long": lambda: Deny("x" * 5_000),
}


class Judges(Plain):
    """Every gate: the tool's name, or the text of a message, says how."""

    def _verdict(self, how: str) -> Any:
        match how.partition(" ")[0]:
            case "allow":
                return Allow()
            case "ask":
                return Ask("are you sure?")
            case "deny":
                return Deny("not today")
            case "sensitive":
                return Deny("it holds a key", sensitive=True)
            case "nonsense":
                return _NONSENSE[how.partition(" ")[2]]()
            case _:
                return act(how)

    @hookimpl
    async def ally_gate_tool_call(self, call: Any, context: Any) -> Any:
        self.seen.append(["tool_call", repr(call), repr(context), self.ally.session])
        if call.tool_name == "hang":
            await asyncio.sleep(3600)
        if call.tool_name == "refused":
            await self.ally.add_message("system", "not granted")
        return self._verdict(call.tool_name)

    @hookimpl
    def ally_gate_message(self, context: Any, message: Any) -> Any:
        self.seen.append(["message", repr(message), repr(context), self.ally.session])
        return self._verdict(message.content)

    @hookimpl
    async def ally_gate_permission(self, request: Any) -> Any:
        self.seen.append(["permission", repr(request), dict(request.extra), self.ally.session])
        return self._verdict(request.tool_name)

    @hookimpl
    async def ally_gate_user_message(self, message: Any, context: Any) -> Any:
        self.seen.append(["user_message", repr(message), repr(context), self.ally.session])
        return self._verdict(message.content)

    @hookimpl
    async def ally_gate_answer(self, message: Any, context: Any) -> Any:
        self.seen.append(["answer", repr(message), repr(context), self.ally.session])
        if message.content.startswith("hang"):
            await asyncio.sleep(3600)
        return self._verdict(message.content)

    @hookimpl
    def ally_gate_stop(self, stop: Any, context: Any) -> Any:
        self.seen.append(["stop", repr(stop), repr(context), self.ally.session])
        return self._verdict(stop.answer)


class JudgesInThread(Judges):
    """The same with `def`; the message's is `async def` here."""

    @hookimpl
    def ally_gate_tool_call(self, call: Any) -> Any:  # type: ignore[override] # a hook takes what it likes
        self.seen.append(["tool_call", repr(call), self.ally.session])
        if call.tool_name == "refused":
            self.ally.blocking.add_message("system", "not granted")
        return self._verdict(call.tool_name)

    @hookimpl
    async def ally_gate_message(self, message: Any) -> Any:  # type: ignore[override]
        return self._verdict(message.content)


class JudgesFirst(Judges):
    @hookimpl(tryfirst=True)
    async def ally_gate_tool_call(self, call: Any) -> Any:  # type: ignore[override]
        return self._verdict(call.tool_name)


class JudgesLast(Judges):
    @hookimpl(trylast=True)
    async def ally_gate_tool_call(self, call: Any) -> Any:  # type: ignore[override]
        return self._verdict(call.tool_name)


class Blocks(Plain):
    """A gate that nothing interrupts, in a thread."""

    @hookimpl
    def ally_gate_tool_call(self, call: Any) -> Any:
        if call.tool_name == "block":
            time.sleep(30)
        return Allow()


class Swallows(Plain):
    """Hooks that ignore their interruption; `late` only once."""

    async def _ignore(self, how: str) -> None:
        while how in {"ignore", "late"}:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self.seen.append("interrupted")
                if how == "late":
                    return

    @hookimpl
    async def ally_gate_tool_call(self, call: Any) -> Any:
        await self._ignore(call.tool_name)
        return Allow()

    @hookimpl
    async def ally_tool_call_end(self, event: Any) -> None:
        await self._ignore(event.tool_name)
        self.seen.append(event.tool_name)


class Changes(Plain):
    """Every transform: adds its name, or does what the argument `how` says."""

    def _how(self, value: Any, how: str, other: Callable[[], Any]) -> Any:
        kind, _, rest = how.partition(" ")
        if kind == "nonsense":
            return {"call": value, "true": True, "text": "ls", "dict": {"command": "ls"}, "class": Replace}[rest]
        if kind == "wrong":
            wrong = {"none": None, "dict": {"toolName": "x"}, "class": Replace, "text": "x"}
            return Replace(wrong[rest])
        if kind == "leave":
            return None
        act(kind)
        return other()

    @hookimpl
    async def ally_transform_tool_input(self, call: Any) -> Any:
        self.seen.append(["tool_input", repr(call), self.ally.session])
        how = str(call.arguments.get("how", ""))
        if how == "hang":
            await asyncio.sleep(3600)
        if how == "refused":
            await self.ally.add_message("system", "not granted")
        if how == "rename":
            return Replace(evolve(call, tool_name="rm"))
        if how == "forge":
            return Replace(evolve(call, call_id="c9", agent_id="other", arguments={"command": "pwd"}))
        if how == "other field":
            return Replace(evolve(call, arguments={**call.arguments, self.ally.name: True}))
        text = f"{call.arguments.get('command')} {self.ally.name}"
        return self._how(call, how, lambda: Replace(evolve(call, arguments={**call.arguments, "command": text})))

    @hookimpl
    def ally_transform_tool_output(self, result: Any, call: Any) -> Any:
        self.seen.append(["tool_output", repr(call), repr(result), self.ally.session])
        changes: dict[str, Any] = {
            "success": {"success": False},
            "number": {"output": 5},
            "none": {"output": None},
            "bytes": {"error": b"x"},
            "surrogate": {"output": "a\ud800b"},
            "data": {"data": {"lines": [2, None, 0.5]}, "output": "\x1b[1mred\x1b[0m"},
            "error": {"error": "it failed"},
        }
        how = str(call.arguments.get("how", ""))
        return Replace(evolve(result, **changes.get(how, {"output": f"{result.output} {self.ally.name}"})))

    def _message(self, message: Any) -> Any:  # noqa: PLR0911 - a change each
        match message.content:
            case "number":
                return Replace(evolve(message, content=5))
            case "none":
                return Replace(evolve(message, content=None))
            case "control":
                return Replace(evolve(message, content="a\x00b"))
            case "surrogate":
                return Replace(evolve(message, content="a\ud800b"))
            case "forge":
                return Replace(evolve(message, content="forged", role="system", id="m2", metadata={"a": 1}))
            case "call":
                return Replace(evolve(message, tool_calls=(), content="called"))
            case _:
                return Replace(evolve(message, content=f"{message.content} {self.ally.name}"))

    @hookimpl
    async def ally_transform_user_message(self, message: Any) -> Any:
        self.seen.append(["user_message", repr(message), self.ally.session])
        return self._message(message)

    @hookimpl
    def ally_transform_answer(self, message: Any) -> Any:
        self.seen.append(["answer", repr(message), self.ally.session])
        return self._message(message)

    @hookimpl
    def ally_transform_plugin_message(self, message: Any) -> Any:
        self.seen.append(["plugin_message", repr(message), self.ally.session])
        return self._message(message)


class Overlaps(Plain):
    """Would notice when two of its hooks ran at once, or out of order."""

    def __init__(self, ally: Ally) -> None:
        super().__init__(ally)
        self.running = 0
        self.most = 0

    async def _one(self, what: Any) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.001)
        self.seen.append([what, self.most])
        self.running -= 1

    @hookimpl
    async def ally_event(self, event: Event) -> None:
        await self._one(event.seq)

    @hookimpl
    async def ally_tool_call_end(self, event: Any) -> None:
        await self._one(event.seq)

    @hookimpl
    async def ally_gate_tool_call(self, call: Any) -> None:
        await self._one(call.tool_name)

    @hookimpl
    async def ally_transform_tool_input(self, call: Any) -> None:
        await self._one(call.tool_name)


class ChangesAlways(Plain):
    """A transform that does nothing else."""

    @hookimpl
    async def ally_transform_tool_input(self, call: Any) -> Any:
        text = f"{call.arguments['command']} {self.ally.name}"
        return Replace(evolve(call, arguments={**call.arguments, "command": text}))
