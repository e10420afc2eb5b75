from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ally_plugins.journal.audit import verify
from ally_plugins.journal.audit_head import read_head
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.reader import JournalReader
from ally_plugins.journal.values import Record

CHILD = Path(__file__).with_name("journal_child.py")
PER_CALLER = 60


def host(path: Path, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(CHILD), "some", str(path), name, str(PER_CALLER)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.smoke
@pytest.mark.slow
def test_two_hosts_that_write_one_journal_at_once_make_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    hosts = [host(path, name) for name in ("a", "b")]
    for child in hosts:  # both are open before one begins; they create the file at the same time
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
    for child in hosts:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    told = [line.split() for child in hosts for line in child.communicate(timeout=60)[0].splitlines()]
    assert [child.returncode for child in hosts] == [0, 0]

    with JournalReader(path) as reading:
        stored = {message.id: message.n for message in reading.messages("s")}
        numbers = [record.n for record in reading.records()]
        keys = [message.key for message in reading.messages("s") if message.key is not None]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(told) == 2 * 4 * PER_CALLER
    for _, n, id_ in told:
        assert stored[id_] == int(n)
    assert len(keys) == len(set(keys)) == 4 * PER_CALLER // 5
    assert sum(what == "earlier" for what, *_ in told) == 4 * PER_CALLER // 5
    assert len(stored) == sum(what == "accepted" for what, *_ in told)
    report = verify(path)
    assert report.problem is None
    assert report.lag == 0


def test_two_journals_of_one_process_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    first, second = Journal.open(path), Journal.open(path)
    for i in range(50):
        assert first.append_blocking(Record("x", i)) == 2 * i + 1
        assert second.append_blocking(Record("y", i)) == 2 * i + 2
    second.close_blocking()
    first.close_blocking()
    assert verify(path).ok


def test_the_head_of_the_host_that_wrote_last_stays(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    first, second = Journal.open(path), Journal.open(path)
    first.append_blocking(Record("x", 1))
    second.append_blocking(Record("x", 2))
    second.close_blocking()
    first.close_blocking()
    head = read_head(tmp_path / "audit.head")
    assert head is not None
    assert head.n == 2


@pytest.mark.slow
def test_a_verification_beside_a_busy_host_finds_nothing_wrong(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with subprocess.Popen([sys.executable, str(CHILD), "for-ever", str(path), "x"], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        checked = 0
        while checked < 2000:
            for _ in range(50):
                child.stdout.readline()
            report = verify(path)
            assert report.problem is None
            checked = report.records
        child.kill()


@pytest.mark.usefixtures("no_leaks")
def test_a_reader_follows_what_another_process_writes(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    Journal.open(path).close_blocking()
    with host(path, "a") as child, JournalReader(path) as reading:
        follower = reading.follow(kind="decision", after_n=0)
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
        found = [next(follower).ref for _ in range(100)]
        assert len(set(found)) == 100
        follower.close()  # type: ignore[attr-defined]
        child.communicate(timeout=60)
