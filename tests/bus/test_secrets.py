"""What a plugin raises, shows or emits does not carry its secret settings into the journal, reasons and logs."""

from __future__ import annotations

import asyncio
import logging
import traceback
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import (
    Ally,
    Deny,
    Home,
    Host,
    Manifest,
    ToolCall,
    ToolCallEnd,
    ToolCallError,
    ToolResult,
    UserMessage,
    ValidationRefused,
    hookimpl,
    tool,
)
from ally_plugins.catalog.decide.record import PluginRecord
from ally_plugins.catalog.home.setting_values import resolve_settings
from ally_plugins.policy.permissions import GrantSet

if TYPE_CHECKING:
    from pathlib import Path

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


class Talkative:
    """It says its secret wherever a text of its own can stand."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally
        self.token = f"Bearer {ally.settings['token']}"

    def __repr__(self) -> str:
        return f"Talkative({self.token})"

    @hookimpl
    async def ally_user_message(self, event: UserMessage) -> None:
        self.ally.log.warning("%s does not take %s", event.content, self.token)
        try:
            int(self.token)
        except ValueError:
            self.ally.log.exception("it was not taken")
        await self.ally.add_message("user", f"I could not log in with {self.token}")
        await self.ally.emit_event("failed", {"why": [self.token]})
        await self.ally.request_action("compact", {"why": self.token})

    @hookimpl
    async def ally_gate_tool_call(self, call: ToolCall) -> Any:
        return Deny(f"{self.token} is no good for {call.tool_name}")

    @tool
    async def login(self) -> ToolResult:
        """Log in."""
        return ToolResult(success=False, error=f"no such user: {self.token}")

    @tool
    async def fail(self) -> str:
        """Fail."""
        raise ValueError(f"{'x' * 280} {self.token}")  # cut in the middle of the secret


def test_no_text_that_a_plugin_or_its_host_makes_holds_a_secret_setting_given_by_code(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[Any] = []

    def compact(_: Any, request: Any) -> str:
        done.append(request.arguments)
        return "done"

    async def main() -> list[str]:
        settings = {"settings": {"token": {"type": "string", "secret": True}}}
        record = PluginRecord.by_code("talkative", Manifest.from_mapping(settings), settings={"token": TOKEN},
                                      grants=GrantSet.everything())  # fmt: skip
        given = {"talkative": (Talkative, record)}
        async with Host("app", home=tmp_path, discover=False, plugins=given) as host:
            host.offer_action("compact", compact)
            session = host.session()
            session.emit(UserMessage(content="the service"))
            await session.drained()
            ruling = await session.gate_tool_call(ToolCall("bash", {}, "c1"))
            messages = [message.text_for_model for message in await session.safe_point("turn_end")]
            login = await host.call_tool("login", {})
            with pytest.raises(ToolCallError) as failed:
                await host.call_tool("fail", {})
            plugin = host.plugins["talkative"]
            shown = [repr(plugin), repr(plugin.secrets), ruling.reason, *messages, login.error or ""]
            return [*shown, "".join(traceback.format_exception(failed.value))]

    caplog.set_level(logging.DEBUG)
    texts = asyncio.run(main())
    assert texts[0] == "<Plugin 'talkative': running>"
    assert "Bearer [secret] is no good for bash" in texts[2]
    assert "I could not log in with Bearer [secret]" in texts[3]
    assert texts[4] == "no such user: Bearer [secret]"
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()).decode("utf-8", "replace")
    for text in (*texts, caplog.text, "".join(map(repr, caplog.records)), written):
        assert TOKEN[:8] not in text
    assert "the service does not take Bearer [secret]" in caplog.text
    assert "invalid literal for int() with base 10: 'Bearer [secret]'" in caplog.text
    assert [each["why"] for each in done] == [f"Bearer {TOKEN}"]  # what is done is done with the value


class Direct:
    """It gives its secret as it is."""

    refusals: tuple[str, ...] = ()

    def __init__(self, ally: Ally) -> None:
        self.ally = ally

    @hookimpl
    async def ally_user_message(self, event: UserMessage) -> None:
        data = {"token": self.ally.settings["token"]}
        calls = [
            self.ally.emit_event("said", data),
            self.ally.request_action("compact", data),
            self.ally.add_message("user", event.content, metadata=data),
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        type(self).refusals = tuple(str(each) for each in answers if isinstance(each, ValidationRefused))


def test_a_secret_setting_given_as_it_is_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        manifest = Manifest.from_mapping({"settings": {"token": {"type": "string", "secret": True}}})
        settings, _ = resolve_settings("direct", manifest, {}, lambda *_: TOKEN)
        record = PluginRecord.by_code("direct", manifest, settings=settings, grants=GrantSet.everything())
        async with Host("app", home=tmp_path, discover=False, plugins={"direct": (Direct, record)}) as host:
            session = host.session()
            session.emit(UserMessage(content="the service"))
            await session.drained()

    asyncio.run(main())
    named = [text.partition(" is of the type Secret;")[0] for text in Direct.refusals]
    assert named == ["data.token", "arguments.token", "metadata.token"]
