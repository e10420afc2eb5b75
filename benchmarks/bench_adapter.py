"""The adapter for pydantic-ai: what it adds to a run, to each tool call, and to a long conversation.

An offline model calls a tool that does nothing, twenty times one after the other, then says that it is done. Runs with
and without the adapter take turns, and the fastest quarter of each counts: a run takes milliseconds, and what is slower
was disturbed. Processor time of the loop's thread is measured, but where a daemon or a disk is waited for. A gate whose
decisions are on disk stands beside a hook of one's own that does the same with SQLite. Two more agents tell
what the framework takes for any capability: one with a capability that does nothing, and one whose capability has the
adapter's hooks, and passes everything on. Calls of functions are counted beside the time: no load changes these.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sqlite3
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))
import orjson
from daemon_ends import host_of, sdk
from daemon_rows import Row, p50, pinned, row
from pydantic_ai import Agent
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolCallPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RequestUsage

from ally_plugins import Allow, Ally, Host, ToolCall, ToolCallEnd, ToolCallStart, hookimpl
from ally_plugins.adapters.pydantic_ai import AllyPlugins
from ally_plugins.contract.values.compat import override

# ruff: noqa: ARG002 - hooks take what they are given, whatever they do with it

CALLS: Final = 20
ROUNDS: Final = 40
PLUGINS: Final = 10
MESSAGES: Final = 10_000
_USAGE: Final = RequestUsage(input_tokens=100, output_tokens=10)
_DONE: Final = ModelResponse([TextPart("done")], usage=_USAGE)

_DECIDED: Final = "INSERT INTO decisions VALUES (?, ?, ?, ?)"

Run = Callable[[], Awaitable[None]]
Clock = Callable[[], float]
Found = dict[str, list[float]]


class Observer:
    """A plugin with hooks around every tool call."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally

    @hookimpl
    async def ally_tool_call_start(self, event: ToolCallStart) -> None:
        """Do nothing."""

    @hookimpl
    async def ally_tool_call_end(self, event: ToolCallEnd) -> None:
        """Do nothing."""


class Watcher(Observer):
    """The same, and a gate."""

    @hookimpl
    async def ally_gate_tool_call(self, call: ToolCall) -> Allow:
        """Have nothing against it."""
        return Allow()


def _model(calls: int) -> FunctionModel:
    """Return a model that calls the tool until the last message answers the last of these calls."""

    async def answer(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        last = messages[-1].parts[0]
        number = int(getattr(last, "tool_call_id", "0"))
        if number == calls:
            return _DONE
        call = ToolCallPart("work", {"text": "a"}, str(number + 1))
        return ModelResponse([call], usage=_USAGE)

    return FunctionModel(answer)


def _agent(capabilities: list[AbstractCapability[Any]], calls: int = CALLS) -> Agent[None, str]:
    async def work(text: str) -> str:
        return text

    return Agent(_model(calls), tools=[work], capabilities=capabilities)


class PassesOn(AbstractCapability[Any]):
    """The hooks that the adapter has, without what they are for."""

    @override
    async def wrap_run(self, ctx: Any, *, handler: Any) -> Any:
        """Pass it on."""
        return await handler()

    @override
    async def before_node_run(self, ctx: Any, *, node: Any) -> Any:
        """Pass it on."""
        return node

    @override
    async def after_node_run(self, ctx: Any, *, node: Any, result: Any) -> Any:
        """Pass it on."""
        return result

    @override
    async def before_model_request(self, ctx: Any, request_context: Any) -> Any:
        """Pass it on."""
        return request_context

    @override
    async def wrap_model_request(self, ctx: Any, *, request_context: Any, handler: Any) -> Any:
        """Pass it on."""
        return await handler(request_context)

    @override
    async def before_tool_validate(self, ctx: Any, *, call: Any, tool_def: Any, args: Any) -> Any:
        """Pass it on."""
        return args

    @override
    async def wrap_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any, handler: Any) -> Any:
        """Pass it on."""
        return await handler(args)


