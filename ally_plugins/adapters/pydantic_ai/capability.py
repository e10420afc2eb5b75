"""`AllyPlugins`, what a host author adds to an agent: configuration shared by all runs, and a copy for each run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic_ai.capabilities import AbstractCapability

from ally_plugins.adapters.kit.compaction_requests import CompactionRequest
from ally_plugins.adapters.kit.kit import AgentKit
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import HostError

from .compaction import COMPACT_AT
from .deferral import allows_deferral
from .run_capability import RunPlugins

if TYPE_CHECKING:
    from pydantic_ai.tools import RunContext

    from ally_plugins.adapters.kit.live_sessions import LiveSession
    from ally_plugins.adapters.kit.options import Preview
    from ally_plugins.adapters.kit.permission import Approver, Sensitive
    from ally_plugins.host.host import Host

    from .compaction import Compaction

__all__ = ["AllyPlugins"]


class AllyPlugins(AbstractCapability[Any]):
    """A pydantic-ai capability: `Agent(model, capabilities=[AllyPlugins(host)])` lives with the host's plugins.

    One object serves any number of agents and conversations; sessions follow the framework's conversation id, and an
    agent that is run in a tool of another one joins its session. A host that runs is used and left alone; another one
    is started with the first run and stopped when the last of those that overlap has ended.

    `approve` asks the person about a call; without it a question becomes one of the framework's deferred approvals
    where the agent's output type has `DeferredToolRequests` (`defer` says so for a type that is given to the run), and
    is a deny elsewhere. `sensitive` names the tools that need permission, or maps them to how sensitive they are; tools
    that the framework marks as requiring approval do anyhow. `preview` tells what an edit would change before it is
    made. `context_window` is the model's in tokens, where the framework does not know it. `compact` shortens histories
    when `compact_at` percent of it is used, or when a plugin or the person asks: a function from messages to messages,
    or one of the harness's compaction strategies.
    """

    def __init__(  # noqa: PLR0913 - all but one by name, each an option of its own
        self,
        host: Host,
        *,
        approve: Approver | None = None,
        sensitive: Sensitive = (),
        preview: Preview | None = None,
        context_window: int | None = None,
        compact: Compaction | None = None,
        compact_at: float = COMPACT_AT,
        defer: bool | None = None,
        id: str = "ally-plugins",  # noqa: A002 - the framework's own name for it
    ) -> None:
        self.id = id
        self.description = None
        self.defer_loading = False
        self.defer = defer
        self.compaction = compact
        self.kit = AgentKit(
            host=host,
            approve=approve,
            sensitive=sensitive,
            preview=preview,
            context_window=context_window,
            compact_at=compact_at if compact is not None else None,
            can_compact=compact is not None,
        )

    @property
    def host(self) -> Host:
        """The host whose plugins these are."""
        return self.kit.host

    @classmethod
    @override
    def get_serialization_name(cls) -> str | None:
        """Say that a specification in a file cannot name it: it holds a host."""
        return None

    @classmethod
    @override
    def combine(cls, capabilities: Sequence[AbstractCapability[Any]]) -> AbstractCapability[Any]:
        """Let the last of several in one list stand for all, so that no call is gated twice."""
        return capabilities[-1]

    @override
    async def for_run(self, ctx: RunContext[Any]) -> AbstractCapability[Any]:
        """Return the copy that follows one run."""
        may_defer = self.defer if self.defer is not None else allows_deferral(ctx)
        return RunPlugins(self.kit, self.id or "ally-plugins", may_defer=may_defer, compaction=self.compaction)

    # --- between runs ---

    def session(self, session_id: str) -> LiveSession:
        """Return a conversation's live session. Raises HostError when the host does not run."""
        return self.kit.session(session_id)

    def interrupt(self, session_id: str, cause: str = "the person asked for it") -> bool:
        """Stop the agents at work in a conversation; their AGENT_END carries the cause. Say whether there was any.

        The run ends with `RunCancelled`, whose `all_messages()` is a history that the model accepts.
        """
        live = self.kit.host_sessions.sessions.get(session_id)
        return live.interrupt(cause) if live is not None else False

    def compact(self, session_id: str, reason: str = "the person asked for it") -> None:
        """Have a conversation shortened before the model is asked next. Raises HostError when nothing can do it."""
        if self.compaction is None:
            raise HostError("nothing here can shorten a conversation; give AllyPlugins(compact=...)")
        self.kit.session(session_id).compactions.pending = CompactionRequest("person", reason)

    async def wait_for_trigger(self, session_id: str) -> None:
        """Wait until a plugin that may wakes the idle agent; then run it with its history and without a prompt.

        Raises HostError when the host does not run. Cancelling stops the waiting and nothing else.
        """
        await self.kit.session(session_id).session.wait_for_trigger()
