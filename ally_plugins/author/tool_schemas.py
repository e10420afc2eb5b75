"""The schema that a plugin writes for a tool of its own, looked at before any host has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ally_plugins.contract.tools.declared import ToolSpec
from ally_plugins.contract.values.frozen import freeze_mapping
from ally_plugins.policy.arguments import ArgumentChecker

__all__ = ["check_schema"]


def check_schema(tool: str, schema: Mapping[str, Any]) -> None:
    """Check a schema as a host does when the tool is registered. Raises ValidationRefused for one that is wrong."""
    spec = ToolSpec(
        kind="tool", name=tool, description="", schema=freeze_mapping(schema), handler=_nothing, is_async=False
    )
    ArgumentChecker(spec)


def _nothing() -> None:
    """Stand in for the handler, which is not called."""
