"""The tools and actions of this process, by name, and the running of their handlers: concurrently, outside the lane."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ally_plugins.contract.tools.returned import returned_data
from ally_plugins.contract.values.conversation import ToolResult
from ally_plugins.contract.values.errors import NotFoundRefused
from ally_plugins.contract.values.frozen import freeze
from ally_plugins.wire.values import tool_value

from .workers import Workers

if TYPE_CHECKING:
    from ally_plugins.contract.tools.declared import Kind, ToolSpec

__all__ = ["Handlers"]


class Handlers:
    """What the plugin offers, by decorator or at run time."""

    def __init__(self, plugin: str) -> None:
        self.plugin = plugin
        self._kept: dict[Kind, dict[str, ToolSpec]] = {"tool": {}, "action": {}}
        self._workers = Workers(f"ally-{plugin}-handler")

    def keep(self, specs: Iterable[ToolSpec]) -> None:
        """Add what decorators offer."""
        for spec in specs:
            self._kept[spec.kind][spec.name] = spec

    def add(self, spec: ToolSpec) -> Callable[[], None]:
        """Add a tool or action, and return a function that removes it again.

        To be called before the host is asked to register it: the host may call it before its answer is read.

        One of the same name stays as it is: the host will refuse the second.
        """
        own = self._kept[spec.kind]
        if spec.name in own:
            return lambda: None
        own[spec.name] = spec
        return lambda: self._drop(spec)

    def remove(self, name: str) -> None:
        """Forget the tool and the action of a name."""
        for own in self._kept.values():
            own.pop(name, None)

    def find(self, kind: Kind, name: object) -> ToolSpec:
        """Return the one of a name. Raises NotFoundRefused."""
        spec = self._kept[kind].get(name) if isinstance(name, str) else None
        if spec is None:
            raise NotFoundRefused(f"{self.plugin!r} has no {kind} {name!r:.80}", plugin=self.plugin)
        return spec

    async def run(self, spec: ToolSpec, arguments: Mapping[str, Any]) -> Any:
        """Run a handler with arguments that the host has checked, and return what it gives, as the wire has it.

        Raises ArgumentsError for what its types do not take, and whatever the handler raises. Cancelling it cancels an
        `async def` handler; a `def` one goes on to its end in its thread, and its result is dropped.
        """
        values = spec.read_arguments(arguments)
        if spec.is_async:
            result = await spec.handler(**values)
        else:
            result = await self._workers.run(lambda: spec.handler(**values))
        return tool_value(_checked(result)) if spec.kind == "tool" else result

    def close(self) -> None:
        """Let idle threads end."""
        self._workers.close()

    def _drop(self, spec: ToolSpec) -> None:
        own = self._kept[spec.kind]
        # Another one may have been registered under the name since.
        if own.get(spec.name) is spec:
            del own[spec.name]


def _checked(result: Any) -> Any:
    """Return a tool's result when it is one inline too: the encoder alone would also take dates and sets.

    Raises EventError.
    """
    return result if result is None or isinstance(result, (str, ToolResult)) else freeze(returned_data(result))
