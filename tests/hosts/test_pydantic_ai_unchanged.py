"""What the framework promises without plugins, it keeps with them: one cancellation, the same telemetry, any thread."""

# ruff: noqa: ARG001, ARG002 - hooks take what their event promises

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from opentelemetry import trace
from pydantic_ai import Agent, CancellationToken, Tool
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import RunCancelled
from pydantic_ai.messages import ModelRequest, ToolCallPart
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.instrumented import InstrumentationSettings, InstrumentedModel
from pydantic_ai.models.test import TestModel

from ally_plugins import (
    AgentEnd,
    AgentStart,
    BlockingHost,
    Deny,
    Host,
    HostError,
    Replace,
    ToolCall,
    ToolCallEnd,
    ToolResult,
    evolve,
    hookimpl,
)
from ally_plugins.adapters.pydantic_ai import AllyPlugins
from ally_plugins.runtime.lanes.cross_loop_lock import CrossLoopLock
from tests.hosts.scripted import Script, answer, live
from tests.kit.hosts import make_plugin
from tests.kit.waiting import go, until, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Sequence

THREE_CALLS = answer(*(ToolCallPart("work", {"name": name}, name) for name in ("a", "b", "c")))


def new_plugins(**plugins: Any) -> AllyPlugins:
    return AllyPlugins(Host(home=None, discover=False, plugins=plugins))


class Tools:
    """A tool that works until it is cancelled; each call waits in its clean-up for the one that was made before it."""

    def __init__(self) -> None:
        self.at_work = asyncio.Semaphore(0)
        self.cancels: dict[str, int] = {"a": 0, "b": 0, "c": 0}
        self.cleaned: list[str] = []
        self._may_clean = {name: asyncio.Event() for name in (*self.cancels, "")}
        self._may_clean["a"].set()

    async def work(self, name: str) -> None:
        self.at_work.release()
        try:
            await self._wait(name, asyncio.Event())
        finally:
            await self._wait(name, self._may_clean[name])
            self.cleaned.append(name)
            self._may_clean[{"a": "b", "b": "c"}.get(name, "")].set()

    async def _wait(self, name: str, event: asyncio.Event) -> None:
        try:
            await event.wait()
        except asyncio.CancelledError:
            self.cancels[name] += 1
            raise


async def cancel_task(agent: Agent[None, Any], tools: Tools) -> None:
    run = asyncio.ensure_future(agent.run("go"))
    for _ in tools.cancels:
        await tools.at_work.acquire()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


async def cancel_with_token(agent: Agent[None, Any], tools: Tools) -> None:
    token = CancellationToken()
    run = asyncio.ensure_future(agent.run("go", cancellation_token=token))
    for _ in tools.cancels:
        await tools.at_work.acquire()
    token.cancel()
    with pytest.raises(RunCancelled):
        await run


async def leave_iteration(agent: Agent[None, Any], tools: Tools) -> None:
    async def iterate() -> None:
        async with agent.iter("go") as run:
            async for _ in run:
                pass

    run = asyncio.ensure_future(iterate())
    for _ in tools.cancels:
        await tools.at_work.acquire()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


@pytest.mark.parametrize("end", [cancel_task, cancel_with_token, leave_iteration])
def test_the_tools_of_a_cancelled_run_are_cancelled_once_and_clean_up(
    end: Callable[[Agent[None, Any], Tools], Any],
) -> None:
    async def ended(capabilities: Sequence[AllyPlugins]) -> tuple[list[str], dict[str, int]]:
        tools = Tools()
        await end(Agent(Script(THREE_CALLS).model, tools=[tools.work], capabilities=capabilities), tools)
        return tools.cleaned, tools.cancels

    async def main() -> None:
        without = await ended([])
        assert without == (["a", "b", "c"], {"a": 1, "b": 1, "c": 1})
        assert await ended([new_plugins()]) == without

    go(main())


