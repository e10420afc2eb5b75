"""`diff` and `upgrade`: what another version would have done, as an operator asks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ally_plugins import ConfigError, ConsentError, Host, ToolCall, ToolResult
from ally_plugins.replay import trial
from ally_plugins.runtime.sandbox.support import Support
from tests.kit.sites import Site

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Operator

NAME = "loop-warner"

MANIFEST = """
description = "a guard"
requires_host = ">=1,<2"
[events]
subscribe = ["TOOL_CALL_END"]
reason = "to count"
[permissions]
add_message = { roles = ["user"], reason = "to steer the agent" }
gate = { on = ["tool_call"], tools = ["bash"], reason = "to stop it" }
"""

CODE = """
from ally_plugins import Deny, hookimpl

class Plugin:
    def __init__(self, ally):
        self.ally = ally

    @hookimpl
    async def ally_gate_tool_call(self, call):
        return Deny("no rm") if "rm" in str(call.arguments) else None

    @hookimpl
    async def ally_tool_call_end(self, event):
        await self.ally.add_message("user", "noted")
"""


@pytest.fixture
def recorded(warner: Operator, monkeypatch: pytest.MonkeyPatch) -> Operator:
    """Return an operator with a recorded session of two calls, one of which the plugin has denied."""
    warner.install(manifest=MANIFEST, code=CODE)
    warner.run("enable", NAME, "--yes")

    async def work() -> None:
        async def tool(call: ToolCall) -> ToolResult:
            return ToolResult(success=True, output=str(call.arguments))

        async with Host() as host:
            session = host.session("work")
            for number, text in enumerate(("ls", "rm -r x")):
                await session.run_tool_call(ToolCall("bash", {"command": text}, f"c{number}"), tool)
                await session.drained()
                await session.safe_point("step")

    asyncio.run(work())
    monkeypatch.setenv("PYTHONPATH", str(warner.site))
    return warner


def version_2(folder: Path, *, code: str = CODE, manifest: str = MANIFEST) -> str:
    Site(folder).plugin(NAME, manifest, version="2.0", code=code)
    return str(folder)


@pytest.mark.smoke
@pytest.mark.slow
def test_diff_shows_which_denial_became_an_allowance_and_which_message_changed_and_leaves_no_trace(
    recorded: Operator, tmp_path: Path
) -> None:
    looser = CODE.replace('"rm" in', '"rmdir" in').replace('"noted"', '"noted twice"')
    asking = MANIFEST.replace('tools = ["bash"], reason', 'tools = ["bash", "edit"], reason')
    other = version_2(tmp_path / "2", code=looser, manifest=asking)
    before = [file.read_bytes() for file in (recorded.home.config_file, recorded.home.consent_file)]
    found = recorded.ask("diff", NAME, "installed", other, code=1)
    assert (found["old"]["version"], found["new"]["version"], found["sessions"]) == ("1.0", "2.0", 1)
    (change,) = found["decisions"]
    assert (change["old"], change["new"], change["loosened"]) == ("deny", "allow", True)
    assert (change["session"], change["subject"], change["reason"]) == ("work", "bash", "no rm")
    assert {text for _, text in found["messages_added"]} == {"noted twice"}
    assert {text for _, text in found["messages_removed"]} == {"noted"}
    assert found["tokens"][0] < found["tokens"][1]
    assert found["requests"] == ["gate:tool_call:edit"]
    assert found["new"]["hooks"]["ally_gate_tool_call"]["calls"] == 2
    assert [file.read_bytes() for file in (recorded.home.config_file, recorded.home.consent_file)] == before
    shown = recorded.run("diff", NAME, "installed", other, code=1).stdout
    assert "1 x deny -> allow" in shown
    assert "asks for more: gate:tool_call:edit" in shown
    assert recorded.ask("info", NAME)["version"] == "1.0"


@pytest.mark.long
@pytest.mark.slow
def test_two_versions_that_do_the_same_end_with_0_and_one_that_cannot_start_is_named(
    recorded: Operator, tmp_path: Path
) -> None:
    assert (
        "every decision would have been the same"
        in recorded.run("diff", NAME, "installed", version_2(tmp_path / "2")).stdout
    )
    broken = version_2(tmp_path / "3", code="raise ValueError('no such thing')\n")
    shown = recorded.run("diff", NAME, "installed", broken, code=1).stdout
    assert "the new one did not run: failed" in shown
    assert "deny (" in shown


@pytest.mark.long
@pytest.mark.slow
def test_upgrade_asks_after_it_has_shown_the_difference_and_installs_nothing_without_a_yes(
    recorded: Operator, tmp_path: Path
) -> None:
    looser = CODE.replace('"rm" in', '"rmdir" in')
    refused = recorded.run("upgrade", NAME, version_2(tmp_path / "2", code=looser), code=1)
    assert "1 x deny -> allow" in refused.stdout
    assert "'loop-warner' stays as it is" in refused.stderr
    assert recorded.ask("info", NAME)["version"] == "1.0"
    assert recorded.records("install") == []


@pytest.mark.slow
@pytest.mark.parametrize("is_open", [False, True])
def test_code_that_nobody_has_agreed_to_and_no_sandbox_holds_is_tried_only_when_that_is_wanted(
    recorded: Operator,
    monkeypatch: pytest.MonkeyPatch,
    is_open: bool,  # noqa: FBT001
) -> None:
    file = recorded.write("session.jsonl", recorded.run("export", "work").stdout)
    recorded.install(manifest=MANIFEST, version="2.0", code=CODE.replace("no rm", "not that"))
    nothing = Support(has_filter=False, landlock=0, system="elsewhere")
    monkeypatch.setattr(trial, "support", lambda: nothing)
    tried = trial.try_version(recorded.home, NAME, [str(file)], is_trusted=is_open)
    if is_open:
        assert {vote["reason"] for vote in asyncio.run(tried)["votes"]} == {"", "not that"}
        return
    with pytest.raises(ConsentError, match=r"nobody has agreed to loop-warner 2\.0"):
        asyncio.run(tried)


def test_a_slip_in_a_version_is_said_and_no_package_of_that_name_is_fetched(warner: Operator) -> None:
    for new in ("./gone", "gone", "other-plugin>=1", "-rlist.txt", ""):
        for words in (("diff", NAME, "--", "installed", new), ("upgrade", NAME, "--", new)):
            said = warner.run(*words, code=2).stderr
            assert f"{new!r} is no version of 'loop-warner': expected `installed`, a number" in said
            assert "$ " not in said


def test_what_is_installed_is_not_tried_in_the_place_of_a_version_without_the_plugin(
    warner: Operator, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="it has no plugin 'loop-warner'"):
        asyncio.run(trial.try_version(warner.home, NAME, [], site=str(tmp_path / "2")))


@pytest.mark.long
@pytest.mark.slow
def test_a_version_without_the_plugin_is_not_said_to_do_what_the_installed_one_does(
    recorded: Operator, tmp_path: Path
) -> None:
    Site(tmp_path / "2").plugin("other", MANIFEST, version="2.0", code=CODE)
    said = recorded.run("diff", NAME, "installed", str(tmp_path / "2"), code=1).stderr
    assert "a version of 'loop-warner' cannot be tried: it has no plugin 'loop-warner'" in said


def test_without_a_recorded_session_diff_says_what_to_name(warner: Operator) -> None:
    assert "--on FILE" in warner.run("diff", NAME, "installed", "installed", code=2).stderr
    assert "no plugin 'other'" in warner.run("diff", "other", "installed", "installed", code=2).stderr
