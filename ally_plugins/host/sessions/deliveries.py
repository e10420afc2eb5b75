"""Plugins' accepted messages on their way into one conversation: they wait, enter at a safe point, and are recorded.

When that is, and what chain of plugins follows from it, is the session's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from ally_plugins.contract.values.errors import JournalError
from ally_plugins.contract.values.events import PluginMessageReceived
from ally_plugins.contract.values.frozen import freeze_mapping

from .inbox import Waiting

if TYPE_CHECKING:
    from ally_plugins.contract.values.conversation import Message, SafePoint
    from ally_plugins.contract.values.events import Event
    from ally_plugins.journal.journal import Journal
    from ally_plugins.journal.values import StoredMessage

    from .inbox import Inbox

__all__ = ["Deliveries"]

_log: Final = logging.getLogger(__name__)


class Deliveries:
    """The deliveries of one session; they belong to its host's loop and live as long as it.

    `take` has the host put a message into the conversation, and says whether it did; `announce` emits in the session.
    """

    def __init__(
        self,
        session_id: str,
        inbox: Inbox,
        journal: Callable[[], Journal],
        *,
        take: Callable[[Message], Awaitable[bool]],
        announce: Callable[[Event, tuple[str, ...]], None],
        now_ms: Callable[[], int],
    ) -> None:
        self.entered: list[Waiting] = []
        """What has entered the conversation, and was not yet returned by `take_entered`."""
        self._session_id = session_id
        self._inbox = inbox
        self._journal = journal
        self._take = take
        self._announce = announce
        self._now_ms = now_ms
        self._unmarked: dict[str, Waiting] = {}
        self._looking: set[asyncio.Task[None]] = set()

    @property
    def are_open(self) -> bool:
        """Whether something has entered that is not yet recorded, or not yet returned."""
        return bool(self._unmarked or self.entered)

    def expect(self, waiting: Waiting) -> bool:
        """Let an accepted message wait for its safe point; say whether it does, and has not entered already."""
        if waiting.id in self._unmarked:
            return False
        self._inbox.add(waiting)
        return True

    def look_again(self, found: Callable[[Waiting], None]) -> None:
        """Look into the journal for accepted messages that nobody told of, once what is queued is on disk."""
        task = asyncio.get_running_loop().create_task(self._find_pending(found))
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    async def _find_pending(self, found: Callable[[Waiting], None]) -> None:
        try:
            await self._journal().flush()
            self.load_pending(found)
        except JournalError as error:
            _log.warning("session %r cannot look for pending messages: %s", self._session_id, error)

    def load_pending(self, found: Callable[[Waiting], None]) -> None:
        """Take up what the journal holds as pending for this session. Raises JournalError."""
        for stored in self._journal().pending(self._session_id):
            if stored.body is not None:
                found(_waiting(stored))

    async def enter(self, kind: SafePoint) -> None:
        """Let what is due enter the conversation; cancelling leaves in `entered` what has."""
        for waiting in self._inbox.take_due(kind):
            if await self._deliver(waiting):
                self.entered.append(waiting)

    async def _deliver(self, waiting: Waiting) -> bool:
        message = waiting.message
        try:
            taken = await self._take(message)
        except Exception:  # noqa: BLE001 - the message waits, whatever the host's implementation raised
            _log.exception("the host could not take message %r of %r", waiting.id, waiting.plugin)
            return False
        if not taken:
            return False
        self._inbox.remove([message.id])
        self._unmarked[message.id] = waiting
        data = {"id": message.id, "role": message.role, "content": message.content, "metadata": message.metadata}
        self._announce(PluginMessageReceived(plugin_name=waiting.plugin, message=freeze_mapping(data)), waiting.origin)
        return True

    async def record(self) -> None:
        """Record what was delivered, now or at an earlier safe point when it could not be recorded."""
        ids = list(self._unmarked)
        if not ids:
            return
        try:
            await self._journal().mark_delivered(ids, self._now_ms())
        except JournalError as error:
            _log.warning("session %r could not record %d deliveries yet: %s", self._session_id, len(ids), error)
        else:
            for message_id in ids:
                self._unmarked.pop(message_id, None)

    def take_entered(self) -> tuple[Message, ...]:
        """Return what has entered since the last call."""
        delivered, self.entered = self.entered, []
        return tuple(waiting.message for waiting in delivered)


def _waiting(stored: StoredMessage) -> Waiting:
    body = stored.body or {}
    metadata = freeze_mapping(body.get("metadata") or {})
    return Waiting(
        id=stored.id,
        role=stored.role,
        content=str(body.get("content", "")),
        metadata=metadata,
        timestamp=stored.accepted_at,
        plugin=stored.plugin,
        origin=tuple(metadata.get("origin", (stored.plugin,))),
        deliver_as=stored.deliver_as,
        trigger_turn=stored.trigger_turn,
        offset=stored.n,
    )
