"""Runs the benchmarks, each in a process of its own, and prints one table (or JSON with `--json`).

    nox -s bench                       all
    nox -s bench -- events journal     some, by name
    nox -s bench -- --json             one JSON object

Figures are medians of interleaved rounds; compare the ratios, since machines differ and are noisy.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
TIMEOUT: Final = 900.0
"""Seconds that one benchmark may take."""


def _names() -> list[str]:
    return sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def _measure(name: str) -> list[dict[str, Any]]:
    code = f"import json, sys; sys.path.insert(0, {str(HERE)!r}); import bench_{name} as b; print(json.dumps(b.run()))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT)
    rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return rows


def _cell(value: float | None, unit: str = "") -> str:
    if value is None:
        return "-"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{text} {unit}".rstrip()


def _table(rows: list[dict[str, Any]]) -> str:
    head = ["benchmark", "ours", "bare", "ratio", "target"]
    cells = [
        [r["name"], _cell(r["ours"], r["unit"]), _cell(r["bare"], r["unit"]), _cell(r["ratio"]), str(r["target"])]
        for r in rows
    ]
    widths = [max(len(row[i]) for row in [head, *cells]) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *cells]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in padded)


def main() -> int:
    """Run what was asked for; exit code 1 when a benchmark could not run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(_names())}; all by default")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(_names()))
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(_names())}")
    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    for name in options.names or _names():
        print(f"measuring {name} ...", file=sys.stderr)
        try:
            rows += _measure(name)
        except (subprocess.SubprocessError, ValueError) as error:
            failed.append(f"{name}: {error}")
    machine = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    print(json.dumps({"machine": machine, "rows": rows, "failed": failed}) if options.json else _table(rows))
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
