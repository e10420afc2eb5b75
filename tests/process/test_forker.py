"""Plugins that are forked instead of started: they find what a fresh process finds, and nothing of each other."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ally_plugins.contract.process_spec import SDK_MODULE, Daemon, ProcessLimits
from ally_plugins.runtime.processes import forking
from ally_plugins.runtime.processes.guardian.forkers import last_message
from ally_plugins.runtime.processes.guardian.process_tree import children
from ally_plugins.runtime.processes.guardian_client import GuardedLauncher
from ally_plugins.runtime.processes.launching import is_guardian_possible
from ally_plugins.runtime.processes.process import Exit, Process, ProcessSpec
from tests.kit.hosts import make_record, new_host
from tests.kit.processes import is_alive
from tests.kit.waiting import PATIENCE, until
from tests.process.programs import NO_LIMITS, Talk, end_of, marked, talk

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not is_guardian_possible(), reason="no guardian on this machine"),
]

HERE = str(Path(__file__).parent)
HELLO = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"plugin": "probe", "protocols": ["1"]}}
HIDDEN = """
import os, subprocess, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        os.chdir('/')
        hide = 'echo $$ >&2; exec -a innocent sleep 99 >/dev/null 2>&1 </dev/null'
        os.execve('/bin/bash', ['bash', '-c', hide], {})
    os._exit(0)
"""


class Plugins:
    """Plugins of one launcher."""

    def __init__(self) -> None:
        self.launcher = GuardedLauncher()

    async def start(
        self, code: str, *, fork: bool = True, limits: ProcessLimits = NO_LIMITS, cwd: str = "/", **env: str
    ) -> Plugin:
        """Start a plugin that runs this code when it is built, and wait until it has."""
        plugin = await self.launch(code, fork=fork, limits=limits, cwd=cwd, **env)
        answer = json.loads(await plugin.talk.line())
        assert "result" in answer, (answer, plugin.printed)
        return plugin

    async def launch(
        self, code: str, *, fork: bool = True, limits: ProcessLimits = NO_LIMITS, cwd: str = "/", **env: str
    ) -> Plugin:
        """Do the same, and do not wait."""
        spec = ProcessSpec(
            name="probe",
            argv=(sys.executable, "-m", SDK_MODULE, "forked_probe:Probe"),
            cwd=cwd,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": HERE, "CODE": code, **env},
            limits=limits,
            fork=fork,
        )
        printed = bytearray()
        process = await self.launcher.launch(spec, Talk, printed.extend)
        assert process.transport is not None
        process.transport.write(json.dumps(HELLO).encode() + b"\n")
        return Plugin(process, printed)

    @property
    def guardian(self) -> int:
        """Its process id."""
        assert self.launcher.guardian_pid is not None
        return self.launcher.guardian_pid

    def forkers(self) -> list[int]:
        """Return the forkers that there are."""
        return [pid for pid in children(self.guardian) if name_of(pid) == "ally-forker" and is_alive(pid)]

    def forker(self) -> int:
        """Return the only one."""
        (forker,) = self.forkers()
        return forker


class Plugin:
    """One process of a plugin."""

    def __init__(self, process: Process, printed: bytearray) -> None:
        self.process = process
        self.printed = printed

    @property
    def talk(self) -> Talk:
        """What it says."""
        return talk(self.process)

    async def value(self) -> Any:
        """Return what it printed first, as JSON."""
        await until(lambda: b"\n" in self.printed)
        return json.loads(self.printed.partition(b"\n")[0])

    @property
    def ancestors(self) -> list[int]:
        """Its parent, that one's, and so on."""
        found = [self.process.pid]
        while found[-1] > 1:
            found.append(int(Path(f"/proc/{found[-1]}/stat").read_text().rpartition(")")[2].split()[1]))
        return found[1:]


@pytest.fixture
async def plugins() -> AsyncIterator[Plugins]:
    plugins = Plugins()
    yield plugins
    await plugins.launcher.close()


def descriptors_of(pid: int) -> set[str]:
    with contextlib.suppress(PermissionError):  # to all but root they are closed
        return {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}
    return set()


def name_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


# --- what it finds ---


@pytest.mark.slow
async def test_a_forked_plugin_finds_what_a_started_one_finds(plugins: Plugins, tmp_path: Path) -> None:
    limits = ProcessLimits(memory_mb=900, cpu_seconds=50, file_mb=2, descriptors=64)
    code = "import forked_facts; forked_facts.show()"
    found = []
    for fork in (True, False):
        plugin = await plugins.start(code, fork=fork, limits=limits, cwd=str(tmp_path), TZ="Asia/Tokyo", GIVEN="ü")
        assert (plugins.forker() in plugin.ancestors) is fork
        found.append(await plugin.value())
    forked, started = found
    assert {name: each for name, each in forked.items() if started[name] != each} == {}
    assert forked.keys() == started.keys()
    assert forked["env"]["GIVEN"] == "ü"
    assert forked["cwd"] == forked["path"][0] == str(tmp_path)
    assert forked["time"][0] == ["JST", "JST"]
    assert forked["multiprocessing"] is False