def test_the_run_ends_behind_its_last_call_and_the_host_that_it_started_behind_that() -> None:
    async def main() -> None:
        plugins, tools, seen = new_plugins(), Tools(), list[Any]()
        plugins.host.stream.subscribe("*", seen.append)
        agent = Agent(Script(THREE_CALLS).model, tools=[tools.work], capabilities=[plugins])
        await cancel_task(agent, tools)
        assert plugins.host.loop is None
        ends = [event for event in seen if isinstance(event, (ToolCallEnd, AgentEnd))]
        assert [type(event) for event in ends] == [*[ToolCallEnd] * 3, AgentEnd]
        assert [event.error for event in ends[:3] if isinstance(event, ToolCallEnd)] == ["interrupted"] * 3
        assert seen[-1].type == "SESSION_END"

    go(main())


def test_a_run_that_is_cancelled_at_any_moment_has_an_end_and_leaves_nothing() -> None:
    async def main() -> None:
        async with live() as bench:
            for turns in range(45):
                agent = bench.agent(Script(answer(ToolCallPart("look", {}, "c")), "done"), tools=[look])
                run = asyncio.ensure_future(agent.run("go"))
                for _ in range(turns):
                    await asyncio.sleep(0)
                run.cancel()
                await asyncio.wait([run])
            await until(lambda: len(bench.of(AgentStart)) == len(bench.of(AgentEnd)))
            await until(lambda: not [task for task in asyncio.all_tasks() if "wrap_run" in repr(task)])
            assert bench.of(AgentStart)

    async def look() -> str:
        await asyncio.sleep(0)
        return "a tree"

    go(main())


def test_a_call_that_ended_before_the_run_was_cancelled_keeps_its_result() -> None:
    async def main() -> None:
        tools = Tools()

        async def quick() -> str:
            return "at once"

        calls = answer(ToolCallPart("quick", {}, "q"), *THREE_CALLS.parts)  # type: ignore[arg-type]  # they are calls
        agent = Agent(Script(calls).model, tools=[quick, tools.work], capabilities=[new_plugins()])
        token = CancellationToken()
        run = asyncio.ensure_future(agent.run("go", cancellation_token=token))
        for _ in tools.cancels:
            await tools.at_work.acquire()
        token.cancel()
        with pytest.raises(RunCancelled) as cancelled:
            await run
        history = cancelled.value.all_messages()
        results = [part for message in history if isinstance(message, ModelRequest) for part in message.parts]
        assert [getattr(part, "content", None) for part in results] == ["go", "at once"]
        again = Script("welcome back")
        agent = Agent(again.model, capabilities=[new_plugins()])
        assert (await agent.run("and now?", message_history=history)).output == "welcome back"
        assert "at once" in again.texts()

    go(main())


def test_a_streamed_request_is_cancelled_once() -> None:
    async def cancelled(capabilities: Sequence[AllyPlugins]) -> int:
        cancels, asked = 0, asyncio.Event()

        async def stream(*_: Any) -> AsyncGenerator[str]:
            nonlocal cancels
            yield "one "
            asked.set()
            for _step in range(3):
                try:
                    await asyncio.sleep(0 if cancels else 60)
                except asyncio.CancelledError:
                    cancels += 1
            raise asyncio.CancelledError

        async def use() -> None:
            async with agent.run_stream("go") as result:
                async for _ in result.stream_text(debounce_by=None):
                    pass

        agent = Agent(FunctionModel(stream_function=stream), capabilities=capabilities)
        run = asyncio.ensure_future(use())
        await asked.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        return cancels

    async def main() -> None:
        assert await cancelled([new_plugins()]) == await cancelled([])

    go(main())


class Span(trace.NonRecordingSpan):
    """One that the instrumentation takes for recorded."""

    def is_recording(self) -> bool:
        return True


