"""The agent's commands: they end, all that they started ends with them, and what they write is bounded."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic_ai.exceptions import ToolFailed

from ally_plugins.cli.chat.tools.commands import CommandTools
from tests.kit.waiting import go

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="written for a POSIX shell")

AND_ITS_LIKE = "echo $$ >> pids; sleep 300 & echo $! >> pids; "
"""A shell and a child of its group, by their numbers in a file."""
HIDDEN = (
    f"{sys.executable} -c 'import os,time; r,w=os.pipe(); os.fork() and (os.read(r,1), os._exit(0)); os.setsid(); "
    'print(os.getpid(), flush=True); os.write(w,b"1"); time.sleep(300)\' >> pids; '
)
"""A grandchild that has left the group and its parent."""


@asynccontextmanager
async def tools_in(folder: Path) -> AsyncGenerator[CommandTools]:
    async with CommandTools(folder) as tools:
        yield tools


def with_tools(folder: Path, do: Callable[[CommandTools], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with tools_in(folder) as tools:
            await do(tools)

    go(main())


def started(folder: Path, count: int) -> list[int]:
    """Return the processes that a command has named, once there are so many."""
    found: list[str] = []
    end = time.monotonic() + 30
    while time.monotonic() < end:
        found = (folder / "pids").read_text().split() if (folder / "pids").exists() else []
        if len(found) == count:
            return list(map(int, found))
        time.sleep(0.005)  # another program writes it
    raise AssertionError(found)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in {"Z", "X"}


def all_gone(pids: list[int]) -> bool:
    end = time.monotonic() + 30
    while any(map(is_running, pids)) and time.monotonic() < end:
        time.sleep(0.005)  # they were killed, and the kernel takes its time
    return not any(map(is_running, pids))


async def until(tools: CommandTools, is_so: Callable[[str], bool]) -> str:
    """Look at the first command until what it shows is so; the loop reads its output meanwhile."""
    async with asyncio.timeout(60):
        while not is_so(shown := await tools.check_command("c1")):  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.005)
    return shown


linux = pytest.mark.skipif(sys.platform != "linux", reason="only there are hidden grandchildren found")


@pytest.mark.slow
@linux
def test_at_its_time_limit_a_command_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    async def main(tools: CommandTools) -> None:
        result = await tools.run_command(AND_ITS_LIKE + HIDDEN + "echo so far; sleep 300", 1)
        assert result == "so far\n[killed: it took longer than 1 s]"
        assert tools.ally_tool_failure("run_command", result) == "killed: it took longer than 1 s"
        assert all_gone(started(tmp_path, 3))

    with_tools(tmp_path, main)


@linux
def test_a_turn_that_is_stopped_kills_its_command_with_all_that_it_started(tmp_path: Path) -> None:
    async def main(tools: CommandTools) -> None:
        running = asyncio.create_task(tools.run_command(AND_ITS_LIKE + HIDDEN + "sleep 300"))
        pids = await asyncio.to_thread(started, tmp_path, 3)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert all_gone(pids)

    with_tools(tmp_path, main)


def test_a_command_can_be_stopped_at_any_moment_of_its_start(tmp_path: Path) -> None:
    async def main(tools: CommandTools) -> None:
        for steps in range(12):  # of the loop; a start takes some four
            running = asyncio.create_task(tools.run_command("sleep 300"))
            for _ in range(steps):
                await asyncio.sleep(0)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(running, 60)

    with_tools(tmp_path, main)


@pytest.mark.slow
@linux
def test_leaving_the_chat_ends_what_runs_in_the_background_and_what_hid_behind_a_command(tmp_path: Path) -> None:
    async def main() -> list[int]:
        async with tools_in(tmp_path) as tools:
            await tools.run_command(HIDDEN)
            await tools.start_command("trap '' TERM; " + AND_ITS_LIKE + "sleep 300")
            pids = await asyncio.to_thread(started, tmp_path, 3)
            assert all(map(is_running, pids))
        return pids

    pids: list[int] = []

    async def run() -> None:
        pids.extend(await main())

    go(run())
    assert all_gone(pids)


@linux
def test_a_command_that_has_ended_leaves_nothing_of_its_group_and_is_not_waited_for(tmp_path: Path) -> None:
    async def main(tools: CommandTools) -> None:
        before = time.monotonic()
        assert await tools.run_command("sleep 300 & echo $! > pids; echo done") == "done\n[exit code 0]"
        assert time.monotonic() - before < 60
        assert all_gone(started(tmp_path, 1))

    with_tools(tmp_path, main)


def test_output_without_end_is_cut_and_its_command_killed(tmp_path: Path) -> None:
    async def main(tools: CommandTools) -> None:
        result = await tools.run_command("yes")
        assert result.endswith("\n[killed: it wrote more than 64 MiB]")
        assert len(result) < 40_000
        assert "bytes are left out]" in result

    with_tools(tmp_path, main)


@pytest.mark.parametrize(
    ("command", "text", "failure"),
    [
        ("true", "[exit code 0]", None),
        ("echo out; echo err >&2; exit 3", "out\nerr\n[exit code 3]", "exit code 3"),
        ("printf x", "x\n[exit code 0]", None),
        ("echo '[exit code 7]'", "[exit code 7]\n[exit code 0]", None),
        ("printf '[exit code 0]'; exit 1", "[exit code 0]\n[exit code 1]", "exit code 1"),
        ("kill -9 $$", "[exit code -9]", "exit code -9"),
        (r"printf '\377'", "\ufffd\n[exit code 0]", None),
        ("cat", "[exit code 0]", None),
    ],
)
def test_a_command_s_end_is_the_last_line_whatever_it_writes(
    command: str, text: str, failure: str | None, tmp_path: Path
) -> None:
    async def main(tools: CommandTools) -> None:
        result = await tools.run_command(command)
        assert (result, tools.ally_tool_failure("run_command", result)) == (text, failure)

    with_tools(tmp_path, main)


def test_a_command_runs_in_the_folder_and_sees_no_variable_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-live-of-a-person")
    monkeypatch.setenv("ALLY_TOKEN", "token-of-a-daemon")
    folder = tmp_path.resolve()

    async def main(tools: CommandTools) -> None:
        result = await tools.run_command("pwd -P; env")
        assert result.startswith(f"{folder}\n")
        assert "sk-live-of-a-person" not in result
        assert "token-of-a-daemon" not in result
        assert f"PATH={os.environ['PATH']}" in result

    with_tools(tmp_path, main)


def test_a_command_in_the_background_is_looked_after_and_stopped(tmp_path: Path) -> None:
    async def main(tools: CommandTools) -> None:
        os.mkfifo(tmp_path / "go")
        assert await tools.start_command("echo one; cat go > pids; echo two; sleep 300") == "started as 'c1'"
        await asyncio.to_thread((tmp_path / "go").write_text, "1")  # waits until it reads
        assert await until(tools, lambda shown: "two" in shown) == "one\ntwo\n[it is running]"
        assert await tools.stop_command("c1") == "one\ntwo\n[stopped]"
        assert await tools.check_command("c1") == "one\ntwo\n[stopped]"
        assert tools.ally_tool_failure("stop_command", "one\ntwo\n[stopped]") is None
        with pytest.raises(ToolFailed, match="there is no command 'c9' in the background; there are: 'c1'"):
            await tools.check_command("c9")

    with_tools(tmp_path, main)


def test_one_that_ends_in_the_background_says_how(tmp_path: Path) -> None:
    async def main(tools: CommandTools) -> None:
        await tools.start_command("exit 4")
        assert await until(tools, lambda shown: "running" not in shown) == "[exit code 4]"
        assert await tools.stop_command("c1") == "[exit code 4]"

    with_tools(tmp_path, main)


def test_there_is_a_limit_to_what_runs_in_the_background(tmp_path: Path) -> None:
    async def main(tools: CommandTools) -> None:
        for _ in range(8):
            await tools.start_command("sleep 300")
        with pytest.raises(ToolFailed, match="8 commands are running in the background; stop one"):
            await tools.start_command("true")
        await tools.stop_command("c3")
        assert await tools.start_command("true") == "started as 'c9'"

    with_tools(tmp_path, main)


@pytest.mark.parametrize("command", ["echo a\0b", "x" * 3_000_000], ids=["a NUL", "too long"])
def test_a_command_that_no_shell_takes_is_refused(command: str, tmp_path: Path) -> None:
    async def main(tools: CommandTools) -> None:
        with pytest.raises(ToolFailed, match="the command cannot be started"):
            await tools.run_command(command)

    with_tools(tmp_path, main)
