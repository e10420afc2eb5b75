"""The coding agents that there is a dialect for, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .claude import CLAUDE
from .codex import CODEX
from .copilot import COPILOT
from .gemini import GEMINI
from .goose import GOOSE
from .opencode import OPENCODE
from .pi import PI

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .dialect import Dialect

__all__ = ["DIALECTS"]

DIALECTS: Final[Mapping[str, Dialect]] = {
    dialect.name: dialect for dialect in (CLAUDE, CODEX, GEMINI, COPILOT, OPENCODE, PI, GOOSE)
}
