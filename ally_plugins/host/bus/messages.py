"""The bus's `add_message`: from a plugin's call to a record on disk that waits for a safe point."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any, TypeAlias

from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.conversation import Receipt, plugin_metadata
from ally_plugins.contract.values.errors import (
    GateRefused,
    JournalError,
    KeyConflictRefused,
    NotFoundRefused,
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

_Place: TypeAlias = tuple[str, str, str]
"""Where an idempotency key holds, and the key: plugin, session, key."""


class MessageCalls(BusSteps):
    """Carries out `add_message`. `_keyed` has the messages with a key that are on their way to the disk."""

    def __init__(self, services: HostServices) -> None:
        super().__init__(services)
        self._keyed: dict[_Place, asyncio.Future[Receipt | None]] = {}

    async def _add_message(self, plugin: Plugin, scope: Scope | None, call: AddMessage) -> Receipt:
        """Accept a message for the conversation: it is on disk as pending when this returns.

        A message whose `key` the plugin has used in the session gives the earlier receipt.
        """
        role = call.role
        grants = self._grants(plugin, call.session_id)
        if type(role) is not str or role not in grants.roles:
            self._permit(plugin, is_granted=False, permission=f"add_message:{check_role(role)}")
        if call.trigger_turn:
            self._permit(plugin, grants.may_trigger_turn(), "add_message:trigger_turn")
        try:
            session = self._services.session_for(plugin.name, call.session_id)
        except NotFoundRefused:
            # A hook may answer its event though the session is closed by now: a durable one may come days later. The
            # scope of a daemon's call that names no cause has the session that the call names: nothing speaks for it.
            if scope is None or scope.session_id is None or call.session_id not in (None, scope.session_id):
                raise
            if scope.cause_id is None and scope.task_id is None:
                raise
            with self._services.closed_session(plugin.name, scope.session_id) as session:
                return await self._add_to(session, plugin, scope, call)
        return await self._add_to(session, plugin, scope, call)

    async def _add_to(self, session: Session, plugin: Plugin, scope: Scope | None, call: AddMessage) -> Receipt:
        role, content, key = call.role, call.content, call.key
        place = fingerprint = None
        if key is not None:  # before the budget: a call that is repeated until it is answered must not use it up
            place = plugin.name, session.id, check_key(key)
            fingerprint = _fingerprint(call, session.id)
            if (stored := await self._find_keyed(place, scope)) is not None:
                return _receipt_of(stored, fingerprint, call)
        begin_call(plugin, plugin.budget.take_message, self._services.clock.steady())
        # Nothing was awaited since the look for the key: of two calls at one time, the second finds this one.
        answer = self._claim_key(place)
        receipt = None
        try:
            check_deliver_as(call.deliver_as)
            plugin.budget.check_size("message_bytes", check_text(content, CONTENT_LIMIT))
            content = plugin.masked(content)
            if call.metadata is not None:
                check_event_data(call.metadata, field="metadata")
            chain = chain_of(plugin, scope, session.id)
            about = plugin_metadata(plugin.name, chain, plugin.secrets.masked_value(call.metadata))
            now = self._services.clock.time_ms()
            waiting = Waiting(
                new_id("m"), role, content, about, now, plugin.name, chain, call.deliver_as, call.trigger_turn
            )
            # Most hosts have no gate or transform of messages, and running none still costs a third of the call.
            has_gates = self._services.dispatcher.has_message_hooks
            decision = await self._transform_and_gate(session, plugin, waiting) if has_gates else None
            pending = _pending(session, waiting, key, fingerprint, cause_of(scope), decision)
            receipt = await self._record_message(session, plugin, waiting, pending, call)
            return receipt
        finally:
            plugin.budget.end_call()
            if answer is not None:
                self._settle_key(place, answer, receipt)

    def _claim_key(self, place: _Place | None) -> asyncio.Future[Receipt | None] | None:
        """Make calls with the same key wait for this one; None without a key, or when one is on its way already."""
        if place is None or place in self._keyed:
            return None
        self._keyed[place] = answer = asyncio.get_running_loop().create_future()
        return answer

    def _settle_key(
        self, place: _Place | None, answer: asyncio.Future[Receipt | None], receipt: Receipt | None
    ) -> None:
        """Wake the calls that wait with the same key; `receipt` is None when the message was not accepted."""
        if place is not None:
            del self._keyed[place]
        answer.set_result(receipt)

    async def _find_keyed(self, place: _Place, scope: Scope | None) -> StoredMessage | None:
        """Return the earlier message with this key, waiting for one on its way; None if there is none.

        Within a gate it does not wait: the message on its way could itself be waiting for that gate.
        """
        may_wait = scope is None or scope.held <= {place[0]}
        while may_wait and (answer := self._keyed.get(place)) is not None:
            # Several calls wait for the one answer; one that gives up must not take it from the others.
            await asyncio.shield(answer)
        try:
            return self._services.records.opened().find_key(*place)
        except JournalError as error:
            raise UnavailableRefused(f"the journal cannot be read: {error}", plugin=place[0]) from error

    async def _transform_and_gate(self, session: Session, plugin: Plugin, waiting: Waiting) -> str | None:
        """Run the transforms and gates of other plugins over the message; return the decision's id.

        Raises GateRefused.
        """
        # Transforms first: what gates allow is what enters.
        done = await session.gates.transform_plugin_message(waiting.message, plugin.name, waiting.origin)
        if done.blocked_by is not None:
            raise GateRefused(done.reason, plugin=plugin.name)
        if done.value is not waiting.message:
            # Looked at again: a transform may have made it longer.
            plugin.budget.check_size("message_bytes", check_text(done.value.content, CONTENT_LIMIT))
            waiting.replace(done.value)
        ruling = await session.gates.gate_message(waiting.message, plugin.name, waiting.origin)
        if not ruling.is_allowed:
            text = f"the message was not accepted: {ruling.reason}"
            raise GateRefused(text, plugin=plugin.name, decision_id=ruling.decision_id)
        return ruling.decision_id

    async def _record_message(
        self, session: Session, plugin: Plugin, waiting: Waiting, pending: PendingMessage, call: AddMessage
    ) -> Receipt:
        """Record the message as pending, and queue it for its safe point."""
        try:
            offset = await self._services.records.opened().accept(pending)
        # Of a call within a gate, which does not wait for the one on its way, or of another process.
        except DuplicateKeyError as duplicate:
            return _receipt_of(duplicate.stored, pending.fingerprint, call)
        except JournalError as error:
            raise unrecorded(plugin.name, error) from error
        except asyncio.CancelledError:
            session.reload_pending()  # the writer thread may have accepted it all the same
            raise
        plugin.counts.messages += 1
        # From here on it is due in the order of acceptance, whichever call comes back to the loop first.
        waiting.offset = offset
        if session.is_closed:  # meanwhile; it may have been opened again, and the message belongs to that one
            session = self._services.sessions.get(session.id, session)
        session.enqueue(waiting)
        return Receipt(pending.id, offset, "pending")


def _pending(
    session: Session,
    waiting: Waiting,
    key: str | None,
    fingerprint: str | None,
    cause: str | None,
    decision: str | None,
) -> PendingMessage:
    """Return the journal's record of an accepted message, with the permission and the decision that allowed it."""
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


