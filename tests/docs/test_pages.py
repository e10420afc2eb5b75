"""Tutorials and how-tos as their readers follow them: each from an empty folder, block by block, in a real shell.

That the program takes each command is tested at once. Then each page is followed, and its Python run as one script.
What a page tells this test:

- A block below `<!-- not run: REASON -->` is left out.
- A block below `<!-- file: NAME -->`, or below a line that ends with the file's name and a colon, is written there;
  below `<!-- more of: NAME -->` it is added.
- At a block below `<!-- person: TEXT -> KEYS; ... -->` a person sits at a terminal, and types KEYS where TEXT is shown.
- What stands in a console block below the commands, or in a `text` block right behind it, must have been printed; `...`
  stands for anything.
- What is started in the background with `&` runs until the page's end; meanwhile a block is run until it shows that.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from ally_plugins.cli.shell.main import cli
from tests.kit.commands import run_command

from .pages import ALL, BLOCK, DOCS, blocks
from .reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ENDS_OF_COMMANDS = {";", "&&", "||", "|", "&", "(", ")", "<", ">"}


IN_PROSE = re.compile(r"`(ally-plugins [^`]+)`")


def commands() -> Iterator[tuple[str, str]]:
    for page, text in ALL.items():
        for block in blocks(page):
            yield from ((page, line) for line in block.commands if "ally-plugins " in line)
        yield from ((page, " ".join(found.split())) for found in IN_PROSE.findall(BLOCK.sub("", text)))


def calls_in(line: str) -> Iterator[list[str]]:
    """Yield the arguments of each call of `ally-plugins` in a line of a shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word not in ENDS_OF_COMMANDS:
            words.append(word)
            continue
        if "ally-plugins" in words[:3] and words[0] != "pip":  # behind an assignment, or `exec`
            yield words[words.index("ally-plugins") + 1 :]
        words = []


def test_every_command_of_a_tutorial_or_how_to_is_one_that_the_program_takes() -> None:
    runner, wrong, count = CliRunner(), [], 0
    for page, line in commands():
        if "$(" in line:  # what it calls inside is known when it runs
            continue
        for words in calls_in(line):
            count += 1
            # Options and names of commands are looked at before the help is shown; nothing runs.
            result = runner.invoke(cli, [*words, "--help"])
            if result.exit_code:
                wrong.append(f"{page}: {line}: {result.output.strip().splitlines()[-1]}")
    assert wrong == []
    assert count > 250


def test_a_command_that_the_program_does_not_take_is_found() -> None:
    for words in (["lsit"], ["list", "--no-such-option"]):
        assert CliRunner().invoke(cli, [*words, "--help"]).exit_code == 2


def test_the_blocks_that_are_left_out_are_these() -> None:
    reasons = {(page, block.reason) for page in ALL for block in blocks(page) if block.reason}
    assert reasons == {
        ("how-to/agents/claude", "it needs Claude Code"),
        ("how-to/agents/codex", "it needs Codex"),
        ("how-to/agents/copilot", "it needs Copilot CLI"),
        ("how-to/agents/gemini", "it needs Gemini CLI"),
        ("how-to/agents/goose", "it needs Goose"),
        ("how-to/agents/opencode", "it needs opencode"),
        ("how-to/agents/pi", "it needs pi"),
        ("how-to/coding-agents", "it needs Claude Code"),
        ("how-to/coding-agents", "the id is of your own run"),
        ("how-to/daemons", "it needs a plugin in quarantine"),
        ("how-to/daemons", "it needs another Python"),
        ("how-to/fleet", "it is of a fleet of yours"),
        ("how-to/fleet", "it needs PostgreSQL"),
        ("how-to/fleet", "it needs a collector of OpenTelemetry"),
        ("how-to/fleet", "the digests are of your own machines"),
        ("how-to/fleet", "the id is of your own run"),
        ("how-to/inspect", "the ids are of your own run"),
        ("how-to/managed-fleet", "it needs a fleet that publishes"),
        ("how-to/operate", "it needs a plugin in quarantine"),
        ("how-to/operate", "the id is of your own run"),
        ("how-to/tools-actions-tasks", "it needs an agent that runs"),
        ("how-to/upgrade", "it needs an index with two versions"),
        ("tutorial/chat", "it needs a model"),
        ("tutorial/coding-agent", "it needs Claude Code"),
        ("tutorial/coding-agent", "the id is of your own run"),
        ("tutorial/first-daemon", "examples lie in the repository"),
        ("tutorial/first-plugin", "the code that `new` wrote"),
        ("tutorial/operate-plugins", "the id is of your own run"),
    }


