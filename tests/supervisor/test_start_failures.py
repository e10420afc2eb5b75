"""A daemon that does not come up: each way has a sentence of its own, gates deny with it, and nobody else notices."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Host
from ally_plugins.contract.process_spec import Daemon, Timing
from ally_plugins.contract.values.errors import HostError
from ally_plugins.host.sockets.claims import claim_socket
from tests.kit.daemons import write_daemon
from tests.kit.waiting import go

if TYPE_CHECKING:
    from tests.supervisor.staging import Theatre

GATE = ("gate:tool_call",)


def answer(**result: Any) -> str:
    """Return a daemon that answers `initialize` with this, and everything else well."""
    return f"serve(initialize=lambda _: json.loads({json.dumps(json.dumps(result))}))"


def told(
    theatre: Theatre,
    body: str = "",
    *,
    states: tuple[str, ...] = ("failed",),
    **more: Any,
) -> str:
    """Start it with a gate; return the reason, which the gate denies with too while the others answer."""

    async def main() -> str:
        async with theatre(body, grants=GATE, **more) as stage:
            assert stage.bad.state in states, stage.bad.reason
            reason: str = stage.bad.reason
            vote = await stage.vote()
            assert vote is not None
            assert vote.cause in {"failed", "restarting", "not_running"}
            assert "`ally-plugins info bad`" in vote.verdict.reason
            await stage.others_answer()
            return reason

    reason: str = go(main())
    return reason


# --- it cannot be executed ---


def test_a_program_that_is_not_there_cannot_be_executed(theatre: Theatre) -> None:
    reason = told(theatre, daemon=Daemon(("no-such-program-here",)))
    assert reason.startswith("cannot execute 'no-such-program-here': no such file or directory; install it, or put it")
    assert reason.endswith("; see `ally-plugins info bad`")


LISTENS = f"""#!{sys.executable}
import os, socket
listener = socket.socket(socket.AF_UNIX)
listener.bind(os.environ["SOCKET_PATH"])
listener.listen()
while True:
    listener.accept()[0].close()
