"""Guards for the tests of placements whose gate or transform is not there, each in a way of its own."""

# ruff: noqa: ARG001, ARG002, ARG003, ARG004, ARG005 - hooks name what they are given, used or not

from __future__ import annotations

from functools import cached_property, partial, partialmethod, update_wrapper
from typing import Any

import pluggy
from attrs import define

from ally_plugins import Allow, Ally, Deny, Replace, evolve, hookimpl
from ally_plugins.contract.markers import hookspec

from .hooks import Plain

of_another = pluggy.HookimplMarker("pytest")


class Works(Plain):
    @hookimpl
    async def ally_gate_tool_call(self, call: Any) -> Any:
        return Deny("never")


class NoMark(Plain):
    async def ally_gate_tool_call(self, call: Any) -> Any:
        return Deny("never")


class NoMarkInThread(Plain):
    def ally_gate_message(self, message: Any) -> Any:
        return Deny("never")


class NoMarkOnAnObserver(Plain):
    async def ally_tool_call_end(self, event: Any) -> None:
        raise AssertionError


class NoMarkOnAStart(Plain):
    async def ally_start(self) -> None:
        raise AssertionError


class MarkOfAnother(Plain):
    @of_another
    async def ally_gate_permission(self, request: Any) -> Any:
        return Deny("never")


class Specifies(Plain):
    @hookspec
    async def ally_gate_tool_call(self, call: Any) -> Any:
        return Deny("never")


class OverridesTheMark(Works):
    async def ally_gate_tool_call(self, call: Any) -> Any:
        return Deny("never, and more so")


class MarkedForAnother(Plain):
    @hookimpl(specname="ally_event")
    async def ally_gate_tool_call(self, event: Any) -> Any:
        return Deny("never")


class Static(Plain):
    @staticmethod
    async def ally_gate_tool_call(call: Any) -> Any:
        return Deny("never")


class Property(Plain):
    @property
    def ally_gate_tool_call(self) -> Any:
        raise AssertionError


class Slot:
    __slots__ = ("ally_gate_tool_call",)

    def __init__(self, ally: Ally) -> None:
        self.ally_gate_tool_call = hookimpl(lambda call: Deny("never"))


class PartialMethod(Plain):
    async def _gate(self, word: str, call: Any) -> Any:
        return Deny(word)

    ally_gate_tool_call = hookimpl(partialmethod(_gate, "never"))  # type: ignore[call-overload]  # it is wrong


class OnTheInstance(Plain):
    def __init__(self, ally: Ally) -> None:
        super().__init__(ally)
        self.ally_gate_tool_call = hookimpl(self._made())

    def _made(self) -> Any:
        async def ally_gate_tool_call(call: Any) -> Any:
            return Deny("never")

        return ally_gate_tool_call


class BindsToNoFunction(Plain):
    """A decorator that is a class, as they are often written."""

    class Timed:
        def __init__(self, function: Any) -> None:
            update_wrapper(self, function)
            self.function = function

        def __get__(self, instance: Any, owner: Any = None) -> Any:
            return partial(self.function, instance)

        def __call__(self, *arguments: Any) -> Any:
            return self.function(*arguments)

    @Timed
    @hookimpl
    async def ally_gate_permission(self, request: Any) -> Any:
        return Deny("never")


class IsItsOwnDict(dict):  # type: ignore[type-arg]
    def __init__(self, ally: Ally) -> None:
        super().__init__(ally_gate_message=lambda message: Deny("never"))
        self.__dict__ = self


class UnderAnotherNameOnTheInstance(Plain):
    def __init__(self, ally: Ally) -> None:
        super().__init__(ally)
        self.judge = hookimpl(lambda call: Deny("never"), specname="ally_gate_tool_call")


class HiddenByTheInstance(Works):
    def __init__(self, ally: Ally) -> None:
        super().__init__(ally)
        self.ally_gate_tool_call = partial(Works.ally_gate_tool_call, self)  # type: ignore[method-assign]


