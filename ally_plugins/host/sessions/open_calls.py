"""A tool call between its start and its end, the decision about it, and those of one agent that are open.

How a call is decided is left to the caller: `toolcalls` asks gates and an `Asker`, adapters their permission flow too.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, Final, TypeAlias

from attrs import define, evolve, field, frozen

from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.conversation import ToolCall, ToolResult
from ally_plugins.contract.values.errors import EventError, GateRefused, HostError, ToolCallError
from ally_plugins.contract.values.events import DiffPreview, Event, ToolCallEnd, ToolCallStart
from ally_plugins.contract.values.frozen import EMPTY, freeze_mapping

__all__ = [
    "Check",
    "Decide",
    "Emit",
    "OpenCall",
    "OpenCalls",
    "OutputTransform",
    "PermissionOutcome",
    "Postponed",
    "Preview",
    "Previewed",
    "Runner",
    "ToolFailure",
    "call_key",
    "is_same_call",
    "not_run",
    "result_of_error",
]

_log: Final = logging.getLogger(__name__)

Runner = Callable[[ToolCall], Awaitable[ToolResult]]
"""What runs the tool, with the final arguments."""

OutputTransform = Callable[[ToolCall, ToolResult], Awaitable[ToolResult]]
"""What returns the result that plugins made of the tool's; raises GateRefused when it is withheld."""

Emit = Callable[[Event], object]
"""What takes an event of the session."""

Check: TypeAlias = Callable[[Any], None]
"""What checks a call's final arguments; raises ArgumentsError."""

ToolFailure: TypeAlias = Callable[[ToolCall, ToolResult], str | None]
"""What tells a result that reports a failure, although the tool did not fail: its error, or None for any other."""

Preview: TypeAlias = Callable[[ToolCall], DiffPreview | Awaitable[DiffPreview | None] | None]
"""What a call would change, None when it changes no file; may read, must not write. It is tied to the call."""


@frozen
class Previewed:
    """What a call would change, where there is a preview; `problem` says why there is none where one failed."""

    diff: DiffPreview | None = None
    problem: str = ""


@frozen
class PermissionOutcome:
    """How a question ended. A refused call has a `reason` for the model; a deferred one waits for another run.

    `decision_id` is the decision of plugins that refused it, or had the person asked.
    """

    is_allowed: bool
    reason: str = ""
    is_deferred: bool = False
    decision_id: str | None = None


Decide: TypeAlias = Callable[[ToolCall, Previewed], Awaitable[PermissionOutcome]]
"""What decides whether a call with its final arguments may run."""


class Postponed(Exception):
    """Raised by a runner whose tool has not run: another run goes on with the call, which stays open until then."""


