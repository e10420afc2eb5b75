"""The harness for tests that are plain functions: the same calls, over a loop in a thread of its own."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ally_plugins.runtime.lanes.loopthread import LoopThread

from .harness import PluginHarness

if TYPE_CHECKING:
    from ally_plugins.contract.handle import BlockingAlly
    from ally_plugins.contract.values.conversation import (
        Message,
        ModelInput,
        PromptSection,
        SafePoint,
        ToolCall,
        ToolResult,
    )
    from ally_plugins.contract.values.events import Decision, Event, PermissionRequest, PluginEvent
    from ally_plugins.host.sessions.gates import Ruling
    from ally_plugins.runtime.lanes.plugin import Plugin

    from .observed import Refusal
    from .subject import PluginLike

__all__ = ["BlockingHarness"]

T = TypeVar("T")
E = TypeVar("E", bound="Event")


class BlockingHarness:
    """A `PluginHarness` whose calls block; a context manager with the same arguments. `harness` is the one behind it.

    `wait` is the longest time in seconds that one call may take; after it TimeoutError is raised.
    """

    def __init__(self, plugin: PluginLike, *, wait: float | None = 60.0, **options: Any) -> None:
        self.harness = PluginHarness(plugin, **options)
        self.name = self.harness.name
        self.wait = wait
        self._loop = LoopThread("harness", "with BlockingHarness(...) as harness:")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the loop's thread, the host and the plugin. Raises as `PluginHarness` does; nothing is left then."""
        self._loop.start(self.harness.start(), self.wait)

    def stop(self) -> None:
        """Stop the plugin, the host and the thread; safe to call twice."""
        self._loop.stop(self.harness.stop(), self.wait)

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the host's loop and wait for it, such as a call of `harness.ally`."""
        return self._loop.run(call, self.wait)

    # --- what a test does: as in PluginHarness ---

    def emit(self, *events: Event) -> None:
        """As `PluginHarness.emit`."""
        self.run(self.harness.emit(*events))

    def settle(self) -> None:
        """As `PluginHarness.settle`."""
        self.run(self.harness.settle())

    def person_says(self, text: str) -> Message:
        """As `PluginHarness.person_says`."""
        return self.run(self.harness.person_says(text))

    def gate(self, call: ToolCall | str, arguments: Mapping[str, Any] | None = None) -> Ruling:
        """As `PluginHarness.gate`."""
        return self.run(self.harness.gate(call, arguments))

    def gate_permission(self, request: PermissionRequest) -> Ruling:
        """As `PluginHarness.gate_permission`."""
        return self.run(self.harness.gate_permission(request))

    def transform_input(self, call: ToolCall | str, arguments: Mapping[str, Any] | None = None) -> ToolCall:
        """As `PluginHarness.transform_input`."""
        return self.run(self.harness.transform_input(call, arguments))

    def transform_output(self, result: ToolResult | str, call: ToolCall | str = "bash") -> ToolResult:
        """As `PluginHarness.transform_output`."""
        return self.run(self.harness.transform_output(result, call))

    def transform_system_prompt(self, sections: Iterable[PromptSection | str]) -> tuple[PromptSection, ...]:
        """As `PluginHarness.transform_system_prompt`."""
        return self.run(self.harness.transform_system_prompt(sections))

    def transform_model_request(self, request: ModelInput) -> ModelInput:
        """As `PluginHarness.transform_model_request`."""
        return self.run(self.harness.transform_model_request(request))

    def run_tool(
        self, call: ToolCall | str, arguments: Mapping[str, Any] | None = None, result: ToolResult | str = ""
    ) -> ToolResult:
        """As `PluginHarness.run_tool`."""
        return self.run(self.harness.run_tool(call, arguments, result))

    def safe_point(self, kind: SafePoint = "step") -> tuple[Message, ...]:
        """As `PluginHarness.safe_point`."""
        return self.run(self.harness.safe_point(kind))

    def call_tool(self, name: str, arguments: Mapping[str, Any] | None = None) -> ToolResult:
        """As `PluginHarness.call_tool`."""
        return self.run(self.harness.call_tool(name, arguments))

    def request_action(self, action: str, arguments: Mapping[str, Any] | None = None, *, by: str = "person") -> Any:
        """As `PluginHarness.request_action`."""
        return self.run(self.harness.request_action(action, arguments, by=by))

    def advance(self, seconds: float) -> None:
        """As `PluginHarness.advance`."""
        self.harness.advance(seconds)

    # --- what came back: as in PluginHarness ---

    @property
    def plugin(self) -> Plugin:
        """As `PluginHarness.plugin`."""
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
        """As `PluginHarness.events`."""
        return self.harness.events

    @property
    def pending(self) -> tuple[Message, ...]:
        """As `PluginHarness.pending`."""
        return self.harness.pending

    @property
    def messages(self) -> tuple[Message, ...]:
        """As `PluginHarness.messages`."""
        return self.harness.messages

    @property
    def emitted(self) -> tuple[PluginEvent, ...]:
        """As `PluginHarness.emitted`."""
        return self.harness.emitted

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """As `PluginHarness.decisions`."""
        return self.harness.decisions

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """As `PluginHarness.refusals`."""
        return self.harness.refusals

    @property
    def crashes(self) -> tuple[str, ...]:
        """As `PluginHarness.crashes`."""
        return self.harness.crashes

    @property
    def tools(self) -> tuple[str, ...]:
        """As `PluginHarness.tools`."""
        return self.harness.tools

    @property
    def actions(self) -> tuple[str, ...]:
        """As `PluginHarness.actions`."""
        return self.harness.actions

    def events_of(self, kind: type[E]) -> tuple[E, ...]:
        """As `PluginHarness.events_of`."""
        return self.harness.events_of(kind)
