"""The ready preview of file tools: what an edit would make of a file, and nothing for what the tool would refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import ToolCall, file_preview
from ally_plugins.host.person.previews import MAX_PREVIEW_BYTES
from tests.kit.waiting import go

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def shown(tmp_path: Path) -> Callable[..., Any]:
    preview = file_preview(tmp_path)
    return lambda name, **arguments: go(preview(ToolCall(name, arguments)))


def test_a_new_file_is_created_and_a_known_one_written(shown: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old\r\n", newline="")
    new = shown("write_file", path="b.txt", content="new")
    assert (new.file_path, new.old_content, new.new_content, new.operation_type) == ("b.txt", "", "new", "create")
    known = shown("write_file", path="a.txt", content="new")
    assert (known.old_content, known.new_content, known.operation_type) == ("old\r\n", "new", "write")


def test_edits_are_applied_one_after_the_other(shown: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one two")
    one = shown("edit_file", path="a.txt", old_text="one", new_text="1")
    assert (one.new_content, one.operation_type, one.edits_count) == ("1 two", "edit", 1)
    pairs = [{"old_text": "one", "new_text": "three"}, {"old_text": "three", "new_text": "3"}]
    assert shown("edit_file", path="a.txt", replacements=pairs).new_content == "3 two"


@pytest.mark.parametrize(
    "arguments",
    [
        {"path": "../outside.txt", "old_text": "x", "new_text": "y"},
        {"path": "missing.txt", "old_text": "x", "new_text": "y"},
        {"path": "a.txt", "old_text": "absent", "new_text": "y"},
        {"path": "a.txt", "old_text": "o", "new_text": "y"},
        {"path": "a.txt", "old_text": "", "new_text": "y"},
        {"path": "a.txt", "old_text": "one"},
        {"path": "a.txt", "replacements": ["one"]},
        {"path": "binary", "old_text": "x", "new_text": "y"},
        {"path": "large", "old_text": "x", "new_text": "y"},
        {"path": "loop", "old_text": "x", "new_text": "y"},
        {"path": "link", "old_text": "x", "new_text": "y"},
        {"path": "a\0b", "old_text": "x", "new_text": "y"},
        {"path": 7, "old_text": "x", "new_text": "y"},
        {"path": ".", "old_text": "x", "new_text": "y"},
        {"path": "/etc/passwd", "old_text": "x", "new_text": "y"},
        {"path": "x" * 5000, "old_text": "x", "new_text": "y"},
        {"path": "", "old_text": "x", "new_text": "y"},
        {},
    ],
)
def test_what_the_tool_would_refuse_has_no_preview(
    arguments: dict[str, Any], shown: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path.parent / "outside.txt").write_text("x")
    (tmp_path / "a.txt").write_text("one two")
    (tmp_path / "binary").write_bytes(b"\xffx")
    (tmp_path / "large").write_bytes(b"x" + b"." * MAX_PREVIEW_BYTES)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to(tmp_path.parent / "outside.txt")
    assert shown("edit_file", **arguments) is None
    assert shown("read_file", path="a.txt") is None


@pytest.mark.parametrize(
    "path", ["../outside.txt", "/etc/passwd", "link", "folder", "binary", "nul\0", "x" * 5000, "", 7]
)
def test_a_path_that_nobody_may_see_or_show_has_no_preview_of_what_is_written_there(
    path: Any, shown: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path.parent / "outside.txt").write_text("secret")
    (tmp_path / "link").symlink_to(tmp_path.parent / "outside.txt")
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert shown("write_file", path=path, content="x") is None
    assert shown("write_file", path="a", content=None) is None
