"""An agent that was updated: what has the known form goes on and is warned of once, what has not is closed."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.adapters.coding.dialects import DIALECTS
from ally_plugins.adapters.coding.payloads import HookKind
from ally_plugins.adapters.coding.seen_fields import SEEN_FIELDS
from ally_plugins.adapters.coding.serving.conversations import Conversations
from ally_plugins.adapters.coding.serving.hook_socket import HookSocket, newer_fields
from ally_plugins.catalog.home.folder import Home
from ally_plugins.host.host import Host
from ally_plugins.testing.agents.reactions import react

from .agents import recorded

if TYPE_CHECKING:
    from pathlib import Path

AGENTS = sorted(DIALECTS)


def before_a_tool(agent: str) -> tuple[str, dict[str, Any]]:
    kinds = DIALECTS[agent].kinds
    found = next(each for each in recorded(agent) if kinds.get(each["event"]) is HookKind.BEFORE_TOOL)
    return found["event"], found["payload"]


@pytest.mark.parametrize("agent", AGENTS)
def test_no_version_that_was_recorded_is_newer(agent: str) -> None:
    for each in recorded(agent):
        assert each["payload"].keys() <= SEEN_FIELDS[agent]


def another_call(agent: str, event: str, payload: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the payload with another id of its call, where the agent gives it one."""
    text = json.dumps(payload)
    hook = DIALECTS[agent].read(event, text.encode())
    call_id = hook.tool.call.call_id if hook.tool is not None else None
    changed: dict[str, Any] = json.loads(text if call_id is None else text.replace(call_id, f"{call_id}-{number}"))
    return changed


def stopped(agent: str, event: str, payloads: list[dict[str, Any]]) -> tuple[list[tuple[bool, str]], int]:
    """Return of each payload whether the call was stopped and what was said, and the length of what is newer."""

    async def ask() -> tuple[list[tuple[bool, str]], int]:
        found = []
        async with Host(app="agents", home=None, discover=False) as host:
            conversations = Conversations(host)
            for payload in payloads:
                reply = await conversations.reply(agent, event, json.dumps(payload).encode(), 10)
                reaction = react(agent, event, payload, (reply.exit_code, reply.stdout, reply.stderr))
                found.append((reaction.stopped, reply.stdout + reply.stderr))
            return found, sum(map(len, conversations.newer.get(agent, ())))

    return asyncio.run(ask())


@pytest.mark.parametrize("agent", AGENTS)
def test_fields_of_a_newer_version_are_warned_of_once_and_the_call_goes_on(
    agent: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    event, payload = before_a_tool(agent)
    many: dict[str, Any] = {f"x{number}": "" for number in range(1000)}
    many["y" * 100_000] = ""
    extras: tuple[dict[str, object], ...] = (
        {"brandNew": 1},
        {"brandNew": 2, "evil\n[host] x": 3},
        {"brandNew": 1},
        many,
    )
    given = [another_call(agent, event, {**payload, **extra}, number) for number, extra in enumerate(extras)]
    found, length = stopped(agent, event, given)
    assert not any(is_stopped for is_stopped, _ in found)
    said = [each.getMessage() for each in caplog.records if "is newer than" in each.getMessage()]
    assert len(said) == 3
    assert "its payloads have brandNew; it goes on" in said[0]
    assert "\n" not in said[1]
    assert length < 5000


@pytest.mark.parametrize("agent", AGENTS)
def test_a_guards_payload_of_another_form_is_closed_and_the_reason_names_the_field(agent: str) -> None:
    event, payload = before_a_tool(agent)
    inner = payload["input"] if agent == "opencode" else payload
    names = [each for each in inner if each.lower().removesuffix("name").rstrip("_") in {"tool", "toolargs"}]
    assert names
    for name in names:
        changed = ({key: value for key, value in inner.items() if key != name}, {**inner, name: [1]})
        given = [{**payload, "input": each} if agent == "opencode" else each for each in changed]
        for is_stopped, said in stopped(agent, event, given)[0]:
            assert is_stopped
            assert name in said
            assert "is ally-plugins older than the agent?" in said


def test_an_event_that_is_not_known_is_closed() -> None:
    ((_, said),), _ = stopped("claude", "PreToolUseNew", [{}])
    assert "no event 'PreToolUseNew' that is known" in said


def test_what_is_newer_is_left_for_the_status_until_it_is_known(tmp_path: Path) -> None:
    home = Home("agents", tmp_path)
    home.prepare()
    assert newer_fields(home, "claude") == ()
    noted = HookSocket(home)
    noted.note_hook("claude", ("brandNew", "other"))
    noted.note_hook("claude", ("brandNew", "other"))
    assert newer_fields(home, "claude") == ("brandNew", "other")
    HookSocket(home).note_hook("claude")  # of a host that knows them
    assert newer_fields(home, "claude") == ()
