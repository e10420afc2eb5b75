"""`ally-plugins try`: a plugin from its folder on a recorded session, replaced while it runs when a file is saved."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Host, ToolCallEnd
from ally_plugins.author.dev_plugin import DevPlugin
from ally_plugins.author.project import find_project
from ally_plugins.author.trial import trial_host, trial_record
from ally_plugins.author.watching import file_changes, project_stamps
from ally_plugins.journal.journal import Journal
from ally_plugins.replay.daemon_waits import wait_for_calls
from ally_plugins.replay.pacing import ReplayClock
from ally_plugins.replay.player import Player
from ally_plugins.replay.recording import open_recording
from ally_plugins.replay.sample import sample_path
from tests.author.conftest import edit
from tests.kit.commands import PROGRAM, end, environment_for, run_command
from tests.kit.waiting import go

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

CODE = "src/loop_warner/__init__.py"
MANIFEST = "src/loop_warner/ally-plugin.toml"
SHELL = "src/loop_warner/daemon.sh"
ADVICE = "try another way"


@asynccontextmanager
async def running(folder: Path, home: Path) -> AsyncIterator[tuple[Host, DevPlugin]]:
    """Run the plugin of a folder as `try` does."""
    project = find_project(folder)
    journal = Journal.in_memory()
    host = trial_host(project, trial_record(project), home, journal, ReplayClock())
    host.services.is_replay = True
    async with host:
        assert host.home is not None
        yield host, DevPlugin(host, folder, project.name, host.home.logs_dir)
    await journal.close()


@pytest.mark.slow
def test_it_is_played_the_sample_without_being_installed_or_agreed_to(new: Callable[..., Path], home: Path) -> None:
    shown = run_command("try", str(new(kind="daemon", language="sh"))).stdout
    assert f"loop-warner says as user: Bash has failed often; {ADVICE}" in shown
    assert "it heard 23, sent 1 message, " in shown
    assert list(home.iterdir()) == []


@pytest.mark.slow
def test_scripts_get_all_of_it_as_json(new: Callable[..., Path]) -> None:
    folder = new(kind="daemon", language="sh")
    answer = json.loads(run_command("try", str(folder), "--set", "limit=1", "--json").stdout)
    assert answer["problems"] == answer["crashes"] == []
    assert [each["content"].split()[0] for each in answer["messages"]] == ["Read", "Bash"]
    assert answer["report"]["plugins"]["loop-warner"]["delivered"] == 23


def test_a_plugin_that_does_not_start_is_told_with_its_file_and_line(new: Callable[..., Path]) -> None:
    folder = new()
    edit(folder / CODE, '__all__ = ["LoopWarner"]', "limit = undefined_name")
    answer = json.loads(run_command("try", str(folder), "--json", code=1).stdout)
    line = (folder / CODE).read_text().splitlines().index("limit = undefined_name") + 1
    assert f"{folder / CODE}:{line}: NameError: name 'undefined_name' is not defined" in answer["problems"][0]


@pytest.mark.slow
def test_a_crash_is_told_with_its_file_and_line(new: Callable[..., Path]) -> None:
    folder = new()
    edit(folder / CODE, "        self.failures[event.session_id, event.tool_name] += 1", "        raise KeyError('x')")
    answer = run_command("try", str(folder), "--once", code=1).stdout
    line = (folder / CODE).read_text().splitlines().index("        raise KeyError('x')") + 1
    assert f"{folder / CODE}:{line}: KeyError" in answer
    assert "ally_tool_call_end crashed" in answer


def test_settings_are_those_of_the_manifest(new: Callable[..., Path]) -> None:
    folder = str(new())
    assert "did you mean 'limit'?" in run_command("try", folder, "--set", "limt=1", code=2).stderr
    assert "expected NAME=VALUE" in run_command("try", folder, "--set", "limit", code=2).stderr


def test_the_folder_of_a_package_alone_is_told_from_the_project(new: Callable[..., Path]) -> None:
    package = find_project(new()).manifest_path.parent
    shown = run_command("try", str(package), "--once", code=2).stderr
    assert f"{str(package)!r} has a manifest without [daemon]" in shown
    assert "name the folder of its pyproject.toml" in shown


def test_a_new_version_takes_the_place_of_the_old_one(new: Callable[..., Path], home: Path) -> None:
    folder = new(kind="daemon", language="sh")

    async def main() -> None:
        async with running(folder, home) as (host, dev):
            session = host.session()
            edit(folder / SHELL, ADVICE, "think again")
            assert (await dev.reload()).is_done
            for _ in range(3):
                session.emit(ToolCallEnd(tool_name="bash", success=False))
            await session.drained()
            await wait_for_calls(host)
            (message,) = await session.safe_point("turn_end")
            assert message.content == "bash has failed often; think again"

    go(main())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "before", "after", "said"),
    [
        (CODE, "    async def ally_tool_call_end", "    async def ally_tool_call_end(", f"{CODE}:"),
        (CODE, "Counter()", "Conter()", "NameError: name 'Conter' is not defined"),
        (CODE, "ally_tool_call_end", "ally_tool_call_ended", "did you mean 'ally_tool_call_end'?"),
        (MANIFEST, "TOOL_CALL_END", "TOOL_CALL_ENDS", f"{MANIFEST}:6: events.subscribe"),
        ("pyproject.toml", "[project]", "[project", "is not TOML"),
    ],
)
def test_a_version_that_is_not_fit_is_told_with_its_place_and_the_old_one_goes_on(
    new: Callable[..., Path], home: Path, file: str, before: str, after: str, said: str
) -> None:
    folder = new()

    async def main() -> None:
        async with running(folder, home) as (host, dev):
            session = host.session()
            whole = (folder / file).read_text(encoding="utf-8")
            edit(folder / file, before, after)
            reload = await dev.reload()
            assert not reload.is_done
            assert said in reload.problems[0]
            assert host.plugins["loop-warner"].is_running
            (folder / file).write_text(whole, encoding="utf-8")
            assert (await dev.reload()).is_done
            for _ in range(3):
                session.emit(ToolCallEnd(tool_name="bash", success=False))
            await session.drained()
            assert len(await session.safe_point("turn_end")) == 1

    go(main())


NOTING = """
    *'"method":"on_event"'*)
        printf '%s\\n' "VERSION $line" >> NOTES
        continue
        ;;
