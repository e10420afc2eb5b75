"""Plugins that the tests of placements run inline and in a process: how they begin, how they end, and wrong ones."""

# ruff: noqa: ARG002 - hooks name what they are given, used or not

from __future__ import annotations

import asyncio
import time
from typing import Any

from ally_plugins import Allow, Ally, action, hookimpl, tool

from .calls import Caller, failure, outcome
from .hooks import Plain, act


class Lives(Caller):
    """Notes what happens to it from its beginning; the setting `how` says how it starts and stops."""

    def __init__(self, ally: Ally) -> None:
        super().__init__(ally)
        early = ally.emit_event("early")
        try:
            early.send(None)
        except BaseException as error:  # noqa: BLE001 - the test looks at what it was
            self.seen.append(failure(error)["raised"])

    @hookimpl
    async def ally_start(self) -> None:
        self.seen.append(["start", self.ally.session])
        how = self.ally.settings.get("start", "")
        if how == "hang":
            await asyncio.sleep(3600)
        if how == "refused":
            await self.ally.register_action(self._act, name="act")
        act(str(how))
        self.seen.append(await outcome(self.ally.register_tool(self._act, name="later")))

    async def _act(self) -> str:
        return "acted"

    @hookimpl
    async def ally_stop(self) -> None:
        how = self.ally.settings.get("stop", "")
        await self.ally.add_message("user", f"stops {how}", session_id="s")
        if how == "hang":
            await asyncio.sleep(3600)
        act(str(how))

    @hookimpl
    async def ally_gate_tool_call(self, call: Any) -> Allow:
        return Allow()


class StartsSlowly(Caller):
    """Is so long at its first gate, and at the end of its first session, that whatever else there is has come."""

    def __init__(self, ally: Ally) -> None:
        super().__init__(ally)
        self.first = {"gate", "end"}

    async def _linger(self, what: str, seconds: float) -> None:
        if what in self.first:
            self.first.remove(what)
            await asyncio.sleep(seconds)

    @hookimpl
    async def ally_gate_tool_call(self, call: Any) -> Allow:
        await self._linger("gate", 0.4)
        return Allow()

    @hookimpl
    async def ally_session_end(self, event: Any) -> None:
        await self._linger("end", 1.2)

    @hookimpl
    async def ally_stop(self) -> None:
        await self.ally.add_message("user", "stops", session_id="s0")


class LivesInThread(Plain):
    @hookimpl
    def ally_start(self) -> None:
        self.seen.append("start")
        act(str(self.ally.settings.get("start", "")))

    @hookimpl
    def ally_stop(self) -> None:
        self.ally.blocking.add_message("user", "stops", session_id="s")

    @hookimpl
    def ally_gate_tool_call(self, call: Any) -> Allow:
        return Allow()


class FailsToBuild(Plain):
    def __init__(self, ally: Ally) -> None:
        super().__init__(ally)
        act("error")


class ExitsWhenBuilt(Plain):
    def __init__(self, ally: Ally) -> None:
        super().__init__(ally)
        act("exit")


class Told(Plain):
    """Says what it was told of its host and of itself."""

    @tool
    async def told(self) -> dict[str, Any]:
        ally = self.ally
        try:
            folder = str(ally.data_dir)
            (ally.data_dir / "note").write_text("kept")
        except RuntimeError as error:
            folder = str(error)
        names = (
            "add_message", "trigger_turn", "TOOL_CALL_END", "SESSION_END", "gate:permission", "gate:tool_call",
            "compact", "nothing",
        )  # fmt: skip
        return {
            "name": ally.name,
            "repr": repr(ally),
            "settings": repr(dict(ally.settings)),
            "token": len(ally.settings.get("token") or ""),
            "data_dir": folder,
            "supports": [name for name in names if ally.supports(name)],
            "session": ally.session,
        }

    @tool
    async def leak(self) -> list[Any]:
        token: Any = self.ally.settings["token"]
        return [
            await outcome(self.ally.emit_event("x", {"token": token})),
            await outcome(self.ally.add_message("user", token)),
            await outcome(self.ally.request_action("compact", {"token": token})),
        ]

    @tool
    async def raise_it(self) -> None:
        raise ValueError(f"what is {str.__str__(self.ally.settings['token'])}?")

    @tool
    async def write_log(self) -> None:
        self.ally.log.debug("hidden")
        self.ally.log.info("an info %d", 1)
        self.ally.log.warning("a warning\nin two lines")
        try:
            raise ValueError("inner")  # noqa: TRY301 - to have one to log
        except ValueError:
            self.ally.log.exception("an error")

    @tool
    def log_from_thread(self) -> None:
        self.ally.log.error("from a thread")

    @tool
    async def flood(self) -> None:
        for number in range(50):
            self.ally.log.info("line %d", number)


