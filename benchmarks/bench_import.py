"""`import ally_plugins` against importing its dependencies alone, in fresh interpreters, bytecode compiled."""

from __future__ import annotations

import compileall
import importlib.util
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

ROUNDS: Final = 15
DEPENDENCIES: Final = "pluggy, attrs, importlib_metadata, platformdirs, packaging.specifiers, tomlkit, orjson"
CASES: Final = {
    "dependencies": f"import {DEPENDENCIES}",
    "import ally_plugins": "import ally_plugins",
    "a plugin's imports (Ally, ToolCallEnd, hookimpl)": "from ally_plugins import Ally, ToolCallEnd, hookimpl",
    "a host's imports (Host)": "from ally_plugins import Host",
    "every public name": "import ally_plugins\nfor n in ally_plugins.__all__: getattr(ally_plugins, n)",
}


def _time(code: str) -> float:
    """Return the milliseconds that code takes in a new interpreter, without the interpreter's own start."""
    script = f"import time\nstart = time.perf_counter()\n{code}\nprint((time.perf_counter() - start) * 1000)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return float(done.stdout)


def run() -> list[dict[str, Any]]:
    """Measure and return one row for each way to import."""
    spec = importlib.util.find_spec("ally_plugins")
    if spec is not None and spec.origin is not None:
        compileall.compile_dir(Path(spec.origin).parent, quiet=2)
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(ROUNDS):
        for name, code in CASES.items():
            times[name].append(_time(code))
    medians = {name: statistics.median(found) for name, found in times.items()}
    bare = medians.pop("dependencies")
    return [
        {
            "name": f"{name}, against the dependencies alone",
            "ours": ours,
            "bare": bare,
            "ratio": ours / bare,
            "target": "<= 1.3",
            "unit": "ms",
        }
        for name, ours in medians.items()
    ]


if __name__ == "__main__":
    for row in run():
        print(row)
