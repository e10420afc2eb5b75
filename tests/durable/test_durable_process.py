from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ally_plugins.contract.values.errors import NotFoundRefused, UnavailableRefused, ValidationRefused
from ally_plugins.contract.values.eventjson import event_from_params
from ally_plugins.contract.values.events import TodoUpdate, ToolCallEnd
from ally_plugins.host.durable.process import WINDOW
from tests.durable.rig import Heard, ends
from tests.kit.waiting import go


def ids(params: list[dict[str, Any]]) -> list[str]:
    return [one["id"] for one in params]


def numbered(first: int, last: int) -> list[str]:
    return [f"s:{number}" for number in range(first, last + 1)]


def test_a_daemon_gets_its_events_with_offsets_as_they_were_emitted(rig: Any) -> None:
    async def main() -> None:
        async with rig() as host:
            await host.daemon()
            link = host.connect()
            sent = ToolCallEnd(tool_name="bash", success=False, output="x", call_id="c1")
            host.emit(sent, origin=("other",))
            (params,) = await link.take(1)
            assert isinstance(params["offset"], str)
            event = event_from_params(params)
            assert event == sent
            assert event is not None
            assert (event.id, event.timestamp, event.origin) == ("s:1", 1_000_001, ("other",))
            assert host.lanes["p"].scope_of("s:1", None).origin == ("other",)
            await host.feeds.acknowledge("p", params["offset"])
            assert host.lanes["p"].scope_of("s:1", None).cause is None  # what it has done with is forgotten

    go(main())


def test_at_most_a_window_is_sent_beyond_what_was_acknowledged(rig: Any) -> None:
    async def main() -> None:
        async with rig() as host:
            await host.daemon()
            link = host.connect()
            host.emit(*ends(3 * WINDOW))
            first = await link.take(WINDOW)
            for _ in range(50):
                host.feeds.wake()
                await asyncio.sleep(0)
            assert len(link.written) == WINDOW
            await host.feeds.acknowledge("p", first[9]["offset"])
            await link.take(10)
            assert len(link.written) == WINDOW + 10
            await host.feeds.acknowledge("p", link.written[-1]["offset"])
            await link.take(WINDOW)
            assert ids(link.written) == numbered(1, 2 * WINDOW + 10)

    go(main())


def test_an_acknowledgement_is_on_disk_when_it_is_answered(rig: Any, kept: Any) -> None:
    async def main() -> None:
        async with rig() as host:
            await host.daemon()
            begun = kept()
            assert begun is not None
            link = host.connect()
            host.emit(*ends(3))
            params = await link.take(3)
            assert kept() == begun
            for one in params:
                await host.feeds.acknowledge("p", one["offset"])
                assert kept() == one["offset"]

    go(main())


def test_after_a_restart_of_the_daemon_everything_after_its_last_word_comes_again(rig: Any) -> None:
    async def main() -> None:
        async with rig() as host:
            await host.daemon()
            link = host.connect()
            host.emit(*ends(10))
            params = await link.take(10)
            await host.feeds.acknowledge("p", params[3]["offset"])
            host.disconnect()
            host.emit(*ends(2))
            again = host.connect()
            assert ids(await again.take(8)) == numbered(5, 12)
            assert [one["offset"] for one in again.written[:6]] == [one["offset"] for one in params[4:]]

    go(main())


def test_a_daemon_that_came_again_unnoticed_is_begun_anew_as_well(rig: Any) -> None:
    async def main() -> None:
        async with rig() as host:
            await host.daemon()
            host.emit(*ends(2))
            await host.connect().take(2)
            again = host.connect()  # nobody said that the first was gone
            assert ids(await again.take(2)) == ["s:1", "s:2"]

    go(main())


def test_after_a_restart_of_the_host_everything_after_the_last_word_comes_again(rig: Any) -> None:
    async def main() -> None:
        async with rig() as host:
            await host.daemon()
            link = host.connect()
            host.emit(*ends(300))
            params = await link.take(WINDOW)
            await host.feeds.acknowledge("p", params[99]["offset"])
        async with rig() as host:
            host.emit(*ends(2))
            await host.daemon()
            link = host.connect()
            assert ids(await link.take(202)) == numbered(101, 302)

    go(main())


def test_what_a_daemon_of_before_has_done_can_still_be_said(rig: Any) -> None:
    async def main() -> None:
        async with rig() as host:
            await host.daemon()
            host.emit(*ends(5))
            params = await host.connect().take(5)
            host.disconnect()
            await host.feeds.acknowledge("p", params[2]["offset"])
            link = host.connect()
            assert ids(await link.take(2)) == ["s:4", "s:5"]

    go(main())


@pytest.mark.parametrize(
    "offset", ["", "x", "1", "1.2.3", "-1.0", "1.-2", "1e3.0", "\u0663.\u0661", " 1.1", "9" * 40, None, 7, {}]
)
def test_garbage_is_refused_as_an_offset_and_changes_nothing(rig: Any, offset: Any) -> None:
    async def main() -> None:
        async with rig() as host:
            await host.daemon()
            with pytest.raises(ValidationRefused, match="expected the `offset` of an event"):
                await host.feeds.acknowledge("p", offset)

    go(main())


def test_an_offset_that_was_never_sent_is_refused_and_an_old_one_changes_nothing(rig: Any, kept: Any) -> None:
    async def main() -> None:
        async with rig() as host:
            await host.daemon()
            link = host.connect()
            host.emit(*ends(3))
            first, second, third = await link.take(3)
            await host.feeds.acknowledge("p", second["offset"])
            for offset in (first["offset"], second["offset"], "0.0"):
                await host.feeds.acknowledge("p", offset)
                assert kept() == second["offset"]
            for offset in ("999999.1", f"{third['offset']}9"):
                with pytest.raises(NotFoundRefused, match="was not sent to 'p'"):
                    await host.feeds.acknowledge("p", offset)
            assert kept() == second["offset"]
            with pytest.raises(NotFoundRefused, match="has no durable subscription"):
                await host.feeds.acknowledge("q", third["offset"])

    go(main())


