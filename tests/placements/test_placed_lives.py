"""How a plugin begins and ends in every placement, and what it is told of itself and its host."""

from __future__ import annotations

import logging
from pathlib import Path

import orjson
import pytest

from ally_plugins import Host, Serves, ToolCall, ToolCallError
from ally_plugins.contract.values.masking import Secret
from ally_plugins.journal.journal import Journal
from ally_plugins.policy.budget import Limits
from tests.kit.placements import Placed, look, records_of
from tests.kit.waiting import go, until


def test_calls_may_be_made_from_ally_start_on_to_ally_stop(placed: Placed) -> None:
    async def main() -> None:
        plugins = {"p": placed("lives:Lives"), "q": placed("lives:LivesInThread")}
        journal = Journal.in_memory()
        async with placed.host(plugins, journal=journal) as host:
            host.session("s")
            assert {plugin.state for plugin in host.plugins.values()} == {"running"}
            seen = await look(host)
            assert seen[:2] == ["UnavailableRefused", ["start", None]]
            assert seen[2]["returned"]["id"] == "p:later"
            assert (await host.call_tool("later")).output == "acted"
            assert await look(host, "q") == ["start"]
        told = {message.plugin: (message.body or {})["content"] for message in journal.pending("s")}
        assert told == {"p": "stops ", "q": "stops"}
        await journal.close()

    go(main())


@pytest.mark.parametrize("how", ["error", "exit", "refused"])
def test_a_start_that_fails_is_final_and_its_gates_deny(how: str, placed: Placed) -> None:
    words = {
        "error": "ValueError: a broken thing",
        "exit": "SystemExit: 3",
        "refused": "'p' is not granted 'actions'; the operator grants it with `ally-plugins grant p actions`",
    }[how]

    async def main() -> None:
        settings = {"start": how}
        plugins = {
            "p": placed("lives:Lives", ["tools", "gate:tool_call"], settings=settings),
            "q": placed("lives:LivesInThread", settings={"start": how.replace("refused", "error")}),
        }
        async with placed.host(plugins) as host:
            plugin = host.plugins["p"]
            assert plugin.state == host.plugins["q"].state == "failed"
            assert plugin.reason.startswith("it could not start: ")
            assert (words if how == "refused" else placed.raised(words)) in plugin.reason
            assert "ally-plugins" in plugin.reason
            ruling = await host.session().gate_tool_call(ToolCall("bash"))
            assert [vote.cause for vote in ruling.votes] == ["failed", "failed"]
            with pytest.raises(Exception, match="there is no tool 'look'"):
                await host.call_tool("look")

    go(main())


def test_a_start_past_its_deadline_is_given_up(placed: Placed) -> None:
    async def main() -> None:
        deadlines = {"ally_start": 0.3}
        plugins = {"p": placed("lives:Lives", settings={"start": "hang"}, deadlines=deadlines)}
        async with placed.host(plugins) as host:
            plugin = host.plugins["p"]
            assert plugin.state == ("backoff" if placed.placement.starts_again else "failed")
            assert "ally_start did not " in plugin.reason
            assert "within 0.3 s" in plugin.reason
            ruling = await host.session().gate_tool_call(ToolCall("bash"))
            assert ruling.votes[0].cause == ("restarting" if placed.placement.starts_again else "failed")

    go(main())


@pytest.mark.parametrize("how", ["error", "exit", "hang"])
def test_a_stop_that_goes_wrong_is_logged_and_holds_nothing_up(
    how: str, placed: Placed, caplog: pytest.LogCaptureFixture
) -> None:
    words = {
        "error": "ValueError: a broken thing",
        "exit": "SystemExit: 3",
        "hang": "TimedOut: ally_stop did not answer within 0.4 s",
    }[how]

    async def main() -> None:
        journal = Journal.in_memory()
        plugins = {"p": placed("lives:Lives", settings={"stop": how}, deadlines={"stop": 0.4})}
        async with placed.host(plugins, journal=journal) as host:
            host.session("s")
            plugin = host.plugins["p"]
        assert plugin.state == "stopped"
        (message,) = journal.pending("s")
        assert (message.body or {})["content"] == f"stops {how}"
        assert "ally_stop of 'p' failed" in caplog.text
        assert placed.raised(words) in caplog.text
        await journal.close()

    go(main())


