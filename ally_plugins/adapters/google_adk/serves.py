"""What plugins are served in runs of google-adk. Imports no framework, so that the docs can have its row without."""

from __future__ import annotations

from typing import Final

from ally_plugins.contract.serves import Serves
from ally_plugins.contract.values.events import EVENT_TYPES

__all__ = ["SERVES"]

SERVES: Final = Serves(
    events=EVENT_TYPES.keys() - {"COMPACTION_START", "COMPACTION_COMPLETE"},
    gates=("tool_call", "message", "permission", "user_message", "answer"),
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
