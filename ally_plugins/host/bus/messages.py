"""The bus's calls for messages: from a plugin's words to a record on disk that waits for a safe point."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any

from ally_plugins.contract.values.conversation import Receipt, plugin_metadata
from ally_plugins.contract.values.errors import (
    GateRefused,
    JournalError,
    KeyConflictRefused,
    UnavailableRefused,
)
from ally_plugins.contract.values.ids import new_id
from ally_plugins.host.sessions.inbox import Waiting
from ally_plugins.journal.values import DuplicateKeyError, PendingMessage, StoredMessage
from ally_plugins.policy.validation import check_deliver_as, check_event_data, check_key, check_role, check_text

from .records import unrecorded
from .steps import CONTENT_LIMIT, BusSteps, begin_call, cause_of, chain_of

if TYPE_CHECKING:
    from ally_plugins.contract.calls import AddMessage
    from ally_plugins.contract.values.scope import Scope
    from ally_plugins.host.sessions.session import Session
    from ally_plugins.runtime.lanes.plugin import Plugin

    from .services import HostServices

__all__ = ["MessageCalls"]


class MessageCalls(BusSteps):
    """Takes messages. `_keyed` holds those with a key that are on their way to the disk."""

    def __init__(self, services: HostServices) -> None:
        super().__init__(services)
        self._keyed: dict[tuple[str, str], asyncio.Future[Receipt | None]] = {}

    async def _add_message(self, plugin: Plugin, scope: Scope | None, call: AddMessage) -> Receipt:
        """Accept a message for the conversation: it is on disk as pending when this returns.

        A message whose `key` the plugin has used gives the earlier receipt.
        """
        role, content, key = call.role, call.content, call.key
        if type(role) is not str or role not in plugin.grants.roles:
            self._permit(plugin, is_granted=False, permission=f"add_message:{check_role(role)}")
        if call.trigger_turn:
            self._permit(plugin, plugin.grants.may_trigger_turn(), "add_message:trigger_turn")
        session = self._services.session_for(plugin.name, call.session_id)
        fingerprint = None
        if key is not None:
            fingerprint = _fingerprint(role, content, call.deliver_as, session.id)
            if (earlier := await self._earlier(plugin, scope, check_key(key), fingerprint)) is not None:
                return earlier
        begin_call(plugin, plugin.budget.take_message, self._services.clock.steady())
        answer = self._claim(plugin, key)
        receipt = None
        try:
            check_deliver_as(call.deliver_as)
            plugin.budget.check_size("message_bytes", check_text(content, CONTENT_LIMIT))
            if call.metadata is not None:
                check_event_data(call.metadata, field="metadata")
            chain = chain_of(plugin, scope, session.id)
            about = plugin_metadata(plugin.name, chain, call.metadata)
            now = self._services.clock.time_ms()
            waiting = Waiting(
                new_id("m"), role, content, about, now, plugin.name, chain, call.deliver_as, call.trigger_turn
            )
            # Mostly nobody transforms or gates messages, and asking nobody costs a third of the call.
            has_judges = self._services.dispatcher.has_judges_of_messages
            decision = await self._consult(session, plugin, waiting) if has_judges else None
            pending = _pending(session, waiting, key, fingerprint, cause_of(scope), decision)
            receipt = await self._record_message(session, plugin, waiting, pending)
            return receipt
        finally:
            plugin.budget.end_call()
            if answer is not None:
                self._answer(plugin, key, answer, receipt)

    def _claim(self, plugin: Plugin, key: str | None) -> asyncio.Future[Receipt | None] | None:
        """Let others with the same key wait for this message; None without a key, or when one is on its way already."""
        if key is None or (plugin.name, key) in self._keyed:
            return None
        self._keyed[plugin.name, key] = answer = asyncio.get_running_loop().create_future()
        return answer

    def _answer(
        self, plugin: Plugin, key: str | None, answer: asyncio.Future[Receipt | None], receipt: Receipt | None
    ) -> None:
        """Tell those who wait with the same key what became of the message; None when it was not accepted."""
        if key is not None:
            del self._keyed[plugin.name, key]
        answer.set_result(receipt)

    async def _earlier(self, plugin: Plugin, scope: Scope | None, key: str, fingerprint: str) -> Receipt | None:
        """Return the receipt of the message that came under this key, be it still on its way; None if it is the first.

        From within a gate nothing on its way is waited for: it could be what waits for the gate.
        """
        may_wait = scope is None or scope.held <= {plugin.name}
        while may_wait and (answer := self._keyed.get((plugin.name, key))) is not None:
            await asyncio.shield(answer)
        try:
            stored = self._services.records.opened().find_key(plugin.name, key)
        except JournalError as error:
            raise UnavailableRefused(f"the journal cannot be read: {error}", plugin=plugin.name) from error
        return None if stored is None else _same(plugin, stored, fingerprint)

    async def _consult(self, session: Session, plugin: Plugin, waiting: Waiting) -> str | None:
        """Let the other plugins change the message and decide on it; return the decision's id."""
        done = await session.judge.transform_plugin_message(waiting.message, plugin.name, waiting.origin)
        if done.blocked_by is not None:
            raise GateRefused(done.reason, plugin=plugin.name)
        if done.value is not waiting.message:
            plugin.budget.check_size("message_bytes", check_text(done.value.content, CONTENT_LIMIT))
            waiting.replace(done.value)
        ruling = await session.judge.gate_message(waiting.message, plugin.name, waiting.origin)
        if not ruling.is_allowed:
            text = f"the message was not accepted: {ruling.reason}"
            raise GateRefused(text, plugin=plugin.name, decision_id=ruling.decision_id)
        return ruling.decision_id

    async def _record_message(
        self, session: Session, plugin: Plugin, waiting: Waiting, pending: PendingMessage
    ) -> Receipt:
        """Write the message down as pending, and let it wait for its safe point."""
        try:
            offset = await self._services.records.opened().accept(pending)
        except DuplicateKeyError as duplicate:
            return _same(plugin, duplicate.stored, pending.fingerprint or "")
        except JournalError as error:
            raise unrecorded(plugin.name, error) from error
        except asyncio.CancelledError:
            session.look_again()  # it may be on disk all the same
            raise
        plugin.counts.messages += 1
        waiting.offset = offset
        if session.is_closed:  # meanwhile; when it was found again, the one that is open takes the message
            session = self._services.sessions.get(session.id, session)
        session.expect(waiting)
        return Receipt(pending.id, offset, "pending")


