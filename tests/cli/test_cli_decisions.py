"""What was decided on is shown by `explain` and written by `export`; of what is sensitive neither has it."""

from __future__ import annotations

import io
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Deny, Host, ToolCall, hookimpl
from ally_plugins.replay.export import read_export
from tests.kit.commands import run_command
from tests.kit.waiting import go

if TYPE_CHECKING:
    from pathlib import Path


class Guard:
    def __init__(self, ally: Any) -> None:
        pass

    @hookimpl
    async def ally_gate_tool_call(self, call: ToolCall) -> Deny:
        return Deny("never", sensitive=call.tool_name == "vault")


@pytest.fixture
def decided(home: Path) -> dict[str, str]:
    """Return the ids of two decisions by tool; only the gate was asked, so that no event has the arguments."""

    async def main() -> dict[str, str]:
        async with Host("ally-plugins", home=home, discover=False, plugins={"guard": Guard}) as host:
            session = host.session("s-1")
            calls = [
                ToolCall("fetch", {"url": "evil.example\x1b[2J"}, "c1"),
                ToolCall("vault", {"code": "open sesame"}),
            ]
            return {call.tool_name: (await session.gate_tool_call(call)).decision_id or "" for call in calls}

    return go(main())


def exported() -> list[dict[str, Any]]:
    return [json.loads(line) for line in run_command("export", "s-1").stdout.splitlines()]


def test_explain_and_export_show_what_was_denied(decided: dict[str, str]) -> None:
    shown = run_command("explain", decided["fetch"]).stdout
    assert 'decided on: {"arguments": {"url": "evil.example' in shown
    assert "\x1b" not in shown
    (line,) = (line for line in exported() if line.get("id") == decided["fetch"])
    assert line["kind"] == "decision"
    assert line["decision"]["decided_on"] == {"value": {"arguments": {"url": "evil.example\x1b[2J"}}}
    assert line["decision"]["verdict"] == "deny"


def test_explain_says_of_a_pruned_decision_in_a_sentence_that_its_content_is_gone(decided: dict[str, str]) -> None:
    run_command("prune", "--older-than", "0s", "--yes")
    assert run_command("explain", decided["fetch"]).stdout.splitlines()[0] == "decision, whose content was pruned."


def test_neither_shows_what_is_sensitive_but_its_shape_and_digest(decided: dict[str, str]) -> None:
    shown = run_command("explain", decided["vault"]).stdout
    assert 'its shape: {"arguments": {"code": "text of 11 characters"}}' in shown
    assert "sensitive, so not kept; digest" in shown
    for output in (shown, run_command("audit", "--json").stdout, str(exported())):
        assert "sesame" not in output


def test_an_export_with_decisions_replays_as_one_without(decided: dict[str, str]) -> None:
    lines = [json.dumps(line).encode() + b"\n" for line in exported()]
    without = [line for line in lines if b'"kind": "decision"' not in line]
    assert len(without) == len(lines) - len(decided)
    counts = [Counter(map(str, read_export(io.BytesIO(b"".join(each))))) for each in (lines, without)]
    assert counts[0] == counts[1]
