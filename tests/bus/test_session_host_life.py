"""The life of a host: start, what may go wrong at start, stop, and what is in flight when it stops."""

# ruff: noqa: ARG001, ARG002 - hooks and fixtures name what they are given, used or not

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import (
    Ally,
    Host,
    HostError,
    PluginRecord,
    RefusedError,
    ToolCall,
    ToolCallStart,
    UnavailableRefused,
)
from ally_plugins.catalog.home.config import PluginConfig
from ally_plugins.contract.values.errors import JournalError
from ally_plugins.journal.journal import Journal
from tests.kit.hosts import make_plugin, new_host
from tests.kit.waiting import go

if TYPE_CHECKING:
    from pathlib import Path


def mandatory(plugin: Any) -> Any:
    return plugin, PluginRecord.by_code("p", config=PluginConfig(enabled=True, is_decided=True, mandatory=True))


class Broken:
    """A plugin that cannot be built."""

    def __init__(self, ally: Ally) -> None:
        raise ZeroDivisionError("at start")


def test_a_host_starts_once_at_a_time() -> None:
    async def main() -> None:
        async with new_host() as host:
            with pytest.raises(HostError, match="runs already"):
                await host.start()
            assert host.session("s").id == "s"

    go(main())


def test_before_and_after_its_life_a_host_says_that_it_does_not_run() -> None:
    async def main() -> None:
        host = new_host()
        for _ in range(2):
            with pytest.raises(HostError, match="does not run"):
                host.session("s")
            with pytest.raises(HostError, match="does not run"):
                _ = host.journal
            assert host.plugins == {}
            await host.start()
            await host.stop()
            await host.stop()

    go(main())


def test_a_plugin_that_cannot_start_is_marked_and_the_others_run() -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"bad": Broken, "good": plugin}) as host:
            host.session("s")
            assert host.plugins["bad"].state == "failed"
            assert "ZeroDivisionError: at start" in host.plugins["bad"].reason
            await plugin.ally.add_message("user", "hello", session_id="s")

    # Its gates deny, and the message gate is granted to it: by code it has everything.
    with pytest.raises(RefusedError, match="bad"):
        go(main())


def test_a_mandatory_plugin_that_cannot_start_stops_the_start_and_leaves_nothing_running(
    tmp_path: Path, no_leaks: None
) -> None:
    stopped: list[str] = []

    async def ally_stop(self: Any) -> None:
        stopped.append(self.ally.name)

    async def main() -> None:
        plugins = {"p": mandatory(Broken), "other": make_plugin(ally_stop=ally_stop)}
        host = Host("test", home=tmp_path, discover=False, plugins=plugins)
        with pytest.raises(HostError, match=r"the mandatory plugin 'p' is failed: .*at start"):
            async with host:
                pytest.fail("it must not start")
        assert host.plugins == {}
        assert asyncio.all_tasks() == {asyncio.current_task()}

    go(main())
    assert stopped == ["other"]


def test_a_home_that_cannot_be_written_stops_the_start_in_words(tmp_path: Path, no_leaks: None) -> None:
    (tmp_path / "journal.db").mkdir()

    async def main() -> None:
        with pytest.raises(JournalError):
            async with Host("test", home=tmp_path, discover=False):
                pytest.fail("it must not start")

    go(main())


def test_grants_for_a_plugin_that_is_not_given_are_an_error_at_once() -> None:
    with pytest.raises(HostError, match="grants are given for q"):
        new_host(plugins={"p": make_plugin()}, grants={"q": ["tools"]})


def test_an_exception_inside_stops_the_host_and_passes_through(no_leaks: None) -> None:
    stopped: list[str] = []

    async def ally_stop(self: Any) -> None:
        stopped.append("stopped")

    async def main() -> None:
        async with new_host(plugins={"p": make_plugin(ally_stop=ally_stop)}) as host:
            host.session("s")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        go(main())
    assert stopped == ["stopped"]


@pytest.mark.slow
def test_calls_in_flight_when_the_host_stops_end_with_an_answer() -> None:
    is_asked = asyncio.Event()

    async def ally_gate_message(self: Any, message: Any) -> None:
        is_asked.set()
        await asyncio.Event().wait()

    async def main() -> None:
        plugin = make_plugin()
        plugins = {"p": plugin, "g": make_plugin(ally_gate_message=ally_gate_message)}
        async with new_host(plugins=plugins) as host:
            session = host.session("s")
            calls = [
                asyncio.create_task(plugin.ally.add_message("user", "hello")),
                asyncio.create_task(plugin.ally.emit_event("done")),
                asyncio.create_task(plugin.ally.start_task("job", asyncio.sleep(60))),
                asyncio.create_task(plugin.ally.request_action("p:unknown")),
            ]
            question = asyncio.create_task(session.gate_tool_call(ToolCall("bash")))
            await is_asked.wait()
        async with asyncio.timeout(2):
            answers = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(answers[0], RefusedError)
        assert isinstance(answers[3], RefusedError)
        assert (await question).is_denied or (await question).is_allowed

    go(main())


def test_a_call_that_reaches_the_journal_after_the_end_is_refused_in_words() -> None:
    plugin = make_plugin()

    async def main() -> None:
        async with new_host(plugins={"p": plugin}) as host:
            host.session("s")
        with pytest.raises(UnavailableRefused, match="stopped"):
            await plugin.ally.add_message("user", "late")

    go(main())


def test_a_journal_of_the_host_author_s_own_stays_open(tmp_path: Path) -> None:
    async def main() -> None:
        journal = Journal.open(tmp_path / "own.db")
        plugin = make_plugin()
        async with Host("test", home=None, discover=False, plugins={"p": plugin}, journal=journal) as host:
            host.session("s")
            await plugin.ally.add_message("user", "hello")
        assert len(journal.pending("s")) == 1
        await journal.flush()
        await journal.close()

    go(main())


@pytest.mark.slow
def test_a_hook_that_hangs_holds_up_the_end_no_longer_than_is_said() -> None:
    async def hang(self: Any, event: Any) -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if asyncio.current_task().cancelling() > 1:  # type: ignore[union-attr]
                    raise

    async def main() -> None:
        config = PluginConfig(enabled=True, is_decided=True, deadlines={"stop": 0.1})
        record = PluginRecord.by_code("p", config=config)

        async def ally_stop(self: Any) -> None:
            """Have a last hook."""

        plugin = make_plugin(ally_tool_call_start=hang, ally_stop=ally_stop)
        async with asyncio.timeout(6):
            async with new_host(plugins={"p": (plugin, record)}) as host:
                host.session("s").emit(ToolCallStart(tool_name="bash"))
                await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    go(main())