"""


def test_no_event_of_a_session_is_missed_or_doubled_when_it_is_replaced_in_its_midst(
    new: Callable[..., Path], home: Path, tmp_path: Path
) -> None:
    folder, notes = new(kind="daemon", language="sh"), tmp_path / "notes"
    noting = NOTING.replace("NOTES", str(notes))
    edit(folder / SHELL, "    case $line in\n", f"    case $line in{noting.replace('VERSION', 'old')}")
    events: list[Any] = []

    async def main() -> None:
        async with running(folder, home) as (host, dev):
            steps = 0

            async def between_steps() -> None:
                nonlocal steps
                steps += 1
                if steps == 60:
                    edit(folder / SHELL, '"old $line"', '"new $line"')
                    assert (await dev.reload()).is_done

            host.stream.subscribe("TOOL_CALL_END", events.append)
            with sample_path() as sample:
                player = Player(host, [open_recording(sample)])
                player.before_step = between_steps
                await player.play()

    go(main())
    noted = [line.split(" ", 1) for line in notes.read_text(encoding="utf-8").splitlines()]
    assert {version for version, _ in noted} == {"old", "new"}
    assert [json.loads(line)["params"]["id"] for _, line in noted] == [event.id for event in events]


@pytest.mark.slow
def test_what_is_saved_is_seen_once_and_what_is_compiled_is_not(new: Callable[..., Path]) -> None:
    folder = new()

    async def main() -> None:
        project = find_project(folder)
        changes = file_changes(project, project_stamps(project))
        first = asyncio.ensure_future(anext(changes))
        (folder / "src/loop_warner/__pycache__").mkdir()
        (folder / "src/loop_warner/__pycache__/x.pyc").write_bytes(b"x")
        (folder / "README.md").write_text("x", encoding="utf-8")
        edit(folder / CODE, ADVICE, "think again")
        assert await first == [str(folder / CODE)]
        second = asyncio.ensure_future(anext(changes))
        (folder / "src/loop_warner/more.py").write_text("", encoding="utf-8")
        assert await second == [str(folder / "src/loop_warner/more.py")]

    go(main())


@pytest.mark.smoke
@pytest.mark.slow
def test_an_author_sees_what_each_save_changes(new: Callable[..., Path], home: Path, tmp_path: Path) -> None:
    folder = new()
    process = subprocess.Popen(
        [*PROGRAM, "try", str(folder), "--watch"],
        env=environment_for(home, tmp_path) | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert ADVICE in _read_until(process, "waiting for a file")
        edit(folder / CODE, ADVICE, "think again")
        assert "Bash has failed often; think again" in _read_until(process, "waiting for a file")
        edit(folder / CODE, "think again", 'think again" + nonsense + "')
        shown = _read_until(process, "waiting for a file")
        assert f"{folder / CODE}:" in shown
        edit(folder / CODE, "class LoopWarner:", "class LoopWarner(:")
        assert f"{folder / CODE}:" in _read_until(process, "waiting for a file")
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        end(process)


def _read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    shown = ""
    while text not in shown:
        line = process.stdout.readline()
        assert line, f"it ended: {shown}"
        shown += line
    return shown