class Slow(Plain):
    """Tools and observers that take long, and say when they are interrupted."""

    async def _wait(self, what: str) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.seen.append(f"{what} was interrupted")
            raise

    @tool(timeout=0.3)
    async def wait(self) -> None:
        await self._wait("wait")

    @tool
    async def wait_long(self) -> None:
        self.seen.append("waits")
        await self._wait("wait_long")

    @tool(timeout=0.3)
    def block(self) -> str:
        time.sleep(0.6)
        self.seen.append("block has ended")
        return "late"

    @action(timeout=0.3)
    async def wait_action(self) -> None:
        await self._wait("action")

    @hookimpl
    async def ally_tool_call_end(self, event: Any) -> None:
        if event.tool_name == "hang":
            await self._wait("observer")
        self.seen.append(event.tool_name)

    @hookimpl
    async def ally_transform_tool_input(self, call: Any) -> None:
        if call.tool_name == "hang":
            await self._wait("transform")

    @hookimpl
    async def ally_gate_tool_call(self, call: Any) -> None:
        if call.tool_name == "note":
            self.seen.append("asked")
        if call.tool_name in {"hang", "note"}:
            await self._wait("gate")


class UnknownHook(Plain):
    @hookimpl
    async def ally_tool_cal_end(self, event: Any) -> None: ...


class UnknownArgument(Plain):
    @hookimpl
    async def ally_tool_call_end(self, evnt: Any) -> None: ...


class DefaultedArgument(Plain):
    @hookimpl
    async def ally_tool_call_end(self, event: Any = None) -> None: ...


class KeywordOnly(Plain):
    @hookimpl
    async def ally_tool_call_end(self, *, event: Any) -> None: ...


class Wraps(Plain):
    @hookimpl(wrapper=True)
    def ally_tool_call_end(self, event: Any) -> Any:
        yield


class Yields(Plain):
    @hookimpl
    def ally_tool_call_end(self, event: Any) -> Any:
        yield


class PlaysHost(Plain):
    @hookimpl
    async def ally_add_message(self, session: Any, message: Any) -> bool:
        return True


class Twice(Plain):
    @hookimpl
    async def ally_tool_call_end(self, event: Any) -> None: ...

    @hookimpl(specname="ally_tool_call_end")
    async def again(self, event: Any) -> None: ...


class WrongTool(Plain):
    @tool(name="no good name")
    async def work(self) -> None: ...


class TwoTools(Plain):
    @tool(name="look")
    async def work(self) -> None: ...


class Hooks:
    """One hook of each kind, and no tool."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally


class Observes(Hooks):
    @hookimpl
    async def ally_tool_call_end(self, event: Any) -> None: ...


class ObservesAll(Hooks):
    @hookimpl
    async def ally_event(self, event: Any) -> None: ...


class Gates(Hooks):
    @hookimpl
    async def ally_gate_tool_call(self, call: Any) -> None: ...


class Transforms(Hooks):
    @hookimpl
    async def ally_transform_user_message(self, message: Any) -> None: ...


class HasTool(Hooks):
    @tool
    async def work(self) -> None: ...


class HasAction(Hooks):
    @action
    async def work(self) -> None: ...


class HasAgentsAction(Hooks):
    @action(agent=True)
    async def work(self) -> None: ...
