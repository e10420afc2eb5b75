"""Trees in a PID namespace of their own: what is placed in a sandbox, where the kernel lets this user have one."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import signal
import site
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.contract.process_spec import SDK_MODULE
from ally_plugins.runtime.processes.guardian.process_tree import children
from ally_plugins.runtime.processes.launching import is_guardian_possible
from ally_plugins.runtime.processes.process import Exit, ProcessSpec
from ally_plugins.runtime.processes.separation import has_namespaces
from tests.kit.processes import is_alive
from tests.kit.sandboxes import box_in, needs_sandbox
from tests.kit.waiting import until
from tests.process.programs import Talk, end_of
from tests.process.test_forker import HELLO, HERE, Plugin, Plugins, name_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.anyio,
    needs_sandbox,
    pytest.mark.skipif(
        not is_guardian_possible() or not has_namespaces(), reason="no guardian, or no PID namespaces for this user"
    ),
]

Both = pytest.mark.parametrize("fork", [True, False])
HIDDEN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        os.environ.clear()
        os.write(2, b'1\\n')
        time.sleep(99)
    os._exit(0)
"""


def most_processes() -> str:
    return Path("/proc/sys/kernel/pid_max").read_text()


@pytest.fixture
async def plugins() -> AsyncIterator[Plugins]:
    plugins = Plugins()
    yield plugins
    await plugins.launcher.close()


async def start(plugins: Plugins, folder: Path, code: str, *, fork: bool) -> Plugin:
    """Start a plugin in a sandbox that runs this code when it is built, and wait until it has."""
    packages = (str(ROOT), HERE, *site.getsitepackages())
    spec = ProcessSpec(
        name="probe",
        argv=(sys.executable, "-m", SDK_MODULE, "forked_probe:Probe"),
        cwd=str(folder / "home"),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": HERE, "PYTHONSAFEPATH": "1", "CODE": code},
        box=box_in(folder, read=packages),
        fork=fork,
    )
    printed = bytearray()
    process = await plugins.launcher.launch(spec, Talk, printed.extend)
    assert process.transport is not None
    process.transport.write(json.dumps(HELLO).encode() + b"\n")
    plugin = Plugin(process, printed)
    answer: dict[str, Any] = json.loads(await plugin.talk.line())
    assert "result" in answer, (answer, printed)
    return plugin


@Both
async def test_it_sees_and_signals_no_process_of_the_machine(plugins: Plugins, tmp_path: Path, *, fork: bool) -> None:
    code = f"""
import errno, json, os
def tried(pid):
    try:
        os.kill(pid, 0)
    except OSError as error:
        return errno.errorcode[error.errno]
    return 'signalled'
with open(f'/proc/{{os.getpid()}}/stat') as file:
    own = file.read().split()[0]
print(json.dumps([os.getpid(), os.getppid(), os.getuid(), tried({os.getpid()}), tried(-1), own]))
"""
    plugin = await start(plugins, tmp_path, code, fork=fork)
    pid, parent, user, host, everybody, own = await plugin.value()
    assert own == "2"  # by the number that it knows itself by, it finds itself
    assert (pid, parent, user) == (2, 1, os.getuid())
    assert host == "ESRCH"
    assert everybody in {"ESRCH", "EPERM"}  # of all but itself and its init there is nobody
    # Outside it has the number that the machine knows it by.
    assert plugin.process.pid > 2
    assert [name_of(each) for each in plugin.ancestors[:3]] == [
        "ally-init",
        "ally-keeper",
        "ally-forker" if fork else "ally-guardian",
    ]


@Both
async def test_all_of_it_ends_at_once_with_its_tree(plugins: Plugins, tmp_path: Path, *, fork: bool) -> None:
    plugin = await start(plugins, tmp_path, HIDDEN, fork=fork)
    await plugin.value()
    init, keeper = plugin.ancestors[:2]
    # Its parent has a moment to end, which makes it a child of the tree's first process.
    await until(lambda: len(children(init)) == 2)
    (hidden,) = [pid for pid in children(init) if pid != plugin.process.pid]
    assert await plugin.process.stop(0)
    assert not any(map(is_alive, [hidden, init, keeper, plugin.process.pid]))


@pytest.mark.parametrize("victim", ["init", "keeper", "guardian", "forker"])
async def test_whoever_of_those_above_it_is_killed_nothing_of_it_is_left_but_with_its_forker(
    plugins: Plugins, tmp_path: Path, victim: str
) -> None:
    plugin = await start(plugins, tmp_path, HIDDEN, fork=True)
    await plugin.value()
    above = dict(zip(["init", "keeper", "forker", "guardian"], plugin.ancestors, strict=False))
    below = [above["init"], *children(above["init"])]
    os.kill(above[victim], signal.SIGKILL)
    if victim == "forker":
        await until(lambda: not is_alive(above["forker"]))
        assert all(map(is_alive, below))
        assert await plugin.process.stop(0)
    else:
        end = await end_of(plugin.process)
        assert end == (Exit(None, None) if victim == "guardian" else Exit(None, signal.SIGKILL))
    await until(lambda: not any(map(is_alive, below)))


@Both
@pytest.mark.parametrize(("last", "end"), [("os._exit(7)", Exit(7, None)), ("os.kill(2, 9)", Exit(None, 9))])
async def test_its_end_is_told_as_any_other(
    plugins: Plugins, tmp_path: Path, last: str, end: Exit, *, fork: bool
) -> None:
    later = f"import os, threading; threading.Timer(0.05, lambda: {last}).start()"
    plugin = await start(plugins, tmp_path, later, fork=fork)
    assert await end_of(plugin.process) == end
    assert await plugin.process.stop(0)


@pytest.mark.slow
async def test_one_that_ends_when_it_is_asked_to_is_not_killed(plugins: Plugins, tmp_path: Path) -> None:
    asked = "import os, signal; signal.signal(signal.SIGTERM, lambda *_: os._exit(5)); signal.pause()"
    later = f"import os\nif os.fork() == 0:\n    os.write(2, b'1\\n')\n    exec({asked!r})"
    plugin = await start(plugins, tmp_path, later, fork=True)
    await plugin.value()
    assert await plugin.process.stop(5)
    assert await end_of(plugin.process) == Exit(0, None)


@pytest.mark.slow
@pytest.mark.skipif(
    tuple(map(int, platform.release().split(".")[:2])) < (6, 14), reason="pid_max is not a namespace's own"
)
async def test_a_fork_bomb_meets_a_limit_of_its_own(plugins: Plugins, tmp_path: Path) -> None:
    machine = most_processes()
    code = """
import os, signal
started = 0
try:
    while started < 2000:
        if os.fork() == 0:
            signal.pause()
        started += 1
except OSError:
    pass
print(started)
"""
    plugin = await start(plugins, tmp_path, code, fork=False)
    other = await start(plugins, tmp_path, "print(1)", fork=False)
    assert 300 < await plugin.value() < 512
    assert await other.value() == 1
    assert await asyncio.wait_for(plugin.process.stop(0), 60)
    assert most_processes() == machine
