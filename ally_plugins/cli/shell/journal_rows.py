"""The journal for commands that only read: opened if there is one, and a record as a row or one line of text."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from .text import inert, preview, quoted, when

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.journal.reader import JournalReader
    from ally_plugins.journal.values import StoredRecord

__all__ = ["KINDS", "PRUNED_TEXT", "parties", "reading_of", "record_data", "record_row", "summary"]

PRUNED_TEXT: Final = "(its content was pruned)"


@contextmanager
def reading_of(home: Home) -> Generator[JournalReader | None]:
    """Open the journal of a home for reading; None when nothing was ever recorded there. Raises JournalError."""
    # Not left to the reader, for which a file that is not there is an error as a broken one is.
    if not home.journal_file.exists():
        yield None
        return
    from ally_plugins.journal.reader import JournalReader

    with JournalReader(home.journal_file) as reading:
        yield reading


def record_row(record: StoredRecord, missing: str = PRUNED_TEXT) -> tuple[str, ...]:
    """Return a record as cells: number, time, kind, plugin, summary, `missing` where its content is."""
    return (str(record.n), when(record.at), inert(record.kind), inert(record.plugin or "-"), summary(record, missing))


def parties(record: StoredRecord) -> tuple[str, str]:
    """Return who did what a record is about, and to whom or what; both inert, "-" where nobody is known."""
    who, whom = _parties(record, record.data or {})
    return inert(who or "-"), inert(whom or "-")


_BY_OPERATOR: Final = frozenset(
    {"enable", "disable", "forget", "grant", "revoke", "shadow", "setting", "place", "env", "release", "configure",
     "install", "uninstall", "tool_call", "pruned"}
)  # fmt: skip
_BY_PLUGIN: Final = frozenset(
    {"message", "registration", "unregistration", "action", "question", "task", "task_end", "context_read", "crash"}
)


def _parties(record: StoredRecord, data: dict[str, Any]) -> tuple[str | None, str | None]:
    kind, plugin = record.kind, record.plugin
    if kind in _BY_OPERATOR:
        return "host author" if data.get("by") == "code" else "operator", plugin
    if kind in _BY_PLUGIN:
        return plugin, record.session_id
    if kind == "decision":
        decided = data.get("decided_by")
        return ", ".join(map(str, decided)) if isinstance(decided, list) and decided else "host", data.get("subject")
    if kind == "answer":
        return "person", plugin
    if kind == "transform":
        changes = [each for each in data.get("changes") or () if isinstance(each, dict)]
        return ", ".join(str(each.get("plugin")) for each in changes) or "host", record.session_id
    return "host", plugin or record.session_id


def record_data(record: StoredRecord) -> dict[str, Any]:
    """Return a record as data."""
    return {
        "n": record.n,
        "at": record.at,
        "kind": record.kind,
        "plugin": record.plugin,
        "session_id": record.session_id,
        "id": record.ref,
        "key": record.key,
        "data": record.data,
        "hash": record.hash,
    }


def summary(record: StoredRecord, missing: str = PRUNED_TEXT) -> str:
    """Return the content of a record as one inert line."""
    if record.data is None:
        return missing
    try:
        text = _SUMMARIES.get(record.kind, _plain)(record.data)
    except (KeyError, TypeError, AttributeError):  # written by another version, or damaged
        text = _plain(record.data)
    count = record.data.get("count")
    ref = f"{record.ref} " if record.ref is not None and record.kind in _NAMED else ""
    repeated = f" (x{count})" if isinstance(count, int) and count > 1 else ""
    return inert(f"{ref}{text}{repeated}{_replayed(record.data)}")


def _replayed(data: dict[str, Any]) -> str:
    at = data.get("recorded_at")
    return f" (in a replay, at {when(at)})" if isinstance(at, int) else ""


_NAMED: Final = ("message", "decision", "action", "action_end", "question", "answer", "task", "task_end")
"""Kinds whose id `explain` takes."""


def _plain(data: dict[str, Any]) -> str:
    return preview(json.dumps(data, default=str, ensure_ascii=False), 300)


def _message(data: dict[str, Any]) -> str:
    return f"{data['role']}: {quoted(preview(data['body'].get('content', '')))} ({data['deliver_as']})"


def _decision(data: dict[str, Any]) -> str:
    by = f" by {', '.join(data['decided_by'])}" if data["decided_by"] else ""
    reason = f": {data['reason']}" if data["reason"] else ""
    return f"{data['kind']} of {data['subject']}: {data['verdict']}{by}{reason}"


def _enable(data: dict[str, Any]) -> str:
    grants = ", ".join(data["grants"]) or "nothing"
    return f"agreed by {data['by']} to {data['distribution']} {data['version']}; granted {grants}"


def _setting(data: dict[str, Any]) -> str:
    if data["is_removed"]:
        return f"{data['key']} taken back"
    return f"{data['key']} set" if data.get("secret") else f"{data['key']} = {data.get('value')}"


def _paused_for(seconds: float) -> str:
    return f"decide nothing for {seconds:g} s" if seconds else "decide again"


def _shadow(data: dict[str, Any]) -> str:
    value = data["shadow"]
    if isinstance(value, bool):
        return "everything is only watched" if value else "everything is enforced"
    return f"only watched: {', '.join(value)}"


def _transform(data: dict[str, Any]) -> str:
    changes = ", ".join(f"{each.get('plugin')} changed {each.get('fields', each.get('changed', ''))}"
                        for each in data["changes"])  # fmt: skip
    blocked = f"; blocked by {data['blocked_by']}: {data['reason']}" if data.get("blocked_by") else ""
    return f"{data['hook']}: {changes}{blocked}"


def _packages(data: dict[str, Any]) -> str:
    parts = [f"{word} {', '.join(f'{name} ({source})' for name, source in data[word].items())}"
             for word in ("appeared", "changed", "disappeared") if data[word]]  # fmt: skip
    failed = f"the installer failed with {data['exit_code']}" if data["exit_code"] else ""
    return "; ".join([*parts, *([failed] if failed else [])]) or "no plugin changed"


def _state(data: dict[str, Any]) -> str:
    return f"{data['state']}{': ' if data.get('reason') else ''}{data.get('reason') or ''}"


def _ungated_tools(data: dict[str, Any]) -> str:
    refused = f"; refused by {', '.join(sorted({*data['refused_by'].values()}))}" if data["refused_by"] else ""
    return f"the provider runs {', '.join(data['tools'])} for {data['agent']}, and no gate sees it{refused}"


def _prompt_prefix(data: dict[str, Any]) -> str:
    if data["refused"]:
        return f"{data['part']} would change what requests begin with once more: over budget, sent as it was before"
    tokens = data["uncached_tokens"]
    cost = "" if tokens is None else f"; {tokens:,} tokens not read from the prompt cache"
    return f"{data['part']} has changed what requests begin with, time {data['changes']} in its session{cost}"


def _usage(data: dict[str, Any]) -> str:
    hooks = ", ".join(f"{hook} {each['calls']}x in {each['seconds']:.3f} s" for hook, each in data["hooks"].items())
    counts = [f"{data[name]} {name}" for name in ("events", "dropped", "restarts") if data.get(name)]
    memory = [f"{data['memory'] / 1e6:.0f} MB"] if data.get("memory") else []
    return "; ".join([*([hooks] if hooks else []), *counts, *memory, f"{data.get('cpu', 0)} s of processor"])


def _pruned(data: dict[str, Any]) -> str:
    removed = f", of {data['removed']} records" if "removed" in data else ""
    if "session" in data:
        return f"all content of the session {data['session']}{removed}"
    why = {"retention": " (journal.keep_days)", "size": " (journal.max_megabytes)"}.get(data.get("by", ""), "")
    return f"content older than {when(data['before'])}{why}"


_SUMMARIES: Final[dict[str, Callable[[dict[str, Any]], str]]] = {
    "message": _message,
    "message_state": lambda data: f"{data['state']}: {', '.join(data['ids'])}",
    "decision": _decision,
    "enable": _enable,
    "trust": lambda data: f"the project {data['folder']}, content {data['digest'][:16]}",
    "untrust": lambda data: f"the project {data['folder']} no longer",
    "disable": lambda _: "not loaded any more",
    "forget": lambda _: "agreement and grants taken back",
    "grant": lambda data: str(data["grant"]),
    "revoke": lambda data: ", ".join(data["grants"]),
    "shadow": _shadow,
    "place": lambda data: ", ".join(
        str(value) if key == "placement" else f"{key} {value}" for key, value in data.items()
    ),
    "setting": _setting,
    "configure": lambda data: f"{', '.join(data['keys'])}, by a lock file",
    "quarantine": lambda data: str(data["reason"]),
    "release": lambda _: "out of quarantine",
    "loosen": lambda data: f"agreed to what config.toml loosens: {data['keys']}",
    "allow": lambda data: f"the person lets {data['tool']} of {data['agent']} run once as it was denied",
    "pause": lambda data: f"{data['agent']}: its gates {_paused_for(data['seconds'])}",
    "refusal": lambda data: f"{data['call']} refused ({data['reason']}): {data['text']}",
    "registration": lambda data: f"{data['kind']} {data['name']}",
    "unregistration": lambda data: str(data["name"]),
    "action": lambda data: f"{data['action']}, asked for by {data['requested_by']}",
    "question": lambda data: f"{preview(data['question'])} ({', '.join(data['choices'])})",
    "answer": lambda data: str(data["choice"]) if data["state"] == "answered" else _state(data),
    "task": lambda data: str(data["name"]),
    "task_end": lambda data: f"{data['name']}: {_state(data)}",
    "action_end": lambda data: f"{data['name']}: {_state(data)}",
    "blocked": lambda data: f"{data['hook']} held up the loop for {data['seconds']} s ({data['where']})",
    "lost_host": lambda data: f"host {data['pid']} ended without stopping while {data['running']} ran in it",
    "crash": lambda data: f"{data['hook']}: {data['error']}",
    "plugin_state": _state,
    "context_read": lambda data: ", ".join(data["parts"]),
    "transform": _transform,
    "tool_call": lambda data: f"{data['tool']}, called by the operator",
    "install": _packages,
    "uninstall": _packages,
    "ungated_tools": _ungated_tools,
    "session_plugins": lambda data: f"opened with {', '.join(data['plugins']) or 'no plugin'} only",
    "prompt_prefix": _prompt_prefix,
    "usage": _usage,
    "pruned": _pruned,
    "journal": _state,
}

# The last ones have no summary of their own: `_plain` shows what is in them.
KINDS: Final = frozenset(_SUMMARIES) | {"activation", "env", "events", "history", "received"}
"""The kinds of records that this version writes."""
