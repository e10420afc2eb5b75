"""Changes below a project's folder: a thread that waits for them, and which of them count.

`watchfiles` is imported when watching begins: without it everything but the watching works.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

__all__ = ["MISSING", "Ignored", "changes_below", "is_available"]

MISSING: Final = "watchfiles is not installed: pip install 'ally-plugins-contrib[test-watch]'"

STEP: Final = 0.05
"""Seconds between two looks of the watching thread."""

ALWAYS: Final = (
    ".*_cache", ".coverage*", ".DS_Store", ".git", ".hg", ".hypothesis", ".idea", ".nox", ".svn", ".tox", ".venv",
    ".vscode", "*.egg-info", "*.log", "*.py[cod]", "*.sw?", "*.tmp", "*~", ".#*", "4913", "__pycache__", "build",
    "coverage.xml", "dist", "htmlcov", "node_modules", "target", "venv",
)  # fmt: skip
"""What tools write while tests run, and editors beside the file that they save."""


class Ignored:
    """Which changed files do not count: patterns for any part of the path below the folder, or for the whole of it."""

    def __init__(self, folder: Path, more: Iterable[str] = ()) -> None:
        self._folder = folder
        self._patterns = (*ALWAYS, *(pattern.strip("/") for pattern in more))

    def name_of(self, path: str) -> str | None:
        """Return a file's name as messages show it, relative to the folder; None when it does not count."""
        try:
            name = Path(path).relative_to(self._folder)
        except ValueError:
            return None
        tried = (*name.parts, name.as_posix())
        is_ignored = any(fnmatchcase(part, pattern) for part in tried for pattern in self._patterns)
        return None if is_ignored else name.as_posix()


def is_available() -> bool:
    """Say whether files can be watched."""
    try:
        import watchfiles
    except ImportError:
        return False
    return bool(watchfiles)


async def changes_below(
    folder: Path, paths: Sequence[str], ignored: Ignored, quiet: float
) -> AsyncGenerator[frozenset[str], None]:
    """Yield the names of changed files, once nothing has changed for `quiet` seconds; first an empty set, when it
    watches. Raises OSError when a path cannot be watched. Closing ends the thread.
    """  # noqa: D205 - one sentence that does not fit a line
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[frozenset[str] | OSError]()
    ended = threading.Event()

    def tell(what: frozenset[str] | OSError) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            loop.call_soon_threadsafe(queue.put_nowait, what)

    watched = [folder / path for path in paths]
    threading.Thread(target=_watch, args=(watched, ignored, quiet, ended, tell), name="ally-files", daemon=True).start()
    try:
        while True:
            told = await queue.get()
            if isinstance(told, OSError):
                raise told
            yield told
    finally:
        ended.set()


def _watch(
    paths: Sequence[Path], ignored: Ignored, quiet: float, ended: threading.Event, tell: Callable[..., None]
) -> None:
    from watchfiles import watch

    is_watching = False
    try:
        for changes in watch(
            *paths,
            watch_filter=None,
            step=round(max(quiet, STEP) * 1000),
            debounce=round(max(quiet * 10, 2.0) * 1000),  # whoever saves without a pause is heard all the same
            rust_timeout=round(STEP * 1000),
            yield_on_timeout=True,
            stop_event=ended,
            raise_interrupt=False,
        ):
            names = frozenset(name for _, path in changes if (name := ignored.name_of(path)) is not None)
            if not is_watching:
                tell(frozenset())
                is_watching = True
            if names:
                tell(names)
    except OSError as error:
        tell(error)
    except Exception as error:  # noqa: BLE001 - whatever watchfiles raises: it is told, and the thread ends
        tell(OSError(f"{type(error).__name__}: {error}"))
