"""The messages of one session that are on disk and wait for a safe point."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from attrs import define, field

from ally_plugins.contract.values.conversation import Message
from ally_plugins.contract.values.frozen import freeze_mapping

__all__ = ["SAFE_POINTS", "Inbox", "Waiting"]

_DUE: Final[dict[str, frozenset[str]]] = {
    "step": frozenset({"steer"}),
    "turn_end": frozenset({"steer", "follow_up"}),
    "turn_start": frozenset({"steer", "follow_up", "next_turn"}),
}
"""What is due at each safe point; what missed its own comes at the next one that allows it."""

SAFE_POINTS: Final = tuple(_DUE)


@define(eq=False)
class Waiting:
    """A message on its way, with what decides when it enters. `offset` is its record in the journal, once accepted.

    Not frozen, and the `Message` is made when somebody asks for it: either costs a microsecond for each message, and
    mostly nobody looks at one before its safe point.
    """

    id: str
    role: str
    content: str
    metadata: Mapping[str, Any]
    timestamp: int
    plugin: str
    origin: tuple[str, ...]
    deliver_as: str
    trigger_turn: bool = False
    offset: int = 0
    _message: Message | None = None

    @property
    def message(self) -> Message:
        """The message as the conversation gets it."""
        if self._message is None:
            self._message = Message(
                role=self.role,
                content=self.content,
                id=self.id,
                metadata=freeze_mapping(self.metadata),
                timestamp=self.timestamp,
            )
        return self._message

    def replace(self, message: Message) -> None:
        """Let a transformed message take the place of this one; only its content may be another."""
        self.content, self._message = message.content, message


@define(eq=False)
class Inbox:
    """The waiting messages of one session, in the order in which they were accepted."""

    _waiting: dict[str, Waiting] = field(factory=dict)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, waiting: Waiting) -> None:
        """Let a message wait; one that waits already, under the same id, is not added again."""
        self._waiting.setdefault(waiting.id, waiting)

    def take_due(self, safe_point: str) -> list[Waiting]:
        """Return what is due at a safe point, in order of acceptance; it stays until it is `remove`d."""
        if not self._waiting:
            return []
        due = [waiting for waiting in self._waiting.values() if waiting.deliver_as in _DUE[safe_point]]
        return sorted(due, key=lambda waiting: waiting.offset)

    def remove(self, ids: Iterable[str]) -> None:
        """Forget messages that were delivered."""
        for message_id in ids:
            self._waiting.pop(message_id, None)

    def all(self) -> list[Waiting]:
        """Return what waits, in order of acceptance."""
        return sorted(self._waiting.values(), key=lambda waiting: waiting.offset)

    @property
    def wants_turn(self) -> bool:
        """Whether a waiting message is to wake an idle agent."""
        return any(waiting.trigger_turn for waiting in self._waiting.values())
