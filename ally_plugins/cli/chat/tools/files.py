"""Tools to read, search and change the files of one folder."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.toolsets import FunctionToolset

from ally_plugins.contract.values.compat import override

from .folder import Folder

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["FileTools"]

_LINES: Final = 1000
"""Lines that are read at once: most sources whole, and no log fills the window."""
_LINE: Final = 2000
"""Characters of a line: what is longer was made by a machine, and its beginning says what it is."""
_FOUND: Final = 200
"""Files, lines or names in one answer; who has more of them asks more closely."""
_FOUND_LINE: Final = 300


class FileTools(AbstractCapability[Any]):
    """Reads and changes what is below one folder, and nothing else; what fails says why to the model."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.id = "files"
        self._folder: Final = Folder(folder)

    @override
    def get_toolset(self) -> FunctionToolset[Any]:
        """Return the tools."""
        tools = (self.read_file, self.list_directory, self.find_files, self.search_files, self.write_file)
        return FunctionToolset([*tools, self.edit_file], id=self.id)

    def read_file(self, path: str, first_line: int = 1, lines: int = _LINES) -> str:
        """Read a text file, with a number before each line.

        Args:
            path: The file, relative to the folder.
            first_line: Where to begin, from 1.
            lines: How many lines; at most 1000.
        """
        # Not `splitlines`, for which a form feed ends a line too: editors and grep would number the lines otherwise.
        every = self._folder.text(path).split("\n")
        if every[-1] == "":
            every.pop()
        first = max(first_line, 1)
        shown = every[first - 1 : first - 1 + min(max(lines, 1), _LINES)]
        if every and not shown:
            raise ToolFailed(f"{path!r} has {len(every)} lines; there is no line {first}")
        head = f"{path}: lines {first} to {first + len(shown) - 1} of {len(every)}" if shown else f"{path} is empty"
        numbered = (f"{number:>4}  {_cut(line, _LINE)}" for number, line in enumerate(shown, first))
        return "\n".join([head, *numbered])

    def list_directory(self, path: str = ".") -> str:
        """List a folder; names of folders end with a slash."""
        return _listed(self._folder.entries(path), "the folder is empty")

    def find_files(self, pattern: str, path: str = ".") -> str:
        """Find files by name.

        Args:
            pattern: A glob for the file's name, or for its path below the folder, such as `*.py` or `src/*.md`.
            path: The folder to look in.
        """
        return _listed(map(self._folder.name, self._folder.files(path, pattern)), f"no file fits {pattern!r}")

    def search_files(self, text: str, path: str = ".", files: str = "*", *, ignore_case: bool = False) -> str:
        """Find the lines that hold a text, as it is and not as a pattern; run_command with grep knows patterns.

        Args:
            text: The text to look for, within one line.
            path: The folder to look in.
            files: A glob for the files to look in.
            ignore_case: Whether `a` is `A`.
        """
        if not text:
            raise ToolFailed("the text to look for is empty")
        return _listed(self._lines_with(text, path, files, ignore_case=ignore_case), f"{text!r} is in no file")

    def _lines_with(self, text: str, path: str, files: str, *, ignore_case: bool) -> Iterable[str]:
        wanted = text.lower() if ignore_case else text
        for file in self._folder.files(path, files):
            name = self._folder.name(file)
            try:
                content = self._folder.text(name)
            except ToolFailed:  # too large, no text, or not ours to read: as grep passes it over
                continue
            for number, line in enumerate(content.split("\n"), 1):
                if wanted in (line.lower() if ignore_case else line):
                    yield f"{name}:{number}: {_cut(line.strip(), _FOUND_LINE)}"

    def write_file(self, path: str, content: str) -> str:
        """Write a file whole, a new one or over an old one; to change a part of it, use edit_file.

        Args:
            path: The file, relative to the folder.
            content: All that is in it afterwards.
        """
        return f"{path} is {'made' if self._folder.write(path, content) else 'written anew'}"

    def edit_file(self, path: str, old_text: str, new_text: str) -> str:
        """Replace a text that stands exactly once in a file.

        Args:
            path: The file, relative to the folder.
            old_text: What to replace, without line numbers; with enough around it that it stands there once.
            new_text: What stands there afterwards.
        """

        def change(text: str) -> str:
            count = text.count(old_text) if old_text else 0
            if count != 1:
                found = f"stands {count} times" if count else "does not stand"
                raise ToolFailed(f"old_text {found} in {path!r}; it must stand there exactly once. Nothing was changed")
            return text.replace(old_text, new_text)

        self._folder.edit(path, change)
        return f"{path} is changed"


def _listed(lines: Iterable[str], nothing: str) -> str:
    found = list(islice(lines, _FOUND + 1))
    if len(found) > _FOUND:
        found[_FOUND:] = [f"(the first {_FOUND}; there are more)"]
    return "\n".join(found) or nothing


def _cut(line: str, longest: int) -> str:
    line = line.removesuffix("\r")
    return line if len(line) <= longest else f"{line[:longest]}... ({len(line) - longest} more characters)"
