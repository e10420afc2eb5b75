"""A plugin that was granted files of the project: a process for each project, and no session reaches another's."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Host, ToolCall, ToolCallEnd
from ally_plugins.catalog.home.folder import Home
from ally_plugins.catalog.project_trust import trust
from ally_plugins.catalog.projects.ally_folder import read_ally_folder
from ally_plugins.catalog.registry import Registry
from ally_plugins.contract.manifest import Manifest
from ally_plugins.contract.values.errors import ToolCallError
from ally_plugins.host.daemons import by_project
from ally_plugins.runtime.sandbox.support import support
from tests.kit.daemons import give_cue, notes_in, write_daemon
from tests.kit.hosts import make_record
from tests.kit.processes import is_alive
from tests.kit.waiting import go, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(not support().has_filter or not support().landlock, reason="no sandbox on this machine")

NAME = "doc-writer"
CALL = ToolCall("bash", {"command": "make"}, "c1")
GRANTS = ("files:read:project", "gate:tool_call", "tools", "events:TOOL_CALL_END", "get_context:focus")

BODY = """
PROJECT = os.environ.get("ALLY_PROJECT")
ME = os.urandom(4).hex()  # in a namespace of its own, each has the same process id

def content(path):
    try:
        return open(path).read()
    except OSError as error:
        return type(error).__name__

def gate(params):
    note(["gate", PROJECT, params["session_id"]])
    return {"verdict": "deny", "reason": f"{PROJECT} {ME}"}

def call_tool(params):
    path = params["arguments"].get("path") or f"{PROJECT}/file"
    return {"success": True, "output": content(path)}

def look():
    note(["ready", PROJECT, ME])

SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}}
HELLO = {"hooks": ["ally_gate_tool_call"], "tools": [{"name": "peek", "description": "Peek.", "schema": SCHEMA}]}
"""
SERVE = """
serve(look, HELLO, gate=gate, call_tool=call_tool,
      on_event=lambda params: note(["event", PROJECT, params["session_id"], str(params)]))
"""


@asynccontextmanager
async def hosting(
    folder: Path, *, body: str = SERVE, grants: tuple[str, ...] = GRANTS, home: Path | None = None, **more: Any
) -> AsyncIterator[Host]:
    """Run a host with the daemon in its sandbox; its notes lie in `folder`."""
    daemon = write_daemon(folder, BODY + body)
    granted = [*grants, f"files:write:{folder}"]
    record = make_record(NAME, more.pop("manifest", None), grants=granted, placement="sandbox", **more)
    async with Host("test", home=home, plugins={NAME: (daemon, record)}, discover=False) as host:
        yield host


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "daemon").mkdir()
    return tmp_path / "daemon"


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    """Return two projects, each with a file that holds its name."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    return tmp_path / "one", tmp_path / "two"


def processes(folder: Path) -> dict[str | None, str]:
    """Return the process that has become ready last, by project, as it calls itself."""
    return {note[1]: note[2] for note in notes_in(folder) if note[0] == "ready"}


