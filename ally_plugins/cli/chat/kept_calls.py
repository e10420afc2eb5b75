"""The model's calls as a saved conversation may have them: with the arguments that plugins left of the model's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart

from ally_plugins.contract.tools.schemas import thaw
from ally_plugins.contract.values.errors import SessionError
from ally_plugins.contract.values.events import Event, ToolCallEnd, ToolCallStart

if TYPE_CHECKING:
    from ally_plugins.host.sessions.session import Session

__all__ = ["KeptCalls"]


class KeptCalls:
    """Those of one session. Lives as long as it; `note` is to be called with its events."""

    def __init__(self, session: Session, saved: Sequence[ModelMessage] = ()) -> None:
        """Take the session, and what was saved of it before, in which calls are as they may be."""
        self._session: Final = session
        self._saved: Final = {part.tool_call_id for message in saved for part in calls_of(message)}
        self._arguments: Final[dict[str | None, Mapping[str, Any]]] = {}
        self._ended: Final[set[str | None]] = set()

    def note(self, event: Event) -> None:
        """Take note of a call that has begun, or ended. From any thread."""
        if event.session_id != self._session.id:
            return
        if isinstance(event, ToolCallStart):
            self._arguments[event.call_id] = event.arguments
        elif isinstance(event, ToolCallEnd):
            self._ended.add(event.call_id)

    @property
    def are_seen(self) -> bool:
        """Whether any plugin may change what a call holds, or say that it is not to be kept."""
        try:
            return self._session.wants("tool_input") or self._session.wants("tool_call")
        except SessionError:  # another host has the session: nobody here knows
            return True

    def settled(self, messages: Sequence[ModelMessage]) -> Sequence[ModelMessage]:
        """Return the messages without the last one where plugins may still change what calls in it hold."""
        calls = calls_of(messages[-1]) if messages and self.are_seen else []
        return messages if {each.tool_call_id for each in calls} <= self._ended | self._saved else messages[:-1]

    def masked(self, dumped: dict[str, Any]) -> dict[str, Any]:
        """Return a message, as JSON, with its calls as they may be kept; one that never began has no arguments."""
        if not self.are_seen or dumped.get("kind") != "response":
            return dumped
        return {**dumped, "parts": [self._masked(part) for part in dumped["parts"]]}

    def _masked(self, part: dict[str, Any]) -> dict[str, Any]:
        call_id = part.get("tool_call_id")
        if part.get("part_kind") != "tool-call" or call_id in self._saved:
            return part
        return {**part, "args": {} if self._is_sensitive(call_id) else thaw(self._arguments.get(call_id, {}))}

    def _is_sensitive(self, call_id: object) -> bool:
        try:
            return isinstance(call_id, str) and self._session.is_sensitive(call_id)
        except SessionError:  # another host has the session: what it says of the call is not known here
            return True


def calls_of(message: ModelMessage) -> list[ToolCallPart]:
    """Return the calls of tools that a message has."""
    return (
        [part for part in message.parts if isinstance(part, ToolCallPart)] if isinstance(message, ModelResponse) else []
    )
