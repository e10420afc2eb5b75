"""Crash loops, backoff, quarantine, restarts and stops, in every state that a daemon can be in."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from ally_plugins import Event, PluginState
from ally_plugins.contract.values.errors import NotFoundRefused
from ally_plugins.journal.reader import JournalReader
from tests.kit.daemons import write_daemon
from tests.kit.processes import is_alive
from tests.kit.waiting import go, until
from tests.supervisor.staging import Theatre, print_times

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")


GATES = "serve(hello={'hooks': ['ally_gate_tool_call'], 'events': []}, gate=lambda _: {'verdict': 'allow'})"
GATE = ("gate:tool_call", "tools", "events:*")


def children() -> set[int]:
    """Return the processes below this one, zombies too."""
    found: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    below = {os.getpid()}
    while more := {pid for pid, parent in found.items() if parent in below} - below:
        below |= more
    return below - {os.getpid()}


def holdings() -> dict[str, int]:
    """Return how much of what may leak is held now."""
    gc.collect()
    return {
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
        "processes": len(children()),
    }


def grown(before: dict[str, int]) -> dict[str, int]:
    """Return what is held more of than before; something of the start may have gone meanwhile."""
    return {name: count for name, count in holdings().items() if count > before[name]}


# --- crash loops ---


@pytest.mark.smoke
@pytest.mark.slow
def test_a_crash_loop_is_started_again_ever_later_and_ends_in_quarantine(theatre: Theatre, tmp_path: Path) -> None:
    async def main() -> None:
        async with theatre("sys.exit(3)", grants=GATE, home=tmp_path / "home") as stage:
            reason = await stage.reached("quarantined")
            assert reason.startswith("5 crashes in 60 s, last: exited with code 3 after ")
            assert reason.endswith("let it out with `ally-plugins release bad`")
            supervisor = stage.bad.supervisor
            assert supervisor.started == 5
            assert supervisor.process is None
            vote = await stage.vote()
            assert vote.cause == "quarantined"
            assert "let it out with `ally-plugins release bad`" in vote.verdict.reason
            await stage.others_answer()
            supervisor.restart("somebody is impatient")
            async with asyncio.timeout(5):
                await supervisor.settled()
            assert (stage.bad.state, supervisor.started) == ("quarantined", 5)

    go(main())
    with JournalReader(tmp_path / "home" / "journal.db") as reading:
        states = [record.data or {} for record in reading.records(kind="plugin_state") if record.plugin == "bad"]
        assert len(list(reading.records(kind="crash"))) == 5
    waits = [data["reason"].rpartition(" in ")[2] for data in states if data["state"] == "backoff"]
    delays = [float(wait.removesuffix(" s")) for wait in waits]
    assert len(delays) == 4
    assert delays == sorted(delays)
    assert delays[-1] >= 4 * delays[0]
    assert [data["state"] for data in states] == ["starting", "backoff"] * 4 + ["starting", "quarantined"]


@pytest.mark.slow
def test_a_daemon_that_dies_as_soon_as_it_runs_ends_in_quarantine_too(theatre: Theatre) -> None:
    async def main() -> None:
        async with theatre("serve(then=lambda: sys.exit(4))", grants=()) as stage:
            assert "last: exited with code 4 after " in await stage.reached("quarantined")
            assert stage.bad.supervisor.started == 5
            assert stage.bad.counts.crashes == 5
            await stage.others_answer()

    go(main())


@pytest.mark.slow
def test_hooks_that_fail_five_times_end_a_process_that_is_otherwise_well(theatre: Theatre) -> None:
    body = "serve(hello={'hooks': ['ally_gate_tool_call'], 'events': []}, gate=lambda _: {'verdict': 'perhaps'})"

    async def main() -> None:
        async with theatre(body, grants=GATE) as stage:
            pid = stage.pid
            for _ in range(5):
                assert (await stage.vote()).cause == "nonsense"
            assert (await stage.vote()).cause == "quarantined"
            await stage.until(lambda: not is_alive(pid), "its end")
            assert stage.bad.state == "quarantined"
            await stage.others_answer()

    go(main())


# --- restarts that are asked for ---


def test_a_restart_ends_the_process_politely_and_counts_as_no_crash(theatre: Theatre) -> None:
    body = "serve(shutdown=lambda params: note(params['reason']))"

    async def main() -> None:
        async with theatre(body) as stage:
            pid, supervisor = stage.pid, stage.bad.supervisor
            supervisor.restart("the operator wants it")
            await supervisor.settled()
            assert stage.bad.state == "running"
            assert stage.pid != pid
            assert not is_alive(pid)
            assert stage.notes() == ["the operator wants it"]
            assert (stage.bad.counts.crashes, supervisor.started) == (0, 2)
            await stage.others_answer()

    go(main())


def test_gates_deny_while_a_restart_is_under_way(theatre: Theatre) -> None:
    body = """
