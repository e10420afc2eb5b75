"""The conversation that a session has when the host author gives none: messages and state, in memory.

It follows the state that events carry: todos, context usage, agents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import RLock
from typing import Any, Final

from attrs import define, evolve, field

from ally_plugins.contract.values.conversation import AgentState, Context, Message, TodoItem
from ally_plugins.contract.values.events import (
    AgentEnd,
    AgentStart,
    CompactionComplete,
    ContextUsageUpdate,
    Event,
    SessionStart,
    TodoUpdate,
    ToolCallEnd,
    ToolCallStart,
)
from ally_plugins.contract.values.ids import new_id

__all__ = ["Conversation", "without_private"]

_CURSOR_DIGITS: Final = 18  # of a count, which fits 64 bits then; a plugin may send any text as its cursor
_MAX_CALLS: Final = 4096  # that run at one time, far more than any agent makes: ends that never come must not add up
_STATUSES: Final = ("pending", "in_progress", "completed")


@define(eq=False)
class Conversation:
    """The messages of one session and the state of its agent, for any thread.

    With `is_mirror` it copies a history that the agent framework keeps, from which plugins' messages come too. While
    the copy is behind, `catch_up` is set; it is called once, with `lock`, before messages are read or added.
    """

    focus: str | None = None
    token_usage: float | None = None
    todos: tuple[TodoItem, ...] = ()
    is_processing: bool = False
    is_mirror: bool = False
    catch_up: Callable[[], object] | None = None
    lock: RLock = field(factory=RLock)
    """Held while messages are read or changed: an agent may run on another loop than the host.

    Reentrant, since `catch_up` adds messages.
    """
    _following: RLock = field(factory=RLock)
    """Held while an event changes the state. Not `lock`: who emits must not wait for messages to be copied."""
    _messages: list[Message] = field(factory=list)
    _agents: dict[str, AgentState] = field(factory=dict)
    _callers: dict[str, str | None] = field(factory=dict)
    """The agents that have made the calls that run, by call; None is the one that the person talks to."""
    _ids: set[str] = field(factory=set)
    _visible: list[Message] = field(factory=list)
    _epoch: str = field(factory=lambda: new_id("e"))
    """Part of each cursor: one of another session, or from before a restart or a `replace`, is recognised by it."""

    @property
    def agents(self) -> tuple[AgentState, ...]:
        """The agents that are at work, in the order in which they began."""
        return tuple(self._agents.values())

    @property
    def messages(self) -> list[Message]:
        """The messages, oldest first; `add` and `replace` change them."""
        with self.lock:
            self._catch_up()
            return self._messages

    def _catch_up(self) -> None:
        if self.catch_up is not None:
            # Cleared first: it adds messages, which would call it again.
            catch_up, self.catch_up = self.catch_up, None
            catch_up()

    def add(self, message: Message) -> bool:
        """Append a message and say whether it was; one whose id was added before is skipped."""
        with self.lock:
            self._catch_up()
            if message.id and message.id in self._ids:
                return False
            if message.id:
                self._ids.add(message.id)
            self._messages.append(message)
            if not message.private:
                self._visible.append(message)
            return True

    def replace(self, messages: Iterable[Message]) -> None:
        """Replace all messages, as a compaction does; cursors start anew.

        The ids of those that are gone are remembered, so that a second delivery of one is still skipped.
        """
        with self.lock:
            self._catch_up()
            self._messages, self._visible = [], []
            self._epoch = new_id("e")
            for message in messages:
                # `add` skips what was added before, and most of these were.
                self._ids.discard(message.id)
                self.add(message)

    def follow(self, event: Event) -> None:
        """Update the agent's state from an event; cheap for types that carry none."""
        follower = _FOLLOWERS.get(event.__class__)
        if follower is not None:
            with self._following:
                follower(self, event)

    def note_caller(self, call_id: str, agent_id: str | None) -> None:
        """Keep which agent has made a call that runs: an agent that is started in it works for that one."""
        with self._following:
            self._callers[call_id] = agent_id
            if len(self._callers) > _MAX_CALLS:
                del self._callers[next(iter(self._callers))]

    def snapshot(self, session_id: str, parts: Sequence[str], since: str | None) -> Context:
        """Return the named parts; of the messages those after the cursor `since` (None: all), without private ones."""
        with self.lock:
            self._catch_up()
            start, is_reset = self._position(since)
            messages = tuple(self._visible[start:] if start else self._visible) if "messages" in parts else None
            cursor = f"{self._epoch}:{len(self._visible)}" if "messages" in parts else ""
        return Context(
            session_id=session_id,
            messages=messages,
            focus=self.focus if "focus" in parts else None,
            token_usage=self.token_usage if "token_usage" in parts else None,
            todos=self.todos if "todos" in parts else None,
            agents=self.agents if "agents" in parts else None,
            is_processing=self.is_processing if "is_processing" in parts else None,
            cursor=cursor,
            is_reset=is_reset and "messages" in parts,
        )

    def _position(self, since: str | None) -> tuple[int, bool]:
        if since is None:
            return 0, False
        epoch, _, count = since.partition(":")
        if epoch == self._epoch and len(count) <= _CURSOR_DIGITS and count.isdecimal():
            start = int(count)
            if start <= len(self._visible):
                return start, False
        return 0, True


