"""What the checks need of an adapter and its framework, and what they give it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

from attrs import define, field, frozen

from ally_plugins.contract.serves import Serves

if TYPE_CHECKING:
    from ally_plugins.adapters.kit.options import Preview, ToolFailure  # noqa: TC004
    from ally_plugins.contract.values.conversation import Message
    from ally_plugins.host.host import Host  # noqa: TC004
    from ally_plugins.host.person.permission import Approver  # noqa: TC004 - nobody reads these annotations at run time

    from .script import Script  # noqa: TC004

__all__ = ["PARTS", "AdapterDriver", "AgentSetup", "AgentWithHistories", "HostTool"]

PARTS: Final = {
    "streaming": "a run whose answer is streamed",
    "thinking": "the model's thoughts",
    "usage": "how many tokens a request took, and the size of the window",
    "approval": "an approver that is asked before a tool runs",
    "preview": "what an edit would change, before it is made",
    "tool_failure": "which results report a failure, as the host author says",
    "interruption": "the action `interrupt`",
    "plugin_tools": "plugins' tools as the agent's",
    "system_prompt": "plugins' sections of the system prompt",
    "model_request": "plugins' changes of what the model is asked",
    "user_message_gate": "gates of what the person says",
    "answer": "gates of what the model answers",
    "answer_transform": "plugins' changes of what the model answers",
    "stop": "gates of the end of a turn",
    "sub_agents": "an agent that is run in a tool of another one",
    "compaction": "the action `compact`, with its events",
}
"""What an adapter may lack, since its framework does not give it."""

_SERVED: Final = {
    "thinking": "THOUGHT_COMPLETE",
    "usage": "CONTEXT_USAGE_UPDATE",
    "preview": "DIFF_PREVIEW",
    "system_prompt": "transform:system_prompt",
    "model_request": "transform:model_request",
    "user_message_gate": "gate:user_message",
    "answer": "gate:answer",
    "answer_transform": "transform:answer",
    "stop": "gate:stop",
    "compaction": "COMPACTION_START",
}
"""The parts of which `Serves` has a word: what is not served is lacking, and need not be said twice."""

ToolFunction: TypeAlias = Callable[[str], Awaitable[str]]


@frozen(kw_only=True)
class HostTool:
    """A tool of the host author's: it has one argument, the string `text`, which is required.

    `is_sensitive` says that a person has to agree first.
    """

    name: str
    run: ToolFunction
    is_sensitive: bool = False


@frozen(kw_only=True)
class AgentSetup:
    """The agent that a check wants: made in the framework's own way, with the adapter for `host`.

    What is None, or empty, is not given to the adapter at all. The host runs already, unless a check says otherwise.
    """

    host: Host
    script: Script
    name: str = "agent"
    system_prompt: str = "You help."
    tools: tuple[HostTool, ...] = ()
    approve: Approver | None = None
    preview: Preview | None = None
    tool_failure: ToolFailure | None = None
    can_compact: bool = False
    """Whether the adapter is given a way to shorten histories: one that keeps the last message of the person and what
    came after it."""

    @property
    def sensitive(self) -> tuple[str, ...]:
        """The names of the tools that a person has to agree to."""
        return tuple(tool.name for tool in self.tools if tool.is_sensitive)

    @property
    def options(self) -> dict[str, Any]:
        """What the object of every adapter takes of it, by name. Each adds what it has beside these."""
        return {
            "approve": self.approve,
            "sensitive": self.sensitive,
            "preview": self.preview,
            "tool_failure": self.tool_failure,
        }


@define(eq=False)
class AgentWithHistories:
    """An agent whose host author keeps the histories, by the session's id. It lives as long as a check."""

    agent: Any
    histories: dict[str, list[Any]] = field(factory=dict)


class AdapterDriver(ABC):
    """How the checks drive an adapter; one for each adapter, without a state of its own.

    `serves` is the adapter's own (`AllyPlugins.serves`): it is compared with what plugins are given, and checks of what
    is not served are left out, with a remark. `lacks` names those of the `PARTS` that its framework
    cannot give and `Serves` has no word for: streaming, approval, tool_failure, interruption, plugin_tools, sub_agents.
    """

    name: ClassVar[str] = "the adapter"
    serves: ClassVar[Serves | None] = None
    lacks: ClassVar[frozenset[str]] = frozenset()

    @property
    def missing(self) -> frozenset[str]:
        """The parts that it lacks, as it says, or since it does not serve them."""
        serves = self.serves if self.serves is not None else Serves()
        return self.lacks | {part for part, name in _SERVED.items() if name not in serves}

    @abstractmethod
    def make(self, setup: AgentSetup) -> Any:
        """Return an agent of the framework with the adapter, tools, and a model that is `setup.script`.

        The model turns what it is asked into an `Asked`, calls `setup.script.answer`, and turns the `Answer` into one
        of the framework's; an error is raised as it is.
        """

    @abstractmethod
    async def run(self, agent: Any, prompt: str | None, *, session_id: str, is_streamed: bool = False) -> str:
        """Run one turn of the conversation with this id, with the history of the turns before, and return what it said.

        The history is kept by the driver, as a host author would, also of a run that fails or is cancelled. `prompt`
        None is a turn that a plugin wakes the agent for. Raises whatever the run raises, once it has ended.
        """

    @abstractmethod
    def history(self, agent: Any, session_id: str) -> Sequence[Message]:
        """Return the framework's history of a conversation, as it would be given to the next run."""

    def check_lacks(self) -> None:
        """Raise ValueError when `lacks` names what is no part, or what `serves` has."""
        for part in self.lacks - PARTS.keys():
            raise ValueError(f"{self.name} lacks {part!r}; expected parts out of {', '.join(sorted(PARTS))}")
        for part in self.lacks & _SERVED.keys():
            if self.serves is not None and _SERVED[part] in self.serves:
                raise ValueError(f"{self.name} lacks {part!r} and serves {_SERVED[part]}; take one of them out")