def pids_of(host: Host) -> list[int]:
    """Return the processes of the plugin as the host knows them."""
    supervisor = host.plugins[NAME].supervisor
    assert supervisor is not None
    return [each["pid"] for each in supervisor.describe()["projects"]]


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_gates_tools_and_events_of_a_session_go_to_the_process_of_its_project(
    folder: Path, roots: tuple[Path, Path]
) -> None:
    one, two = roots

    async def main() -> None:
        async with hosting(folder) as host:
            assert host.plugins[NAME].state == "running"
            assert notes_in(folder) == [], "nothing runs before there is a project"
            sessions = {one: host.session("s1", project=one), two: host.session("s2", project=two)}
            sessions_of_one = host.session("s3", project=one)
            for root, session in sessions.items():
                ruling = await session.gate_tool_call(CALL)
                assert [vote.plugin for vote in ruling.votes] == [NAME]
                assert ruling.reason.split()[-2:] == [str(root), processes(folder)[str(root)]], ruling
                other = two if root == one else one
                peek = partial(host.call_tool, "peek", session_id=session.id)
                assert (await peek()).output == root.name
                # The other's is closed to it, though it was granted files of the project.
                assert (await peek({"path": f"{other}/file"})).output == "PermissionError"
                session.emit(ToolCallEnd(tool_name=root.name))
                await session.drained()
            assert (await sessions_of_one.gate_tool_call(CALL)).is_denied
            assert set(processes(folder)) == {*map(str, roots)}, "the third session found the first one's"
            assert [each.spec.name for each in host.tools] == ["peek"]
            with pytest.raises(ToolCallError, match="without a session: it has a process for each project"):
                await host.call_tool("peek")
        events = [note for note in notes_in(folder) if note[0] == "event" and "TOOL_CALL_END" in note[3]]
        assert [note[1:3] for note in events] == [[str(one), "s1"], [str(two), "s2"]]

    go(main())


def test_a_trusted_project_narrows_what_its_process_reaches_and_no_other_one(
    folder: Path, roots: tuple[Path, Path], tmp_path: Path
) -> None:
    one, two = roots
    registry = Registry(Home("test", tmp_path / "home"))
    registry.home.prepare()
    for root in roots:
        (root / "open").mkdir()
        (root / "open" / "file").write_text("open")
    (one / ".ally").mkdir()
    kept = ["tools", "files:read:project/open", f"files:write:{folder}"]
    (one / ".ally" / "project.toml").write_text(f"[plugins.{NAME}]\ngrants = {kept}\n")
    trust(registry, read_ally_folder(str(one), registry.home.path), "person")

    async def main() -> None:
        async with hosting(folder, home=registry.home.path) as host:
            sessions = {root: host.session(project=root) for root in roots}
            read = {}
            for root, session in sessions.items():
                await session.safe_point("turn_start")
                for file in (root / "file", root / "open" / "file"):
                    read[file] = (await host.call_tool("peek", {"path": str(file)}, session_id=session.id)).output
            assert read == {
                one / "file": "PermissionError",
                one / "open" / "file": "open",
                two / "file": "two",
                two / "open" / "file": "open",
            }
            assert (await sessions[one].gate_tool_call(CALL)).is_denied, "it guards as ever"

    go(main())


def test_a_turn_begins_when_the_process_of_its_project_has_offered_its_tools(
    folder: Path, roots: tuple[Path, Path]
) -> None:
    async def main() -> None:
        async with hosting(folder) as host:
            session = host.session("s1", project=roots[0])
            assert list(host.tools) == []
            await session.safe_point("turn_start")
            assert [each.spec.name for each in host.tools] == ["peek"]

    go(main())


def test_a_session_without_a_project_has_a_process_that_sees_none(folder: Path, roots: tuple[Path, Path]) -> None:
    async def main() -> None:
        async with hosting(folder) as host:
            session = host.session("s1")
            assert (await session.gate_tool_call(CALL)).is_denied
            found = await host.call_tool("peek", {"path": f"{roots[0]}/file"}, session_id="s1")
            assert found.output == "PermissionError"
            assert list(processes(folder)) == [None]

    go(main())


@pytest.mark.slow
def test_a_gate_waits_for_the_process_that_starts_and_denies_at_its_deadline(
    folder: Path, roots: tuple[Path, Path]
) -> None:
    body = "cue()\n" + SERVE

    async def main() -> None:
        async with hosting(folder, body=body, deadlines={"gate": 0.3}) as host:
            late = await host.session("s1", project=roots[0]).gate_tool_call(CALL)
            assert late.is_denied
            assert late.votes[0].cause == "timeout"
        async with hosting(folder, body=body) as host:
            asking = asyncio.ensure_future(host.session("s1", project=roots[0]).gate_tool_call(CALL))
            await asyncio.sleep(0)
            give_cue(folder)
            ruling = await asking
            assert ruling.reason.split()[-2] == str(roots[0])

    go(main())


