"""What a probe is told of a host: `failing` while something is refused that nobody decided about."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest

from ally_plugins import BlockingHost, Deny, Health, Host, ToolCall, ToolCallEnd, json_lines
from ally_plugins.contract.values.errors import JournalError
from ally_plugins.journal.values import Record
from tests.kit.hosts import make_plugin, make_record
from tests.kit.waiting import go

CALL = ToolCall("bash", {"command": "ls"}, "c1")


def made(name: str, **hooks: Any) -> dict[str, Any]:
    return {name: (make_plugin(**hooks), make_record(name))}


def fails(_self: Any) -> None:
    raise RuntimeError("no model file")


def denies(_self: Any, call: ToolCall) -> Deny:
    return Deny(f"not {call.tool_name}")


def crashes(_self: Any, event: ToolCallEnd) -> None:
    raise ValueError(event.tool_name)


def test_a_host_whose_plugins_run_is_ok_however_much_they_deny() -> None:
    async def main() -> None:
        async with Host(plugins=made("guard", ally_gate_tool_call=denies), home=None) as host:
            assert (await host.session().gate_tool_call(CALL)).is_denied
            health = host.health()
        assert (health.status, health.problems, health.sessions) == ("ok", (), 1)
        assert [(each.name, each.state, each.refuses) for each in health.plugins] == [("guard", "running", ())]

    go(main())


def test_a_gate_that_cannot_be_asked_is_failing_and_named_with_the_reason() -> None:
    async def main() -> None:
        async with Host(plugins=made("guard", ally_start=fails, ally_gate_tool_call=denies), home=None) as host:
            health = host.health()
        assert health.status == "failing"
        assert not health.is_ok
        assert "tool_call" in health.plugins[0].refuses
        assert any("guard is failed" in text and "no model file" in text for text in health.problems)

    go(main())


def test_a_plugin_that_only_listens_and_fails_is_degraded() -> None:
    async def main() -> None:
        record = make_record("watch", grants=["events:TOOL_CALL_END"])
        plugins = {"watch": (make_plugin(ally_start=fails, ally_tool_call_end=crashes), record)}
        async with Host(plugins=plugins, home=None) as host:
            health = host.health()
        assert (health.status, health.is_ok, health.plugins[0].refuses) == ("degraded", True, ())

    go(main())


def test_crashes_show_before_they_end_in_quarantine_and_quarantine_of_a_gate_is_failing() -> None:
    async def main() -> None:
        hooks = {"ally_tool_call_end": crashes, "ally_gate_tool_call": denies}
        async with Host(plugins=made("guard", **hooks), home=None) as host:
            session = host.session()
            for _ in range(2):
                session.emit(ToolCallEnd(tool_name="bash", success=True))
            await session.drained()
            early = host.health()
            for _ in range(3):
                session.emit(ToolCallEnd(tool_name="bash", success=True))
            await session.drained()
            late = host.health()
        assert (early.status, early.plugins[0].crashes) == ("degraded", 2)
        assert "crashed 2 times" in early.problems[0]
        assert late.status == "failing"
        assert "quarantined" in late.problems[0]

    go(main())


def test_a_plugin_that_falls_behind_shows_before_it_loses_events() -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def waits(_self: Any, event: ToolCallEnd) -> None:
            assert event.success
            await gate.wait()

        async with Host(plugins=made("slow", ally_tool_call_end=waits), home=None) as host:
            session = host.session()
            for _ in range(3000):
                session.emit(ToolCallEnd(tool_name="bash", success=True))
            await asyncio.sleep(0)
            health = host.health()
            gate.set()
            await session.drained()
            after = host.health()
        assert (health.status, health.plugins[0].dropped) == ("degraded", 0)
        assert health.plugins[0].behind >= 2990
        assert (after.status, after.plugins[0].behind) == ("ok", 0)

    go(main())


def test_a_gate_in_shadow_or_one_that_lets_pass_when_it_fails_refuses_nothing() -> None:
    async def main() -> None:
        for settled in ({"shadow": True}, {"gate_on_error": "allow"}):
            record = make_record("guard", **settled)
            plugins = {"guard": (make_plugin(ally_start=fails, ally_gate_tool_call=denies), record)}
            async with Host(plugins=plugins, home=None) as host:
                refuses = host.health().plugins[0].refuses
                assert "tool_call" not in refuses, settled

    go(main())


def test_a_journal_that_takes_no_records_is_failing_with_its_reason(tmp_path: Path) -> None:
    async def main() -> None:
        async with Host(home=tmp_path, discover=False) as host:
            await host.session().gate_tool_call(CALL)
            await host.journal.flush()
            assert host.health().is_ok
            (tmp_path / "journal.db-wal").write_bytes(b"")
            with pytest.raises(JournalError):
                await host.journal.append(Record("test", 1, None, None, None, {}))
            health = host.health()
        assert health.status == "failing"
        assert "takes no records" in health.problems[0]

    go(main())


def test_a_host_that_does_not_run_is_failing() -> None:
    host = Host(home=None)
    assert host.health() == Health(status="failing", problems=("the host does not run",))
    with BlockingHost(home=None) as blocking:
        assert blocking.health().is_ok
        assert json.loads(json.dumps(blocking.health().as_data()))["status"] == "ok"


def test_decisions_are_written_as_lines_of_json_as_they_are_made() -> None:
    async def main() -> None:
        output = io.StringIO()
        async with Host(plugins=made("guard", ally_gate_tool_call=denies), home=None) as host:
            host.stream.subscribe("DECISION", json_lines(output))
            ruling = await host.session("conv").gate_tool_call(CALL)
            line = json.loads(output.getvalue())
        assert output.getvalue().count("\n") == 1
        assert line["session_id"] == "conv"
        assert line["event_data"]["decisionId"] == ruling.decision_id
        assert (line["event_data"]["verdict"], line["event_data"]["reason"]) == ("deny", ruling.reason)

    go(main())
