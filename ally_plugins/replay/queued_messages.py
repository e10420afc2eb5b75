"""What a person types while the agent works: it waits in the program's queue, and enters the conversation later.

Claude Code records the queue (`queue-operation`), and newer versions also what entered in the middle of a turn (an
`attachment`). A message that left the queue for a turn of its own is a user record as well; one that entered in the
middle of a turn stands nowhere else in older versions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attrs import define, field

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["QueuedMessages"]

# Bounds what waits; a person types a few.
_MAX: Final = 256
_ABSORBED: Final = frozenset({"", "absorbed_mid_turn"})


@define
class QueuedMessages:
    """One session's queue. Lives as long as one reading.

    What is no person's (`is_notice`: a background task has ended) waits in the same queue, and is never handed out.
    """

    waiting: list[tuple[str, bool]] = field(factory=list)
    entering: list[str] = field(factory=list)  # they have left the queue into the turn
    leaving: list[str] = field(factory=list)  # they have left the queue for a turn of their own
    early: int = 0  # recorded where they entered before the queue's own record said that they left it

    def receive_operation(self, operation: str, text: str, reason: str = "", *, is_notice: bool = False) -> bool:
        """Follow one operation; return whether it is known. Without a text, the oldest message is meant."""
        if operation == "enqueue":
            if len(self.waiting) < _MAX:
                self.waiting.append((text, is_notice))
        elif operation == "dequeue":
            self.leaving += self._pull(text)
        elif operation == "remove":
            pulled = self._pull_person(text)
            if reason in _ABSORBED:
                self.entering += pulled
        elif operation == "popAll":  # back into the line that the person edits
            self.waiting.clear()
        else:
            return False
        return True

    def entered(self, text: str, *, in_turn: bool) -> None:
        """Note that a message was recorded where it entered: in the middle of a turn, or as a turn's beginning."""
        expected = self.entering if in_turn else self.leaving
        if text in expected:
            expected.remove(text)
        elif (text, False) in self.waiting:
            self.waiting.remove((text, False))
            self.early += 1
        elif expected:  # the program expands what was pasted, and commands: the texts may differ
            del expected[0]

    def take_entered(self) -> Iterable[str]:
        """Return the messages that have left the queue and are recorded nowhere else, once: the model answers now."""
        taken = [*self.leaving, *self.entering]
        self.leaving.clear()
        self.entering.clear()
        return taken

    def _pull(self, text: str) -> list[str]:
        """Take a message out of the queue: the oldest, a notice too."""
        if text:
            return self._pull_person(text)
        if self.early:
            self.early -= 1
            return []
        pulled, is_notice = self.waiting.pop(0) if self.waiting else ("", True)
        return [] if is_notice else [pulled]

    def _pull_person(self, text: str) -> list[str]:
        """Take a person's message out of the queue: some versions never record that a notice has left it."""
        if self.early and not text:
            self.early -= 1
            return []
        found = next((each for each in self.waiting if not each[1] and text in {"", each[0]}), None)
        if found is None:
            return []
        self.waiting.remove(found)
        return [found[0]]