def _receipt_of(stored: StoredMessage, fingerprint: str | None, call: AddMessage) -> Receipt:
    """Return the receipt of an earlier message under the key of a call. Raises KeyConflictRefused for another call."""
    if stored.fingerprint in (fingerprint, _digest(_sent(call, stored.session_id))):  # the second is an older journal's
        return Receipt(stored.id, stored.n, stored.state)
    if stored.body is None:
        found = "whose content was pruned and cannot be compared"
    elif stored.role != call.role:
        found = f"with the role {stored.role!r}, now it is {call.role!r}"
    elif stored.deliver_as != call.deliver_as:
        found = f"with deliver_as {stored.deliver_as!r}, now it is {call.deliver_as!r:.80}"
    elif stored.trigger_turn != bool(call.trigger_turn):
        found = f"with trigger_turn {stored.trigger_turn}, now it is {call.trigger_turn!r:.80}"
    else:
        found = "with other content or metadata"
    text = f"the key {stored.key!r} was used for the message {stored.id!r} {found}; use another key"
    raise KeyConflictRefused(text, plugin=stored.plugin)


def _fingerprint(call: AddMessage, session_id: str) -> str:
    """Return what is equal of two calls that say the same."""
    try:
        about = encode([bool(call.trigger_turn), dict(call.metadata or {})]).decode()
    except Exception:  # noqa: BLE001 - whatever is wrong with it is the validation's to refuse, with a reason
        about = ""
    # Told apart by its beginning from that of a journal in which the last two did not count.
    return f"2:{_digest((*_sent(call, session_id), about))}"


def _sent(call: AddMessage, session_id: str) -> tuple[str, ...]:
    parts: tuple[object, ...] = (call.role, call.content, call.deliver_as, session_id)
    # Anything that is no text is refused by the validation that follows.
    return tuple(each if isinstance(each, str) else "" for each in parts)


def _digest(parts: tuple[str, ...]) -> str:
    # Joined by a character that validation lets no part hold: no two calls have one text. A lone surrogate is refused
    # there too, with a reason; it must not fail here.
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
