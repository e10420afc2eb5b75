"""Discovery of plugins, against a bare `importlib_metadata.entry_points()` over the same distributions.

Synthetic site directories with 300 and 1,000 distributions, a fifth of them with entry points of other groups and ten
with a plugin and its manifest. Every sample of a first discovery runs in an interpreter of its own, since importlib
remembers directories; ours and the bare one take turns. Imports are not counted: both need the same ones.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import orjson

_SIZES: Final = (300, 1_000)
_PLUGINS: Final = 10
_ROUNDS: Final = 9
_LONG_AGO: Final = 1_600_000_000

_METADATA: Final = """\
Metadata-Version: 2.4
Name: {name}
Version: 1.{index}
Summary: a distribution that stands for a real one
Author-email: Somebody <somebody@example.org>
License-Expression: MIT
Classifier: Programming Language :: Python :: 3
Requires-Python: >=3.11
Requires-Dist: attrs>=24
Description-Content-Type: text/markdown

# A distribution

{text}
"""

_MANIFEST: Final = """\
description = "steers an agent that repeats itself"
requires_host = ">=1,<2"
after = ["secret-guard"]

[events]
subscribe = ["TOOL_CALL_END", "CONTEXT_THRESHOLD", "other-plugin:*"]

[permissions]
add_message = { roles = ["user"], reason = "to steer the agent" }
get_context = { parts = ["messages", "todos"], reason = "to see what it repeats" }
gate = { on = ["tool_call"], tools = ["bash"], reason = "to stop it" }
tools = { reason = "to offer its statistics" }

[settings.limit]
type = "integer"
default = 3
description = "failures before it speaks"
"""

_SAMPLE: Final = """
import sys, time
from pathlib import Path
import importlib_metadata, packaging.specifiers, orjson
from ally_plugins.catalog.discovery.packages import discover
what, site, cache = sys.argv[1:]
sys.path[:] = [site, *(entry for entry in sys.path if entry.endswith((".zip", "lib-dynload")) or "site" not in entry)]
def bare():
    return len(importlib_metadata.entry_points())
def ours():
    return len(discover(Path(cache) if cache else None).found)
look = bare if what == "bare" else ours
start = time.perf_counter()
count = look()
first = time.perf_counter() - start
again = []
for _ in range(7):
    start = time.perf_counter()
    look()
    again.append(time.perf_counter() - start)
sys.stdout.buffer.write(orjson.dumps({"first": first, "again": sorted(again)[3], "count": count}))
"""


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def _build(site: Path, size: int) -> None:
    for index in range(size):
        name = f"distribution-{index:04}"
        info = site / f"{name.replace('-', '_')}-1.{index}.dist-info"
        _write(info / "METADATA", _METADATA.format(name=name, index=index, text="It does this and that. " * 150))
        _write(info / "RECORD", "".join(f"m{index}/f{i}.py,sha256=abc{i},{i}\n" for i in range(40)))
        if index < _PLUGINS:
            _write(info / "entry_points.txt", f"[ally.plugins]\nplugin-{index} = m{index}.plugin:Plugin\n")
            _write(site / f"m{index}" / "__init__.py", "")
            _write(site / f"m{index}" / "plugin.py", "class Plugin: pass\n")
            _write(site / f"m{index}" / "ally-plugin.toml", _MANIFEST)
        elif index % 5 == 0:
            _write(info / "entry_points.txt", f"[console_scripts]\nc{index} = m{index}.cli:main\n")
    for directory, _, files in os.walk(site):
        for file in files:
            os.utime(Path(directory, file), (_LONG_AGO, _LONG_AGO))
        os.utime(directory, (_LONG_AGO, _LONG_AGO))


def _sample(what: str, site: Path, cache: Path | None) -> dict[str, Any]:
    command = [sys.executable, "-c", _SAMPLE, what, str(site), str(cache or "")]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    sample: dict[str, Any] = orjson.loads(output)
    assert sample["count"] >= _PLUGINS, sample
    return sample


def _row(name: str, ours: list[float], bare: list[float], target: str) -> dict[str, Any]:
    our, their = statistics.median(ours) * 1e3, statistics.median(bare) * 1e3
    return {"name": name, "ours": our, "bare": their, "ratio": our / their, "target": target, "unit": "ms"}


def run() -> list[dict[str, Any]]:
    """Measure; the first discovery includes writing the cache, the second reads it in the same way as a new process."""
    rows = []
    for size in _SIZES:
        with tempfile.TemporaryDirectory() as directory:
            site, cache = Path(directory, "site"), Path(directory, "cache")
            _build(site, size)
            samples: dict[str, list[float]] = {"bare": [], "first": [], "unchanged": [], "bare again": []}
            for _ in range(_ROUNDS):
                bare = _sample("bare", site, None)
                for file in cache.iterdir() if cache.exists() else ():
                    file.unlink()
                cache.mkdir(exist_ok=True)
                ours = _sample("ours", site, cache)
                assert list(cache.iterdir()), "the cache was not written"
                warm = _sample("ours", site, cache)
                samples["bare"].append(bare["first"])
                samples["first"].append(ours["first"])
                samples["unchanged"].append(warm["first"])
            rows.append(_row(f"discovery, {size} distributions, first", samples["first"], samples["bare"], "<= 1.2"))
            rows.append(
                _row(f"discovery, {size} distributions, unchanged", samples["unchanged"], samples["bare"], "<= 0.1")
            )
    return rows


if __name__ == "__main__":
    for row in run():
        print("{name:44} {ours:8.3f} {unit}  bare {bare:8.3f}  ratio {ratio:.3f}  target {target}".format(**row))
