"""What a lane is asked to do between two events, the call of a hook that runs now, and the ways in which one fails."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ally_plugins.contract.values.errors import PluginError

if TYPE_CHECKING:
    from ally_plugins.contract.values.events import Event
    from ally_plugins.contract.values.scope import Scope

__all__ = ["Call", "HookCancelled", "Question", "TakenBack", "returned"]


class TakenBack(Exception):
    """Nobody waits for a hook's answer any more."""


class HookCancelled(Exception):
    """A hook raised CancelledError, or cancelled its task, though nobody had asked it to end."""


class Question:
    """A hook that the lane calls with nothing else running; None calls nothing and is answered in its turn.

    `answer` gets the result or the error, once. `deadline` is in seconds, from when it was asked; `ends` is the same in
    the loop's time.
    """

    __slots__ = ("answer", "arguments", "deadline", "ends", "function", "hook", "is_async", "is_over", "scope")

    def __init__(
        self,
        hook: str,
        function: Callable[..., Any] | None,
        arguments: tuple[Any, ...],
        scope: Scope,
        deadline: float,
        answer: Callable[[Any, BaseException | None], None],
        *,
        is_async: bool = True,
    ) -> None:
        self.hook = hook
        self.function = function
        self.arguments = arguments
        self.scope = scope
        self.deadline = deadline
        self.answer = answer
        self.is_async = is_async
        self.ends = 0.0
        self.is_over = False

    def settle(self, result: Any = None, error: BaseException | None = None) -> None:
        """Give the answer, unless it has been given."""
        if not self.is_over:
            self.is_over = True
            self.answer(result, error)


class Call:
    """One call of one hook, while it lasts; `ends` is its deadline in the loop's time.

    `interruption` says why the lane has cancelled it; its grace ends at `ends` then.
    """

    __slots__ = ("ends", "event", "hook", "interruption", "is_async", "question")

    def __init__(
        self, hook: str, ends: float, *, is_async: bool, event: Event | None = None, question: Question | None = None
    ) -> None:
        self.hook = hook
        self.ends = ends
        self.is_async = is_async
        self.event = event
        self.question = question
        self.interruption: Exception | None = None

    @property
    def event_id(self) -> str | None:
        """The event that the hook was called with."""
        return self.event.id if self.event is not None else None


def returned(hook: str, result: Any) -> Any:
    """Return what a `def` hook returned; a coroutine would be awaited by nobody."""
    if inspect.iscoroutine(result):
        result.close()
        raise PluginError(f"{hook} returned a coroutine that nobody awaits; write `async def {hook}`")
    return result
