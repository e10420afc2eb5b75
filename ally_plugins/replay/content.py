"""Message contents as recordings write them: a text, or a list of blocks.

Nothing here raises; what is wrong is noted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import define, field

from ally_plugins.contract.shapes import WRONG, Mistakes
from ally_plugins.contract.values.compat import override

from .steps import BrokenLine, Skipped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .steps import Step

__all__ = ["Notes", "flatten", "iterate_blocks", "required_text", "text_of"]


@define
class Notes(Mistakes):
    """The faults of one record: the first thing that is wrong, and the types of blocks that have no text."""

    passes_unknown = True

    problem: str | None = None
    placeholders: list[str] = field(factory=list)

    @override
    def refuse(self, path: str, problem: str) -> Any:
        """Note a fault; only the first one of a record is kept."""
        if self.problem is None:
            self.problem = f"{path} {problem}"
        return WRONG

    def steps(self, now: int, number: int, file: str = "") -> Iterator[Step]:
        """Yield what is to be told of them, of the line with this number."""
        for kind in self.placeholders:
            yield Skipped(now, f"block:{kind}")
        if self.problem is not None:
            yield BrokenLine(now, number, self.problem, file)


def text_of(values: dict[str, Any], key: str) -> str:
    """Return the text under `key`, or the empty string where there is none."""
    value = values.get(key)
    return value if type(value) is str else ""


def required_text(block: dict[str, Any], key: str, notes: Notes) -> str:
    """Return the text under `key`; that there is none is noted."""
    value = block.get(key)
    if type(value) is not str:
        notes.wrong(key, value, "a text")
    return text_of(block, key)


def iterate_blocks(content: Any, notes: Notes) -> Iterator[dict[str, Any]]:
    """Yield the blocks of a message's content; a text is one block."""
    if type(content) is str:
        yield {"type": "text", "text": content}
    elif type(content) is list:
        for block in content:
            if type(block) is dict:
                yield block
            else:
                notes.wrong("a content block", block, "an object")
    else:
        notes.wrong("content", content, "a text or a list of blocks")


def flatten(content: Any, notes: Notes) -> str:
    """Return a content as one text; blocks that are no text become `[image]` and the like, and are noted."""
    if type(content) is str:
        return content
    if content is None:
        return ""
    return "\n".join(_block_text(block, notes) for block in iterate_blocks(content, notes))


def _block_text(block: dict[str, Any], notes: Notes) -> str:
    kind = text_of(block, "type") or "block"
    if kind == "text":
        if type(block.get("text")) is not str:
            notes.wrong("a block's text", block.get("text"), "a text")
        return text_of(block, "text")
    notes.placeholders.append(kind)
    return f"[{kind}]"
