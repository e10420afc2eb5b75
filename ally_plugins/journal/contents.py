"""What a journal that keeps no contents has in their place: names, sizes and digests. No input or output.

A text of a prompt, an argument, an output or a plugin becomes one line that says how long it was, and a digest by which
equal texts of one journal are recognised. What is kept is listed here by name, so that what a later version records is
not kept until somebody has thought of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

import orjson

from .values import HISTORY, JOURNAL, PRUNED, SETTLED

__all__ = ["WHOLE_KINDS", "Omission", "is_not_kept"]

WHOLE_KINDS: Final = frozenset({
    SETTLED, PRUNED, JOURNAL, "activation", "allow", "blocked", "configure", "context_read", "disable", "enable",
    "env", "forget", "grant", "install", "loosen", "lost_host", "pause", "place", "plugin_state", "prompt_prefix",
    "quarantine", "received", "registration", "release", "revoke", "session_plugins", "setting", "shadow", "trust",
    "ungated_tools", "uninstall", "unregistration", "untrust", "usage",
})  # fmt: skip
"""Kinds of records that are about plugins and what the operator has settled, and hold nothing of a conversation."""

_NOT_KEPT: Final = "[not kept: "
_WORDS: Final = re.compile(r"[A-Za-z][a-z]{0,20}(?:_?[A-Z]?[a-z]{1,20}){0,4}")
"""What names a field, and is no place for a secret: `file_path`, `filePath`."""
_LONGEST: Final = 300
"""Characters of a text that is kept under its name: ids, names of tools, a plugin's reason."""

_NAMES: Final = frozenset({
    # of decisions, transforms and what plugins ask for
    "blocked_by", "call", "cause", "decided_by", "decision", "decisionId", "deliver_as", "digest", "fields",
    "fingerprint", "hook", "kind", "origin", "owner", "parts", "permission", "plugin", "reason", "requestedBy",
    "requested_by", "role", "salt", "sha256", "shape", "state", "subject", "task", "tool", "tools", "verdict",
    "version",
    # of events
    "action", "agentName", "choice", "commonName", "decidedBy", "eventType", "id", "instanceId", "messageId", "model",
    "name", "operationType", "parentCallId", "parentId", "part", "pluginName", "ranges", "requestId", "sensitivity",
    "status", "stopReason", "strategy", "taskId", "toolName", "unshown",
})  # fmt: skip
_PARTS: Final = frozenset({"body", "changes", "conflicts", "decided_on", "event_data", "message", "todos", "votes"})
"""What has names of ours inside; all else is somebody's own object, in which `name` may be a person's."""


def is_not_kept(text: object) -> bool:
    """Say whether a text stands for one that was not kept."""
    return isinstance(text, str) and text.startswith(_NOT_KEPT)


class Omission:
    """Leaves the contents out of what one journal is given. `key` is the journal's own, for its digests."""

    def __init__(self, key: str) -> None:
        self._key: Final = key.encode()[:64]  # the longest that the digest takes

    def text(self, text: str) -> str:
        """Return what stands for a text; an empty one tells nothing."""
        if not text or is_not_kept(text):
            return text
        # Some texts cannot be said in UTF-8; no two of them are one for that.
        digest = blake2b(text.encode("utf-8", "surrogatepass"), key=self._key, digest_size=8).hexdigest()
        return f"{_NOT_KEPT}{len(text):,} characters, {digest}]"

    def record(self, kind: str, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the data of a record without its contents."""
        if kind in WHOLE_KINDS:
            return data
        if kind == HISTORY:
            # Half a conversation cannot go on: that there was one is all that is kept.
            kept = {name: self._value(value, ours=True) for name, value in data.items() if name != "messages"}
            return {**kept, "not_kept": len(data["messages"])} if "messages" in data else kept
        kept = self._value(data, ours=True)
        assert isinstance(kept, dict)  # noqa: S101 - of a mapping
        return kept

    def event(self, body: bytes) -> bytes:
        """Return the params of an event without its contents."""
        params = orjson.loads(body)
        own = ":" in params.get("event_type", "")  # a plugin's, in which no name is ours
        return orjson.dumps({**params, "event_data": self._value(params.get("event_data"), ours=not own)})

    def _value(self, value: Any, *, ours: bool) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            names = [name if _WORDS.fullmatch(str(name)) else f"({at})" for at, name in enumerate(value, 1)]
            return {
                name: self._field(given, each, ours=ours)
                for name, (given, each) in zip(names, value.items(), strict=True)
            }
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self._value(each, ours=ours) for each in value]
        # A number in somebody's own object may be what is not to be kept: a PIN, an amount.
        return value if ours or value is None or isinstance(value, bool) else self.text(str(value))

    def _field(self, name: str, value: Any, *, ours: bool) -> Any:
        if ours and name in _NAMES:
            return self._kept(value)
        return self._value(value, ours=ours and (name in _PARTS or not isinstance(value, (Mapping, list, tuple))))

    def _kept(self, value: Any) -> Any:
        if isinstance(value, str):
            return value if len(value) <= _LONGEST else self.text(value)
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self._kept(each) for each in value]
        return value if value is None or isinstance(value, (bool, int, float)) else self._value(value, ours=False)
