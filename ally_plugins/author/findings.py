"""What a check of a plugin finds: where, what is wrong, and the way out."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

__all__ = ["Broken", "Level", "SourceFinding"]

Level = Literal["error", "warning"]


class Broken(Exception):
    """A plugin does not keep to the contract; the text says where."""


@frozen(order=True)
class SourceFinding:
    """One thing that is wrong in a file. `line` counts from 1, 0 where the whole file is meant."""

    file: str
    line: int
    rule: str
    """A short word for the kind of mistake, the same in every version."""
    text: str
    fix: str = ""
    level: Level = "error"
