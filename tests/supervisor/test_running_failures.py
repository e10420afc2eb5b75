"""A daemon that fails while it runs: it is noticed, told in words, started again, and nobody else is harmed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from ally_plugins import ThoughtComplete, UserMessage
from tests.kit.processes import is_alive
from tests.kit.waiting import go
from tests.supervisor.staging import Theatre, print_times

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")


GATES = "serve(hello={'hooks': ['ally_gate_tool_call'], 'events': []}, gate=lambda _: {'verdict': 'allow'})"
GATE = ("gate:tool_call", "tools", "actions", "tasks", "events:*")
QUICK = {"ping_interval": 0.1, "ping_timeout": 0.2, "ping_retries": 2, "shutdown_grace": 0.3}


# --- it ends ---


def test_a_killed_daemon_is_noticed_at_once_and_runs_again_within_a_second(theatre: Theatre) -> None:
    async def main() -> None:
        async with theatre(GATES, grants=GATE) as stage:
            pid = stage.pid
            began = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            reason = await stage.reached("backoff")
            noticed = time.monotonic() - began
            assert reason.startswith("was killed by SIGKILL after ")
            assert "; it starts again in 0." in reason
            vote = await stage.vote()
            assert vote.cause == "restarting"
            assert "was killed by SIGKILL" in vote.detail
            await stage.reached("running")
            again = time.monotonic() - began
            assert stage.pid != pid
            await stage.others_answer()
            assert (await stage.vote()).cause == "verdict"
            assert stage.bad.counts.crashes == 1
            print_times(crash_to_noticed=noticed, crash_to_running=again)
            assert noticed < 10
            assert again < 30

    go(main())


@pytest.mark.parametrize("code", [0, 7])
def test_one_that_exits_is_started_again_whatever_its_code_says(theatre: Theatre, code: int) -> None:
    hello = {"hooks": ["ally_gate_tool_call"], "tools": [{"name": "end"}]}
    serve = f"serve(hello={hello}, call_tool=lambda _: sys.exit({code}))"
    body = f"print('bye', file=sys.stderr); {serve}"

    async def main() -> None:
        async with theatre(body, grants=GATE) as stage:
            result = await asyncio.gather(stage.host.call_tool("end"), return_exceptions=True)
            assert f"the process of 'bad' exited with code {code} after " in str(result[0])
            reason = await stage.reached("backoff")
            assert reason.startswith(f"exited with code {code} after ")
            assert ", stderr ends: bye; it starts again in " in reason
            await stage.others_answer()
            await stage.reached("running")

    go(main())


def test_one_that_closes_its_ends_and_lives_on_is_ended_and_started_again(theatre: Theatre) -> None:
    body = """
is_first = not os.path.exists(os.environ["NOTES"])
note("here")
serve(then=(lambda: (os.close(0), os.close(1), linger())) if is_first else None)
"""

    async def main() -> None:
        async with theatre(body) as stage:
            pid = stage.pid
            reason = await stage.reached("backoff")
            assert reason.startswith(("closed its connection; ", "broke its connection (ConnectionResetError); "))
            assert not is_alive(pid)
            await stage.others_answer()
            await stage.restarted()

    go(main())


def test_half_a_frame_and_an_exit_is_an_exit(theatre: Theatre) -> None:
    body = """serve(then=lambda: (write(b'{"jsonrpc":"2.0","id":77,"method":"get_con'), os._exit(5)))"""

    async def main() -> None:
        async with theatre(body) as stage:
            assert (await stage.reached("backoff")).startswith("exited with code 5 after ")
            await stage.others_answer()

    go(main())


def test_a_grandchild_that_holds_the_pipes_hides_no_crash_and_does_not_survive(theatre: Theatre) -> None:
    body = """
def hide():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            note(os.getpid())
            linger()
        os._exit(0)
    os.wait()
