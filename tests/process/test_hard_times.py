"""What launchers do when the machine, the guardian or the host is in trouble."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ally_plugins.contract.values.errors import CannotExecute
from ally_plugins.runtime.processes import guardian_client as guarded
from ally_plugins.runtime.processes import process as process_module
from ally_plugins.runtime.processes.direct import DirectLauncher
from ally_plugins.runtime.processes.guardian_client import GuardedLauncher
from ally_plugins.runtime.processes.launching import is_guardian_possible
from ally_plugins.runtime.processes.process import Exit
from ally_plugins.runtime.processes.stderrlog import StderrLog
from tests.kit.processes import is_alive
from tests.kit.waiting import PATIENCE, wait_until
from tests.process.programs import ignore, spec

if TYPE_CHECKING:
    from ally_plugins.runtime.processes.launcher import Launcher

pytestmark = pytest.mark.skipif(not is_guardian_possible(), reason="no guardian on this machine")

Both = pytest.mark.parametrize("maker", [GuardedLauncher, DirectLauncher])


def _highest_descriptor() -> int:
    return max(int(link.name) for link in Path("/proc/self/fd").iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("no_leaks")
def test_a_stopped_guardian_hides_no_death_and_does_not_keep_the_host_from_closing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guarded, "UNKILLABLE", 0.2)
    monkeypatch.setattr(process_module, "UNKILLABLE", 0.2)
    monkeypatch.setattr(guarded, "REPORT_WAIT", 0.05)

    async def main() -> None:
        launcher = GuardedLauncher()
        process, other = [await launcher.launch(spec("cat"), asyncio.Protocol, ignore) for _ in range(2)]
        assert launcher.guardian_pid is not None
        os.kill(launcher.guardian_pid, signal.SIGSTOP)
        os.kill(process.pid, signal.SIGKILL)
        assert await asyncio.wait_for(process.exited, PATIENCE) == Exit(None, None)
        assert not await other.stop(0)  # it says that it could not
        await asyncio.wait_for(launcher.close(), PATIENCE)
        assert not is_alive(other.pid)
        assert process.gone.done()
        assert other.gone.done()

    asyncio.run(main())


@pytest.mark.usefixtures("no_leaks")
def test_a_guardian_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded, "START_TIMEOUT", 0.2)

    async def main() -> None:
        launcher = GuardedLauncher()
        for _ in range(30):  # a busy machine may need longer than that for the start itself
            try:
                await launcher.start()
                break
            except CannotExecute:
                continue
        assert launcher.guardian_pid is not None
        os.kill(launcher.guardian_pid, signal.SIGSTOP)
        with pytest.raises(CannotExecute, match="the guardian of the daemons was killed meanwhile"):
            await launcher.launch(spec("cat"), asyncio.Protocol, ignore)
        await launcher.close()

    asyncio.run(main())


@pytest.mark.usefixtures("no_leaks")
def test_a_launch_that_is_too_long_and_waits_for_its_turn_fails_and_leaves_the_others_theirs() -> None:
    async def main() -> None:
        launcher = GuardedLauncher()
        await launcher.start()
        guardian = launcher.guardian_pid
        assert guardian is not None
        os.kill(guardian, signal.SIGSTOP)
        # Eight of these are more than the line holds, so that those behind them wait.
        programs = [spec("true", "x" * 100_000)] * 8 + [spec("cat", "x" * 4_000_000), spec("true")]
        launches = [asyncio.create_task(launcher.launch(each, asyncio.Protocol, ignore)) for each in programs]
        await asyncio.sleep(0)
        os.kill(guardian, signal.SIGCONT)
        *begun, too_long, behind = await asyncio.wait_for(asyncio.gather(*launches, return_exceptions=True), PATIENCE)
        assert isinstance(too_long, CannotExecute)
        assert str(too_long).startswith("cannot execute 'cat': its arguments and environment are too long")
        for process in (*begun, behind):
            assert not isinstance(process, BaseException)
            assert await asyncio.wait_for(process.exited, PATIENCE) == Exit(0, None)
            assert await process.stop(1)
        assert launcher.guardian_pid == guardian
        await launcher.close()

    asyncio.run(main())


@Both
@pytest.mark.usefixtures("no_leaks")
def test_a_host_without_free_descriptors_is_told_and_goes_on(maker: Callable[[], Launcher]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def main() -> None:
        launcher = maker()
        await launcher.start()
        used = _highest_descriptor()
        for spare in range(8):
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare, hard))
            try:
                process = await launcher.launch(spec("true"), asyncio.Protocol, ignore)
            except CannotExecute as error:
                assert "too many open files" in str(error)  # noqa: PT017
                assert not error.is_final  # noqa: PT017
            else:
                await asyncio.wait_for(process.exited, PATIENCE)
                await process.stop(0)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        process = await launcher.launch(spec("true"), asyncio.Protocol, ignore)
        assert await asyncio.wait_for(process.exited, PATIENCE) == Exit(0, None)
        await launcher.close()

    asyncio.run(main())


@Both
@pytest.mark.usefixtures("no_leaks")
def test_a_protocol_that_cannot_be_made_leaves_no_process(maker: Callable[[], Launcher]) -> None:
    def fail() -> asyncio.Protocol:
        raise LookupError("no protocol")

    async def main() -> None:
        launcher = maker()
        for _ in range(3):
            with pytest.raises(LookupError):
                await launcher.launch(spec("sleep", "77"), fail, ignore)
        await launcher.close()

    asyncio.run(main())


@Both
def test_the_last_words_are_known_when_the_exit_is(maker: Callable[[], Launcher], tmp_path: Path) -> None:
    async def main() -> None:
        launcher = maker()
        log = StderrLog(tmp_path / "x.log")
        code = "import sys; sys.stderr.write('x' * 60_000 + '\\nlast \\x1b[31mwords'); sys.exit(3)"
        process = await launcher.launch(spec(sys.executable, "-I", "-S", "-c", code), asyncio.Protocol, log.write)
        assert (await asyncio.wait_for(process.exited, PATIENCE)).description == "exited with code 3"
        assert log.tail[-1] == r"last \x1b[31mwords"
        await process.stop(0)
        log.close()
        await launcher.close()

    asyncio.run(main())


@pytest.mark.slow
def test_a_busy_host_misses_no_exit() -> None:
    async def main() -> None:
        launcher = GuardedLauncher()
        processes = [await launcher.launch(spec("sh", "-c", f"exit {n}"), asyncio.Protocol, ignore) for n in range(50)]
        time.sleep(0.3)  # noqa: ASYNC251 - the loop is held up, as a bad plugin would
        exits = await asyncio.wait_for(asyncio.gather(*(process.exited for process in processes)), PATIENCE)
        assert exits == [Exit(n, None) for n in range(50)]
        assert all(await asyncio.gather(*(process.stop(0) for process in processes)))
        await launcher.close()

    asyncio.run(main())


def test_an_abandoned_launcher_ends_its_daemons_with_the_loop() -> None:
    code = """
import asyncio
from ally_plugins.runtime.processes.launching import make_launcher
from ally_plugins.runtime.processes.process import ProcessSpec
async def main():
    spec = ProcessSpec(name="x", argv=("sleep", "88"), cwd="/", env={"PATH": "/usr/bin:/bin"})
    process = await make_launcher().launch(spec, asyncio.Protocol, print)
    print(process.pid, flush=True)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    wait_until(lambda: not is_alive(int(done.stdout)))


def test_machines_without_a_guardian_import_everything_else() -> None:
    code = """
import sys
sys.modules["resource"] = sys.modules["fcntl"] = None
from ally_plugins.runtime.processes import direct, environment, launching, piped, stderrlog
loaded = {name.rpartition("processes.")[2] for name in sys.modules if "guard" in name or "lifeline" in name}
assert loaded <= {"guardian", "guardian.process_tree"}, loaded  # whose child a process is, is asked without one too
"""
    subprocess.run([sys.executable, "-c", code], check=True)
