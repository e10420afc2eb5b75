"""Two hosts on one home: each feeds the sessions that it has, one of them those that nobody has; all is answered."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins import Deny, Host, NotFoundRefused, PluginRecord, RefusedError, ToolCallEnd, hookimpl
from ally_plugins.contract.manifest import Manifest
from ally_plugins.host.durable import feeds
from ally_plugins.host.durable.offsets import Place
from ally_plugins.host.durable.progress import Look, Progress
from ally_plugins.policy.permissions import GrantSet
from tests.durable.rig import Heard, ends
from tests.kit.hosts import make_plugin
from tests.kit.waiting import go, until

MANIFEST = Manifest(subscribe=("TOOL_CALL_END",), durable=("TOOL_CALL_END",))


class Echo:
    """Answers each event, and notes what became of the answer."""

    def __init__(self, ally: Any) -> None:
        self.ally = ally
        self.answers: list[tuple[str, str]] = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    @hookimpl
    async def ally_tool_call_end(self, event: Any) -> None:
        await self.may_go_on.wait()
        try:
            receipt = await self.ally.add_message("user", f"heard {event.tool_name}", session_id=event.session_id)
        except RefusedError as refusal:
            self.answers.append((event.tool_name, type(refusal).__name__))
        else:
            self.answers.append((event.tool_name, receipt.state))

    @property
    def heard(self) -> list[str]:
        return [name for name, _ in self.answers]


def new_host(home: Path, **others: Any) -> Host:
    record = PluginRecord.by_code("p", MANIFEST, grants=GrantSet.everything())
    return Host("test", home=home, discover=False, plugins={"p": (Echo, record), **others})


def echo(host: Host) -> Echo:
    found = host.plugins["p"].instance
    assert isinstance(found, Echo)
    return found


def emit(session: Any, *names: str) -> None:
    for name in names:
        session.emit(ToolCallEnd(tool_name=name, success=True))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "POLL_S", 0.02)


def test_each_host_feeds_its_own_sessions_and_every_answer_is_accepted_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with new_host(tmp_path) as a, new_host(tmp_path) as b:
            first, second = a.session("first"), b.session("second")
            names = {host: [f"{letter}{n}" for n in range(20)] for host, letter in ((a, "a"), (b, "b"))}
            for one, two in zip(names[a], names[b], strict=True):
                emit(first, one)
                emit(second, two)
                await asyncio.sleep(0)
            for host, session in ((a, first), (b, second)):
                await until(lambda: len(echo(host).answers) >= 20)  # noqa: B023 - waited for here
                assert echo(host).answers == [(name, "pending") for name in names[host]]
                entered = [message.content for message in await session.safe_point("step")]
                assert entered == [f"heard {name}" for name in names[host]]

    go(main())


def test_an_event_of_a_session_that_nobody_has_goes_to_one_host_and_its_answer_waits_for_the_session(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with new_host(tmp_path) as a, new_host(tmp_path) as b:
            for host in (a, b):
                echo(host).may_go_on.clear()
            session = b.session("left")
            emit(session, "one", "two", "three")
            await session.close()
            for host in (a, b):
                echo(host).may_go_on.set()
            await until(lambda: len(echo(a).answers + echo(b).answers) >= 3)
            assert sorted(echo(a).answers + echo(b).answers) == [
                ("one", "pending"), ("three", "pending"), ("two", "pending")
            ]  # fmt: skip
            await a.journal.flush()
            await b.journal.flush()
            entered = [message.content for message in await a.session("left").safe_point("turn_start")]
            assert sorted(entered) == ["heard one", "heard three", "heard two"]

    go(main())


@pytest.mark.slow
def test_an_answer_to_a_closed_session_is_shown_to_gates_and_one_elsewhere_is_refused(tmp_path: Path) -> None:
    shown: list[str] = []

    async def ally_gate_message(self: Any, message: Any) -> Any:  # noqa: ARG001
        shown.append(message.content)
        return Deny("not that") if message.content == "heard one" else None

    async def main() -> None:
        async with new_host(tmp_path, guard=make_plugin(ally_gate_message=ally_gate_message)) as host:
            echo(host).may_go_on.clear()
            session = host.session("left")
            emit(session, "one", "two")
            await session.close()
            other = host.session("other")
            echo(host).may_go_on.set()
            await until(lambda: len(echo(host).answers) == 2)
            assert echo(host).answers == [("one", "GateRefused"), ("two", "pending")]
            assert shown == ["heard one", "heard two"]
            with pytest.raises(NotFoundRefused, match="no session 'left' is open"):  # outside of a hook of its event
                await echo(host).ally.add_message("user", "hello", session_id="left")
            assert await other.safe_point("turn_start") == ()
            (waiting,) = host.journal.pending("left")
            assert waiting.body is not None
            assert waiting.body["content"] == "heard two"

    go(main())


@pytest.mark.slow
def test_what_a_killed_host_has_not_done_is_fed_by_the_other(tmp_path: Path) -> None:
    async def main() -> None:
        async with new_host(tmp_path) as a, new_host(tmp_path) as b:
            echo(b).may_go_on.clear()
            emit(b.session("theirs"), "one", "two")
            await b.journal.flush()
            emit(a.session("ours"), "mine")
            await until(lambda: echo(a).heard == ["mine"])
            with closing(sqlite3.connect(tmp_path / "journal.db")) as db, db:
                db.execute("UPDATE leases SET boot = 'another' WHERE session_id = 'theirs'")  # as if b were dead
            await until(lambda: len(echo(a).answers) >= 3)
            assert echo(a).heard == ["mine", "one", "two"]

    go(main())


def test_sessions_that_go_from_host_to_host_are_fed_once_and_whole(tmp_path: Path) -> None:
    async def main() -> None:
        async with new_host(tmp_path) as a, new_host(tmp_path) as b:
            names = []
            for turn in range(12):
                host = (a, b)[turn % 2]
                session = host.session("conv")
                batch = [f"{turn}-{n}" for n in range(5)]
                names += batch
                emit(session, *batch)
                if turn % 3:
                    await until(lambda: set(batch) <= set(echo(a).heard + echo(b).heard))  # noqa: B023
                await session.close()
            await until(lambda: len(echo(a).heard + echo(b).heard) >= len(names))
            assert sorted(echo(a).heard + echo(b).heard) == sorted(names)
            assert {state for _, state in echo(a).answers + echo(b).answers} == {"pending"}

    go(main())


@pytest.mark.slow
def test_the_host_that_leads_ends_and_another_goes_on_with_what_nobody_has(tmp_path: Path) -> None:
    async def main() -> None:
        async with new_host(tmp_path) as b:
            async with new_host(tmp_path) as a:
                emit(a.session("ours"), "one")
                emit(b.session("theirs"), "two")
                await until(lambda: echo(a).heard + echo(b).heard in (["one", "two"], ["two", "one"]))
                echo(a).may_go_on.clear()
                emit(a.sessions["ours"], "three")
                await a.journal.flush()
                first, second = echo(a), echo(b)
            await until(lambda: len(first.heard + second.heard) >= 3)
            assert "three" in second.heard
            assert sorted(first.heard + second.heard) == ["one", "three", "two"]
        async with new_host(tmp_path) as again:
            emit(again.session("ours"), "four")
            await until(lambda: echo(again).heard == ["four"])

    go(main())


def test_marks_beyond_the_bookmark_are_kept_no_longer_than_they_are_needed(rig: Any) -> None:
    def stored(host: Any) -> list[str]:
        with closing(sqlite3.connect(host.home.journal_file)) as db:
            return [name for (name,) in db.execute("SELECT name FROM meta WHERE name LIKE 'bookmark:%' ORDER BY name")]

    async def main() -> None:
        async with rig() as first:
            ear = Heard()
            await first.inline(ally_tool_call_end=ear.hook)
            for name in "xyz":
                first.emit(*ends(3), session=name)
            await ear.take(9)
            await until(lambda: stored(first) == ["bookmark:durable:p"])

    go(main())


# --- the progress alone, with hosts that come and go as they like ---

SESSIONS = ("x", "y", "z")


class SimulatedHost:
    """Reads events one at a time, as a feed does, over what all hosts share."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.progress = Progress(world.bookmark, leads=False)
        self.position = world.bookmark
        self.flying: list[tuple[str, Place]] = []
        self.owns: set[str] = set()

    def look(self) -> None:
        others = {name for host in self.world.hosts if host is not self for name in host.owns}
        look = Look(self.world.bookmark, dict(self.world.marks), frozenset(self.owns), frozenset(others))
        if (back := self.progress.take(look)) is not None:
            self.position = min(self.position, back)

    def read(self) -> None:
        self.look()
        for number, session in enumerate(self.world.events, 1):
            place = Place(1, number)
            if place > self.position:
                self.position = place
                if self.progress.admits(session, place):
                    self.progress.send(session, place)
                    self.flying.append((session, place))

    def finish(self) -> None:
        """Do what came first, and save what is done."""
        if self.flying:
            session, place = self.flying.pop(0)
            self.world.done.append(place)
            self.progress.finish(session, place)
            self.save()

    def save(self) -> None:
        progress, world = self.progress, self.world
        bookmark = progress.bookmark(self.position, self.flying) if progress.leads else progress.base
        marks = progress.unmarked(bookmark)
        world.marks.update(marks)
        world.bookmark = max(world.bookmark, bookmark)
        progress.marked.update(marks)
        for session, place in progress.move_base(bookmark).items():
            if world.marks.get(session) == place:
                del world.marks[session]
        not_done = {Place(1, n) for n in range(1, world.bookmark.events + 1)} - set(world.done)
        assert not not_done, "the bookmark has passed what nobody has done"


