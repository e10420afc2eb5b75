from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ally_plugins.journal.audit import verify
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.reader import JournalReader

CHILD = Path(__file__).with_name("journal_child.py")


def killed_after(path: Path, name: str, lines: int) -> list[str]:
    """Run a host, kill it with SIGKILL when it has told so many things, and return all that it told."""
    command = [sys.executable, str(CHILD), "for-ever", str(path), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        told = [child.stdout.readline() for _ in range(lines)]
        child.kill()
        told += child.stdout.readlines()
    assert child.returncode == -signal.SIGKILL
    return [line.strip() for line in told if line.endswith("\n")]


def check(path: Path, told: list[str]) -> None:
    states: dict[str, str] = {}
    with JournalReader(path) as reading:
        stored = list(reading.messages("s"))
        for message in stored:
            assert message.id not in states, "written twice"
            assert message.body == {"role": "user", "content": f"hello from {message.id}"}
            states[message.id] = message.state
    for line in told:
        what, *ids = line.split()
        if what == "accepted":
            assert all(id_ in states for id_ in ids), "accepted, and lost"
        else:
            assert all(states[id_] == "delivered" for id_ in ids), "told as delivered, and pending"
    for id_, state in states.items():
        other = id_[:-1] + ("b" if id_.endswith("a") else "a")
        assert state == states.get(other, "pending"), "half marked"
    report = verify(path)
    assert report.problem is None, report.problem


def kill_many_times(path: Path, rounds: int, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - where to kill, and repeatable
    told: list[str] = []
    for round_ in range(rounds):
        told += killed_after(path, f"r{round_}", chance.choice([1, 2, 10, 100, chance.randrange(1, 1500)]))
        check(path, told)
    Journal.open(path).close_blocking()  # goes on where the last one was killed
    check(path, told)


@pytest.mark.slow
def test_nothing_accepted_is_lost_when_the_host_is_killed_at_random_points(tmp_path: Path) -> None:
    kill_many_times(tmp_path / "journal.db", 5, 1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 6))
def test_nothing_accepted_is_lost_in_a_hundred_kills(seed: int, tmp_path: Path) -> None:
    kill_many_times(tmp_path / "journal.db", 25, seed)  # four times 25