def test_a_project_that_is_opened_to_nobody_is_denied_and_the_others_go_on(
    home: Path, folder: Path, roots: tuple[Path, Path]
) -> None:
    async def main() -> None:
        async with hosting(folder, home=home) as host:
            shut, fine = host.session("s1", project=home.parent), host.session("s2", project=roots[0])
            ruling = await shut.gate_tool_call(CALL)
            assert ruling.is_denied
            assert (await fine.gate_tool_call(CALL)).reason.split()[-2] == str(roots[0])
            assert list(processes(folder)) == [str(roots[0])]
            # By now it is known, and nobody waits for it.
            again = await shut.gate_tool_call(CALL)
            assert again.votes[0].cause == "not_running"
            reason = host.plugins[NAME].reason
            assert reason.startswith(f"in {home.parent} it is failed: ")
            assert "where the plugins' consent, journal and secrets are kept" in reason
            with pytest.raises(ToolCallError):
                await host.call_tool("peek", session_id="s1")

    go(main())


def test_a_plugin_that_lacks_the_gate_it_was_granted_denies_in_every_project(
    folder: Path, roots: tuple[Path, Path]
) -> None:
    body = 'serve(look, {"hooks": []})'

    async def main() -> None:
        async with hosting(folder, body=body) as host:
            for number, root in enumerate(roots):
                ruling = await host.session(f"s{number}", project=root).gate_tool_call(CALL)
                assert ruling.is_denied

    go(main())


ASKS = """
def on_event(params):
    if params["event_type"] == "TOOL_CALL_END":
        note(["own", ask("get_context", parts=["focus"], session_id=params["session_id"]).get("error")])
        note(["other", ask("get_context", parts=["focus"], session_id="s2")["error"]["message"]])
        note(["none", ask("get_context", parts=["focus"]).get("result", {}).get("focus")])

serve(look, {"hooks": [], "events": ["TOOL_CALL_END"]}, on_event=on_event)
"""


def test_a_process_reads_nothing_of_a_session_of_another_project(folder: Path, roots: tuple[Path, Path]) -> None:
    grants = ("files:read:project", "get_context:focus", "events:TOOL_CALL_END")

    async def main() -> None:
        async with hosting(folder, body=ASKS, grants=grants) as host:
            one, two = roots
            session = host.session("s1", project=one, focus="about one")
            host.session("s2", project=two, focus="about two")
            await until(lambda: len(processes(folder)) == 2)
            session.emit(ToolCallEnd(tool_name="t"))
            await until(lambda: any(note[0] == "none" for note in notes_in(folder)), lambda: f"{notes_in(folder)}")
            found = {note[0]: note[1] for note in notes_in(folder)}
            assert found["own"] is None
            assert found["other"] == "session 's2' is of another project"
            assert found["none"] == "about one"

    go(main())


def test_the_process_of_a_project_ends_when_its_last_session_has_closed_and_comes_again(
    folder: Path, roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_project, "IDLE", 0)

    async def main() -> None:
        async with hosting(folder) as host:
            one, other = host.session("s1", project=roots[0]), host.session("s2", project=roots[0])
            assert (await one.gate_tool_call(CALL)).is_denied
            first = processes(folder)[str(roots[0])]
            pids = pids_of(host)
            await one.close()
            assert (await other.gate_tool_call(CALL)).reason.split()[-1] == first
            await other.close()
            await until(lambda: not any(map(is_there, pids)))
            again = host.session("s3", project=roots[0])
            ruling = await again.gate_tool_call(CALL)
            assert ruling.reason.split()[-1] != first
            assert (await host.call_tool("peek", session_id="s3")).output == "one"

    go(main())


