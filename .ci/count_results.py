"""Add up the JUnit files of a folder and print one line: `tests: 12 passed, 0 failed, 1 skipped`."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree as ET


def count(folder: Path) -> tuple[int, int, int]:
    """Return how many tests passed, failed (errors too) and were skipped, over all result files."""
    suites = [suite for file in sorted(folder.glob("*.xml")) for suite in ET.parse(file).getroot().iter("testsuite")]  # noqa: S314 - our own files
    total, failed, errors, skipped = (
        sum(int(suite.get(key, "0")) for suite in suites) for key in ("tests", "failures", "errors", "skipped")
    )
    return total - failed - errors - skipped, failed + errors, skipped


if __name__ == "__main__":
    passed, failed, skipped = count(Path(sys.argv[1]))
    sys.stdout.write(f"tests: {passed} passed, {failed} failed, {skipped} skipped\n")
    sys.exit(0 if passed and not failed else 1)