class Misspelt(Plain):
    async def ally_gate_toolcall(self, call: Any) -> Any:
        return Deny("never")


class MisspeltTransform(Plain):
    async def ally_transform_tooloutput(self, result: Any) -> Any:
        return Replace(evolve(result, output=""))


def forgets_to_return(ally: Ally) -> Any:
    Works(ally)


def returns_the_class(ally: Ally) -> Any:
    return Works


async def is_asynchronous(ally: Ally) -> Any:
    return Works(ally)


# --- nothing in the class looks like the hook; only what was granted tells that it should be there ---


class ByGetattr(Plain):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("ally_gate_"):
            return hookimpl(lambda call: Deny("never"))
        raise AttributeError(name)


class _Meta(type):
    @hookimpl
    async def ally_gate_tool_call(cls, call: Any) -> Any:
        return Deny("never")


class OnTheMetaclass(Plain, metaclass=_Meta):
    pass


class WithoutThePrefix(Plain):
    async def gate_tool_call(self, call: Any) -> Any:
        return Deny("never")


class OfANewerHost(Plain):
    """What an author means who marks a misspelt hook as optional."""

    @hookimpl(optionalhook=True)
    async def ally_gate_toolcalls(self, call: Any) -> Any:
        return Deny("never")


class AnotherGate(Plain):
    @hookimpl
    async def ally_gate_message(self, message: Any) -> Any:
        return Allow()


# --- right ones ---


class MarkedOutside(Plain):
    """The marker stands above `staticmethod` and `classmethod`."""

    @hookimpl
    @staticmethod
    async def ally_gate_tool_call(call: Any) -> Any:
        return Deny("never") if call.arguments.get("command") == "rm" else None

    @hookimpl
    @classmethod
    async def ally_gate_message(cls, message: Any) -> Any:
        return None


class Newer(Plain):
    """Written for this host and newer ones."""

    @hookimpl(optionalhook=True)
    async def ally_gate_answer_of_tomorrow(self, message: Any, whatever: Any = None) -> Any:
        raise AssertionError

    @hookimpl(optionalhook=True)
    async def ally_gate_tool_call(self, call: Any) -> Any:
        return Deny("never") if call.arguments.get("command") == "rm" else None


class KeepsATime(Plain):
    """What is no function and no mark is left alone, whatever it is called."""

    ally_stop = None

    def __init__(self, ally: Ally) -> None:
        super().__init__(ally)
        self.ally_start = 17.5
        self.judged = self.ally_gate_tool_call  # an alias of a hook is no second one

    @hookimpl
    async def ally_gate_tool_call(self, call: Any) -> Any:
        return Deny("never") if call.arguments.get("command") == "rm" else None


class _NotThereYet:
    """A proxy, as web frameworks have them, of what is there within a request alone."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("outside of a request")


class HasNamesOfItsOwn(Plain):
    """Helpers whose names begin like those of gates, and nobody could take for one."""

    current = _NotThereYet()
    ally_gate_error = ValueError

    class ally_gate_state(dict):  # type: ignore[type-arg]  # noqa: N801 - it begins so
        pass

    @property
    def ally_gate_tool_count(self) -> Any:
        raise AssertionError

    @cached_property
    def ally_transform_words(self) -> Any:
        raise AssertionError

    async def ally_gate_reason_for(self, call: Any) -> str:
        return f"never {call.tool_name}"

    @hookimpl
    async def ally_gate_tool_call(self, call: Any) -> Any:
        return Deny(await self.ally_gate_reason_for(call)) if call.arguments.get("command") == "rm" else None


@define
class KeepsDataInSlots:
    ally: Ally
    ally_start: float = 17.5
    ally_gate_message: str = "of the day"
    ally_transform_tool_inputs: int = 0

    @hookimpl
    async def ally_gate_tool_call(self, call: Any) -> Any:
        return Deny("never") if call.arguments.get("command") == "rm" else None
