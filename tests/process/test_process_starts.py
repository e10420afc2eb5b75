"""Real processes, whatever starts them: they talk, exit, and what cannot be executed is told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from ally_plugins.contract.values.errors import CannotExecute
from ally_plugins.runtime.processes.process import Exit
from tests.kit.processes import is_alive
from tests.kit.waiting import PATIENCE, until
from tests.process.programs import end_of, launch, launching, python, shell, spec, talk

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="looks into /proc; the ways themselves are elsewhere too"
)

Ways = pytest.mark.parametrize("way", ["guardian", "direct", "piped"])


@Ways
@pytest.mark.usefixtures("no_leaks")
def test_a_process_and_the_host_talk_and_the_end_of_its_input_ends_it(way: str) -> None:
    async def main() -> None:
        async with launching(way) as launcher:
            heard: list[bytes] = []
            process = await launch(launcher, shell("echo $$; cat; echo bye; echo err >&2"), heard.append)
            assert process.transport is not None
            assert await talk(process).line() == str(process.pid)
            process.transport.write(b"hello\n")
            assert await talk(process).line() == "hello"
            process.transport.write_eof()
            assert await talk(process).line() == "bye"
            assert await end_of(process) == Exit(0, None)
            assert await process.stop(PATIENCE)
            assert b"".join(heard) == b"err\n"
            await talk(process).lost

    asyncio.run(main())


@Ways
@pytest.mark.usefixtures("no_leaks")
def test_without_stdio_all_output_is_captured_and_the_input_is_empty(way: str) -> None:
    async def main() -> None:
        async with launching(way) as launcher:
            heard: list[bytes] = []
            what = shell("echo out; echo err >&2; cat; echo end", stdio=False)
            process = await launcher.launch(what, None, heard.append)
            assert (await end_of(process)).description == "exited with code 0"
            await process.stop(0)
            assert sorted(b"".join(heard).split()) == [b"end", b"err", b"out"]
            assert process.transport is None

    asyncio.run(main())


@Ways
def test_a_process_has_its_folder_its_environment_and_a_session_of_its_own(way: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with launching(way) as launcher:
            code = "import os; print(os.getcwd(), os.getsid(0) == os.getpid(), os.fsencode(os.environ['A']))"
            process = await launch(launcher, python(code, cwd=str(tmp_path), A="ä\udcff"))
            assert await talk(process).line() == f"{tmp_path} True {os.fsencode('ä') + bytes([255])!r}"

    asyncio.run(main())


@Ways
def test_only_the_wanted_descriptors_are_inherited(way: str) -> None:
    async def main() -> None:
        kept, other = socket.socketpair()
        os.set_inheritable(kept.fileno(), True)  # noqa: FBT003
        with kept, other:
            async with launching(way) as launcher:
                process = await launch(
                    launcher, python("import os; print(*sorted(os.listdir('/proc/self/fd'), key=int))")
                )
                assert (await talk(process).line()).split()[:3] == ["0", "1", "2"]
                process = await launch(launcher, python("import os; print(len(os.listdir('/proc/self/fd')))"))
                assert await talk(process).line() == "4"  # and the one that lists

    asyncio.run(main())


def ignored_here() -> int:
    """Return the signals that this process ignores, as the kernel's mask."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigIgn"))


@Ways
def test_signals_are_as_programs_expect_them(way: str) -> None:
    async def main() -> None:
        async with launching(way) as launcher:
            process = await launch(launcher, spec("grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"))
            blocked, ignored = [int((await talk(process).line()).split()[1], 16) for _ in range(2)]
            c_librarys_own = 0b11 << 31  # 32 and 33: nobody can set them back, whoever started pytest
            # What pytest was started with ignored (by nohup, or in the background) is handed on, except by a guardian.
            pythons_own = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)
            ours = 0 if way == "guardian" else ignored_here() & ~pythons_own
            assert (blocked & ~c_librarys_own, ignored & ~c_librarys_own & ~ours) == (0, 0)

    asyncio.run(main())


def _files(folder: Path) -> None:
    (folder / "plain").write_text("echo hi\n")
    (folder / "bad-line").write_text("#!/no/such/interpreter -x\n")
    (folder / "no-line").write_bytes(b"\x00\x01\x02")
    for name in ("bad-line", "no-line"):
        (folder / name).chmod(0o755)


