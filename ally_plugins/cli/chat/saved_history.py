"""One session's history in the journal: read when the session is resumed, and extended after every step."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelResponse, ToolCallPart

from ally_plugins.catalog.home.folder import Home, try_lock, unlock
from ally_plugins.contract.values.errors import ConfigError, HostError, JournalError, NotFoundRefused
from ally_plugins.journal.histories import history_added, history_begun, history_replaced, read_history

if TYPE_CHECKING:
    from ally_plugins.contract.values.masking import Secrets
    from ally_plugins.journal.journal import Journal

    from .kept_calls import KeptCalls

__all__ = ["Saver", "SessionLock", "load_history"]

_DIGEST_BYTES: Final = 8  # recognises the messages of one session in other objects


def load_history(journal: Journal, session_id: str) -> list[ModelMessage]:
    """Return the saved messages of a session, in a form that the model accepts.

    Raises NotFoundRefused when its content was removed or never kept, JournalError when it cannot be read.
    """
    saved = read_history(journal.reader, session_id)
    if saved is None:
        text = f"the session {session_id!r} was pruned; start a new one with `ally-plugins chat`"
        if not journal.keeps_contents:
            text = f"the session {session_id!r} was never kept (journal.content); start a new one"
        raise NotFoundRefused(text)
    try:
        messages = ModelMessagesTypeAdapter.validate_python(saved)
    except ValueError as error:
        text = f"the session {session_id!r} was saved in a form that this version does not read"
        raise JournalError(f"{text}: {str(error).splitlines()[0]}") from error
    if messages and isinstance(last := messages[-1], ModelResponse) and _has_calls(last):
        # The program ended amid its calls: the framework answers them as interrupted.
        messages[-1] = replace(last, state="interrupted")
    return messages


def _has_calls(response: ModelResponse) -> bool:
    return any(isinstance(part, ToolCallPart) for part in response.parts)


class Saver:
    """Writes new messages of a history. It lives as long as the session is open; for the host's loop only."""

    def __init__(self, journal: Journal, session_id: str, keys: Secrets, calls: KeptCalls | None = None) -> None:
        """Take where to write, and the program's own keys; `calls` says how the model's calls may be kept."""
        self._journal: Final = journal
        self._calls: Final = calls
        self._session_id: Final = session_id
        self._keys: Final = keys
        self._digests: list[bytes] = []
        self._last: ModelMessage | None = None

    def begin(self, about: Mapping[str, Any]) -> None:
        """Write title, folder and model of the session. Never waits."""
        self._journal.append_soon(history_begun(self._session_id, _now_ms(), self._keys.masked_value(dict(about))))

    def adopt(self, messages: Sequence[ModelMessage]) -> None:
        """Take a history that is in the journal already, so that `follow` writes only what comes after it."""
        self._remember(messages, list(map(_digest, self._dump(messages))))

    def follow(self, messages: Sequence[ModelMessage], *, is_whole: bool = True) -> None:
        """Write what is new: added messages, or a history that replaces the one before. Never waits.

        Earlier messages are not serialised again, as long as the framework passes on the same objects. Unless
        `is_whole`, a last message with calls waits until plugins have had their say about these.
        """
        if self._calls is not None and not is_whole:
            messages = self._calls.settled(messages)
        seen = len(self._digests)
        # The last one stands for all before it: the framework appends, and makes other objects when it changes any.
        if len(messages) >= seen and (not seen or messages[seen - 1] is self._last):
            self._add(messages, messages[seen:])
            return
        dumped = self._dump(messages)
        digests = list(map(_digest, dumped))
        if digests[:seen] == self._digests:
            self._write(history_added, dumped[seen:])
        else:
            self._write(history_replaced, dumped, even_nothing=True)
        self._remember(messages, digests)

    def _add(self, messages: Sequence[ModelMessage], new: Sequence[ModelMessage]) -> None:
        if new:
            dumped = self._dump(new)
            self._write(history_added, dumped)
            self._digests.extend(map(_digest, dumped))
            self._last = messages[-1]

    def _remember(self, messages: Sequence[ModelMessage], digests: list[bytes]) -> None:
        self._digests, self._last = digests, messages[-1] if messages else None

    def _dump(self, messages: Sequence[ModelMessage]) -> list[Any]:
        dumped = map(_dumped, messages)
        return self._keys.masked_value(list(dumped if self._calls is None else map(self._calls.masked, dumped)))

    def _write(self, make: Any, dumped: Sequence[Any], *, even_nothing: bool = False) -> None:
        if dumped or even_nothing:
            self._journal.append_soon(make(self._session_id, _now_ms(), dumped))


def _dumped(message: ModelMessage) -> Any:
    """Return a message as JSON that can be read again; invalid details of a server's response are dropped."""
    try:
        (dumped,) = ModelMessagesTypeAdapter.dump_python([message], mode="json", warnings="error")
        # Read back at once: what cannot be read again would spoil the whole session, and show only when it is resumed.
        ModelMessagesTypeAdapter.validate_python([dumped])
    except ValueError:
        bare = message
        if isinstance(message, ModelResponse):
            # Provider details and usage are a server's, of any shape; the parts are what the model has to see again.
            bare = ModelResponse(parts=message.parts, timestamp=message.timestamp, state=message.state)
        (dumped,) = ModelMessagesTypeAdapter.dump_python([bare], mode="json", warnings=False)
    return dumped


def _digest(message: Any) -> bytes:
    import orjson

    return hashlib.blake2b(orjson.dumps(message, option=orjson.OPT_SORT_KEYS), digest_size=_DIGEST_BYTES).digest()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class SessionLock:
    """Keeps a session to one program; the system releases it when that one ends, however it ends."""

    def __init__(self, home: Home, session_id: str) -> None:
        """Take the lock. Raises HostError when another program holds it, ConfigError when it cannot be opened."""
        home.prepare()
        # A digest: an id from a journal may hold what no file name can.
        name = hashlib.blake2b(session_id.encode(), digest_size=_DIGEST_BYTES).hexdigest()
        file = f"session-{name}.lock"
        try:
            self._descriptor: int | None = home.open_lock(file)
        except OSError as error:
            path = str(home.run_dir / file)
            raise ConfigError(f"{path} cannot be locked: {error.strerror or error}", file=path) from error
        if not try_lock(self._descriptor):
            self.release()
            text = f"the session {session_id!r} is open in another chat; go on there, or start a new one"
            raise HostError(text)

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        if self._descriptor is not None:
            unlock(self._descriptor)
            self._descriptor = None
