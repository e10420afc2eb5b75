"""Two hosts on one home: a session belongs to one of them at a time, and what the other writes for it is refused."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from ally_plugins import (
    Host,
    JournalError,
    Session,
    SessionError,
    ToolCall,
    UserMessage,
)
from ally_plugins.journal import leases, writer
from ally_plugins.journal.audit import verify
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.process_identity import ProcessIdentity
from ally_plugins.journal.reader import JournalReader
from ally_plugins.journal.values import PendingMessage, Record
from tests.kit.hosts import make_plugin
from tests.kit.processes import stop_between_writes
from tests.kit.session_calls import ARGUMENTS, CALL, INTERNAL
from tests.kit.waiting import go, until, wait_until

CHILD = Path(__file__).with_name("lease_child.py")


def new_host(home: Path, plugin: Any = None) -> Host:
    return Host("test", home=home, discover=False, plugins={"talker": plugin or make_plugin()})


@contextmanager
def child(home: Path, session_id: str, silent_s: float = 10.0) -> Iterator[subprocess.Popen[str]]:
    """Run a host of another process, which has opened the session."""
    command = [sys.executable, str(CHILD), str(home), session_id, str(silent_s)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def tell(process: subprocess.Popen[str], command: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{command}\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def events_of(home: Path, session_id: str) -> list[str]:
    """Return what the person said, by the numbers of the events; fails when a number was used twice."""
    with JournalReader(home / "journal.db") as reading:
        events = list(reading.events(session_id))
    twice = [seq for seq, count in Counter(event.seq for event in events).items() if count > 1]
    assert not twice
    assert verify(home / "journal.db").problem is None
    return [event.value()["event_data"]["content"] for event in events if event.type == "USER_MESSAGE"]


def make_silent(home: Path, session_id: str) -> None:
    """Make the last beat of a session's host older than it is."""
    with closing(sqlite3.connect(home / "journal.db")) as db, db:
        changed = db.execute("UPDATE leases SET beat = beat - 60000 WHERE session_id = ?", (session_id,)).rowcount
    assert changed == 1


def test_a_session_that_another_host_has_open_is_refused_until_that_one_closes_it(tmp_path: Path) -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with new_host(tmp_path, plugin) as a, new_host(tmp_path) as b:
            first = a.session("conv")
            first.emit(UserMessage(content="one"))
            receipt = await plugin.ally.add_message("user", "for the next turn", deliver_as="next_turn")
            with pytest.raises(SessionError, match=r"session 'conv' is open in another host of this process; close it"):
                b.session("conv")
            b.session("other")
            await first.close()
            second = b.session("conv")
            second.emit(UserMessage(content="two"))
            assert [message.id for message in await second.safe_point("turn_start")] == [receipt.id]
            with pytest.raises(SessionError, match="is open in another host"):
                a.session("conv")

    go(main())
    assert events_of(tmp_path, "conv") == ["one", "two"]


def test_what_was_emitted_last_is_counted_by_the_host_that_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with new_host(tmp_path) as a, new_host(tmp_path) as b:
            for n in range(6):
                session = (a, b)[n % 2].session("conv")
                for _ in range(50):
                    session.emit(UserMessage(content=str(n)))
                await session.close()

    go(main())
    assert events_of(tmp_path, "conv") == [str(n) for n in range(6) for _ in range(50)]


def test_a_host_that_stops_lets_all_its_sessions_go_and_leaves_no_lease(tmp_path: Path) -> None:
    async def main() -> None:
        async with new_host(tmp_path) as a:
            named = [a.session(f"s{i}").id for i in range(20)] + [a.session().id for _ in range(3)]
            await a.journal.flush()
            with JournalReader(tmp_path / "journal.db") as reading:
                assert sorted(row.session_id for row in reading.leases()) == sorted(named)
        async with new_host(tmp_path) as b:
            for name in named:
                b.session(name)

    go(main())
    with JournalReader(tmp_path / "journal.db") as reading:
        assert reading.leases() == []