def test_an_acknowledgement_that_cannot_be_written_is_refused_and_can_be_said_again(rig: Any) -> None:
    async def main() -> None:
        async with rig() as host:
            await host.daemon()
            link = host.connect()
            host.emit(*ends(1))
            (params,) = await link.take(1)
            place = host.home.journal_file
            place.rename(place.with_suffix(".away"))
            with pytest.raises(UnavailableRefused, match="not on disk"):
                await host.feeds.acknowledge("p", params["offset"])
            place.with_suffix(".away").rename(place)
            while True:
                try:
                    await host.feeds.acknowledge("p", params["offset"])
                except UnavailableRefused:  # the journal tries four times a second
                    await asyncio.sleep(0.05)
                else:
                    return

    go(main())


def test_a_daemon_that_does_not_read_holds_up_nobody_and_gets_all_of_it_later(rig: Any) -> None:
    async def main() -> None:
        async with rig() as host:
            ear = Heard()
            await host.daemon()
            await host.inline(name="other", ally_tool_call_end=ear.hook)
            link = host.connect()
            link.can_write = False
            host.emit(*ends(1000))
            await ear.take(1000)
            assert link.written == []
            link.can_write = True
            host.feeds.connected("p")
            for _ in range(10):
                params = await link.take(100)
                await host.feeds.acknowledge("p", params[-1]["offset"])
            assert ids(link.written) == numbered(1, 1000)

    go(main())


def test_a_link_that_can_write_again_is_noticed_by_itself(rig_in_memory: Any) -> None:
    async def main() -> None:
        async with rig_in_memory() as host:
            await host.daemon()
            link = host.connect()
            link.can_write = False
            host.emit(*ends(1))
            await asyncio.sleep(0)
            link.can_write = True  # and nobody tells
            assert ids(await link.take(1)) == ["s:1"]

    go(main())


@pytest.mark.smoke
@pytest.mark.slow
def test_ten_thousand_events_survive_a_daemon_that_ends_again_and_again(rig: Any) -> None:
    async def main() -> None:
        done: list[str] = []
        async with rig() as host:
            await host.daemon()
            for start in range(0, 10_000, 1000):
                host.emit(*ends(1000, start))
            lives = 0
            while len(done) < 10_000:
                lives += 1
                link = host.connect()
                for _ in range(lives % 3 + 3):
                    count = min(200, 10_000 - len(done))
                    params = await link.take(count)
                    done += ids(params)
                    await host.feeds.acknowledge("p", params[-1]["offset"])
                    if len(done) == 10_000:
                        break
                host.disconnect()
        assert done == numbered(1, 10_000)

    go(main())


def test_an_event_that_no_daemon_can_read_is_passed_over(rig: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with rig() as host:
            await host.daemon()
            link = host.connect()
            host.emit(*ends(1), ToolCallEnd(tool_name="large", output="x" * 1_100_000), *ends(1))
            assert ids(await link.take(2)) == ["s:1", "s:3"]
        assert "'p' does not get it" in caplog.text

    go(main())


def test_events_that_do_not_concern_it_are_passed_and_not_looked_at_again(rig: Any, kept: Any) -> None:
    async def main() -> None:
        async with rig() as host:
            await host.daemon(types={"TODO_UPDATE"})
            before = kept()
            link = host.connect()
            host.emit(*ends(100), TodoUpdate(todos=()), *ends(100))
            (params,) = await link.take(1)
            await host.feeds.acknowledge("p", params["offset"])
            assert before != kept() == params["offset"]
        async with rig() as host:
            host.emit(*ends(100))
            await host.journal.flush()
            feed = host.feeds._owned
            await host.daemon(types={"TODO_UPDATE"})
            host.connect()
            end = host.journal.reader.last_n() + 1
            while feed["p"].feed.acknowledged.record < end:  # noqa: ASYNC110
                await asyncio.sleep(0.001)  # nobody is told of what does not concern the plugin
        assert kept() == f"{end}.0"

    go(main())


@pytest.mark.slow
def test_a_daemon_that_acknowledges_without_waiting_has_at_most_a_window_of_them_on_the_way(rig: Any) -> None:
    async def main() -> None:
        async with rig() as host:
            await host.daemon()
            link = host.connect()
            host.emit(*ends(1000))
            asked: set[asyncio.Task[None]] = set()
            for _ in range(1000):
                (params,) = await link.take(1)
                task = asyncio.ensure_future(host.feeds.acknowledge("p", params["offset"]))
                asked.add(task)
                task.add_done_callback(asked.discard)
                assert len(asked) <= WINDOW
            await asyncio.gather(*asked)
            assert ids(link.written) == numbered(1, 1000)

    go(main())


@pytest.mark.slow
def test_an_acknowledgement_that_could_not_be_written_is_written_later_though_nobody_says_it_again(
    rig: Any, kept: Any
) -> None:
    async def main() -> None:
        async with rig() as host:
            await host.daemon()
            link = host.connect()
            host.emit(*ends(2 * WINDOW))
            params = await link.take(WINDOW)
            place = host.home.journal_file
            place.rename(place.with_suffix(".away"))
            with pytest.raises(UnavailableRefused):
                await host.feeds.acknowledge("p", params[-1]["offset"])
            place.with_suffix(".away").rename(place)
            await link.take(WINDOW)  # the window moves on by itself
            assert kept() == params[-1]["offset"]

    go(main())
