"""The records that a host keeps of its plugins: one way to the journal, waited for (`write`) or not (`write_soon`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import define

from ally_plugins.contract.values.errors import JournalError, UnavailableRefused
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.values import Record
from ally_plugins.runtime.lanes.clock import Clock

__all__ = ["Records"]


@define(eq=False)
class Records:
    """The records of one host. `journal` is None before the host's start and after its end."""

    clock: Clock
    journal: Journal | None = None

    def opened(self) -> Journal:
        """Return the journal. Raises UnavailableRefused when there is none."""
        if self.journal is None:
            raise UnavailableRefused("the host has stopped")
        return self.journal

    async def write(
        self, kind: str, plugin: str | None, session_id: str | None, ref: str | None, data: Mapping[str, Any]
    ) -> int:
        """Write a record and return its number once it is on disk.

        Raises UnavailableRefused when it cannot be: what cannot be recorded is not accepted. Cancelling stops the
        waiting; the record may be written all the same.
        """
        journal = self.opened()
        try:
            return await journal.append(Record(kind, self.clock.time_ms(), plugin, session_id, ref, data))
        except JournalError as error:
            raise unrecorded(plugin, error) from error

    def write_soon(
        self,
        kind: str,
        plugin: str | None,
        session_id: str | None,
        ref: str | None,
        data: Mapping[str, Any],
        *,
        fold: tuple[Any, ...] | None = None,
    ) -> None:
        """Queue a record and return at once; records of one second with an equal `fold` become one with a count.

        After the host's end nothing is recorded.
        """
        if self.journal is not None:
            self.journal.append_soon(Record(kind, self.clock.time_ms(), plugin, session_id, ref, data), fold=fold)


def unrecorded(plugin: str | None, error: JournalError) -> UnavailableRefused:
    """Return the refusal of a call that cannot be recorded."""
    return UnavailableRefused(f"nothing can be accepted, since it cannot be recorded: {error}", plugin=plugin)