class World:
    """What hosts share: events by session, the bookmark and the marks; and what may be done to them."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.bookmark = Place(1, 0)
        self.marks: dict[str, Place] = {}
        self.done: list[Place] = []
        self.may_repeat: set[Place] = set()
        self.hosts = [SimulatedHost(self), SimulatedHost(self)]
        self.elect()
        self.hosts[1].owns.add("x")

    def elect(self) -> None:
        if not any(host.progress.leads for host in self.hosts):
            self.hosts[0].progress.leads = True

    def excuse(self, host: SimulatedHost, session: str | None = None) -> None:
        """Let events come again that are on their way to a host: it cannot say any more that they are done."""
        self.may_repeat |= {place for name, place in host.flying if session in {None, name}}

    def emit(self, _: SimulatedHost, session: str) -> None:
        self.events.append(session)

    def read(self, host: SimulatedHost, _: str) -> None:
        host.read()

    def finish(self, host: SimulatedHost, _: str) -> None:
        host.finish()

    def open(self, host: SimulatedHost, session: str) -> None:
        if not any(session in other.owns for other in self.hosts):
            host.owns.add(session)
            for other in self.hosts:
                self.excuse(other, session)

    def close(self, host: SimulatedHost, session: str) -> None:
        if session in host.owns:
            host.owns.discard(session)
            self.excuse(host, session)

    def start(self, _: SimulatedHost, __: str) -> None:
        if len(self.hosts) < 3:
            self.hosts.append(SimulatedHost(self))

    def kill(self, host: SimulatedHost, _: str) -> None:
        if len(self.hosts) > 1:
            self.excuse(host)
            self.hosts.remove(host)
            self.elect()

    def end(self) -> None:
        """Close all sessions, and do what is left."""
        for host in self.hosts:
            for session in list(host.owns):
                self.close(host, session)
        for _ in range(3):
            for host in self.hosts:
                host.read()
                while host.flying:
                    host.finish()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["emit", "emit", "read", "read", "finish", "finish", "open", "close", "start", "kill"]),
        st.integers(0, 2),
        st.sampled_from(SESSIONS),
    ),
    min_size=20,  # or Hypothesis makes five of them, mostly
    max_size=60,
)


@pytest.mark.slow
@given(STEPS)
def test_whatever_hosts_do_no_event_is_lost_and_none_is_fed_twice_but_after_a_kill_or_a_change_of_hands(
    steps: list[tuple[str, int, str]],
) -> None:
    world = World()
    for what, which, session in steps:
        getattr(world, what)(world.hosts[which % len(world.hosts)], session)
    world.end()
    assert set(world.done) == {Place(1, n) for n in range(1, len(world.events) + 1)}
    assert {place for place in world.done if world.done.count(place) > 1} <= world.may_repeat
