"""Each plugin as it is placed when it is enabled, in one host: in a sandbox, with what it asks for and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import (
    ContextUsageUpdate,
    Host,
    PromptSection,
    Session,
    ToolCall,
    ToolCallEnd,
    ToolCallStart,
    ToolResult,
    UserMessage,
)
from ally_plugins.catalog.home.folder import Home
from ally_plugins.catalog.registry import Registry
from tests.kit.sandboxes import needs_sandbox
from tests.kit.waiting import go, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = needs_sandbox

KEY = "AKIA" + "Y34FZKBOKMUTVV7A"
PLUGINS = ("conversation-monitor", "loop-guard", "secret-guard", "session-notes")


@pytest.fixture
def enabled(home: Path) -> Home:
    kept = Home("test", home)
    registry = Registry(kept, only=PLUGINS)
    for name in PLUGINS:
        registry.enable(registry.plan(name))
        assert registry.get(name).placement == "sandbox"
    return kept


async def _warns_when_the_context_fills_up(session: Session) -> None:
    session.emit(ContextUsageUpdate(context_usage=80))
    await session.drained()
    found = await session.request_action("conversation-monitor:report")
    assert "80" in str(found)
    assert any("80 % full" in message.content for message in await session.safe_point("step"))


async def _stops_a_call_that_goes_on_failing(session: Session) -> None:
    call = ToolCall("bash", {"command": "make"}, "c0")
    for n in range(5):
        assert (await session.gate_tool_call(call)).is_allowed
        session.emit(ToolCallStart(tool_name="bash", arguments={"command": "make"}, call_id=f"c{n}"))
        session.emit(ToolCallEnd(tool_name="bash", success=False, error="exit status 2", call_id=f"c{n}"))
    ruling = await session.gate_tool_call(call)
    assert "loop-guard" in str(ruling.reason)


async def _redacts_a_credential(session: Session) -> None:
    call = ToolCall("read_file", {"path": "settings"}, "c9")
    result = await session.transform_tool_output(call, ToolResult(success=True, output=f"id = {KEY}"))
    assert "[redacted:aws-access-key]" in str(result.output)
    assert KEY not in str(result.output)


async def _keeps_a_note(session: Session) -> None:
    (remember,) = [each for each in session.agent_tools() if each.name == "remember"]
    assert (await session.call_agent_tool(remember, {"text": "tests run with make"})).success
    session.emit(UserMessage(content="run the tests"))
    sections = await session.transform_system_prompt([PromptSection("base", "You help.")])
    assert "tests run with make" in str(sections)


def test_each_does_what_it_is_for_in_the_sandbox_that_it_is_placed_in(enabled: Home, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()

    async def main() -> None:
        host = Host("test", home=enabled)
        host.registry = Registry(enabled, only=PLUGINS)
        async with host:
            await until(lambda: all(host.plugins[name].is_running for name in PLUGINS))
            session = host.session("s", project=tmp_path / "project", focus=str(tmp_path / "project"))
            for does in (
                _warns_when_the_context_fills_up,
                _stops_a_call_that_goes_on_failing,
                _redacts_a_credential,
                _keeps_a_note,
            ):
                await does(session)
            assert {name: host.plugins[name].counts.crashes for name in PLUGINS} == dict.fromkeys(PLUGINS, 0)

    go(main())


@pytest.mark.smoke
@pytest.mark.slow
def test_test_watch_runs_the_tests_of_the_project_with_what_it_asks_for(home: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "test_it.py").write_text(f"def test_it():\n    open({str(tmp_path / 'outside')!r}, 'w')\n")
    kept = Home("test", home)
    registry = Registry(kept, only=["test-watch"])
    registry.enable(registry.plan("test-watch"))
    registry.set_setting("test-watch", "command", "pytest -q -x -p no:cacheprovider --disable-plugin-autoload")

    async def main() -> Any:
        host = Host("test", home=kept)
        host.registry = registry
        async with host:
            session = host.session("s", project=project, focus=str(project))
            await until(lambda: [each.full_name for each in host.actions] == ["test-watch:run-tests-now"])
            return await session.request_action("test-watch:run-tests-now")

    found = go(main())
    assert (found["passed"], "PermissionError" in found["message"]) == (False, True), found
    (project / "test_it.py").write_text("def test_it():\n    open('inside', 'w')\n")
    found = go(main())
    assert found["passed"] is True, found
    assert (project / "inside").exists()
