# What type checkers see of `__init__`, which imports a name when it is first used.

from .adapters.conformance import ADAPTER_CHECKS as ADAPTER_CHECKS
from .adapters.conformance import AdapterConformance as AdapterConformance
from .adapters.conformance import check_adapter as check_adapter
from .adapters.conformance import run_adapter_check as run_adapter_check
from .adapters.driver import AdapterDriver as AdapterDriver
from .adapters.driver import AgentSetup as AgentSetup
from .adapters.driver import HostTool as HostTool
from .adapters.script import Answer as Answer
from .adapters.script import Asked as Asked
from .adapters.script import Script as Script
from .agents.harness import AgentHarness as AgentHarness
from .agents.harness import BlockingAgentHarness as BlockingAgentHarness
from .agents.harness import NotServedError as NotServedError
from .agents.turns import AgentTurn as AgentTurn
from .agents.turns import PlayedCall as PlayedCall
from .agents.turns import ToolUse as ToolUse
from .blocking import BlockingHarness as BlockingHarness
from .checks import CHECKS as CHECKS
from .conformance import DAEMON_CHECKS as DAEMON_CHECKS
from .conformance import Finding as Finding
from .conformance import Report as Report
from .conformance import check_daemon as check_daemon
from .conformance import check_plugin as check_plugin
from .conformance import run_check as run_check
from .conformance import run_daemon_check as run_daemon_check
from .exercise import sample_calls as sample_calls
from .exercise import sample_events as sample_events
from .faults import BlockingFaults as BlockingFaults
from .faults import Faults as Faults
from .harness import PluginHarness as PluginHarness
from .observed import Refusal as Refusal
from .recordings import Replayed as Replayed
from .recordings import replay_recording as replay_recording
from .subject import find_manifest as find_manifest

__all__: list[str]
