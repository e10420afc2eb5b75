"""End a run of CI: name what did not run, and count all tests on one line: `tests: 12 passed, 0 failed, 1 skipped`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree as ET


def count(folder: Path) -> tuple[int, int, int]:
    """Return how many tests passed, failed (errors too) and were skipped, over all result files."""
    suites = [suite for file in sorted(folder.glob("*.xml")) for suite in ET.parse(file).getroot().iter("testsuite")]  # noqa: S314 - our own files
    total, failed, errors, skipped = (
        sum(int(suite.get(key, "0")) for suite in suites) for key in ("tests", "failures", "errors", "skipped")
    )
    return total - failed - errors - skipped, failed + errors, skipped


def not_run(sessions: Path, reports: Iterable[Path]) -> list[str]:
    """Return a line for each session of the noxfile that did not run; `sessions` and `reports` are nox's own JSON."""
    found = [each for report in reports for each in json.loads(report.read_text("utf-8"))["sessions"]]
    ran = {signature: each for each in found for signature in each["signatures"]}
    lines = []
    for session in json.loads(sessions.read_text("utf-8")):
        name = session["session"]
        if name not in ran:
            lines.append(f"{name}: {session['description']}")
        elif ran[name]["result"] in {"skipped", "aborted"}:
            lines.append(f"{name}: {ran[name]['reason'] or ran[name]['result']}")
    return lines


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for line in not_run(folder / "sessions.json", folder.glob("report*.json")):
        sys.stdout.write(f"NOT RUN {line}\n")
    passed, failed, skipped = count(folder)
    sys.stdout.write(f"tests: {passed} passed, {failed} failed, {skipped} skipped\n")
    sys.exit(0 if passed and not failed else 1)