class Spans(trace.TracerProvider, trace.Tracer):
    """Keeps the names of the spans that were started."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def get_tracer(self, *_: Any, **__: Any) -> trace.Tracer:
        return self

    def start_span(self, name: str, *_: Any, **__: Any) -> trace.Span:
        self.names.append(name)
        return Span(trace.SpanContext(len(self.names), len(self.names), is_remote=False))

    @contextmanager
    def start_as_current_span(self, name: str, *_: Any, **__: Any) -> Generator[trace.Span]:  # type: ignore[override]
        with trace.use_span(self.start_span(name), end_on_exit=True) as span:
            yield span


def cool(_: Any, request: Any) -> Any:
    return Replace(evolve(request, settings={**request.settings, "temperature": 0.5}))


@pytest.mark.parametrize("plugins", [{}, {"cooler": make_plugin(ally_transform_model_request=cool)}])
def test_an_instrumented_model_reports_each_request_once(plugins: dict[str, Any]) -> None:
    def spans(capabilities: Sequence[AllyPlugins]) -> list[str]:
        provider = Spans()
        model = InstrumentedModel(TestModel(call_tools=["look"]), InstrumentationSettings(tracer_provider=provider))
        agent = Agent(model, tools=[Tool(lambda: "a tree", name="look")], capabilities=capabilities)
        for _ in range(2):
            go(agent.run("go"))
        return sorted(provider.names)

    without = spans([])
    assert without.count("chat test") == 4
    assert spans([new_plugins(**plugins)]) == without


def test_a_model_that_a_capability_selects_is_selected_as_often() -> None:
    class Selecting(AbstractCapability[Any]):
        def __init__(self) -> None:
            self.count = 0

        def get_model(self) -> Any:
            def select(_: Any) -> Any:
                self.count += 1
                return TestModel()

            return select

    def selections(*capabilities: AllyPlugins) -> int:
        selecting = Selecting()
        go(Agent(capabilities=[selecting, *capabilities]).run("go"))
        return selecting.count

    assert selections(new_plugins()) == selections() > 0


# --- threads ---


def in_threads(call: Callable[[int], object], count: int = 5) -> list[object]:
    """Call it in several threads at once; return what each returned or raised, in order."""
    found: list[object] = [None] * count
    both = threading.Barrier(count)

    def one(number: int) -> None:
        both.wait(30)
        try:
            found[number] = call(number)
        except Exception as error:  # noqa: BLE001 - it is what the test looks at
            found[number] = error

    threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


class Guard:
    """Refuses odd numbers, and marks what the tool says."""

    numbers: ClassVar[list[int]] = []

    def __init__(self, ally: Any) -> None:
        self.numbers.clear()

    @hookimpl
    async def ally_gate_tool_call(self, call: ToolCall) -> Deny | None:
        await asyncio.sleep(0)
        self.numbers.append(call.arguments["number"])
        return Deny("odd") if call.arguments["number"] % 2 else None

    @hookimpl
    def ally_transform_tool_output(self, call: ToolCall, result: ToolResult) -> Replace[ToolResult]:
        return Replace(evolve(result, output=f"<{result.output}>"))


EXPECTED = ["<ran 0>", "not run: guard: odd", "<ran 2>", "not run: guard: odd", "<ran 4>"]


def serve_with(plugins: AllyPlugins, tool: Callable[[int], str] | None = None) -> Callable[[int], object]:
    """Return what answers one request with an agent, as a web server's thread does."""

    def use(number: int) -> str:
        return f"ran {number}" if tool is None else tool(number)

    def serve(number: int) -> object:
        script = Script(answer(ToolCallPart("use", {"number": number}, "c")))
        with thread_loop():
            Agent(script.model, tools=[use], capabilities=[plugins]).run_sync("go")
        return script.texts()[-1]

    return serve


