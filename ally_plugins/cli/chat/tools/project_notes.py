"""What a project says to every agent that works in it, from a file that people keep for that."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic_ai.exceptions import ToolFailed

from .folder import Folder

__all__ = ["project_notes"]

_FILES: Final = ("AGENTS.md", "CLAUDE.md")
"""In this order; the first one counts, since projects that have both keep the same in them."""

_LONGEST: Final = 32_000
"""Characters: a quarter of the smallest windows in use would be taken by more."""


def project_notes(folder: Path) -> str:
    """Return what stands in the folder's file for agents, with a heading; empty where there is none, or no text."""
    for name in _FILES:
        try:
            text = Folder(folder).text(name).strip()
        except ToolFailed:
            continue
        if text:
            return f"\nFrom {name} of this project, which its people wrote for agents:\n\n{text[:_LONGEST]}\n"
    return ""
