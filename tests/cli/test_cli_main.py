from __future__ import annotations

import logging
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import category

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins import __version__, journal, replay
from ally_plugins.catalog import registry
from ally_plugins.catalog.registry import Registry
from ally_plugins.cli import entry
from ally_plugins.cli.shell import exits
from ally_plugins.cli.shell.exits import FAILED, exit_code_of
from ally_plugins.cli.shell.main import cli
from ally_plugins.cli.shell.plain_logs import plain_logs
from ally_plugins.cli.shell.text import columns, harmless, inert, paint, preview
from ally_plugins.contract.values import errors
from ally_plugins.host import host
from ally_plugins.journal import owned_files, process_identity
from tests.kit.commands import run_command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Operator

HEAVY = {"asyncio", "jsonschema", "rich", "sqlite3", "tomlkit", "urllib.request"}


def commands() -> Iterator[tuple[str, click.Command]]:
    for name, command in sorted(cli.commands.items()):
        yield name, command
        for sub, inner in getattr(command, "commands", {}).items():
            yield f"{name} {sub}", inner


NAMES = [name for name, _ in commands()]


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_json_and_an_example_with_its_full_path(operator: Operator, name: str) -> None:
    shown = operator.run(*name.split(), "--help").stdout
    assert "--json" in shown
    assert re.search(rf"Example:\n +ally-plugins {name}\b", shown)


