"""Changes in a running host: each takes effect for the next call and event, and a gate that is granted never opens."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Host, ToolCall, ToolCallEnd, hookimpl
from ally_plugins.catalog.home.config_edits import edit_config
from ally_plugins.catalog.home.failed_starts import failed_starts
from ally_plugins.cli.shell.journal_rows import reading_of
from ally_plugins.contract.values.errors import NotFoundRefused, UnavailableRefused
from ally_plugins.host.control.client import HostAnswer, call, hosts_of
from tests.kit.waiting import go, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from concurrent.futures import Future

    from .conftest import Operated

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs local sockets")

NAME = "ctl-guard"
SLOW = """
import asyncio
from ally_plugins import hookimpl

class Plugin:
    def __init__(self, ally):
        pass

    @hookimpl
    async def ally_start(self):
        await asyncio.sleep(1000)
"""
REMOVE = ToolCall("bash", {"command": "rm -r"}, "c1")


class Running:
    """A host that runs, as commands see it and from inside."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.session = host.session()

    async def tell(self, method: str, plugin: str = NAME) -> HostAnswer:
        return await self.send(method, {"plugin": plugin})

    async def send(self, method: str, params: Mapping[str, Any]) -> HostAnswer:
        def blocking() -> HostAnswer:
            assert self.host.home is not None
            [found] = hosts_of(self.host.home)
            return call(found, method, params, 20)

        return await asyncio.to_thread(blocking)

    async def ask(self, method: str, **params: Any) -> Mapping[str, Any]:
        answer = await self.send(method, params)
        assert answer.result is not None, answer.error
        return answer.result

    async def did(self, method: str, plugin: str = NAME) -> Mapping[str, Any]:
        answer = await self.tell(method, plugin)
        assert answer.result is not None, answer.error
        return answer.result

    async def is_denied(self) -> bool:
        return (await self.session.gate_tool_call(REMOVE)).is_denied

    async def asked(self) -> int:
        """Return how many gates are asked."""
        return len((await self.session.gate_tool_call(REMOVE)).votes)

    async def hear(self, count: int = 1) -> None:
        for _ in range(count):
            self.session.emit(ToolCallEnd(tool_name="bash"))
        await self.session.drained()

    @property
    def state(self) -> str:
        return self.host.plugins[NAME].state

    def tools(self) -> list[str]:
        return [tool.full_name for tool in self.host.tools]


@asynccontextmanager
async def running(site: Operated, **options: Any) -> AsyncIterator[Running]:
    async with site.new_host(**options) as host:
        yield Running(host)


def instance(site: Operated) -> Any:
    return site.module().BUILT[-1]


def states(site: Operated) -> list[tuple[str, str]]:
    """Return the plugin's states as the journal has them, after the host's end."""
    with reading_of(site.home) as reading:
        assert reading is not None
        found = reading.last_records(100, plugin=NAME, kind="plugin_state")
        return [((record.data or {})["state"], (record.data or {})["reason"]) for record in found]


def test_a_revoked_gate_is_asked_no_more_and_a_granted_one_from_the_next_call(guarded: Operated) -> None:
    async def main() -> None:
        async with running(guarded) as host:
            assert await host.is_denied()
            guarded.registry.revoke(NAME, "gate")
            done = await host.did("apply")
            assert (done["did"], done["in_effect"], done["state"]) == ("changed", True, "running")
            assert await host.asked() == 0
            guarded.registry.grant(NAME, "gate:tool_call:bash")
            await host.did("apply")
            assert await host.is_denied()

    go(main())
    assert ("running", "the operator has changed: -gate:tool_call:bash") in states(guarded)


