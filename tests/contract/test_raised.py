"""What a plugin's code raises is told as one inert line with the place in that code, in reasons and in logs."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Ally, Host, Manifest, ToolCall, ToolCallEnd, hookimpl
from ally_plugins.catalog.decide.record import PluginRecord
from ally_plugins.contract.handle import Settings
from ally_plugins.contract.values.raised import describe_raised
from tests.kit.waiting import go

if TYPE_CHECKING:
    from collections.abc import Callable

HOSTILE = "\x1b]0;owned\x07\x9b2J\u202e\u2028next"


class Unbuildable:
    def __init__(self, _: Ally) -> None:
        raise LookupError(f"{HOSTILE}\nsecond line")  # the line of Unbuildable


class Unstartable:
    def __init__(self, ally: Ally) -> None:
        pass

    @hookimpl
    def ally_start(self) -> None:
        json.loads("{")  # the line of Unstartable


class Crashing:
    def __init__(self, ally: Ally) -> None:
        self.log = ally.log

    @hookimpl
    def ally_tool_call_end(self) -> None:
        self.log.warning("it says %s", HOSTILE)
        self.log.warning("%d is no format for it", HOSTILE)
        try:
            int(HOSTILE)
        except ValueError:
            self.log.exception("caught")
        self.log.info("", exc_info=LookupError(HOSTILE))
        raise ValueError(HOSTILE)

    @hookimpl
    def ally_gate_tool_call(self) -> Any:
        raise KeyError(HOSTILE)


def line_of(mark: str) -> int:
    lines = Path(__file__).read_text("utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.endswith(f"# {mark}"))


def test_a_plugin_that_cannot_be_built_or_started_names_its_own_file_and_line() -> None:
    async def main() -> dict[str, str]:
        given = {"build": Unbuildable, "start": Unstartable}
        async with Host("t", home=None, discover=False, plugins=given) as host:
            return {name: plugin.reason for name, plugin in host.plugins.items()}

    reasons = go(main())
    assert f"({__file__}, line {line_of('the line of Unbuildable')})" in reasons["build"]
    assert "second line" not in reasons["build"]
    assert f"({__file__}, line {line_of('the line of Unstartable')})" in reasons["start"]
    assert "JSONDecodeError: Expecting property name" in reasons["start"]
    assert all(reason.isprintable() for reason in reasons.values())


def test_no_text_of_a_plugins_acts_on_the_terminal_that_shows_the_hosts_log(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> str:
        given = {"build": Unbuildable, "crash": Crashing}
        async with Host("t", home=None, discover=False, plugins=given) as host:
            session = host.session()
            session.emit(ToolCallEnd(tool_name="bash", success=True, call_id="c"))
            await session.drained()
            return (await session.gate_tool_call(ToolCall("bash", {}, "c"))).reason

    caplog.set_level(logging.DEBUG)
    reason = go(main())
    assert caplog.text.replace("\n", "").replace("\t", "").isprintable()
    assert reason.isprintable()
    for text in (
        "it says \\x1b]0;owned",
        "'%d is no format for it' (",
        "caught\nTraceback",
        "\nLookupError: \\x1b]0;owned",
    ):
        assert text in caplog.text
    assert {each.filename for each in caplog.records if each.name == "ally_plugins.plugin.crash"} == {"test_raised.py"}


def test_an_error_whose_text_fails_is_told_by_its_type() -> None:
    class Worse(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    raised: Callable[[], BaseException] = Worse
    assert describe_raised(raised()) == "Worse: its text cannot be shown"
    assert describe_raised(ValueError()) == "ValueError"


class Misspelt:
    def __init__(self, ally: Ally) -> None:
        assert ally.settings.get("limt", 9) == 9
        assert dict(ally.settings) == {"limit": 3, "token": None}
        assert ally.settings["limt"]


def test_a_setting_whose_name_is_misspelt_is_told_with_the_nearest_one() -> None:
    settings = {"limit": {"type": "integer", "default": 3}, "token": {"type": "string", "secret": True}}
    record = PluginRecord.by_code("p", Manifest.from_mapping({"settings": settings}))

    async def main() -> str:
        async with Host("t", home=None, discover=False, plugins={"p": (Misspelt, record)}) as host:
            return host.plugins["p"].reason

    reason = go(main())
    assert "KeyError: \"there is no setting 'limt', did you mean 'limit'?\"" in reason
    with pytest.raises(KeyError, match="expected one of limit, token"):
        Settings.of({"limit": 3, "token": None})["zzz"]