@Ways
@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("nodee",), "cannot execute 'nodee': no such file or directory; install it, or put it on PATH"),
        (("./missing",), "cannot execute './missing': no such file or directory; install the plugin again"),
        (("./plain",), "cannot execute './plain': permission denied: it is not executable; run chmod +x"),
        (
            ("./bad-line",),
            "cannot execute './bad-line': its interpreter is not there: '/no/such/interpreter -x'; install",
        ),
        (("./no-line",), "cannot execute './no-line': no program of this machine, and its first line names no"),
        (("./",), "cannot execute './': is a folder; name a program"),
        (("",), "cannot execute '': the command is empty; name a program"),
        ((), "cannot execute '': the command is empty"),
        (
            ("cat", "a\0b"),
            "cannot execute 'cat': its arguments or environment hold what cannot be passed on, such",
        ),
        (("cat", "\ud800"), "cannot execute 'cat': its arguments or environment hold what cannot be passed on"),
        (("cat", "x" * 4_000_000), "cannot execute 'cat': its arguments and environment are too long for this machine"),
    ],
)
@pytest.mark.usefixtures("no_leaks")
def test_what_cannot_be_executed_is_told_in_a_sentence(
    way: str, argv: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    async def main() -> None:
        _files(tmp_path)
        async with launching(way) as launcher:
            with pytest.raises(CannotExecute) as caught:
                await launch(launcher, spec(*argv, cwd=str(tmp_path)))
            assert str(caught.value).startswith(words)
            assert caught.value.plugin == "x"
            assert caught.value.is_final

    asyncio.run(main())


@Ways
def test_a_folder_that_is_not_there_is_told_as_such(way: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with launching(way) as launcher:
            with pytest.raises(
                CannotExecute, match=r"cannot execute 'cat': its folder .* cannot be entered: no such file"
            ):
                await launch(launcher, spec("cat", cwd=str(tmp_path / "gone")))

    asyncio.run(main())


@Ways
@pytest.mark.usefixtures("no_leaks")
def test_a_cancelled_launch_leaves_no_process_behind(way: str) -> None:
    async def main() -> None:
        async with launching(way) as launcher:
            await launcher.start()
            for turns in range(8):
                task = asyncio.create_task(launch(launcher, spec("sleep", "4321")))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await (await task).stop(0)
            await until(lambda: not _running("sleep\x004321"))

    asyncio.run(main())


def _running(command: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "cmdline").read_bytes().startswith(command.encode()) and is_alive(int(folder.name)):
                found.append(int(folder.name))
    return found


# --- exits ---


@Ways
@pytest.mark.parametrize(
    ("code", "how", "words"),
    [
        ("exit 3", Exit(3, None), "exited with code 3"),
        ("kill -SEGV $$", Exit(None, 11), "was killed by SIGSEGV"),
        ("kill -KILL $$", Exit(None, 9), "was killed by SIGKILL"),
    ],
)
def test_an_exit_is_told_in_words(way: str, code: str, how: Exit, words: str) -> None:
    async def main() -> None:
        async with launching(way) as launcher:
            process = await launch(launcher, shell(code))
            assert await end_of(process) == how
            assert how.description == words
            assert await process.stop(0)

    asyncio.run(main())


@pytest.mark.slow
@Ways
def test_an_exit_is_seen_while_a_grandchild_holds_the_pipes_and_what_was_written_is_there(way: str) -> None:
    async def main() -> None:
        async with launching(way) as launcher:
            heard: list[bytes] = []
            process = await launch(launcher, shell("sleep 600 & echo out; echo why >&2; exit 3"), heard.append)
            begin = time.monotonic()
            assert await end_of(process) == Exit(3, None)
            assert time.monotonic() - begin < 20  # measured: 3 ms; the grandchild would hold the pipes for ten minutes
            assert talk(process).said == b"out\n"
            if way != "piped":
                assert heard == [b"why\n"]
            assert not talk(process).lost.done()
            process.kill()
            await asyncio.wait_for(process.gone, PATIENCE)

    asyncio.run(main())