@pytest.mark.parametrize("placement", ["inline", "process"])
def test_a_gate_that_is_granted_to_code_without_it_denies_until_it_is_taken_back(
    placement: str, site: Operated, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install(manifest=site.manifest.replace('"tool_call"]', '"tool_call", "message"]'))
    site.enable()
    monkeypatch.setenv("PYTHONPATH", str(site.site.path))
    edit_config(site.home, NAME, lambda _: {"placement": placement})
    site.registry.revoke(NAME, "gate")
    missing = "lacks the hook 'ally_gate_message'"

    async def main() -> None:
        async with running(site) as host:
            assert host.state == "running"
            assert not await host.is_denied()
            site.registry.grant(NAME, "gate:message")
            done = await host.did("apply")
            await until(lambda: host.state == "failed")
            assert done["did"] in {"changed", "pending"}  # a process takes its time to end and to start
            assert missing in host.host.plugins[NAME].reason
            assert f"ally-plugins revoke {NAME} gate:message" in host.host.plugins[NAME].reason
            site.registry.grant(NAME, "gate:tool_call:bash")
            await host.did("apply")
            assert await host.is_denied()
            again = await host.did("restart")
            assert again["state"] == "failed"
            assert await host.is_denied()
            site.registry.revoke(NAME, "gate:message")
            again = await host.did("restart")
            assert again["state"] == "running"
            assert await host.is_denied()
            assert not (await host.session.gate_tool_call(ToolCall("bash", {"command": "ls"}))).is_denied

    go(main())
    assert any(state == "failed" and missing in reason for state, reason in states(site))


def test_from_the_moment_that_a_missing_gate_is_granted_nothing_passes_it(site: Operated) -> None:
    code = site.code.replace("ally_gate_tool_call(self, call", "ally_gate_permission(self, request")
    narrow, wide = 'on = ["tool_call"], tools = ["bash"]', 'on = ["tool_call", "permission"]'
    site.install(code=code, manifest=site.manifest.replace(narrow, wide))
    site.enable()
    site.registry.revoke(NAME, "gate:tool_call")

    async def main() -> None:
        async with running(site) as host:
            assert host.state == "running"
            plugin, seen = host.host.plugins[NAME], []
            site.registry.grant(NAME, "gate:tool_call")
            done = asyncio.ensure_future(host.did("apply"))
            while not done.done():  # the old instance is there, runs, and is being stopped
                if plugin.grants.gates("tool_call") or host.host.plugins[NAME] is not plugin:
                    seen.append(await host.is_denied())
                await asyncio.sleep(0)
            assert seen
            assert all(seen)
            assert (await done)["state"] == "failed"

    go(main())


def test_a_revoked_event_is_not_heard_any_more_not_even_in_the_middle_of_a_batch(guarded: Operated) -> None:
    async def main() -> None:
        async with running(guarded) as host:
            plugin = instance(guarded)
            plugin.hold = asyncio.Event()
            for _ in range(100):
                host.session.emit(ToolCallEnd(tool_name="bash"))
            await until(lambda: plugin.ends > 0)
            guarded.registry.revoke(NAME, "events:TOOL_CALL_END")
            await host.did("apply")
            plugin.hold.set()
            await host.hear(5)
            assert plugin.ends == 1
            guarded.registry.grant(NAME, "events:TOOL_CALL_END")
            await host.did("apply")
            await host.hear(3)
            assert plugin.ends == 4

    go(main())


def test_what_it_calls_is_refused_from_the_revocation_on(guarded: Operated) -> None:
    async def main() -> None:
        async with running(guarded) as host:
            ally = instance(guarded).ally
            await ally.add_message("user", "one", session_id=host.session.id)
            guarded.registry.revoke(NAME, "add_message")
            await host.did("apply")
            with pytest.raises(Exception, match="is not granted 'add_message:user'"):
                await ally.add_message("user", "two", session_id=host.session.id)

    go(main())


def test_its_tools_and_tasks_end_with_their_grants_and_its_tools_come_back_with_them(guarded: Operated) -> None:
    async def main() -> None:
        async with running(guarded) as host:
            task = await instance(guarded).ally.start_task("wait", asyncio.sleep(1000), session_id=host.session.id)
            guarded.registry.revoke(NAME, "tools")
            guarded.registry.revoke(NAME, "tasks")
            await host.did("apply")
            assert host.tools() == []
            with pytest.raises(asyncio.CancelledError):
                await task.result()
            guarded.registry.grant(NAME, "tools")
            await host.did("apply")
            assert host.tools() == [f"{NAME}:count"]
            assert (await host.host.call_tool("count")).success

    go(main())


def test_tasks_are_listed_and_one_is_cancelled(guarded: Operated) -> None:
    async def main() -> None:
        async with running(guarded) as host:
            ally = instance(guarded).ally
            assert await host.ask("tasks") == {"tasks": []}
            task = await ally.start_task("wait", asyncio.sleep(1000), session_id=host.session.id)
            done = await ally.start_task("nothing", asyncio.sleep(0), session_id=host.session.id)
            await done.result()
            first, second = (await host.ask("tasks"))["tasks"]
            assert {**first, "started": 0} == {
                "id": task.id, "plugin": NAME, "name": "wait", "session": host.session.id, "state": "running",
                "reason": "", "progress": None, "message": "", "started": 0, "ended": None,
            }  # fmt: skip
            assert (second["name"], second["state"], second["ended"] >= second["started"] > 10**12) == (
                "nothing", "done", True,
            )  # fmt: skip
            told = await host.ask("cancel_task", task=task.id)
            assert (told["state"], told["reason"], told["was_running"]) == (
                "cancelled", "cancelled by the operator", True,
            )  # fmt: skip
            assert (await host.ask("cancel_task", task=task.id))["was_running"] is False
            for params, words in [({"task": "t-1"}, "there is no task 't-1'"), ({}, "'task' is NoneType")]:
                with pytest.raises(AssertionError, match=words):
                    await host.ask("cancel_task", **params)

    go(main())


@pytest.mark.slow
def test_a_task_that_does_not_end_at_once_is_told_of_as_running(guarded: Operated) -> None:
    may_end = asyncio.Event()

    async def reluctant() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await may_end.wait()

    async def main() -> None:
        async with running(guarded) as host:
            task = await instance(guarded).ally.start_task("slow", reluctant(), session_id=host.session.id)
            await asyncio.sleep(0)
            told = await host.ask("cancel_task", task=task.id)
            assert (told["state"], told["reason"]) == ("running", "cancelled by the operator")
            may_end.set()
            with pytest.raises(asyncio.CancelledError):
                await task.result()

    go(main())


def test_the_answer_holds_the_running_and_the_last_ended_tasks_and_no_long_text(guarded: Operated) -> None:
    async def main() -> None:
        async with running(guarded) as host:
            ally = instance(guarded).ally

            async def talk() -> None:
                await ally.task_progress(0.5, "w" * 2000)
                await asyncio.Event().wait()

            await ally.start_task("talk", talk(), session_id=host.session.id)
            [kept] = host.host.tasks
            await until(lambda: kept.message is not None)
            for number in range(60):
                job = host.host.tasks.prepare(host.host.plugins[NAME], f"job{number}", host.session.id)
                host.host.tasks.start(job, asyncio.sleep(0))
                await job.result()
            told = (await host.ask("tasks"))["tasks"]
            assert [each["name"] for each in told] == ["talk", *(f"job{number}" for number in range(10, 60))]
            assert len(told[0]["message"]) == 500

    go(main())


@pytest.mark.slow
def test_shadow_limits_and_deadlines_change_under_a_running_plugin(guarded: Operated) -> None:
    async def main() -> None:
        async with running(guarded) as host:
            guarded.registry.shadow(NAME, hooks=True)
            await host.did("apply")
            assert await host.asked() == 1
            assert not await host.is_denied()
            guarded.registry.shadow(NAME, hooks=False)
            edit_config(
                guarded.home, NAME, lambda _: {"limits": {"messages_per_minute": 0}, "deadlines": {"gate": 0.05}}
            )
            await host.did("apply")
            ally = instance(guarded).ally
            with pytest.raises(Exception, match="messages_per_minute"):
                await ally.add_message("user", "one", session_id=host.session.id)
            instance(guarded).hold = asyncio.Event()
            ruling = await host.session.gate_tool_call(REMOVE)
            assert ruling.votes[0].cause == "timeout"

    go(main())


@pytest.mark.slow
def test_a_disabled_plugin_stops_and_an_enabled_one_starts_in_all_open_sessions(guarded: Operated) -> None:
    async def main() -> None:
        async with running(guarded) as host:
            other = host.host.session()
            assert await host.is_denied()
            guarded.registry.disable(NAME)
            done = await host.did("apply")
            assert (done["did"], done["state"]) == ("stopped", "stopped")
            assert "ally-plugins enable" in done["reason"]
            assert await host.asked() == 0
            assert host.tools() == []
            assert guarded.module().LIFE == ["start", "stop"]
            assert host.host.services.lanes() == []
            guarded.enable()
            done = await host.did("apply")
            assert (done["did"], done["state"]) == ("started", "running")
            assert await host.is_denied()
            plugin = instance(guarded)
            for session in (other, host.session):
                session.emit(ToolCallEnd(tool_name="bash"))
                await session.drained()
            assert plugin.ends == 2
            assert len(guarded.module().BUILT) == 2

    go(main())
    assert [state for state, _ in states(guarded)] == [
        "starting", "running", "stopped", "starting", "running", "stopped",
    ]  # fmt: skip


def test_a_plugin_that_is_installed_and_agreed_to_while_the_host_runs_starts(site: Operated) -> None:
    async def main() -> None:
        async with running(site) as host:
            assert NAME not in host.host.plugins
            site.install()
            site.enable()
            assert (await host.did("apply"))["state"] == "running"
            assert await host.is_denied()
            done = await host.did("apply", "nobody")
            assert (done["did"], done["state"]) == ("nothing", "")

    go(main())


def test_a_restart_makes_a_new_instance_with_what_is_settled_now_and_its_gate_denies_meanwhile(
    guarded: Operated,
) -> None:
    async def main() -> None:
        async with running(guarded) as host:
            old = instance(guarded)
            guarded.registry.set_setting(NAME, "word", "ls")
            causes: list[str | None] = []

            async def watch() -> None:
                while host.host.plugins[NAME].state != "running" or old is instance(guarded):
                    ruling = await host.session.gate_tool_call(REMOVE)
                    assert ruling.is_denied
                    causes.append(ruling.votes[0].cause)
                    await asyncio.sleep(0.001)

            watching = asyncio.ensure_future(watch())
            done = await host.did("restart")
            await watching
            assert "not_running" in causes
            assert (done["did"], done["state"]) == ("restarted", "running")
            assert guarded.module().LIFE == ["start", "stop", "start"]
            assert old is not instance(guarded)
            assert not await host.is_denied()  # it denies `ls` now
            assert host.tools() == [f"{NAME}:count"]
            assert (await host.host.call_tool("count")).output == "0"

    go(main())
    assert ("stopped", "restarted by the operator") in states(guarded)


def test_what_was_asked_of_the_old_instance_is_answered_before_it_goes(guarded: Operated) -> None:
    async def main() -> None:
        async with running(guarded) as host:
            instance(guarded).hold = hold = asyncio.Event()
            asked = asyncio.ensure_future(host.session.gate_tool_call(ToolCall("bash", {"command": "ls"}, "c2")))
            await asyncio.sleep(0)
            restarting = asyncio.ensure_future(host.did("restart"))
            await until(lambda: host.state != "running")
            hold.set()
            assert not (await asked).is_denied
            assert (await restarting)["state"] == "running"

    go(main())


def test_what_cannot_be_started_is_not_stopped_for_a_restart(guarded: Operated) -> None:
    more = guarded.manifest.replace("tasks = {", 'emit_event = { reason = "more" }\ntasks = {')

    async def main() -> None:
        async with running(guarded) as host:
            assert "no plugin 'nobody'" in (await host.tell("restart", "nobody")).error
            guarded.install(manifest=more)
            error = (await host.tell("restart")).error
            assert "waiting for consent" in error
            assert host.state == "running"
            assert await host.is_denied()
            guarded.registry.revoke(NAME, "gate")  # the one that runs goes on with less
            assert (await host.did("apply"))["did"] == "changed"
            assert await host.asked() == 0
            assert host.state == "running"
            guarded.registry.disable(NAME)
            await host.did("apply")
            assert "disabled" in (await host.tell("restart")).error

    go(main())


def test_a_released_plugin_starts_again_with_its_crashes_forgotten(guarded: Operated) -> None:
    async def main() -> None:
        async with running(guarded) as host:
            assert (await host.did("release"))["did"] == "nothing"
            guarded.registry.shadow(NAME, hooks=False)
            host.host.plugins[NAME]._quarantine("5 crashes in 60 s")
            assert await host.is_denied()
            await until(guarded.home.quarantine_file.exists)
            assert "ally-plugins release" in (await host.tell("restart")).error
            guarded.registry.release(NAME)
            done = await host.did("release")
            assert (done["did"], done["state"]) == ("started", "running")
            assert host.host.plugins[NAME].counts.crashes == 0
            assert (await host.session.gate_tool_call(REMOVE)).votes[0].cause == "verdict"

    go(main())


@pytest.mark.slow
def test_a_plugin_that_cannot_start_is_marked_denies_and_can_be_tried_again(guarded: Operated) -> None:
    async def main() -> None:
        async with running(guarded) as host:
            plugin_class = guarded.module().Plugin
            start = plugin_class.ally_start
            plugin_class.ally_start = broken
            done = await host.did("restart")
            assert done["state"] == "failed"
            assert "no luck" in done["reason"]
            assert await host.is_denied()
            assert "no luck" in failed_starts(guarded.home, {NAME: "1.0"})[NAME]
            guarded.registry.shadow(NAME, hooks=True)
            assert (await host.did("apply"))["state"] == "failed"  # a change of modes is no new try
            guarded.registry.shadow(NAME, hooks=False)
            await host.did("apply")
            plugin_class.ally_start = start
            assert (await host.did("restart"))["state"] == "running"
            assert failed_starts(guarded.home, {NAME: "1.0"}) == {}

    @hookimpl(specname="ally_start")
    async def broken(self: Any) -> None:  # noqa: ARG001
        raise ValueError("no luck")

    go(main())


def test_an_instance_that_cannot_be_built_does_not_take_the_place_of_one_that_runs(guarded: Operated) -> None:
    async def main() -> None:
        async with running(guarded) as host:
            plugin_class, old = guarded.module().Plugin, host.host.plugins[NAME]
            build = plugin_class.__init__
            plugin_class.__init__ = broken
            error = (await host.tell("restart")).error
            assert error.startswith(f"{NAME!r} goes on as it was, since a new one could not take its place: ")
            assert "no luck" in error
            assert host.host.plugins[NAME] is old
            assert host.state == "running"
            assert (await host.session.gate_tool_call(REMOVE)).votes[0].cause == "verdict"
            await host.hear()
            assert (await host.host.call_tool("count")).output == "1"
            assert "no luck" in failed_starts(guarded.home, {NAME: "1.0"})[NAME]
            plugin_class.__init__ = build
            await host.did("restart")
            assert host.host.plugins[NAME] is not old
            assert (await host.host.call_tool("count")).output == "0"
        assert guarded.module().LIFE == ["start", "stop", "start", "stop"]

    def broken(self: Any, ally: Any) -> None:  # noqa: ARG001
        raise ValueError("no luck")

    go(main())


def test_what_a_plugin_that_runs_has_not_taken_up_is_not_said_to_be_in_effect(guarded: Operated) -> None:
    async def main() -> None:
        async with running(guarded) as host:
            guarded.registry.place(NAME, "process")
            guarded.registry.set_setting(NAME, "word", "ls")
            guarded.registry.revoke(NAME, "gate")
            done = await host.did("apply")
            assert (done["did"], done["not_taken_up"], done["needs_new_host"]) == (
                "changed",
                ["placement", "settings"],
                False,
            )
            [shown] = (await host.ask("status"))["plugins"]
            assert (shown["placement"], "pid" in shown) == ("inline", False)
            guarded.install(code=guarded.code + "# another one")
            guarded.enable()
            done = await host.did("apply")
            assert (done["not_taken_up"], done["needs_new_host"]) == (["placement", "settings", "code"], True)

    go(main())


def test_code_with_a_wrong_hook_is_refused_and_its_gate_denies(guarded: Operated) -> None:
    guarded.install(code=SLOW.replace("ally_start", "ally_begin"))

    async def main() -> None:
        async with running(guarded) as host:
            assert host.state == "failed"
            assert await host.is_denied()

    go(main())


@pytest.mark.slow
def test_a_start_that_hangs_is_answered_as_under_way_holds_up_nothing_else_and_can_be_ended(guarded: Operated) -> None:
    async def main() -> None:
        async with running(guarded) as host:
            guarded.install("ctl-slow", manifest='description = "x"\nrequires_host = ">=1,<2"\n', code=SLOW)
            guarded.enable("ctl-slow")
            done = await host.did("apply", "ctl-slow")
            assert (done["did"], done["state"], done["in_effect"]) == ("pending", "starting", False)
            guarded.registry.revoke(NAME, "gate")
            assert (await host.did("apply"))["did"] == "changed"
            guarded.registry.disable("ctl-slow")
            assert (await host.did("apply", "ctl-slow"))["state"] == "stopped"
            guarded.enable("ctl-slow")
            assert (await host.did("apply", "ctl-slow"))["did"] == "pending"
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("ally-")]

    go(main())


