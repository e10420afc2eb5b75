"""How a host author wants agents to be run: what every run of one adapter shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from attrs import define

from ally_plugins.host.person.permission import Approver, Sensitive, sensitivity_of
from ally_plugins.host.sessions.open_calls import Preview, ToolFailure

if TYPE_CHECKING:
    from ally_plugins.contract.serves import Serves  # noqa: TC004 - as below
    from ally_plugins.host.host import Host  # noqa: TC004 - nobody reads this annotation at run time

__all__ = ["AgentOptions", "CompactingOptions", "KitOptions", "Preview", "ToolFailure"]


class AgentOptions(TypedDict, total=False):
    """What a host author may give the object of any adapter, by name; `KitOptions` says what each is."""

    approve: Approver | None
    sensitive: Sensitive
    preview: Preview | None
    tool_failure: ToolFailure | None
    context_window: int | None


class CompactingOptions(AgentOptions, total=False):
    """What they may give that of an adapter in whose framework a conversation can be shortened."""

    compact: Any
    compact_at: float | None


@define(eq=False, kw_only=True)
class KitOptions:
    """How agents run with one host. Lives as long as the adapter's object; several may share a host.

    `approve` asks the person. `sensitive` names the tools that need permission. `preview` returns what an edit would
    change. `tool_failure` returns the error of a result in which a tool reports its failure, None for any other.
    `context_window` is in tokens, where the framework does not know the model's. `compact` shortens
    conversations, a function from the framework's messages to messages or what else the adapter knows: when a plugin or
    the person asks for it, and by itself when `compact_at` percent of the window is used (None: never).
    """

    host: Host
    approve: Approver | None = None
    sensitive: Sensitive = ()
    preview: Preview | None = None
    tool_failure: ToolFailure | None = None
    context_window: int | None = None
    compact: Any = None
    compact_at: float | None = 85.0  # below the last CONTEXT_THRESHOLD, with room for the summary itself
    serves: Serves | None = None
    """What the adapter's framework lets it give plugins; None where nobody says: all that the host serves."""

    def sensitivity(self, tool: str) -> str | None:
        """Return how sensitive a tool is, None when it needs no permission."""
        return sensitivity_of(self.sensitive, tool)
