"""`[chat]` of `config.toml`: what the operator has settled for the reference agent. It never holds a key."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from attrs import field, frozen

from ally_plugins.contract.documents import LINE, LINES, count, line
from ally_plugins.contract.tables import holds

__all__ = ["ChatSettings", "is_server_url"]

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def is_server_url(text: str) -> bool:
    """Say whether a text is an http or https address without a name and password in it."""
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and "@" not in parts.netloc
    # urlsplit refuses brackets that hold no IPv6 address.
    except ValueError:
        return False


def _url_problem(text: str) -> str | None:
    expected = "expected an http or https address without a password, such as http://localhost:8000/v1"
    return None if is_server_url(text) else expected


def _variable_problem(text: str) -> str | None:
    return None if _VARIABLE.match(text) else "expected the name of an environment variable, not a key"


@frozen(kw_only=True)
class ChatSettings:
    """Where nothing is settled, the command's options and the environment decide, and at last the offline model."""

    model: str = field(default="", metadata=holds(LINE))
    """A model string of the agent framework, such as `openai:gpt-5.2`; or `offline`."""
    # Neither of the next two is shown where it is wrong: somebody may have put a password or a key there.
    base_url: str = field(default="", metadata=holds(line(_url_problem, is_shown=False)))
    """Where an OpenAI-compatible server or an Ollama listens."""
    api_key_env: str = field(default="", metadata=holds(line(_variable_problem, is_shown=False)))
    """The environment variable that holds the key; empty leaves it to the provider's own."""
    context_window: int | None = field(default=None, metadata=holds(count(1)))
    """Tokens of the model's window, where the framework does not know them."""
    allow: tuple[str, ...] = field(default=(), metadata=holds(LINES))
    """Tools that run without asking the person. Gates of plugins are asked all the same."""
