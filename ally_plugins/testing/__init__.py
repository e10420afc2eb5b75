"""For authors of plugins and of host adapters: a plugin on a real host in memory, and the checks of both.

Nothing here is a mock: the host, its bus, its journal and its lanes are the real ones; only the clock stands still
until it is moved. The names are loaded when they are first used, since pytest looks into this package at every start,
for the fixture in `pytest_plugin`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .adapters.conformance import (
        ADAPTER_CHECKS as ADAPTER_CHECKS,
    )
    from .adapters.conformance import (
        AdapterConformance as AdapterConformance,
    )
    from .adapters.conformance import (
        check_adapter as check_adapter,
    )
    from .adapters.conformance import (
        run_adapter_check as run_adapter_check,
    )
    from .adapters.driver import (
        AdapterDriver as AdapterDriver,
    )
    from .adapters.driver import (
        AgentSetup as AgentSetup,
    )
    from .adapters.driver import (
        HostTool as HostTool,
    )
    from .adapters.script import (
        Answer as Answer,
    )
    from .adapters.script import (
        Asked as Asked,
    )
    from .adapters.script import (
        Script as Script,
    )
    from .blocking import BlockingHarness as BlockingHarness
    from .checks import CHECKS as CHECKS
    from .conformance import (
        Finding as Finding,
    )
    from .conformance import (
        Report as Report,
    )
    from .conformance import (
        check_plugin as check_plugin,
    )
    from .conformance import (
        run_check as run_check,
    )
    from .harness import PluginHarness as PluginHarness
    from .observed import Refusal as Refusal
    from .recordings import Replayed as Replayed
    from .recordings import replay_recording as replay_recording
    from .samples import sample_calls as sample_calls
    from .samples import sample_events as sample_events
    from .subject import find_manifest as find_manifest

_HOMES: Final = {
    "adapters.conformance": ("ADAPTER_CHECKS", "AdapterConformance", "check_adapter", "run_adapter_check"),
    "adapters.driver": ("AdapterDriver", "AgentSetup", "HostTool"),
    "adapters.script": ("Answer", "Asked", "Script"),
    "blocking": ("BlockingHarness",),
    "checks": ("CHECKS",),
    "conformance": ("Finding", "Report", "check_plugin", "run_check"),
    "harness": ("PluginHarness",),
    "observed": ("Refusal",),
    "recordings": ("Replayed", "replay_recording"),
    "samples": ("sample_calls", "sample_events"),
    "subject": ("find_manifest",),
}
_HOME_OF: Final = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "ADAPTER_CHECKS",
    "CHECKS",
    "AdapterConformance",
    "AdapterDriver",
    "AgentSetup",
    "Answer",
    "Asked",
    "BlockingHarness",
    "Finding",
    "HostTool",
    "PluginHarness",
    "Refusal",
    "Replayed",
    "Report",
    "Script",
    "check_adapter",
    "check_plugin",
    "find_manifest",
    "replay_recording",
    "run_adapter_check",
    "run_check",
    "sample_calls",
    "sample_events",
]


def __getattr__(name: str) -> Any:
    module = _HOME_OF.get(name)
    if module is None:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    value = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
