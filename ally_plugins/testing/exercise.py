"""Exercising a plugin with every event, gate and transform, and what it answered, so that two runs can be compared."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Self

from attrs import Factory, define

from ally_plugins.author.samples import LARGE_TEXT, sample_calls, sample_events, sample_inputs, sample_prompts
from ally_plugins.contract.values.conversation import Message, Stop, ToolResult
from ally_plugins.contract.values.errors import GateRefused, RefusedError
from ally_plugins.contract.values.events import PermissionRequest
from ally_plugins.contract.values.frozen import freeze
from ally_plugins.runtime.lanes.teardown import cancel_task

if TYPE_CHECKING:
    from ally_plugins.host.sessions.gates import Ruling

    from .harness import PluginHarness

__all__ = [
    "ExerciseResult",
    "Heartbeat",
    "exercise",
    "feed_events",
    "leftovers",
    "own_tasks",
    "sample_calls",
    "sample_events",
]

BEAT: Final = 0.002  # seconds between two beats: far below what a person notices
_PATIENCE: Final = 2.0  # seconds that threads have to end after the stop: nobody joins them
_SHOWN: Final = 200

_RESULTS: Final = (
    ToolResult(success=True),
    ToolResult(success=True, output="three files"),
    ToolResult(success=False, error="no such file"),
    ToolResult(success=True, output=LARGE_TEXT, data={"rows": [["a", None, 1.5, True]] * 50}),
)
_ANSWERS: Final = ('{"name": "Rome", "sights": [1, null, true]}', "[]")
_STOPS: Final = 5  # one more than the turn can be sent on, and one behind that
_MESSAGES: Final = ("hello", "two\nlines\tand a tab", LARGE_TEXT[:60_000])


@define
class ExerciseResult:
    """What a plugin did in one exercise, in order; equal for equal plugins. `failures` are votes it did not give."""

    answers: list[tuple[str, Any]] = Factory(list)
    failures: list[str] = Factory(list)

    def difference(self, other: ExerciseResult) -> str | None:
        """Return the first difference, as text; None when there is none."""
        # Not strict: which answer differs says more than that one is missing.
        for mine, theirs in zip(self.answers, other.answers, strict=False):
            if mine != theirs:
                return f"{mine[0]} {_shown(mine[1])}, then {theirs[0]} {_shown(theirs[1])}"
        if len(self.answers) != len(other.answers):
            return f"{len(self.answers)} answers, then {len(other.answers)}"
        return None

    def take_ruling(self, what: str, ruling: Ruling, name: str) -> None:
        """Add the verdict of the gates; a vote that the plugin did not give (a crash, a timeout) is a failure."""
        self.answers.append((what, (str(ruling.verdict), ruling.reason)))
        self.failures += [
            f"{what}: {vote.cause} {vote.detail}".rstrip()
            for vote in ruling.votes
            if vote.plugin == name and vote.cause != "verdict"
        ]


async def feed_events(harness: PluginHarness) -> None:
    """Emit every sample event, with a safe point now and then. Cancelling stops in the middle."""
    for number, event in enumerate(sample_events()):
        harness.session.emit(event)
        if number % 16 == 0:  # not after each, so that hooks get runs of events too
            await harness.settle()
            await harness.safe_point()
    await harness.settle()


async def exercise(harness: PluginHarness) -> ExerciseResult:
    """Give a plugin every kind of input, and return what it did. Cancelling stops in the middle."""
    result = ExerciseResult()
    await feed_events(harness)
    await _call(harness, result)
    await _message(harness, result)
    await _answer(harness, result)
    await _model(harness, result)
    await harness.safe_point("turn_start")
    result.answers += [("message", (message.role, message.content)) for message in harness.messages]
    result.answers += [("event", (event.event_type, event.data)) for event in harness.emitted]
    return result


async def _call(harness: PluginHarness, result: ExerciseResult) -> None:
    for call in sample_calls():
        with contextlib.suppress(GateRefused):
            changed = await harness.transform_input(call)
            result.answers.append(("tool input", (changed.tool_name, changed.arguments)))
        result.take_ruling("gate of a tool call", await harness.gate(call), harness.name)
        for output in _RESULTS:
            with contextlib.suppress(GateRefused):
                result.answers.append(("tool output", await harness.transform_output(output, call)))
    request = PermissionRequest(request_id="r1", tool_name="bash", arguments=freeze({"command": "ls"}))
    result.take_ruling("gate of a permission", await harness.gate_permission(request), harness.name)


async def _message(harness: PluginHarness, result: ExerciseResult) -> None:
    for text in _MESSAGES:
        try:
            await harness.other.add_message("user", text, session_id=harness.session.id)
            result.answers.append(("message of another plugin", harness.session.inbox.all()[-1].message.content))
        except RefusedError as refusal:
            result.answers.append(("message of another plugin", type(refusal).__name__))
        with contextlib.suppress(GateRefused):
            result.answers.append(("message of the person", (await harness.person_says(text)).content))


async def _answer(harness: PluginHarness, result: ExerciseResult) -> None:
    """Ask about what the person says, what the model answers, and whether it may stop until it may."""
    for text in (*_MESSAGES, *_ANSWERS):
        is_structured = text in _ANSWERS
        about = {"isStructured": True} if is_structured else {}
        answer = Message(role="assistant", content=text, id="a1", metadata=about)
        if not is_structured:
            said = Message(role="user", content=text, id="u1")
            result.take_ruling("gate of the person's message", await harness.gate_user_message(said), harness.name)
            part = Message(role="assistant", content=text, id="a1", metadata={"isPartial": True})
            result.take_ruling("gate of a part of an answer", await harness.gate_answer(part), harness.name)
        with contextlib.suppress(GateRefused):
            result.answers.append(("answer", (await harness.transform_answer(answer)).content))
        result.take_ruling("gate of an answer", await harness.gate_answer(answer), harness.name)
    await harness.safe_point("turn_start")
    for _ in range(_STOPS):
        ruling = await harness.gate_stop(Stop(reason="stop", answer="done"))
        result.take_ruling("gate of the end of a turn", ruling, harness.name)
        await harness.safe_point()


async def _model(harness: PluginHarness, result: ExerciseResult) -> None:
    for sections in ((), *sample_prompts()):
        with contextlib.suppress(GateRefused):
            result.answers.append(("system prompt", await harness.transform_system_prompt(sections)))
    for request in sample_inputs():
        with contextlib.suppress(GateRefused):
            changed = await harness.transform_model_request(request)
            texts = [(message.role, message.content) for message in changed.messages]
            result.answers.append(("model request", (texts, changed.settings)))


class Heartbeat:
    """Beats on the loop and remembers the longest pause between two beats, less the time between them."""

    def __init__(self) -> None:
        self.longest_ms = 0.0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.get_running_loop().create_task(self._beat())
        # So that the first beat has begun before what is measured does.
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            await cancel_task(self._task)

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        before = loop.time()
        while True:
            await asyncio.sleep(BEAT)
            now = loop.time()
            self.longest_ms = max(self.longest_ms, (now - before - BEAT) * 1000)
            before = now


def own_tasks() -> set[asyncio.Task[Any]]:
    """Return the tasks of this loop that are there now."""
    return asyncio.all_tasks()


async def leftovers(threads: Iterable[threading.Thread], tasks: Iterable[asyncio.Task[Any]]) -> list[str]:
    """Return the threads and tasks that were not there before, once they have had time to end.

    Waits for two seconds at most; cancelling ends the waiting.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PATIENCE
    while (found := _new(set(threads), set(tasks))) and loop.time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.01)  # the end of a thread cannot be awaited
    return found


def _new(threads: set[threading.Thread], tasks: set[asyncio.Task[Any]]) -> list[str]:
    new_threads = [f"the thread {each.name!r}" for each in threading.enumerate() if each not in threads]
    # The loop's own pool ends with the loop.
    new_threads = [each for each in new_threads if not each.startswith("the thread 'asyncio_")]
    return new_threads + [f"the task {each.get_name()!r}" for each in asyncio.all_tasks() if each not in tasks]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
