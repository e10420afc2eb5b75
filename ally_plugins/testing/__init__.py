"""For authors of plugins and of host adapters: a plugin on a real host in memory, and the checks of both.

Nothing here is a mock: the host, its bus, its journal and its lanes are the real ones; only the clock stands still
until it is moved. The names are loaded when they are first used, since pytest looks into this package at every start,
for the fixture in `pytest_plugin`. What a host does is left to `host`.
"""

from __future__ import annotations

from typing import Final

from ally_plugins import lazy_exports

_HOMES: Final = {
    "adapters.conformance": "ADAPTER_CHECKS AdapterConformance check_adapter run_adapter_check",
    "adapters.driver": "AdapterDriver AgentSetup HostTool",
    "adapters.script": "Answer Asked Script",
    "agents.harness": "AgentHarness BlockingAgentHarness NotServedError",
    "agents.turns": "AgentTurn PlayedCall ToolUse",
    "blocking": "BlockingHarness",
    "checks": "CHECKS",
    "conformance": "DAEMON_CHECKS Finding Report check_daemon check_plugin run_check run_daemon_check",
    "exercise": "sample_calls sample_events",
    "faults": "BlockingFaults Faults",
    "harness": "PluginHarness",
    "observed": "Refusal",
    "recordings": "Replayed replay_recording",
    "subject": "find_manifest",
}

__getattr__, __dir__, __all__ = lazy_exports(__name__, _HOMES)
