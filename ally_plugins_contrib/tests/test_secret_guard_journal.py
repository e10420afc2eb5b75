"""A credential that secret-guard can only deny is nowhere in the home afterwards."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING

from ally_plugins import Host, ToolCall, ToolResult
from ally_plugins_contrib.secret_guard import SecretGuard

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "ghp_" + "Zq4" * 12
ENCODED = base64.b64encode(TOKEN.encode()).decode()


async def never(_: ToolCall) -> ToolResult:
    raise AssertionError("a denied call ran")


def test_an_encoded_credential_in_a_call_that_is_denied_is_in_no_file_of_the_home(home: Path) -> None:
    async def main() -> None:
        async with Host("t", home=home, discover=False, plugins={"secret-guard": SecretGuard}) as host:
            call = ToolCall("bash", {"command": f"echo {ENCODED} | base64 -d"}, "c1")
            result = await host.session("s").run_tool_call(call, never)
            assert "holds a credential" in (result.error or "")
            (decision,) = host.journal.reader.records(kind="decision")
            assert decision.data is not None
            assert decision.data["decided_on"]["shape"] == {"arguments": {"command": "text of 73 characters"}}

    asyncio.run(main())
    kept = b"".join(file.read_bytes() for file in home.rglob("*") if file.is_file())
    assert b"TOOL_CALL_START" in kept
    assert ENCODED.encode() not in kept
    assert TOKEN.encode() not in kept
