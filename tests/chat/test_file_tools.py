"""The agent's file tools: what they reach, what they refuse, and how they say so."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic_ai.exceptions import ToolFailed

from ally_plugins.cli.chat.tools.files import FileTools
from ally_plugins.cli.chat.tools.folder import MAX_FILE
from ally_plugins.cli.chat.tools.project_notes import project_notes

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Return a folder with some files, beside one that is nobody's business."""
    (tmp_path / "secret.txt").write_text("the secret")
    folder = tmp_path / "work"
    (folder / "src").mkdir(parents=True)
    (folder / "a.txt").write_text("one\ntwo\nthree\n")
    (folder / "src" / "b.py").write_text("TWO = 2\n")
    (folder / "out").symlink_to(tmp_path)
    (folder / "out.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "loop").symlink_to("loop")
    return folder


OUTSIDE = (
    "../secret.txt",
    "src/../../secret.txt",
    "out/secret.txt",
    "out.txt",
    "/etc/passwd",
    "loop",
    "a.txt\0.png",
    "x" * 5000,
    "\ud800",
)
EVERY = {
    "read": lambda tools, path: tools.read_file(path),
    "list": lambda tools, path: tools.list_directory(path),
    "find": lambda tools, path: tools.find_files("*", path),
    "search": lambda tools, path: tools.search_files("secret", path),
    "write": lambda tools, path: tools.write_file(path, "x"),
    "edit": lambda tools, path: tools.edit_file(path, "the", "no"),
}


@pytest.mark.parametrize("path", OUTSIDE, ids=range(len(OUTSIDE)))
@pytest.mark.parametrize("tool", EVERY)
def test_nothing_outside_the_folder_is_read_or_written(tool: str, path: str, work: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ToolFailed) as refusal:
        EVERY[tool](FileTools(work), path)
    assert "the secret" not in str(refusal.value)
    assert (tmp_path / "secret.txt").read_text() == "the secret"
    assert sorted(tmp_path.iterdir()) == before


def test_a_search_of_the_folder_follows_no_links(work: Path) -> None:
    tools = FileTools(work)
    assert tools.find_files("*").split("\n") == ["a.txt", "src/b.py"]
    assert tools.search_files("secret") == "'secret' is in no file"


@pytest.mark.parametrize("path", [".git/hooks/pre-commit", "src/.GIT/config"])
def test_what_git_runs_by_itself_is_not_written(path: str, work: Path) -> None:
    with pytest.raises(ToolFailed, match="git's own"):
        FileTools(work).write_file(path, "#!/bin/sh\n")
    assert not (work / path).parent.exists()


@pytest.mark.parametrize("use", ["read", "write"])
def test_a_pipe_is_neither_read_nor_written_and_nobody_waits_for_it(use: str, work: Path) -> None:
    os.mkfifo(work / "pipe")
    with pytest.raises(ToolFailed, match="cannot be"):
        EVERY[use](FileTools(work), "pipe")


@pytest.mark.parametrize("content", [b"\xff\xfe\0", b"x" * (MAX_FILE + 1)], ids=["no text", "too large"])
def test_what_cannot_be_shown_is_refused_with_the_reason(content: bytes, work: Path) -> None:
    (work / "odd").write_bytes(content)
    with pytest.raises(ToolFailed, match=r"no text in UTF-8|larger|bytes"):
        FileTools(work).read_file("odd")
    assert FileTools(work).search_files("xxx", files="odd") == "'xxx' is in no file"


def test_a_file_is_read_with_numbers_and_in_parts(work: Path) -> None:
    tools = FileTools(work)
    assert tools.read_file("a.txt") == "a.txt: lines 1 to 3 of 3\n   1  one\n   2  two\n   3  three"
    assert tools.read_file("a.txt", 2, 1) == "a.txt: lines 2 to 2 of 3\n   2  two"
    with pytest.raises(ToolFailed, match="has 3 lines; there is no line 9"):
        tools.read_file("a.txt", 9)
    (work / "empty").write_text("")
    assert tools.read_file("empty") == "empty is empty"
    with pytest.raises(ToolFailed, match="there is no file 'gone'"):
        tools.read_file("gone")


def test_what_is_shown_at_once_is_bounded(work: Path) -> None:
    tools = FileTools(work)
    (work / "long.txt").write_text("x" * 10_000 + "\n" + "y\n" * 5000)
    shown = tools.read_file("long.txt")
    assert shown.startswith("long.txt: lines 1 to 1000 of 5001\n")
    assert "(8000 more characters)" in shown
    assert len(shown) < 20_000
    found = tools.search_files("y", files="long.txt").split("\n")
    assert (len(found), found[-1]) == (201, "(the first 200; there are more)")


def test_files_are_found_by_name_and_by_what_is_in_them(work: Path) -> None:
    tools = FileTools(work)
    (work / "node_modules").mkdir()
    (work / "node_modules" / "c.py").write_text("TWO\n")
    assert tools.list_directory() == "a.txt\nloop\nnode_modules/\nout/\nout.txt\nsrc/"
    assert [tools.find_files(each) for each in ("*.py", "**/*.py", "src/*", "b.*")] == ["src/b.py"] * 4
    assert tools.find_files("*.py", "src") == "src/b.py"
    assert tools.search_files("two") == "a.txt:2: two"
    assert tools.search_files("two", ignore_case=True).split("\n") == ["a.txt:2: two", "src/b.py:1: TWO = 2"]
    assert tools.search_files("[a-z]") == "'[a-z]' is in no file"


def test_a_file_is_written_with_its_folders_and_keeps_its_mode_when_written_again(work: Path) -> None:
    tools = FileTools(work)
    assert tools.write_file("new/deep/x.sh", "one\r\n") == "new/deep/x.sh is made"
    made = work / "new" / "deep" / "x.sh"
    made.chmod(0o755)
    assert tools.write_file("new/deep/x.sh", "two\n") == "new/deep/x.sh is written anew"
    assert (made.read_bytes(), made.stat().st_mode & 0o777) == (b"two\n", 0o755)
    with pytest.raises(ToolFailed, match="cannot be written"):
        tools.write_file("new", "a folder is there")


@pytest.mark.parametrize(("old", "why"), [("zero", "does not stand"), ("e", "stands 3 times"), ("", "does not stand")])
def test_an_edit_that_does_not_fit_exactly_once_changes_nothing(old: str, why: str, work: Path) -> None:
    with pytest.raises(ToolFailed, match=f"old_text {why} in 'a.txt'; it must stand there exactly once"):
        FileTools(work).edit_file("a.txt", old, "x")
    assert (work / "a.txt").read_text() == "one\ntwo\nthree\n"


def test_an_edit_changes_that_text_and_keeps_the_rest_as_it_is(work: Path) -> None:
    (work / "dos.txt").write_bytes(b"one\r\ntwo\r\n")
    assert FileTools(work).edit_file("dos.txt", "two", "2") == "dos.txt is changed"
    assert (work / "dos.txt").read_bytes() == b"one\r\n2\r\n"


def test_edits_made_at_one_time_are_all_there(work: Path) -> None:
    tools = FileTools(work)
    (work / "many.txt").write_text("".join(f"<{i}>" for i in range(40)))
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda i: tools.edit_file("many.txt", f"<{i}>", f"[{i}]"), range(40)))
    assert (work / "many.txt").read_text() == "".join(f"[{i}]" for i in range(40))


def _link(work: Path) -> None:
    (work / "AGENTS.md").symlink_to(work.parent / "secret.txt")


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (Path.exists, ""),
        (_link, ""),
        (lambda work: (work / "AGENTS.md").write_text("use make"), "From AGENTS.md of this project"),
        (lambda work: (work / "CLAUDE.md").write_text("use make"), "From CLAUDE.md of this project"),
    ],
)
def test_a_projects_notes_for_agents_are_told_and_no_file_outside_of_it(
    prepare: Callable[[Path], object], expected: str, work: Path
) -> None:
    prepare(work)
    notes = project_notes(work)
    assert notes.startswith(expected, 1) if expected else notes == ""
    assert "secret" not in notes