"""


@pytest.mark.slow
def test_a_program_that_was_not_there_keeps_no_socket_from_others_and_runs_once_it_is_there(short_dir: Path) -> None:
    path, program = str(short_dir / "it.sock"), short_dir / "program"
    daemon = Daemon((str(program),), transport="socket", socket=path)

    async def main() -> None:
        async with Host("test", home=short_dir / "home", discover=False, plugins={"bad": daemon}) as host:
            assert "cannot execute" in host.plugins["bad"].reason
            claim_socket(path, "another").release()
            program.write_text(LISTENS, encoding="utf-8")
            program.chmod(0o755)
            assert host._live is not None
            await host._live.restart("bad")
            assert (host.plugins["bad"].state, host.plugins["bad"].reason) == ("running", "")

    go(main())


def test_a_file_that_may_not_be_executed_is_told_with_the_command_that_mends_it(
    theatre: Theatre, tmp_path: Path
) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    reason = told(theatre, daemon=Daemon((str(program),)))
    assert f"cannot execute {str(program)!r}: permission denied: it is not executable; run chmod +x" in reason


def test_a_folder_is_no_program(theatre: Theatre, tmp_path: Path) -> None:
    reason = told(theatre, daemon=Daemon((str(tmp_path),)))
    assert "is a folder; name a program in the daemon's command" in reason


def test_a_working_folder_that_is_gone_is_named(theatre: Theatre, tmp_path: Path) -> None:
    reason = told(theatre, daemon=Daemon((sys.executable,), cwd=str(tmp_path / "gone")))
    assert "its folder" in reason
    assert "cannot be entered: no such file or directory" in reason


# --- it exits ---


def test_one_that_exits_at_once_is_told_with_its_code_and_the_end_of_its_stderr(theatre: Theatre) -> None:
    body = "print('one\\ntwo \\x1b[31mred\\nthree\\nno key in the settings', file=sys.stderr); sys.exit(3)"
    reason = told(theatre, body, states=("backoff",))
    head, _, tail = reason.partition(", stderr ends: ")
    assert head.startswith("exited with code 3 after ")
    assert head.endswith(" s before it was ready")
    assert tail.startswith("two \\x1b[31mred / three / no key in the settings; it starts again in ")


def test_one_that_is_killed_while_it_starts_is_told_with_the_signal(theatre: Theatre) -> None:
    reason = told(theatre, "os.kill(os.getpid(), signal.SIGSEGV)", states=("backoff",))
    assert reason.startswith("was killed by SIGSEGV after ")


def test_one_that_ends_well_before_it_is_ready_has_failed_all_the_same(theatre: Theatre) -> None:
    reason = told(theatre, "", states=("backoff", "starting"))
    assert "exited with code 0" in reason or not reason


def test_half_an_answer_and_an_exit_is_an_exit(theatre: Theatre) -> None:
    body = 'read(); write(b\'{"jsonrpc":"2.0","id":1,"resu\'); sys.exit(4)'
    assert told(theatre, body, states=("backoff",)).startswith("exited with code 4 after ")


# --- it speaks no protocol ---


@pytest.mark.parametrize("then", ["linger()", "sys.exit(1)", "serve()"])
def test_a_banner_on_stdout_is_told_with_the_line_and_the_hint(theatre: Theatre, then: str) -> None:
    reason = told(theatre, f"print('Listening on port 80', flush=True); {then}")
    assert reason.startswith("spoke no protocol: its first line was 'Listening on port 80', expected an answer to")
    assert "stdout is the protocol's own: what is for people goes to stderr" in reason


def test_a_banner_that_is_json_is_no_protocol_either(theatre: Theatre) -> None:
    reason = told(theatre, 'print(\'{"status": "ready"}\', flush=True); linger()')
    assert 'spoke no protocol: its first line was \'{"status": "ready"}\'' in reason


def test_binary_noise_is_told_without_its_escape_codes(theatre: Theatre) -> None:
    reason = told(theatre, "write(b'\\x1b[2J\\xff\\xfe\\n'); linger()")
    assert "spoke no protocol: its first line was '\\x1b[2J" in reason
    assert "\x1b" not in reason


def test_a_hundred_megabytes_instead_of_an_answer_are_no_protocol(theatre: Theatre) -> None:
    reason = told(theatre, "for _ in range(100): write(b'x' * 1000000)")
    assert reason.startswith("spoke no protocol: its first line was 'xxxx")


# --- it speaks another version ---


def test_another_version_is_refused_in_a_sentence_that_names_both(theatre: Theatre) -> None:
    reason = told(theatre, answer(protocol="2"))
    assert reason.startswith(
        "speaks another version of the protocol: the peer speaks version '2' of the protocol, this"
    )
    assert "version '1' of the protocol" in reason


def test_a_daemon_that_refuses_our_version_itself_is_told_the_same_way(theatre: Theatre) -> None:
    body = "m = read(); send(id=m['id'], error={'code': -32014, 'message': 'only 7 is spoken'}); linger()"
    reason = told(theatre, body)
    assert "speaks another version of the protocol" in reason
    assert "'1'" in reason
    assert "only 7 is spoken" in reason


# --- it never answers, or nonsense ---


@pytest.mark.slow
def test_one_that_never_answers_is_given_up_after_its_startup_timeout(theatre: Theatre) -> None:
    body = "print('waiting for the database', file=sys.stderr, flush=True); linger()"
    reason = told(theatre, body, timing={"startup_timeout": 0.5}, states=("backoff",))
    assert reason.startswith("was not ready within 0.5 s, stderr ends: waiting for the database; it starts again in ")


@pytest.mark.slow
def test_one_that_only_takes_the_first_steps_is_given_up_too(theatre: Theatre) -> None:
    body = "serve(hello={'hooks': ['ally_start', 'ally_gate_tool_call']}, start=lambda _: SILENCE)"
    reason = told(theatre, body, timing={"startup_timeout": 0.5}, states=("backoff",))
    assert reason.startswith("was not ready within 0.5 s")


@pytest.mark.slow
def test_an_ally_start_that_is_too_slow_is_told_as_that(theatre: Theatre) -> None:
    body = "serve(hello={'hooks': ['ally_start', 'ally_gate_tool_call']}, start=lambda _: SILENCE)"
    reason = told(theatre, body, config={"deadlines": {"ally_start": 0.3}}, states=("backoff",))
    assert reason.startswith("ally_start did not return within 0.3 s")


NONSENSE: dict[str, tuple[Any, str]] = {
    "null": (None, "expected an object"),
    "a list": ([1], "expected an object"),
    "no protocol": ({}, "protocol"),
    "a protocol of another type": ({"protocol": 1}, "protocol"),
    "an unknown hook": ({"protocol": "1", "hooks": ["ally_tool_cal_end"]}, "'ally_tool_call_end'"),
    "a hook of the host's": ({"protocol": "1", "hooks": ["ally_get_context"]}, "which only a host implements"),
    "hooks of wrong types": ({"protocol": "1", "hooks": [3]}, "hooks[0]"),
    "an argument that is none": (
        {"protocol": "1", "hooks": [{"name": "ally_gate_tool_call", "arguments": ["cal"]}]},
        "'call'",
    ),
    "a tool without a name": ({"protocol": "1", "tools": [{}]}, "name"),
    "tools that are no list": ({"protocol": "1", "tools": {"name": "x"}}, "tools"),
    "events of wrong types": ({"protocol": "1", "events": [None]}, "events[0]"),
    "a tool schema that is none": (
        {"protocol": "1", "hooks": ["ally_gate_tool_call"], "tools": [{"name": "x", "schema": {"type": "nothing"}}]},
        "schema",
    ),
    "a name that no tool has": (
        {"protocol": "1", "hooks": ["ally_gate_tool_call"], "tools": [{"name": "x y\n"}]},
        "name",
    ),
    "a word too much": ({"protocol": "1", "tols": []}, "tols"),
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_an_answer_to_initialize_that_is_nonsense_is_named(theatre: Theatre, kind: str) -> None:
    result, word = NONSENSE[kind]
    body = f"m = read(); send(id=m['id'], result=json.loads({json.dumps(result)!r})); serve()"
    states = ("failed",)
    grants = (*GATE, "tools")

    async def main() -> str:
        async with theatre(body, grants=grants) as stage:
            assert stage.bad.state in states, (stage.bad.state, stage.bad.reason)
            await stage.others_answer()
            reason: str = stage.bad.reason
            return reason

    reason = go(main())
    assert word in reason
    assert "ally-plugins" in reason


def test_an_error_instead_of_an_answer_is_passed_on(theatre: Theatre) -> None:
    body = "m = read(); send(id=m['id'], error={'code': 5, 'message': 'the licence has run out'}); linger()"
    reason = told(theatre, body)
    assert "answered `initialize` with an error: " in reason
    assert "the licence has run out" in reason


# --- what the SDK says ---


def sdk(tmp_path: Path, code: str, target: str = "theirs:Theirs") -> Daemon:
    (tmp_path / "theirs.py").write_text(code)
    return Daemon.python(target, env={"PYTHONPATH": str(tmp_path)})


HOOK = "from ally_plugins import hookimpl\n"
CLASS = "class Theirs:\n    def __init__(self, ally): pass\n"
START = (
    "    @hookimpl\n    def ally_gate_tool_call(self): pass\n"
    "    @hookimpl\n    def ally_start(self): raise OSError('no disk')\n"
)

SDK_FAILURES = {
    "import": ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
    "syntax": ("def (", "SyntaxError: invalid syntax"),
    "class": ("x = 1", "AttributeError: module 'theirs' has no attribute 'Theirs'"),
    "no class": ("Theirs = 3", "TypeError: 'int' object is not callable"),
    "making": ("class Theirs:\n    def __init__(self, ally): raise ValueError('no key')", "ValueError: no key"),
    "exit": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "start": (HOOK + CLASS + START, "OSError: no disk"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SDK_FAILURES)
def test_what_goes_wrong_in_an_sdk_daemon_is_told_by_its_kind_and_the_end_of_its_log_and_not_tried_again(
    theatre: Theatre, tmp_path: Path, kind: str
) -> None:
    code, words = SDK_FAILURES[kind]
    reason = told(theatre, daemon=sdk(tmp_path, code))
    head, _, tail = reason.partition(", stderr ends: ")
    assert head.startswith("it could not start: " if kind == "start" else "could not be built: ")
    assert words.partition(":")[0] in head
    assert "the traceback is in `ally-plugins logs bad`" in head
    assert tail.endswith(f"{words}; see `ally-plugins info bad`")


def test_a_module_that_ends_the_process_is_an_exit(theatre: Theatre, tmp_path: Path) -> None:
    reason = told(theatre, daemon=sdk(tmp_path, "import os\nos._exit(9)"), states=("backoff",))
    assert "exited with code 9" in reason


# --- what follows ---


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("sys.exit(3)", "the mandatory plugin 'bad' is backoff: exited with code 3"),
        ("print('hi', flush=True); linger()", "the mandatory plugin 'bad' is failed: spoke no protocol"),
    ],
)
def test_a_mandatory_daemon_that_does_not_start_stops_the_host_with_the_reason(
    theatre: Theatre, body: str, words: str
) -> None:
    async def main() -> None:
        async with theatre(body, config={"mandatory": True}):
            raise AssertionError("the host has started")

    with pytest.raises(HostError) as raised:
        go(main())
    assert words in str(raised.value)


@pytest.mark.slow
def test_the_four_failures_have_four_different_sentences(theatre: Theatre) -> None:
    reasons = {
        told(theatre, daemon=Daemon(("no-such-program-here",))).split("'")[0],
        told(theatre, "sys.exit(3)", states=("backoff",)).split(" after ")[0],
        told(theatre, "print('hi', flush=True); linger()").split(":")[0],
        told(theatre, answer(protocol="2")).split(":")[0],
    }
    assert reasons == {
        "cannot execute ",
        "exited with code 3",
        "spoke no protocol",
        "speaks another version of the protocol",
    }


def test_a_daemon_that_needs_no_start_is_ready_as_soon_as_it_has_answered(tmp_path: Path) -> None:
    async def main() -> str:
        async with Host("test", home=None, discover=False, plugins={"d": write_daemon(tmp_path, "serve()")}) as host:
            return host.plugins["d"].state

    assert go(main()) == "running"


def test_the_timing_of_a_daemon_is_its_own(tmp_path: Path) -> None:
    assert write_daemon(tmp_path, "serve()", timing=Timing(startup_timeout=1.0)).timing.startup_timeout == 1.0