serve(hello={"hooks": ["ally_gate_tool_call"], "events": []}, gate=lambda _: {"verdict": "allow"},
      shutdown=lambda _: (note("asked"), cue())[1])
"""

    async def main() -> None:
        async with theatre(body, grants=GATE, config={"deadlines": {"ally_stop": 20.0}}) as stage:
            stage.bad.supervisor.restart("because")
            await stage.noted()
            vote = await stage.vote()
            assert vote.cause == "restarting"
            await stage.others_answer()
            stage.cue()
            await stage.bad.supervisor.settled()
            assert (await stage.vote()).cause == "verdict"

    go(main())


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["starting", "greeting"])
def test_a_restart_in_the_middle_of_a_start_begins_anew(theatre: Theatre, moment: str) -> None:
    wait = "cue()" if moment == "greeting" else "pass"
    body = f"""
message = read()
{wait}
send(id=message["id"], result={{"protocol": "1"}})
serve()
"""

    async def main() -> None:
        async with theatre("serve()") as stage:
            supervisor = stage.bad.supervisor
            write_daemon(theatre.folder, body)  # the same file: what runs next is another daemon
            supervisor.restart("first")
            await stage.until(lambda: supervisor.started == 2, "the second start")
            supervisor.restart("second")
            stage.cue()
            await stage.until(lambda: supervisor.started == 3 and stage.bad.state == "running", "the third start")
            assert stage.bad.counts.crashes == 0
            await stage.others_answer()

    go(main())


@pytest.mark.slow
def test_a_restart_out_of_a_backoff_is_done_at_once(theatre: Theatre) -> None:
    async def main() -> None:
        async with theatre(GATES, grants=GATE) as stage:
            supervisor = stage.bad.supervisor
            for _ in range(3):  # the fourth wait is of more than a second
                os.kill(stage.pid, signal.SIGKILL)
                await stage.restarted()
            os.kill(stage.pid, signal.SIGKILL)
            await stage.reached("backoff")
            supervisor.restart("now")
            await supervisor.settled()
            assert stage.bad.state == "running"
            assert (await stage.vote()).cause == "verdict"

    go(main())


@pytest.mark.slow
@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=pytest.mark.soak)])
def test_restarts_leak_nothing(count: int, theatre: Theatre) -> None:
    async def main() -> None:
        async with theatre("serve()", home=theatre.folder / "home") as stage:
            supervisor = stage.bad.supervisor

            async def restart() -> None:
                supervisor.restart("again")
                async with asyncio.timeout(60):
                    await supervisor.settled()
                assert stage.bad.state == "running", stage.bad.reason

            for _ in range(5):
                await restart()
            before, begun = holdings(), time.monotonic()
            for _ in range(count):
                await restart()
            print_times(restart=(time.monotonic() - begun) / count)
            await stage.until(lambda: not grown(before), "the end of what was held for the last process")
            assert supervisor.started == count + 6
            assert stage.bad.counts.crashes == 0
            await stage.others_answer()

    before = (len(list(Path("/proc/self/fd").iterdir())), children())
    go(main(), 600)
    gc.collect()
    assert (len(list(Path("/proc/self/fd").iterdir())), children()) == before


@pytest.mark.slow
def test_crashes_leak_nothing_either(theatre: Theatre) -> None:
    async def main() -> None:
        async with theatre(GATES, grants=GATE) as stage:

            async def crash() -> None:
                stage.bad.crashes.reset()
                stage.bad.supervisor.restarts.reset()
                stage.bad.supervisor.restarts.first = 0.001
                os.kill(stage.pid, signal.SIGKILL)
                await stage.restarted()

            for _ in range(3):
                await crash()
            before = holdings()
            for _ in range(20):
                await crash()
            await stage.until(lambda: not grown(before), "the end of what was held for the last process")
            await stage.others_answer()

    go(main())


# --- stops ---


IGNORES = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
def ignore():
    note(os.getpid())
    while True:
        linger()
serve(then=ignore)
"""


