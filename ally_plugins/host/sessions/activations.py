"""Which plugins are active in which session: `+name` and `-name` in the person's messages.

The syntax is `policy.activation`'s; the journal keeps the result. An inactive plugin gets no events of the session, and
its tools are not run for it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ally_plugins.contract.values.errors import JournalError
from ally_plugins.journal.reader import JournalReader
from ally_plugins.journal.values import Record

if TYPE_CHECKING:
    from ally_plugins.contract.manifest import Activation
    from ally_plugins.journal.journal import Journal
    from ally_plugins.policy.activation import Activations

__all__ = ["SessionActivations"]

KIND: Final = "activation"


class SessionActivations:
    """The activations of one host's sessions; it does nothing until a plugin with an activation mode is added."""

    def __init__(self, journal: Callable[[], Journal | None], now_ms: Callable[[], int]) -> None:
        self._journal = journal
        self._now_ms = now_ms
        self._modes: dict[str, Activation] = {}
        self._sessions: dict[str, Activations] = {}
        self._changes: dict[tuple[str, str], list[tuple[int, bool]]] = {}

    def add(self, plugin: str, mode: Activation) -> None:
        """Add a plugin, with the activation mode of its manifest."""
        self._modes[plugin] = mode

    def receive_message(self, session_id: str, text: str, seq: int) -> None:
        """Apply the tags in a message of the person, which is event `seq`; a change is journaled soon.

        From any thread.
        """
        # The cheap look first: it is made for every message, and most hosts have no such plugin.
        if not self._modes or not ("+" in text or "-" in text):
            return
        active = self.of(session_id)
        changed = active.read_message(text)
        for tag in changed:
            self._changes.setdefault((session_id, tag.plugin), []).append((seq, tag.is_on))
        if changed and (journal := self._journal()) is not None:
            journal.append_soon(Record(KIND, self._now_ms(), None, session_id, None, {"said": active.to_data()}))

    def is_active(self, plugin: str, session_id: str | None) -> bool:
        """Say whether a plugin is active in a session; outside of one every plugin is."""
        return session_id is None or plugin not in self._modes or self.of(session_id).is_active(plugin)

    def was_active(self, plugin: str, session_id: str, seq: int) -> bool:
        """Say whether a plugin was active at event `seq`; a lane may deliver it after the person has changed that."""
        changes = self._changes.get((session_id, plugin), ())
        for at, is_on in reversed(changes):
            if at <= seq:
                return is_on
        # Before its first change it was the other way round.
        return not changes[0][1] if changes else self.is_active(plugin, session_id)

    def of(self, session_id: str) -> Activations:
        """Return the activations of a session, restored from the journal when the session was resumed."""
        from ally_plugins.policy.activation import Activations  # only where there is such a plugin

        active = self._sessions.get(session_id)
        if active is None:
            active = self._sessions[session_id] = Activations(self._modes)
            self._restore(active, session_id)
        return active

    def forget(self, session_id: str) -> None:
        """Forget a session that is closed; its activations stay in the journal."""
        self._sessions.pop(session_id, None)
        for plugin in self._modes:
            self._changes.pop((session_id, plugin), None)

    def _restore(self, active: Activations, session_id: str) -> None:
        journal = self._journal()
        if journal is None:
            return
        # A reader of its own: a message may come on another thread than that of the journal's reader.
        with suppress(JournalError), JournalReader(journal.path) as reading:
            for record in reading.last_records(1, kind=KIND, session_id=session_id):
                stored = record.data.get("said") if record.data else None
                active.restore(stored if isinstance(stored, dict) else {})