class Gatekeeper:
    """A plugin that is one gate."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally

    @hookimpl
    async def ally_gate_tool_call(self, call: ToolCall) -> Allow:
        """Have nothing against it."""
        return Allow()


class OwnGate(AbstractCapability[Any]):
    """What one would write instead of a gate: a hook that allows each call, when it has its decision on disk."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("CREATE TABLE decisions(at INTEGER, call_id TEXT, tool TEXT, arguments TEXT)")

    @override
    async def wrap_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any, handler: Any) -> Any:
        """Record the decision, then let the call run."""
        row = (time.time_ns() // 1_000_000, call.tool_call_id, call.tool_name, orjson.dumps(args).decode())
        self._db.execute(_DECIDED, row)
        return await handler(args)

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _run_of(agent: Agent[None, str], history: list[ModelMessage] | None = None) -> Run:
    """Return what runs a turn: with a history, one conversation that goes on; without one, a new one each time."""
    kept = history
    numbers = count()

    async def run() -> None:
        nonlocal kept
        name = "c" if history is not None else f"c{next(numbers)}"
        result = await agent.run("go", conversation_id=name, message_history=kept)
        kept = result.all_messages() if kept is not None else None

    return run


def _run(host: Host | None, history: list[ModelMessage] | None = None, calls: int = CALLS) -> Run:
    return _run_of(_agent([AllyPlugins(host, context_window=1_000_000)] if host is not None else [], calls), history)


async def _seconds(run: Run, clock: Clock) -> float:
    gc.collect()
    gc.disable()
    start = clock()
    await run()
    found = clock() - start
    gc.enable()
    return found


async def _compared(runs: Mapping[str, Run], rounds: int = ROUNDS, clock: Clock = time.thread_time) -> Found:
    """Return the seconds of each run, round by round in turn."""
    found: Found = {name: [] for name in runs}
    for run in runs.values():
        await run()
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(await _seconds(run, clock))
    return found


async def _calls(run: Run) -> int:
    """Return how many functions a run calls in the loop's thread."""
    count = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    await run()
    sys.setprofile(note)
    try:
        await run()
    finally:
        sys.setprofile(None)
    return count


def _usual(found: Found, name: str) -> float:
    """Return what a run takes undisturbed, in seconds."""
    times = sorted(found[name])
    return statistics.median(times[: max(len(times) // 4, 1)])


def _added(found: Found, ours: str, bare: str) -> float:
    """Return what `ours` takes more than `bare`, in seconds."""
    return _usual(found, ours) - _usual(found, bare)


async def _plain() -> list[Row]:
    async with Host("bench", home=None, discover=False) as host:
        idle, passes = _run_of(_agent([AbstractCapability()])), _run_of(_agent([PassesOn()]))
        runs = {"bare": _run(None), "ours": _run(host), "idle": idle, "passes": passes}
        calls = {name: await _calls(run) for name, run in runs.items()}
        found = await _compared(runs)
    ours, bare, passed = (_usual(found, name) * 1e3 for name in ("ours", "bare", "passes"))
    return [
        row("adapter: added to each tool call (bare: wanted)", (ours - bare) / CALLS, 0.25, "ms", "<= 1"),
        row("adapter: of that, by hooks that pass everything on", (passed - bare) / CALLS, 0.25, "ms"),
        row(f"adapter: {CALLS} tool calls, against without", ours, bare, "ms"),
        row("adapter: the same, against hooks that pass everything on", ours, passed, "ms"),
        row("adapter: a capability that does nothing, against none", _usual(found, "idle") * 1e3, bare, "ms"),
        row(f"adapter: calls of functions in {CALLS} tool calls, against without", calls["ours"], calls["bare"], ""),
        row("adapter: the same, against hooks that pass everything on", calls["ours"], calls["passes"], ""),
    ]


async def _inline() -> list[Row]:
    watchers = {f"p{i}": Watcher for i in range(PLUGINS)}
    observers = {f"p{i}": Observer for i in range(PLUGINS)}
    async with (
        Host("bench", home=None, discover=False) as none,
        Host("bench", home=None, discover=False, plugins=observers) as observed,
        Host("bench", home=None, discover=False, plugins=watchers) as gated,
    ):
        # Events are made for whoever listens: the first plugin is not to bear what all share.
        none.stream.subscribe("DECISION", lambda _: None)
        found = await _compared({"none": _run(none), "observed": _run(observed), "gated": _run(gated)})
    name = "adapter: an inline plugin, each tool call"
    each = {run: _added(found, run, "none") / CALLS / PLUGINS * 1e6 for run in ("observed", "gated")}
    return [
        row(f"{name}: two observers (bare: wanted)", each["observed"], 50.0, "µs", "<= 1"),
        row(f"{name}: two observers and a gate (bare: wanted)", each["gated"], 50.0, "µs", "<= 1"),
    ]


async def _gated(folder: Path) -> list[Row]:
    """Measure runs whose calls are decided by one gate, each decision on disk before its call, by the clock."""
    rows: list[Row] = []
    name = "adapter: one inline gate"
    async with Host("bench", home=folder / "gated", discover=False, plugins={"p": Gatekeeper}) as host:
        for calls in (1, CALLS):
            own = OwnGate(folder / f"own-{calls}.db")
            runs = {
                "bare": _run(None, calls=calls),
                "gated": _run(host, calls=calls),
                "own": _run_of(_agent([own], calls)),
            }
            found = await _compared(runs, ROUNDS, time.perf_counter)
            busy = await _compared(runs, ROUNDS // 2, time.process_time)
            own.close()
            ours, bare, other = (_usual(found, each) * 1e3 for each in ("gated", "bare", "own"))
            work, plain = (_usual(busy, each) * 1e3 for each in ("gated", "bare"))
            text = f"{name}, a run of {calls} tool call{'s' if calls > 1 else ''}"
            rows += [
                row(f"{text}, against plain", ours, bare, "ms", "<= 1.5"),
                row(f"{text}, against a hook that commits to SQLite", ours, other, "ms"),
                row(f"{text}, processor time of all threads, against plain", work, plain, "ms"),
            ]
    return rows


async def _daemon(folder: Path) -> list[Row]:
    """Measure a gate in a daemon in a run, the same gate asked alone, and a round trip without a decision to keep.

    Asked alone one call follows the other. Between runs of the framework the same question finds the caches as a call
    of a run finds them, and everybody asleep.
    """
    call = ToolCall("work", {"text": "a"}, "c1")
    judge, grants = {"d": sdk("Judge")}, {"d": ["gate:tool_call"]}
    async with (
        Host("bench", home=None, discover=False) as none,
        Host("bench", home=None, discover=False, plugins=judge, grants=grants) as one,
        host_of({"d": sdk("Talker")}, folder) as talker,
    ):
        session = one.session("alone")
        asks: dict[str, Callable[[], Awaitable[Any]]] = {
            "alone": lambda: session.gate_tool_call(call),
            "trip": lambda: talker.call_tool("echo", {"text": "a" * 500}, session_id="s"),
        }
        runs, work = {"none": _run(none), "gated": _run(one)}, _run(none, calls=1)
        found: Found = {name: [] for name in (*runs, *asks, "between")}
        for _ in range(5):
            for name, times in (await _compared(runs, ROUNDS // 5, time.perf_counter)).items():
                found[name] += times
            for name, ask in asks.items():
                for _ in range(100):
                    start = time.perf_counter()
                    await ask()
                    found[name].append(time.perf_counter() - start)
            for _ in range(20):
                await work()
                start = time.perf_counter()
                await asks["alone"]()
                found["between"].append(time.perf_counter() - start)
    each, alone, trip = _added(found, "gated", "none") / CALLS, _usual(found, "alone"), _usual(found, "trip")
    name = "adapter: a gate in a daemon, each tool call"
    return [
        row(f"{name}, against the gate asked alone", each * 1e6, alone * 1e6, "µs", "<= 2"),
        row(f"{name}, against the gate asked between runs", each * 1e6, _usual(found, "between") * 1e6, "µs"),
        row(f"{name}, against a round trip of `call_tool`", each * 1e6, trip * 1e6, "µs"),
    ]


async def _long() -> list[Row]:
    history: list[ModelMessage] = []
    for i in range(MESSAGES // 2):
        history += [ModelRequest([UserPromptPart(f"question {i}")]), ModelResponse([TextPart(f"answer {i}")])]
    reads: list[float] = []
    plugins = {"p": Watcher}
    async with Host("bench", home=None, discover=False, plugins=plugins) as host:
        long = _run(host, history)
        await long()
        ally = host.plugins["p"].instance.ally
        context = await ally.get_context(["messages"], session_id="c")
        for _ in range(30):
            start = time.perf_counter()
            context = await ally.get_context(["messages"], since=context.cursor, session_id="c")
            reads.append(time.perf_counter() - start)
        alone = _run(None, history)
        calls, bare_calls = await _calls(long), await _calls(alone)
        found = await _compared({"long bare": alone, "long": long}, 12)
    ours, bare = _usual(found, "long"), _usual(found, "long bare")
    return [
        row(f"adapter: calls of functions there, behind {MESSAGES:,} messages", calls, bare_calls, "", "<= 1.05"),
        row(f"adapter: get_context since a cursor, {MESSAGES:,} messages", p50(reads), None, "µs", "-"),
        row(
            f"adapter: {CALLS} calls behind {MESSAGES:,} messages, against without",
            ours * 1e3,
            bare * 1e3,
            "ms",
            "<= 1.05",
        ),
    ]


def run() -> list[Row]:
    """Measure and return one row for each promise."""
    import tempfile

    logging.disable(logging.CRITICAL)
    with pinned():
        rows = [*asyncio.run(_plain()), *asyncio.run(_inline())]
        with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".b-") as name:
            rows += asyncio.run(_gated(Path(name)))
            rows += asyncio.run(_daemon(Path(name) / "home"))
        return rows + asyncio.run(_long())


if __name__ == "__main__":
    for one in run():
        print(one)