def test_of_many_hosts_that_open_a_session_at_once_one_has_it(tmp_path: Path) -> None:
    journals = [Journal.open(tmp_path / "journal.db") for _ in range(4)]

    def claim(i: int) -> bool:
        try:
            journals[i].claim("conv", f"h{i}", lambda: None)
        except SessionError:
            return False
        return True

    async def main() -> None:
        won = await asyncio.gather(*(asyncio.to_thread(claim, i) for i in range(4)))
        assert sum(won) == 1

    try:
        go(main())
    finally:
        for journal in journals:
            journal.close_blocking()


def test_a_session_of_a_host_that_was_killed_is_taken_over_at_once_with_what_waits_for_it(tmp_path: Path) -> None:
    async def main(message_id: str, pid: int) -> None:
        async with new_host(tmp_path) as host:
            with pytest.raises(SessionError, match=f"is open in the host of process {pid}"):
                host.session("conv")
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: ProcessIdentity(pid, None, None, ProcessIdentity.own().namespace).is_dead())
            session = host.session("conv")  # a zombie still: nobody has asked for its exit code
            assert [message.id for message in await session.safe_point("turn_start")] == [message_id]
            session.emit(UserMessage(content="three"))

    with child(tmp_path, "conv") as process:
        assert tell(process, "one").isdecimal()
        message_id = tell(process, "add")
        go(main(message_id, process.pid))
    assert events_of(tmp_path, "conv") == ["one", "three"]


@pytest.mark.slow
def test_a_host_that_was_stopped_and_wakes_can_write_nothing_and_delivers_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "SILENT_S", 0.2)

    async def take_over() -> None:
        async with new_host(tmp_path) as host:

            def is_silent() -> bool:
                row = host.journal.reader.lease("conv")
                return row is not None and row.is_free()

            await until(is_silent, "the silence of the stopped host")
            session = host.session("conv")
            session.emit(UserMessage(content="two"))
            os.kill(process.pid, signal.SIGCONT)
            refused = [tell(process, command) for command in ("safe_point", "gate", "add", "lost", "gate")]
            assert refused[0].startswith("SessionError session 'conv' was taken over by the host of process"), refused
            assert refused[1].startswith("SessionError"), refused
            assert "Refused" in refused[2], refused
            assert refused[4].startswith("SessionError"), refused
            assert [message.content for message in await session.safe_point("turn_start")] == ["mind the gap"]
            session.emit(UserMessage(content="three"))

    with child(tmp_path, "conv", 0.2) as process:
        tell(process, "one")
        tell(process, "add")
        stop_between_writes(process.pid, tmp_path / "journal.db")
        go(take_over())
    assert events_of(tmp_path, "conv") == ["one", "two", "three"]


async def _refusal(session: Session, name: str) -> str:
    try:
        made = getattr(session, name)(*ARGUMENTS.get(name, ()))
        if isinstance(made, Coroutine):
            await asyncio.wait_for(made, 5)
    except SessionError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - it is compared
        return repr(error)
    return "answered"


def test_every_call_of_a_session_that_was_taken_over_is_refused_and_another_session_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with new_host(tmp_path) as a, new_host(tmp_path) as b:
            session, other = a.session("conv"), a.session("other")
            waiting = asyncio.create_task(session.wait_for_trigger())
            make_silent(tmp_path, "conv")
            taken = b.session("conv")
            session.emit(UserMessage(content="nobody reads this"))
            other.emit(UserMessage(content="hello"))
            assert (await other.gate_tool_call(CALL)).is_allowed
            with pytest.raises(SessionError, match="taken over"):
                await waiting
            names = [
                name
                for name, _ in inspect.getmembers(Session, inspect.isfunction)
                if name[0] != "_" and name not in INTERNAL
            ]
            refusals = {name: await _refusal(session, name) for name in names}
            assert all("'conv' was taken over by another host of this process" in text for text in refusals.values()), (
                refusals
            )
            assert len(refusals) > 15
            assert "conv" not in a.sessions
            with pytest.raises(SessionError, match="is open in another host"):
                a.session("conv")
            taken.emit(UserMessage(content="mine"))
            await taken.close()
            a.session("conv").emit(UserMessage(content="mine again"))
            assert a.journal.lost > 0

    go(main())
    assert events_of(tmp_path, "conv") == ["mine", "mine again"]
    assert events_of(tmp_path, "other") == ["hello"]


