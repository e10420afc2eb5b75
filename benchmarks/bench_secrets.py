"""secret-guard on fabricated credentials and on what only looks like one, beside detect-secrets, and its speed.

detect-secrets is asked as it is by default, a file for each text. It tells where credentials stand in code, while
secret-guard replaces them in what tools print. A credential counts as found when secret-guard leaves nothing of it, and
when detect-secrets says anything about its text. A false alarm is a text without one that is changed, or spoken of.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from detect_secrets.core.secrets_collection import SecretsCollection
from detect_secrets.settings import default_settings
from secret_corpus import credentials, look_alikes

from ally_plugins_contrib.secret_guard.patterns import redact_text
from ally_plugins_contrib.secret_guard.redacting import redact_all

SEEDS: Final = range(20)
PEER_SEEDS: Final = range(3)
"""detect-secrets reads files and takes a hundred times longer."""

ROUNDS: Final = 5
MEGABYTE: Final = 1_000_000


def _peer_finds(text: str, folder: Path) -> bool:
    path = folder / "text.txt"
    path.write_text(f"{text}\n", "utf-8")
    found = SecretsCollection()
    found.scan_file(str(path))
    return any(True for _ in found)


def _ours() -> tuple[float, float]:
    found = [secret not in redact_all(text) for seed in SEEDS for text, secret in credentials(seed).values()]
    alarms = [redact_all(text) != text for seed in SEEDS for text in look_alikes(seed).values()]
    return statistics.mean(found), sum(alarms) / len(SEEDS)


def _peer() -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as name, default_settings():
        folder = Path(name)
        found = [_peer_finds(text, folder) for seed in PEER_SEEDS for text, _ in credentials(seed).values()]
        alarms = [_peer_finds(text, folder) for seed in PEER_SEEDS for text in look_alikes(seed).values()]
    return statistics.mean(found), sum(alarms) / len(PEER_SEEDS)


def _code(length: int) -> str:
    """Return that much of the standard library: text as tools print it, without credentials."""
    modules = sorted(Path(statistics.__file__).parent.glob("*.py"))
    text = "".join(path.read_text("utf-8", "replace") for path in modules)
    return text[:length]


def _seconds(text: str) -> float:
    start = time.process_time()
    redact_text(text)
    return time.process_time() - start


def run() -> list[dict[str, Any]]:
    """Measure, and return rows for what is found, for false alarms, and for the time that a megabyte takes."""
    (recall, alarms), (peer_recall, peer_alarms) = _ours(), _peer()
    count = len(look_alikes(0))
    text = _code(MEGABYTE)
    seconds = statistics.median(_seconds(text) for _ in range(ROUNDS))
    return [
        {
            "name": f"credentials redacted, of {len(credentials(0))}, beside detect-secrets",
            "ours": recall,
            "bare": peer_recall,
            "ratio": recall / peer_recall,
            "target": "ours >= 0.95",
            "unit": "",
        },
        {
            "name": f"false alarms in {count} look-alikes, beside detect-secrets",
            "ours": alarms,
            "bare": peer_alarms,
            "ratio": alarms / peer_alarms,
            "target": "ours <= 3",
            "unit": "",
        },
        {
            "name": "secret-guard, a megabyte of Python, processor time",
            "ours": seconds * 1000,
            "bare": None,
            "ratio": None,
            "target": "<= 500 ms",
            "unit": "ms",
        },
    ]


if __name__ == "__main__":
    for row in run():
        print(row)
