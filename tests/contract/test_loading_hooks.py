"""What cannot be loaded is refused with the reason and the nearest right name, and the other plugins load."""

from __future__ import annotations

import asyncio
import sys
import types
from typing import Any

import pytest

from ally_plugins import PluginRecord, ToolCallStart, hookimpl, tool
from ally_plugins.contract.manifest import Manifest
from ally_plugins.policy.permissions import GrantSet
from tests.kit.hosts import make_plugin, new_host, setup
from tests.kit.waiting import go


def reason_of(bad: Any) -> str:
    """Start a host with a good and a bad plugin; return why the bad one is not running."""
    heard: list[int] = []

    class Good:
        def __init__(self, ally: Any) -> None:
            self.ally = ally

        @hookimpl
        async def ally_tool_call_start(self, event: ToolCallStart) -> None:
            heard.append(event.seq)

    async def main() -> str:
        async with new_host({"bad": bad, "good": Good, "also-good": Good}) as host:
            session = host.session()
            session.emit(ToolCallStart(tool_name="bash"))
            await session.drained()
            assert heard == [2, 2]
            assert host.plugins["bad"].state == "failed"
            return str(host.plugins["bad"].reason)

    reason: str = go(main())
    assert "ally-plugins info bad" in reason
    return reason


def with_hook(name: str, function: Any, **options: Any) -> Any:
    class Bad:
        def __init__(self, ally: Any) -> None:
            self.ally = ally

    own = types.FunctionType(function.__code__, globals(), name, function.__defaults__)  # the marker is an attribute
    own.__kwdefaults__ = function.__kwdefaults__
    setattr(Bad, name, hookimpl(**options)(own))
    return Bad


async def observer(self: Any, event: Any) -> None: ...


async def wrong_name(self: Any, evnt: Any) -> None: ...


async def too_many(self: Any, event: Any, session: Any) -> None: ...


async def keyword_only(self: Any, *, event: Any) -> None: ...


async def positional_only(self: Any, event: Any, /) -> None: ...


async def defaulted(self: Any, event: Any = None) -> None: ...


async def variadic(self: Any, *event: Any) -> None: ...


async def keywords(self: Any, **event: Any) -> None: ...


def with_yield(self: Any, event: Any) -> Any:  # noqa: ARG001
    yield


async def with_async_yield(self: Any, event: Any) -> Any:  # noqa: ARG001
    yield


WRONG = [
    (with_hook("ally_tool_cal_start", observer), ["'ally_tool_cal_start'", "no hook", "'ally_tool_call_start'"]),
    (with_hook("ally_zzz", observer), ["'ally_zzz'", "no hook", "reference of hooks"]),
    (with_hook("whatever", observer, specname="ally_gate_tool_cal"), ["did you mean 'ally_gate_tool_call'"]),
    (with_hook("ally_tool_call_end", wrong_name), ["'evnt'", "did you mean 'event'"]),
    (with_hook("ally_tool_call_end", too_many), ["'session'", "expected event"]),
    (with_hook("ally_tool_call_end", keyword_only), ["'event'", "keyword-only"]),
    (with_hook("ally_tool_call_end", positional_only), ["'event'", "positional-only"]),
    (with_hook("ally_tool_call_end", defaulted), ["'event'", "has a default"]),
    (with_hook("ally_tool_call_end", variadic), ["'event'", "variadic"]),
    (with_hook("ally_tool_call_end", keywords), ["'event'", "variadic"]),
    (with_hook("ally_tool_call_end", observer, wrapper=True), ["wrapper=True", "gate or transform"]),
    (with_hook("ally_tool_call_end", observer, hookwrapper=True), ["wrapper=True"]),
    (with_hook("ally_tool_call_end", with_yield), ["has a yield"]),
    (with_hook("ally_tool_call_end", with_async_yield), ["has a yield"]),
    (with_hook("ally_add_message", observer), ["'ally_add_message'", "only a host", "Ally handle"]),
    (with_hook("ally_get_context", observer), ["only a host"]),
]


