"""`[chat]` of `config.toml`: what the operator has settled for the reference agent. It never holds a key."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from attrs import frozen

if TYPE_CHECKING:
    from ally_plugins.contract.tables import Fields

__all__ = ["ChatSettings", "is_server_url", "read_chat_settings"]

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@frozen(kw_only=True)
class ChatSettings:
    """Where nothing is settled, the command's options and the environment decide, and at last the offline model."""

    model: str = ""
    """A model string of the agent framework, such as `openai:gpt-5.2`; or `offline`."""
    base_url: str = ""
    """Where an OpenAI-compatible server or an Ollama listens."""
    api_key_env: str = ""
    """The environment variable that holds the key; empty leaves it to the provider's own."""
    context_window: int | None = None
    """Tokens of the model's window, where the framework does not know them."""
    allow: tuple[str, ...] = ()
    """Tools that run without asking the person. Gates of plugins are asked all the same."""


def is_server_url(text: str) -> bool:
    """Say whether a text is an http or https address without a name and password in it."""
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        return False


def read_chat_settings(top: Fields) -> ChatSettings:
    """Read the table of a configuration; mistakes are noted there."""
    table = top.table("chat", 'a table such as [chat] with model = "offline"')
    if table is None:
        return ChatSettings()
    base_url, variable = table.text("base_url"), table.text("api_key_env")
    if base_url and not is_server_url(base_url):
        # Not shown: somebody may have put a password there.
        table.note("base_url", "expected an http or https address without a password, such as http://localhost:8000/v1")
    if variable and not _VARIABLE.match(variable):
        # Not shown either: it is a key, more often than not.
        table.note("api_key_env", "expected the name of an environment variable, not a key")
    settings = ChatSettings(
        model=table.text("model"),
        base_url=base_url,
        api_key_env=variable,
        context_window=table.count("context_window", lowest=1),
        allow=table.texts("allow"),
    )
    table.close()
    return settings
