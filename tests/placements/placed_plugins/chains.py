"""Plugins that the tests of placements run inline and in a process: they act on what they hear, and on one another."""

# ruff: noqa: ARG002 - hooks name what they are given, used or not

from __future__ import annotations

import asyncio
from typing import Any

from ally_plugins import Allow, HopLimitRefused, action, hookimpl, tool

from .calls import failure, outcome
from .hooks import Plain, act


class Echoes(Plain):
    """Answers each event `ping` of another, and the start of a tool, with one of its own."""

    @hookimpl
    async def ally_event(self, event: Any) -> None:
        if event.type.endswith(":ping") or event.type == "TOOL_CALL_START":
            try:
                await self.ally.emit_event("ping", {"from": self.ally.name})
            except HopLimitRefused as error:
                self.seen.append(failure(error))


class EchoesInThread(Plain):
    @hookimpl
    def ally_event(self, event: Any) -> None:
        if event.type.endswith(":ping") or event.type == "TOOL_CALL_START":
            try:
                self.ally.blocking.emit_event("ping", {"from": self.ally.name})
            except HopLimitRefused as error:
                self.seen.append(failure(error))


class Speaks(Plain):
    """Adds a message from each kind of code that it has."""

    @hookimpl
    async def ally_tool_call_end(self, event: Any) -> None:
        await self.ally.add_message("user", "from an observer")

    @hookimpl
    def ally_tool_call_start(self, event: Any) -> None:
        self.ally.blocking.add_message("user", "from a thread")

    @hookimpl
    async def ally_gate_tool_call(self, call: Any) -> Allow:
        await self.ally.add_message("user", "from a gate")
        return Allow()

    @hookimpl
    async def ally_transform_tool_input(self, call: Any) -> None:
        await self.ally.add_message("user", "from a transform")

    @tool
    async def speak(self) -> None:
        await self.ally.add_message("user", "from a tool")

    @action
    async def act(self) -> None:
        await self.ally.add_message("user", "from an action")

    async def _work(self) -> None:
        await self.ally.add_message("user", "from a task")

    @tool
    async def work(self) -> None:
        task = await self.ally.start_task("work", self._work())
        await task.result()

    async def _later(self) -> None:
        await self.ally.add_message("user", "from a child")

    @hookimpl
    async def ally_thought_complete(self, event: Any) -> None:
        await asyncio.create_task(self._later())


class Waits(Plain):
    """Makes calls that would wait for the hook that makes them."""

    @hookimpl
    async def ally_tool_call_end(self, event: Any) -> None:
        self.seen.append(await outcome(self.ally.request_action("run", {"name": "bash"})))

    @hookimpl
    async def ally_gate_tool_call(self, call: Any) -> Allow:
        return Allow()

    @hookimpl
    async def ally_gate_message(self, message: Any) -> Allow:
        self.seen.append(await outcome(self.ally.add_message("user", "from its gate")))
        return Allow()

    @tool
    async def ask(self) -> Any:
        return await outcome(self.ally.request_action("run", {"name": "bash"}))


class Judged(Plain):
    """Speaks when a tool has ended, by itself and through another's action; has a gate for what others say."""

    @hookimpl
    async def ally_tool_call_end(self, event: Any) -> None:
        if event.tool_name == "speak":
            self.seen.append(await outcome(self.ally.add_message("user", "from a hook")))
        else:
            self.seen.append(await outcome(self.ally.request_action(f"{event.tool_name}:speak")))

    @hookimpl
    async def ally_gate_message(self, message: Any) -> None:
        """Be a gate."""


class Judges(Plain):
    """Its gate answers what others say, and its action speaks."""

    @hookimpl
    async def ally_gate_message(self, message: Any) -> None:
        self.seen.append(await outcome(self.ally.add_message("user", "from a gate")))

    @action
    async def speak(self) -> Any:
        return await outcome(self.ally.add_message("user", "from an action"))


