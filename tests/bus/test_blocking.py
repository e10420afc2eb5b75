"""The host for programs without a loop: its whole life from plain threads."""

# ruff: noqa: ARG001, ARG002, PT012 - hooks and fixtures name what they are given, used or not

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import pytest

from ally_plugins import (
    Ally,
    Ask,
    BlockingHost,
    Deny,
    Host,
    HostError,
    Session,
    SessionError,
    ToolCall,
    ToolCallStart,
    ToolResult,
    action,
    hookimpl,
    tool,
)
from ally_plugins.contract.handle import BlockingAlly
from ally_plugins.host.blocking import BlockingSession
from ally_plugins.runtime.lanes import loopthread
from ally_plugins.runtime.lanes.loopthread import LoopThread
from ally_plugins.runtime.lanes.outbound import LoopCalls
from ally_plugins.testing import BlockingHarness, PluginHarness

CALL = ToolCall("bash", {"command": "ls"})


class Plugin:
    """A plugin with a little of everything."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally

    @hookimpl
    def ally_tool_call_start(self, event: ToolCallStart) -> None:
        self.ally.blocking.add_message("user", f"{event.tool_name} in {event.session_id}")

    @hookimpl
    async def ally_gate_tool_call(self, call: ToolCall) -> Any:
        return {"rm": Deny("no"), "mv": Ask("sure?")}.get(call.tool_name)

    @tool
    def add(self, a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @action
    def greet(self, name: str) -> str:
        """Greet."""
        return f"hello {name}"


def options(**more: Any) -> dict[str, Any]:
    return {"home": None, "discover": False, **more}


def test_a_host_s_whole_life_from_a_plain_thread(no_leaks: None) -> None:
    with BlockingHost("test", plugins={"p": Plugin}, has_person=True, **options()) as host:
        session = host.session("s", focus="/work")
        session.emit(ToolCallStart(tool_name="bash"))
        session.drained()
        assert [message.content for message in session.safe_point()] == ["bash in s"]
        assert session.gate_tool_call(ToolCall("rm")).is_denied
        assert host.call_tool("add", {"a": 1, "b": 2}).data == 3
        assert session.request_action("greet", {"name": "you"}) == "hello you"
        (offered,) = session.agent_tools(taken=["add"])
        assert offered.name == "p__add"
        assert session.call_agent_tool(offered, {"a": 2, "b": 2}).data == 4

        def work(call: ToolCall) -> ToolResult:
            return ToolResult(success=True, output=threading.current_thread().name)

        result = session.run_tool_call(CALL, work)
        assert result.output not in {"ally-host", threading.current_thread().name}
        assert session.run_tool_call(ToolCall("mv"), work, ask=lambda *_: True).success
        assert not session.run_tool_call(ToolCall("mv"), work, ask=lambda *_: False).success
        assert not session.run_tool_call(ToolCall("mv"), work).success
        session.close()
        assert session.session.is_closed
    host.stop()
    with pytest.raises(HostError, match="does not run"):
        host.session("s")


@pytest.mark.parametrize(
    ("facade", "behind"),
    [
        (BlockingHost, Host),
        (BlockingSession, Session),
        (BlockingAlly, Ally),
        (BlockingHarness, PluginHarness),
    ],
)
def test_a_blocking_call_has_the_arguments_and_the_words_of_the_one_behind_it(facade: type, behind: type) -> None:
    by_hand = {"session", "begin_call", "run_tool_call", "start", "stop", "start_task"}
    same = {name for name in vars(facade) if callable(getattr(behind, name, None)) and not name.startswith("_")}
    assert same - by_hand
    for name in same - by_hand:
        blocking, call = getattr(facade, name), getattr(behind, name)
        assert not inspect.iscoroutinefunction(blocking)
        assert inspect.signature(blocking) == inspect.signature(call)
        assert inspect.getdoc(blocking) == inspect.getdoc(call)
    for name in same & by_hand:
        assert not inspect.iscoroutinefunction(getattr(facade, name))


def test_two_threads_have_their_own_sessions(no_leaks: None) -> None:
    found: dict[str, list[str]] = {}

    def live(host: BlockingHost, name: str) -> None:
        session = host.session(name)
        for _ in range(10):
            session.emit(ToolCallStart(tool_name="bash"))
        session.drained()
        found[name] = [message.content for message in session.safe_point()]

    with BlockingHost("test", plugins={"p": Plugin}, **options()) as host:
        threads = [threading.Thread(target=live, args=(host, name)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert found == {name: [f"bash in {name}"] * 10 for name in "ab"}


def test_a_host_that_cannot_start_leaves_nothing_running(no_leaks: None) -> None:
    from ally_plugins import PluginRecord
    from ally_plugins.catalog.home.config import PluginConfig

    class Broken:
        def __init__(self, ally: Ally) -> None:
            raise ZeroDivisionError("at start")

    record = PluginRecord.by_code("p", config=PluginConfig(enabled=True, is_decided=True, mandatory=True))
    host = BlockingHost("test", plugins={"p": (Broken, record)}, **options())
    with pytest.raises(HostError, match="the mandatory plugin 'p' is failed"):
        host.start()
    with pytest.raises(HostError, match="does not run"):
        host.session()


@pytest.mark.slow
def test_a_call_that_its_loop_did_not_come_to_any_more_leaves_no_coroutine_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.new_event_loop()

    async def work() -> None:
        """Never run."""

    async def calls() -> LoopCalls:
        return LoopCalls("p")

    late = loop.run_until_complete(calls())
    monkeypatch.setattr(loop, "call_soon_threadsafe", lambda *_, **__: loop.close())  # between the call and its turn
    with ThreadPoolExecutor(1) as threads, pytest.raises(TimeoutError):
        threads.submit(lambda: late.run_blocking(work(), 0.01)).result()
    assert loop.is_closed()
    gc.collect()  # a coroutine that was never awaited is an error


def test_starting_twice_is_an_error_and_hurts_nothing() -> None:
    with BlockingHost("test", **options()) as host:
        with pytest.raises(HostError, match="runs already"):
            host.start()
        assert host.session("s").id == "s"


def test_a_call_that_takes_longer_than_its_wait_is_cancelled(no_leaks: None) -> None:
    with BlockingHost("test", wait=0.05, **options()) as host:
        session = host.session("s")
        with pytest.raises(TimeoutError):
            session.wait_for_trigger()
        assert session.safe_point() == ()


def test_a_short_wait_does_not_cut_off_start_and_stop(no_leaks: None) -> None:
    stopped: list[str] = []

    class Slow:
        def __init__(self, ally: Ally) -> None:
            self.ally = ally

        @hookimpl
        async def ally_start(self) -> None:
            import asyncio

            await asyncio.sleep(0.05)

        @hookimpl
        async def ally_stop(self) -> None:
            import asyncio

            await asyncio.sleep(0.05)
            stopped.append(self.ally.name)

    with BlockingHost("test", wait=0.01, plugins={"p": Slow}, **options()) as host:
        assert host.host.plugins["p"].is_running
    assert stopped == ["p"]


def test_an_exception_in_the_block_stops_the_host_too(no_leaks: None) -> None:
    with pytest.raises(ZeroDivisionError), BlockingHost("test", plugins={"p": Plugin}, **options()) as host:
        host.session("s").emit(ToolCallStart(tool_name="bash"))
        raise ZeroDivisionError


def test_a_blocking_call_on_the_host_s_own_thread_is_an_error(no_leaks: None) -> None:
    caught: list[BaseException] = []

    with BlockingHost("test", **options()) as host:

        def listener(event: Any) -> None:
            try:
                host.session("other")
            except RuntimeError as error:
                caught.append(error)

        host.host.stream.subscribe("SESSION_START", listener)
        host.session("s")
    assert len(caught) == 1
    assert "own thread" in str(caught[0])


@pytest.mark.slow
def test_a_function_that_does_not_return_does_not_keep_the_host_from_stopping() -> None:
    begun, may_return = threading.Event(), threading.Event()
    seen: list[threading.Thread] = []

    def work(call: ToolCall) -> ToolResult:
        seen.append(threading.current_thread())
        begun.set()
        may_return.wait()
        return ToolResult(success=True)

    def call() -> None:
        with pytest.raises(SessionError, match="is closed"):
            session.run_tool_call(CALL, work)

    with BlockingHost("test", **options()) as host:
        session = host.session("s")
        caller = threading.Thread(target=call)
        caller.start()
        begun.wait()
    assert seen[0].is_alive()
    caller.join(20)  # it was told, though its function runs on
    assert not caller.is_alive()
    may_return.set()
    seen[0].join(20)
    assert not seen[0].is_alive()


def test_what_a_function_asks_of_the_loop_while_it_ends_is_answered(no_leaks: None) -> None:
    begun, is_ending, may_ask = threading.Event(), threading.Event(), threading.Event()
    answered: list[int] = []

    async def answer() -> int:
        return 7

    def ask(loop: asyncio.AbstractEventLoop) -> None:
        begun.set()
        may_ask.wait()
        answered.append(asyncio.run_coroutine_threadsafe(answer(), loop).result(20))

    async def work() -> None:
        try:
            await asyncio.to_thread(ask, asyncio.get_running_loop())
        finally:
            is_ending.set()

    def first() -> None:
        with pytest.raises(CancelledError):
            owner.run(work(), None)

    def let_it_ask() -> None:
        is_ending.wait()
        may_ask.set()

    async def nothing() -> None:
        """Let the thread start and stop."""

    owner = LoopThread("owner", "with owner:")
    owner.start(nothing(), None)
    caller = threading.Thread(target=first)
    caller.start()
    begun.wait()
    helper = threading.Thread(target=let_it_ask)
    helper.start()
    owner.stop(nothing(), None)
    caller.join(20)
    helper.join(20)
    assert answered == [7]


def test_a_generator_that_hangs_in_its_end_does_not_keep_the_loop_from_stopping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loopthread, "GRACE", 0.1)
    kept, cancelled = [], []

    async def numbers() -> AsyncGenerator[int]:
        try:
            yield 1
        finally:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

    async def first() -> int:
        kept.append(numbers())
        return await anext(kept[0])

    async def nothing() -> None:
        """Let the thread stop."""

    owner = LoopThread("owner", "with owner:")
    assert owner.start(first(), None) == 1
    # A daemon, so that one that hangs does not keep the tests from ending.
    stopping = threading.Thread(target=lambda: owner.stop(nothing(), None), daemon=True)
    stopping.start()
    stopping.join(20)
    assert not stopping.is_alive()
    assert cancelled == [True]
