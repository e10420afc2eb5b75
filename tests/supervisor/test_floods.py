"""A daemon that sends too much, or will not read: bounded in memory and in turns, and the others go on."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Deny, ThoughtComplete, UserMessage
from ally_plugins.journal.reader import JournalReader
from tests.kit.processes import is_alive
from tests.kit.waiting import go

if TYPE_CHECKING:
    from tests.supervisor.staging import Theatre

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc"),
    pytest.mark.slow,  # they keep a machine busy; once is enough
]


MANY = 200_000
GROWTH = 50_000_000
"""Bytes by which a host may grow for one daemon's flood."""


def resident() -> int:
    """Return how much of this process is in memory, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


async def calm_while(stage: Any, is_over: Any) -> int:
    """Let the others answer again and again until something is so; return the most that the host has grown."""
    before, most = resident(), 0
    while not is_over():
        await stage.others_answer()
        most = max(most, resident() - before)
        await asyncio.sleep(0.01)
    await stage.others_answer()
    return most


def has_noted(stage: Any, value: Any) -> Any:
    return lambda: value in stage.notes()


# --- too much said ---


@pytest.mark.parametrize("method", ["no_such_thing", "log", "$/progress", "$/cancel"])
def test_a_flood_of_notifications_holds_nobody_up(
    theatre: Theatre, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    params = {"level": "warning", "message": "m", "id": 5, "progress": 0.5}
    line = json.dumps({"jsonrpc": "2.0", "method": method, "params": params}) + "\n"
    body = f"""
