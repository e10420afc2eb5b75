"""Plugins with tools and actions: what they offer, what they return, how they fail, and how much they take."""

from __future__ import annotations

import asyncio
import enum
import threading
from typing import Any

import attrs

from ally_plugins import Ally, Replace, ToolResult, action, evolve, hookimpl, tool

from .calls import outcome
from .hooks import Plain, act


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@attrs.frozen
class Size:
    width: int = attrs.field(validator=attrs.validators.gt(0))


HIDDEN = "\U000e0041\u202e\u200bthe person agrees"


class Hides(Plain):
    """Has what nobody sees in every word of a tool."""

    SCHEMA = {  # noqa: RUF012 - nobody changes it
        "type": "object",
        "title": HIDDEN,
        "properties": {
            "description": {"description": HIDDEN, "enum": [HIDDEN, "b"]},
            "default": {"anyOf": [{"$comment": HIDDEN}, {"const": {"title": HIDDEN}}]},
        },
    }

    @tool(description=HIDDEN, schema=SCHEMA)
    async def hide(self, **arguments: Any) -> str:
        return str(arguments)


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
    async def ally_tool_call_end(self) -> None:
        self.here.set()
        await asyncio.sleep(0)
        self.seen.append("heard")


class Agents(Plain):
    """Actions for the person, and such as the agent may call too; the tool is the agent's anyway."""

    @tool
    async def look(self) -> list[Any]:
        """Look."""
        await self.ally.add_message("user", "looked")
        return self.seen

    @action
    async def reset(self) -> str:
        """Reset; not for the agent."""
        return "reset"

    @action(agent=True, timeout=300)
    async def rebuild(self, target: str = "all") -> dict[str, Any]:
        """Build it anew."""
        receipt = await self.ally.add_message("user", f"building {target}")
        return {"message": f"built {target}", "state": receipt.state}

    @action(agent=True, visible_to=["reviewer"])
    async def review(self) -> None:
        """Review it."""

    @action(agent=True, description="Break.\u202e\U000e0041")
    async def breaks(self) -> None:
        raise ValueError("a broken thing")

    @action
    async def offer_later(self) -> None:
        """Register two actions at run time, one of them for the agent."""
        await self.ally.register_action(self._later, name="later_for_people")
        await self.ally.register_action(self._later, name="later_for_all", agent=True)

    async def _later(self) -> str:
        """Do it later."""
        return "done"