@pytest.mark.slow
async def test_a_forked_plugin_has_no_descriptor_of_its_forker_or_another_plugin(plugins: Plugins) -> None:
    look = """
import json, os
numbers = [int(name) for name in os.listdir('/proc/self/fd')]
print(json.dumps([os.readlink(f'/proc/self/fd/{n}') for n in numbers if os.path.lexists(f'/proc/self/fd/{n}')]))
"""
    first = await plugins.start(look)
    second = await plugins.start(look)
    known = descriptors_of(plugins.forker()) | descriptors_of(plugins.guardian)
    shared = {"/dev/null", "anon_inode:[eventpoll]"}
    ends = [set(await plugin.value()) - shared for plugin in (first, second)]
    assert not ends[0] & ends[1]
    assert not (ends[0] | ends[1]) & known


@pytest.mark.slow
async def test_two_forked_plugins_draw_other_random_numbers(plugins: Plugins) -> None:
    draw = """
import json, os, random, secrets, ssl, tempfile, uuid
from ally_plugins.contract.values.ids import new_id
print(json.dumps([random.random(), random.Random().random(), secrets.token_hex(), os.urandom(8).hex(), new_id('x'),
    ssl.RAND_bytes(8).hex(), str(uuid.uuid4()), str(uuid.uuid1()), next(tempfile._get_candidate_names())]))
"""
    drawn = [await (await plugins.start(draw)).value() for _ in range(2)]
    assert not set(drawn[0]) & set(drawn[1])
    assert len(plugins.forkers()) == 1