line = {line!r}.encode()
def flood():
    for _ in range({MANY} // 500):
        write(line * 500)
    note("done")
serve(then=flood)
"""

    async def main() -> int:
        async with theatre(body) as stage:
            grown = await calm_while(stage, has_noted(stage, "done"))
            assert stage.bad.state == "running"
            await stage.until(lambda: not stage.bad.lane.link._arrived, "the end of the flood")
            return grown

    caplog.set_level(logging.INFO)
    assert go(main()) < GROWTH
    assert len(caplog.records) < 1000


def test_calls_that_are_taken_back_at_once_leave_room_for_others(theatre: Theatre) -> None:
    body = """
def burst():
    cue()  # the session is open then
    lines = []
    for number in range(200):
        asked = {"jsonrpc": "2.0", "id": "x%d" % number, "method": "get_context", "params": {"parts": ["focus"]}}
        taken_back = {"jsonrpc": "2.0", "method": "$/cancel", "params": {"id": asked["id"]}}
        lines += [json.dumps(asked), json.dumps(taken_back)]
    write(("\\n".join(lines) + "\\n").encode())
    for _ in range(200):
        reply()
    note(ask("get_context", parts=["focus"]).get("error"))
serve(then=burst)
"""

    async def main() -> None:
        async with theatre(body, grants=["get_context:focus"]) as stage:
            stage.cue()
            await stage.until(stage.notes, "the answer after the burst")
            assert stage.notes() == [None]

    go(main())


def test_a_flood_of_messages_is_refused_by_budget_and_recorded_in_a_few_lines(theatre: Theatre, tmp_path: Path) -> None:
    body = """
def flood():
    cue()
    refused = {}
    for _ in range(20000 // 50):
        for number in range(50):
            send(id=number, method="add_message", params={"role": "user", "content": "buy", "session_id": "s"})
        for number in range(50):
            answer = reply()
            code = answer.get("error", {}).get("code", 0)
            refused[code] = refused.get(code, 0) + 1
    note(refused)
serve(then=flood)
"""

    async def main() -> int:
        async with theatre(body, grants=("add_message:user",), home=tmp_path / "home") as stage:
            stage.cue()
            grown = await calm_while(stage, stage.notes)
            (refused,) = stage.notes()
            assert 30 <= refused.pop("0") < 100  # the bucket fills again while it goes on
            assert sum(refused.values()) > 19_000
            assert set(refused) <= {"-32002", "-32006"}, "budget, or busy"
            assert stage.bad.state == "running"
            return grown

    assert go(main()) < GROWTH
    with JournalReader(tmp_path / "home" / "journal.db") as reading:
        assert len(list(reading.records(kind="refusal"))) < 200


def test_a_flood_on_stderr_is_dropped_and_counted_and_never_stops_the_daemon(theatre: Theatre, tmp_path: Path) -> None:
    body = """
def flood():
    for _ in range(100):
        os.write(2, b"x" * 999_999 + b"\\n")
    note("done")
serve(then=flood)
"""

    async def main() -> int:
        async with theatre(body, home=tmp_path / "home") as stage:
            grown = await calm_while(stage, has_noted(stage, "done"))
            assert stage.bad.state == "running"
            return grown

    assert go(main()) < GROWTH
    written = list((tmp_path / "home" / "logs").glob("bad*"))
    assert sum(file.stat().st_size for file in written) < 30_000_000
    assert "bytes dropped" in "".join(file.read_text() for file in written)


def test_a_flood_of_crash_reports_ends_in_quarantine_and_is_not_heard_any_more(
    theatre: Theatre, tmp_path: Path
) -> None:
    body = """
import threading
def flood():
    try:
        while True:
            write(b'{"jsonrpc":"2.0","method":"report_crash","params":{"hook":"h","error":"E"}}\\n' * 100)
    except OSError:
        pass
serve(then=lambda: threading.Thread(target=flood, daemon=True).start(), shutdown=lambda _: SILENCE)
"""

    async def main() -> None:
        async with theatre(body, home=tmp_path / "home") as stage:
            reason = await stage.reached("quarantined")
            assert reason.startswith("5 crashes in 60 s, last: E in h; its traceback is in `ally-plugins logs bad`")
            await stage.until(lambda: stage.bad.supervisor.process is None, "its end")
            await stage.others_answer()
            assert stage.bad.counts.crashes <= 5

    go(main())
    with JournalReader(tmp_path / "home" / "journal.db") as reading:
        assert len(list(reading.records(kind="crash"))) <= 5


# --- what is no protocol ---


def test_garbage_is_answered_each_time_and_ends_the_connection_after_a_hundred(theatre: Theatre) -> None:
    body = """
def talk():
    codes = []
    for number in range(100):
        write(b"\\xff\\x00 garbage %d\\n" % number)
        codes.append(reply()["error"]["code"])
        if number == 98:
            note(codes)
    linger()
serve(then=talk)
"""

    async def main() -> None:
        async with theatre(body) as stage:
            (codes,) = (await stage.noted(1))[:1]
            assert codes == [-32700] * 99
            reason = await stage.reached("backoff")
            assert reason.startswith("broke the protocol: 100 malformed messages came; the last: ")
            assert "it starts again in " in reason
            await stage.others_answer()
            await stage.restarted()

    go(main())


def test_a_hundred_megabytes_without_a_newline_are_cut_at_the_first(theatre: Theatre) -> None:
    body = """
def flood():
    sent = 0
    try:
        for _ in range(100):
            write(b"x" * 1_000_000)
            sent += 1
    except OSError:
        pass
    note(sent)
    linger()
serve(then=flood)
"""

    async def main() -> int:
        async with theatre(body) as stage:
            grown = await calm_while(stage, lambda: stage.failures)
            assert stage.failures[0].startswith("broke the protocol: a line of more than 1048576 bytes came; send less")
            assert all(sent < 5 for sent in stage.notes())
            await stage.restarted()
            return grown

    assert go(main()) < GROWTH


MALFORMED: dict[str, tuple[str, int]] = {
    "deep lists": ('"[" * 100_000 + "]" * 100_000', -32600),
    "deep objects": ('\'{"a":\' * 5_000 + "1" + "}" * 5_000', -32600),
    "deep params": ('\'{"jsonrpc":"2.0","id":1,"method":"log","params":\' + "[" * 80 + "]" * 80 + "}"', -32600),
    "many values": ('\'{"jsonrpc":"2.0","id":1,"method":"log","params":{"a":[\' + "0," * 200_000 + "0]}}"', -32600),
    "a batch": ('\'[{"jsonrpc":"2.0","id":1,"method":"log"}]\'', -32600),
    "not a number": ('\'{"jsonrpc":"2.0","id":1,"method":"log","params":{"a":NaN}}\'', -32700),
    "an unfinished text": ('\'{"jsonrpc":"2.0\'', -32700),
    "a lone surrogate": ('\'{"jsonrpc":"2.0","id":1,"method":"\' + chr(92) + \'ud800"}\'', -32700),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_what_is_malformed_is_answered_and_the_daemon_goes_on(theatre: Theatre, kind: str) -> None:
    text, code = MALFORMED[kind]
    body = f"""
def talk():
    write(({text}).encode() + b"\\n")
    note(reply()["error"]["code"])
serve(then=talk)
"""

    async def main() -> None:
        async with theatre(body) as stage:
            assert (await stage.noted(1))[0] in {code, -32700, -32600}
            await stage.others_answer()
            assert stage.bad.state == "running"

    go(main())


def test_frames_just_under_the_limit_are_taken_and_refused_by_size(theatre: Theatre) -> None:
    body = """
def talk():
    cue()
    codes = set()
    for number in range(100):
        send(id=number, method="add_message", params={"role": "user", "content": "x" * 1_048_000, "session_id": "s"})
        codes.add(reply()["error"]["code"])
    note(sorted(codes))
serve(then=talk)
"""

    async def main() -> int:
        async with theatre(body, grants=("add_message:user",)) as stage:
            stage.cue()
            grown = await calm_while(stage, stage.notes)
            assert set(stage.notes()[0]) <= {-32003, -32602, -32002}
            assert stage.bad.state == "running"
            return grown

    assert go(main()) < GROWTH


def test_answers_to_nothing_are_counted_and_change_nothing(theatre: Theatre) -> None:
    body = """
def talk():
    for number in (999, -1, 10**30, "x", "", 1, 1):
        send(id=number, result={"verdict": "allow"})
        send(id=number, error={"code": 1, "message": "m"})
    note("done")
serve(then=talk, hello={"hooks": ["ally_gate_tool_call"], "events": []}, gate=lambda _: {"verdict": "allow"})
"""

    async def main() -> None:
        async with theatre(body, grants=("gate:tool_call",)) as stage:
            await stage.noted(1)
            assert (await stage.vote()).cause == "verdict"
            counts = stage.bad.lane.link.connection.counts
            assert counts.unknown + counts.double + counts.malformed == 14
            assert counts.double >= 2
            await stage.others_answer()

    go(main())


ODD_ERRORS = [
    {"code": -32001, "message": "m", "data": {"permission": 5, "command": []}},
    {"code": -32002, "message": "m", "data": {"budget": {}, "retry_after": "soon"}},
    {"code": -32004, "message": "m", "data": {"chain": 3}},
    {"code": -32012, "message": "m", "data": 7},
    {"code": -32603, "message": "m", "data": {"type": "No\nName"}},
    {"code": 10**12, "message": "", "data": {"x": [[[]]]}},
    {"code": -32800, "message": "cancelled by itself"},
    {"code": -32602, "message": "m", "data": {"field": None, "problems": [1]}},
]


@pytest.mark.smoke
@pytest.mark.parametrize("error", ODD_ERRORS, ids=lambda error: str(error["code"]))
def test_whatever_error_a_daemon_answers_with_its_gate_denies_at_once(theatre: Theatre, error: dict[str, Any]) -> None:
    body = f"""
while True:
    message = read()
    if message["method"] in ("gate", "call_tool"):
        send(id=message["id"], error={error!r})
    elif "id" in message:
        send(id=message["id"], result={{"protocol": "1", "hooks": ["ally_gate_tool_call"], "events": [],
             "tools": [{{"name": "odd"}}]}})
"""

    async def main() -> None:
        async with theatre(body, grants=("gate:tool_call", "tools")) as stage:
            async with asyncio.timeout(10):
                vote = await stage.vote()
            assert vote.cause == "crash"
            outcome = await asyncio.gather(stage.host.call_tool("odd"), return_exceptions=True)
            assert isinstance(outcome[0], Exception)
            assert "\n" not in vote.detail
            await stage.others_answer()

    go(main())


def test_a_daemon_that_says_that_its_gate_was_too_slow_is_late_and_did_not_crash(theatre: Theatre) -> None:
    body = """
while True:
    message = read()
    if message["method"] == "gate":
        send(id=message["id"], error={"code": -32016, "message": "my gate took longer\\nthan 0.3 s"})
    elif "id" in message:
        send(id=message["id"], result={"protocol": "1", "hooks": ["ally_gate_tool_call"], "events": []})
"""

    async def main() -> None:
        async with theatre(body, grants=("gate:tool_call",)) as stage:
            vote = await stage.vote()
            assert (vote.cause, type(vote.verdict)) == ("timeout", Deny)
            assert vote.detail.endswith("my gate took longer")
            await stage.others_answer()

    go(main())


@pytest.mark.smoke
@pytest.mark.parametrize("answer", ["7", "'allow'", "[]", "{}", "{'verdict': 'maybe'}", "{'verdict': True}", "10**400"])
def test_an_answer_that_is_no_verdict_is_a_deny(theatre: Theatre, answer: str) -> None:
    body = f"serve(hello={{'hooks': ['ally_gate_tool_call'], 'events': []}}, gate=lambda _: {answer})"

    async def main() -> None:
        async with theatre(body, grants=("gate:tool_call",), config={"deadlines": {"gate": 3.0}}) as stage:
            vote = await stage.vote()
            assert vote.cause in {"nonsense", "crash", "timeout"}
            await stage.others_answer()

    go(main())


# --- too little read ---


async def emit_many(stage: Any, count: int) -> set[int]:
    """Emit so many events, while the others answer, and return their numbers."""
    emitted = set()
    for number in range(count):
        event = ThoughtComplete(thinking=f"{number:0200}")
        stage.session.emit(event)
        emitted.add(event.seq)
        if number % 5000 == 0:
            await stage.others_answer()
    return emitted


def test_one_that_does_not_read_loses_the_oldest_events_and_is_told_which(theatre: Theatre) -> None:
    count = 60_000
    body = """
heard, lost = [], []
def take(params):
    if params["event_type"] == "EVENTS_DROPPED":
        for first, last in params["event_data"]["ranges"]:
            lost.extend(range(first, last + 1))
        if len(lost) != params["event_data"]["count"] and params["event_data"]["count"] != len(lost):
            note("wrong count")
    else:
        heard.append(params["seq"])
    if params["event_type"] == "USER_MESSAGE":
        note([heard, lost])
def wait():
    note("ready")
    cue()
serve(then=wait, on_event=take)
"""

    async def main() -> int:
        async with theatre(body, grants=("events:THOUGHT_COMPLETE", "events:USER_MESSAGE")) as stage:
            await stage.noted(1)
            before = resident()
            emitted = await emit_many(stage, count)
            grown = resident() - before
            stage.cue()
            stage.session.emit(UserMessage(content="last"))
            heard, lost = (await stage.noted(2))[1]
            assert heard == sorted(heard)
            assert lost
            assert not set(heard) & set(lost)
            assert emitted - set(heard) == emitted & set(lost)
            assert stage.bad.lane.dropped == len(lost)
            await stage.others_answer()
            return grown

    assert go(main()) < 2 * GROWTH  # the ring holds 8,192 events, whoever reads


def test_one_that_asks_and_never_reads_the_answers_fills_no_memory(theatre: Theatre) -> None:
    body = """
def flood():
    note("begin")
    line = b'{"jsonrpc":"2.0","id":"%0120d","method":"' + b"m" * 120 + b'"}\\n'
    for first in range(1, 1 << 62, 500):
        write(b"".join(line % number for number in range(first, first + 500)))
serve(then=flood)
"""

    async def main() -> int:
        timing = {"ping_interval": 2.0, "ping_timeout": 1.0, "ping_retries": 1}
        async with theatre(body, timing=timing) as stage:
            await stage.noted(1)
            link, most = stage.bad.lane.link, [0]

            def is_over() -> bool:
                most[0] = max(most[0], link._transport.get_write_buffer_size())
                return bool(stage.bad.state != "running")

            await calm_while(stage, is_over)
            assert (await stage.reached("backoff")).startswith("did not answer 1 health checks")
            return most[0]

    assert 100_000 < go(main()) < 9_500_000


@pytest.mark.smoke
def test_events_for_one_that_hung_are_told_as_dropped_to_its_successor(theatre: Theatre) -> None:
    body = """
heard, lost = [], []
def take(params):
    if params["event_type"] == "EVENTS_DROPPED":
        for first, last in params["event_data"]["ranges"]:
            lost.extend(range(first, last + 1))
    else:
        heard.append(params["seq"])
    if params["event_type"] == "USER_MESSAGE":
        note([heard, lost])
if stage_of() == 1:
    serve(then=linger)
serve(on_event=take)
"""
    stage_of = """
def stage_of():
    file = os.environ["NOTES"] + ".runs"
    with open(file, "a") as runs:
        runs.write("x")
    return os.path.getsize(file)
"""

    async def main() -> None:
        grants = ("events:THOUGHT_COMPLETE", "events:USER_MESSAGE")
        timing = {"ping_interval": 1.0, "ping_timeout": 3.0, "ping_retries": 1}
        async with theatre(stage_of + body, grants=grants, timing=timing) as stage:
            emitted = await emit_many(stage, 30_000)
            await stage.restarted()
            stage.session.emit(UserMessage(content="last"))
            heard, lost = (await stage.noted(1))[0]
            assert lost
            assert heard == sorted(heard)
            first = min(lost)  # what was sent to its predecessor is gone with that
            assert {number for number in emitted if number >= first} - set(heard) == emitted & set(lost)
            await stage.others_answer()

    go(main())


def test_a_daemon_that_was_stopped_with_full_pipes_is_ended_and_nobody_waits_for_it(theatre: Theatre) -> None:
    timing = {"ping_interval": 0.3, "ping_timeout": 0.3, "ping_retries": 1}

    async def main() -> None:
        async with theatre("serve()", timing=timing) as stage:
            pid = stage.pid
            os.kill(pid, signal.SIGSTOP)
            for number in range(20_000):
                stage.session.emit(ThoughtComplete(thinking=f"{number:0400}"))
            await stage.others_answer()
            assert re.match(r"did not answer 1 health checks of 0\.3 s each", await stage.reached("backoff"))
            assert not is_alive(pid)
            await stage.others_answer()

    go(main())
