"""What hooks add to a run of a real agent: ten tool calls with our hooks, by the C client, and without any.

`nox -s coding_agents -- --measure` installs the agents and runs it; by hand:
`ALLY_CODING_AGENTS=FOLDER python tests/coding_agents/measure.py`. An agent that is not there is named, and left out.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

# As in the conftest at the root, which is not read here.
sys.modules["tests"] = folder_of_tests = ModuleType("tests")
folder_of_tests.__path__ = [str(Path(__file__).parents[1])]

from tests.coding_agents.box import AGENTS, PROGRAMS, Ran, Run, command, run_in_box  # noqa: E402 - by that name

RUNS = 9
"""Of each kind, after one that starts the host; the median counts."""

CALLS = 10
WANTED = {"claude": 1.6, "codex": 1.3}


def runs_of(agent: str, *, has_hooks: bool) -> list[Ran]:
    """Run an agent again and again in one home, with a gate behind its hooks or with no hooks."""
    steps = [command("true") for _ in range(CALLS)]
    connect = [["connect", agent, "--client", "c"]] if has_hooks else []
    with tempfile.TemporaryDirectory(prefix="ally-measure-", ignore_cleanup_errors=True) as folder:
        seen = run_in_box(agent, Path(folder), *[Run(steps)] * (RUNS + 1), connects=False, before=connect)
    for ran in seen.runs:
        assert ran.code == 0, ran.said[-1000:]
        assert len(ran.results) >= CALLS, ran.results
    # What is timed is a guarded agent: each call was decided.
    decided = seen.audit.count('"kind": "tool_call"')
    assert decided == (CALLS * len(seen.runs) if has_hooks else 0), f"{decided} calls were decided"
    return seen.runs[1:]


def rows() -> Iterator[str]:
    """Yield a table, line by line as it is measured."""
    yield f"| {CALLS} tool calls, the C client against no hooks | with | without | ratio | wanted | processor |"
    yield "|---|---|---|---|---|---|"
    for agent, wanted in WANTED.items():
        if not (AGENTS / PROGRAMS[agent]).exists():
            yield f"{agent} is not at {AGENTS / PROGRAMS[agent]}: not measured"
            continue
        kinds = [runs_of(agent, has_hooks=has_hooks) for has_hooks in (True, False)]
        ours, bare = (statistics.median(ran.seconds for ran in runs) for runs in kinds)
        used, less = (statistics.median(ran.processor for ran in runs) for runs in kinds)
        times = f"{ours:.2f} s | {bare:.2f} s | {ours / bare:.2f} | <= {wanted} | {used:.2f} s, {less:.2f} s"
        yield f"| {agent} | {times} |"


for row in rows():
    sys.stdout.write(f"{row}\n")
    sys.stdout.flush()
