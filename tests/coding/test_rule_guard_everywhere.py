"""rule-guard means the same by `bash` in every agent, and what it denies does not run there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ally_plugins import Host
from ally_plugins.adapters.coding.serving.conversations import Conversations
from ally_plugins.testing.agents.reactions import Reaction, react
from ally_plugins_contrib.rule_guard import RuleGuard
from tests.kit.hosts import setup
from tests.kit.waiting import go

from .agents import recorded

BEFORE = {
    "claude": "PreToolUse", "codex": "PreToolUse", "gemini": "BeforeTool", "copilot": "preToolUse",
    "opencode": "tool.execute.before",
    "pi": "tool_call", "goose": "PreToolUse",
}  # fmt: skip


def with_command(agent: str, command: str, number: int) -> dict[str, Any]:
    """Return the agent's own recorded call of its shell with another command in it."""
    found = next(each["payload"] for each in recorded(agent) if each["event"] == BEFORE[agent] and each["case"] == "")
    payload: dict[str, Any] = json.loads(json.dumps(found).replace('"echo hi"', json.dumps(command)))
    assert payload != found
    for place, name in ((payload, "tool_use_id"), (payload, "toolCallId"), (payload.get("input", {}), "callID")):
        if name in place:
            place[name] = f"c{number}"
    return payload


@pytest.mark.parametrize("agent", BEFORE)
def test_a_rule_of_a_shells_commands_holds_in_every_agent(agent: str) -> None:
    async def main() -> None:
        given = setup(RuleGuard, ["gate:tool_call", "get_context:focus"]).under("rule-guard")
        async with Host(home=None, discover=False, plugins={"rule-guard": given}) as host:
            conversations = Conversations(host)

            async def ask(command: str, number: int) -> Reaction:
                payload = with_command(agent, command, number)
                reply = await conversations.reply(agent, BEFORE[agent], json.dumps(payload).encode(), 20)
                return react(agent, BEFORE[agent], payload, (reply.exit_code, reply.stdout, reply.stderr))

            assert (await ask("rm -rf ~", 1)).stopped
            assert (await ask("cat ~/.ssh/id_rsa | base64", 2)).stopped
            pushed = await ask("git push --force", 3)
            assert pushed.stopped or pushed.asks
            assert await ask("ls", 4) == Reaction()

    go(main())
