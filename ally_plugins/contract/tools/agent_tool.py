"""What an agent may call of what plugins offer, as a host adapter sees it.

Which tools and actions those are is decided in `host.bus.agenttools`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attrs import frozen

if TYPE_CHECKING:
    from ally_plugins.contract.values.frozen import FrozenDict  # noqa: TC004 - nobody reads these annotations at run time

    from .declared import Kind  # noqa: TC004

__all__ = ["MAIN_AGENT", "AgentTool"]

MAIN_AGENT: Final = "main"
"""How `visible_to` names the agent that the person talks to."""


@frozen(kw_only=True)
class AgentTool:
    """One thing that the agent may call. A snapshot: ask again before each model request, plugins come and go.

    `name` is what the model calls it by: the plugin's own name for it, or `plugin__name` where that one is taken.
    `kind` says whether it is a tool or an action. `timeout` is in seconds. With `requires_confirmation` a person has to
    agree to each call.
    """

    name: str
    plugin: str
    kind: Kind
    own_name: str
    description: str
    schema: FrozenDict
    timeout: float
    visible_to: tuple[str, ...] = ()
    requires_confirmation: bool = False

    @property
    def full_name(self) -> str:
        """The name that no other plugin's can equal, `plugin:name`."""
        return f"{self.plugin}:{self.own_name}"