MANIFEST = """
[permissions]
tools = { reason = "r" }
emit_event = { reason = "r" }
add_message = { roles = ["user"], reason = "r" }
request_action = { actions = ["compact"], reason = "r" }
[settings.limit]
type = "integer"
default = 3
[settings.ratio]
type = "number"
[settings.token]
type = "string"
secret = true
"""


def test_a_plugin_is_told_the_same_of_itself_and_its_host(placed: Placed, tmp_path: Path) -> None:
    async def main() -> None:
        settings = {"ratio": 0.5, "token": Secret("s3cr3t-value")}
        plugins = {"p": placed("lives:Told", manifest=MANIFEST, settings=settings)}
        serves = Serves(["TOOL_CALL_END"], ["permission"], [])
        options = {"actions": ["compact"], "serves": serves, "home": tmp_path / "home"}
        async with placed.host(plugins, **options) as host:
            told = (await host.call_tool("told")).data
            assert host.home is not None
            data_dir = Path(told["data_dir"])
            if placed.placement.is_elsewhere:
                assert data_dir.parts[-4:] == ("data", "p", "hosts", "host")
            else:
                assert data_dir == host.home.data_dir("p")
            assert orjson.loads(orjson.dumps(told)) == {
                "name": "p",
                "repr": "<Ally of 'p'>",
                "settings": "{'limit': 3, 'ratio': 0.5, 'token': '[secret]'}",
                "token": len("s3cr3t-value"),
                "data_dir": str(data_dir),
                "supports": ["add_message", "trigger_turn", "TOOL_CALL_END", "gate:permission", "compact"],
                "session": None,
            }
            assert (data_dir / "note").read_text() == "kept"
            host.session("s")
            in_session = await host.call_tool("told", session_id="s")
            assert in_session.data["session"] == "s"
        async with placed.host(plugins) as host:
            nowhere = (await host.call_tool("told")).data
            # A worker has a folder for it all the same.
            if not placed.placement.is_elsewhere:
                assert nowhere["data_dir"] == "the host of 'p' keeps no state directory; give Host a home"

    go(main())


def test_a_secret_stays_one(placed: Placed, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        plugins = {"p": placed("lives:Told", manifest=MANIFEST, settings={"token": Secret("s3cr3t-value")})}
        async with placed.host(plugins, actions=["compact"]) as host:
            host.session("s")
            refused = (await host.call_tool("leak")).data
            assert [(each["raised"], each["field"]) for each in refused] == [
                ("ValidationRefused", "data"), ("ValidationRefused", "content"), ("ValidationRefused", "arguments"),
            ]  # fmt: skip
            with pytest.raises(ToolCallError) as failed:
                await host.call_tool("raise_it")
            assert "s3cr3t-value" not in str(failed.value)
            texts = [str(r.data) for kind in ("crash", "refusal") for r in await records_of(host, kind)]
            assert texts
            assert "s3cr3t-value" not in "".join(texts) + caplog.text

    go(main())


def test_the_log_is_the_hosts_and_bounded(placed: Placed, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    def written() -> list[tuple[str, str]]:
        return [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "ally_plugins.plugin.p"]

    async def log(host: Host) -> None:
        await host.call_tool("write_log")
        await host.call_tool("log_from_thread")
        await until(lambda: ("ERROR", "from a thread") in written())

    async def main() -> None:
        async with placed.host({"p": placed("lives:Told")}) as host:
            await log(host)
            lines = written()
            assert (("DEBUG", "hidden") in lines) is placed.placement.shares_the_hosts_loop
            lines = [line for line in lines if line[0] != "DEBUG"]
            line_end = "\\n" if placed.placement.makes_logs_one_line else "\n"
            assert lines[:2] == [("INFO", "an info 1"), ("WARNING", f"a warning{line_end}in two lines")]
            assert lines[2][0] == lines[3][0] == "ERROR"
            assert lines[2][1].startswith("an error")
            assert lines[3][1] == "from a thread"
            assert ("ValueError: inner" in caplog.text) is placed.placement.tells_what_was_raised
        caplog.clear()
        limits = Limits(logs_per_minute=10)
        async with placed.host({"p": placed("lives:Told", limits=limits)}) as host:
            await host.call_tool("flood")
            await until(lambda: len(written()) >= 10)
            assert len(written()) == 10
            await until(lambda: host.plugins["p"].counts.refused["budget"] == 40)

    go(main())