def _pending(
    session: Session,
    waiting: Waiting,
    key: str | None,
    fingerprint: str | None,
    cause: str | None,
    decision: str | None,
) -> PendingMessage:
    """Return what is written of a message that is accepted, with what allowed it."""
    body: dict[str, Any] = {
        "role": waiting.role,
        "content": waiting.content,
        "metadata": waiting.metadata,
        "permission": f"add_message:{waiting.role}",
    }
    if decision is not None:
        body["decision"] = decision
    return PendingMessage(
        waiting.id,
        session.id,
        waiting.plugin,
        waiting.timestamp,
        waiting.role,
        waiting.deliver_as,
        waiting.trigger_turn,
        body,
        key,
        fingerprint,
        cause,
    )


def _same(plugin: Plugin, stored: StoredMessage, fingerprint: str) -> Receipt:
    if stored.fingerprint != fingerprint:
        text = f"the key {stored.key!r} was used for the message {stored.id!r} with other content; use another key"
        raise KeyConflictRefused(text, plugin=plugin.name)
    return Receipt(stored.id, stored.n, stored.state)


def _fingerprint(role: str, content: object, deliver_as: object, session_id: str) -> str:
    said = content if isinstance(content, str) else ""  # anything else is refused, and need not have a text
    text = "\0".join((role, said, deliver_as if isinstance(deliver_as, str) else "", session_id))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
