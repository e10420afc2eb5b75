"""Where the `.ally` of a project is looked for. Imported by every `list`, so that it imports next to nothing itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["FOLDER", "find_root"]

FOLDER: Final = ".ally"


def find_root(start: str) -> str | None:
    """Return the nearest folder with an `.ally`, from `start` up to the root of its repository and no further.

    What lies above a repository is not its author's; without a repository only `start` counts. None where there is
    none. Nothing is opened.
    """
    here = Path(os.path.realpath(start))
    around = (here, *here.parents)
    top = next((each for each in around if os.path.lexists(each / ".git")), here)
    for each in around:
        if os.path.lexists(each / FOLDER):
            return str(each)
        if each == top:
            return None
    return None
