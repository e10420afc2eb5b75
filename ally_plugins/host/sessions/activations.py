"""Which plugins are active in which session: `+name` and `-name` in what the person says.

What the words mean is decided in `policy.activation`; the journal keeps them. An inactive plugin hears no events of the
session, and its tools are not run for it.
"""

from __future__ import annotations

import logging
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

_log: Final = logging.getLogger(__name__)

KIND: Final = "activation"


class SessionActivations:
    """The activations of one host's sessions; without a plugin of a system that knows tags it has nothing to do."""

    def __init__(self, journal: Callable[[], Journal | None], now_ms: Callable[[], int]) -> None:
        self._journal = journal
        self._now_ms = now_ms
        self._modes: dict[str, Activation] = {}
        self._sessions: dict[str, Activations] = {}
        self._changes: dict[tuple[str, str], list[tuple[int, bool]]] = {}

    def add(self, plugin: str, mode: Activation) -> None:
        """Take on a plugin, with the mode of its manifest."""
        self._modes[plugin] = mode

    def heard(self, session_id: str, text: str, seq: int) -> None:
        """Take what the person said, as event `seq`; written down soon when it changed something. From any thread."""
        if not self._modes or not ("+" in text or "-" in text):
            return
        known = self.of(session_id)
        changed = known.read_message(text)
        for tag in changed:
            self._changes.setdefault((session_id, tag.plugin), []).append((seq, tag.is_on))
        if changed and (journal := self._journal()) is not None:
            journal.append_soon(Record(KIND, self._now_ms(), None, session_id, None, {"said": known.to_data()}))

    def is_active(self, plugin: str, session_id: str | None) -> bool:
        """Say whether a plugin is active in a session; outside of one every plugin is."""
        return session_id is None or plugin not in self._modes or self.of(session_id).is_active(plugin)

    def was_active(self, plugin: str, session_id: str, seq: int) -> bool:
        """Say whether a plugin was active at event `seq`, which may be told later than what the person said next."""
        changes = self._changes.get((session_id, plugin), ())
        for at, is_on in reversed(changes):
            if at <= seq:
                return is_on
        return not changes[0][1] if changes else self.is_active(plugin, session_id)

    def of(self, session_id: str) -> Activations:
        """Return what is active in a session, as it was left when the session is found again."""
        from ally_plugins.policy.activation import Activations  # only where there is such a plugin

        known = self._sessions.get(session_id)
        if known is None:
            known = self._sessions[session_id] = Activations(self._modes)
            self._restore(known, session_id)
        return known

    def forget(self, session_id: str) -> None:
        """Forget a session that is closed; the journal remembers."""
        self._sessions.pop(session_id, None)
        for plugin in self._modes:
            self._changes.pop((session_id, plugin), None)

    def _restore(self, known: Activations, session_id: str) -> None:
        journal = self._journal()
        if journal is None:
            return
        with suppress(JournalError), JournalReader(journal.path) as reading:
            for record in reading.last_records(1, kind=KIND, session_id=session_id):
                said = record.data.get("said") if record.data else None
                known.restore(said if isinstance(said, dict) else {})