def test_a_gate_that_is_asked_while_its_session_is_taken_over_allows_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with new_host(tmp_path) as b:

            async def ally_gate_tool_call(self: Any, call: ToolCall) -> None:  # noqa: ARG001
                make_silent(tmp_path, "conv")
                b.session("conv")

            async with new_host(tmp_path, make_plugin(ally_gate_tool_call=ally_gate_tool_call)) as a:
                session = a.session("conv")
                with pytest.raises(SessionError, match="conv"):
                    await session.gate_tool_call(CALL)

    go(main())


def test_a_fenced_journal_writes_none_of_a_session_and_all_of_the_batch_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    ours, theirs = Journal.open(path), Journal.open(path)
    lost: list[str] = []

    async def main() -> None:
        ours.claim("conv", "h1", lambda: lost.append("conv"))
        ours.claim("kept", "h1", lambda: lost.append("kept"))
        pending = [
            PendingMessage(f"m-{name}", name, "p", 1, "user", "steer", trigger_turn=False, body={})
            for name in ("conv", "kept")
        ]
        await asyncio.gather(*map(ours.accept, pending))
        make_silent(tmp_path, "conv")
        theirs.claim("conv", "h2", lambda: None)
        done = await asyncio.gather(
            ours.append(Record("x", 1, session_id="conv")),
            ours.mark_delivered(["m-conv"], 2),
            ours.mark_delivered(["m-kept"], 2),
            ours.append(Record("x", 1, session_id="kept")),
            ours.append(Record("x", 1)),
            return_exceptions=True,
        )
        assert [type(each).__name__ for each in done] == ["LeaseLostError"] * 2 + ["NoneType", "int", "int"]
        assert ours.healthy
        assert [message.id for message in theirs.pending("conv")] == ["m-conv"]
        assert await theirs.append(Record("y", 1, session_id="conv")) > 0

    try:
        go(main())
        assert lost == ["conv"]
        assert verify(path).problem is None
    finally:
        ours.close_blocking()
        theirs.close_blocking()


def test_a_host_that_lives_renews_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "BEAT_S", 0.01)

    async def main() -> None:
        async with new_host(tmp_path) as a, new_host(tmp_path) as b:
            a.session("conv")
            make_silent(tmp_path, "conv")

            def is_renewed() -> bool:
                row = b.journal.reader.lease("conv")
                return row is not None and not row.is_free()

            await until(is_renewed)
            with pytest.raises(SessionError, match="is open in another host"):
                b.session("conv")

    go(main())


def test_a_host_that_lost_a_session_that_it_does_not_use_is_told_by_its_next_beat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with new_host(tmp_path) as a, new_host(tmp_path) as b:
            session = a.session("conv")
            make_silent(tmp_path, "conv")
            b.session("conv")
            monkeypatch.setattr(writer, "BEAT_S", 0.01)
            await a.journal.flush()  # wakes the writing thread, which goes by the shorter time from now on
            await until(lambda: session.is_closed)

    go(main())


OWN = ProcessIdentity.own()


@pytest.mark.parametrize(
    ("process", "is_dead"),
    [
        (OWN, False),
        (attrs.evolve(OWN, started=(OWN.started or 0) + 1), True),  # the number was given to another process
        (attrs.evolve(OWN, started=None), False),
        (attrs.evolve(OWN, boot="another"), True),
        (attrs.evolve(OWN, pid=2**22 + 1), True),  # more than Linux gives
        (attrs.evolve(OWN, pid=2**22 + 1, namespace="pid:[1]"), False),  # a container's number says nothing here
        (attrs.evolve(OWN, pid=1, started=None), False),
    ],
    ids=["lives", "another with its number", "start unknown", "another boot", "gone", "another container", "init"],
)
@pytest.mark.skipif(sys.platform != "linux", reason="what is proved by /proc")
def test_a_process_is_dead_only_where_that_is_provable(process: ProcessIdentity, *, is_dead: bool) -> None:
    assert process.is_dead() is is_dead