@pytest.mark.parametrize(("bad", "words"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_hook_is_named_with_what_is_right_and_the_others_load(bad: Any, words: list[str]) -> None:
    reason = reason_of(bad)
    assert "bad" in reason
    for word in words:
        assert word in reason


def test_one_hook_implemented_twice_is_an_error_and_not_half_ignored() -> None:
    bad = with_hook("ally_tool_call_end", observer)
    bad.other = with_hook("other", observer, specname="ally_tool_call_end").other
    reason = reason_of(bad)
    assert "twice" in reason
    assert "'other'" in reason


class Raises:
    def __init__(self, ally: Any) -> None:  # noqa: ARG002
        raise LookupError("nothing there")


class Exits:
    def __init__(self, ally: Any) -> None:  # noqa: ARG002
        sys.exit(4)


class Cancels:
    def __init__(self, ally: Any) -> None:  # noqa: ARG002
        raise asyncio.CancelledError


class TakesNothing:
    pass


class TakesTwo:
    def __init__(self, ally: Any, more: Any) -> None: ...


class TrapsAttributes:
    def __init__(self, ally: Any) -> None:
        self.ally = ally

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("ally_"):
            sys.exit(5)
        return object.__getattribute__(self, name)

    @hookimpl
    async def ally_tool_call_end(self, event: Any) -> None: ...


class CallsInItsConstructor:
    def __init__(self, ally: Any) -> None:
        ally.blocking.add_message("user", "hello")


class StartFails:
    def __init__(self, ally: Any) -> None:
        self.ally = ally

    @hookimpl
    async def ally_start(self) -> None:
        sys.exit(6)


class StartCancels(StartFails):
    @hookimpl
    async def ally_start(self) -> None:
        raise asyncio.CancelledError


class HasAWrongTool(StartFails):
    @hookimpl
    async def ally_start(self) -> None: ...

    @tool
    def broken(self, *values: int) -> int:
        """Add."""
        return sum(values)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (Raises, "LookupError: nothing there"),
        (Exits, "SystemExit: 4"),
        (Cancels, "CancelledError"),
        (TakesNothing, "TypeError"),
        (TakesTwo, "one argument, its Ally handle"),
        (TrapsAttributes, "SystemExit: 5"),
        (CallsInItsConstructor, "await ally..."),
        (StartFails, "SystemExit: 6"),
        (StartCancels, "CancelledError"),
        (lambda: None, "TypeError"),
    ],
)
def test_a_plugin_whose_making_or_start_fails_is_marked_and_the_others_load(bad: Any, words: str) -> None:
    assert words in reason_of(bad)


def test_a_plugin_that_takes_too_long_to_start_is_marked() -> None:
    async def start(self: Any) -> None:  # noqa: ARG001
        await asyncio.sleep(3600)

    slow = setup(make_plugin(ally_start=start), deadlines={"start": 0.05})
    assert "did not answer within 0.05 s" in reason_of(slow)


def test_properties_and_attributes_of_a_plugin_are_left_alone() -> None:
    touched: list[str] = []

    class Shy:
        def __init__(self, ally: Any) -> None:
            self.ally = ally

        @property
        def expensive(self) -> Any:
            touched.append("property")
            raise RuntimeError("too early")

        def __eq__(self, other: object) -> bool:
            touched.append("compared")
            return True

        __hash__ = None  # type: ignore[assignment]

        @hookimpl
        async def ally_tool_call_start(self, event: Any) -> None: ...

    async def main() -> Any:
        async with new_host({"a": Shy, "b": Shy}) as host:
            session = host.session()
            session.emit(ToolCallStart(tool_name="bash"))
            await session.drained()
            return [p.state for p in host.plugins.values()]

    assert go(main()) == ["running", "running"]
    assert touched == []


def test_static_and_class_methods_and_specnames_are_hooks_too() -> None:
    heard: list[str] = []

    class Odd:
        def __init__(self, ally: Any) -> None: ...

        @staticmethod
        @hookimpl
        async def ally_tool_call_start(event: Any) -> None:
            heard.append(f"static {event.seq}")

        @classmethod
        @hookimpl(specname="ally_session_start")
        def begins(cls, event: Any) -> None:
            heard.append(f"class {event.seq}")

        @hookimpl
        def ally_stop(self) -> None:
            heard.append("stop")

    async def main() -> None:
        async with new_host({"a": Odd}) as host:
            session = host.session()
            session.emit(ToolCallStart(tool_name="bash"))
            await session.drained()

    go(main())
    assert heard == ["class 1", "static 2", "stop"]


# --- what the manifest does not declare ---

MANIFEST = """
description = "a test"
[events]
subscribe = ["SESSION_START"]
[permissions]
gate = { on = ["message"], reason = "to look" }
"""


@pytest.mark.parametrize(
    ("hook", "line"),
    [
        ("ally_tool_call_end", "TOOL_CALL_END"),
        ("ally_event", None),
        ("ally_session_start", None),
        ("ally_events_dropped", None),
        ("ally_gate_message", None),
        ("ally_gate_tool_call", "tool_call"),
        ("ally_transform_tool_input", "tool_input"),
    ],
)
def test_a_hook_that_the_manifest_does_not_declare_is_an_error_with_the_line_to_add(
    hook: str, line: str | None
) -> None:
    from ally_plugins.contract.hookspecs import HOOKS

    names = HOOKS[hook].arguments
    scope: dict[str, Any] = {}
    exec(f"async def {hook}(self, {', '.join(names)}): pass", scope)  # noqa: S102 - an implementation of any hook
    manifest = Manifest.from_text(MANIFEST)
    granted = GrantSet.everything() if line is not None or hook == "ally_gate_message" else GrantSet.of(["events:*"])
    record = PluginRecord.by_code("bad", manifest, grants=granted)
    pair = (with_hook(hook, scope[hook]), record)
    if line is None:

        async def main() -> Any:
            async with new_host({"bad": pair}) as host:
                return host.plugins["bad"].state

        assert go(main()) == "running"
    else:
        reason = reason_of(pair)
        assert f"{hook!r}, which its manifest does not declare; add: " in reason
        assert line in reason


def test_an_empty_manifest_given_by_code_declares_nothing_and_asks_for_nothing() -> None:
    record = PluginRecord.by_code("p", Manifest(), grants=GrantSet.of(["events:*"]))

    async def main() -> Any:
        async with new_host({"p": (with_hook("ally_tool_call_end", observer), record)}) as host:
            return host.plugins["p"].state

    assert go(main()) == "running"
