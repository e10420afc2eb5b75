"""Hosts that are killed, hosts whose disk is full, hosts that share a home: nothing accepted is lost or doubled."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from ally_plugins.journal.audit import verify
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.reader import JournalReader

CHILD = Path(__file__).with_name("durability_child.py")


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(CHILD), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def killed_after(home: Path, round_: int, last: int, lines: int) -> list[str]:
    """Run a host, kill it with SIGKILL when it has told so many things, and return all that it told."""
    with start("talk", home, round_, last) as child:
        assert child.stdout is not None
        told = [child.stdout.readline() for _ in range(lines)]
        child.kill()
        told += child.stdout.readlines()
    assert child.returncode == -signal.SIGKILL
    return [line.strip() for line in told if line.endswith("\n")]


def check(home: Path, accepted: dict[str, str]) -> None:
    """Every message that was acknowledged is in the journal, once, and nothing is in the conversation twice."""
    with JournalReader(home / "journal.db") as reading:
        stored = {message.id: message for message in reading.messages("s")}
    contents = [message.body["content"] for message in stored.values() if message.body]
    assert len(set(contents)) == len(contents), "one key, two messages"
    for id_, content in accepted.items():
        assert id_ in stored, "accepted, and lost"
        assert (stored[id_].body or {})["content"] == content
    path = home / "conversation"
    delivered = [line.split(" ")[0] for line in path.read_text().split("\n")[:-1]] if path.exists() else []
    once = set(delivered)
    assert len(once) == len(delivered), "delivered twice"
    assert once <= set(stored), "delivered, and not in the journal"
    for id_, message in stored.items():
        assert message.state == "pending" or id_ in once, "said to be delivered, and was not"
    report = verify(home / "journal.db")
    assert report.problem is None, report.problem


def kill_many_times(home: Path, rounds: int, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - where to kill, and repeatable
    accepted: dict[str, str] = {}
    last = 0
    for round_ in range(1, rounds + 1):
        told = killed_after(home, round_, last, chance.choice([1, 5, 25, 30, chance.randrange(25, 1_000)]))
        numbers = [0]
        for line in told:
            what, *rest = line.split()
            if what == "accepted":
                id_, content = rest
                assert accepted.get(id_, content) == content
                accepted[id_] = content
                if content.startswith(f"r{round_}-"):
                    numbers.append(int(content.partition("-")[2]))
        last = max(0, max(numbers) - 8)
        check(home, accepted)
    with start("deliver", home) as child:
        assert child.wait(60) == 0
    check(home, accepted)
    delivered = {line.split(" ")[0] for line in (home / "conversation").read_text().split("\n")[:-1]}
    assert set(accepted) <= delivered, "accepted, and never delivered"


def test_nothing_accepted_is_lost_or_doubled_when_the_host_is_killed_at_random_points(tmp_path: Path) -> None:
    kill_many_times(tmp_path, 3, 1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 6))
def test_nothing_accepted_is_lost_or_doubled_in_a_hundred_kills(seed: int, tmp_path: Path) -> None:
    kill_many_times(tmp_path, 25, seed)  # four times 25


def test_two_hosts_on_one_home_keep_one_chain_and_the_keys_of_each_session(tmp_path: Path) -> None:
    Journal.open(tmp_path / "journal.db").close_blocking()
    children = [start("share", tmp_path, name, 100) for name in "ab"]
    told: dict[str, list[list[str]]] = {}
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "open\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        for name, child in zip("ab", children, strict=True):
            out, _ = child.communicate(timeout=100)
            assert child.returncode == 0
            told[name] = [line.split() for line in out.splitlines()]
    finally:
        for child in children:
            child.kill()
    assert {len(lines) for lines in told.values()} == {400}
    # Both use the same keys, each in its own session: every message is accepted, under an id of its own.
    keys: dict[str, set[str]] = {}
    for lines in told.values():
        for what, *rest in lines:
            assert what == "accepted", rest
            if rest[2] != "None":
                keys.setdefault(rest[2], set()).add(rest[0])
    assert len(keys) == 80
    assert all(len(ids) == 2 for ids in keys.values())
    report = verify(tmp_path / "journal.db")
    assert report.problem is None, report.problem
    with JournalReader(tmp_path / "journal.db") as reading:
        messages = [message for name in "ab" for message in reading.messages(f"s-{name}")]
    assert len({message.id for message in messages}) == len(messages) == 2 * 400
    assert {message.state for message in messages} == {"delivered"}


def is_mountable() -> bool:
    return sys.platform == "linux" and os.geteuid() == 0


@pytest.mark.slow
def test_a_full_disk_refuses_what_must_be_recorded_lets_events_flow_and_recovers(tmp_path: Path) -> None:
    home = tmp_path / "small"
    home.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs", str(home)]
    if not is_mountable() or subprocess.run(options, check=False, capture_output=True).returncode:
        pytest.skip("a small file system of its own needs root")
    try:
        fill_and_free(home)
    finally:
        subprocess.run(["umount", "-l", str(home)], check=True)


PRIVILEGED = ("add_message", "register_tool", "start_task", "request_action")


def fill_and_free(home: Path) -> None:
    with start("fail", home) as child:

        def ask(command: str) -> set[str]:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(f"{command}\n")
            child.stdin.flush()
            assert select.select([child.stdout], [], [], 60)[0]
            return set(child.stdout.readline().split())

        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        fine = {"add_message=ok", "register_tool=ok", "start_task=ok", "request_action=not_found", "get_context=ok"}
        fine |= {"emit_event=ok", "heard=1"}
        assert ask("1") == fine
        filler = home / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        outcomes = ask("20")
        assert {f"{name}=unavailable" for name in PRIVILEGED} <= outcomes
        assert "heard=1" in outcomes
        assert {"get_context=ok", "emit_event=ok"} <= outcomes
        again = ask("1")  # by now it fails at once
        assert {f"{name}=unavailable" for name in PRIVILEGED} <= again
        filler.unlink()
        end = time.monotonic() + 20
        while (outcomes := ask("1")) != fine:
            assert time.monotonic() < end, outcomes
            time.sleep(0.1)  # the journal looks four times a second whether there is room again
        child.stdin.write("end\n")  # type: ignore[union-attr]
        child.stdin.flush()  # type: ignore[union-attr]
        assert child.wait(30) == 0
    report = verify(home / "journal.db")
    assert report.problem is None, report.problem
