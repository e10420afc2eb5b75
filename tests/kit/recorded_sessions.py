"""Sessions as a host records them, by the real journal: events, decisions with votes, messages, refusals, crashes."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import orjson

from ally_plugins.journal.journal import Journal
from ally_plugins.journal.values import RECEIVED, PendingMessage, Record

if TYPE_CHECKING:
    from pathlib import Path

    from ally_plugins.policy.keeping import Keeping

BEGUN = 1_790_000_000_000
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>\u202egnp.exe\u200b \u200b'
"""A text that would be markup, and hides what it is."""

_PER_CALL = 5  # events
_LONG = 5_000


def event(
    session: str, seq: int, type_: str, data: dict[str, Any], *, origin: tuple[str, ...] = (), call_id: str = ""
) -> tuple[str, int, int, str, str | None, bytes]:
    at = BEGUN + seq * 37
    params = {"event_type": type_, "event_data": data, "timestamp": at, "id": f"{session}:{seq}", "seq": seq,
              "session_id": session, "origin": origin, **({"call_id": call_id} if call_id else {})}  # fmt: skip
    return session, seq, at, type_, ">".join(origin) or None, orjson.dumps(params)


def record_session(
    path: Path, session: str = "s-recorded-1", *, events: int = 60, keeping: Keeping | None = None, since: int = 1
) -> None:
    """Record a session of about so many events, `since` the first of them, in the journal at a path."""
    # In a thread of its own: a test may stand in a loop, as a browser's driver has one.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, _record(path, session, events, keeping, since)).result()


async def _record(path: Path, session: str, events: int, keeping: Keeping | None, since: int) -> None:
    journal = Journal.open(path, keeping=keeping)
    try:
        if since == 1:
            _begin(journal, session)
        for seq in range(since + 1, since + events, _PER_CALL):
            _call(journal, session, seq)
            # As a host has it, which waits for each decision; a long one has to be made in seconds.
            if events < _LONG or seq % 1_000 < _PER_CALL:
                await journal.flush()
            if seq == since + 1:
                await _add_message(journal, session)
        if since == 1:
            _receive(journal, session)
        await journal.flush()
    finally:
        journal.close_blocking()


async def _add_message(journal: Journal, session: str) -> None:
    id_ = f"m-{session}"
    metadata = {"sourcePlugin": "loop-guard", "isPluginGenerated": True, "origin": ["test-watch", "loop-guard"]}
    body = {"role": "user", "content": f"try another way\n{HOSTILE}", "permission": "add_message:user",
            "metadata": metadata}  # fmt: skip
    at, cause = BEGUN + 300, f"{session}:5"
    given = PendingMessage(id_, session, "loop-guard", at, "user", "steer", trigger_turn=False, body=body, cause=cause)
    await journal.accept(given)
    await journal.mark_delivered([id_], at + 50)


def _receive(journal: Journal, session: str) -> None:
    runs: dict[str, Any] = {
        "loop-guard": [[None, None, [[5, 5]]], ["ally_tool_call_end", 14_400, [[5, 5]]]],
        "session-notes": [[None, 900, [[5, 7]]], "of another version", [None, "x", [[5, 5]]], [7, 1, [[5]]]],
        "test-watch": [[None, None, [[7, 7], [12, 12]]]],
        "strange": 7,
    }
    for plugin, each in runs.items():
        journal.append_soon(Record(RECEIVED, BEGUN + 20_000, plugin, session, None, {"runs": each}))


def _begin(journal: Journal, session: str) -> None:
    def state(plugin: str, name: str, reason: str = "") -> None:
        journal.append_soon(Record("plugin_state", BEGUN, plugin, None, None, {"state": name, "reason": reason}))

    state("loop-guard", "running")
    journal.add_events([event(session, 1, "SESSION_START", {})])
    journal.append_soon(Record("grant", BEGUN, "loop-guard", None, "loop-guard", {"grant": "add_message:user"}))
    state("test-watch", "quarantined", "5 crashes in 60 s, last: ValueError: broken")


def _call(journal: Journal, session: str, seq: int) -> None:
    """Record one call: its five events, what was decided, and now and then what went wrong."""
    call, at = f"c{seq}", BEGUN + seq * 37
    is_denied = seq // _PER_CALL % 7 == 3
    command = f"rm -rf build-{seq}" if is_denied else f"pytest tests/test_{seq}.py -q"
    if seq // _PER_CALL % 11 == 5:
        command = f"echo {HOSTILE}"
    verdict, reason = ("deny", "secret-guard: nothing is removed outside of build/") if is_denied else ("allow", "")
    decision = f"d-{session}-{seq}"
    votes = [
        {"plugin": "loop-guard", "verdict": "abstain", "reason": "", "cause": "verdict", "shadow": False,
         "elapsed_ms": 0.08, "detail": ""},
        {"plugin": "secret-guard", "verdict": verdict, "reason": reason, "cause": "verdict", "shadow": False,
         "elapsed_ms": 1.5 + seq % 40, "detail": ""},
    ]  # fmt: skip
    journal.add_events([
        event(session, seq, "MODEL_RESPONSE", {"model": "scripted-1", "inputTokens": 1200 + seq, "outputTokens": 80,
              "cacheReadTokens": 900, "durationMs": 812.5}),
        event(session, seq + 1, "TOOL_CALL_START", {"toolName": "bash", "arguments": {"command": command}},
              call_id=call),
        event(session, seq + 2, "DECISION", {"decisionId": decision, "kind": "tool_call", "subject": "bash",
              "verdict": verdict, "reason": reason, "decidedBy": []}, call_id=call),
        event(session, seq + 3, "TOOL_CALL_END", {"toolName": "bash", "success": not is_denied, "denied": is_denied,
              "error": reason or None, "output": "" if is_denied else f"{seq} passed in 0.4 s\n", "durationMs": 41.3},
              call_id=call),
        event(session, seq + 4, "PLUGIN_MESSAGE_RECEIVED", {"pluginName": "loop-guard", "message": {
              "id": f"m-{seq}", "role": "user", "content": f"after {seq}: {HOSTILE if seq % 3 else 'all is well'}"}},
              origin=("loop-guard",)),
    ])  # fmt: skip
    journal.append_soon(
        Record("decision", at, None, session, decision, {
            "kind": "tool_call", "subject": "bash", "decided_on": {"value": {"arguments": {"command": command}}},
            "verdict": verdict, "reason": reason, "decided_by": ["secret-guard"] if is_denied else [], "waived": False,
            "origin": [], "cause": call, "votes": votes,
        })
    )  # fmt: skip
    if seq % 97 < _PER_CALL:
        journal.append_soon(Record("refusal", at, "test-watch", session, None, {
            "call": "add_message", "reason": "permission", "permission": "add_message:system",
            "text": f"not granted: add_message:system {HOSTILE}"}))  # fmt: skip
        journal.append_soon(Record("crash", at, "test-watch", session, None, {
            "hook": "ally_tool_call_end", "error": "ValueError: broken", "event": f"{session}:{seq + 3}"}))  # fmt: skip
        journal.append_soon(Record("usage", at + 20_000, "loop-guard", None, None, {
            "seconds": 60.0, "version": "1.0", "hooks": {"ally_tool_call_end": {
                "calls": 40, "seconds": 0.0572, "longest": 0.0144, "steps": [[73, 10], [75, 20], [77, 10]]}},
            "events": 40, "dropped": 0, "restarts": 0, "memory": 31_000_000, "cpu": 0.41}))  # fmt: skip
