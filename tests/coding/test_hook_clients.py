"""The two hook clients, in Python and in C: closed whenever nobody answers, and the same in all else."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ally_plugins.adapters.coding.client.client_files import hook_line
from ally_plugins.adapters.coding.client.hook_client import CLOSED, EXITS, MAX_BYTES, PASSES
from ally_plugins.testing.agents.reactions import LISTED, fields_of

from .machines import NOBODY, Machine, bound, standing_in

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="tried on Linux only")

KINDS = [
    "python",
    pytest.param("c", marks=pytest.mark.skipif(shutil.which("cc") is None, reason="the machine has no C compiler")),
]
LATE = b"ally-plugins: no answer came within 0.5 s"


@pytest.fixture(scope="module", params=KINDS)
def laid(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    made = Machine(tmp_path_factory.mktemp("laid") / "home", request.param)
    made.lay(*NOBODY, python=sys.executable)
    return made


@pytest.fixture(scope="module")
def laid_short(laid: Machine, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    made = laid.copy(tmp_path_factory.mktemp("short") / "home")
    made.shorten()
    return made


@pytest.fixture
def machine(laid: Machine, tmp_path: Path) -> Machine:
    """Return a machine whose host cannot be started."""
    return laid.copy(tmp_path / "a home's")


@pytest.fixture
def hurried(laid_short: Machine, tmp_path: Path) -> Machine:
    """Return one whose client has half a second."""
    return laid_short.copy(tmp_path / "a home's")


# --- nobody is there ---


@pytest.mark.parametrize("agent", sorted(CLOSED))
def test_without_a_host_each_event_is_closed_or_passes_as_the_agent_takes_it(agent: str, machine: Machine) -> None:
    for event in CLOSED[agent]:
        found = machine.hook(event, agent)
        assert found.stopped == (CLOSED[agent][event] != "" and (agent, event) != ("claude", "PostToolUseFailure"))
        assert not found.goes_on
        if found.stopped:
            done = machine.run(event, b"{}", agent)
            assert b"ally-plugins: the host cannot be started: it is broken" in done.stdout + done.stderr
            assert fields_of(done.stdout.decode()) <= LISTED[agent].get(event, set())


def test_an_event_or_an_agent_that_is_not_known_is_closed(machine: Machine) -> None:
    for agent, event in (("claude", "PreToolUseNew"), ("some", "PreToolUse"), ("claude", ""), ("", "")):
        done = subprocess.run([machine.client, agent, event], input=b"{}", capture_output=True, timeout=30, check=False)
        assert (done.returncode, done.stdout) == (2, b"")
        assert b"ally-plugins: the host cannot be started" in done.stderr
    for arguments in ((), ("claude",), ("claude", "PreToolUse", "more")):
        done = subprocess.run([machine.client, *arguments], input=b"{}", capture_output=True, timeout=30, check=False)
        assert (done.returncode, done.stderr) == (2, b"ally-plugins: expected an agent and an event")


@pytest.mark.parametrize("gone", ["hook", "ally_hook.py", "serve", "python", "run", "program", "package"])
def test_with_a_part_of_it_gone_guard_events_are_closed_and_others_pass(gone: str, machine: Machine) -> None:
    if gone == "python":
        if machine.kind == "python":
            text = machine.client.read_text()
            machine.client.write_text("#!/nowhere/python3 -IS\n" + text.partition("\n")[2])
    elif gone == "run":
        machine.home.run_dir.rename(machine.home.path / "away")
    elif gone == "program":
        machine.start_with("/nowhere/python", "-m", "ally_plugins")
    elif gone == "package":
        machine.start_with(sys.executable, "-I", "-S", "-m", "ally_plugins")
    else:
        (machine.client.parent / gone).unlink()
    for agent, event in (("claude", "PreToolUse"), ("claude", "PostToolUse"), ("codex", "PostToolUse")):
        assert machine.hook(event, agent).stopped
    done = machine.run("PreToolUse", b"{}")
    if gone in {"serve", "program", "package"}:
        why = "it is not installed any more where it was; install it and connect the agent again"
        assert done.stderr.decode() == f"ally-plugins: {why}, or run: {machine.client} disconnect claude"
    assert machine.run("Stop", b"{}").returncode == 0


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (rb'a "quoted" \\ word', 'a "quoted" \\ word'),
        (rb"tab\tand\033[1m", "tab\tand\x1b[1m"),
        ("é ☃ 🐍".encode(), "é ☃ 🐍"),
        (rb"bad \377 \355\240\200 \300\200 end", None),
        (rb"", "it says nothing"),
        (rb"first\nlast\n\n", "last"),
        (b"x" * 3000, "x" * 400),
    ],
)
def test_what_a_host_says_last_is_in_the_reason_whatever_it_is(
    words: bytes, shown: str | None, machine: Machine
) -> None:
    machine.start_with("/bin/sh", "-c", f"printf '{words.decode()}' >&2; exit 3")
    done = machine.run("preToolUse", b"{}", "copilot")
    said = json.loads(done.stdout)
    assert said["permissionDecision"] == "deny"
    reason = said["permissionDecisionReason"].removeprefix("ally-plugins: the host cannot be started: ")
    assert reason == shown if shown is not None else reason.startswith("bad ") and reason.endswith(" end")


def test_a_log_that_is_a_link_is_not_written_through(machine: Machine) -> None:
    victim = machine.home.path / "victim"
    victim.write_text("kept")
    (machine.home.run_dir / "serve.log").symlink_to(victim)
    assert machine.hook().stopped
    assert victim.read_text() == "kept"


# --- somebody is there, and confused ---


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"ally1",
        b"ally1 0",
        b"ally1 0 3 0\nab",
        b"ally1 0 2 0\nabc",
        b"ally1 0 2\nab",
        b"ally1 0 0 0",
        b"ally1 0 0 0 0\n",
        b"ally1  0 0 0\n",
        b"ally1 0 0 0 \n",
        b"ally1 1 0 0\n",
        b"ally1 0 -1 0\n",
        b"ally1 0 +0 0\n",
        b"ally1 256 0 0\n",
        b"ally1 0 0000000000 0\n",
        b"ally1 0 999999999 999999999\n",
        b"ally1 0 0 0\n\0",
        b"ally1\0 0 0 0\n",
        b"ally2 0 0 0\n",
        b"ally10 0 0 0\n",
        b'{"decision":"allow"}\n',
        b"\xff" * 100,
        b"\n" * 5000,
        b"ally1 0 " + b"0" * 100_000,
    ],
)
def test_a_host_that_answers_nonsense_is_none(reply: bytes, machine: Machine) -> None:
    with standing_in(machine, reply, reply):
        assert machine.run("PreToolUse", b"{}").stderr in {
            b"ally-plugins: the host answered nonsense",
            b"ally-plugins: the host gave no answer",
        }
        assert machine.hook("PostToolUse").stopped


def test_an_answer_that_is_too_long_is_none_and_the_longest_is_printed(machine: Machine) -> None:
    for size, is_taken in ((MAX_BYTES - 20, True), (MAX_BYTES + 1, False)):
        with standing_in(machine, b"ally1 0 %d 0\n" % size + b"x" * size):
            done = machine.run("PreToolUse", b"{}")
        assert (done.returncode, len(done.stdout)) == ((0, size) if is_taken else (2, 0))


def test_an_answer_is_the_same_in_however_many_pieces_it_comes(machine: Machine) -> None:
    answer = b"ally1 2 3 4\nout\0\n\xff\xfe"
    for pieces in ((answer,), tuple(answer[at : at + 1] for at in range(len(answer)))):
        with standing_in(machine, pieces):
            done = machine.run("PreToolUse", b"{}")
        assert (done.returncode, done.stdout, done.stderr) == (2, b"out", b"\0\n\xff\xfe")


@pytest.mark.parametrize("payload", [b"", b"{}", b"\0\n\xff" * 1000, b"x" * MAX_BYTES], ids=len)
def test_the_host_gets_the_payload_as_it_is_with_the_time_that_is_left(payload: bytes, machine: Machine) -> None:
    with standing_in(machine, b"ally1 0 0 0\n") as got:
        assert machine.run("PreToolUse", payload).returncode == 0
    head, _, body = got[0].partition(b"\n")
    magic, agent, event, size, left = head.split(b" ")
    assert (magic, agent, event, int(size)) == (b"ally1", b"claude", b"PreToolUse", len(payload))
    assert 0 < int(left) <= 45_000
    assert body == payload


def test_a_payload_that_is_too_long_is_closed(machine: Machine) -> None:
    done = machine.run("PreToolUse", b"x" * (MAX_BYTES + 1))
    assert (done.returncode, done.stderr) == (2, b"ally-plugins: the payload has more than 16,777,216 bytes")


def test_a_host_that_ends_amid_the_payload_is_none(machine: Machine) -> None:
    with standing_in(machine, b"", reads=False):
        assert machine.run("PreToolUse", b"x" * MAX_BYTES).returncode == 2


def test_a_host_that_is_silent_is_closed_within_the_agents_time(hurried: Machine) -> None:
    with bound(hurried) as listening:
        listening.listen(0)  # nobody accepts
        for _ in range(2):  # the second finds no room
            done = hurried.run("PreToolUse", b"{}")
            assert (done.returncode, done.stderr) == (2, LATE)
        assert hurried.hook("PostToolUse").stopped


def test_a_host_that_starts_and_never_listens_is_closed_within_the_agents_time(hurried: Machine) -> None:
    hurried.start_with("/bin/sh", "-c", "sleep 3")
    assert hurried.run("PreToolUse", b"{}").stderr == LATE


# --- the agent, and what it gives its hooks ---


def test_an_agent_that_never_ends_its_payload_is_closed_too(hurried: Machine) -> None:
    line = hook_line(hurried.client, "claude", "PreToolUse")
    with subprocess.Popen(["sh", "-c", line], stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.wait(30) == 2
        assert process.stdin is not None
        process.stdin.close()


def test_an_agent_that_blocks_the_alarm_has_its_answer_in_time(hurried: Machine) -> None:
    with bound(hurried) as listening:
        listening.listen(1)
        blocks = {signal.SIGALRM, signal.SIGPIPE, signal.SIGTERM}
        done = hurried.run("PreToolUse", b"{}", first=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, blocks))
    assert (done.returncode, done.stderr) == (2, LATE)


def test_an_agent_that_ignores_the_ends_of_processes_reads_why_the_host_did_not_start(machine: Machine) -> None:
    done = machine.run("PreToolUse", b"{}", first=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
    assert (done.returncode, done.stderr) == (2, b"ally-plugins: the host cannot be started: it is broken")


def test_an_agent_that_does_not_take_the_answer_gets_no_half_of_one(hurried: Machine) -> None:
    big = b"x" * 1_000_000
    with standing_in(hurried, b"ally1 0 %d 0\n" % len(big) + big):
        read, write = os.pipe()
        line = hook_line(hurried.client, "claude", "PreToolUse")
        with subprocess.Popen(["/bin/sh", "-c", line], stdin=subprocess.DEVNULL, stdout=write) as process:
            assert process.wait(30) == 2
        os.close(read)
        os.close(write)
    with standing_in(hurried, b"ally1 0 %d 0\n" % len(big) + big):
        read, write = os.pipe()
        os.close(read)
        assert subprocess.run(["/bin/sh", "-c", line], stdin=subprocess.DEVNULL, stdout=write, check=False).returncode
        os.close(write)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_hook_without_one_of_its_streams_is_closed_and_its_answer_goes_nowhere_else(
    closed: str, machine: Machine
) -> None:
    with bound(machine) as listening:
        listening.listen(1)
        assert machine.run("PreToolUse", b"{}", after=f"exec {closed}; ").returncode == 2


@pytest.mark.parametrize("variables", ["none", "hostile", "many"])
def test_the_environment_changes_no_answer_and_the_host_gets_little_of_it(
    variables: str, machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "_json.py").write_text("raise SystemExit(0)")
    (tmp_path / "posix.py").write_text("raise SystemExit(0)")
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LD_PRELOAD": ""}
    if variables == "hostile":
        env |= {"PYTHONPATH": str(tmp_path), "PYTHONSTARTUP": str(tmp_path / "posix.py"), "ALLY_HOME": "/nowhere"}
        env |= {"PYTHONINSPECT": "1", "PYTHONVERBOSE": "", "LANG": "xx_XX", "LC_ALL": "C", "KEY": "sk-secret"}
    if variables == "many":
        env |= {f"V{number}": "x" * 1000 for number in range(1000)}
    machine.start_with("/bin/sh", "-c", f"env > '{tmp_path}/got'; ls /proc/self/fd > '{tmp_path}/open'; exit 3")
    descriptor = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(descriptor, True)  # noqa: FBT003 - takes no name
    done = machine.run("preToolUse", b"{}", "copilot", env={} if variables == "none" else env)
    os.close(descriptor)
    assert json.loads(done.stdout)["permissionDecision"] == "deny"
    got = {line.partition("=")[0] for line in (tmp_path / "got").read_text().splitlines()}
    given = {"PATH", "HOME", "LANG", "LC_ALL"} & set({} if variables == "none" else env)
    added = {"PWD", "SHLVL", "_", "OLDPWD", "PATH", "LC_CTYPE"}  # by a shell and by Python
    assert got - added == given - added
    assert str(descriptor) not in (tmp_path / "open").read_text().split() or descriptor <= 3


def test_a_machine_without_memory_closes(machine: Machine) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (12 << 20, 12 << 20))

    assert machine.run("PreToolUse", b"x" * 100_000, first=limit).returncode == 2
    done = machine.run("preToolUse", b"{}", "copilot", first=limit)
    assert done.returncode or json.loads(done.stdout)["permissionDecision"] == "deny"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can listen as another user")
def test_a_host_of_another_user_is_none_and_gets_no_payload(machine: Machine) -> None:
    code = (
        "import os, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.bind('coding.sock'); os.chmod('coding.sock', 0o777)\n"
        "os.setuid(65534); s.listen(); print(flush=True)\n"  # whose the kernel takes it for is who listens
        "c, _ = s.accept(); c.settimeout(20); sys.stdout.buffer.write(c.recv(99) or b'nothing'); sys.stdout.flush()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=machine.home.run_dir, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        done = machine.run("PreToolUse", b"a secret")
        assert (done.returncode, done.stderr) == (2, b"ally-plugins: another user listens in the place of the host")
        assert process.stdout.read() == b"nothing"


# --- what is the same in both ---


def test_the_table_of_the_compiled_client_is_the_one_of_python(machine: Machine) -> None:
    ways = {way for events in CLOSED.values() for way in events.values()}
    assert all(way in {PASSES, EXITS} or way.count("%s") == 1 for way in ways)
    if machine.kind == "c":
        text = machine.client.with_name("hook_table.h").read_text()
        assert text.count("\n    {") == sum(map(len, CLOSED.values()))


def test_the_client_can_be_asked_to_take_hooks_out_without_the_package(machine: Machine) -> None:
    done = subprocess.run([machine.client, "disconnect", "claude"], capture_output=True, timeout=30, check=False)
    assert done.returncode == 1
    settings = machine.home.path / "settings.json"
    settings.write_text("ours")
    known = {"file": str(settings), "before": "theirs", "after": "29c65c28d9c4ef1b2b2a2d3ffbd6d8b0"}
    (machine.home.path / "connected.json").write_text(json.dumps({"claude": known}))
    done = subprocess.run([machine.client, "disconnect", "claude"], capture_output=True, timeout=30, check=False)
    assert (done.returncode, settings.read_text()) == (1, "ours")
    assert f"take the entries out that name {machine.client}" in done.stderr.decode()
