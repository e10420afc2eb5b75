"""A plugin that its author gives by code is replaced while events flow: none is missed, none comes twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from attrs import evolve

from ally_plugins import Host, ToolCall, ToolCallEnd
from ally_plugins.catalog.decide.record import PluginRecord
from ally_plugins.contract.manifest import Manifest
from ally_plugins.contract.values.errors import HostError, UnavailableRefused
from ally_plugins.host.daemons.lane import RemoteLane
from tests.kit.daemons import notes_in, write_daemon
from tests.kit.waiting import go, until

if TYPE_CHECKING:
    from ally_plugins.contract.process_spec import Daemon

NOTING = """
def on_event(event):
    note(["VERSION", event["seq"]])
    if event["seq"] == 2:
        ask("add_message", role="user", content="VERSION", cause=event["id"])
serve(hello={"hooks": ["ally_tool_call_end", "ally_gate_tool_call"]}, on_event=on_event,
      gate=lambda _: {"verdict": "deny", "reason": "VERSION"})
"""
MANIFEST = Manifest.from_text("""
[events]
subscribe = ["TOOL_CALL_END"]
[permissions]
add_message = { roles = ["user"], reason = "x" }
gate = { on = ["tool_call"], reason = "x" }
""")


def _record(daemon: Daemon) -> PluginRecord:
    return PluginRecord.by_code("p", MANIFEST, daemon=daemon)


def _version(folder: Path, name: str, body: str = NOTING) -> PluginRecord:
    return _record(write_daemon(folder, body.replace("VERSION", name), name=name))


def _host(record: PluginRecord) -> Host:
    return Host("app", home=None, plugins={"p": (record.daemon, record)}, discover=False)


def test_no_event_is_missed_and_none_comes_twice(tmp_path: Path) -> None:
    async def main() -> None:
        old = _version(tmp_path, "old")
        async with _host(old) as host:
            session = host.session()
            emitted: list[ToolCallEnd] = []

            def emit() -> None:
                emitted.append(ToolCallEnd(tool_name="bash"))
                session.emit(emitted[-1])

            replacing = asyncio.ensure_future(host.replace(_version(tmp_path, "new")))
            # All the time that it takes, with turns of the loop between.
            while not replacing.done():
                for _ in range(3):
                    emit()
                await asyncio.sleep(0.001)
            await replacing
            emit()
            await session.drained()
            noted = notes_in(tmp_path)
            assert [seq for _, seq in noted] == [event.seq for event in emitted]
            versions = [version for version, _ in noted]
            assert versions == sorted(versions, reverse=True)  # all of the old one's, then all of the new one's
            assert set(versions) == {"old", "new"}
            assert (await session.gate_tool_call(ToolCall("bash"))).reason == "p: new"

    go(main())


def test_a_message_that_was_accepted_stays_and_is_there_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with _host(_version(tmp_path, "old")) as host:
            session = host.session()
            for _ in range(3):
                session.emit(ToolCallEnd(tool_name="bash"))
            await host.replace(_version(tmp_path, "new"))
            await session.drained()
            assert [each.content for each in await session.safe_point("turn_end")] == ["old"]

    go(main())


BROKEN = {
    "does not begin": "raise SystemExit('no config')",
    "lacks its gate": "serve(hello={'hooks': ['ally_tool_call_end']})",
    "speaks another protocol": "serve(initialize=lambda _: {'protocol': '9'})",
}


@pytest.mark.parametrize("how", BROKEN)
def test_the_old_one_goes_on_when_the_new_one_is_not_fit(tmp_path: Path, how: str) -> None:
    async def main() -> None:
        async with _host(_version(tmp_path, "old")) as host:
            session = host.session()
            session.emit(ToolCallEnd(tool_name="bash"))
            with pytest.raises(UnavailableRefused, match="goes on as it was"):
                await host.replace(_version(tmp_path, "new", BROKEN[how]))
            session.emit(ToolCallEnd(tool_name="bash"))
            await session.drained()
            assert [version for version, _ in notes_in(tmp_path)] == ["old", "old"]
            assert (await session.gate_tool_call(ToolCall("bash"))).reason == "p: old"

    go(main())


@pytest.mark.slow
def test_a_handover_that_has_begun_ends_though_the_old_one_hangs_and_nobody_waits(tmp_path: Path) -> None:
    silent = NOTING.replace("gate=", "drain=lambda _: SILENCE, gate=")

    async def main() -> None:
        async with _host(_version(tmp_path, "old", silent)) as host:
            session = host.session()
            replacing = asyncio.ensure_future(host.replace(_version(tmp_path, "new")))
            lane = host.plugins["p"].lane
            assert isinstance(lane, RemoteLane)
            await until(lambda: not lane.is_ready, "it hands over")
            session.emit(ToolCallEnd(tool_name="bash"))
            assert notes_in(tmp_path) == []
            replacing.cancel()
            await asyncio.wait([replacing])
            await until(lambda: notes_in(tmp_path) != [], "the new one has it")
            assert [version for version, _ in notes_in(tmp_path)] == ["new"]
            assert host.plugins["p"].is_running

    go(main())


def test_one_that_never_ran_is_replaced_by_one_that_does(tmp_path: Path) -> None:
    async def main() -> None:
        broken = _version(tmp_path, "old", BROKEN["lacks its gate"])
        async with _host(broken) as host:
            session = host.session()
            assert (await session.gate_tool_call(ToolCall("bash"))).is_denied
            await host.replace(_version(tmp_path, "new"))
            session.emit(ToolCallEnd(tool_name="bash"))
            await session.drained()
            assert [version for version, _ in notes_in(tmp_path)] == ["new"]
            with pytest.raises(UnavailableRefused, match="lacks the hook"):
                await host.replace(_version(tmp_path, "worse", BROKEN["lacks its gate"]))

    go(main())


def test_a_host_that_does_not_run_replaces_nothing(tmp_path: Path) -> None:
    host = _host(_version(tmp_path, "old"))
    with pytest.raises(HostError, match="run"):
        go(host.replace(_version(tmp_path, "new")))


def test_what_it_may_do_is_what_the_new_record_says(tmp_path: Path) -> None:
    async def main() -> None:
        async with _host(_version(tmp_path, "old")) as host:
            session = host.session()
            less = Manifest.from_text('[events]\nsubscribe = ["TOOL_CALL_END"]')
            new = _version(tmp_path, "new", NOTING.replace(', "ally_gate_tool_call"', ""))
            await host.replace(evolve(PluginRecord.by_code("p", less), daemon=new.daemon))
            assert (await session.gate_tool_call(ToolCall("bash"))).is_allowed
            for _ in range(2):
                session.emit(ToolCallEnd(tool_name="bash"))
            await session.drained()
            assert await session.safe_point("turn_end") == ()

    go(main())
