"""What a page of the docs says to do: its blocks, and the commands in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).parents[2] / "docs"
ALL = {
    path.relative_to(DOCS).with_suffix("").as_posix(): path.read_text(encoding="utf-8")
    for folder in ("tutorial", "how-to")
    for path in sorted((DOCS / folder).rglob("*.md"))
}

BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>not run|file|more of|person): (?P<word>.+?) -->\n|^(?P<line>[^\n]+):\n\n)?"
    r"^```(?P<language>[a-z]+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
FILE_NAMED = re.compile(r"`(?P<name>[\w./-]+\.(?:py|toml|json|sh))`$")


class Block(NamedTuple):
    """One block of a page, and what is to be done with it.

    A block with a `reason` is not run. One with a `file` is written there, or added where it is `more` of it. At each
    text of `answers` that a command shows, the person types what stands behind it. `is_behind` is whether there is
    nothing between it and the block before.
    """

    language: str
    text: str
    file: str | None = None
    more: bool = False
    reason: str | None = None
    is_behind: bool = False
    answers: tuple[tuple[str, str], ...] = ()

    @property
    def commands(self) -> list[str]:
        """The lines for a shell; in a console block those are what stands behind a prompt."""
        lines = self.text.splitlines()
        if self.language == "sh":
            return [line for line in lines if line and not line.startswith("#")]
        return [line[2:] for line in lines if line.startswith("$ ")] if self.language == "console" else []

    @property
    def shown(self) -> list[str]:
        """The lines that commands print."""
        if self.language not in {"console", "text"}:
            return []
        return [line for line in self.text.splitlines() if line.strip() and not line.startswith("$ ")]


def blocks(page: str) -> Iterator[Block]:
    """Yield the blocks of a page, in their order."""
    end = 0
    for each in BLOCK.finditer(ALL[page]):
        mark, word, named = each["mark"], each["word"], FILE_NAMED.search(each["line"] or "")
        yield Block(
            each["language"],
            each["text"],
            file=word if mark in {"file", "more of"} else named["name"] if named else None,
            more=mark == "more of",
            reason=word if mark == "not run" else None,
            is_behind=end > 0 and not ALL[page][end : each.start()].strip() and each["line"] is None,
            answers=tuple(_answers(word)) if mark == "person" else (),
        )
        end = each.end()


def _answers(word: str) -> Iterator[tuple[str, str]]:
    """Read `TEXT -> KEYS; TEXT -> KEYS`."""
    for each in word.split("; "):
        text, _, typed = each.rpartition(" -> ")
        yield text, typed
