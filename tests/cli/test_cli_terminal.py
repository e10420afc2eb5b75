"""What the commands do for a person at a terminal: tables that stay tables, a pager, and completion by the shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest

from ally_plugins.catalog.home.secret_store import SecretStore
from ally_plugins.cli.shell import text
from ally_plugins.cli.shell.text import echo_pages, paint, table
from tests.kit.commands import run_command

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Operator

LONG = "its files are not those that were agreed to; to see what has changed: ally-plugins enable loop-warner"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "is_terminal", lambda _: True)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_: os.terminal_size((60, 10)))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


# --- tables


@pytest.mark.usefixtures("terminal")
def test_on_a_terminal_long_texts_are_broken_between_words_inside_their_column() -> None:
    lines = [click.unstyle(line) for line in table(("plugin", "about"), [("loop-warner", LONG), ("other", "short")])]
    assert lines[0] == "plugin       about"
    assert lines[1].startswith("loop-warner  its files")
    assert all(line.startswith(" " * 13) for line in lines[2:-1])
    assert lines[-1] == "other        short"
    assert max(map(len, lines)) <= 60
    assert " ".join(line[13:] for line in lines[1:-1]) == LONG


@pytest.mark.usefixtures("terminal")
def test_where_the_last_column_would_be_a_strip_its_text_stands_below_the_row() -> None:
    rows = [("loop-warner", "waiting for consent", LONG), ("other", "enabled", "")]
    lines = [click.unstyle(line) for line in table(("plugin", "state", "about"), rows)]
    assert lines[:2] == ["plugin       state", "loop-warner  waiting for consent"]
    assert all(line.startswith("    ") for line in lines[2:-1])
    assert " ".join(line.strip() for line in lines[2:-1]) == LONG
    assert lines[-1] == "other        enabled"


@pytest.mark.usefixtures("terminal")
def test_a_word_that_is_wider_than_the_terminal_is_shown_to_its_end() -> None:
    lines = [click.unstyle(line) for line in table(("name", "state", "about"), [("n" * 100, "s" * 30, "b" * 200)])]
    shown = "".join(lines)
    assert [shown.count(letter) for letter in "nsb"] == [100, 31, 200]
    assert max(map(len, lines)) <= 60


@pytest.mark.usefixtures("terminal")
def test_where_columns_would_break_words_each_row_names_its_values_below_its_first() -> None:
    headings = ("plugin", *(f"long-heading-{number}" for number in range(4)), "CPU")
    rows = [("loop-warner", "1", "2", "", "4", "0.1 s"), ("other", *"56789")]
    lines = [click.unstyle(line) for line in table(headings, rows)]
    assert lines == [
        "loop-warner",
        "    long-heading-0 1, long-heading-1 2, long-heading-3 4,",
        "    CPU 0.1 s",
        "other",
        "    long-heading-0 5, long-heading-1 6, long-heading-2 7,",
        "    long-heading-3 8, CPU 9",
    ]
    texts = [click.unstyle(line) for line in table((*headings[:5], "about"), [(*rows[0][:5], LONG)])]
    assert texts[:2] == ["loop-warner", "    long-heading-0 1, long-heading-1 2, long-heading-3 4"]
    assert " ".join(line.strip() for line in texts[2:]) == LONG


@pytest.mark.usefixtures("terminal")
def test_a_path_that_has_room_below_its_row_is_not_broken_beside_it() -> None:
    path = "/home/somebody/.config/" + "x" * 30
    lines = [click.unstyle(line) for line in table(("agent", "settings"), [("claude-code", path)])]
    assert lines == ["agent", "claude-code", f"    {path}"]


@pytest.mark.usefixtures("terminal")
def test_a_cell_keeps_its_colour_and_loses_what_acts() -> None:
    shown = "\n".join(table(("a", "b"), [(paint("green", fg="green"), "x\x1b[2J\x1b]0;t\x07")]))
    assert "\x1b[32mgreen" in shown
    assert click.unstyle(text.harmless(shown)).replace("\n", "").isprintable()


def test_elsewhere_each_row_is_one_line_below_the_headings() -> None:
    assert table(("plugin", "about"), [("loop-warner", LONG)]) == ["plugin       about", f"loop-warner  {LONG}"]
    assert table(("plugin", "about"), []) == []


@pytest.mark.slow
def test_list_has_headings_in_a_pipe_and_at_a_terminal(warner: Operator) -> None:
    warner.enable()
    for shown in (warner.run("list").stdout, warner.at_terminal("list", until="loop-warner", answer=b"")):
        first = click.unstyle(shown).splitlines()[0]
        assert first.split() == ["plugin", "state", "placement", "from", "about"]


# --- the pager


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(("count", "is_paged"), [(9, False), (10, True)])
def test_what_is_longer_than_the_terminal_goes_to_the_pager(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], count: int, *, is_paged: bool
) -> None:
    pager = "import sys; [print('paged:', line, end='') for line in sys.stdin]"
    monkeypatch.setattr(click, "echo_via_pager", lambda shown: subprocess.run(
        [sys.executable, "-c", pager], input=shown, text=True, check=True))  # fmt: skip
    echo_pages([f"line {number}\x9b" for number in range(count)])
    lines = capfd.readouterr().out.splitlines()
    assert lines == [f"{'paged: ' if is_paged else ''}line {number}\\x9b" for number in range(count)]


def test_a_real_pager_is_given_what_a_person_looks_at_and_never_what_a_pipe_reads(warner: Operator) -> None:
    warner.home.logs_dir.mkdir(parents=True)
    lines = "".join(f"2026-01-01T00:00:00.000Z line {number}\n" for number in range(40))
    (warner.home.logs_dir / "loop-warner.log").write_text(lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAGER", "sed s/line/paged/")
        shown = warner.at_terminal("logs", "loop-warner", until="paged 39", answer=b"")
        assert "line" not in shown
        assert "paged" not in warner.process("logs", "loop-warner").stdout


# --- completion


def complete(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    """Return what is offered for the last word."""
    with monkeypatch.context() as patch:
        patch.setenv("_ALLY_PLUGINS_COMPLETE", "bash_complete")
        patch.setenv("COMP_WORDS", " ".join(["ally-plugins", *words]))
        patch.setenv("COMP_CWORD", str(len(words)))
        return [line.removeprefix("plain,") for line in run_command().stdout.splitlines() if line]


def test_commands_are_completed_without_loading_them(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    assert complete(monkeypatch, "re") == ["review", "revoke", "release", "restart", "replay"]
    environment = operator.environment() | {
        "_ALLY_PLUGINS_COMPLETE": "zsh_complete",
        "COMP_WORDS": "x ",
        "COMP_CWORD": "1",
    }
    code = (
        "import sys; from ally_plugins.cli.shell.main import main\n"
        "try: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "Show every plugin with its state." in done.stdout
    assert not [name for name in done.stderr.split() if name.startswith("ally_plugins.cli.look.")]


@pytest.mark.parametrize(
    "command", ["enable", "info", "logs", "restart", "release", "uninstall", "audit --plugin", "call"]
)
def test_names_of_plugins_are_completed(warner: Operator, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    warner.install("loop-guard", "", code="")
    assert complete(monkeypatch, *command.split(), "loop") == ["loop-guard", "loop-warner"]
    assert complete(monkeypatch, *command.split(), "x") == []


def test_grants_and_settings_are_those_of_the_plugin_that_is_named(
    enabled: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(*_: object) -> None:
        raise AssertionError("a keyring may wait for a prompt")

    monkeypatch.setattr(SecretStore, "get", look)
    enabled.run("revoke", "loop-warner", "tools")
    assert complete(monkeypatch, "grant", "loop-warner", "") == ["tools"]
    held = ["add_message:user", "events:TOOL_CALL_END", "gate:tool_call:bash"]
    assert complete(monkeypatch, "revoke", "loop-warner", "") == held
    assert complete(monkeypatch, "revoke", "loop-warner", held[0], "add") == []
    assert complete(monkeypatch, "config", "loop-warner", "") == ["limit=", "token"]
    assert complete(monkeypatch, "config", "loop-warner", "--unset", "l") == ["limit"]
    assert complete(monkeypatch, "grant", "nobody", "") == []
    assert complete(monkeypatch, "audit", "--kind", "rev") == ["revoke"]


def test_where_nothing_can_be_read_nothing_is_offered_and_nothing_is_said(
    enabled: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    enabled.home.config_file.write_text("[plugins\n")
    assert complete(monkeypatch, "info", "") == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_script_for_bash_completes_a_grant_behind_its_colon(enabled: Operator, tmp_path: Path) -> None:
    enabled.run("revoke", "loop-warner", "add_message")
    program = tmp_path / "bin" / "ally-plugins"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m ally_plugins "$@"\n')
    program.chmod(0o755)
    environment = enabled.environment()
    environment["PATH"] = f"{program.parent}{os.pathsep}{environment['PATH']}"
    words = "COMP_WORDS=(ally-plugins grant loop-warner add_message:u); COMP_CWORD=3"
    call = '_ally_plugins_completion ally-plugins; echo "${COMPREPLY[@]} $COMP_WORDBREAKS"'
    script = f'eval "$(ally-plugins completion bash)"; {words}; {call}'
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "add_message:user", done.stderr
    assert ":" not in done.stdout.split()[1:]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(operator: Operator, shell: str) -> None:
    script = operator.run("completion", shell).stdout
    assert "_ALLY_PLUGINS_COMPLETE" in script
    assert operator.ask("completion", shell)["script"] in script
