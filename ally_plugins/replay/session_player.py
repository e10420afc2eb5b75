"""Plays the steps of one recording into one session, through the calls that a live host makes.

The recording has happened already: gates run and their decisions are recorded, but the recorded result is used whatever
they decide. What transforms return is what events, the conversation and the next plugin get.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

from attrs import define, evolve, field

from ally_plugins.contract.tools.todo_tools import TASK_TOOLS, todos_of_call, todos_with_task
from ally_plugins.contract.values.conversation import Message, PromptSection, TodoItem, ToolCall, ToolResult
from ally_plugins.contract.values.errors import EventError, GateRefused, JournalError
from ally_plugins.contract.values.events import AssistantMessage, SessionEnd, UserMessage
from ally_plugins.contract.values.frozen import EMPTY
from ally_plugins.host.host import Host
from ally_plugins.host.sessions.open_calls import OpenCall
from ally_plugins.host.sessions.session import Session
from ally_plugins.runtime.lanes.dispatch import HookCall
from ally_plugins.runtime.lanes.protocol import AnyLane

from .daemon_waits import wait_for_calls, wait_for_restarts
from .pacing import Pace, ReplayClock
from .recorded_words import RecordedWords
from .report import ReplayReport
from .step_events import EVENTS, diff_preview, permission_request, todo_update
from .steps import (
    AgentEnded,
    AgentStarted,
    AssistantReplied,
    BrokenLine,
    DiffMade,
    Interrupted,
    ModelRequested,
    PermissionRequested,
    PersonMessage,
    SafePoint,
    SafePointKind,
    SessionEnded,
    SessionStarted,
    Skipped,
    Step,
    TodosChanged,
    ToolCalled,
    ToolReturned,
)
from .tool_effects import derive_diff

if TYPE_CHECKING:
    from ally_plugins.host.sessions.inbox import Waiting

__all__ = ["BURST", "QUANTUM_MS", "SessionPlayer"]

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)

QUANTUM_MS: Final = 2_000
"""Recorded time (ms) that may pass before plugins must have received what came before, so that they act at its time:
what the budget for messages takes to refill by one."""

BURST: Final = 2_000
"""Events that may be emitted before plugins are waited for; a quarter of what a session's ring holds."""

_UNRECORDED: Final = PromptSection("instructions-1", "(the recording does not have the system prompt)")
_SPINS: Final = 8  # turns of the loop that plugins which await nothing need for a burst; after them it waits
_ROUNDS: Final = 16  # plugins receive what others emit too; such chains end after eight hops
_MAX_REMEMBERED: Final = 512  # names of tools, which a recording may invent
_NO_AGENT: Final[dict[str, Any]] = {}
_FLUSH_EVENTS: Final = 20_000  # a tenth of what the journal lets wait, about
_FLUSH_BYTES: Final = 8 * 1024 * 1024  # a line becomes three events at most, and the journal lets 64 MiB wait
_CHECK_EVERY: Final = 8  # calls of `settle`; the position of a file is a system call
_TASK_GRACE: Final = 2.0  # seconds that tasks of plugins get when a recording ends


@define(eq=False)
class _RecordedCall:
    """A tool call without its result, as transforms left it; `withheld` is why its arguments may not be shown."""

    call: ToolCall
    is_changed: bool = False
    withheld: str | None = None
    decision_id: str | None = None
    opened: OpenCall = field(init=False)