@pytest.mark.slow
def test_one_that_ignores_everything_is_killed_when_the_host_stops(theatre: Theatre) -> None:
    async def main() -> int:
        async with theatre(IGNORES, timing={"shutdown_grace": 0.3}) as stage:
            (pid,) = await stage.noted()
            assert is_alive(pid)
        return int(pid)

    assert not is_alive(go(main()))


GRANDCHILD = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        note(os.getpid())
        os.execve("/bin/sleep", ["sleep", "600"], {})
    os._exit(0)
serve()
"""


def test_a_restart_and_a_stop_end_what_hid_from_its_tree_while_another_one_runs(theatre: Theatre) -> None:
    async def main() -> None:
        async with theatre(GRANDCHILD) as stage:
            (first,) = await stage.noted(1)
            stage.bad.supervisor.restart("the operator wants it")
            await stage.bad.supervisor.settled()
            _, second = await stage.noted(2)
            assert (is_alive(first), is_alive(second)) == (False, True)
            await stage.bad.supervisor.stop("the operator has disabled it")
            assert not is_alive(second)
            await stage.others_answer()

    go(main())


@pytest.mark.slow
def test_one_that_ends_instead_of_answering_is_not_waited_for(theatre: Theatre) -> None:
    async def main() -> float:
        async with theatre("serve(shutdown=lambda _: os._exit(0))", config={"deadlines": {"ally_stop": 30.0}}) as stage:
            began = time.monotonic()
            stage.bad.supervisor.restart("the operator wants it")
            await stage.bad.supervisor.settled()
            return time.monotonic() - began

    assert go(main()) < 10


@pytest.mark.slow
def test_one_that_is_stopped_by_a_signal_still_ends_with_the_host(theatre: Theatre) -> None:
    async def main() -> int:
        async with theatre("serve()") as stage:
            pid: int = stage.pid
            os.kill(pid, signal.SIGSTOP)
        return pid

    assert not is_alive(go(main()))


@pytest.mark.parametrize(
    ("body", "state"),
    [("sys.exit(1)", "backoff"), ("print('x', flush=True); linger()", "failed"), ("serve()", "running")],
)
def test_a_host_stops_with_a_daemon_in_any_state(theatre: Theatre, body: str, state: str) -> None:
    before = children()

    async def main() -> None:
        async with theatre(body) as stage:
            await stage.reached(state)
            plugin = stage.bad
        assert plugin.state in {"stopped", "failed"}

    go(main())
    assert children() == before


@pytest.mark.parametrize("body", ["linger()", "serve(hello={'hooks': ['ally_start']}, start=lambda _: SILENCE)"])
def test_a_host_whose_start_is_cancelled_leaves_no_process(theatre: Theatre, body: str) -> None:
    before = children()

    async def main() -> None:
        async def enter() -> None:
            async with theatre(f"note(os.getpid()); {body}"):
                raise AssertionError("it has started")

        starting = asyncio.ensure_future(enter())
        notes = theatre.folder / "notes"
        await until(notes.exists)
        starting.cancel()
        await asyncio.wait([starting])
        assert starting.cancelled()

    go(main())
    assert children() == before


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("what", ["exit", "restart"])
def test_a_stop_in_the_turns_of_the_loop_after_an_exit_or_a_restart_is_final(
    theatre: Theatre, what: str, turns: int
) -> None:
    """The supervisor is at another place in each of these turns."""

    async def main() -> None:
        async with theatre("serve()") as stage:
            supervisor, process = stage.bad.supervisor, stage.bad.supervisor.process
            os.kill(stage.pid, signal.SIGKILL)
            await asyncio.wait([process.exited])
            if what == "restart":
                await stage.reached("backoff")
                supervisor.restart("now")
            for _ in range(turns):
                await asyncio.sleep(0)
            stopping = asyncio.ensure_future(supervisor.stop("the operator has disabled it"))
            await until(stopping.done)  # a start that had begun is ended too
            assert supervisor.process is None

    go(main())


@pytest.mark.slow
def test_a_stop_in_the_middle_of_a_restart_leaves_no_process(theatre: Theatre) -> None:
    """The first end waits for an answer to `shutdown` when the second one comes."""
    body = """