serve(then=hide)
"""

    async def main() -> None:
        async with theatre(body) as stage:
            hidden = (await stage.noted())[0]
            assert is_alive(hidden)
            began = time.monotonic()
            os.kill(stage.pid, signal.SIGKILL)
            assert (await stage.reached("backoff")).startswith("was killed by SIGKILL after ")
            print_times(crash_to_noticed_with_grandchild=time.monotonic() - began)
            assert not is_alive(hidden)
            await stage.others_answer()
            hidden = (await stage.noted(2))[1]
        assert not is_alive(hidden)

    go(main())


# --- it hangs ---


def test_a_stopped_daemon_is_noticed_and_started_again(theatre: Theatre) -> None:
    async def main() -> None:
        async with theatre(GATES, grants=GATE, timing=QUICK) as stage:
            pid = stage.pid
            os.kill(pid, signal.SIGSTOP)
            assert (await stage.reached("backoff")).startswith("did not answer 2 health checks of 0.2 s each")
            assert not is_alive(pid)
            await stage.others_answer()
            await stage.reached("running")
            assert (await stage.vote()).cause == "verdict"

    go(main())


def test_one_stopped_for_less_than_its_health_checks_take_goes_on(theatre: Theatre) -> None:
    async def main() -> None:
        async with theatre(GATES, grants=GATE, timing={"ping_interval": 0.05, "ping_timeout": 5.0}) as stage:
            pid = stage.pid
            os.kill(pid, signal.SIGSTOP)
            asked = asyncio.ensure_future(stage.vote())
            await asyncio.sleep(0.3)  # several intervals: a ping is on its way
            os.kill(pid, signal.SIGCONT)
            assert (await asked).cause == "verdict"
            assert (stage.pid, stage.bad.state) == (pid, "running")

    go(main())


def test_one_that_loops_without_reading_is_ended_by_its_health_checks(theatre: Theatre) -> None:
    async def main() -> None:
        async with theatre("serve(then=linger)", timing=QUICK) as stage:
            await stage.others_answer()
            assert (await stage.reached("backoff")).startswith("did not answer 2 health checks")

    go(main())


@pytest.mark.slow
def test_one_far_behind_that_reads_on_is_well_though_its_health_check_waits_behind_events(theatre: Theatre) -> None:
    body = """
def take(params):
    time.sleep(0.003)
    if params["event_type"] == "USER_MESSAGE":
        note("through")
serve(on_event=take)
"""

    async def main() -> None:
        grants = ("events:THOUGHT_COMPLETE", "events:USER_MESSAGE")
        timing = {"ping_interval": 0.1, "ping_timeout": 1.0, "ping_retries": 2}
        async with theatre(body, grants=grants, timing=timing) as stage:
            pid = stage.pid
            for number in range(2_000):
                stage.session.emit(ThoughtComplete(thinking=f"{number:0500}"))
            stage.session.emit(UserMessage(content="last"))
            assert await stage.until(stage.notes, "the last event") > 3, "it was far behind"
            assert (stage.pid, stage.bad.state) == (pid, "running")

    go(main())


def test_one_that_has_unread_events_and_reads_no_more_is_ended(theatre: Theatre) -> None:
    async def main() -> None:
        grants = ("events:THOUGHT_COMPLETE",)
        async with theatre("serve(on_event=lambda _: linger())", grants=grants, timing=QUICK) as stage:
            for number in range(2_000):
                stage.session.emit(ThoughtComplete(thinking=f"{number:0500}"))
            assert (await stage.reached("backoff")).startswith("did not answer 2 health checks")
            await stage.others_answer()

    go(main())


def test_an_error_is_an_answer_to_a_health_check(theatre: Theatre) -> None:
    body = """
def fail(params):
    note("ping")
    raise SystemExit
while True:
    message = read()
    if message["method"] == "ping":
        note("ping")
        send(id=message["id"], error={"code": -32601, "message": "what?"})
    elif "id" in message:
        send(id=message["id"], result={"protocol": "1"})
"""

    async def main() -> None:
        async with theatre(body, timing={**QUICK, "ping_timeout": 20.0, "ping_retries": 1}) as stage:
            await stage.noted(5)
            supervisor = stage.bad.supervisor
            assert (stage.bad.state, supervisor.started) == ("running", 1)

    go(main())


# --- it does not answer ---


def test_a_gate_that_never_answers_denies_at_its_deadline_and_the_daemon_is_told_to_stop(theatre: Theatre) -> None:
    body = """
serve(
    hello={"hooks": ["ally_gate_tool_call"], "events": []},
    gate=lambda params: (note(params["deadline"]), SILENCE)[1],
    cancelled=lambda params: note({"cancelled": params["id"]}),
)
"""

    async def main() -> None:
        async with theatre(body, grants=GATE, config={"deadlines": {"ally_gate_tool_call": 0.4}}) as stage:
            vote = await stage.vote()
            assert (vote.cause, vote.verdict.reason.split(" (")[0]) == ("timeout", "its gate did not answer in time")
            deadline, cancelled = await stage.noted(2)
            assert 0 < deadline <= 0.4
            assert cancelled["cancelled"] > 0
            await stage.others_answer()
            assert stage.bad.state == "running"

    go(main())


def test_an_answer_after_the_deadline_changes_nothing(theatre: Theatre) -> None:
    body = """