@contextmanager
def thread_loop() -> Generator[None]:
    """Give the thread a loop for `run_sync`, which would leave one of its own open."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        yield
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        asyncio.set_event_loop(None)


def test_threads_that_run_an_agent_at_once_share_the_host_that_the_first_starts() -> None:
    plugins = new_plugins(guard=Guard)
    for _ in range(2):
        assert in_threads(serve_with(plugins)) == EXPECTED
        assert sorted(Guard.numbers) == [0, 1, 2, 3, 4]
        assert plugins.host.loop is None


def test_the_main_thread_stops_the_host_that_it_started_behind_the_other_threads() -> None:
    plugins, found = new_plugins(guard=Guard), list[object]()
    at_work = threading.Barrier(3)

    def meet(number: int) -> str:
        at_work.wait(60)
        return f"ran {number}"

    def others(number: int) -> str:
        others = [threading.Thread(target=lambda: found.append(serve_with(plugins, meet)(2))) for _ in range(2)]
        for thread in others:
            thread.start()
        at_work.wait(60)
        return f"began {number}"

    assert serve_with(plugins, others)(0) == "<began 0>"
    assert plugins.host.loop is None
    wait_until(lambda: len(found) == 2)
    assert found == ["<ran 2>"] * 2


def test_agents_in_threads_use_a_host_that_runs_in_another() -> None:
    with BlockingHost(home=None, discover=False, plugins={"guard": Guard}) as host:
        assert in_threads(serve_with(AllyPlugins(host.host))) == EXPECTED
        assert host.host.loop is not None


def test_agents_in_threads_use_the_host_of_the_loop_that_waits_for_them() -> None:
    async def main() -> None:
        async with live({"guard": Guard}) as bench:
            assert await asyncio.to_thread(in_threads, serve_with(AllyPlugins(bench.host))) == EXPECTED
            assert len(bench.of(AgentEnd)) == len(EXPECTED)

    go(main())


def test_an_agent_that_a_tool_runs_in_a_thread_joins_the_session_of_its_own() -> None:
    async def main() -> None:
        async with live({"guard": Guard}) as bench:
            inner = serve_with(AllyPlugins(bench.host))

            async def ask(number: int) -> str:
                return str(await asyncio.to_thread(inner, number))

            script = Script(answer(ToolCallPart("ask", {"number": 6}, "outer")))
            await bench.agent(script, tools=[ask]).run("go")
            assert script.texts()[-1] == "<<ran 6>>"
            assert len(bench.host.sessions) == 1
            (sub, _) = bench.of(AgentEnd)
            assert sub.parent_id == "outer"

    go(main())


@pytest.mark.slow
def test_a_host_whose_loop_stops_in_the_middle_is_an_error_and_the_call_does_not_run() -> None:
    loop, ran = asyncio.new_event_loop(), list[int]()
    asked, is_over = threading.Event(), threading.Event()

    async def forget(_: object, call: ToolCall) -> None:
        asked.set()
        await asyncio.Event().wait()

    def note(number: int) -> str:
        ran.append(number)
        return "ran"

    host = Host(home=None, discover=False, plugins={"guard": make_plugin(ally_gate_tool_call=forget)})

    def run_until_asked() -> None:
        loop.run_until_complete(host.start())
        started.set()
        loop.run_until_complete(asyncio.to_thread(asked.wait, 60))
        is_over.wait(60)
        loop.run_until_complete(host.stop())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    started = threading.Event()
    thread = threading.Thread(target=run_until_asked)
    thread.start()
    try:
        assert started.wait(60)
        serve = serve_with(AllyPlugins(host), note)
        with pytest.raises(HostError, match="has stopped, and the host with it"):
            serve(0)
        with pytest.raises(HostError, match="does not run, and the host is on it"):
            serve(0)
        assert ran == []
    finally:
        is_over.set()
        thread.join()


def test_a_lock_has_one_holder_whatever_loops_wait_for_it_and_give_up() -> None:
    lock, inside, most = CrossLoopLock(), 0, 0

    async def hold() -> None:
        nonlocal inside, most
        for _ in range(40):
            with suppress(TimeoutError):
                async with asyncio.timeout(0.001), lock:
                    inside += 1
                    most = max(most, inside)
                    try:
                        await asyncio.sleep(0)
                    finally:
                        inside -= 1

    async def several() -> None:
        await asyncio.gather(*(hold() for _ in range(4)))

    assert in_threads(lambda _: asyncio.run(several())) == [None] * 5
    assert most == 1
    go(lock.__aenter__(), 5)  # nobody has left with it