serve(
    hello={"hooks": ["ally_gate_tool_call"], "tools": [{"name": "slow"}]},
    shutdown=lambda _: (note("asked"), SILENCE)[1],
    call_tool=lambda _: SILENCE,
)
"""

    async def main() -> None:
        async with theatre(body, grants=GATE, config={"deadlines": {"ally_stop": 20.0}}) as stage:
            pid, supervisor = stage.pid, stage.bad.supervisor
            call = asyncio.ensure_future(stage.host.call_tool("slow"))
            supervisor.restart("because")
            await stage.noted()
            await supervisor.stop("the operator has disabled it")
            assert not is_alive(pid)
            assert supervisor.process is None
            async with asyncio.timeout(5):
                assert "disabled it" in str((await asyncio.gather(call, return_exceptions=True))[0])
            await supervisor.stop("again")
            await stage.others_answer()

    go(main())


@pytest.mark.slow
def test_its_tools_are_there_after_a_restart_and_gone_in_quarantine(theatre: Theatre) -> None:
    body = """
serve(hello={"tools": [{"name": "mine"}]}, call_tool=lambda params: "ok" if params["arguments"] else os._exit(1))
"""

    async def main() -> None:
        async with theatre(body, grants=("tools",)) as stage:
            for _ in range(4):
                assert (await stage.host.call_tool("mine", {"a": 1})).output == "ok"
                await asyncio.gather(stage.host.call_tool("mine"), return_exceptions=True)
                await stage.restarted()
            await asyncio.gather(stage.host.call_tool("mine"), return_exceptions=True)
            await stage.reached("quarantined")
            with pytest.raises(NotFoundRefused):
                await stage.host.call_tool("mine")
            await stage.others_answer()

    go(main())


# --- what is said of it ---


@pytest.mark.slow
def test_every_change_of_state_is_an_event_for_the_others_and_a_record(theatre: Theatre, tmp_path: Path) -> None:
    async def main() -> list[tuple[str, str]]:
        async with theatre(GATES, grants=GATE, home=tmp_path / "home") as stage:
            seen: list[tuple[str, str]] = []

            def note(event: Event) -> None:
                if isinstance(event, PluginState) and event.plugin_name == "bad":
                    seen.append((event.state, event.reason))

            stage.host.stream.subscribe("PLUGIN_STATE", note)
            os.kill(stage.pid, signal.SIGKILL)
            await stage.restarted()
            stage.bad.supervisor.restart("because")
            await stage.bad.supervisor.settled()
            return list(seen)

    seen = go(main())
    assert [state for state, _ in seen] == ["backoff", "starting", "running", "stopping", "starting", "running"]
    assert seen[0][1].startswith("was killed by SIGKILL after ")
    assert seen[3][1] == "because"
    with JournalReader(tmp_path / "home" / "journal.db") as reading:
        kept = [
            ((record.data or {})["state"], (record.data or {})["reason"])
            for record in reading.records(kind="plugin_state")
            if record.plugin == "bad"
        ]
        told = [
            event["event_data"]["state"]
            for event in (json.loads(stored.body) for stored in reading.events("s", type="PLUGIN_STATE"))
            if event["event_data"]["pluginName"] == "bad"
        ]
    assert [state for state, _ in kept[:2]] == ["starting", "running"]
    assert kept[2:8] == seen
    assert [state for state, _ in kept[8:]] == ["stopping", "stopped"]
    assert told[:6] == [state for state, _ in seen]