def _usage(conversation: Conversation, event: Any) -> None:
    if event.parent_call_id is None:  # else it is how full a sub-agent's window is
        conversation.token_usage = event.context_usage


def _compacted(conversation: Conversation, event: Any) -> None:
    if event.new_context_usage is not None:
        conversation.token_usage = event.new_context_usage


def _todos(conversation: Conversation, event: Any) -> None:
    if event.agent_id is not None:  # a sub-agent keeps its own
        return
    conversation.todos = tuple(_todo(i, todo) for i, todo in enumerate(event.todos) if isinstance(todo, Mapping))


def _todo(index: int, todo: Mapping[str, Any]) -> TodoItem:
    status = todo.get("status")
    return TodoItem(
        id=str(todo.get("id", index)),
        task=str(todo.get("task", todo.get("content", ""))),
        status=status if status in _STATUSES else "pending",
        active_form=todo.get("activeForm"),
    )


def _call_started(conversation: Conversation, event: Any) -> None:
    if event.call_id is not None:
        conversation.note_caller(event.call_id, event.agent_id)


def _call_ended(conversation: Conversation, event: Any) -> None:
    conversation._callers.pop(event.call_id or "", None)  # noqa: SLF001


def _path(conversation: Conversation, call_id: str | None) -> tuple[str, ...]:
    """Return the agents that one in a tool call works for; none where nobody knows who has made the call."""
    if call_id not in conversation._callers:  # noqa: SLF001
        return ()
    caller, agents = conversation._callers[call_id], conversation._agents  # noqa: SLF001
    main = next((each for each in agents.values() if each.parent_id is None), None)  # it has no id in its calls
    parent = main if caller is None else agents.get(caller)
    return () if parent is None else (*parent.path, parent.agent_id)


def _agent_started(conversation: Conversation, event: Any) -> None:
    key = event.agent_id or event.instance_id or event.agent_name
    conversation._agents[key] = AgentState(  # noqa: SLF001 - this module's own class
        key, event.agent_name, event.task_prompt, event.parent_id, event.timestamp, _path(conversation, event.parent_id)
    )
    conversation.is_processing = True


def _agent_ended(conversation: Conversation, event: Any) -> None:
    conversation._agents.pop(event.agent_id or event.instance_id or event.agent_name, None)  # noqa: SLF001
    conversation.is_processing = bool(conversation._agents)  # noqa: SLF001


def _focus(conversation: Conversation, event: Any) -> None:
    if event.focus is not None:
        conversation.focus = event.focus


_FOLLOWERS: Final[dict[type[Event], Callable[[Conversation, Any], None]]] = {
    AgentEnd: _agent_ended,
    AgentStart: _agent_started,
    CompactionComplete: _compacted,
    ContextUsageUpdate: _usage,
    SessionStart: _focus,
    ToolCallEnd: _call_ended,
    ToolCallStart: _call_started,
    TodoUpdate: _todos,
}


def without_private(context: Context) -> Context:
    """Return the context without messages that are marked private, and with a tuple of them, whoever made it."""
    messages = context.messages
    if messages is None or (messages.__class__ is tuple and not any(message.private for message in messages)):
        return context
    return evolve(context, messages=tuple(message for message in messages if not message.private))
