"""Which commands of `ally-plugins` only look: all that an agent may run whose calls are guarded.

Everything else, and what nobody has put here, may loosen the guard. Asked by the commands themselves, which know who
has started them, and of an agent's shell line before it runs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise, takewhile
from typing import Final

__all__ = ["CHANGING", "LOOKING", "may_loosen", "names_change"]

LOOKING: Final = frozenset({
    "audit", "chat", "check", "completion", "config", "connect", "coverage", "demo", "diff", "docs", "doctor",
    "explain", "export", "hooks", "hosts", "info", "list", "logs", "mcp", "new", "project", "replay", "review", "run",
    "search", "serve", "sessions", "stats", "tasks", "top", "try", "verify", "why",
})  # fmt: skip
"""Commands that change nothing, or ask who has started them before they do. `mcp` is started by the agent itself.

`inspect` changes nothing either, and is none of them: it would go on, with a link of the agent's own."""

CHANGING: Final = frozenset({
    "allow", "apply", "call", "disable", "disconnect", "enable", "env", "fleet", "grant", "index", "inspect", "install",
    "lock", "pause", "place", "prune", "purge", "release", "restart", "revoke", "shadow", "uninstall", "upgrade",
})  # fmt: skip
"""All others, by which a text is known to name one of them; what neither table has may loosen where it is run."""

_CHANGE: Final = rf"(?<![\w./-])(?:{'|'.join(sorted(CHANGING))})(?![\w./=-])"
_NAMED: Final = re.compile(rf"ally[-_]plugins(?![\w-])[^;|&]{{0,200}}?{_CHANGE}")
_IMPORTED: Final = re.compile(
    r"ally_plugins\.(?:cli|__main__)|from ally_plugins import cli|run_module\(['\"]ally_plugins"
)
_CHANGED: Final = re.compile(_CHANGE)

_WITH_VALUE: Final = frozenset({"--home", "--app"})


def may_loosen(words: Sequence[str]) -> bool:
    """Say of the arguments of `ally-plugins` whether they may change something."""
    positional: list[str] = []
    is_value = False
    for word in words:
        if not is_value and not word.startswith("-"):
            positional.append(word)
        is_value = not is_value and word in _WITH_VALUE
    if not positional or _asks_for_help(words):
        return False
    name, *rest = positional
    if name not in LOOKING or "--yes" in words or "--agree" in words:
        return True
    match name:
        case "config":
            may = len(rest) > 1 or any(word.partition("=")[0] == "--unset" for word in words)
        case "project":
            may = not {"trust", "untrust"}.isdisjoint(rest)
        case "tasks":
            may = any(word.partition("=")[0] == "--cancel" for word in words)
        case "connect":
            may = not {"--status", "--print", "--managed"} & set(words)
        case _:
            may = False
    return may


def names_change(text: str) -> bool:
    """Say whether a text, or code, names our program and after it a command that changes something."""
    if _NAMED.search(text) is not None:
        return True
    # In code, the command may stand before the import.
    return _IMPORTED.search(text) is not None and _CHANGED.search(text) is not None


def _asks_for_help(words: Sequence[str]) -> bool:
    """Say whether help is all that comes of it: not behind `--`, nor where it may be an option's value."""
    options = takewhile(lambda word: word != "--", words)
    return any(word in {"--help", "-h"} and not before.startswith("-") for before, word in pairwise(["", *options]))