@define(eq=False)
class SessionPlayer:
    """Plays one recording. Lives from its `SessionStarted` to `finish`.

    `position` says how many bytes of the recording have been read.
    """

    host: Host
    session: Session
    clock: ReplayClock
    pace: Pace
    report: ReplayReport
    file: str
    position: Callable[[], int]
    before_end: Callable[[Session], Awaitable[object]] | None = None
    _calls: dict[str, _RecordedCall] = field(init=False, factory=dict)
    _ungated: _RecordedCall | None = field(init=False, default=None)
    _parents: dict[str, str | None] = field(init=False, factory=dict)
    _todos: dict[str | None, tuple[TodoItem, ...]] = field(init=False, factory=dict)
    _plugins: object = field(init=False, default=None)
    _participation: dict[tuple[str, str | None, str | None], bool] = field(init=False, factory=dict)
    _is_quiet: bool = field(init=False, default=False)
    _lanes: list[AnyLane] = field(init=False)
    _settled_at: int = field(init=False, default=0)
    _unsettled: int = field(init=False, default=0)
    _settled: int = field(init=False, default=0)
    _unflushed: int = field(init=False, default=0)
    _flushed_position: int = field(init=False, default=0)
    _messages: int = field(init=False, default=0)
    _words: RecordedWords = field(init=False)
    _handlers: dict[type[Step], Callable[[Any], Awaitable[None]]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._settled_at = self.clock.time_ms()
        self._lanes = self._open_lanes()
        self._words = RecordedWords(self.session)
        own: dict[type[Step], Callable[[Any], Awaitable[None]]] = {
            AgentEnded: self._agent_ended,
            AgentStarted: self._agent_started,
            AssistantReplied: self._assistant_reply,
            BrokenLine: self._broken_line,
            DiffMade: self._diff_made,
            Interrupted: self._interrupted,
            ModelRequested: self._model_requested,
            PermissionRequested: self._permission_requested,
            PersonMessage: self._person_message,
            SafePoint: self._safe_point,
            SessionEnded: self._session_ended,
            SessionStarted: self._ignore,
            Skipped: self._skipped,
            TodosChanged: self._todos_changed,
            ToolCalled: self._tool_called,
            ToolReturned: self._tool_returned,
        }
        # By the class and in a table: a recording has steps by the hundred thousand.
        self._handlers = {**dict.fromkeys(EVENTS, self._emit_step), **own}

    async def receive_step(self, step: Step) -> None:
        """Play one step; wait for plugins, and for the step's time, where that is due.

        A value that no event can carry is counted as broken. Cancelling stops the waiting; call `finish` then.
        """
        kind = step.__class__
        # The gates of a call come behind its preview, which a reader yields as the next step, if there is one.
        if self._ungated is not None and kind is not DiffMade:
            await self._gate_ungated(self._ungated)
        if kind is SafePoint or step.at - self._settled_at >= QUANTUM_MS or self._unsettled >= BURST:
            # Before the clock moves: what plugins do about the steps so far has their time.
            await self.settle()
            await self.pace.wait_until(step.at)
            self._settled_at = step.at
        self.clock.move_to(step.at)
        self._unsettled += 1
        self.report.count_not_kept(step)
        try:
            await self._handlers[kind](step)
        except EventError as error:
            self.report.count_broken(self.file, 0, str(error))

    async def settle(self) -> None:
        """Wait until every plugin has received every event, and those that other plugins emitted meanwhile.

        Cancelling stops the waiting and nothing else.
        """
        # Again while somebody emits: plugins receive what other plugins make of an event.
        for _ in range(_ROUNDS):
            head = self.session.ring.head
            await self._drain()
            if self.session.ring.head == head:
                break
        self._unflushed += self._unsettled
        self._unsettled = 0
        self._settled += 1
        if self._settled % _CHECK_EVERY == 0 or self._unflushed >= _FLUSH_EVENTS:
            await self._keep_up()

    async def finish(self) -> list[Waiting]:
        """Close the session; mark and return the messages that are still pending.

        Call it once, also after `receive_step` failed or was cancelled. Cancelling it leaves the session open.
        """
        self.session.end("interrupted")  # unless the recording's own end has come
        await self.settle()
        waiting = self.session.inbox.all()
        if waiting:
            ids = [one.message.id for one in waiting]
            # In the journal too: one that is only removed here would be pending there for ever.
            await self._await_journal(self.host.journal.mark(ids, "pending_at_end", self.clock.time_ms()))
            self.session.inbox.remove(ids)
        await self.session.close()
        return waiting

    # --- waiting for plugins and the journal

    async def _keep_up(self) -> None:
        """Flush the journal before more waits there than its queue takes."""
        position = self.position()
        if self._unflushed >= _FLUSH_EVENTS or position - self._flushed_position >= _FLUSH_BYTES:
            self._unflushed, self._flushed_position = 0, position
            await self._await_journal(self.host.journal.flush())

    async def _drain(self) -> None:
        """Wait until every lane is at the ring's head: one turn of the loop where no plugin awaits anything."""
        session, lanes = self.session, self._lanes
        name, ring = session.id, session.ring
        for _ in range(_SPINS):
            for lane in lanes:
                lane.notify(name)
            await asyncio.sleep(0)
            head = ring.head
            if all([lane.has_handled(name, head) for lane in lanes]):  # noqa: C419 - twice as fast
                return
        # In this order: a daemon that is down handles nothing, and one that has handled all may still be calling.
        await wait_for_restarts(self.host)
        await session.drained()
        await wait_for_calls(self.host)
        self._lanes = self._open_lanes()  # an abandoned lane never reaches the head

    def _open_lanes(self) -> list[AnyLane]:
        return [lane for lane in self.host.services.lanes() if lane.position(self.session.id) is not None]

    async def _await_journal(self, writing: Awaitable[T]) -> T | None:
        """Wait for the journal; a disk that fails does not end a replay, since events keep flowing."""
        try:
            return await writing
        except JournalError as error:
            _log.warning("the journal fails: %s", error)
            return None

    def _has_participants(self, hook: str, call: ToolCall | None = None) -> bool:
        """Return whether any plugin implements a hook; cached until plugins change, since it is asked at each step."""
        dispatcher = self.host.services.dispatcher
        if self._plugins is not dispatcher.plugins:
            self._plugins = dispatcher.plugins
            self._participation.clear()
        tool, common = (None, None) if call is None else (call.tool_name, call.common_name)
        key = (hook, tool, common)
        found = self._participation.get(key)
        if found is None:
            if len(self._participation) >= _MAX_REMEMBERED:
                self._participation.clear()
            question = HookCall(hook=hook, session_id=self.session.id, tool=tool, common_tool=common)
            found = self._participation[key] = bool(dispatcher.participants(question))
        return found

    # --- steps that are one event

    async def _ignore(self, step: Step) -> None:
        """Do nothing: a live host emits nothing either."""

    async def _emit_step(self, step: Any) -> None:
        self.session.emit(EVENTS[step.__class__](step, self._envelope(step)))

    async def _model_requested(self, step: ModelRequested) -> None:
        """Tell of a request, and have plugins add their sections to its system prompt.

        No recording has that, so that a stand-in is what they are shown of it.
        """
        await self._emit_step(step)
        if step.agent_id is None and self._has_participants("ally_transform_system_prompt"):
            with suppress(GateRefused):  # a transform that blocks has its record
                await self.session.transform_system_prompt((_UNRECORDED,), moves_volatile=True)

    def _envelope(self, step: Any) -> dict[str, Any]:
        agent_id = getattr(step, "agent_id", None)
        if agent_id is None:
            return _NO_AGENT
        return {"agent_id": agent_id, "parent_id": self._parents.get(agent_id)}

    async def _agent_started(self, step: AgentStarted) -> None:
        self._parents[step.agent_id] = step.call_id
        self.session.emit(EVENTS[AgentStarted](step, self._envelope(step) | {"call_id": step.call_id}))

    async def _interrupted(self, step: Interrupted) -> None:  # noqa: ARG002 - a live host emits nothing either
        self._words.go_on()

    async def _agent_ended(self, step: AgentEnded) -> None:
        step = evolve(step, result=self._words.result(step.agent_id, step.result))
        self.session.emit(EVENTS[AgentEnded](step, self._envelope(step) | {"call_id": step.call_id}))
        # After the event, whose envelope names the parent.
        self._parents.pop(step.agent_id, None)
        self._todos.pop(step.agent_id, None)

    async def _skipped(self, step: Skipped) -> None:
        self.report.count_skipped(step.record_type)

    async def _broken_line(self, step: BrokenLine) -> None:
        self.report.count_broken(step.file or self.file, step.number, step.reason)

    # --- messages

    async def _person_message(self, step: PersonMessage) -> None:
        message = await self._words.person(self._message("user", step.text))
        self.session.emit(UserMessage(content=message.content, message_id=message.id))
        self.session.conversation.add(message)

    async def _assistant_reply(self, step: AssistantReplied) -> None:
        message = await self._words.answer(self._message("assistant", step.text), step.agent_id)
        self.session.emit(AssistantMessage(content=message.content, message_id=message.id, **self._envelope(step)))
        if step.agent_id is None:
            self.session.conversation.add(message)

    def _message(self, role: str, content: str, **about: Any) -> Message:
        self._messages += 1
        name = f"{self.session.id}:m{self._messages}"
        return Message(role=role, content=content, id=name, timestamp=self.clock.time_ms(), **about)

    # --- tool calls, in the order of the contract

    async def _tool_called(self, step: ToolCalled) -> None:
        played = self._calls[step.call_id] = await self._prepare(step)
        call = played.call
        played.opened = OpenCall(self.session.emit, call, self._parents.get(call.agent_id or ""))
        played.opened.start(unshown=played.withheld)
        if call.agent_id is None:
            self._words.go_on()
            self.session.conversation.add(self._message("assistant", "", tool_calls=(call,)))
        if played.withheld is None:
            self._ungated = played

    async def _prepare(self, step: ToolCalled | PermissionRequested) -> _RecordedCall:
        """Return a call with its arguments transformed; one that cannot be shown is denied, as in a live host."""
        unshown = step.unshown if isinstance(step, ToolCalled) else None
        try:
            call = ToolCall(step.tool_name, step.arguments, step.call_id, step.agent_id, *step.common)
        except EventError as error:
            self.report.count_broken(self.file, 0, str(error))
            ruling = await self.session.gates.deny_unshown(step.tool_name, step.call_id, str(error), ())
            call = ToolCall(step.tool_name, EMPTY, step.call_id, step.agent_id, *step.common)
            return _RecordedCall(call, is_changed=True, withheld=ruling.reason, decision_id=ruling.decision_id)
        if unshown is not None:  # the recording has no arguments for it
            return _RecordedCall(call, is_changed=True, withheld=unshown)
        if not self._has_participants("ally_transform_tool_input", call):
            return _RecordedCall(call)
        try:
            changed = await self.session.transform_tool_input(call)
        except GateRefused as refusal:
            return _RecordedCall(evolve(call, arguments=EMPTY), is_changed=True, withheld=str(refusal))
        return _RecordedCall(changed, is_changed=changed.arguments != call.arguments)

    async def _diff_made(self, step: DiffMade) -> None:
        diff = step.diff
        played = self._calls.get(step.call_id or "")
        if played is not None and played.is_changed:
            found = None if played.withheld else derive_diff(step.tool_name, played.call.arguments, diff.path)
            if found is None:
                return
            diff = found
        self.session.emit(diff_preview(step.tool_name, diff, self._envelope(step) | {"call_id": step.call_id}))

    async def _gate_ungated(self, played: _RecordedCall) -> None:
        """Run the gates of a call, once the preview that may follow it has been emitted."""
        self._ungated = None
        if self._has_participants("ally_gate_tool_call", played.call):
            await self.session.gate_tool_call(played.call)
            # A decision waits for the disk: how far plugins get meanwhile, and with which recorded time, would differ
            # from replay to replay.
            await self.settle()

    async def _todos_changed(self, step: TodosChanged) -> None:
        played = self._calls.get(step.call_id or "")
        todos = step.todos if played is None else self._todos_of(step, played)
        self._todos[step.agent_id] = todos
        self.session.emit(todo_update(todos, self._envelope(step) | {"call_id": step.call_id}))

    def _todos_of(self, step: TodosChanged, played: _RecordedCall) -> tuple[TodoItem, ...]:
        """Return the list that a call makes as transforms have left it, and those before it."""
        call, before = played.call, self._todos.get(step.agent_id, ())
        if call.tool_name in TASK_TOOLS:
            changed = None
            if not played.withheld:
                changed = todos_with_task(before, call.tool_name, call.arguments, step.output, step.details)
            return before if changed is None else changed
        if not played.is_changed:
            return step.todos
        return () if played.withheld else todos_of_call(call.tool_name, call.arguments) or ()

    async def _permission_requested(self, step: PermissionRequested) -> None:
        played = self._calls.get(step.call_id or "")
        if played is None:
            played = await self._prepare(step)
        request = permission_request(step, played.call, self._envelope(step) | {"call_id": step.call_id})
        self.session.emit(request)
        if self._has_participants("ally_gate_permission", played.call):
            await self.session.gate_permission(request)
            await self.settle()  # as behind the gates of a call

    async def _tool_returned(self, step: ToolReturned) -> None:
        played = self._calls.pop(step.call_id, None)
        if played is None:
            return  # every reader yields a call before its result; this one was never played
        call = played.call
        if played.withheld is not None:
            result = played.opened.deny(played.withheld, played.decision_id)
        else:
            recorded = ToolResult(step.success, step.output, step.error, unshown=step.unshown)
            result = await self._transform_output(call, recorded)
            took = None if step.is_denied else step.duration_ms  # no tool ran
            played.opened.end(result, duration_ms=took, denied=step.is_denied)
        if call.agent_id is None:
            content = result.output or result.error or ""
            self.session.conversation.add(self._message("tool", content, tool_call_id=call.call_id))

    async def _transform_output(self, call: ToolCall, result: ToolResult) -> ToolResult:
        if not self._has_participants("ally_transform_tool_output", call):
            return result
        try:
            return await self.session.transform_tool_output(call, result)
        except GateRefused as refusal:
            return ToolResult(success=False, error=f"the output is withheld: {refusal}")

    # --- where the conversation may change

    async def _safe_point(self, step: SafePoint) -> None:
        kind = step.kind
        self.session.conversation.is_processing = kind is not SafePointKind.TURN_END
        if kind is SafePointKind.STEP and self._is_quiet and not self.session.inbox:
            return  # nothing is pending, and the previous one delivered nothing: it would change nothing
        self._is_quiet = not await self.session.safe_point(kind.value)
        if kind is SafePointKind.TURN_END and self._is_quiet:
            await self._words.stop()

    async def _session_ended(self, step: SessionEnded) -> None:
        await self.settle()
        # With everything received: what is looked at here is what plugins made of the whole session.
        if self.before_end is not None:
            await self.before_end(self.session)
        self.session.emit(SessionEnd(reason=step.reason))
        await self.settle()
        await self._wait_for_tasks()

    async def _wait_for_tasks(self) -> None:
        running = [task for task in self.host.tasks if task.session_id == self.session.id and task.state == "running"]
        if not running:
            return
        waiters = [asyncio.ensure_future(task.result()) for task in running]
        done, late = await asyncio.wait(waiters, timeout=_TASK_GRACE)
        for waiter in late:
            # The waiter alone: the task is shielded, and ends with the host.
            waiter.cancel()
        for waiter in done:
            if not waiter.cancelled():
                waiter.exception()  # retrieved, or asyncio logs it; the task's end was recorded already
        await self.settle()