@pytest.mark.parametrize("name", ["", *NAMES])
def test_the_help_of_every_command_fits_eighty_columns(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = operator.run(*name.split(), "--help").stdout.splitlines()
    # A command of an example is copied, in one piece.
    assert [line for line in lines if len(line) > 80 and not line.startswith("    ally-plugins ")] == []


@pytest.mark.parametrize("name", [name for name, command in commands() if isinstance(command, click.Group)])
def test_a_group_without_a_command_is_no_error(operator: Operator, name: str) -> None:
    assert operator.run(name).stderr == ""


def test_the_help_of_a_command_lists_the_commands_under_it(operator: Operator) -> None:
    assert re.search(r"^  verify +Check the whole chain", operator.run("audit", "--help").stdout, re.MULTILINE)


def test_the_help_lists_every_command_with_what_it_does(operator: Operator) -> None:
    shown = operator.run("--help").stdout
    for name in {name.split()[0] for name in NAMES}:
        assert re.search(rf"^  {name} +[A-Z].*\.$", shown, re.MULTILINE), name
    assert operator.run().stdout == shown


@pytest.mark.parametrize(
    ("args", "more"),
    [
        (["--help"], {"attrs", "orjson", registry.__name__, errors.__name__}),
        (["list"], {host.__name__}),
    ],
)
def test_a_command_loads_nothing_that_it_does_not_need(operator: Operator, args: list[str], more: set[str]) -> None:
    code = (
        "import sys; from ally_plugins.cli.shell.main import main\n"
        "try: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    command, env = [sys.executable, "-c", code, *args], operator.environment()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert (HEAVY | more | {replay.__name__}) & loaded == set()
    of_the_journal = {name for name in loaded if name.startswith(f"{journal.__name__}.")}
    # What opens the home's files, and what tells whose they are: of both other rooms make use.
    assert of_the_journal <= {owned_files.__name__, process_identity.__name__}


def test_an_unknown_command_is_wrong_usage_and_the_nearest_is_named(operator: Operator) -> None:
    result = operator.run("enabel", code=2)
    assert result.stderr == "ally-plugins: no command 'enabel', did you mean 'enable'?; see `ally-plugins --help`\n"


@pytest.mark.parametrize("args", [("list", "--nope"), ("info",), ("audit", "--limit", "x"), ("audit", "verfy")])
def test_wrong_usage_is_one_line_and_exit_code_2(operator: Operator, args: tuple[str, ...]) -> None:
    result = operator.run(*args, code=2)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "--help`" in result.stderr
    assert operator.ask(*args, code=2)["error"]["exit_code"] == 2


def test_a_wrong_or_missing_choice_is_one_readable_line_that_names_the_argument(operator: Operator) -> None:
    hint = "see `ally-plugins completion --help`"
    missing = operator.run("completion", code=2).stderr
    assert missing == f"ally-plugins: missing argument 'SHELL'; expected one of bash, zsh, fish; {hint}\n"
    wrong = operator.run("completion", "csh", code=2).stderr
    assert wrong == f"ally-plugins: invalid value 'csh' for 'SHELL', did you mean 'zsh'?; {hint}\n"
    option = operator.run("new", "x", "--kind", "\n'", code=2).stderr
    assert option.startswith("ally-plugins: invalid value \"\\n'\" for '--kind', expected one of class, daemon; see")
    assert operator.run("quux", code=2).stderr == "ally-plugins: no command 'quux'; see `ally-plugins --help`\n"
    assert "expected one of collect, init," in operator.run("fleet", "quux", code=2).stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="SKIPPED: this system has no full device")
@pytest.mark.parametrize("words", [["list", "--json"], ["--version"]])
def test_an_output_that_cannot_be_written_is_said_in_one_line(operator: Operator, words: list[str]) -> None:
    command = [sys.executable, "-m", "ally_plugins", *words]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, env=operator.environment(), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.stderr == "ally-plugins: the output cannot be written: No space left on device\n"
    assert done.returncode == FAILED


def test_without_an_output_a_command_does_its_work(warner: Operator) -> None:
    words = shlex.join([sys.executable, "-m", "ally_plugins", "enable", "loop-warner", "--yes"])
    done = subprocess.run(
        ["/bin/sh", "-c", f"{words} >&-"], env=warner.environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert warner.ask("list")["plugins"][0]["state"] == "enabled"


def test_a_group_says_the_whole_of_what_its_commands_do(operator: Operator) -> None:
    shown = " ".join(operator.run("fleet", "--help").stdout.split())
    assert (
        "publish Send what the home's journal has to the fleet's server, and go on as it grows, until Ctrl-C." in shown
    )


def test_where_no_plugin_is_installed_the_way_to_one_is_named(operator: Operator) -> None:
    for command in ("info", "enable", "uninstall"):
        assert "to get one: ally-plugins install NAME" in operator.run(command, "nonsense", code=2).stderr


def test_a_path_that_no_system_can_look_for_is_named_with_the_systems_reason(
    operator: Operator, tmp_path: Path
) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in ("x" * 300, str(tmp_path / "loop")):
        wrong = operator.run("list", "--home", path, code=2).stderr
        assert re.match(rf"ally-plugins: --home: .{path[:20]}.* cannot be looked for: [A-Z]", wrong)
    failed = operator.run("fleet", "init", "x" * 300, "laptop", code=2).stderr
    assert re.match(r"ally-plugins: 'x+(/authority\.seed)?' cannot be read: File name too long", failed)


def test_an_error_with_json_is_an_object_with_what_it_is_about(warner: Operator) -> None:
    error = warner.ask("grant", "loop-warner", "tools", code=1)["error"]
    assert (error["type"], error["command"]) == ("ConsentError", "ally-plugins enable loop-warner")


def test_home_and_app_are_taken_before_and_after_the_command(warner: Operator, tmp_path: Path) -> None:
    other = tmp_path / "other"
    warner.run("--home", str(other), "enable", "loop-warner", "--yes")
    assert warner.ask("list", "--home", str(other))["plugins"][0]["state"] == "enabled"
    assert warner.ask("list")["plugins"][0]["state"] == "waiting for consent"


def test_an_app_whose_name_leads_elsewhere_is_refused(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALLY_HOME")
    assert "is not a name" in operator.run("list", "--app", "../up", code=2).stderr


def test_every_error_has_its_exit_code() -> None:
    kinds = {name: kind for name in errors.__all__ if isinstance(kind := getattr(errors, name), type)}
    codes = {name: exit_code_of(_made(kind)) for name, kind in kinds.items()}
    assert {name for name, code in codes.items() if code == 2} == {"ConfigError", "ArgumentsError"}
    assert {name for name, code in codes.items() if code == 3} == {"JournalError", "JournalVersionError"}
    assert exit_code_of(RuntimeError()) == 3


def _made(kind: type[Exception]) -> Exception:
    made = kind.__new__(kind)
    Exception.__init__(made, "text")
    return made


@pytest.mark.slow
def test_an_error_of_the_program_is_one_line_and_shows_its_place_when_asked(operator: Operator) -> None:
    code = "import ally_plugins.cli.look.list as m, ally_plugins.cli.shell.main as p\nm.paint_state = None\np.main()"
    operator.install()
    operator.enable()
    command = [sys.executable, "-c", code, "list"]
    quiet = subprocess.run(command, env=operator.environment(), capture_output=True, text=True, check=False)
    assert quiet.returncode == 3
    assert quiet.stderr.count("\n") == 1
    assert "ALLY_DEBUG=1" in quiet.stderr
    loud = subprocess.run(
        command, env=operator.environment(ALLY_DEBUG="1"), capture_output=True, text=True, check=False
    )
    assert "Traceback" in loud.stderr


def test_no_line_of_a_plugins_error_begins_where_the_programs_own_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALLY_DEBUG", "1")
    error = RuntimeError("bad luck\nerror: the journal was changed\u2028warning: run it again with --yes")
    with plain_logs():
        logging.getLogger("ally_plugins").error("a hook failed", exc_info=error)
    first, *more = capsys.readouterr().err.splitlines()
    assert first == "error: a hook failed"
    assert "  | error: the journal was changed" in more
    assert all(line.startswith("  | ") for line in more)


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_it_quietly(operator: Operator) -> None:
    for number in range(300):
        operator.install(f"p{number}", "", code="")
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "ally_plugins", "list"]
    done = subprocess.run(command, env=operator.environment(), stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.slow
def test_a_terminal_that_cannot_show_a_character_gets_an_escape(operator: Operator) -> None:
    operator.install(manifest='description = "\u4e2d"\n')
    done = operator.process("info", "loop-warner", env={"PYTHONIOENCODING": "latin-1"})
    assert r"loop-warner: \u4e2d" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "is_coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colours_are_for_terminals_that_want_them(
    warner: Operator,
    environment: dict[str, str],
    is_coloured: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "xterm")
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    warner.enable()
    shown = warner.at_terminal("list", until="loop-warner", answer=b"")
    assert ("\x1b[" in shown) is is_coloured
    assert "\x1b[" not in warner.process("list").stdout


# text


@given(st.text())
def test_inert_text_is_printable_and_plain_text_is_itself(text: str) -> None:
    assert inert(text).isprintable()
    assert inert(inert(text)) == inert(text)
    # Category by category: of combining marks and fillers some are printable to Python, and nobody sees them.
    if text.isprintable() and all(category(char) in {"Ll", "Lu", "Nd", "Po", "Sm", "Zs"} for char in text):
        assert inert(text) == text


@pytest.mark.parametrize(
    "char", ["\x1b", "\x00", "\x7f", "\x9b", "\u202e", "\u2066", "\u200b", "\ufeff", "\U000e0041", "\ud800"]
)
def test_what_acts_on_a_terminal_or_a_reader_is_escaped(char: str) -> None:
    assert inert(f"a{char}b").isascii()
    assert inert(f"a{char}\nb", keep_lines=True).count("\n") == 1


@given(st.lists(st.text() | st.sampled_from(["\x1b[", "\x1b[8m", "\x1b[30m", "\x1b[31m", "m", "31", "\n", "\x9b2J"])))
def test_nothing_that_was_not_made_inert_gets_past_the_door_to_the_terminal(pieces: list[str]) -> None:
    shown = harmless("".join(pieces))
    rest = re.sub("\x1b\\[(0|1|2|3[1-7]|9[0-7])m", "", shown)
    assert rest.replace("\n", "").replace("\t", "").isprintable()
    ours = paint("a", fg="bright_black", bold=True, dim=True)
    assert harmless(ours) == ours


def test_an_error_of_the_program_shows_its_traceback_without_what_a_stranger_wrote_into_it(
    monkeypatch: pytest.MonkeyPatch, operator: Operator
) -> None:
    def fail(_: Any) -> Any:
        raise RuntimeError("\x1b]0;owned\x07\u202e")

    monkeypatch.setenv("ALLY_DEBUG", "1")
    monkeypatch.setattr(Registry, "load", fail)
    shown = operator.run("list", code=3).stderr
    assert "Traceback" in shown
    assert shown.replace("\n", "").isprintable()


def test_a_preview_says_how_much_is_left_out() -> None:
    assert preview("x" * 1000, 10) == "xxxxxxxxxx... (1000 characters)"


def test_columns_never_cut_and_never_pad_the_last() -> None:
    rows: list[Any] = [("a", "b", "the last"), ("longer", click.style("x", fg="red"), "")]
    assert [click.unstyle(line) for line in columns(rows)] == ["a       b  the last", "longer  x"]


# docs


def test_the_reference_names_every_exit_code_and_no_other() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "commands.md").read_text("utf-8")
    named = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    assert named == {value for name, value in vars(exits).items() if name.isupper()}


def test_the_version_is_the_same_by_the_short_way_and_by_the_long_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ally-plugins", "--version"])
    entry.main()
    assert capsys.readouterr().out == run_command("--version").stdout == f"ally-plugins, version {__version__}\n"