@pytest.mark.slow
def test_what_crashes_in_every_project_is_one_plugin_that_goes_into_quarantine(
    folder: Path, roots: tuple[Path, Path]
) -> None:
    async def main() -> None:
        async with hosting(folder, body="serve(look, HELLO, gate=lambda _: os._exit(3))") as host:
            sessions = [host.session(f"s{number}", project=root) for number, root in enumerate(roots)]
            plugin, pids = host.plugins[NAME], set[int]()
            # With the last crash of one, the other may run, start, or wait for its next start.
            while plugin.state != "quarantined":
                for session in sessions:
                    assert (await session.gate_tool_call(CALL)).is_denied
                assert plugin.supervisor is not None
                pids |= {each["pid"] for each in plugin.supervisor.describe()["projects"] if each["pid"]}
            assert plugin.reason.startswith("5 crashes in 60 s")
            assert (await sessions[1].gate_tool_call(CALL)).votes[0].cause == "quarantined"
            assert list(host.tools) == []
            assert len(pids) > 1
            await until(lambda: not any(map(is_alive, pids)))

    go(main())


def test_durable_events_and_files_of_the_project_are_not_had_together(folder: Path) -> None:
    manifest = Manifest.from_text("""
[events]
subscribe = ["TOOL_CALL_END"]
durable = ["TOOL_CALL_END"]
[permissions]
files = { read = ["project"], reason = "r" }
""")

    async def main() -> None:
        async with hosting(folder, manifest=manifest) as host:
            assert host.plugins[NAME].state == "failed"
            assert "ally-plugins revoke doc-writer files" in host.plugins[NAME].reason

    go(main())


def test_a_session_without_the_plugin_starts_no_process_and_asks_none(folder: Path, roots: tuple[Path, Path]) -> None:
    one, two = roots

    async def main() -> None:
        async with hosting(folder) as host:
            without = host.session("s1", project=one, plugins=[])
            assert not (await without.gate_tool_call(CALL)).is_denied
            without.emit(ToolCallEnd(tool_name="one"))
            await without.drained()
            await without.safe_point("turn_start")
            having = host.session("s2", project=two, plugins=[NAME])
            assert (await having.gate_tool_call(CALL)).reason.split()[-2] == str(two)
            assert list(processes(folder)) == [str(two)]
            # In a project that has a process, one without the plugin asks it no more than elsewhere.
            beside = host.session("s3", project=two, plugins=[])
            assert not (await beside.gate_tool_call(CALL)).is_denied
            beside.emit(ToolCallEnd(tool_name="two"))
            having.emit(ToolCallEnd(tool_name="two"))
            await having.drained()
            assert (await host.call_tool("peek", session_id="s2")).output == "two"
            for session_id in ("s1", "s3"):
                with pytest.raises(ToolCallError):
                    await host.call_tool("peek", session_id=session_id)
        assert {note[2] for note in notes_in(folder) if note[0] in {"gate", "event"}} == {"s2"}
        assert list(processes(folder)) == [str(two)], "nor was one started while they closed"

    go(main())


def test_the_process_of_a_project_ends_with_its_last_session_that_has_the_plugin(
    folder: Path, roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_project, "IDLE", 0)

    async def main() -> None:
        async with hosting(folder) as host:
            having = host.session("s1", project=roots[0], plugins=[NAME])
            other = host.session("s2", project=roots[0], plugins=[])
            elsewhere = host.session("s3", project=roots[1], plugins=[NAME])
            assert (await having.gate_tool_call(CALL)).is_denied
            first = processes(folder)[str(roots[0])]
            [pid] = pids_of(host)[:1]
            assert (await elsewhere.gate_tool_call(CALL)).is_denied
            await having.close()
            await until(lambda: not is_there(pid))
            assert not (await other.gate_tool_call(CALL)).is_denied
            assert (await elsewhere.gate_tool_call(CALL)).is_denied, "the other project's goes on"
            again = host.session("s4", project=roots[0])
            assert (await again.gate_tool_call(CALL)).reason.split()[-1] != first

    go(main())
