"""What hooks add to a run of a real agent of ten tool calls: our C client, a program that does nothing, no hooks.

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


def runs_of(agent: str, client: str) -> list[Ran]:
    """Run an agent again and again in one home: `ours` behind its hooks, `nothing` in that one's place, or no hooks."""
    has_hooks, first = client != "none", Run([command("true")])
    if client == "nothing":
        # What starting programs costs the agent, whatever they are.
        first = Run([], script="cp /bin/true ~/.local/state/ally-plugins/hooks/hook")
    connect = [["connect", agent, "--client", "c"]] if has_hooks else []
    with tempfile.TemporaryDirectory(prefix="ally-measure-", ignore_cleanup_errors=True) as folder:
        runs = [first, *[Run([command("true") for _ in range(CALLS)])] * RUNS]
        seen = run_in_box(agent, Path(folder), *runs, connects=False, before=connect)
    for ran in seen.runs:
        assert ran.code == 0, ran.said[-1000:]
    for ran in seen.runs[1:]:
        assert len(ran.results) >= CALLS, ran.results
    # What is timed is a guarded agent: each call was decided.
    decided = seen.audit.count('"kind": "tool_call"')
    assert decided == (1 + CALLS * RUNS if client == "ours" else 0), f"{decided} calls were decided"
    return seen.runs[1:]


def rows() -> Iterator[str]:
    """Yield a table, line by line as it is measured."""
    kinds = "the C client | a hook that does nothing | no hooks"
    yield f"| {CALLS} tool calls | {kinds} | client to none | wanted | nothing to none |"
    yield "|---|---|---|---|---|---|---|"
    for agent, wanted in WANTED.items():
        if not (AGENTS / PROGRAMS[agent]).exists():
            yield f"{agent} is not at {AGENTS / PROGRAMS[agent]}: not measured"
            continue
        measured = [runs_of(agent, client) for client in ("ours", "nothing", "none")]
        ours, nothing, bare = (statistics.median(ran.seconds for ran in runs) for runs in measured)
        used = (statistics.median(ran.processor for ran in runs) for runs in measured)
        times = f"{ours:.2f} s | {nothing:.2f} s | {bare:.2f} s"
        yield f"| {agent} | {times} | {ours / bare:.2f} | <= {wanted} | {nothing / bare:.2f} |"
        yield f"| its processor | {' | '.join(f'{each:.2f} s' for each in used)} | | | |"


for row in rows():
    sys.stdout.write(f"{row}\n")
    sys.stdout.flush()
