"""A plugin that says what it was shown, as a digest: the tests compare it with that of what they gave."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ally_plugins import Deny, PermissionRequest, Replace, ToolCall, ToolResult, evolve, hookimpl

from .hooks import Plain


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=list).encode()).hexdigest()


class Digests(Plain):
    @hookimpl
    async def ally_gate_tool_call(self, call: ToolCall) -> Deny:
        return Deny(digest(call.arguments))

    @hookimpl
    async def ally_gate_permission(self, request: PermissionRequest) -> Deny:
        return Deny(digest(request.arguments))

    @hookimpl
    async def ally_transform_tool_output(self, call: ToolCall, result: ToolResult) -> Any:
        return Replace(evolve(result, output=digest([call.arguments, result.output, result.data]), data=None))
