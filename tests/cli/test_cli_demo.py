from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.cli.demo import Demo, screen
from ally_plugins.cli.main import cli
from ally_plugins.events import CODE_ALLY_TYPES, PLUGIN_TYPES

if TYPE_CHECKING:
    from pathlib import Path

CONTRIB = "ally-plugins-contrib"


@pytest.fixture
def contrib() -> None:
    try:
        importlib.metadata.distribution(CONTRIB)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{CONTRIB} is not installed")


def _run(*args: str) -> Any:
    from click.testing import CliRunner

    return CliRunner().invoke(cli, ["demo", *args])


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
        "ally-plugins replay SESSION.jsonl",
    ):
        assert expected in result.stdout
    assert "\x1b" not in result.stdout
    assert list(home.iterdir()) == []  # the person's own home is not touched


@pytest.mark.usefixtures("contrib", "home")
def test_json_counts_all_twelve_event_types_and_the_three_of_plugins(tmp_path: Path) -> None:
    import json

    found = json.loads(_run("--json").stdout)
    assert all(found["events"][name] > 0 for name in (*CODE_ALLY_TYPES, *PLUGIN_TYPES))
    assert found["decisions"]["deny"] == 1
    assert found["broken_lines"] == 0
    assert found["action"]["result"]["tool_calls"]["total"] == found["events"]["TOOL_CALL_START"]
    assert {one["plugin"] for one in found["messages"]} == {"conversation-monitor", "loop-guard"}
    assert not list(tmp_path.glob("ally-demo-*"))


@pytest.mark.usefixtures("contrib")
def test_consent_is_recorded_as_the_demos_own(tmp_path: Path) -> None:
    import asyncio

    shown = Demo("ally-plugins", str(tmp_path))
    assert 'by = "demo"' in shown.home.consent_file.read_text("utf-8")
    asyncio.run(shown.run())
    assert screen(shown)


def test_without_the_contrib_plugins_it_says_how_to_get_them(operator: Any) -> None:
    result = operator.run("demo", code=1)
    assert "pip install ally-plugins-contrib" in result.stderr
    assert result.stdout == ""
