"""`ally-plugins check`: everything that is wrong, at once, each with its file, its line and the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.author.conftest import edit
from tests.kit.commands import run_command

if TYPE_CHECKING:
    from collections.abc import Callable

CODE = "src/loop_warner/__init__.py"
MANIFEST = "src/loop_warner/ally-plugin.toml"

CLASS = """
import os
import subprocess
import time
import httpx
from ally_plugins import Ally, hookimpl, tool

class LoopWarner:
    def __init__(self, ally: Ally) -> None:
        self.ally = ally
{body}
"""

MISTAKES = [
    ("    @hookimpl\n    async def ally_tool_call_ended(self, event): ...",
     "unknown-hook", "'ally_tool_call_ended' is no hook", "did you mean 'ally_tool_call_end'?"),
    ("    @hookimpl\n    async def ally_tool_call_end(self, evnt): ...",
     "hook-arguments", "'evnt' is no argument", "did you mean 'event'?"),
    ("    @hookimpl\n    async def ally_tool_call_end(self, event=None): ...",
     "hook-arguments", "has a default", "remove the default"),
    ("    @hookimpl(wrapper=True)\n    def ally_tool_call_end(self, event): ...",
     "hook-arguments", "wrappers are not supported", "use a gate"),
    ("    @hookimpl\n    async def ally_tool_call_end(self, event): yield 1",
     "hook-arguments", "has a yield", "make it a plain def"),
    ("    async def ally_gate_tool_call(self, call): ...",
     "unmarked-hook", "has no @hookimpl", "write @hookimpl above it"),
    ("    @hookimpl\n    async def ally_user_message(self, event): ...",
     "undeclared-hook", "which the manifest does not declare", 'subscribe = ["USER_MESSAGE"]'),
    ("    @hookimpl\n    async def ally_add_message(self, session, message): ...",
     "unknown-hook", "is the host's to implement", "through the Ally handle"),
    ("    async def f(self):\n        time.sleep(1)",
     "blocking-call", "time.sleep in a coroutine", "asyncio.sleep"),
    ("    async def f(self):\n        subprocess.run(['ls'])",
     "blocking-call", "subprocess.run in a coroutine", "create_subprocess_exec"),
    ("    async def f(self):\n        self.ally.blocking.add_message('user', 'x')",
     "blocking-call", "in a coroutine holds up the loop", "is for plain functions"),
    ("    def f(self):\n        subprocess.run(['git', 'status'])",
     "undeclared-permission", "needs 'run:git'", 'run = { programs = ["git"]'),
    ("    def f(self):\n        httpx.get('https://example.org')",
     "undeclared-permission", "needs 'network'", "network = {"),
    ("    def f(self):\n        return os.environ.get('API_KEY')",
     "undeclared-permission", "needs 'env:API_KEY'", 'env = { names = ["API_KEY"]'),
    ("    async def f(self):\n        await self.ally.add_message('system', 'x')",
     "undeclared-permission", "needs 'add_message:system'", 'roles = ["system"]'),
    ("    async def f(self):\n        await self.ally.emit_event('x', {})",
     "undeclared-permission", "needs 'emit_event'", "emit_event = {"),
    ("    def f(self):\n        return self.ally.settings['limitt']",
     "settings", "no setting 'limitt'", "did you mean 'limit'?"),
    ("    @tool(schema={'type': 'strang'})\n    def f(self):\n        '''Do it.'''",
     "schema", "schema['type'] is wrong", "mend the schema"),
    ("    @tool\n    def f(self, text):\n        '''Do it.'''",
     "schema", "'text' of the tool 'f' has no annotation", "give it a type"),
    ("    @tool\n    def f(self): ...", "schema", "has no description", "write a docstring"),
    ("    def f(self, call):\n        return call.tool_name == 'bash'",
     "unknown-tool", "'bash' is 'Bash' elsewhere", "call.common_name or call.tool_name"),
    ("    def f(self, call):\n        return call.common_name in ('bsh',)",
     "unknown-tool", "no tool has the common name 'bsh'", "did you mean 'bash'?"),
    ("    def f(self:\n", "syntax", "", ""),
]  # fmt: skip


@pytest.mark.parametrize(("body", "rule", "text", "fix"), MISTAKES)
def test_a_mistake_in_the_code_is_found_with_its_line_and_the_way_out(
    new: Callable[..., Path], check: Callable[..., Any], body: str, rule: str, text: str, fix: str
) -> None:
    folder = new()
    source = CLASS.format(body=body)
    (folder / CODE).write_text(source, encoding="utf-8")
    found = [each for each in check(folder) if each[0] == "__init__.py" and each[2] == rule]
    assert [each for each in found if text in each[3] and fix in each[3]], found
    # The line of the body, which begins in the eleventh: a decorator stands above its def.
    assert all(11 <= line <= 13 for _, line, _, _ in found), found


GATE = 'gate = { on = ["tool_call"], tools = ["Bsh"], reason = "x" }'

MANIFESTS = [
    ('description = "steers', 'descripton = "steers', 2, "did you mean 'description'?"),
    ('["TOOL_CALL_END"]', '["TOOL_CALL_ENDS"]', 6, "did you mean 'TOOL_CALL_END'?"),
    ('roles = ["user"]', 'roles = ["boss"]', 10, "expected one of assistant, system, user"),
    ('type = "integer"', 'type = "intege"', 14, "did you mean 'integer'?"),
    ("default = 3", "default = ", 15, "not TOML"),
    ('requires_host = ">=1,<2"', 'requires_host = ">=9"', 3, "needs host API >=9"),
]


@pytest.mark.parametrize(("before", "after", "line", "text"), MANIFESTS)
def test_a_mistake_in_the_manifest_is_found_with_its_line(
    new: Callable[..., Path], check: Callable[..., Any], before: str, after: str, line: int, text: str
) -> None:
    folder = new()
    edit(folder / MANIFEST, before, after)
    found = [each for each in check(folder) if each[0] == "ally-plugin.toml"]
    assert [each for each in found if each[1] == line and text in each[3]], found


def test_all_that_is_wrong_is_found_at_once(new: Callable[..., Path], check: Callable[..., Any]) -> None:
    folder = new()
    edit(
        folder / MANIFEST,
        "[permissions]",
        '[permissions]\ngate = { on = ["tool_call"], tools = ["Bsh"], reason = "x" }',
    )
    edit(folder / MANIFEST, 'roles = ["user"]', 'roles = ["user", "system"]')
    first = "        if event.success is not False:"
    edit(folder / CODE, first, f"        import time; time.sleep(1)\n{first}")
    rules = {(file, rule) for file, _, rule, _ in check(folder)}
    assert rules == {
        ("ally-plugin.toml", "missing-hook"),
        ("ally-plugin.toml", "unknown-tool"),
        ("ally-plugin.toml", "unused-permission"),
        ("__init__.py", "blocking-call"),
    }


@pytest.mark.parametrize("body", [
    "    def f(self):\n        time.sleep(1)",
    "    async def f(self):\n        import asyncio\n        await asyncio.to_thread(lambda: time.sleep(1))",
    "    async def f(self):\n        def g():\n            time.sleep(1)",
])  # fmt: skip
def test_what_blocks_a_thread_of_its_own_is_no_mistake(
    new: Callable[..., Path], check: Callable[..., Any], body: str
) -> None:
    folder = new()
    (folder / CODE).write_text(CLASS.format(body=body), encoding="utf-8")
    assert not [each for each in check(folder) if each[2] == "blocking-call"]


@pytest.mark.slow
def test_of_several_plugins_in_one_package_each_is_held_to_its_own_manifest(check: Callable[..., Any]) -> None:
    # Ours, which are real and whole: what is found here are warnings of what runs programs inline.
    contrib = Path(__file__).parents[2] / "ally_plugins_contrib"
    assert {(file, rule) for file, _, rule, _ in check(contrib)} <= {
        (f"{name}.py", "undeclared-permission") for name in ("keeper", "running", "watching")
    }


def test_hooks_of_a_base_in_another_module_count(new: Callable[..., Path], check: Callable[..., Any]) -> None:
    folder = new()
    (folder / "src/loop_warner/_base.py").write_text((folder / CODE).read_text().replace("LoopWarner", "Base"))
    (folder / CODE).write_text("from ._base import Base\n\n\nclass LoopWarner(Base):\n    pass\n")
    assert check(folder) == []
    (folder / CODE).write_text("from ._base import Base as LoopWarner\n")
    assert check(folder) == []


def test_a_class_that_is_not_there_is_named_with_the_nearest(
    new: Callable[..., Path], check: Callable[..., Any]
) -> None:
    folder = new()
    edit(folder / CODE, "class LoopWarner", "class LoopWarnr")
    assert any("did you mean 'LoopWarnr'?" in each[3] for each in check(folder))


def test_a_manifest_that_is_not_there_is_named_with_what_to_write(
    new: Callable[..., Path], check: Callable[..., Any]
) -> None:
    folder = new()
    (folder / MANIFEST).unlink()
    (found,) = check(folder)
    assert found[:3] == ("pyproject.toml", 15, "no-manifest")
    assert "ally-plugin.toml" in found[3]


SETUPTOOLS = """
[build-system]
requires = ["setuptools>=75"]
build-backend = "setuptools.build_meta"
[project]
name = "loop-warner"
version = "1.0"
[project.entry-points."ally.plugins"]
loop-warner = "loop_warner:LoopWarner"
"""


def test_setuptools_leaves_the_manifest_out_unless_it_is_told(
    new: Callable[..., Path], check: Callable[..., Any]
) -> None:
    folder = new()
    project = folder / "pyproject.toml"
    project.write_text(SETUPTOOLS, encoding="utf-8")
    (found,) = check(folder)
    assert found[:3] == ("pyproject.toml", 9, "not-in-wheel")
    assert '[tool.setuptools.package-data] loop_warner = ["ally-plugin.toml"]' in found[3]
    told = '[tool.setuptools.package-data]\nloop_warner = ["*.toml"]\n'
    project.write_text(SETUPTOOLS + told, encoding="utf-8")
    assert check(folder) == []


def test_no_code_of_the_plugin_runs_unless_it_is_asked_for(
    new: Callable[..., Path], check: Callable[..., Any], tmp_path: Path
) -> None:
    folder, ran = new(), tmp_path / "ran"
    edit(folder / CODE, '__all__ = ["LoopWarner"]', f"open({str(ran)!r}, 'w').close()")
    assert check(folder) == []
    assert not ran.exists()
    shown = run_command("check", str(folder))
    assert "its code was read and not run" in shown.stdout


def test_each_agent_says_what_it_does_not_serve(new: Callable[..., Path], check: Callable[..., Any]) -> None:
    folder = new()
    edit(folder / MANIFEST, "[permissions]", '[permissions]\ngate = { on = ["stop"], reason = "x" }')
    edit(folder / CODE, "    @tool", "    @hookimpl\n    async def ally_gate_stop(self, stop): ...\n\n    @tool")
    assert check(folder) == []
    found = [each for each in check(folder, "--for", "google-adk,langchain") if each[2] == "not-served"]
    assert [each[1] for each in found] == [10]
    assert "google-adk does not serve gate:stop" in found[0][3]
    refused = run_command("check", str(folder), "--for", "cladue", code=2)
    assert "no agent 'cladue' is known, did you mean 'claude'?" in refused.stderr


def test_github_and_sarif_have_every_finding_at_its_line(
    new: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new()
    monkeypatch.chdir(folder)
    edit(folder / CODE, "@hookimpl", "@hookimpl(wrapper=True)")
    github = run_command("check", "--format", "github", code=1).stdout.splitlines()
    assert f"::error file={CODE},line=16,title=ally-plugins%3A hook-arguments::wrappers are not supported" in github[0]
    sarif = json.loads(run_command("check", "--format", "sarif", code=1).stdout)
    (result,) = sarif["runs"][0]["results"]
    assert result["level"] == "error"
    place = result["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": CODE}, "region": {"startLine": 16}}


def test_warnings_are_errors_where_that_is_asked_for(new: Callable[..., Path], check: Callable[..., Any]) -> None:
    folder = new()
    edit(folder / MANIFEST, 'requires_host = ">=1,<2"\n', "")
    assert [each[2] for each in check(folder)] == ["requires-host"]
    run_command("check", str(folder), "--strict", code=1)


@pytest.mark.parametrize("path", ["nowhere/", "."])
def test_a_folder_without_a_plugin_is_told_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "ally-plugins new NAME" in run_command("check", path, code=2).stderr
