"""The agents that this machine has are tried: a call that is denied does not run. CI installs none for it.

An installation by npm takes half a minute and 0.2 GB an agent, with a warm cache too; `nox -s coding_agents` does that
for all seven, and what it has put there is found here.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ally_plugins.adapters.coding.offline.agents import AGENTS
from ally_plugins.adapters.coding.offline.verify import verify
from ally_plugins.contract.values.errors import HostError

pytestmark = pytest.mark.slow

INSTALLED = Path(__file__).parents[2] / ".nox" / "work" / "coding-agents"
"""Where `nox -s coding_agents` installs."""

PLACES = {
    "claude": "claude/node_modules/@anthropic-ai/claude-code-linux-x64",
    "codex": "codex/node_modules/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin",
}


@pytest.mark.smoke
@pytest.mark.parametrize("agent", sorted(PLACES))
def test_an_agent_that_is_installed_here_runs_no_call_that_is_denied(
    agent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = os.pathsep.join([os.environ["PATH"], str(INSTALLED / PLACES[agent])])
    if shutil.which(AGENTS[agent].program, path=path) is None:
        pytest.skip(f"{agent} is neither on the PATH nor below {INSTALLED}: not tried")
    monkeypatch.setenv("PATH", path)
    try:
        found = verify(agent)
    except HostError as error:
        if "not run" not in str(error):  # else no network without a way out can be made here
            raise
        pytest.skip(f"{agent} is not tried: {error}")
    assert found.is_stopped, f"{found.version}: {found.why}\n{found.said}"
