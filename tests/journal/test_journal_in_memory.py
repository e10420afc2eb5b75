"""A journal in memory: no file has any of it, and it does what one on disk does."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from ally_plugins.contract.values.errors import JournalError
from ally_plugins.journal.audit import verify
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.reader import JournalReader
from ally_plugins.journal.store import Batch, Store, Written
from ally_plugins.journal.values import PendingMessage, Record
from tests.kit.waiting import wait_until

HOST = """
import asyncio, sys
from ally_plugins import Host, UserMessage, hookimpl

class Speaker:
    def __init__(self, ally):
        self.ally = ally

    @hookimpl
    async def ally_user_message(self, event):
        await self.ally.add_message("user", "the answer is " + "open-" + "sesame")

async def main():
    async with Host("t", home=None, discover=False, plugins={"speaker": Speaker}) as host:
        session = host.session("s")
        session.emit(UserMessage(content="what is it?"))
        while not host.journal.pending("s"):
            await asyncio.sleep(0.01)
        print("recorded", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="what a process has open is read from /proc")
def test_a_host_without_a_home_that_is_killed_leaves_nothing_to_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    environment = {**os.environ, "TMPDIR": str(folder), "SQLITE_TMPDIR": str(folder), "XDG_RUNTIME_DIR": str(folder)}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", HOST], env=environment, cwd=folder, **pipes) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"recorded\n"
        opened = [str(each.readlink()) for each in Path(f"/proc/{child.pid}/fd").iterdir()]
        assert not [each for each in opened if each.startswith(str(folder)) or "(deleted)" in each]
        assert contents(folder) == []
        child.kill()
    assert contents(folder) == []


def contents(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in folder.rglob("*") if file.is_file()]


def message(number: int) -> PendingMessage:
    return PendingMessage(f"m{number}", "s", "p", number, "user", "steer", trigger_turn=False, body={"n": number})


def test_two_journals_in_memory_have_nothing_in_common() -> None:
    first, second = Journal.in_memory(), Journal.in_memory()
    first.append_blocking(Record("x", 1))
    assert (first.reader.last_n(), second.reader.last_n()) == (1, 0)
    first.close_blocking()
    assert second.append_blocking(Record("x", 1)) == 1
    second.close_blocking()


def test_closed_it_is_gone() -> None:
    journal = Journal.in_memory()
    journal.append_blocking(Record("x", 1))
    journal.close_blocking()
    with JournalReader(journal.path) as reading, pytest.raises(JournalError):
        reading.last_n()
    assert not verify(journal.path).ok


@pytest.mark.slow
def test_readers_in_other_threads_and_a_busy_writer_do_not_refuse_one_another() -> None:
    journal = Journal.in_memory()
    failures: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        with JournalReader(journal.path) as reading:
            try:
                while not done.is_set():
                    numbers = [record.n for record in reading.records()]
                    assert numbers == list(range(1, len(numbers) + 1))
                    reading.pending("s")
            except BaseException as error:  # noqa: BLE001 - the test's own thread raises it
                failures.append(error)

    async def write() -> None:
        for start in range(0, 2000, 100):
            accepted = [journal.accept(message(start + i)) for i in range(100)]
            await asyncio.gather(*accepted)
            await journal.mark_delivered([f"m{start + i}" for i in range(50)], start)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    asyncio.run(write())
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(journal.pending("s")) == 1000
    assert verify(journal.path).ok
    journal.close_blocking()


def test_after_a_batch_that_failed_it_goes_on_with_what_it_held(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.in_memory()
    journal.append_blocking(Record("x", 1))

    def fail(_: Store, __: Batch) -> Written:
        raise JournalError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", fail)
        with pytest.raises(JournalError, match="no memory"):
            journal.append_blocking(Record("x", 2))
    wait_until(lambda: journal.healthy)
    journal.append_blocking(Record("x", 3))
    assert [record.at for record in journal.reader.records(kind="x")] == [1, 3]
    journal.close_blocking()


def test_what_is_pruned_is_gone(tmp_path: Path) -> None:
    journal = Journal.in_memory()

    async def main() -> Any:
        await journal.append(Record("x", 1, data={"old": True}))
        await journal.append(Record("x", 100, data={"new": True}))
        return await journal.prune(50)

    assert asyncio.run(main()) == 1
    assert [record.data for record in journal.reader.records(kind="x")] == [None, {"new": True}]
    assert verify(journal.path).ok
    journal.close_blocking()
    assert list(tmp_path.iterdir()) == []
