"""What a plugin raises, shows or emits does not carry its secret settings into the journal, reasons and logs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ally_plugins import Ally, Home, Host, Manifest, ToolCall, ToolCallEnd, ValidationRefused, hookimpl
from ally_plugins.catalog.decide.record import PluginRecord
from ally_plugins.catalog.home.setting_values import resolve_settings

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

TOKEN = "sekrit-VALUE-123"  # noqa: S105 - of nothing
MANIFEST = Manifest.from_mapping(
    {
        "events": {"subscribe": ["TOOL_CALL_END"]},
        "permissions": {"emit_event": {"reason": "r"}, "gate": {"on": ["tool_call"], "reason": "r"}},
        "settings": {"token": {"type": "string", "secret": True, "description": "t"}},
    }
)


class Careless:
    refusals: list[Exception]
    shown: str

    def __init__(self, ally: Ally) -> None:
        self.ally = ally
        type(self).refusals = []

    @hookimpl
    async def ally_tool_call_end(self, event: ToolCallEnd) -> None:
        type(self).shown = f"{dict(self.ally.settings)} {event.call_id}"
        try:
            await self.ally.emit_event("said", {"token": self.ally.settings["token"]})
        except ValidationRefused as refusal:
            self.refusals.append(refusal)
        raise ValueError(f"the service does not take {self.ally.settings['token']}")

    @hookimpl
    async def ally_gate_tool_call(self, call: ToolCall) -> Any:
        raise ValueError(f"{self.ally.settings['token']} is no good for {call.tool_name}")


def test_no_secret_of_a_careless_plugin_is_written_or_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> str:
        settings, problems = resolve_settings("careless", MANIFEST, {}, lambda *_: TOKEN)
        assert problems == ()
        assert settings["token"] == TOKEN
        record = PluginRecord.by_code("careless", MANIFEST, settings=settings)
        async with Host("app", home=tmp_path, discover=False, plugins={"careless": (Careless, record)}) as host:
            session, reason = host.session(), ""
            for _ in range(6):  # into quarantine
                session.emit(ToolCallEnd(tool_name="bash", success=True, call_id="c1"))
                reason = (await session.gate_tool_call(ToolCall("bash", {}, "c1"))).reason
            return reason

    reason = asyncio.run(main())
    assert "quarantine" in reason
    assert "[secret]" in Careless.shown
    assert len(Careless.refusals) > 0
    home = Home("app", tmp_path)
    written = b"".join(file.read_bytes() for file in home.path.rglob("*") if file.is_file())
    assert b"does not take [secret]" in written
    for text in (reason, Careless.shown, caplog.text, *map(str, Careless.refusals)):
        assert TOKEN not in text
    assert TOKEN.encode() not in written
