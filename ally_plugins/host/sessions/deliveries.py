"""Plugins' accepted messages on their way into one conversation: they wait, enter at a safe point, and are recorded.

The session says when a safe point is, and which chain of plugins follows from a delivery.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from ally_plugins.contract.values.errors import JournalError
from ally_plugins.contract.values.events import PluginMessageReceived
from ally_plugins.contract.values.frozen import freeze_mapping
from ally_plugins.journal.contents import is_not_kept

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

    `add` has the host add a message to its conversation, and says whether it did; `emit` emits in the session.
    """

    def __init__(
        self,
        session_id: str,
        inbox: Inbox,
        journal: Callable[[], Journal],
        *,
        add: Callable[[Message], Awaitable[bool]],
        emit: Callable[[Event, tuple[str, ...]], None],
        now_ms: Callable[[], int],
    ) -> None:
        self.entered: list[Waiting] = []
        """What has entered the conversation, and was not yet returned by `take_entered`."""
        self._session_id = session_id
        self._inbox = inbox
        self._journal = journal
        self._add = add
        self._emit = emit
        self._now_ms = now_ms
        self._unmarked: dict[str, Waiting] = {}
        self._held: dict[str, Waiting] = {}
        self._reloading: set[asyncio.Task[None]] = set()

    @property
    def are_open(self) -> bool:
        """Whether something has entered that is not yet recorded, or not yet returned."""
        return bool(self._unmarked or self.entered)

    def enqueue(self, waiting: Waiting) -> bool:
        """Queue an accepted message for its safe point.

        Say whether it waits now, rather than having entered already.
        """
        # It has entered; the journal has it as pending until that is recorded.
        if waiting.id in self._unmarked:
            return False
        self._inbox.add(waiting)
        return True

    def reload_pending(self, enqueue: Callable[[Waiting], None]) -> None:
        """Queue what the journal holds as pending, once it has written what it was given; returns before that is done.

        For a call that was cancelled after its message was handed to the journal, and may have been accepted.
        """
        task = asyncio.get_running_loop().create_task(self._find_pending(enqueue))
        self._reloading.add(task)
        task.add_done_callback(self._reloading.discard)

    async def _find_pending(self, enqueue: Callable[[Waiting], None]) -> None:
        try:
            await self._journal().flush()
            # What has no content there may be on its way to `enqueue` with it.
            for _ in self._pending(enqueue):
                pass
        except JournalError as error:
            _log.warning("session %r cannot look for pending messages: %s", self._session_id, error)

    def load_pending(self, enqueue: Callable[[Waiting], None]) -> None:
        """Queue what the journal holds as pending for this session. Raises JournalError.

        To be called when the session is opened: what the journal does not hold, since it keeps no contents, is expired.
        """
        lost = [each.id for each in self._pending(enqueue)]
        if lost:
            text = "session %r: %d messages of plugins are lost, since the journal keeps no contents"
            _log.warning(text, self._session_id, len(lost))
            # Nobody waits: what is not marked now is found again when the session is next opened.
            marked = self._journal().mark(lost, "expired", self._now_ms())
            marked.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _pending(self, enqueue: Callable[[Waiting], None]) -> Iterator[StoredMessage]:
        """Queue what is pending; yield that of which the journal has no content."""
        for stored in self._journal().pending(self._session_id):
            if stored.body is None:
                continue
            if is_not_kept(stored.body.get("content")):
                yield stored
            else:
                enqueue(_waiting(stored))

    async def enter(self, kind: SafePoint) -> None:
        """Let what is due enter the conversation.

        Cancelling leaves what has entered in `entered`, and the rest waiting.
        """
        for waiting in self._due(kind):
            if await self._deliver(waiting):
                self.entered.append(waiting)

    def _due(self, kind: SafePoint) -> list[Waiting]:
        return [waiting for waiting in self._inbox.take_due(kind) if waiting.id not in self._held]

    def hold(self, kind: SafePoint) -> list[Waiting]:
        """Return what is due without letting it enter: it waits for `confirm`, and is due again after `take_back`."""
        due = self._due(kind)
        self._held.update((waiting.id, waiting) for waiting in due)
        return due

    async def confirm(self, ids: Sequence[str]) -> None:
        """Let enter what was held, and record it. Cancelling leaves the rest held, or to be recorded later."""
        for message_id in ids:
            waiting = self._held.get(message_id)
            if waiting is not None:
                await self._deliver(waiting)
        self.take_back(ids)  # what the host did not take is due again
        await self.record()

    def take_back(self, ids: Sequence[str]) -> None:
        """Have messages due again that were held."""
        for message_id in ids:
            self._held.pop(message_id, None)

    async def _deliver(self, waiting: Waiting) -> bool:
        message = waiting.message
        try:
            is_added = await self._add(message)
        except Exception:  # noqa: BLE001 - the message waits, whatever the host's implementation raised
            _log.exception("the host could not take message %r of %r", waiting.id, waiting.plugin)
            return False
        if not is_added:
            return False
        # Only now: what the host could not take waits for the next safe point.
        self._inbox.remove([message.id])
        self._unmarked[message.id] = waiting
        data = {"id": message.id, "role": message.role, "content": message.content, "metadata": message.metadata}
        self._emit(PluginMessageReceived(plugin_name=waiting.plugin, message=freeze_mapping(data)), waiting.origin)
        return True

    async def record(self) -> None:
        """Record what was delivered, now or at an earlier safe point when it could not be recorded.

        Cancelling leaves it to be recorded by the next call.
        """
        ids = list(self._unmarked)
        if not ids:
            return
        try:
            await self._journal().mark_delivered(ids, self._now_ms())
        except JournalError as error:
            _log.warning("session %r could not record %d deliveries yet: %s", self._session_id, len(ids), error)
        else:
            # One by one: more may have entered while the disk was waited for.
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