late = []
def answer(params):
    for number in late:
        send(id=number, result={"verdict": "allow"})
        send(id=number, result={"verdict": "allow"})
    late.clear()
    note("late")
while True:
    message = read()
    if message["method"] == "gate":
        late.append(message["id"])
    elif message["method"] == "$/cancel":
        answer(None)
    elif "id" in message:
        send(id=message["id"], result={"protocol": "1", "hooks": ["ally_gate_tool_call"], "events": []})
"""

    async def main() -> None:
        async with theatre(body, grants=GATE, config={"deadlines": {"ally_gate_tool_call": 0.3}}) as stage:
            assert (await stage.vote()).cause == "timeout"
            await stage.noted(1)
            assert (await stage.vote()).cause == "timeout"
            await stage.noted(2)
            counts = stage.bad.lane.link.connection.counts
            await stage.until(lambda: counts.late == 2 and counts.double == 2, str(counts))
            await stage.others_answer()

    go(main())


def test_a_tool_that_never_answers_ends_at_its_timeout_and_the_daemon_is_told_to_stop(theatre: Theatre) -> None:
    body = """
serve(
    hello={"hooks": ["ally_gate_tool_call"], "tools": [{"name": "slow"}]},
    call_tool=lambda params: (note("called"), SILENCE)[1],
    cancelled=lambda params: note("cancelled"),
)
"""

    async def main() -> None:
        async with theatre(body, grants=GATE) as stage:
            outcome = await asyncio.gather(stage.host.call_tool("slow", timeout=0.3), return_exceptions=True)
            assert "0.3 s" in str(outcome[0])
            assert await stage.noted(2) == ["called", "cancelled"]
            await stage.others_answer()

    go(main())


# --- what was asked when it died ---


def test_all_that_was_asked_of_a_daemon_ends_with_how_it_died_and_it_counts_once(theatre: Theatre) -> None:
    body = """
def die(params):
    note("asked")
    return SILENCE
def begin(params):
    send(id=9, method="start_task", params={"name": "work", "session_id": "s"})
    return None
serve(
    hello={"hooks": ["ally_gate_tool_call"], "tools": [{"name": "end"}, {"name": "begin"}],
           "actions": [{"name": "act"}], "events": []},
    gate=die, run_action=die, run_task=die,
    call_tool=lambda params: begin(params) if params["name"] == "begin" else die(params),
)
"""

    async def main() -> None:
        async with theatre(body, grants=GATE) as stage:
            host = stage.host
            await host.call_tool("begin", session_id="s")
            votes = [asyncio.ensure_future(stage.vote()) for _ in range(3)]
            tools = [asyncio.ensure_future(host.call_tool("end")) for _ in range(3)]
            action = asyncio.ensure_future(stage.session.request_action("act"))
            await stage.noted(8)
            os.kill(stage.pid, signal.SIGKILL)
            how = "the process of 'bad' was killed by SIGKILL after "
            for vote in await asyncio.gather(*votes):
                assert vote.verdict is not None
                assert vote.cause in {"crash", "restarting"}
                assert how in vote.detail
            for outcome in await asyncio.gather(*tools, action, return_exceptions=True):
                assert isinstance(outcome, Exception)
                assert how in str(outcome), outcome
            await stage.until(lambda: all(task.state != "running" for task in host.tasks), "the end of the task")
            (task,) = host.tasks
            assert task.state == "failed"
            assert how in task.reason
            await stage.reached("backoff")
            await stage.reached("running")
            assert stage.bad.counts.crashes == 1
            assert (await host.call_tool("good", {"number": 1})).success
            assert (await host.call_tool("inline", {"number": 1})).success

    go(main())


def test_a_question_asked_while_the_process_is_being_buried_does_not_wait_for_its_deadline(theatre: Theatre) -> None:
    """Between the death and the state `backoff` the plugin seems to run; nothing may be lost in there."""

    async def main() -> None:
        async with theatre(GATES, grants=GATE) as stage:
            stop = asyncio.Event()
            causes = []

            async def keep_asking() -> None:
                while not stop.is_set():
                    async with asyncio.timeout(10):
                        causes.append((await stage.vote()).cause)

            asking = asyncio.ensure_future(keep_asking())
            os.kill(stage.pid, signal.SIGKILL)
            await stage.restarted()
            stop.set()
            await asking
            assert "timeout" not in causes
            assert set(causes) <= {"verdict", "crash", "restarting", "not_running"}
            assert stage.bad.counts.crashes == 1

    go(main())


def test_an_answer_given_with_the_last_breath_counts(theatre: Theatre) -> None:
    body = """