QUICK = "how-to/setuptools"
"""One in every run of CI; `nox -s long` has the others, some seconds of processor time each."""


@pytest.mark.smoke
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow if page == QUICK else pytest.mark.long) for page in sorted(ALL)],
)
def test_a_page_can_be_followed_from_an_empty_folder(page: str, tmp_path: Path, wheels: list[Path]) -> None:
    with Reader(tmp_path, wheels) as reader:
        reader.follow(page)


@pytest.fixture
def follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Reader]]:
    """Return what follows a page of this text."""
    with Reader(tmp_path) as reader:

        def follow(text: str) -> Reader:
            monkeypatch.setitem(ALL, "mine", text)
            reader.follow("mine")
            return reader

        yield follow


def test_a_page_that_shows_what_is_not_printed_is_found(follow: Callable[[str], Reader]) -> None:
    follow("```console\n$ echo one\none\n```\n\n```text\no...\n```\n")
    with pytest.raises(AssertionError, match="two"):
        follow("```console\n$ echo one\n```\n\n```text\ntwo\n```\n")


def test_a_page_goes_on_in_the_folder_and_with_the_variables_of_the_block_before(
    follow: Callable[[str], Reader],
) -> None:
    page = "```console\n$ mkdir shop\n$ cd shop\n$ export WORD=kept\n```\n\n```console\n$ echo $WORD > here\n```\n"
    assert (follow(page).folder / "shop" / "here").read_text() == "kept\n"
    with pytest.raises(AssertionError, match="ended with 1"):
        follow("```console\n$ false\n$ true\n```\n")


def test_a_page_whose_python_needs_what_is_not_there_is_found(follow: Callable[[str], Reader]) -> None:
    with pytest.raises(AssertionError, match="no_such_module"):
        follow("```python\nimport no_such_module\n```\n")


def test_a_person_answers_and_what_is_in_the_background_is_waited_for_and_ends_with_the_page(
    follow: Callable[[str], Reader],
) -> None:
    slow = "```sh\n(until [ -f answer ]; do sleep 0.01; done; echo came > news; sleep 600) &\n```\n"
    asks = "<!-- person: who? -> you -->\n```sh\nread -p 'who? ' name; echo $name > answer\n```\n"
    reader = follow(f"{slow}\n{asks}\n```console\n$ cat news\ncame\n```\n")
    assert (reader.folder / "answer").read_text() == "you\n"
    reader.end()


def test_the_readmes_first_two_commands_are_the_main_job_and_the_tests() -> None:
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    main, tests = re.findall(r"^```sh\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)[:2]
    assert main == "pip install . ./ally_plugins_contrib && ally-plugins demo\n"
    assert tests == "pip install 'nox[uv]' && nox\n"


def test_a_plugin_by_hand_takes_the_files_and_lines_of_the_comparison_and_acts(tmp_path: Path) -> None:
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    files = dict(re.findall(r"^```\w+\n# ([\w./-]+)\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL))
    del files["plugins/NAME/ally-plugin.toml"]  # the next section's
    lines = sum(1 for text in files.values() for line in text.splitlines() if line.strip())
    comparison = (DOCS / "explanation" / "comparison.md").read_text(encoding="utf-8")
    assert f"| ally_plugins, by hand | {len(files)} | {lines} | 1: `try` |" in comparison
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    shown = run_command("try", str(tmp_path), "--once").stdout
    assert "loop-warner says as user" in shown
