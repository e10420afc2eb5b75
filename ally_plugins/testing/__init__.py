"""For plugin authors: a plugin on a real host in memory, and the checks that every plugin should pass.

Nothing here is a mock: the host, its bus, its journal and its lanes are the real ones; only the clock stands still
until it is moved. The fixture `ally_harness` comes with `pytest_plugin`, which pytest finds by itself.
"""

from __future__ import annotations

from .blocking import BlockingHarness
from .checks import CHECKS, Check
from .conformance import Finding, Report, check_plugin, run_check
from .harness import PluginHarness, Refusal
from .samples import sample_calls, sample_events
from .subject import Subject, find_manifest

__all__ = [
    "CHECKS",
    "BlockingHarness",
    "Check",
    "Finding",
    "PluginHarness",
    "Refusal",
    "Report",
    "Subject",
    "check_plugin",
    "find_manifest",
    "run_check",
    "sample_calls",
    "sample_events",
]
