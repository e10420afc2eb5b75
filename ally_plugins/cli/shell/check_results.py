"""The results of `doctor`: one value for each thing that was checked."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

__all__ = ["CheckResult", "Level"]

Level = Literal["ok", "note", "warning", "problem"]


@frozen
class CheckResult:
    """One thing that was checked. `remedy` is what to do, and is empty where nothing is to be done."""

    level: Level
    topic: str
    text: str
    remedy: str = ""
