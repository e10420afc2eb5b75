from __future__ import annotations

import contextlib
import importlib.metadata
import inspect
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ally_plugins.cli.play.demo import Demo, screen
from ally_plugins.cli.shell.main import cli
from ally_plugins.contract.values.events import CODE_ALLY_TYPES, PLUGIN_TYPES

CONTRIB = "ally-plugins-contrib"


@pytest.fixture
def contrib() -> None:
    try:
        importlib.metadata.distribution(CONTRIB)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{CONTRIB} is not installed")


def _run(*args: str) -> Any:
    from click.testing import CliRunner

    # Click 8.1 has to be told to keep the two streams apart, 8.2 does so anyway.
    options: dict[str, Any] = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
    return CliRunner(**options).invoke(cli, ["demo", *args])


@pytest.mark.usefixtures("contrib")
def test_one_screen_shows_events_messages_a_refusal_and_what_to_try_next(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALLY_PLUGINS", "none")
    result = _run()
    assert result.exit_code == 0, result.output
    lines = result.stdout.rstrip().splitlines()
    assert len(lines) <= 40
    assert max(len(line) for line in lines) <= 100
    for expected in (
        *CODE_ALLY_TYPES,
        *PLUGIN_TYPES,
        "conversation-monitor as user: The context is",
        "loop-guard as user: Bash has failed",
        "Bash would be refused by loop-guard",
        "[redacted:github-token]",
        "the host has noticed: was killed by SIGKILL after",
        "its gate denies: secret-guard: it has a gate and is starting again",
        "it runs again, and its gate answers: allow",
        "ally-plugins replay SESSION.jsonl",
    ):
        assert expected in result.stdout
    assert "\x1b" not in result.stdout
    assert list(home.iterdir()) == []  # the person's own home is not touched
    assert result.stderr == ""


@pytest.mark.slow
@pytest.mark.usefixtures("contrib", "home")
def test_json_counts_all_twelve_event_types_and_the_three_of_plugins(temporary_folder: Path) -> None:
    import json

    killed = temporary_folder / "ally-demo-9999999-left"  # no system gives such a process id
    killed.mkdir(mode=0o700)
    (killed / "journal.db").write_text("")
    found = json.loads(_run("--json").stdout)
    assert all(found["events"][name] > 0 for name in (*CODE_ALLY_TYPES, *PLUGIN_TYPES))
    assert found["decisions"]["deny"] == 2  # loop-guard's, and the one of a gate whose process is away
    assert found["broken_lines"] == 0
    assert found["action"]["result"]["tool_calls"]["total"] == found["events"]["TOOL_CALL_START"]
    assert {one["plugin"] for one in found["messages"]} == {"conversation-monitor", "loop-guard"}
    assert not list(temporary_folder.glob("ally-demo-*"))


@pytest.mark.slow
@pytest.mark.usefixtures("contrib", "home")
def test_the_process_that_is_killed_is_noticed_denies_and_comes_back_and_none_is_left() -> None:
    import json

    found = json.loads(_run("--json").stdout)
    killed = found["killed"]
    assert killed["plugin"] == "secret-guard"
    assert killed["reason"].startswith("was killed by SIGKILL after ")
    assert "; it starts again in " in killed["reason"]
    assert "it has a gate and is starting again" in killed["answer_meanwhile"]
    assert killed["answer_afterwards"] == "allow"
    assert 0 < killed["noticed_after"] < killed["running_after"]
    assert found["plugins"]["secret-guard"] | {"reason": ""} == {
        "delivered": 0, "dropped": 0, "messages": 0, "emitted": 0, "refused": {}, "crashes": 1, "state": "running",
        "prompt_changes": 0, "uncached_tokens": 0, "reason": "",
    }  # fmt: skip
    assert not [command for command in _own_children() if b"ally_plugins" in command]


def _own_children() -> list[bytes]:
    """Return the command lines of this process's children, where the machine tells."""
    own = os.getpid()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            if int(folder.joinpath("stat").read_text().rpartition(")")[2].split()[1]) == own:
                found.append(folder.joinpath("cmdline").read_bytes())
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("contrib")
def test_consent_is_recorded_as_the_demos_own(tmp_path: Path) -> None:
    import asyncio

    shown = Demo("ally-plugins", tmp_path)
    assert 'by = "demo"' in shown.home.consent_file.read_text("utf-8")
    asyncio.run(shown.run())
    assert screen(shown)


def test_without_the_contrib_plugins_it_says_how_to_get_them(operator: Any) -> None:
    result = operator.run("demo", code=1)
    assert "pip install ally-plugins-contrib" in result.stderr
    assert result.stdout == ""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without telling it")
@pytest.mark.usefixtures("contrib")
@pytest.mark.parametrize("is_background", [False, True], ids=["at a terminal", "in a script's background"])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_one_that_is_ended_from_outside_leaves_no_folder(name: str, is_background: bool, tmp_path: Path) -> None:  # noqa: FBT001
    def begin() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup
        signal.signal(signal.SIGINT, signal.SIG_IGN if is_background else signal.SIG_DFL)

    process = subprocess.Popen(
        [sys.executable, "-m", "ally_plugins", "demo"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        preexec_fn=begin,  # noqa: PLW1509 - nothing else runs in this process
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("ally-demo-*/journal.db")):  # the host starts
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(getattr(signal, name))
    _, problems = process.communicate(timeout=60)
    assert process.returncode == 130, problems
    assert "Traceback" not in problems
    assert not list(tmp_path.iterdir())