def test_a_host_can_end_while_a_plugin_restarts(guarded: Operated) -> None:
    edit_config(guarded.home, NAME, lambda _: {"deadlines": {"stop": 0.1}})

    async def main() -> None:
        async with running(guarded) as host:
            instance(guarded).hold = asyncio.Event()
            asked = asyncio.ensure_future(host.session.gate_tool_call(REMOVE))
            await asyncio.sleep(0)
            restarting = asyncio.ensure_future(host.tell("restart"))
            await until(lambda: host.state != "running")
        assert (await restarting).error
        assert (await asked).is_denied
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("ally-")]

    go(main())


def test_a_plugin_given_by_code_is_the_agents_own_and_can_be_restarted(guarded: Operated) -> None:
    class Given:
        built = 0

        def __init__(self, ally: Any) -> None:  # noqa: ARG002
            Given.built += 1

    async def main() -> None:
        async with running(guarded, plugins={NAME: Given}) as host:
            guarded.registry.disable(NAME)
            done = await host.did("apply")
            assert (done["did"], done["in_effect"], done["state"]) == ("nothing", False, "running")
            assert "the agent itself" in done["reason"]
            assert (await host.did("restart"))["state"] == "running"
            assert Given.built == 2
            host.host.plugins[NAME]._quarantine("too much")
            assert (await host.did("release"))["state"] == "running"

    go(main())


