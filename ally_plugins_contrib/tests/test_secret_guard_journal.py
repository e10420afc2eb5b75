"""A credential that secret-guard redacts or denies is nowhere in the home afterwards."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Host, ToolCall, ToolResult
from ally_plugins.adapters.coding.dialects import DIALECTS
from ally_plugins.adapters.coding.payloads import HookKind
from ally_plugins.adapters.coding.serving.conversations import Conversations
from ally_plugins_contrib.secret_guard import SecretGuard
from tests.coding.agents import recorded
from tests.kit.credentials import CREDENTIALS

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "ghp_" + "Zq4" * 12
ENCODED = base64.b64encode(TOKEN.encode()).decode()


async def never(_: ToolCall) -> ToolResult:
    raise AssertionError("a denied call ran")


def test_an_encoded_credential_in_a_call_that_is_denied_is_in_no_file_of_the_home(home: Path) -> None:
    async def main() -> None:
        async with Host("t", home=home, discover=False, plugins={"secret-guard": SecretGuard}) as host:
            call = ToolCall("bash", {"command": f"echo {ENCODED} | base64 -d"}, "c1")
            result = await host.session("s").run_tool_call(call, never)
            assert "holds a credential" in (result.error or "")
            (decision,) = host.journal.reader.records(kind="decision")
            assert decision.data is not None
            assert decision.data["decided_on"]["shape"] == {"arguments": {"command": "text of 73 characters"}}

    asyncio.run(main())
    kept = b"".join(file.read_bytes() for file in home.rglob("*") if file.is_file())
    assert b"TOOL_CALL_START" in kept
    assert ENCODED.encode() not in kept
    assert TOKEN.encode() not in kept


SPOKEN = "\n".join(f"this is {token} for it" for _, token in CREDENTIALS.values())
"""A text with a credential of each kind."""

STRUCTURE = {
    "agentId", "agentName", "agentType", "agent_id", "agent_transcript_path", "agent_type", "callID", "call_id", "cwd",
    "event", "hookName", "hook_event_name", "id", "messageID", "model", "parentAgentId", "parentID", "permission_mode",
    "prompt_id", "resultType", "role", "sessionID", "sessionId", "session_id", "source", "stopReason", "tool",
    "toolCallId", "toolName", "tool_name", "tool_use_id", "transcriptPath", "transcript_path", "trigger", "turn_id",
    "type", "working_dir",
}  # fmt: skip
"""The fields of payloads in which an agent says what it is about; all others may hold what somebody wrote."""

KINDS = list(HookKind)


def filled(value: Any, name: str = "") -> Any:
    """Return a payload with credentials in all that may hold what somebody wrote."""
    if isinstance(value, dict):
        return {key: filled(each, key) for key, each in value.items()}
    if isinstance(value, list):
        return [filled(each, name) for each in value]
    return f"{value} {SPOKEN}" if isinstance(value, str) and name not in STRUCTURE else value


def in_order(agent: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the payloads that were recorded of an agent, filled, the first hooks of a conversation first."""
    kinds, payloads = DIALECTS[agent].kinds, recorded(agent)
    known = [each for each in payloads if each["event"] in kinds]
    ordered = sorted(
        known,
        key=lambda each: (
            KINDS.index(kinds[each["event"]]) if kinds[each["event"]] is not HookKind.SESSION_END else len(KINDS)
        ),
    )
    return [(each["event"], filled(each["payload"])) for each in ordered]


def kept_in(home: Path) -> bytes:
    return b"".join(file.read_bytes() for file in home.rglob("*") if file.is_file())


@pytest.mark.parametrize("agent", sorted(DIALECTS))
def test_whatever_an_agents_hooks_hold_no_kind_of_credential_is_in_any_file_of_the_home(agent: str, home: Path) -> None:
    async def main() -> None:
        async with Host("t", home=home, discover=False, plugins={"secret-guard": SecretGuard}) as host:
            conversations = Conversations(host)
            for event, payload in in_order(agent):
                await conversations.reply(agent, event, json.dumps(payload).encode(), 60)

    asyncio.run(main())
    kept = kept_in(home)
    assert b"TOOL_CALL_START" in kept
    assert [kind for kind, (_, token) in CREDENTIALS.items() if json.dumps(token)[1:-1].encode() in kept] == []
