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
"""Which `deliver_as` is due at each safe point; a message that missed one enters at the next that allows it."""

SAFE_POINTS: Final = tuple(_DUE)


@define(eq=False)
class Waiting:
    """An accepted message and when it is due. `offset` is the number of its record in the journal, 0 before that.

    Not frozen, and the `Message` is made when it is first needed: either costs a microsecond for each message, and most
    are not looked at before their safe point.
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
        """Use the content of a transformed message, which may differ in nothing else."""
        self.content, self._message = message.content, message


@define(eq=False)
class Inbox:
    """The waiting messages of one session, in the order in which they were accepted."""

    _waiting: dict[str, Waiting] = field(factory=dict)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, waiting: Waiting) -> None:
        """Queue a message; one that waits already, under the same id, is not added again."""
        self._waiting.setdefault(waiting.id, waiting)

    def take_due(self, safe_point: str) -> list[Waiting]:
        """Return what is due at a safe point, in order of acceptance; it stays until it is `remove`d."""
        if not self._waiting:
            return []
        due = [waiting for waiting in self._waiting.values() if waiting.deliver_as in _DUE[safe_point]]
        # By the journal's order: calls come back from the disk in any.
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