def test_a_plugin_left_out_of_this_host_stays_out(guarded: Operated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLY_PLUGINS", "none")

    async def main() -> None:
        async with running(guarded) as host:
            done = await host.did("apply")
            assert (done["did"], done["in_effect"], done["state"]) == ("nothing", False, "")
            assert "ALLY_PLUGINS" in done["reason"]

    go(main())


def test_a_plugin_that_is_agreed_to_and_not_configured_is_missed_and_its_gate_denies(site: Operated) -> None:
    needs = site.manifest.replace('default = "rm"', "required = true")

    async def main() -> None:
        async with running(site) as host:
            site.install(manifest=needs)
            site.enable()
            assert (await host.did("apply"))["state"] == "failed"
            assert await host.is_denied()
            site.registry.set_setting(NAME, "word", "rm")
            assert (await host.did("apply"))["state"] == "running"

    go(main())


def test_an_order_that_cannot_be_leaves_everything_as_it_was(guarded: Operated) -> None:
    late = f'before = ["{NAME}"]\nafter = ["{NAME}"]\n'

    async def main() -> None:
        async with running(guarded) as host:
            guarded.install("ctl-late", manifest=late + guarded.manifest)
            guarded.enable("ctl-late")
            answer = await host.tell("apply", "ctl-late")
            assert "ctl-late" in answer.error
            assert "ctl-late" not in host.host.plugins
            assert await host.is_denied()

    go(main())


def test_a_config_that_cannot_be_read_changes_nothing(guarded: Operated) -> None:
    async def main() -> None:
        async with running(guarded) as host:
            guarded.home.config_file.write_text("[plugins.")
            assert "config.toml" in (await host.tell("apply")).error
            assert await host.is_denied()

    go(main())


def test_a_host_says_who_it_is_and_how_its_plugins_are(guarded: Operated) -> None:
    async def main() -> None:
        async with running(guarded) as host:
            await host.hear(3)
            said = await host.did("status")
            assert (said["app"], said["pid"], said["sessions"]) == ("test", os.getpid(), 1)
            [plugin] = said["plugins"]
            assert (plugin["name"], plugin["state"], plugin["placement"]) == (NAME, "running", "inline")
            assert plugin["delivered"] >= 3
            assert said["started"] <= plugin["since"] <= host.host.clock.time_ms()

    go(main())


def test_a_change_that_comes_while_the_host_starts_takes_effect_once_it_has(guarded: Operated) -> None:
    async def main() -> None:
        host, loop = guarded.new_host(), asyncio.get_running_loop()
        real = host._installed

        def revoked_meanwhile() -> Any:
            records = real()
            guarded.registry.revoke(NAME, "gate")
            [found] = hosts_of(guarded.home)
            telling = asyncio.to_thread(call, found, "apply", {"plugin": NAME}, 20)
            told.append(asyncio.run_coroutine_threadsafe(telling, loop))  # from the thread that reads what is installed
            return records

        told: list[Future[HostAnswer]] = []
        host._installed = revoked_meanwhile  # type: ignore[method-assign]
        async with host:
            assert (await asyncio.wrap_future(told[0])).result is not None
            await until(lambda: not host.plugins[NAME].grants.gates("tool_call"))

    go(main())


def test_controls_of_a_host_that_has_ended_refuse(guarded: Operated) -> None:
    async def main() -> None:
        async with running(guarded) as host:
            controls = host.host._live
            assert controls is not None
        with pytest.raises((UnavailableRefused, NotFoundRefused)):
            await controls.restart(NAME)

    go(main())
