"""Plugins that the tests of placements run inline and in a process: outbound calls, tools, actions and tasks."""

# ruff: noqa: ARG002 - hooks name what they are given, used or not

from __future__ import annotations

import asyncio
import enum
import threading
from typing import Any

import attrs
from placed_hooks import HearsAll, Plain, act

from ally_plugins import (
    Ally,
    BudgetRefused,
    Context,
    Deny,
    RefusedError,
    Replace,
    ToolResult,
    action,
    evolve,
    hookimpl,
    tool,
)

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
        return await asyncio.gather(*map(outcome, calls))


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@attrs.frozen
class Size:
    width: int = attrs.field(validator=attrs.validators.gt(0))


class Offers(Plain):
    """Tools and an action by decorator, and one that comes and goes."""

    @tool(timeout=7, visible_to=["coder"])
    async def measure(self, path: str, depth: int = 1) -> str:
        """Measure a thing.

        Args:
            path: where it lies
        """
        return f"{path} {depth}"

    @tool
    def pick(self, size: Size, colour: Colour = Colour.BLUE) -> Any:
        """Pick a size."""
        return {"message": f"{size.width} {colour}"}["message"]

    @action(agent=True)
    async def tidy(self, what: str = "all") -> str:
        """Tidy up."""
        return what

    async def _later(self, number: int) -> int:
        return number + 1

    @tool
    async def add(self) -> Any:
        made = await outcome(self.ally.register_tool(self._later, name="later", description="adds one"))
        return made.get("returned", made)

    @tool
    async def drop(self) -> None:
        await self.ally.unregister("later")

    @tool
    async def drop_again(self) -> Any:
        return await outcome(self.ally.unregister("later"))

    @tool
    async def add_wrong(self) -> list[Any]:
        later: Any = self._later
        return [
            await outcome(self.ally.register_tool(later, name="no good")),
            await outcome(self.ally.register_tool(later, name="x", timeout=-1)),
            await outcome(self.ally.register_tool(later, name="x", wrong=True)),
            await outcome(self.ally.register_tool("no function", name="x")),  # type: ignore[arg-type]
            await outcome(self.ally.register_tool(later, name="x", schema={"type": "array"})),
            await outcome(self.ally.register_action(later, name="x", schema={"type": "object", "properties": 5})),
        ]


class Returns(Plain):
    """Tools that come to all kinds of ends."""

    def _give(self, how: str) -> Any:
        given: dict[str, Any] = {
            "text": "a text",
            "nothing": None,
            "result": ToolResult(False, "out", "no", {"a": [1]}),  # noqa: FBT003
            "message": {"message": "said", "n": 1},
            "unsuccessful": {"success": False},
            "tuple": (1, [2]),
            "number": 0.5,
        }
        return given[how] if how in given else act(how)

    @tool
    async def give(self, how: str) -> Any:
        if how == "refused":
            await self.ally.add_message("user", "x", session_id="nowhere")
        return self._give(how)

    @tool
    def give_in_thread(self, how: str) -> Any:
        return self._give(how)


class Acts(Plain):
    @action
    async def act(self, number: int) -> Any:
        return {"number": number, "session": self.ally.session, "list": (1, 2)}

    @action
    def fails(self) -> None:
        raise ValueError("a broken thing")

    @action
    async def slow(self) -> None:
        await asyncio.sleep(3600)


class Works(Plain):
    """Starts tasks; `how` says to what end."""

    def __init__(self, ally: Ally) -> None:
        super().__init__(ally)
        self.tasks: list[Any] = []
        self.progress: list[Any] = []
        self.notes: dict[str, asyncio.Event] = {}

    async def _work(self, how: str) -> Any:
        await self.ally.task_progress(0.5, f"half of {self.ally.session}")
        self.notes.setdefault(f"{how}s", asyncio.Event()).set()
        if how == "wait":
            try:
                await asyncio.sleep(3600)
            finally:
                await self.ally.add_message("user", "cleaned up")
        if how == "refused":
            await self.ally.add_message("system", "x")
        if how == "cancels itself":
            raise asyncio.CancelledError
        act(how)
        return {"list": (1, 2), "session": self.ally.session}

    @tool
    async def start(self, how: str) -> Any:
        try:
            task = await self.ally.start_task("indexing", self._work(how))
        except RefusedError as error:
            return failure(error)
        self.tasks.append(task)
        return task.id

    @tool
    async def heard(self, what: str) -> None:
        await self.notes.setdefault(what, asyncio.Event()).wait()

    @tool
    async def result(self) -> dict[str, Any]:
        task = self.tasks[-1]
        try:
            found = {"returned": await task.result()}
        except BaseException as error:  # noqa: BLE001 - CancelledError too
            found = failure(error)
        return {"state": task.state, **found}

    @tool
    async def cancel(self) -> bool:
        return bool(self.tasks[-1].cancel())

    @tool
    def cancel_from_thread(self) -> bool:
        return bool(self.tasks[-1].cancel())

    @tool
    async def start_wrong(self) -> list[Any]:
        no_coroutine: Any = self._work
        return [
            await outcome(self.ally.start_task("no good", self._work("done"))),
            await outcome(self.ally.start_task("x", lambda: no_coroutine)),  # type: ignore[arg-type]
            await outcome(self.ally.task_progress(0.5)),
        ]

    @tool
    async def wrong_progress(self) -> list[Any]:
        wrong: Any = "half"
        calls = [(1.5, None), (wrong, None), (0.5, "a\x00b")]
        (task,) = self.tasks
        task.cancel()
        await asyncio.wait([asyncio.ensure_future(task.result())])

        async def report() -> None:
            self.progress.extend([await outcome(self.ally.task_progress(*call)) for call in calls])

        while True:  # until the host has seen the end of the first
            try:
                await (await self.ally.start_task("wrong", report())).result()
            except BudgetRefused:
                await asyncio.sleep(0.01)
            else:
                return self.progress


class Large(Plain):
    """Takes and gives values that are large, or that JSON cannot say."""

    @tool
    async def give(self, characters: int) -> str:
        return "x" * characters

    @tool
    async def give_odd(self, how: str) -> Any:
        return {"object": object(), "bytes": b"x", "nan": float("nan"), "keys": {1: 2}, "set": {1}, "big": 2**70}[how]

    @tool
    async def take(self, value: Any) -> dict[str, Any]:
        return {"type": type(value).__name__, "length": len(str(value)), "repr": ascii(value)[:60]}

    @tool
    async def say(self, characters: int) -> Any:
        return [
            await outcome(self.ally.add_message("user", "x" * characters)),
            await outcome(self.ally.emit_event("news", {"text": "x" * characters})),
            await outcome(self.ally.request_action("compact", {"text": "x" * characters})),
        ]

    @hookimpl
    async def ally_transform_tool_output(self, result: Any) -> Any:
        return Replace(evolve(result, output=result.output + "x"))

    @hookimpl
    async def ally_tool_call_end(self, event: Any) -> None:
        self.seen.append(len(event.output or ""))


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


class Meets(Plain):
    """Two calls of its tools wait for each other."""

    def __init__(self, ally: Ally) -> None:
        super().__init__(ally)
        self.barrier = threading.Barrier(2)
        self.here = asyncio.Event()

    @tool
    def meet(self) -> str:
        self.barrier.wait(30)
        return "met"

    @tool
    async def wait(self) -> str:
        await self.here.wait()
        return "waited"

    @hookimpl
    async def ally_tool_call_end(self, event: Any) -> None:
        self.here.set()
        await asyncio.sleep(0)
        self.seen.append("heard")


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
