"""The sample session that the package ships, for `ally-plugins demo`."""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

__all__ = ["sample_path"]


def sample_path() -> AbstractContextManager[Path]:
    """Return a context that gives the path of the sample session, also where the package is in a zip file."""
    return as_file(files("ally_plugins.replay") / "data" / "sample.jsonl")