@define(eq=False)
class OpenCall:
    """A call between its TOOL_CALL_START and its TOOL_CALL_END, each of which is emitted once.

    Without `emit` nobody gets its events, and none is made. `parent_id` is the call that a sub-agent runs in, when it
    is one that makes this call. An open call may outlive the run that began it: one that was `Postponed` ends in
    another run.
    """

    emit: Emit | None
    call: ToolCall
    parent_id: str | None = None
    is_started: bool = False
    given: ToolCall = field(init=False)
    """The call as it was made, before transforms gave `call` its final arguments."""
    is_ended: bool = field(init=False, default=False)
    failure: ToolFailure | None = field(init=False, default=None)
    result: ToolResult | None = field(init=False, default=None)
    """What it came to, as observers are told; None while it has not ended."""
    outcome: PermissionOutcome | None = field(init=False, default=None)
    """How it was decided, None while it was not, and where that counts no more."""
    running_since: float | None = field(init=False, default=None)
    """When the tool was let run, as `perf_counter` has it; None while it was not."""

    def __attrs_post_init__(self) -> None:
        self.given = self.call

    def start(self, unshown: str | None = None) -> None:
        """Emit the start, unless that was done. `unshown` is why the arguments are not in it."""
        if self.is_started:
            return
        self.is_started = True
        if self.emit is not None:
            arguments = self.call.arguments if unshown is None else EMPTY
            self.emit(ToolCallStart(arguments=arguments, unshown=unshown, **self._about()))

    async def decide(self, decide: Decide, preview: Preview | None = None) -> PermissionOutcome:
        """Emit the start and what the call would change, and have it decided; a refused one has ended, as denied.

        A call that somebody closed meanwhile is refused. Cancelling ends it as interrupted.
        """
        self.start()
        try:
            previewed = await self.preview(preview) if preview is not None else Previewed()
            outcome = await decide(self.call, previewed)
        except BaseException as error:
            # A cancellation too: observers that saw it begin see it end.
            self.interrupt(error)
            raise
        if self.is_ended:
            return PermissionOutcome(is_allowed=False, reason="the call was closed before it was decided")
        self.outcome = outcome
        if not (outcome.is_allowed or outcome.is_deferred):
            self.deny(outcome.reason, outcome.decision_id)
        return outcome

    async def preview(self, preview: Preview) -> Previewed:
        """Emit what the call would change, and return it.

        One that fails does not deny the call: the gates see the call itself, and the person that the preview is
        missing. Cancelling propagates; the call stays open.
        """
        call = self.call
        try:
            made = preview(call)
            diff = await made if inspect.isawaitable(made) else made
            if diff is None:
                return Previewed()
            # Tied to the call by its id: where a gate says that the call is sensitive, the preview is withheld with it.
            diff = evolve(
                diff,
                call_id=call.call_id or diff.call_id,
                agent_id=call.agent_id or diff.agent_id,
                parent_id=self.parent_id or diff.parent_id,
            )
            if self.emit is not None:
                self.emit(diff)
        except Exception as error:  # noqa: BLE001 - whatever it is, the call is decided all the same
            _log.exception("the preview of %r failed; it is decided without one", call.tool_name)
            return Previewed(problem=f"the preview failed: {type(error).__name__}: {error}".removesuffix(": "))
        return Previewed(diff)

    def deny(self, reason: str, decision_id: str | None = None) -> ToolResult:
        """Emit the end of a call that does not run, and return the result for the model."""
        result = not_run(reason)
        self.end(result, denied=True, decision_id=decision_id)
        return result

    def deny_unshown(self, why: str, decision_id: str | None = None) -> ToolResult:
        """Emit the start and the end of a call that is denied since its arguments cannot be shown."""
        self.start(unshown=why)
        return self.deny(why, decision_id)

    def end(
        self,
        result: ToolResult,
        *,
        duration_ms: float | None = None,
        denied: bool = False,
        decision_id: str | None = None,
    ) -> None:
        """Emit the end, unless that was done."""
        if self.is_ended:
            return
        # Before the event: a listener of it may close what is open.
        self.is_ended, self.result = True, result
        if self.emit is None:
            return
        summary = {"success": result.success, "error": result.error, "data": result.data}
        self.emit(
            ToolCallEnd(
                success=result.success,
                denied=denied,
                decision_id=decision_id,
                unshown=result.unshown,
                result=freeze_mapping({k: v for k, v in summary.items() if v is not None}),
                error=result.error,
                output=result.output,
                duration_ms=duration_ms,
                **self._about(),
            )
        )

    def interrupt(self, error: BaseException, duration_ms: float | None = None) -> None:
        """Emit the end of a call that was cancelled, or cut off by an unexpected error."""
        why = "interrupted" if isinstance(error, asyncio.CancelledError) else type(error).__name__
        self.end(ToolResult(success=False, error=why), duration_ms=duration_ms)

    def let_run(self) -> ToolCall:
        """Begin to count the time of the tool, and return the call that may run."""
        self.running_since = perf_counter()
        return self.call

    async def carry_out(self, run: Runner, transform: OutputTransform) -> ToolResult:
        """Run a tool that may run: the tool, output transforms, the end with the time that the tool alone took.

        Cancelling cancels `run`, and emits the end with an error. Raises Postponed when `run` does: there is no end.
        """
        try:
            result = await _result_of(run, self.let_run())
        except Postponed:
            self.running_since = None
            raise
        except BaseException as error:
            self.interrupt(error, self.duration_ms())
            raise
        return await self.finish(result, transform)

    async def finish(self, result: ToolResult, transform: OutputTransform) -> ToolResult:
        """Return what transforms make of what the tool came to, and emit the end with it; cancelling emits it too.

        A result that reports a `failure` is one to transforms and observers, and to the model what the tool returned.
        """
        # Before the transforms, whose time is not the tool's.
        duration_ms = self.duration_ms()
        given = _checked(result)
        shown = self._judged(given)
        try:
            left = await transform(self.call, shown)
        except GateRefused as error:
            given = shown = left = ToolResult(success=False, error=f"the output is withheld: {error}")
        except BaseException as error:
            self.interrupt(error, duration_ms)
            raise
        self.end(left, duration_ms=duration_ms)
        if left is shown:
            return given
        return left if shown is given else evolve(left, success=given.success, error=given.error)

    def _judged(self, result: ToolResult) -> ToolResult:
        """Return a result as the failure that it reports, the same one where it reports none."""
        if self.failure is None or not result.success:
            return result
        try:
            error: object = self.failure(self.call, result)
        except Exception:  # noqa: BLE001 - the host author's code; the result is what the tool returned
            _log.exception("whether a result of %r is a failure cannot be told", self.call.tool_name)
            return result
        if isinstance(error, str):
            return evolve(result, success=False, error=error)
        if error is not None:
            _log.error("whether a result of %r is a failure cannot be told: tool_failure returned %s; expected the "
                       "error as text, or None", self.call.tool_name, type(error).__name__)  # fmt: skip
        return result

    def duration_ms(self) -> float | None:
        """Return the milliseconds since the tool was let run, to the microsecond; None when it was not."""
        return round((perf_counter() - self.running_since) * 1000, 3) if self.running_since is not None else None

    def _about(self) -> dict[str, Any]:
        call = self.call
        return {
            "tool_name": call.tool_name,
            "call_id": call.call_id,
            "agent_id": call.agent_id,
            "parent_id": self.parent_id,
            "common_name": call.common_name,
        }


