"""Tutorials and how-tos as their readers follow them: each from an empty folder, block by block, in a real shell.

Python blocks are run by Sybil (the root conftest). Here are the commands: that the program takes each of them is tested
for all pages; those of PAGES run. A block that cannot run stands below `<!-- not run: REASON -->`. A block below
`<!-- file: NAME -->`, or below a line that ends with the file's name and a colon, is written to that file; a `text`
block behind a block that ran is what the page's commands must have printed.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from click.testing import CliRunner

import ally_plugins
from ally_plugins.cli.shell.main import cli
from tests.kit.commands import run_command

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).parents[2] / "docs"
ALL = {
    path.relative_to(DOCS).with_suffix("").as_posix(): path.read_text(encoding="utf-8")
    for folder in ("tutorial", "how-to")
    for path in sorted((DOCS / folder).rglob("*.md"))
}

PAGES = {
    "tutorial/operate-plugins",
    "tutorial/coding-agent",
    "tutorial/first-plugin",
    "tutorial/first-daemon",
    "how-to/publish",
    "how-to/setuptools",
    "how-to/managed-fleet",
}
"""The pages whose commands run, from an empty folder."""

NOT_RUN = {
    "how-to/agent-hooks": "installs a pre-release",
    "how-to/agents-in-ci": "needs an agent; tests/coding has its script",
    "how-to/agents/claude": "needs the agent: nox -s coding_agents",
    "how-to/agents/codex": "needs the agent: nox -s coding_agents",
    "how-to/agents/copilot": "needs the agent: nox -s coding_agents",
    "how-to/agents/gemini": "needs the agent: nox -s coding_agents",
    "how-to/agents/goose": "needs the agent: nox -s coding_agents",
    "how-to/agents/opencode": "needs the agent: nox -s coding_agents",
    "how-to/agents/pi": "needs the agent: nox -s coding_agents",
    "how-to/code-ally-plugins": "names a folder of the reader's",
    "how-to/coding-agents": "needs an agent; tutorial/coding-agent runs what does not",
    "how-to/contrib": "tutorial/operate-plugins runs the like",
    "how-to/contrib/rule-guard": "connects the reader's own agent",
    "how-to/contrib/secret-guard": "one line of many; tutorial/operate-plugins runs the like",
    "how-to/contrib/session-notes": "tutorial/operate-plugins runs the like",
    "how-to/contrib/test-watch": "installs an extra",
    "how-to/daemons": "names plugins of the reader's; tutorial/first-daemon runs the like",
    "how-to/files-and-network": "names a plugin of the reader's",
    "how-to/fleet": "needs nats-server: tests/fleet",
    "how-to/google-adk": "installs the framework: nox -s adapters",
    "how-to/inspect": "serves until it is ended, in a browser",
    "how-to/langchain": "installs the framework: nox -s adapters",
    "how-to/openai-agents": "installs the framework: nox -s adapters",
    "how-to/operate": "names plugins and sessions of the reader's; tutorial/operate-plugins runs the like",
    "how-to/projects": "asks a person, who may not be left out",
    "how-to/pydantic-ai": "installs the framework",
    "how-to/replay": "names a recording of the reader's",
    "how-to/several-machines": "two machines; how-to/managed-fleet runs the like",
    "how-to/strands": "installs the framework: nox -s adapters",
    "how-to/test-a-plugin": "tests of the reader's; its Python blocks run",
    "how-to/tools-actions-tasks": "shows what a running agent prints; its Python blocks run",
    "how-to/upgrade": "needs a plugin on an index, in two versions",
    "how-to/what-plugins-cost": "runs until it is ended",
    "how-to/write-a-source": "installs a package of the reader's; its Python blocks run",
    "tutorial/chat": "talks with a person: tests/chat",
}
"""The pages with commands that do not run here, and why."""

BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>not run|file): (?P<word>.+?) -->\n|^(?P<line>[^\n]+):\n\n)?"
    r"^```(?P<language>[a-z]+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
FILE_NAMED = re.compile(r"`(?P<name>[\w./-]+\.(?:py|toml|json))`$")
ENDS_OF_COMMANDS = {";", "&&", "||", "|", "&", "(", ")", "<", ">"}


class Block(NamedTuple):
    """One block of a page: what it is in, its text, where it is to be written, and why it is not run."""

    language: str
    text: str
    file: str | None
    reason: str | None


def blocks(page: str) -> list[Block]:
    found = []
    for each in BLOCK.finditer(ALL[page]):
        named = FILE_NAMED.search(each["line"] or "")
        file = each["word"] if each["mark"] == "file" else named["name"] if named else None
        found.append(Block(each["language"], each["text"], file, each["word"] if each["mark"] == "not run" else None))
    return found


def lines_of(block: Block) -> Iterator[str]:
    """Yield the commands of a block; in a console block those are what stands behind a prompt."""
    for line in block.text.splitlines():
        if block.language == "sh" and line and not line.startswith("#"):
            yield line
        elif block.language == "console" and line.startswith("$ "):
            yield line[2:]


def commands() -> Iterator[tuple[str, str]]:
    for page in ALL:
        for block in blocks(page):
            yield from ((page, line) for line in lines_of(block) if "ally-plugins " in line)


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
    assert count > 100


def test_a_command_that_the_program_does_not_take_is_found() -> None:
    for words in (["lsit"], ["list", "--no-such-option"]):
        assert CliRunner().invoke(cli, [*words, "--help"]).exit_code == 2


def test_every_page_with_commands_runs_or_says_why_not() -> None:
    with_commands = {page for page in ALL if any(any(lines_of(block)) for block in blocks(page))}
    assert with_commands == PAGES | set(NOT_RUN)
    assert PAGES.isdisjoint(NOT_RUN)


def test_the_blocks_that_do_not_run_on_pages_that_do_are_these() -> None:
    reasons = {(page, block.reason) for page in PAGES for block in blocks(page) if block.reason}
    assert reasons == {
        ("how-to/managed-fleet", "it needs a fleet that publishes"),
        ("how-to/publish", "it would install into your own environment"),
        ("tutorial/coding-agent", "it needs Claude Code"),
        ("tutorial/coding-agent", "the id is of your own run"),
        ("tutorial/operate-plugins", "the id is of your own run"),
        ("tutorial/first-daemon", "examples lie in the repository"),
        ("tutorial/first-plugin", "it goes on until Ctrl-C"),
        ("tutorial/first-plugin", "it would install into your own environment"),
        ("tutorial/first-plugin", "the code that `new` wrote"),
    }


def follow(page: str, folder: Path) -> None:
    """Do what a page says, in an empty folder; a block that fails, or prints something else than it says, fails."""
    shown, output = "", ""
    for block in blocks(page):
        if block.reason is not None:
            shown = ""
        elif block.file is not None:
            (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.file).write_text(block.text, encoding="utf-8")
        elif script := [line for line in map(answered, lines_of(block)) if not line.startswith("pip install")]:
            output += (shown := run_in_shell(script, folder))
        elif block.language == "text" and shown:
            missing = [line for line in block.text.splitlines() if flat(line) not in flat(output)]
            assert missing == [], f"{page} has these lines, and its commands printed:\n{output}"


def answered(line: str) -> str:
    """Return a command with the yes of the person who follows the page."""
    return re.sub(r"^(ally-plugins (?:enable|apply)\b)(?!.*--(?:yes|check))", r"\1 --yes", line)


def flat(text: str) -> str:
    """Return text without what differs from run to run: times, and how it is broken into lines."""
    return " ".join(re.sub(r"\d+\.\d+ s", "N s", text).split())


def run_in_shell(script: list[str], folder: Path) -> str:
    """Run lines in one shell, which goes on where the last one was: its folder and its variables are kept in files."""
    kept = folder.parent / "shell"
    lines = [f"[ ! -f {kept} ] || . {kept}", "set -e", *script, "set +e", f"(export -p; echo \"cd '$PWD'\") > {kept}"]
    result = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        cwd=folder,
        env=environment(folder.parent),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, f"{script}\nended with {result.returncode}:\n{result.stdout}"
    return result.stdout


def environment(folder: Path) -> dict[str, str]:
    """Return the variables of a reader: the programs of this environment, and a home and settings of their own."""
    home = folder / "person"
    home.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ALLY_", "COV", "PYTEST"))}
    path = os.pathsep.join([sysconfig.get_path("scripts"), str(Path(sys.executable).parent), os.environ["PATH"]])
    return kept | {"PATH": path, "HOME": str(home), "NO_COLOR": "1"}


# One in every run of CI; `nox -s long` has the others, some seconds of processor time each.
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if page == "how-to/setuptools" else pytest.mark.long)
        for page in sorted(PAGES)
    ],
)
def test_a_page_can_be_followed_from_an_empty_folder(page: str, tmp_path: Path) -> None:
    if page == "tutorial/first-daemon" and "site-packages" not in ally_plugins.__file__:
        pytest.skip("its daemon's own Python reads no checkout from within a sandbox: nox installs the wheel")
    folder = tmp_path / "empty"
    folder.mkdir()
    follow(page, folder)


def test_a_page_that_shows_what_is_not_printed_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.setitem(ALL, "mine", "```console\n$ echo one\n```\n\n```text\ntwo\n```\n")
    with pytest.raises(AssertionError, match="two"):
        follow("mine", folder)


def test_a_page_goes_on_in_the_folder_and_with_the_variables_of_the_block_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    page = "```console\n$ mkdir shop\n$ cd shop\n$ export WORD=kept\n```\n\n```console\n$ echo $WORD > here\n```\n"
    monkeypatch.setitem(ALL, "mine", page)
    follow("mine", folder)
    assert (folder / "shop" / "here").read_text() == "kept\n"
    monkeypatch.setitem(ALL, "mine", "```console\n$ false\n$ true\n```\n")
    with pytest.raises(AssertionError, match="ended with 1"):
        follow("mine", folder)


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
