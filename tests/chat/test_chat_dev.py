"""`chat --dev`: a plugin from its author's folder in a chat, and what a saved file changes of it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ally_plugins import Host
from ally_plugins.author.new_project import NewProject
from ally_plugins.catalog.home.folder import Home
from ally_plugins.cli.chat.developed import Developed
from ally_plugins.journal.journal import Journal
from ally_plugins.replay.scratch_home import scratch_home
from tests.kit.commands import PROGRAM, environment_for, run_command
from tests.kit.waiting import go, until

DAEMON = "src/loop_warner/daemon.sh"


def project(folder: Path) -> Path:
    NewProject(name="loop-warner", kind="daemon", language="sh", has_gate=True).write(folder / "loop-warner")
    return folder / "loop-warner"


@pytest.mark.slow
def test_a_saved_file_replaces_the_plugin_in_the_chat_and_one_that_is_not_fit_does_not(
    tmp_path: Path, home: Path
) -> None:
    plugin, notes = project(tmp_path), list[str]()
    home.chmod(0o700)

    async def noted(text: str) -> str:
        await until(lambda: any(text in note for note in notes), text)
        return next(note for note in notes if text in note)

    async def main(scratch: Home) -> None:
        developed = Developed.of(plugin)
        journal = Journal.in_memory()
        # As a chat opens it, without the protection of the process, which would last for the tests that follow.
        host = Host(home=scratch, plugins=developed.plugins, journal=journal, discover=False)
        async with host, developed.followed(host, notes.append):
            assert "add_message:user" in await noted("loop-warner runs from")
            file = plugin / DAEMON
            whole = file.read_text(encoding="utf-8")
            file.write_text(whole.replace("try another way", "think again"), encoding="utf-8")
            await noted(f"{DAEMON} changed, the new one runs")
            file.write_text("#!/bin/sh\nexit 3\n", encoding="utf-8")
            await noted("the one before goes on")
            assert host.plugins["loop-warner"].is_running
        await journal.close()

    with scratch_home(Home("ally-plugins", home)) as scratch:
        go(main(scratch))
    assert not (home / "journal.db").exists()


@pytest.mark.slow
def test_a_chat_at_a_pipe_runs_it_and_keeps_nothing(tmp_path: Path, home: Path) -> None:
    home.chmod(0o700)
    words = ("chat", "--dev", str(project(tmp_path)), "--folder", str(tmp_path))
    done = subprocess.run(
        [*PROGRAM, *words],
        check=True,
        env=environment_for(home, tmp_path),
        input="hello\n",
        capture_output=True,
        text=True,
    )
    assert "loop-warner runs from" in done.stdout
    assert "--resume" not in done.stdout
    assert json.loads(run_command("sessions", "--json").stdout) == {"sessions": []}


def test_what_such_a_chat_cannot_do_is_told_before_it_begins(tmp_path: Path, home: Path) -> None:
    home.chmod(0o700)
    assert "nothing is kept" in run_command("chat", "--dev", str(tmp_path), "--continue", code=2).stderr
