"""Keeps a session's own conversation in step with the history that a framework keeps, and copies only what is new.

New messages are queued at once and converted when somebody reads the conversation: mostly a run has several steps
until then.

A framework's message is recognised by object identity; each becomes any number of messages here. Ids count messages,
so that the same history gets the same ids after a restart; plugins' messages keep their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from operator import is_
from typing import Any, Final, TypeAlias

from attrs import define, field

from ally_plugins.contract.values.conversation import Message

from .memory import Conversation

__all__ = ["Convert", "Mirror"]

Convert: TypeAlias = Callable[[Any], Iterable[Message]]
"""Converts one message of the framework to messages without ids; a plugin's keeps its id."""


def _no_messages(_: Any) -> Iterable[Message]:
    return ()


@define(eq=False)
class Mirror:
    """The mirror of one session's history, for any thread: it has the conversation's lock."""

    session_id: str
    conversation: Conversation
    _plugin_ids: set[str] = field(init=False, factory=set)
    _unread: list[Any] = field(init=False, factory=list)
    _convert: Convert = field(init=False, default=_no_messages)
    _followed: list[Any] = field(init=False, factory=list)
    """The messages of the history as far as it was followed, to know them again."""
    _count: int = field(init=False, default=0)
    _prompts: int = field(init=False, default=0)
    _epoch: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self.conversation.is_mirror = True

    @property
    def next_id(self) -> str:
        """The id that the next message gets that is no plugin's and no system prompt."""
        with self.conversation.lock:
            self._read()
            return self._next_id("m", self._count + 1)

    @property
    def plugin_ids(self) -> AbstractSet[str]:
        """Plugins' messages that the framework's history holds."""
        with self.conversation.lock:
            self._read()
            return self._plugin_ids

    def follow(self, history: Sequence[Any], convert: Convert, *, is_first: bool = False) -> bool:
        """Copy what is new in a history; return whether it replaces the one before, as after a compaction.

        `is_first` says that a run begins: then each message is looked at, since somebody may have edited one meanwhile.
        """
        with self.conversation.lock:
            followed, count = len(self._followed), len(history)
            if followed and not (count >= followed and self._is_known(history, is_first=is_first)):
                return self._start_over(history, convert)
            if count > followed:
                new = history[followed:]
                self._followed += new
                self._unread += new
                self._convert = convert
                self.conversation.catch_up = self._read
            return False

    def _is_known(self, history: Sequence[Any], *, is_first: bool) -> bool:
        """Say whether a history begins with the messages that were followed."""
        # Within a run at the last alone, so that a step costs the same however long the history is.
        last = len(self._followed) - 1
        return history[last] is self._followed[last] and (not is_first or all(map(is_, self._followed, history)))

    def _read(self) -> None:
        """Convert what is queued."""
        unread, self._unread = self._unread, []
        for item in unread:
            for message in self._with_ids(self._convert(item)):
                self.conversation.add(message)

    def _start_over(self, history: Sequence[Any], convert: Convert) -> bool:
        """Read a whole history again: one that continues the last is appended, another one replaces it."""
        # First: this converts what is queued, by the counts so far. Without plugins' messages, whose places may differ.
        before = [message for message in self.conversation.messages if message.source_plugin is None]
        self._plugin_ids.clear()  # a history may have lost some: those are to enter again
        self._followed, self._count, self._prompts = list(history), 0, 0
        named = [one for item in history for one in self._with_ids(convert(item))]
        after = [message for message in named if message.source_plugin is None]
        if len(after) >= len(before) and all(map(_is_same, before, after)):
            for message in named:
                self.conversation.add(message)
            return False
        # A new epoch in the ids: one of the history before must not name another message now.
        self._epoch += 1
        self._count = self._prompts = 0
        # Converted again, since the ids of `named` are written into its messages.
        self.conversation.replace(one for item in history for one in self._with_ids(convert(item)))
        return True

    def _with_ids(self, messages: Iterable[Message]) -> Iterable[Message]:
        for message in messages:
            if message.id:
                self._plugin_ids.add(message.id)
                yield message
            elif message.role == "system":
                self._prompts += 1
                yield _with_id(message, self._next_id("s", self._prompts))
            else:
                self._count += 1
                yield _with_id(message, self._next_id("m", self._count))

    def _next_id(self, kind: str, count: int) -> str:
        epoch = f"{self._epoch}." if self._epoch else ""
        return f"{self.session_id}:{kind}{epoch}{count}"


_set_id: Final = Message.id.__set__  # type: ignore[attr-defined]  # slots: it writes past `frozen`, at a tenth of a copy


def _with_id(message: Message, message_id: str) -> Message:
    """Give a message that was made just now, and that nobody has seen yet, its id, past `frozen`."""
    _set_id(message, message_id)
    return message


def _is_same(one: Message, other: Message) -> bool:
    return one.id == other.id and one.content == other.content and one.role == other.role
