"""How often the plugins that come along stand in the way of recorded sessions: `python false_denies.py FILE...`.

Each tool call of each recording passes the gates of each plugin, on a host as `ally-plugins replay` has it. What was
denied, or asked about where nobody is there to agree, is printed with its reason and its arguments, for a person to say
whether it was wrong. Ends with 1 where that is more than one call in a thousand.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from ally_plugins import ToolCallStart
from ally_plugins.testing import replay_recording
from ally_plugins_contrib.loop_guard import LoopGuard
from ally_plugins_contrib.rule_guard import RuleGuard
from ally_plugins_contrib.secret_guard import SecretGuard

GUARDS: Final[tuple[Any, ...]] = (LoopGuard, RuleGuard, SecretGuard)
"""Those of the plugins that have a gate of tool calls."""

TARGET: Final = 1 / 1000
_SHOWN: Final = 300


def denied(plugin: Any, file: Path) -> tuple[int, list[str]]:
    """Return how many calls of a recording a plugin was asked about, and what it says of those that did not run."""
    played = replay_recording(plugin, file)
    arguments = {each.call_id: dict(each.arguments) for each in played.events if isinstance(each, ToolCallStart)}
    asked = [each for each in played.decisions if each.kind == "tool_call"]
    refused = [each for each in asked if each.verdict != "allow"]
    texts = [f"{each.reason}: {json.dumps(arguments.get(each.call_id), default=str)[:_SHOWN]}" for each in refused]
    return len(asked), texts


def count(files: Iterable[Path]) -> tuple[int, int, list[str]]:
    """Return how many calls there are, how often a gate was asked about them, and all that was not let run."""
    calls = asked = 0
    found: list[str] = []
    for file in files:
        for number, plugin in enumerate(GUARDS):
            each, texts = denied(plugin, file)
            asked += each
            calls += each if number == 0 else 0
            found += [f"{file.name}: {text}" for text in texts]
    return calls, asked, found


def main() -> int:
    """Print what was found, and return the exit code."""
    logging.disable(logging.CRITICAL)
    given = [Path(each) for each in sys.argv[1:]]
    files = sorted(file for each in given for file in ([each] if each.is_file() else each.rglob("*.*")))
    files = [file for file in files if file.suffix in {".jsonl", ".traj"} and file.stat().st_size]
    calls, asked, found = count(files)
    print(*found, sep="\n" if found else "")
    print(f"{calls} calls in {len(files)} recordings, {asked} decisions of {len(GUARDS)} plugins, {len(found)} denied")
    return 1 if calls and len(found) > TARGET * calls else 0


if __name__ == "__main__":
    sys.exit(main())
