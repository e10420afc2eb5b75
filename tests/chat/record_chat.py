"""Records the chat that stands in docs/tutorial/chat.md: a real one, at a terminal, with four real plugins.

`python -m tests.chat.record_chat` writes it anew; a test compares. What differs from one run to the next (ids, times,
durations, folders) is replaced by words.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.kit.commands import PROGRAM

from .screen_text import ScreenText
from .terminal import CTRL_D, Terminal

RECORDING = Path(__file__).parents[2] / "docs" / "tutorial" / "chat-recording.txt"
PLUGINS = ("loop-guard", "secret-guard", "conversation-monitor", "session-notes")
COLUMNS = 110

_ALIKE = (
    (re.compile(r"\b([sdmta])-[0-9a-f]{10}-\d+"), r"\1-5f0c9a1b2d-1"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), "2026-03-01 10:00:00"),
    (re.compile(r"\d{4}-\d\d-\d\d"), "2026-03-01"),
    (re.compile(r"(s-5f0c9a1b2d-1):\d+"), r"\1:12"),
    (re.compile(r"\d+\.\d % full"), "14.1 % full"),
    (re.compile(r"\(\d+ ms([,)])"), r"(3 ms\1"),
    (re.compile(r"\d+(\.\d+)? ms( {2,})?"), lambda found: "3 ms  " if found[2] else "3 ms"),  # and a column's blanks
    (re.compile(r"as record \d+"), "as record 42"),
    (re.compile(r"\n  \| (folder=~)"), r" \1"),  # the folder is longer where it was recorded
)


def record() -> str:
    """Have the chat, and return what stood on the terminal."""
    with tempfile.TemporaryDirectory(prefix="ally-chat-") as name:
        base = Path(name).resolve()
        folder, home = base / "greeter", base / "home"
        folder.mkdir()
        (folder / "README.md").write_text("# Greeter\n\nGreets people by name.\n")
        (folder / "app.py").write_text('def greet(name):\n    return "Hello " + name\n')
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("ALLY_", "COV"))}
        environ |= {"ALLY_HOME": str(home), "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring"}
        for plugin in PLUGINS:
            command = [sys.executable, "-m", "ally_plugins", "enable", plugin, "--yes"]
            subprocess.run(command, env=environ, check=True, capture_output=True)
        with Terminal([*PROGRAM, "chat"], cwd=folder, environ=environ, columns=COLUMNS) as chat:
            _talk(chat)
        raw = chat.raw.decode().replace(str(folder), "~/greeter").replace(str(home), "~/.local/state/ally-plugins")
    screen = ScreenText(COLUMNS)
    screen.feed(raw)
    lines = _alike("\n".join(screen.lines())).split("\n")
    return "".join(f"{row}\n" for line in lines for row in _rows(line))


def _rows(line: str) -> list[str]:
    """Return the rows of a terminal that a line takes: where it breaks must not depend on how long a number was."""
    return [line[at : at + COLUMNS].rstrip() for at in range(0, max(len(line), 1), COLUMNS)]


def _talk(chat: Terminal) -> None:
    chat.prompt()
    for words in ("read README.md", "remember people like a friendly greeting"):
        chat.say(words)
        chat.prompt()
    chat.say("edit app.py Hello -> Good morning")
    chat.expect("may it?")
    chat.prompt()
    chat.say("y")
    chat.prompt()
    chat.say("insist read notes.txt")
    chat.prompt()
    chat.say("/why")
    chat.prompt()
    chat.say("/context")
    chat.prompt()
    chat.press(CTRL_D)
    if chat.wait() != 0:
        raise RuntimeError(chat.text)


def _alike(text: str) -> str:
    for pattern, word in _ALIKE:
        text = pattern.sub(word, text)
    return text


if __name__ == "__main__":
    RECORDING.write_text(record(), "utf-8")