async def test_nothing_of_the_hosts_environment_or_another_plugins_is_in_its_memory(
    plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {"HOST_KEY": "hostkey-" + "1234567", "OTHER_KEY": "otherkey-" + "1234567"}
    monkeypatch.setenv("HOST_KEY", secrets["HOST_KEY"])
    await plugins.start("pass", OTHER_KEY=secrets["OTHER_KEY"])
    # Backwards: forwards it would find what it looks for in its own variables.
    search = """
import json
wanted = [b'7654321-yek' + name for name in (b'tsoh', b'rehto', b'nwo')]
found = set()
with open('/proc/self/maps') as maps, open('/proc/self/mem', 'rb', 0) as memory:
    for line in maps:
        area, rights = line.split()[:2]
        if 'r' not in rights or '[v' in line:
            continue
        start, end = (int(part, 16) for part in area.split('-'))
        memory.seek(start)
        data = memory.read(end - start)[::-1]
        found |= {each[11:][::-1].decode() for each in wanted if each in data}
        del data
print(json.dumps(sorted(found)))
"""
    plugin = await plugins.start(search, OWN_KEY="ownkey-1234567")
    assert plugins.forker() in plugin.ancestors
    assert await plugin.value() == ["own"]
    assert not set(marked(f"HOST_KEY={secrets['HOST_KEY']}".encode())) & {plugin.process.pid, *plugin.ancestors[:2]}


async def test_the_end_of_a_forked_plugin_is_told_as_it_was(plugins: Plugins) -> None:
    for code, end in (
        ("import os; os._exit(7)", Exit(7, None)),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", Exit(None, signal.SIGKILL)),
        ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", Exit(0, None)),
    ):
        plugin = await plugins.launch(code)
        if end == Exit(0, None):  # the SDK takes no Ctrl-C; it ends with its input
            await plugin.talk.line()
            assert plugin.process.transport is not None
            plugin.process.transport.write_eof()
        assert await end_of(plugin.process) == end
        assert await plugin.process.stop(0)
    assert len(plugins.forkers()) == 1
    assert children(plugins.forker()) == []


async def test_a_limit_too_low_for_it_is_an_end_and_no_fallback(
    plugins: Plugins, caplog: pytest.LogCaptureFixture
) -> None:
    plugin = await plugins.launch("bytearray(1 << 30)", limits=ProcessLimits(memory_mb=128))
    answer = json.loads(await plugin.talk.line())
    assert "MemoryError" in json.dumps(answer)
    assert "afresh" not in caplog.text


@pytest.mark.parametrize("fork", [True, False])
async def test_a_folder_that_is_missing_is_the_same_error(plugins: Plugins, *, fork: bool) -> None:
    with pytest.raises(Exception, match="its folder '/no/folder' cannot be entered: no such file"):
        await plugins.launch("pass", cwd="/no/folder", fork=fork)


@pytest.mark.slow
async def test_what_would_start_otherwise_is_not_forked(plugins: Plugins) -> None:
    await plugins.start("pass")
    forker = plugins.forker()
    assert forker not in (await plugins.start("pass", LD_DEBUG_OUTPUT="/dev/null")).ancestors
    assert forker not in (await plugins.start("pass", COVERAGE_PROCESS_START="/dev/null")).ancestors
    # A forker of its own: the encodings and the seed were made at its start.
    seeded = [
        await (await plugins.start("print(hash('x'))", PYTHONHASHSEED="7", fork=fork)).value() for fork in (True, False)
    ]
    assert seeded[0] == seeded[1]
    assert len(plugins.forkers()) == 2


@pytest.mark.parametrize("process", [{}, {"fork": False}])
async def test_the_operator_can_have_a_plugin_started_afresh(process: dict[str, Any]) -> None:
    daemon = Daemon.python("forked_probe:Probe", env={"PYTHONPATH": HERE, "CODE": "pass"}).with_process(process)
    async with new_host({"probe": (daemon, make_record("probe", process=process))}) as host:
        supervisor = host.plugins["probe"].supervisor
        assert supervisor is not None
        assert supervisor.process is not None
        plugin = Plugin(supervisor.process, bytearray())
        assert [name_of(pid) for pid in plugin.ancestors[:2]] == [
            "ally-keeper",
            "ally-guardian" if process else "ally-forker",
        ]


# --- trees ---


async def hidden_of(plugin: Plugin) -> int:
    return int(await plugin.value())


@pytest.mark.slow
async def test_what_hides_ends_with_its_forked_plugin(plugins: Plugins) -> None:
    plugin, other = await plugins.start(HIDDEN), await plugins.start(HIDDEN)
    hidden, spared = await hidden_of(plugin), await hidden_of(other)
    assert await plugin.process.stop(0)
    assert not is_alive(hidden)
    assert is_alive(spared)


@pytest.mark.slow
async def test_what_hides_ends_also_when_its_plugin_was_killed(plugins: Plugins) -> None:
    plugin = await plugins.start(HIDDEN)
    hidden = await hidden_of(plugin)
    os.kill(plugin.process.pid, signal.SIGKILL)
    assert await end_of(plugin.process) == Exit(None, signal.SIGKILL)
    assert await plugin.process.stop(0)
    assert not is_alive(hidden)


@pytest.mark.parametrize("fork", [True, False])
async def test_what_hides_ends_with_a_guardian_that_is_killed(plugins: Plugins, *, fork: bool) -> None:
    plugin = await plugins.start(HIDDEN, fork=fork)
    hidden = await hidden_of(plugin)
    os.kill(plugins.guardian, signal.SIGKILL)
    await until(lambda: not is_alive(hidden))
    await until(lambda: not is_alive(plugin.process.pid))
    assert (await end_of(plugin.process)).description == "ended with its guardian process"


async def test_what_hides_ends_with_its_keeper(plugins: Plugins) -> None:
    plugin = await plugins.start(HIDDEN)
    hidden = await hidden_of(plugin)
    os.kill(plugin.ancestors[0], signal.SIGKILL)
    await until(lambda: not is_alive(hidden))
    assert await end_of(plugin.process) == Exit(None, signal.SIGKILL)


# --- forkers in trouble ---


def test_what_a_forker_said_last_is_read_though_it_left_a_request_unread() -> None:
    guardian, forker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with guardian:
        guardian.send(b"a request")
        forker.send(b"stale")
        forker.close()
        with pytest.raises(ConnectionResetError):
            guardian.recv(100)
        assert last_message(guardian) == b"stale"
        assert last_message(guardian) == b""


@pytest.mark.slow
async def test_a_plugin_outlives_its_forker_and_the_next_has_another(plugins: Plugins) -> None:
    plugin = await plugins.start(HIDDEN)
    hidden, first = await hidden_of(plugin), plugins.forker()
    os.kill(first, signal.SIGKILL)
    await until(lambda: not is_alive(first))
    assert is_alive(plugin.process.pid)
    # The first may come to the guardian before it has seen the end of its forker; that one is started afresh.
    later = [await plugins.start("pass") for _ in range(2)]
    assert all(first not in each.ancestors for each in later)
    next_one = later[-1]
    assert len(set(plugins.forkers()) & set(next_one.ancestors)) == 1
    assert await plugin.process.stop(0)
    assert not is_alive(hidden)
    os.kill(next_one.process.pid, signal.SIGSEGV)
    assert await end_of(next_one.process) == Exit(None, signal.SIGSEGV)


@pytest.mark.slow
async def test_a_plugin_whose_forker_is_killed_amid_its_start_is_started_afresh(
    plugins: Plugins, caplog: pytest.LogCaptureFixture
) -> None:
    await plugins.start("pass")
    forker = plugins.forker()
    os.kill(forker, signal.SIGSTOP)
    starts = [asyncio.create_task(plugins.start("print(1)")) for _ in range(3)]
    await asyncio.sleep(0.05)  # so that the requests are with it
    os.kill(forker, signal.SIGKILL)
    for plugin in await asyncio.gather(*starts):
        assert plugin.ancestors[1] == plugins.guardian
    assert "the process of 'probe' was started afresh: the forker ended" in caplog.text


@pytest.mark.long
@pytest.mark.slow
async def test_a_plugin_whose_forker_hangs_is_started_afresh(
    plugins: Plugins, caplog: pytest.LogCaptureFixture
) -> None:
    await plugins.start("pass")
    os.kill(plugins.forker(), signal.SIGSTOP)
    plugin = await plugins.start("pass")
    assert plugin.ancestors[1] == plugins.guardian
    assert "was started afresh: the forker did not answer within 7 s" in caplog.text


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os._exit(3)", "the forker ended"),
        ("import threading, time\nthreading.Thread(target=time.sleep, args=(99,), daemon=True).start()", "1 threads"),
    ],
)
async def test_a_forker_that_cannot_load_keeps_no_plugin_from_starting(
    plugins: Plugins, caplog: pytest.LogCaptureFixture, tmp_path: Path, code: str, reason: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nif {forking.FORKER!r} in sys.orig_argv:\n    " + code.replace("\n", "\n    ")
    )
    path = f"{tmp_path}{os.pathsep}{HERE}"
    for _ in range(2):
        plugin = await plugins.start("pass", PYTHONPATH=path)
        assert plugin.ancestors[1] == plugins.guardian
    # Once: none is started again for a while, of which the operator need not hear each time.
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "was started afresh" in record.getMessage()
    assert reason in record.getMessage()