class Meets(Plain):
    """Its gate meets the other's, so that each is held by its own question, and then speaks."""

    @hookimpl
    async def ally_gate_message(self, message: Any) -> None:
        if message.content == "go":
            await self.ally.request_action("meet")
            self.seen.append(await outcome(self.ally.add_message("user", f"from {self.ally.name}")))


class Repeats(Plain):
    """Says the same under one key from a tool and from its gate."""

    @hookimpl
    async def ally_gate_message(self, message: Any) -> None:
        self.seen.append(await outcome(self.ally.add_message("user", "hello", key="k")))

    @tool
    async def speak(self) -> Any:
        return await outcome(self.ally.add_message("user", "hello", key="k"))


class SpeaksOnCall(Plain):
    @hookimpl
    async def ally_tool_call_end(self, event: Any) -> None:
        self.seen.append(await outcome(self.ally.add_message("user", "hello")))


class BreaksMessages(Plain):
    @hookimpl
    async def ally_transform_plugin_message(self, message: Any) -> None:
        act("error" if message.content == "break" else "")


class SpeaksAfterCrashes(Plain):
    """Has a task that would speak once its plugin is in quarantine."""

    def __init__(self, ally: Any) -> None:
        super().__init__(ally)
        self.asked = 0

    async def _speak(self) -> None:
        while self.asked < 6:  # noqa: ASYNC110 - as plugins do
            await asyncio.sleep(0)
        await self.ally.add_message("user", "still here")

    @hookimpl
    async def ally_gate_tool_call(self, call: Any) -> None:
        if not self.asked:
            await self.ally.start_task("speak", self._speak())
        self.asked += 1
        act("error")


class Lingers(Plain):
    """Its hook leaves a task behind that speaks when it is told to."""

    def __init__(self, ally: Any) -> None:
        super().__init__(ally)
        self.told = asyncio.Event()
        self.left: list[asyncio.Task[Any]] = []

    async def _later(self) -> None:
        await self.told.wait()
        await self.ally.add_message("user", "later")

    @hookimpl
    async def ally_tool_call_end(self, event: Any) -> None:
        self.left.append(asyncio.create_task(self._later()))

    @hookimpl
    async def ally_tool_call_start(self, event: Any) -> None:
        self.seen.append(event.id)

    @tool
    async def speak(self) -> None:
        self.told.set()
        await asyncio.gather(*self.left)


def _spoil(value: Any, name: str) -> list[str]:
    found = []
    for change in (
        lambda: setattr(value, name, None),
        lambda: getattr(value, name).update(a=1),
        lambda: getattr(value, name).__setitem__("a", 1),
        lambda: getattr(value, name)["list"].append(1),
    ):
        try:
            change()
        except (AttributeError, TypeError) as error:
            found.append(type(error).__name__)
    return found


class Spoils(Plain):
    """Tries to change what it is shown."""

    @hookimpl
    async def ally_tool_call_end(self, event: Any) -> None:
        self.seen.append(["event", *_spoil(event, "result")])

    @hookimpl
    async def ally_gate_tool_call(self, call: Any, context: Any) -> None:
        self.seen.append(["call", *_spoil(call, "arguments")])
        self.seen.append(["message", *_spoil(context.messages[0], "metadata")])

    @hookimpl
    async def ally_transform_tool_output(self, result: Any) -> None:
        self.seen.append(["result", *_spoil(result, "data")])

    @hookimpl
    async def ally_gate_permission(self, request: Any) -> None:
        self.seen.append(["request", *_spoil(request, "arguments")])


class Relays(Plain):
    """Has an action that requests the one of the plugin in its setting `next`; without one, it fails."""

    @action
    async def relay(self) -> Any:
        if (following := self.ally.settings.get("next")) is None:
            raise ValueError("a broken thing")
        return await self.ally.request_action(f"{following}:relay", {})