def test_what_dead_hosts_left_is_swept_and_what_silent_ones_have_is_not(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal.db")
    try:
        with closing(sqlite3.connect(tmp_path / "journal.db")) as db, db:
            rows = [
                (f"s-{boot}-{i}", 1, boot, OWN.pid, OWN.started, boot, OWN.namespace, 1)
                for boot in ("another", str(OWN.boot))
                for i in range(3)
            ]
            db.executemany("INSERT INTO leases VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        journal.claim("conv", "h1", lambda: None)
        assert {row.host for row in journal.reader.leases()} == {"h1", OWN.boot}
    finally:
        journal.close_blocking()


@pytest.mark.skipif(sys.platform != "linux", reason="an open file can be removed on POSIX only")
def test_a_session_is_still_its_hosts_when_the_journal_has_lost_its_last_writes(tmp_path: Path) -> None:
    async def main() -> None:
        async with new_host(tmp_path) as a:
            session = a.session("conv")
            session.emit(UserMessage(content="one"))
            await a.journal.flush()
            (tmp_path / "journal.db-wal").unlink()
            session.emit(UserMessage(content="two"))

            with pytest.raises(JournalError):
                await a.journal.append(Record("x", 1))
            await until(lambda: a.journal.healthy)
            session.emit(UserMessage(content="three"))
            await session.safe_point("step")
            async with new_host(tmp_path) as b:
                with pytest.raises(SessionError, match="is open in another host"):
                    b.session("conv")
            assert session.lease.lost is None

    go(main())
    assert events_of(tmp_path, "conv")[-1] == "three"


@pytest.mark.skipif(sys.platform != "linux", reason="an open file can be moved on POSIX only")
@pytest.mark.parametrize("is_lost", [False, True])
def test_no_epoch_is_given_twice_when_the_journal_has_lost_their_count(tmp_path: Path, *, is_lost: bool) -> None:
    path, away = tmp_path / "journal.db", tmp_path / "away"
    journal = Journal.open(path)
    try:
        claimed = [journal.claim(session_id, "h1", lambda: None) for session_id in ("a", "b", "a")]
        assert [lease.epoch for lease in claimed] == [1, 2, 3]
        if is_lost:
            claimed[-1].lose("taken over")
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("DELETE FROM meta WHERE name = 'lease_epoch'")
            db.execute("DELETE FROM leases")
        path.rename(away)
        with pytest.raises(JournalError):
            journal.append_blocking(Record("x", 1))
        away.rename(path)
        wait_until(lambda: journal.healthy)
        assert {row.session_id for row in journal.reader.leases()} == {"b"} | ({"a"} if not is_lost else set())
        assert journal.claim("c", "h1", lambda: None).epoch == 4
    finally:
        journal.close_blocking()


def test_a_session_that_was_taken_over_and_closed_again_is_not_its_first_hosts(tmp_path: Path) -> None:
    async def main() -> None:
        async with new_host(tmp_path) as a, new_host(tmp_path) as b:
            session = a.session("conv")
            make_silent(tmp_path, "conv")
            taken = b.session("conv")
            taken.emit(UserMessage(content="theirs"))
            await taken.close()
            session.emit(UserMessage(content="lost"))
            await a.journal.flush()
            with pytest.raises(SessionError, match="taken over by another host, which has closed it since"):
                await session.gate_tool_call(CALL)
            a.session("conv").emit(UserMessage(content="ours again"))

    go(main())
    assert events_of(tmp_path, "conv") == ["theirs", "ours again"]