while True:
    message = read()
    if message.get("method") == "gate":
        send(id=message["id"], result={"verdict": "deny", "reason": "over my dead body"})
        os._exit(1)
    if "id" in message:
        send(id=message["id"], result={"protocol": "1", "hooks": ["ally_gate_tool_call"], "events": []})
"""

    async def main() -> None:
        async with theatre(body, grants=GATE) as stage:
            for _ in range(3):
                vote = await stage.vote()
                assert (vote.cause, vote.verdict.reason) == ("verdict", "over my dead body")
                await stage.reached("backoff")
                await stage.reached("running")

    go(main())


def test_the_guardian_may_be_killed_and_every_daemon_comes_back(theatre: Theatre) -> None:
    async def main() -> None:
        async with theatre(GATES, grants=GATE) as stage:
            launcher = stage.host._daemon_services.launcher
            if getattr(launcher, "guardian_pid", None) is None:
                pytest.skip("no guardian here")
            good = stage.host.plugins["good"]
            pids = [stage.pid, good.supervisor.process.pid]
            os.kill(launcher.guardian_pid, signal.SIGKILL)
            assert "ended with its guardian process after " in await stage.reached("backoff")
            assert not any(map(is_alive, pids))
            await stage.reached("running")
            await stage.until(lambda: good.state == "running", "the other one")
            assert (await stage.vote()).cause == "verdict"
            assert (stage.bad.counts.crashes, good.counts.crashes) == (1, 1)

    go(main())


def test_one_that_uses_up_its_processor_time_is_told_with_the_signal(theatre: Theatre) -> None:
    async def main() -> None:
        async with theatre("serve(then=lambda: [None for _ in iter(int, 1)])", limits={"cpu_seconds": 1}) as stage:
            assert (await stage.reached("backoff")).startswith("was killed by SIGXCPU after ")
            await stage.others_answer()

    go(main())


def test_one_that_wants_too_much_memory_fails_alone(theatre: Theatre) -> None:
    async def main() -> None:
        async with theatre("serve(then=lambda: bytearray(1 << 30))", limits={"memory_mb": 200}) as stage:
            assert (await stage.reached("backoff")).startswith("exited with code 1 after ")
            assert stage.bad.reason.partition(";")[0].endswith("MemoryError")
            await stage.others_answer()

    go(main())


def test_an_event_goes_on_to_the_others_while_a_daemon_is_dead(theatre: Theatre) -> None:
    async def main() -> None:
        async with theatre(GATES, grants=GATE) as stage:
            os.kill(stage.pid, signal.SIGKILL)
            for number in range(1000):
                stage.session.emit(UserMessage(content=str(number)))
            await stage.others_answer()
            await stage.restarted()

    go(main())


LAST_WORDS = """
while True:
    message = read()
    method, number = message.get("method"), message.get("id")
    if method == "initialize":
        send(id=number, result={"protocol": "1", "tools": [{"name": "last"}]})
    elif method == "call_tool":
        for each in range(100):
            send(method="log", params={"level": "info", "message": "m"})
        send(id=number, result="answered")
        os._exit(3)
    elif number is not None:
        send(id=number, result=None)
"""


def test_what_one_answered_before_it_ended_is_read_though_writing_to_it_fails_first(theatre: Theatre) -> None:
    async def main() -> None:
        async with theatre(LAST_WORDS, grants=("events:*", "tools")) as stage:
            pid = stage.pid
            call = asyncio.ensure_future(stage.host.call_tool("last"))
            for _ in range(5):  # so that the request is written
                await asyncio.sleep(0)
            while is_alive(pid):  # without a turn of the loop, which would read the answer
                time.sleep(0.002)  # noqa: ASYNC251 - as above
            stage.bad.lane.link.request("ping", {})  # this breaks the pipe before anything is read
            assert (await call).output == "answered"
            assert "exited with code 3" in await stage.reached("backoff")

    go(main())