async def test_what_was_printed_while_loading_comes_out_of_no_plugin(plugins: Plugins, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nif {forking.FORKER!r} in sys.orig_argv: sys.stdout.write('noise'); sys.stderr.write('noise')"
    )
    plugin = await plugins.start("print(1)", PYTHONPATH=f"{tmp_path}{os.pathsep}{HERE}")
    assert plugins.forker() in plugin.ancestors
    assert await plugin.value() == 1


async def test_an_upgrade_on_disk_makes_a_fresh_forker(plugins: Plugins, tmp_path: Path) -> None:
    module = tmp_path / "sitecustomize.py"
    module.write_text("version = 1")
    code = "import sitecustomize; print(sitecustomize.version)"
    path = f"{tmp_path}{os.pathsep}{HERE}"
    first = await plugins.start(code, PYTHONPATH=path)
    old = plugins.forker()
    module.write_text("version = 'two'.count('t') + 1")
    second = await plugins.start(code, PYTHONPATH=path)
    assert [await first.value(), await second.value()] == [1, 2]
    await until(lambda: not is_alive(old))
    assert plugins.forker() in second.ancestors
    assert is_alive(first.process.pid)


@pytest.mark.slow
async def test_twenty_plugins_at_once_have_one_forker_and_leave_nothing(plugins: Plugins) -> None:
    started = await asyncio.gather(*(plugins.start("pass") for _ in range(20)))
    forker = plugins.forker()
    assert all(forker in plugin.ancestors for plugin in started)
    assert all(await asyncio.gather(*(plugin.process.stop(1) for plugin in started)))
    await until(lambda: children(forker) == [])
    assert children(plugins.guardian) == [forker]


def test_only_plugins_of_the_running_interpreter_are_forked() -> None:
    def fork(*argv: str, **env: str) -> forking.Fork | None:
        return forking.fork_of(ProcessSpec(name="x", argv=argv, cwd="/", env=env), "/py", {"HOME": "/home/x", "K": "1"})

    assert fork("/other", "-m", SDK_MODULE, "a:B") is None
    assert fork("/py", "-m", "other", "a:B") is None
    assert fork("/py", "-I", "-m", SDK_MODULE, "a:B") is None
    assert fork("/bin/sh") is None
    found = fork("/py", "-m", SDK_MODULE, "a:B", PYTHONPATH="/p", LC_ALL="C", HOME="/x", KEY="secret")
    assert found is not None
    assert found.env == {"PYTHONPATH": "/p", "LC_ALL": "C", "HOME": "/home/x"}


@pytest.mark.slow
def test_no_thread_and_no_key_of_its_own_is_made_by_what_is_preloaded() -> None:
    look = "print(len(os.listdir('/proc/self/task')), 'multiprocessing' in sys.modules)"
    code = f"import {forking.PRELOADED}, sys, os; {look}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert done.stdout.split() == ["1", "False"]
