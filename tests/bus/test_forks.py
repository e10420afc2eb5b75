"""A fork of the host's process (`gunicorn --preload`, multiprocessing): every call says at once that it is one."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import (
    BlockingHost,
)
from ally_plugins.catalog.home.folder import Home, try_lock, unlock
from ally_plugins.host.blocking import BlockingSession
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.values import Record
from tests.kit.forks import in_fork, outcome_of
from tests.kit.hosts import make_plugin, new_host
from tests.kit.session_calls import ARGUMENTS, CALL, INTERNAL
from tests.kit.waiting import go

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not hasattr(sys, "getdlopenflags"), reason="a system without fork")


def _outcomes(owner: Any) -> dict[str, str]:
    """Return what each public call of an object comes to."""
    found: dict[str, str] = {}
    for name, member in inspect.getmembers(type(owner), inspect.isfunction):
        if name[0] != "_" and name not in INTERNAL:
            arguments = ARGUMENTS.get(name, ())
            if name == "run":
                arguments = (_nothing(),)
            found[name] = outcome_of(lambda: getattr(owner, name)(*arguments))  # noqa: B023 - called at once
        del member
    return found


async def _nothing() -> None:
    """Stand for a coroutine that a program gives to `BlockingHost.run`."""


def _refused(outcomes: dict[str, str]) -> list[str]:
    return [name for name, outcome in outcomes.items() if outcome.startswith("HostError: ")]


def test_every_call_of_a_host_and_its_session_is_refused_in_a_fork_and_answered_in_its_own_process() -> None:
    async def main() -> None:
        async with new_host(plugins={"p": make_plugin()}) as host:
            session = host.session("s1")
            for owner in (host, session):
                outcomes = in_fork(lambda: _outcomes(owner))  # noqa: B023 - called at once
                assert set(_refused(outcomes)) == set(outcomes), outcomes
                assert len(outcomes) > 5
            assert (await session.gate_tool_call(CALL)).is_allowed

    go(main())


def test_every_call_of_a_blocking_host_and_its_session_is_refused_in_a_fork() -> None:
    with BlockingHost("test", home=None, discover=False, plugins={"p": make_plugin()}) as host:
        session = host.session("s1")
        for owner in (host, session):
            outcomes = in_fork(lambda: _outcomes(owner))  # noqa: B023 - called at once
            assert set(_refused(outcomes)) == set(outcomes), outcomes
            assert all(
                "a fork; make a host in each process" in text for text in outcomes.values() if "runs" not in text
            )
        assert session.gate_tool_call(CALL).is_allowed
        assert isinstance(session, BlockingSession)


def test_a_host_that_a_fork_makes_for_itself_works_there() -> None:
    def work() -> Any:
        with BlockingHost("test", home=None, discover=False, plugins={"p": make_plugin()}) as own:
            return own.session("s1").gate_tool_call(CALL).is_allowed

    with BlockingHost("test", home=None, discover=False, plugins={"p": make_plugin()}) as host:
        host.session("s1")
        assert in_fork(work) is True


def test_a_fork_names_nothing_as_its_parent_or_its_sibling_does() -> None:
    def work() -> Any:
        with BlockingHost("test", home=None, discover=False) as own:
            return [own.session().id for _ in range(5)]

    parent, *forks = work(), in_fork(work), in_fork(work)
    named = [name for names in (parent, *forks) for name in names]
    assert len(set(named)) == len(named) == 15


def test_a_plugin_that_forks_is_refused_what_it_asks_of_its_host_there() -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            host.session("s1")
            calls = {
                "blocking": lambda: plugin.ally.blocking.add_message("user", "hello"),
                "async": lambda: plugin.ally.add_message("user", "hello"),
            }
            outcomes = in_fork(lambda: {name: outcome_of(call) for name, call in calls.items()})
            assert all("UnavailableRefused" in text and "is a fork" in text for text in outcomes.values()), outcomes

    go(main())


def test_a_journal_takes_and_reads_nothing_in_a_fork(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal.db")
    record = Record("note", 1)
    calls = {
        "append": lambda: journal.append_blocking(record),
        "flush": journal.flush_blocking,
        "prune": lambda: journal.prune_blocking(1),
        "read": lambda: journal.last_seq("s"),
    }

    def work() -> Any:
        outcomes = {name: outcome_of(call) for name, call in calls.items()}
        journal.append_soon(record)
        journal.close_blocking()
        return [outcomes, journal.lost]

    try:
        outcomes, lost = in_fork(work)
        assert all(text.startswith("JournalError") and "is a fork" in text for text in outcomes.values()), outcomes
        assert lost == 1
        assert journal.append_blocking(record) == 1
    finally:
        journal.close_blocking()


def test_a_lock_that_a_host_has_released_is_free_though_a_fork_of_it_lives_on(tmp_path: Path) -> None:
    home = Home("test", tmp_path / "home")
    home.prepare()
    descriptor = home.open_lock("some.lock")
    assert try_lock(descriptor)
    ours, theirs = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os.close(theirs)
        os.read(ours, 1)  # lives until the parent says so, as a worker of a pool does
        os._exit(0)
    try:
        unlock(descriptor)
        again = home.open_lock("some.lock")
        assert try_lock(again)
        unlock(again)
    finally:
        os.close(theirs)
        os.waitpid(pid, 0)
        os.close(ours)


PROGRAM = """
import os, sys
from ally_plugins import BlockingHost, ToolCallEnd
with BlockingHost("t", home=None, discover=False) as host:
    session = host.session("s1")
    if not (pid := os.fork()):
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    session.emit(ToolCallEnd(tool_name="fetch", success=True, call_id="c9"))
    host.run(host.host.journal.flush())
print("kept")
"""


@pytest.mark.slow
def test_a_fork_that_exits_amid_the_block_leaves_the_host_and_its_journal_alone() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.returncode) == ("kept\n", 0), done.stderr
