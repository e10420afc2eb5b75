"""What a plugin's code has raised, as one inert line for people: the error, and where in that code it came from."""

from __future__ import annotations

import importlib
import traceback
from pathlib import PurePath
from typing import Final

from .inert import inert

__all__ = ["describe_raised"]


_OURS: Final = PurePath(__file__).parents[2]


def describe_raised(error: BaseException) -> str:
    """Return an error's type, the first line of its text, and file and line of the plugin's code that led to it.

    Raises nothing, whatever the error's class does.
    """
    try:
        text = (str(error).splitlines() or [""])[0]
    except Exception:  # noqa: BLE001 - even the text of an error is the plugin's code
        text = "its text cannot be shown"
    kind = type(error).__name__
    # Inert, the file's name among it: both are a stranger's, and go to a terminal.
    return inert((f"{kind}: {text}" if text else kind) + _place_of(error))


def _place_of(error: BaseException) -> str:
    """Return the last line beside the first one that is not ours: what a library raises was called from there."""
    if isinstance(error, SyntaxError):  # its text names the line already
        return ""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not (frame.filename.startswith("<frozen") or frame.filename == importlib.__file__)
        and not PurePath(frame.filename).is_relative_to(_OURS)
    ]
    if not frames:
        return ""
    folder = PurePath(frames[0].filename).parent
    last = next(frame for frame in reversed(frames) if PurePath(frame.filename).is_relative_to(folder))
    return f" ({last.filename}, line {last.lineno})"
