"""All that a chat needs, opened in order and closed in reverse: host, session, model, agent, saved history."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field

from ally_plugins.contract.values.events import Event, UserMessage
from ally_plugins.contract.values.ids import new_id
from ally_plugins.contract.values.masking import Secrets, keys_of
from ally_plugins.host.host import Host
from ally_plugins.host.person.previews import file_preview
from ally_plugins.journal.journal import Journal

if TYPE_CHECKING:
    from pydantic_ai.models import Model  # noqa: TC004 - nobody reads these annotations at run time

    from ally_plugins.adapters.pydantic_ai import AllyPlugins  # noqa: TC004 - nobody reads these annotations at run time
    from ally_plugins.host.person.permission import Approver
    from ally_plugins.host.sessions.session import Session  # noqa: TC004 - nobody reads these annotations at run time

    from .chat_options import Options  # noqa: TC004
    from .compaction import ChatCompaction  # noqa: TC004
    from .saved_history import Saver  # noqa: TC004 - nobody reads these annotations at run time
    from .turns import AgentTurns  # noqa: TC004 - nobody reads these annotations at run time

__all__ = ["OpenedChat", "open_chat"]

_TITLE: Final = 80
"""Characters of a session's title, of which `sessions` shows 60."""


@define(kw_only=True, eq=False)
class OpenedChat:
    """A chat that is open. Lives as long as the context of `open_chat`."""

    host: Host
    session: Session
    plugins: AllyPlugins
    model: Model[Any]
    turns: AgentTurns
    saver: Saver
    compaction: ChatCompaction
    keys: Secrets
    options: Options
    is_resumed: bool
    _is_titled: bool = field(init=False, default=False)

    def title(self, message: Event) -> None:
        """Save title, folder and model with the first message of a new session; later calls do nothing.

        `message` is USER_MESSAGE, which has what plugins left of the person's words.
        """
        if not isinstance(message, UserMessage) or message.session_id != self.session.id or self._is_titled:
            return
        self._is_titled = True
        if not self.is_resumed and message.content:
            self.saver.begin(self._about(message.content))

    def _about(self, prompt: str) -> dict[str, Any]:
        title = next(iter(prompt.strip().splitlines()), "")[:_TITLE]
        return {"title": title, "folder": str(self.options.folder), "model": self.options.choice.name}


@asynccontextmanager
async def open_chat(
    options: Options,
    *,
    approve: Approver | None,
    on_host: Callable[[Host], object],
    on_text: Callable[[str], None],
    on_thought: Callable[[str], None] = lambda _: None,
    on_note: Callable[[str], None] = lambda _: None,
) -> AsyncGenerator[OpenedChat]:
    """Open a chat, a new one or a saved one. `on_host` is called with the host before it starts.

    `on_note` is told what becomes of the plugin that its author runs from its folder, where the options name one.

    Raises ConfigError, HostError, JournalError and NotFoundRefused, each with a text for the person. Nothing is left
    open then, or when it is cancelled.
    """
    from ally_plugins.adapters.pydantic_ai import AllyPlugins

    from .agent import make_agent, sensitive_tools
    from .compaction import ChatCompaction
    from .developed import Developed
    from .kept_calls import KeptCalls
    from .models import build_model
    from .saved_history import Saver, SessionLock, load_history
    from .tools.commands import CommandTools
    from .tools.todos import Todos
    from .turns import AgentTurns

    # First: a missing key is the most frequent error, and costs no start of a host and its plugins.
    model = build_model(options.choice, options.environ)
    keys = Secrets(keys_of(options.environ, [options.choice.api_key_env] if options.choice.api_key_env else ()))
    developed = Developed.of(options.dev) if options.dev is not None else None
    # In memory: nothing of it is to be left, and a kill would leave a file.
    journal = Journal.in_memory() if developed is not None else None
    host = Host(
        options.home.app,
        home=options.home,
        plugins=developed.plugins if developed is not None else None,
        journal=journal,
        has_person=approve is not None,
        protect=True,
    )
    on_host(host)
    session_id = options.resume or new_id("s")
    # Before the host, and released after it: two writers of one history would replace each other's.
    lock = SessionLock(options.home, session_id)
    try:
        async with host:
            history = load_history(host.journal, session_id) if options.resume else []
            compaction = ChatCompaction()
            plugins = AllyPlugins(
                host,
                approve=approve,
                sensitive=sensitive_tools(options.allow),
                preview=file_preview(options.folder),
                context_window=options.choice.context_window,
                compact=compaction,
            )
            session = host.session(session_id, focus=str(options.folder))
            calls = KeptCalls(session, history)
            for kind in ("TOOL_CALL_START", "TOOL_CALL_END"):
                host.stream.subscribe(kind, calls.note)
            saver = Saver(host.journal, session_id, keys, calls)
            saver.adopt(history)
            commands = CommandTools(options.folder)
            agent = make_agent(
                model,
                folder=options.folder,
                plugins=plugins,
                todos=Todos(session.conversation.todos),
                commands=commands,
                keys=keys,
            )
            # The agent closes the connections of the model.
            async with agent, commands, developed.followed(host, on_note) if developed is not None else nullcontext():
                turns = AgentTurns(agent, session, saver, keys, history=history, on_text=on_text, on_thought=on_thought)
                opened = OpenedChat(
                    host=host,
                    session=session,
                    plugins=plugins,
                    model=model,
                    turns=turns,
                    saver=saver,
                    compaction=compaction,
                    keys=keys,
                    options=options,
                    is_resumed=options.resume is not None,
                )
                host.stream.subscribe("USER_MESSAGE", opened.title)
                yield opened
    finally:
        lock.release()
        if journal is not None:
            await journal.close()
