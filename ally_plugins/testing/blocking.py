"""The harness for tests that are plain functions: the same calls, over a loop in a thread of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ally_plugins.contract.blocking import blocking, passed_on
from ally_plugins.contract.values.compat import override
from ally_plugins.host.blocking import BlockingOwner

from .faults import BlockingFaults
from .harness import HarnessResults, PluginHarness

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ally_plugins.contract.handle import BlockingAlly
    from ally_plugins.contract.values.events import Event
    from ally_plugins.runtime.lanes.plugin import Plugin

    from .subject import PluginLike

__all__ = ["BlockingHarness"]


class BlockingHarness(BlockingOwner, HarnessResults):
    """A `PluginHarness` whose calls block; a context manager with the same arguments. `harness` is the one behind it.

    `wait` is the longest time in seconds that one call may take; after it TimeoutError is raised.
    """

    def __init__(self, plugin: PluginLike, *, wait: float | None = 60.0, **options: Any) -> None:
        self.harness = self._made(plugin, options)
        super().__init__(self.harness, "harness", wait=wait, limits_life=True)
        self.name = self.harness.name

    @staticmethod
    def _made(plugin: PluginLike, options: Mapping[str, Any]) -> PluginHarness:
        return PluginHarness(plugin, **options)

    # --- what a test does ---

    emit = blocking(PluginHarness.emit)
    settle = blocking(PluginHarness.settle)
    person_says = blocking(PluginHarness.person_says)
    model_answers = blocking(PluginHarness.model_answers)
    gate = blocking(PluginHarness.gate)
    gate_user_message = blocking(PluginHarness.gate_user_message)
    gate_answer = blocking(PluginHarness.gate_answer)
    gate_stop = blocking(PluginHarness.gate_stop)
    gate_permission = blocking(PluginHarness.gate_permission)
    transform_input = blocking(PluginHarness.transform_input)
    transform_output = blocking(PluginHarness.transform_output)
    transform_answer = blocking(PluginHarness.transform_answer)
    transform_system_prompt = blocking(PluginHarness.transform_system_prompt)
    transform_model_request = blocking(PluginHarness.transform_model_request)
    run_tool = blocking(PluginHarness.run_tool)
    safe_point = blocking(PluginHarness.safe_point)
    call_tool = blocking(PluginHarness.call_tool)
    request_action = blocking(PluginHarness.request_action)
    advance = passed_on(PluginHarness.advance)

    @property
    def faults(self) -> BlockingFaults:
        """What may be made to go wrong around the plugin; see `Faults`."""
        return BlockingFaults(self)

    # --- who is there, and what came back ---

    @property
    @override
    def _harness(self) -> PluginHarness:
        return self.harness

    @property
    def plugin(self) -> Plugin:
        """The plugin as the host sees it: `state`, `reason`, `counts`, `instance`."""
        return self.harness.plugin

    @property
    def ally(self) -> BlockingAlly:
        """The plugin's own handle, as plain functions."""
        return self.harness.ally.blocking

    @property
    def other(self) -> BlockingAlly:
        """The other plugin's handle, as plain functions."""
        return self.harness.other.blocking

    @property
    def events(self) -> list[Event]:
        """All that was emitted, in order."""
        return self.harness.events
