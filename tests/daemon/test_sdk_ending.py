"""How a daemon ends: asked to, left alone, signalled, or by garbage; and that nothing can hold it up."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    Start = Callable[..., Any]

RECEIPT = {"id": "m-1", "offset": 1, "state": "pending"}


def test_shutdown_runs_ally_stop_which_may_still_make_calls(daemon: Start) -> None:
    host = daemon("Stops")
    stop = host.request("shutdown", reason="the host stops")
    request = host.asked("add_message")
    assert request.params["content"] == "goodbye"
    host.respond(request, RECEIPT)
    assert host.answer(stop) is None
    assert host.exit_code() == 0
    assert "stopping" in host.stderr


def test_a_request_after_shutdown_is_refused_and_a_second_shutdown_answered(in_thread: Start) -> None:
    host = in_thread("Stops")
    first, second = host.request("shutdown", reason=""), host.request("shutdown", reason="")
    assert host.ask("call_tool", name="wait", arguments={}).code == -32005
    assert host.ask("ping") == "pong"
    host.respond(host.asked("add_message"), RECEIPT)
    assert host.answer(first) is None
    assert host.answer(second) is None
    assert host.exit_code() == 0


def test_running_tools_are_cancelled_by_shutdown(daemon: Start) -> None:
    host = daemon("Stops")
    tool = host.request("call_tool", name="wait", arguments={})
    host.ask("ping")
    stop = host.request("shutdown", reason="")
    host.respond(host.asked("add_message"), RECEIPT)
    assert host.answer(tool).code == -32800
    assert host.answer(stop) is None
    assert host.exit_code() == 0
    assert "the tool was cancelled" in host.stderr


def test_a_stop_that_fails_is_told_by_its_type(in_thread: Start) -> None:
    host = in_thread("StopsBadly")
    answer = host.ask("shutdown", reason="")
    assert (answer.code, answer.data["type"]) == (-32603, "ValueError")
    assert host.exit_code() == 0
    assert "a secret" in host.stderr


@pytest.mark.slow
def test_a_stop_that_never_ends_and_stubborn_threads_and_tasks_hold_nothing_up(daemon: Start) -> None:
    host = daemon("NeverStops", told={"deadlines": {"stop": 0.2}})
    answer = host.ask("shutdown", reason="")
    assert (answer.code, answer.data) == (-32016, {"reason": "deadline"})
    assert host.exit_code() == 0


@pytest.mark.parametrize("transport", ["socketpair", "pipes"])
def test_when_the_host_closes_its_end_the_plugin_is_stopped(daemon: Start, transport: str) -> None:
    host = daemon("Stops", transport=transport)
    host.close_writing()
    assert host.exit_code() == 0
    assert "stopping" in host.stderr


def test_calls_that_wait_when_the_host_goes_are_refused(in_thread: Start) -> None:
    host = in_thread("Tools")
    host.request("call_tool", name="refused", arguments={}, session_id="s1")
    host.asked("add_message")
    host.close_writing()
    assert host.exit_code() == 0
    assert "Traceback" not in host.stderr


@pytest.mark.slow
def test_a_host_that_was_killed_ends_the_daemon_however_stubborn_it_is(daemon: Start) -> None:
    host = daemon("NeverStops", transport="pipes")
    host.close_writing()
    assert host.exit_code() in {0, 70}


def test_before_initialize_the_end_of_the_host_is_the_end(spawn: Start) -> None:
    host = spawn("Stops")
    host.close_writing()
    assert host.exit_code() == 0
    assert "stopping" not in host.stderr


def test_sigterm_stops_the_plugin(daemon: Start) -> None:
    host = daemon("Stops")
    host.terminate()
    host.respond(host.asked("add_message"), RECEIPT)
    assert host.exit_code() == 0
    assert "stopping" in host.stderr


def test_sigint_is_the_hosts_business_and_children_do_not_inherit_that(daemon: Start) -> None:
    host = daemon("Spawns")
    os.kill(host.process.pid, signal.SIGINT)
    assert host.ask("ping") == "pong"
    child = host.ask("call_tool", name="spawn", arguments={})
    os.kill(child, signal.SIGINT)
    host.ask("call_tool", name="wait_for", arguments={"pid": child})
    assert host.shutdown() == 0


@pytest.mark.parametrize(
    ("garbage", "code"),
    [
        (b"this is no JSON\n", -32700),
        (b"[]\n", -32600),
        (b"3\n", -32600),
        (b'{"jsonrpc":"2.0","id":7,"method":"ping","params":[1]}\n', -32602),
        (b'{"jsonrpc":"1.0","id":7,"method":"ping"}\n', -32600),
        (b"\xff\xfe\n", -32700),
    ],
)
def test_a_malformed_message_is_answered_and_the_daemon_goes_on(in_thread: Start, garbage: bytes, code: int) -> None:
    host = in_thread("Tools")
    host.send(garbage)
    assert host.ask("ping") == "pong"
    assert f'"code":{code}'.encode() in host.raw


def test_noise_without_end_ends_the_daemon_with_76(in_thread: Start) -> None:
    host = in_thread("Stops")
    host.send(b"noise\n" * 200)
    assert host.exit_code() == 76
    assert "does not keep to the protocol" in host.stderr


def test_ally_stop_runs_to_its_end_when_the_host_breaks_the_protocol(in_thread: Start) -> None:
    host = in_thread("StopsSlowly")
    host.send(b"noise\n" * 200)
    host.send(b"and more of it\n")
    assert host.exit_code() == 76
    assert "stopped" in host.stderr
    assert "cancelled" not in host.stderr
    assert host.stderr.count("does not keep to the protocol") == 1


@pytest.mark.slow
def test_a_line_over_the_limit_ends_the_daemon_with_76(in_thread: Start) -> None:
    host = in_thread("Plain")
    host.send(b"x" * 17_000_000)
    assert host.exit_code() == 76


def test_bytes_cut_anywhere_are_the_same_messages(in_thread: Start) -> None:
    host = in_thread("Tools")
    line = b'{"jsonrpc":"2.0","id":1000,"method":"call_tool","params":{"name":"echo","arguments":{"text":"h"}}}\n'
    for index in range(len(line)):
        host.send(line[index : index + 1])
    assert host.ask("call_tool", name="echo", arguments={"text": "after it"}) == "after it"
    assert b'"id":1000,"result":"h"' in host.raw


def test_answers_wait_for_a_host_that_does_not_read(in_thread: Start) -> None:
    host = in_thread("Tools")
    asked = [host.request("call_tool", name="echo", arguments={"text": "x" * 50_000}) for _ in range(60)]
    assert all(host.answer(each) == "x" * 50_000 for each in asked)  # 3 MB that waited in the daemon meanwhile


def test_a_person_who_starts_it_by_hand_is_told_what_it_is() -> None:
    import pty
    import subprocess
    import sys

    ours, theirs = pty.openpty()
    try:
        command = [sys.executable, "-m", "ally_plugins.daemon", "not:imported"]
        done = subprocess.run(command, stdin=theirs, capture_output=True, text=True, check=False)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 64
    assert "its host starts it" in done.stderr