@define(eq=False)
class OpenCalls:
    """The calls of one agent that are being decided, may run, or run, by their id, or their tool's name without one.

    It keeps the refusals, too: what the agent reports of a call that it ran all the same reaches nobody.
    """

    _open: dict[str, OpenCall] = field(init=False, factory=dict)
    _refused: dict[str, ToolResult] = field(init=False, factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether no call is being decided, may run, or runs."""
        return not self._open

    def add(self, opened: OpenCall) -> None:
        """Take a call that is about to be decided. Raises HostError for one whose id is open already."""
        key = call_key(opened.call)
        if self._open.setdefault(key, opened) is not opened:
            raise HostError(
                f"the call {key!r} may run already, or is being decided; give each call of a run an id of its own"
            )
        # An id may come again: the refusal was of the call before.
        self._refused.pop(key, None)

    def remove(self, opened: OpenCall) -> None:
        """Forget a call that has ended, was refused, or goes on in another run."""
        key = call_key(opened.call)
        # Another one may have its key by now.
        if self._open.get(key) is opened:
            del self._open[key]

    def refuse(self, call_id: str, refusal: ToolResult) -> None:
        """Keep the refusal of a call in case that its agent reports a result of it."""
        self._refused[call_id] = refusal

    def find(self, call: ToolCall) -> OpenCall | None:
        """Return the call that is open under an id."""
        return self._open.get(call_key(call))

    def running(self) -> tuple[OpenCall, ...]:
        """Return the calls that are being decided, may run, or run, in the order in which they came."""
        return tuple(self._open.values())

    def take(self, call: ToolCall) -> OpenCall:
        """Remove a call that may run, and return it. Raises HostError for another one, or for other arguments."""
        opened = self.find(call)
        is_allowed = opened is not None and opened.outcome is not None and opened.outcome.is_allowed
        # What runs is what gates and the person were shown.
        if opened is None or not is_allowed or not is_same_call(opened.call, call):
            raise HostError(f"the call {call_key(call)!r} was not allowed; carry out only what was allowed, once")
        self.remove(opened)
        return opened

    def take_running(self, call_id: str) -> OpenCall | ToolResult:
        """Remove a call that was let run, and return it; of one that was refused, return the refusal.

        Raises HostError for one that is not open: nobody was asked about it, or it has ended.
        """
        if (refusal := self._refused.pop(call_id, None)) is not None:
            return refusal
        opened = self._open.get(call_id)
        if opened is None or opened.running_since is None:
            raise HostError(f"the call {call_id!r} is not open; end only what was let run, once")
        self.remove(opened)
        return opened

    def close(self, why: str) -> None:
        """Emit the end of the calls that are open, and forget the refusals: nothing more comes of them."""
        self._refused.clear()
        # One at a time: a listener of an end may begin or end calls itself.
        while self._open:
            _, opened = self._open.popitem()
            lost = f"its result never came: {why}"
            opened.end(ToolResult(success=False, error=lost) if opened.running_since is not None else not_run(why))


def not_run(reason: str) -> ToolResult:
    """Return the model's result of a call that did not run."""
    return ToolResult(success=False, error=f"not run: {reason}")


def call_key(call: ToolCall) -> str:
    """Return what names a call among those of one agent: its id, or its tool's name without one."""
    return call.call_id or call.tool_name


def is_same_call(one: ToolCall, other: ToolCall) -> bool:
    """Say whether two calls are the same to whoever is shown them; 1 is not true."""
    return one is other or (one.tool_name == other.tool_name and encode(one.arguments) == encode(other.arguments))


async def _result_of(run: Runner, call: ToolCall) -> ToolResult:
    """Run a tool; what goes wrong in it is an answer to the model."""
    try:
        return _checked(await run(call))
    except Postponed:
        raise
    except Exception as error:  # noqa: BLE001
        return result_of_error(error)


def result_of_error(error: Exception) -> ToolResult:
    """Return what a tool came to that raised an error, for the model."""
    if isinstance(error, ToolCallError):
        return ToolResult(success=False, error=str(error))
    if isinstance(error, EventError):  # of a result that cannot be made
        return ToolResult(success=False, error=f"the output is withheld: it cannot be shown to plugins: {error}")
    return ToolResult(success=False, error=f"{type(error).__name__}: {error}".removesuffix(": "))


def _checked(result: object) -> ToolResult:
    """Return what a tool came to, if it is a result; anything else is no success."""
    if isinstance(result, ToolResult):
        return result
    return ToolResult(success=False, error=f"the tool returned {type(result).__name__}; expected a ToolResult")
