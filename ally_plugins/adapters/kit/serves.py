"""What plugins are served on the kit, where a framework has a place for all of it. Imports no framework."""

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
"""By name, so that what a later version adds is not claimed unseen: what an adapter claims is compared with what the
conformance run has observed.
"""
