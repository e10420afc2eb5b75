"""What plugins are served in runs of strands. Imports no framework, so that the docs can have its row without."""

from __future__ import annotations

from typing import Final

from ally_plugins.contract.serves import Serves

__all__ = ["SERVES"]

SERVES: Final = Serves(
    gates=("tool_call", "message", "permission", "user_message", "answer", "stop"),
    transforms=(
        "tool_input",
        "tool_output",
        "user_message",
        "plugin_message",
        "system_prompt",
        "model_request",
        "answer",
    ),
)
