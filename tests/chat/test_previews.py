from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.cli.chat.previews import Previews
from ally_plugins.contract.values.conversation import ToolCall

if TYPE_CHECKING:
    from pathlib import Path

    from ally_plugins.contract.values.events import DiffPreview


def preview(folder: Path, tool: str, **arguments: Any) -> DiffPreview | None:
    return Previews(folder.resolve())(ToolCall(tool, arguments, "c1"))


def test_a_write_shows_what_was_there_and_what_will_be(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old\n")
    diff = preview(tmp_path, "write_file", path="a.txt", content="new\n")
    assert diff is not None
    assert (diff.old_content, diff.new_content, diff.operation_type, diff.call_id) == ("old\n", "new\n", "write", "c1")
    new = preview(tmp_path, "write_file", path="b.txt", content="x")
    assert new is not None
    assert new.old_content == ""


def test_an_edit_shows_the_whole_file_after_all_replacements(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one two three")
    diff = preview(tmp_path, "edit_file", path="a.txt", replacements=[
        {"old_text": "one", "new_text": "1"}, {"old_text": "three", "new_text": "3"}])  # fmt: skip
    assert diff is not None
    assert (diff.new_content, diff.edits_count) == ("1 two 3", 2)


def test_an_edit_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x x")
    diff = preview(tmp_path, "edit_file", path="a.txt", old_text="x", new_text="y")
    assert diff is not None
    assert diff.new_content == diff.old_content


@pytest.mark.parametrize("path", ["../outside.txt", "/etc/passwd", "link", "folder", "binary", "nul\0", "x" * 5000, ""])
def test_what_nobody_may_see_or_show_has_no_preview(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (tmp_path / "outside.txt").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "outside.txt")
    (folder / "folder").mkdir()
    (folder / "binary").write_bytes(b"\xff\xfe\x00")
    assert preview(folder, "write_file", path=path, content="x") is None


def test_other_tools_and_arguments_that_are_none_have_no_preview(tmp_path: Path) -> None:
    assert preview(tmp_path, "run_command", command="rm a") is None
    assert preview(tmp_path, "write_file", path=7, content="x") is None
    assert preview(tmp_path, "write_file", path="a", content=None) is None
